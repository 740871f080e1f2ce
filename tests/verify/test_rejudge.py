"""The watch judged again: the same words twice, and what other rules would have changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ctp_runbook.errors import ConfigError, EvidenceInvalid, RunRefused
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.rejudge import rejudge_run
from tests.props.synthetic_runs import make_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


def other_rules(run: RunDir, **latency: str) -> Path:
    """The run's own rules in a file of their own; ``latency`` replaces values of the first."""
    text = (run.plan / "watch.toml").read_text()
    for key, value in latency.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text, count=1)
        assert count == 1
    path = run.path.parent / "other.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["completed", "rolled_back", "drill"])
def test_twice_and_elsewhere_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Text and JSON of a copy under another path are those of the run itself."""
    run = make_run(kind, tmp_path / "here")
    elsewhere = tmp_path / "another" / "machine" / run.run_id
    shutil.copytree(run.path, elsewhere)
    first, second, copy = rejudge_run(run), rejudge_run(run), rejudge_run(RunDir(elsewhere))
    assert first.text == second.text == copy.text
    assert first.json == second.json == copy.json
    assert str(tmp_path) not in first.text + first.json.decode()


def test_it_says_what_was_written(tmp_path: Path) -> None:
    """Verdict, value, limit, margin, query and time of each metric, in words and for programs."""
    found = rejudge_run(make_run("completed", tmp_path))
    told = json.loads(found.json)
    assert found.own.overall == told["own"]["overall"] == "PASSED"
    latency = told["own"]["metrics"]["order_latency_p99_ms"]
    assert latency["verdict"] == "PASSED"
    assert latency["query"] == "quant_hft_order_latency_seconds (engine)"
    assert latency["margin"] == pytest.approx(latency["limit"] - latency["worst"])
    assert "query quant_hft_order_latency_seconds (engine)" in found.text
    assert "the rollback trigger never came true" in found.text
    assert (told["other"], told["changes"]) == (None, [])


def test_a_trigger_names_its_sample(tmp_path: Path) -> None:
    """The sample that rolled the run back, by its number in the file."""
    run = make_run("rolled_back", tmp_path)
    number = rejudge_run(run).own.trigger_sample
    assert number is not None
    lines = run.samples.read_bytes().splitlines()
    assert json.loads(lines[number])["seq"] == number
    assert f"sample {number}: rollback trigger" in rejudge_run(run).text


def test_the_same_rules_change_nothing(tmp_path: Path) -> None:
    """Rules that differ in a comment alone say the same."""
    run = make_run("completed", tmp_path)
    found = rejudge_run(run, watch=other_rules(run))
    assert found.changes == ()
    assert "would have changed: nothing" in found.text


def test_other_rules_tell_what_they_would_have_changed(tmp_path: Path) -> None:
    """A lower limit turns its metric and the window FAILED; the others stay as they were."""
    run = make_run("completed", tmp_path)
    # By the quantile of the window: no bucket ends at this limit, and a proof would have to say so.
    rules = other_rules(run, limit="0.001")
    rules.write_text(
        rules.read_text().replace("quantile = 0.99", 'quantile = 0.99\ntest = "plain"', 1)
    )
    found = rejudge_run(run, watch=rules)
    assert found.other is not None
    assert found.other.overall == "FAILED"
    window, metric = found.changes
    assert window == "the window FAILED (was PASSED)"
    assert metric.startswith("order_latency_p99_ms FAILED: ")
    assert metric.endswith("(was PASSED)")
    assert found.own.overall == "PASSED"


def test_what_was_not_recorded_is_no_event_free_window(tmp_path: Path) -> None:
    """A family that the run did not read is in no sample: by rules that take an absent one for zero
    its metric proves nothing, while one that was read and is absent still counts zero."""
    run = RunDir(Path(shutil.copytree(GOLDEN / "completed", tmp_path / "run")))
    rules = other_rules(run)
    query = "quant_hft_query_rate_violation_total"
    text = rules.read_text()
    rules.write_text(text.replace(f'query = "{query}"', f'query = "{query}"\nabsent = "zero"'))
    assert rejudge_run(run, watch=rules).changes == ()
    rules.write_text(text.replace(f'query = "{query}"', 'query = "another_total"\nabsent = "zero"'))
    found = rejudge_run(run, watch=rules)
    assert found.other is not None
    assert found.other.metrics["query_rate_violation"].verdict == "INCONCLUSIVE"
    assert "another_total is not in the sample" in found.text


def test_rules_without_a_watched_metric_are_refused(tmp_path: Path) -> None:
    """By its name, with what to add; a file that is none by its own problems."""
    run = make_run("completed", tmp_path)
    rules = other_rules(run)
    rules.write_text(rules.read_text().replace("breaker_state]", "another_state]"))
    with pytest.raises(RunRefused, match=r"no \[metrics\.breaker_state\]"):
        rejudge_run(run, watch=rules)
    rules.write_text("limit = 1\n")
    with pytest.raises(ConfigError):
        rejudge_run(run, watch=rules)


@pytest.mark.parametrize("kind", ["dry", "aborted"])
def test_a_run_without_a_watch_is_refused(kind: str, tmp_path: Path) -> None:
    """With one sentence that says why there is none."""
    with pytest.raises(RunRefused, match="no finished watch window"):
        rejudge_run(make_run(kind, tmp_path))


def test_samples_of_somebody_else_are_refused(tmp_path: Path) -> None:
    """A verdict over samples that the journal did not digest would be nobody's."""
    run = make_run("completed", tmp_path)
    run.samples.write_bytes(run.samples.read_bytes().replace(b'"ok":true', b'"ok":false', 1))
    with pytest.raises(EvidenceInvalid):
        rejudge_run(run)
