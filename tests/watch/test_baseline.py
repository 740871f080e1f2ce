"""The old engine before the switch: kept, digested, compared; missing, it says so and fails nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import JournalError
from ctp_runbook.record.evidence import cutover_env
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Table
from ctp_runbook.show.run_blocks import comparison_table, watch_blocks
from ctp_runbook.verify.run import verify_run
from ctp_runbook.watch.baseline import read_baseline
from ctp_runbook.watch.replay import read_rules, rejudge
from tests.props.run_mutants import rewrite_journal
from tests.props.synthetic_runs import make_run, seal

Raws = list[dict[str, Any]]


def told(run: RunDir) -> History:
    """The run's journal, folded."""
    return History.of(read_journal(run.journal).records)


def of_kind(raws: Raws, kind: str) -> dict[str, Any]:
    """The payload of the only record of a kind."""
    return next(raw["payload"] for raw in raws if raw["kind"] == kind)


def test_both_engines_are_compared_and_it_is_shown(tmp_path: Path) -> None:
    """Journal, evidence and page say the same comparison, with its numbers."""
    run = make_run("completed", tmp_path)
    history = told(run)
    made = read_baseline(run, history, read_rules(history.plan.watch))
    assert history.watch_ended is not None
    assert history.watch_ended.payload.baseline == made.payload
    assert f"CUTOVER_BASELINE={made.sentence}".encode() in cutover_env(history)
    assert made.sentence.startswith("1 of 3 metrics compared with the old engine")
    assert "too few" in comparison_table(history, made).text
    assert len(made.points["breaker_state"]) > 10


def test_a_run_without_an_old_page_says_no_baseline_and_verifies(tmp_path: Path) -> None:
    """No page is no failure: the sentence goes from the record into the comparison."""
    run = make_run("completed", tmp_path)
    said = "no baseline: the old engine has no metrics page (G_CORE_ENGINE_METRICS_URL)"
    run.baseline.write_bytes(b"")

    def edit(raws: Raws) -> None:
        of_kind(raws, "baseline_ended").update(
            url="", samples=0, samples_sha256=digest_of(b""), sentence=said
        )
        of_kind(raws, "watch_ended")["baseline"] = {"sentence": said, "metrics": {}}

    _edit_journal(run, edit)
    seal(run)
    assert verify_run(run).findings == ()
    history = told(run)
    assert f"CUTOVER_BASELINE={said}".encode() in cutover_env(history)
    *blocks, last = watch_blocks(run, history, rejudge(run, history)[0])
    assert said in last.text
    assert all(block.rows for block in [*blocks, last] if isinstance(block, Table))


def test_a_stopped_watch_is_not_compared(tmp_path: Path) -> None:
    """A rollback does not wait for statistics; the record says that there are none."""
    history = told(make_run("rolled_back", tmp_path))
    assert history.watch_ended is not None
    assert history.watch_ended.payload.baseline.sentence.startswith("not compared")


def _other_figure(raws: Raws) -> None:
    of_kind(raws, "watch_ended")["baseline"]["metrics"]["order_latency_p99_ms"]["n_before"] = 99


def _no_comparison(raws: Raws) -> None:
    of_kind(raws, "watch_ended")["baseline"]["metrics"] = {}


def _better_words(raws: Raws) -> None:
    of_kind(raws, "watch_ended")["baseline"]["sentence"] = "3 of 3 metrics compared"


def _other_digest(raws: Raws) -> None:
    of_kind(raws, "baseline_ended")["samples_sha256"] = "0" * 64


def _other_page(raws: Raws) -> None:
    of_kind(raws, "baseline_ended")["url"] = "http://127.0.0.1:1/metrics"


def _forgotten(raws: Raws) -> None:
    raws[:] = [raw for raw in raws if raw["kind"] != "baseline_ended"]


def _added_metric(raws: Raws) -> None:
    metrics = of_kind(raws, "watch_ended")["baseline"]["metrics"]
    metrics["invented"] = {**metrics["breaker_state"], "metric": "invented"}


def _behind_the_stop(raws: Raws) -> None:
    kept = next(raw for raw in raws if raw["kind"] == "baseline_ended")
    raws.remove(kept)
    at = next(n for n, raw in enumerate(raws) if raw["kind"] == "watch_started")
    raws.insert(at, kept)


MUTANTS: dict[str, tuple[Callable[[Raws], None], str]] = {
    "another figure": (_other_figure, "compared with the old engine again"),
    "no comparison": (_no_comparison, "compared with the old engine again"),
    "better words": (_better_words, "compared again"),
    "another digest": (_other_digest, "baseline_ended says "),
    "another page": (_other_page, "not from the old engine"),
    "record left out": (_forgotten, "the journal has no baseline_ended"),
    "a metric more": (_added_metric, "invented"),
    "sampled after the stop": (_behind_the_stop, "behind the first stop"),
}


@pytest.mark.parametrize(("edit", "said"), MUTANTS.values(), ids=MUTANTS)
def test_an_edited_baseline_is_refused(
    edit: Callable[[Raws], None], said: str, tmp_path: Path
) -> None:
    """Chain, evidence and seal made anew around the edit: verify still says what is wrong."""
    run = make_run("completed", tmp_path)
    _edit_journal(run, edit)
    seal(run)
    findings = verify_run(run).findings
    assert any(said in finding for finding in findings), findings


def test_a_record_without_its_comparison_is_none(tmp_path: Path) -> None:
    """What was compared cannot be left out of watch_ended: such a journal is not read."""
    run = make_run("completed", tmp_path)
    with pytest.raises(JournalError, match="baseline"):
        _edit_journal(run, lambda raws: of_kind(raws, "watch_ended").pop("baseline"))


def test_edited_samples_are_refused(tmp_path: Path) -> None:
    """A slower old engine, written in later, is not the one that was digested."""
    run = make_run("completed", tmp_path)
    lines = [json.loads(line) for line in run.baseline.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["series"]['quant_hft_order_latency_seconds_bucket{le="0.002"}'] = float(number)
    run.baseline.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(run)
    findings = verify_run(run).findings
    assert any("baseline_ended says " in finding for finding in findings)
    assert any("compared with the old engine again" in finding for finding in findings)


def _edit_journal(run: RunDir, edit: Callable[[Raws], None]) -> None:
    raws = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    edit(raws)
    rewrite_journal(run, raws)
