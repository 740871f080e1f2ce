"""Facts about verify/journal.py: what no run can have written, a row for each sentence it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctp_runbook.record.rundir import RunDir
from tests.props.forged_runs import (
    Edit,
    Raws,
    changed,
    findings_of,
    forge,
    inserted,
    moved,
    nth,
    planned,
    removed,
    together,
)

GO = {"request": "go", "by": "operator", "reason": ""}
FIRST_GATE, LAST_SWITCH = "bootstrap_infra", "warmup_query"


def started(step: str, /, **payload: Any) -> Edit:
    """The start of a step with other values."""
    return changed("step_started", where={"step": step}, **payload)


def ended(step: str, /, **payload: Any) -> Edit:
    """The end of a step with other values."""
    return changed("step_ended", where={"step": step}, **payload)


def on(number: int, **fields: object) -> Edit:
    """Other values in a record itself, beside its payload."""
    return lambda raws: raws[number].update(fields)


def _swapped(raws: Raws) -> None:
    steps = raws[0]["payload"]["plan"]["steps"]
    steps[0], steps[1] = steps[1], steps[0]


def _one_short(raws: Raws) -> None:
    raws[0]["payload"]["plan"]["steps"].pop()


PLANS: dict[str, tuple[str, Edit, str]] = {
    "of another environment": (
        "completed",
        planned(environment="elsewhere"),
        "the plan is for elsewhere; the run is of synthetic",
    ),
    "in another order": (
        "completed",
        _swapped,
        "run.json plan.steps: ('init_kafka_topic', 'gate', 'gate') stands where "
        "('bootstrap_infra', 'gate', 'gate') is due",
    ),
    "one step short": ("completed", _one_short, "plan.steps: 16 steps; the runbook has 17"),
    "another command": (
        "completed",
        started("precheck", command="/bin/true"),
        "precheck has the command '/bin/true'; the plan has '/opt/quant-hft/bin/precheck",
    ),
    "another timeout": (
        "completed",
        started("precheck", timeout_seconds=600.0),
        "precheck has the timeout_seconds '600.0'; the plan has '30.0'",
    ),
    "another command that never ran": (
        "aborted",
        changed("step_not_done", where={"step": "warmup_query"}, command="/bin/true"),
        "warmup_query has the command '/bin/true'; the plan has",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), PLANS.values(), ids=PLANS)
def test_what_was_run_is_what_was_planned(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """All seventeen steps in the runbook's order, each with the command and timeout planned."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


def _later_by(seconds: float, *, since: int) -> Edit:
    def edit(raws: Raws) -> None:
        for raw in raws[since:]:
            raw["mono_ns"] += int(seconds * 1e9)

    return edit


def _back_by(nanoseconds: int) -> Edit:
    def edit(raws: Raws) -> None:
        raws[20]["mono_ns"] = raws[19]["mono_ns"] - nanoseconds

    return edit


def _another_boot(raws: Raws) -> None:
    for raw in raws[20:]:
        raw["boot_id"] = "another-boot"


CLOCKS: dict[str, tuple[Edit, str]] = {
    "a wall clock set back": (
        on(20, wall_utc="2026-02-02T02:00:00.000000+00:00"),
        "journal record 20: its wall clock is",
    ),
    "a monotonic clock that went back": (
        _back_by(5),
        "journal record 20: its monotonic clock went back within one boot",
    ),
    "both clocks a minute apart": (
        _later_by(60.0, since=20),
        "journal record 20: wall and monotonic clock are 60.0 s apart since record 0; 2.0 s are",
    ),
    "a boot that comes back": (
        on(20, boot_id="another-boot"),
        "comes back after another one",
    ),
    "a reboot that took no time": (
        _another_boot,
        "s after the record before it, and yet this boot is 175",
    ),
}


@pytest.mark.parametrize(("edit", "said"), CLOCKS.values(), ids=CLOCKS)
def test_clocks_go_on_together(edit: Edit, said: str, run_of: Callable[[str], RunDir]) -> None:
    """Within a boot neither goes back, and across boots the new one is as young as it must be."""
    run = run_of("completed")
    forge(run, edit)
    assert said in findings_of(run)


def _reopened(raws: Raws) -> None:
    raws.insert(-1, {**raws[-1]})


def _gone(ok: bool) -> Edit:
    def edit(raws: Raws) -> None:
        for raw in raws:
            if raw["kind"] == "probe" and raw["payload"]["question"] == "gone":
                raw["payload"]["ok"] = ok

    return edit


def _outlived(raws: Raws) -> None:
    """Gone before its start, and seen alive again after that."""
    before = nth(raws, "step_started", step="start_new_core_engine")
    seen = {"observed": "alive", "expected": "gone"}
    look = {"subject": "old_core_engine", "question": "alive", "ok": True, **seen}
    raws.insert(raws.index(before), {**before, "kind": "probe", "payload": look})


STATES: dict[str, tuple[str, Edit, str]] = {
    "two headers": (
        "completed",
        lambda raws: raws.insert(1, {**raws[0]}),
        "the journal must begin with run_created, and hold it once",
    ),
    "no end": (
        "completed",
        removed("closed"),
        "the journal ends with watch_ended, not with closed: the run is not over",
    ),
    "two ends": ("completed", _reopened, "the journal was closed 2 times"),
    "a fresh start in the middle": (
        "completed",
        inserted("watch_started", "orchestrator_started", resumed=False, reason=""),
        "a fresh start of the orchestrator after steps were started",
    ),
    "a state left out": (
        "completed",
        removed("state", to="READY"),
        "no run goes from GATING to SWITCHING",
    ),
    "a state that comes back": (
        "completed",
        inserted("watch_started", "state", to="SWITCHING", reason=""),
        "no run goes from WATCHING to SWITCHING",
    ),
    "a child that watches": (
        "undone",
        inserted("orchestrator_started", "state", to="GATING", reason=""),
        "no run goes from PLANNED to GATING",
    ),
    "no go": ("completed", removed("control"), "the switch began without a recorded go"),
    "a go after the switch": (
        "completed",
        moved("control", behind="watch_started"),
        "the switch began without a recorded go",
    ),
    "a go for another start": (
        "completed",
        changed("control", start=99),
        "the switch began without a recorded go",
    ),
    "a watch of the gates": (
        "completed",
        moved("watch_started", behind="state"),
        "a watch window began in GATING",
    ),
    "the end of no watch": (
        "completed",
        removed("watch_started"),
        "a watch window ended that never began",
    ),
    "two rollbacks": (
        "rolled_back",
        lambda raws: raws.insert(-1, {**nth(raws, "rollback_started")}),
        "a second rollback began",
    ),
    "a rollback of nothing": (
        "rolled_back",
        moved("rollback_started", behind="control"),
        "a rollback began in READY, before anything was switched",
    ),
    "another exit code": (
        "completed",
        changed("closed", exit_code=4),
        "exit code 4; COMPLETED has 0",
    ),
    "an outcome that is not reached from there": (
        "completed",
        changed("closed", outcome="ABORTED_BEFORE_SWITCH", exit_code=3),
        "no run ends ABORTED_BEFORE_SWITCH out of WATCHING",
    ),
    "a real run as a dry one": (
        "aborted",
        changed("closed", outcome="DRY_RUN_OK", exit_code=0),
        "a real run ended DRY_RUN_OK",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), STATES.values(), ids=STATES)
def test_a_run_goes_its_way_through_the_states(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """From its header to its one end, each state entered from where it can be."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


STEPS: dict[str, tuple[str, Edit, str]] = {
    "begun in a dry run": (
        "dry",
        inserted(
            "state",
            "step_started",
            step=FIRST_GATE,
            phase="gate",
            attempt=1,
            pid=1,
            start_ticks=1,
            command="x",
            timeout_seconds=30.0,
            due_mono_ns=0,
        ),
        "a dry run started bootstrap_infra",
    ),
    "begun while another was under way": (
        "completed",
        removed("step_ended", step="stop_old_core_engine"),
        "start_new_core_engine started while stop_old_core_engine had no end",
    ),
    "never ended": (
        "completed",
        removed("step_ended", step=LAST_SWITCH),
        "warmup_query was started and has no end",
    ),
    "a third attempt first": (
        "completed",
        started("precheck", attempt=3),
        "precheck: attempt 3 follows 0",
    ),
    "due later than it may": (
        "completed",
        started("precheck", due_mono_ns=10**18),
        "precheck is due later than its timeout of 30.0 s allows",
    ),
    "of another phase": (
        "completed",
        started("precheck", phase="switch"),
        "precheck is no switch step of the runbook",
    ),
    "unknown": ("completed", started("precheck", step="dance"), "dance is no gate step of the"),
    "in another state": (
        "completed",
        moved("state", behind="orchestrator_started", to="SWITCHING"),
        "warmup_query (switch) was started in READY",
    ),
    "out of order": (
        "completed",
        lambda raws: nth(raws, "step_started", step="init_kafka_topic")["payload"].update(
            step="init_debezium_connector"
        ),
        "init_clickhouse_schema was started out of the runbook's order",
    ),
    "started beside the old one": (
        "completed",
        _gone(False),
        "start_new_core_engine was started while old_core_engine was not proved gone",
    ),
    "started beside one that came back": (
        "completed",
        _outlived,
        "start_new_core_engine was started while old_core_engine was not proved gone",
    ),
    "rolled back beside the new one": (
        "undone",
        _gone(False),
        "start_previous_core_engine was started while new_core_engine was not proved gone",
    ),
    "an end without a start": (
        "completed",
        removed("step_started", step="precheck"),
        "the end of precheck without its start before it",
    ),
    "ok with another exit code": (
        "completed",
        ended("precheck", exit_code=3),
        "precheck is ok with exit code 3",
    ),
    "timed out with an exit code": (
        "aborted",
        ended("precheck", status="timed_out"),
        "precheck timed out, and yet has exit code 3",
    ),
    "failed for nothing": (
        "aborted",
        ended("precheck", exit_code=0, reason=""),
        "precheck failed with exit code 0 and no reason",
    ),
    "ended in another phase": (
        "completed",
        ended("precheck", phase="switch"),
        "precheck began in phase gate",
    ),
    "shorter than its records": (
        "completed",
        ended("precheck", duration_ms=9000.0),
        "precheck says it took 9000 ms; its records are 25",
    ),
    "simulated in a real run": (
        "aborted",
        changed("step_not_done", status="simulated_ok"),
        "was simulated in a run that is no dry run",
    ),
    "not done, and none of the runbook": (
        "aborted",
        changed("step_not_done", step="dance"),
        "dance is no step of the runbook",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), STEPS.values(), ids=STEPS)
def test_every_act_has_its_place_and_its_end(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """A step starts where its turn is, alone, with the other generation gone, and ends once."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


def _taken_up(raws: Raws) -> None:
    """Killed in the middle of a gate, whose end nobody saw, and taken up again."""
    ended = nth(raws, "step_ended", step="precheck")
    number, again = raws.index(ended), {**nth(raws, "orchestrator_started")}
    started = nth(raws, "step_started", step="precheck")
    clocks = {key: ended[key] for key in ("wall_utc", "mono_ns")}
    unknown = {**ended["payload"], "status": "unknown", "exit_code": None}
    again = {**again, **clocks, "payload": {"resumed": True, "reason": "killed"}}
    gating = {**nth(raws, "state"), **clocks}
    second = {
        **started,
        **clocks,
        "payload": {**started["payload"], "attempt": 2, "due_mono_ns": clocks["mono_ns"]},
    }
    first = {**ended, "payload": {**unknown, "reason": "its orchestrator was killed"}}
    raws[number:number] = [first, again, gating, second]
    nth(raws, "control")["payload"]["start"] = number + 1  # given to the start that was taken up
    ended["payload"]["duration_ms"] = 0.0


def test_a_run_that_was_taken_up_again_verifies(run_of: Callable[[str], RunDir]) -> None:
    """A resumed one goes back to its gates and tries the step again; that is no forgery."""
    run = run_of("completed")
    forge(run, _taken_up)
    assert findings_of(run) == ""


def _taken_up_after_its_switch(raws: Raws) -> None:
    inserted("watch_started", "orchestrator_started", resumed=True, reason="killed")(raws)
    inserted("orchestrator_started", "state", {"resumed": True}, to="GATING", reason="")(raws)


def test_nobody_goes_back_behind_a_switch(run_of: Callable[[str], RunDir]) -> None:
    """Also a resumed run does not gate anew what it has switched."""
    run = run_of("completed")
    forge(run, _taken_up_after_its_switch)
    assert "no run goes from WATCHING to GATING" in findings_of(run)


def test_a_step_nobody_finished_may_be_told_as_not_done(run_of: Callable[[str], RunDir]) -> None:
    """What was open when its writer died is closed by the word for that, and no other step is."""
    run = run_of("completed")
    not_done = {"step": "precheck", "phase": "gate", "status": "unknown", "reason": "killed"}
    not_done["command"] = "/opt/quant-hft/bin/precheck --config ctp.yaml"
    forge(
        run,
        together(
            inserted("step_started", "step_not_done", {"step": "precheck"}, **not_done),
            removed("step_ended", step="precheck"),
        ),
    )
    said = findings_of(run)
    assert "precheck had no end" not in said
    assert "step precheck is unknown in a run that is COMPLETED" in said


# --- parts that are not there -----------------------------------------------------

NO_OLD_RUNNER = "OLD_STRATEGY_RUNNER=none"
WHY = f"{NO_OLD_RUNNER}: there is no old strategy runner, its work is done in the old engine"


def _planned_without(*names: str, command: str = NO_OLD_RUNNER, skipped: str = WHY) -> Edit:
    """A plan that leaves these steps out."""

    def edit(raws: Raws) -> None:
        for step in raws[0]["payload"]["plan"]["steps"]:
            if step["name"] in names:
                step.update(command=command, timeout_seconds=0.0, skipped=skipped)

    return edit


def _skipped(name: str, *, reason: str = WHY, command: str = NO_OLD_RUNNER) -> Edit:
    """A step that was run is told as skipped."""

    def edit(raws: Raws) -> None:
        begun = nth(raws, "step_started", step=name)
        ended = nth(raws, "step_ended", step=name)
        raws.remove(ended)
        begun["kind"] = "step_not_done"
        begun["payload"] = {
            "step": name,
            "phase": "switch",
            "status": "skipped",
            "reason": reason,
            "command": command,
        }

    return edit


def _unseen(raws: Raws) -> None:
    """Nobody looks at the old runner."""
    gone = [
        raw
        for raw in raws
        if (raw["kind"], raw["payload"].get("member")) == ("identity", "old_strategy_runner")
        or raw["payload"].get("subject") == "old_strategy_runner"
    ]
    for raw in gone:
        raws.remove(raw)
    nth(raws, "closed")["payload"]["running"].pop("old_strategy_runner")


_OLD_RUNNER = ("stop_old_strategy_runner", "start_previous_strategy_runner")
_TRUE = together(_planned_without(*_OLD_RUNNER), _skipped("stop_old_strategy_runner"), _unseen)


def test_a_run_of_a_plan_without_a_runner_verifies(run_of: Callable[[str], RunDir]) -> None:
    """The skipped step is right, and nobody is missed who is not there."""
    run = run_of("completed")
    forge(run, _TRUE)
    assert findings_of(run) == ""


LEFT_OUT: dict[str, tuple[Edit, str]] = {
    "a step that the plan wants": (
        _skipped("stop_old_strategy_runner", command="/opt/quant-hft/bin/x"),
        "stop_old_strategy_runner is skipped, and the plan does not leave it out",
    ),
    "another reason": (
        together(_TRUE, changed("step_not_done", reason="nobody knows")),
        "stop_old_strategy_runner is skipped: 'nobody knows'; by the plan, OLD_STRATEGY_RUNNER",
    ),
    "one that was run": (
        _planned_without(*_OLD_RUNNER),
        f"stop_old_strategy_runner was started; by the plan, {WHY}",
    ),
    "half of a part": (
        _planned_without(*_OLD_RUNNER[:1]),
        "steps of old_strategy_runner are left out, and not by OLD_STRATEGY_RUNNER=none, all of",
    ),
    "an engine": (
        _planned_without("stop_old_core_engine", "start_previous_core_engine"),
        "steps of old_core_engine are left out, and not by OLD_CORE_ENGINE=none, all of them",
    ),
    "a gate": (_planned_without("precheck"), "precheck is left out, and is no step of a part"),
    "a member that runs all the same": (
        together(_TRUE, lambda raws: nth(raws, "closed")["payload"]["running"].clear()),
        "at the end new_core_engine was not looked at; expected alive",
    ),
}


@pytest.mark.parametrize(("edit", "said"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_only_what_the_plan_leaves_out_may_be_left_out(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """All steps of a part beside the engine, by the line of the template, and nothing else."""
    run = run_of("completed")
    forge(run, edit)
    assert said in findings_of(run)
