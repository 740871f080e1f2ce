"""What a reviewer asks first: every word is the record's, and what is not on record is said so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import ToolFacts, TradingStateRead
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import review
from ctp_runbook.show.report import _judged
from tests.props.synthetic_runs import KINDS, make_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
NOTHING = "nothing on record"


def recorded(kind: str, folder: Path) -> tuple[RunDir, History]:
    """A copy of a recorded run."""
    run = RunDir(folder / kind)
    shutil.copytree(GOLDEN / kind, run.path)
    return run, History.of(read_journal(run.journal).records)


def lines(run: RunDir, history: History) -> dict[str, str]:
    """What is not proved, by its kind."""
    facts = review.not_proved(run, history, _judged(run, history))
    return {name: str(said) for name, said in facts.pairs}


def provenance(history: History) -> dict[str, str]:
    """The facts of it, and the table of who steered as text."""
    facts, *tables = review.provenance(history)
    told = dict(line.partition(": ")[::2] for line in facts.text.splitlines()[1:])
    return {**told, "steered": "\n".join(table.text for table in tables)}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("completed", "new stack ✓ alive; old stack – gone (last look, by 23:54:05Z)"),
        ("triggered", "new stack – gone; old stack ✓ alive (last look, by 23:59:26Z)"),
        ("aborted", "new stack – gone; old stack ✓ alive (last look, by 23:54:31Z)"),
        ("dry", "nobody was looked at"),
    ],
)
def test_who_runs_is_what_the_last_look_saw(kind: str, said: str, tmp_path: Path) -> None:
    """With its time: a page is read later than it was true."""
    assert review.who_runs(recorded(kind, tmp_path)[1]) == said


def test_of_a_run_that_is_not_over_nobody_says_who_runs(tmp_path: Path) -> None:
    """A last look is taken at the end."""
    _, history = recorded("completed", tmp_path)
    assert "not over" in review.who_runs(History.of(history.records[:30]))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_line_in_every_run(kind: str, tmp_path: Path) -> None:
    """One that is missing would look like nothing of the kind."""
    run = make_run(kind, tmp_path)
    said = lines(run, History.of(read_journal(run.journal).records))
    assert list(said) == [
        *("overridden", "declared", "not compared", "not measured", "inconclusive", "not done"),
    ]
    assert all(said.values())


def test_what_a_watch_cut_short_left_open_is_named(tmp_path: Path) -> None:
    """Three metrics without a verdict, two engines not compared, five SLIs that are not there."""
    said = lines(*recorded("triggered", tmp_path))
    assert said["inconclusive"] == (
        "INCONCLUSIVE: breaker_state, query_rate_violation, reconnect_p99_s"
    )
    assert "the watch was stopped before its end" in said["not compared"]
    assert "not in this environment: quant_hft_storage_timescale_health" in said["not measured"]
    assert said["declared"] == said["overridden"] == said["not done"] == NOTHING


def test_an_aborted_run_watched_nothing_and_left_steps_undone(tmp_path: Path) -> None:
    """Both are said, the steps by name."""
    said = lines(*recorded("aborted", tmp_path))
    assert said["inconclusive"].startswith("nothing was watched: order_latency_p99_ms")
    assert "not run: init_clickhouse_schema, init_debezium_connector, precheck" in said["not done"]
    assert "no trading state of the old engine nor of the new engine" in said["not compared"]


def test_an_override_and_a_short_watch_stand_with_their_reasons(tmp_path: Path) -> None:
    """In the words of whoever gave them."""
    run = KINDS["completed"](
        tmp_path, overrides={"accept_late": "the exchange waits"}, short_watch_reason="drill day"
    )
    said = lines(run, History.of(read_journal(run.journal).records))["overridden"]
    assert "--accept-late: the exchange waits" in said
    assert "drill day" in said


def test_slis_nobody_can_measure_are_named(tmp_path: Path) -> None:
    """A healthy page does not hide them."""
    run, history = recorded("completed", tmp_path)
    path = run.evidence / "ctp_readiness_precheck.json"
    report: dict[str, Any] = json.loads(path.read_text())
    report["slis"][1]["provenance"] = "not_measurable"
    path.write_text(json.dumps(report))
    said = lines(run, history)["not measured"]
    assert "not measurable: quant_hft_ctp_flow_control_hits" in said


def test_provenance_is_who_where_with_what_and_when(tmp_path: Path) -> None:
    """Each from the journal; of the tool what is not there is said not to be."""
    _, history = recorded("completed", tmp_path)
    said = provenance(history)
    assert said["planned by"] == "operator on vm, from /tmp/ctp-golden"
    assert said["confirmed by"] == "operator (orchestrate --execute), 23:53:39Z"
    assert said["created"] == "2026-11-25 23:53:39Z"
    assert said["ended"] == "2026-11-25 23:54:05Z"
    assert said["boot id"] == history.records[0].boot_id
    assert said["plan sha256"] == history.created.plan_sha256
    assert said["tool of the run"].startswith("not on record")
    assert "the switch begins as soon as every gate passed" in said["steered"]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        (ToolFacts(version="0.2"), "ctp_runbook 0.2, its commit is not known"),
        (ToolFacts(version="0.2", commit="1a2b"), "ctp_runbook 0.2, commit 1a2b"),
        (ToolFacts(version="0.2", commit="1a2b", changed=False), "commit 1a2b, unchanged"),
        (ToolFacts(version="0.2", commit="1a2b", changed=True), "with changes that no commit has"),
    ],
)
def test_the_tool_of_a_run_is_told_with_what_is_known_of_it(
    tool: ToolFacts, said: str, tmp_path: Path
) -> None:
    """Its version, its commit, and whether it was as that commit has it."""
    history = History.of(read_journal(make_run("completed", tmp_path).journal).records)
    assert history.header is not None
    told = provenance(structs.replace(history, header=structs.replace(history.header, tool=tool)))
    assert said in told["tool of the run"]


def test_a_dry_run_was_confirmed_by_nobody(tmp_path: Path) -> None:
    """And steered by nobody: there is no empty table of it."""
    _, history = recorded("dry", tmp_path)
    assert provenance(history)["confirmed by"] == "nobody: no go is on record"


def test_the_handover_is_shown_fact_by_fact(tmp_path: Path) -> None:
    """As each engine told it; what differs says so."""
    (table,) = review.handover_blocks(recorded("triggered", tmp_path)[1])
    rows = {line.split("  ")[0]: line for line in table.text.splitlines()}
    assert rows["next_order_ref"].split()[1:] == ["49", "61", "differs"]
    assert rows["funds Commission"].split()[2:] == ["20.00", "20.00", "same"]
    assert rows["working orders"].split()[2:] == ["0", "0", "same"]


def _nothing(state: dict[str, Any]) -> None:
    state.clear()


def _many(state: dict[str, Any]) -> None:
    held = {"direction": "long", "hedge_flag": "speculation", "volume": 1}
    state["positions"] = [{"instrument": f"au{n}", **held} for n in range(90)]


@pytest.mark.parametrize(("change", "said"), [(_nothing, "told by one alone"), (_many, "more")])
def test_any_state_an_engine_tells_has_a_table(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    """One without a fact, and one of ninety positions, cut with a sign of it."""
    _, history = recorded("triggered", tmp_path)
    for record in history.of_kind(TradingStateRead):
        if record.payload.member == "new_core_engine":
            change(record.payload.state)
    (table,) = review.handover_blocks(history)
    assert said in table.text
    assert len(table.text.splitlines()) < 40


def test_no_state_of_either_engine_is_said(tmp_path: Path) -> None:
    """An empty table would look like two engines that agree."""
    (banner,) = review.handover_blocks(recorded("aborted", tmp_path)[1])
    assert "No handover on record" in banner.text
