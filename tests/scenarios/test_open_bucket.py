"""Accident: a quantile in the open bucket passed. One reconnect of 300 s with a widest bucket of 10 s
was "worst 10 s", within the limit of 10 s, and the shipped trigger ``…_gt_10s`` never came true.

The real orchestrator, sampler, judge and verifier, on members small enough to be told what to show.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates.gate import GateResult, GateStep
from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.plan.gate_table import GATES, Gate
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import read_samples
from ctp_runbook.rehearsal.plane.layout import free_port
from ctp_runbook.run import launch
from ctp_runbook.verify.rejudge import rejudge_run
from ctp_runbook.verify.run import verify_run
from tests.props.page_server import page_command, put
from tests.props.plan_fixtures import CLOSED_PORT_URL, wait_for
from tests.props.run_mutants import rewrite_journal
from tests.props.small_stack import SmallStack

pytestmark = pytest.mark.twin
PAGES = Path(__file__).parents[1] / "watch" / "histograms"
SHIPPED_TRIGGER = "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s"
ROLLED_BACK = 4


@dataclass(frozen=True)
class Accident:
    """What the new engine shows during the watch, and of what it had shown nothing before."""

    page: str
    metric: str

    @property
    def after(self) -> str:
        """The page with what happened on it."""
        return (PAGES / f"{self.page}.txt").read_text()

    @property
    def before(self) -> str:
        """The page of the same series, all at zero."""
        lines = self.after.splitlines()
        counts = (line if line[0] == "#" else f"{line.rsplit(' ', 1)[0]} 0" for line in lines)
        return "\n".join(counts) + "\n"


def gate_command(folder: Path, gate: Gate) -> str:
    """Writes the evidence of a gate that saw what it looks at."""
    seen = GateStep(f"observe_{gate.component}", StepStatus.OK, 1.0, "ask it", {"role": "master"})
    (folder / gate.file).write_bytes(GateResult(gate, False, (seen,)).evidence())
    return f'cp {folder / gate.file} "$CTP_EVIDENCE_DIR/"'


def planned(
    stack: SmallStack, *, page: Path, limits: Mapping[str, str], values: Mapping[str, str]
) -> Plan:
    """A real plan with the shipped trigger and limits, ``limits`` and ``values`` over them, on an
    engine that shows ``page``."""
    port = free_port()
    start = stack.start_command("new_core_engine").replace("sleep 3600", page_command(port, page))
    stack.plan(
        **{
            f"{gate.step.upper()}_CMD": gate_command(stack.folder, gate)
            for gate in GATES.values()
            if gate.is_due
        },
        PRECHECK_CMD=stack.readiness_command("precheck"),
        NEW_CORE_ENGINE_START_CMD=start,
        NEW_CORE_ENGINE_METRICS_URL=f"http://127.0.0.1:{port}/metrics",
        OLD_CORE_ENGINE_METRICS_URL=CLOSED_PORT_URL,
        **{
            "MONITOR_KEYS": "order_latency_p99_ms,reconnect_p99_s",
            "ROLLBACK_TRIGGER_CONDITION": SHIPPED_TRIGGER,
            **values,
        },
    )
    # As shipped but for the minute of warm-up, which no test has; and by the quantile of the window,
    # for a page that changes once shows what a proof takes for one burst.
    watch = stack.folder / "watch.toml"
    text = watch.read_text().replace("warm_up_seconds = 60", "warm_up_seconds = 0")
    text = text.replace('test = "sequential"', 'test = "plain"')
    for old, new in limits.items():
        text = text.replace(f"limit = {old}\n", f"limit = {new}\n")
    watch.write_text(text)
    folder = stack.folder
    return load_plan(
        folder / "cutover.env",
        folder / "rollback.env",
        limits=folder / "limits.toml",
        watch=watch,
        environ={},
        base=folder,
    )


def watched(
    stack: SmallStack, accident: Accident, *, limits: Mapping[str, str] | None = None, **values: str
) -> tuple[RunDir, History]:
    """A real run; what happened shows once its metric was measured without it."""
    page = stack.folder / "page"
    put(page, accident.before)
    plan = planned(stack, page=page, limits=limits or {}, values=values)
    run = stack.begin(plan, options={"short_watch_reason": "a test"})
    wait_for(lambda: launch.read_whole(run).watch_started)
    wait_for(lambda: any(one.series for one in read_samples(run.samples)))
    put(page, accident.after)
    return run, stack.closed(run)


ACCIDENTS = {
    "a reconnect of 300 s": (
        Accident("reconnect_in_open_bucket", "reconnect_p99_s"),
        *("more than 10 s", "condition reconnect_p99_s > 10 s", "value=>10.0 limit=10.0"),
    ),
    "orders of two seconds": (
        Accident("orders_of_two_seconds", "order_latency_p99_ms"),
        *("more than 5 ms", "condition order_latency_p99_ms > 5 ms", "value=>5.0 limit=5.0"),
    ),
}


@pytest.mark.parametrize(
    ("accident", "value", "condition", "line"), ACCIDENTS.values(), ids=ACCIDENTS
)
def test_a_quantile_in_the_open_bucket_is_beyond_its_limit(
    stack: SmallStack, accident: Accident, value: str, condition: str, line: str
) -> None:
    """The shipped trigger fires, the run rolls back (exit 4) and verifies, and every word says that
    the value is more than the widest bound."""
    run, history = watched(stack, accident)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed
    assert history.closed is not None
    assert history.closed.payload.exit_code == ROLLED_BACK
    assert history.trigger is not None
    told = str(history.trigger.payload.sentence)
    assert f"{accident.metric} is {value} at" in told
    assert told.endswith(condition)
    evidence = (run.evidence / "ctp_rollback_result.env").read_text()
    assert f"ROLLBACK_TRIGGER_OBSERVED=metric={accident.metric} {line} " in evidence
    assert history.watch_ended is not None
    judged = history.watch_ended.payload.metrics[accident.metric]
    assert judged.verdict == "FAILED"
    assert (judged.worst_is_over, judged.margin) == (True, None)
    assert f"last value {value.rpartition(' ')[0]}, margin not known" in rejudge_run(run).text
    assert verify_run(run, allow_cutover_rollback=True).findings == ()
    raws = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    for kind in ("trigger", "watch_ended"):
        assert any("is_over" in finding for finding in verified_without(run, raws, kind=kind))


def test_a_quantile_above_all_buckets_proves_nothing_below_a_higher_limit(
    stack: SmallStack,
) -> None:
    """A reconnect of 300 s, a widest bucket of 10 s and a limit of 60 s: the watch ends without
    proof, holds, and says which bucket is missing."""
    accident = Accident("reconnect_in_open_bucket", "reconnect_p99_s")
    run, history = watched(
        stack,
        accident,
        limits={"10": "60"},
        MONITOR_KEYS=accident.metric,
        ROLLBACK_TRIGGER_CONDITION="reconnect_p99_s > 60",
        POST_SWITCH_MONITOR_MINUTES="0.1",
        HOLD_SECONDS="1",
    )
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed
    assert history.trigger is not None
    assert history.trigger.payload.cause == "hold_expired"
    assert history.watch_ended is not None
    judged = history.watch_ended.payload.metrics[accident.metric]
    assert judged.verdict == "INCONCLUSIVE"
    assert "more than 10 s at" in judged.sentence
    assert "the engine's histogram needs a bucket at or above the limit" in judged.sentence
    assert verify_run(run, allow_cutover_rollback=True).findings == ()


def verified_without(run: RunDir, raws: list[dict[str, Any]], *, kind: str) -> tuple[str, ...]:
    """What is found of the run once these records say the bound for what is more than it."""
    edited = copy.deepcopy(raws)
    for raw in edited:
        if raw["kind"] == kind:
            told = raw["payload"]
            for one in (told, *(told.get("metrics") or {}).values()):
                one.pop("is_over", None)
    rewrite_journal(run, edited)
    findings = verify_run(run, allow_cutover_rollback=True).findings
    rewrite_journal(run, raws)
    return findings
