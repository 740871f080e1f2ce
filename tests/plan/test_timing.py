"""Facts about plan/timing.py and record/durations.py: what cannot be undone in time is refused, by figures of
the same environment alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs
from msgspec.structs import replace

from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.timing import Measured, p95, undo_refusals
from ctp_runbook.record.durations import measured_durations, usual_step_seconds
from ctp_runbook.record.kinds import Finding
from ctp_runbook.run.launch import RunOptions, create_run, execute_refusals, read_history
from tests.props.plan_fixtures import make_plan
from tests.props.synthetic_runs import ENVIRONMENT, make_run

NOW = datetime.now(UTC)
KNOWN = Measured(cutover_seconds=60.0, cutover_runs=3, rollback_seconds=90.0, rollback_runs=2)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Window now, 60 minutes long, watch 30 minutes, budget 180 s."""
    monkeypatch.chdir(tmp_path)
    return make_plan(tmp_path, CUTOVER_WINDOW_LOCAL=NOW.isoformat(timespec="seconds"))


PERCENTILES = {
    "none": ([], None),
    "one": ([3.0], 3.0),
    "few": ([1.0, 9.0, 2.0], 9.0),
    "twenty": ([float(n) for n in range(1, 21)], 19.0),
    "a hundred": ([float(n) for n in range(100, 0, -1)], 95.0),
}


@pytest.mark.parametrize(("seconds", "due"), PERCENTILES.values(), ids=PERCENTILES)
def test_p95_is_by_nearest_rank(seconds: list[float], due: float | None) -> None:
    """Of few it is the longest, never something between that nobody measured."""
    assert p95(seconds) == due


@pytest.mark.parametrize(
    "measured",
    [Measured(), replace(KNOWN, rollback_seconds=None), replace(KNOWN, cutover_seconds=None)],
    ids=["nothing", "no rollback", "no cutover"],
)
def test_what_was_never_measured_needs_a_reason(plan: Plan, measured: Measured) -> None:
    """Both must have been measured; a reason lets it through, a blank is none."""
    (refusal,) = undo_refusals(plan, measured, now=NOW)
    assert "UNMEASURED" in refusal
    assert "--accept-unmeasured REASON" in refusal
    assert len(undo_refusals(plan, measured, now=NOW, accept_unmeasured=" ")) == 1
    assert undo_refusals(plan, measured, now=NOW, accept_unmeasured="first of its kind") == ()


def test_a_rehearsal_is_what_measures(tmp_path: Path) -> None:
    """An environment of the twin is rehearsed without a reason."""
    twin = make_plan(tmp_path, CUTOVER_ENV_NAME="rehearsal-x")
    assert undo_refusals(twin, Measured(), now=NOW) == ()


def test_a_rollback_measured_beyond_its_budget_is_refused(plan: Plan) -> None:
    """Observed, compared, limit and its key."""
    (refusal,) = undo_refusals(plan, replace(KNOWN, rollback_seconds=180.5), now=NOW)
    assert "180.5 s (p95 of 2 runs)" in refusal
    assert "> MAX_ROLLBACK_SECONDS 180 s" in refusal
    assert undo_refusals(plan, replace(KNOWN, rollback_seconds=180.0), now=NOW) == ()
    slow = replace(KNOWN, rollback_seconds=999.0)
    assert undo_refusals(plan, slow, now=NOW, accept_late="we know") == ()


# Minutes after the window's start: 60 + 90 s of cutover and rollback must end before minute 60.
CLOSES = {"in time": (57.4, 0), "exactly": (57.5, 0), "too late": (57.6, 1)}


@pytest.mark.parametrize(("minutes", "refused"), CLOSES.values(), ids=CLOSES)
def test_what_would_end_after_the_close_is_refused(
    plan: Plan, minutes: float, refused: int
) -> None:
    """now + cutover + watch + rollback against window + its length + watch."""
    now = plan.window_local + timedelta(minutes=minutes)
    found = undo_refusals(plan, KNOWN, now=now)
    assert len(found) == refused
    for refusal in found:
        assert "cutover 60.0 s (p95 of 3 runs), watch 30 min and rollback 90.0 s" in refusal
        assert "CUTOVER_WINDOW_MINUTES 60" in refusal
    assert undo_refusals(plan, KNOWN, now=now, accept_late="the close was moved") == ()


def test_what_was_not_measured_counts_as_long_as_it_may_take(plan: Plan) -> None:
    """Timeouts of the switch and the whole budget: 270 s + 180 s before minute 60."""
    at = [plan.window_local + timedelta(minutes=minutes) for minutes in (52.4, 52.6)]
    found = [undo_refusals(plan, Measured(), now=now, accept_unmeasured="x") for now in at]
    assert [len(one) for one in found] == [0, 1]
    assert "cutover 270 s" in found[1][0]
    assert "180 s (MAX_ROLLBACK_SECONDS)" in found[1][0]


# --- reading ----------------------------------------------------------------------


def test_figures_are_read_from_the_journals(tmp_path: Path) -> None:
    """A completed run measures its cutover, a rolled-back one both."""
    make_run("completed", tmp_path)
    only = measured_durations(ENVIRONMENT, [tmp_path])
    assert (only.cutover_runs, only.rollback_runs, only.rollback_seconds) == (1, 0, None)
    make_run("rolled_back", tmp_path)
    both = measured_durations(ENVIRONMENT, [tmp_path, tmp_path])
    assert (both.cutover_runs, both.rollback_runs) == (2, 1)
    assert both.is_complete
    assert both.cutover_seconds is not None
    assert 1.0 < both.cutover_seconds < 5.0


def test_no_environment_speaks_for_another(tmp_path: Path) -> None:
    """Neither one with a similar name, nor a dry run of the same."""
    make_run("rolled_back", tmp_path)
    make_run("dry", tmp_path)
    assert measured_durations(f"{ENVIRONMENT}-2", [tmp_path]) == Measured()
    assert measured_durations(ENVIRONMENT, [tmp_path]).rollback_runs == 1


def test_an_edited_journal_measures_nothing(tmp_path: Path) -> None:
    """Its chain does not hold; and run.json alone convinces nobody."""
    run = make_run("rolled_back", tmp_path)
    header = json.loads(run.run_json.read_text())
    run.run_json.write_text(json.dumps({**header, "environment": "prod"}))
    assert measured_durations("prod", [tmp_path]) == Measured()
    run.run_json.write_text(json.dumps(header))
    run.journal.write_bytes(run.journal.read_bytes().replace(b'"step_ended"', b'"step_endes"', 1))
    assert measured_durations(ENVIRONMENT, [tmp_path]) == Measured()
    assert measured_durations(ENVIRONMENT, [tmp_path / "nowhere"]) == Measured()


def test_an_override_is_told_in_red_from_the_first_record_on(plan: Plan, tmp_path: Path) -> None:
    """Header, findings of the journal, page and evidence say it, with who and why."""
    from ctp_runbook.record.evidence import cutover_env
    from ctp_runbook.show import run_blocks

    options = RunOptions(execute=True, outputs=tmp_path / "outputs", by="ops")
    assert len(execute_refusals(plan, options, now=NOW)) == 1
    run = create_run(plan, structs.replace(options, accept_unmeasured="first of its kind"))
    history = read_history(run)
    assert history.created.overrides == {"accept_unmeasured": "first of its kind"}
    finding = next(history.of_kind(Finding))
    assert finding.payload.severity == "critical"
    assert "OVERRIDE --accept-unmeasured by ops: first of its kind" in finding.payload.sentence
    (banner,) = run_blocks.override_banners(history)
    assert (banner.kind, banner.title) == ("bad", "OVERRIDE --accept-unmeasured")
    assert b"CUTOVER_OVERRIDES=accept_unmeasured: first of its kind\n" in cutover_env(history)


def test_a_reason_against_nothing_is_no_override(plan: Plan, tmp_path: Path) -> None:
    """What would have been let through anyway is not shown in red."""

    options = RunOptions(execute=True, outputs=tmp_path / "outputs", accept_late="just in case")
    run = create_run(plan, structs.replace(options, accept_unmeasured="first"))
    assert list(read_history(run).created.overrides) == ["accept_unmeasured"]


def test_the_digest_knows_no_durations(plan: Plan, tmp_path: Path) -> None:
    """The same templates give the same plan before and after a run was measured."""
    from ctp_runbook.plan.checklist import checklist

    again = make_plan(
        tmp_path,
        CUTOVER_ENV_NAME=plan.environment,
        CUTOVER_WINDOW_LOCAL=plan.window_text,
    )
    assert again.sha256 == plan.sha256
    assert checklist(plan) == checklist(plan, Measured())
    assert "UNMEASURED" in checklist(plan).markdown
    assert "60.0 s (p95 of 3 runs)" in checklist(plan, KNOWN).markdown
    assert json.loads(checklist(plan, KNOWN).json)["measured"]["rollback_seconds"] == 90.0


def test_a_step_usually_takes_what_it_took_in_earlier_runs(tmp_path: Path) -> None:
    """The middle of what the last real runs of the environment say, without the run that asks."""
    own = make_run("completed", tmp_path)
    assert usual_step_seconds(own) == {}
    other = make_run("rolled_back", tmp_path)
    make_run("dry", tmp_path)
    make_run("drill", tmp_path, environment="another")
    took = {
        step.name: step.duration_ms / 1000
        for step in read_history(other).steps.values()
        if step.status == "ok"
    }
    assert "post_rollback_validate" in took
    assert usual_step_seconds(own) == took


def test_a_twin_is_held_against_all_twins(tmp_path: Path) -> None:
    """Each is an environment of its own, and nobody rehearses on the same one twice."""
    make_run("drill", tmp_path, environment="rehearsal-0001")
    own = make_run("completed", tmp_path, environment="rehearsal-0002")
    assert "stop_new_core_engine" in usual_step_seconds(own)
