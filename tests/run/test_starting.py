"""Facts about run/starting.py: a run starts once, by its own start, or never."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity, Outcome
from ctp_runbook.notebook import phases
from ctp_runbook.record.rundir import RunDir, private_path
from ctp_runbook.run import guardian, starting
from ctp_runbook.run.guardian import spawn_guardian
from ctp_runbook.run.launch import is_attended, read_history, start
from ctp_runbook.run.starting import close_unstarted, first_record
from ctp_runbook.run.steer import steer
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.run import verify_run
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack

pytestmark = pytest.mark.twin
WAITS = {"BOOTSTRAP_INFRA_CMD": "tail -f /dev/null"}


def is_refused_whole(run: RunDir) -> bool:
    """Closed as REFUSED, its files and requests gone, and consistent for whoever looks."""
    history = read_history(run)
    assert history.outcome is Outcome.REFUSED, history.closed
    assert not history.has_begun
    assert list(run.control.iterdir()) == []
    assert not private_path(run).exists()
    wrong = [one for one in verify_run(run).findings if "REFUSED" not in one]
    assert wrong == [], wrong
    assert write_report(run).is_file()
    with pytest.raises(RunRefused, match=r"is over \(REFUSED\)"):
        steer(run, "resume", by="ops")
    return True


def starts_of(run: RunDir) -> int:
    """How often an orchestrator took it up."""
    return sum(record.kind == "orchestrator_started" for record in read_history(run).records)


def test_the_interactive_path_is_refused_for_good(stack: SmallStack) -> None:
    """01_plan, then another run begins, then 02: the planned run is closed and says by whom; the
    copies of evidence stay those of the other one."""
    plan = stack.plan(**WAITS)
    planned = stack.create(plan)
    winner = stack.begin(plan)
    with pytest.raises(RunRefused, match=rf"held by run {winner.run_id} .*closed as REFUSED"):
        phases.infra_gates(str(planned.path))
    assert is_refused_whole(planned)
    closed = read_history(planned).closed
    assert closed is not None
    assert f"held by run {winner.run_id} " in closed.payload.sentence
    assert not (stack.folder / "copies").exists()
    assert is_attended(winner)
    again = phases.infra_gates(str(planned.path))
    assert again.failure is not None
    assert again.failure.exit_code == 2
    steer(winner, "abort", by="ops")
    stack.closed(winner)


def test_two_viewers_start_one_run_once(stack: SmallStack) -> None:
    """At one instant, ten times: both follow it, nobody closes it, one orchestrator conducts it."""
    for _ in range(10):
        run = stack.create(stack.plan(**WAITS))
        gate, refused = threading.Barrier(2), []

        def go_on(run: RunDir = run, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                start(run)
            except RunRefused as error:
                refused.append(error)  # noqa: B023  joined below, in the same round

        threads = [threading.Thread(target=go_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused == []
        assert starts_of(run) == 1
        assert read_history(run).closed is None
        steer(run, "abort", by="ops")
        assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH


def test_a_guardian_that_does_not_come_up_closes_the_run(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once, or cannot even be started: no go, no private file, and no second try."""

    def stillborn(run: RunDir, **named: object) -> Identity:
        with subprocess.Popen(["false"]) as process:
            known = identity_of(process.pid)
        return known or Identity(process.pid, 1)

    def none(run: RunDir, **named: object) -> Identity:
        raise OSError(11, "Resource temporarily unavailable")

    outputs = stack.folder / "outputs"
    for count, spawn in enumerate((stillborn, none), start=1):
        monkeypatch.setattr(guardian, "spawn_guardian", spawn)
        with pytest.raises(RunRefused, match=r"is closed as REFUSED|cannot be started"):
            stack.begin(stack.plan(**WAITS))
        assert [is_refused_whole(RunDir(path)) for path in outputs.iterdir()] == [True] * count
        planned = stack.create(stack.plan(**WAITS), options={"outputs": stack.folder / "others"})
        with pytest.raises(RunRefused, match="closed as REFUSED"):
            start(planned)
        assert is_refused_whole(planned)


def test_an_orchestrator_that_is_late_finds_its_run_closed(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told that it did not start can rely on that: it goes without an act."""
    spawned: list[Identity] = []

    def noted(run: RunDir, **named: object) -> Identity:
        spawned.append(spawn_guardian(run, **named))  # type: ignore[arg-type]
        return spawned[-1]

    monkeypatch.setattr(guardian, "spawn_guardian", noted)
    monkeypatch.setattr(starting, "_START_SECONDS", 0.0)
    with pytest.raises(RunRefused, match=r"did not start within 0 s; .* closed as REFUSED"):
        stack.begin(stack.plan(**WAITS))
    (path,) = (stack.folder / "outputs").iterdir()
    wait_for(lambda: identity_of(spawned[0].pid) is None)
    run = RunDir(path)
    assert starts_of(run) == 0
    assert is_refused_whole(run)


def test_an_abort_while_it_starts_is_final(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discarded between the run and its first record: whoever starts it follows that."""
    run = stack.create(stack.plan(**WAITS))

    def late(run: RunDir, **named: object) -> Identity:
        identity = spawn_guardian(run, **named)  # type: ignore[arg-type]
        done = close_unstarted(run, outcome=Outcome.ABORTED_BEFORE_SWITCH, sentence="not today")
        assert done
        return identity

    monkeypatch.setattr(guardian, "spawn_guardian", late)
    start(run)
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert starts_of(run) == 0


def test_only_02_starts_a_run(stack: SmallStack) -> None:
    """Every other notebook, opened on a planned run, says what starts it."""
    run = stack.create(stack.plan(**WAITS))
    rooms = (phases.readiness, phases.switch, phases.watch, phases.rollback, phases.verify)
    for room in rooms:
        with pytest.raises(RunRefused, match=r"never started, .*02_infra_gate .* does"):
            room(str(run.path))
    argv = ["status", "--run", str(run.path)]
    said = subprocess.run(
        [sys.executable, "-m", "ctp_runbook", *argv], capture_output=True, text=True, check=True
    )
    assert "was planned and never started" in said.stdout
    assert not read_history(run).has_begun
    assert steer(run, "abort", by="ops").sentence.endswith("it was never started and is closed")


def test_a_run_that_has_begun_waits_for_no_lock(stack: SmallStack) -> None:
    """What restores trading must not depend on a viewer: only the very first record is exclusive."""
    run = stack.begin(stack.plan(**WAITS))
    with first_record(run), first_record(run):
        assert not close_unstarted(run, outcome=Outcome.REFUSED, sentence="x")
    steer(run, "abort", by="ops")
    stack.closed(run)


def test_a_run_is_closed_though_its_evidence_cannot_be_written(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what was asked for: the rest is told, and `resume` writes it once there is room."""
    run = stack.create(stack.plan(**WAITS))
    run.evidence.rmdir()
    run.evidence.write_text("in the way")
    assert steer(run, "abort", by="ops").exit_code == 0
    assert read_history(run).outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert f"run {run.run_id} is closed, and its evidence cannot" in capsys.readouterr().err
    run.evidence.unlink()
    steer(run, "resume", by="ops")
    wrong = [one for one in verify_run(run).findings if "ABORTED" not in one]
    assert wrong == []
