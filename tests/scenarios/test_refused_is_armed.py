"""Accident: a refused run is armed. Of two starts at one instant the loser ended with exit 2, but its
run stayed planned with a go beside it; `resume` on it did the whole cutover, and it was in the way of
the winner's rollback.

CI tries the first few pairs of starts, resumes and rollbacks; 100 of each are ``make prove``, and
CTP_RUNBOOK_PAIRS says another number.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from ctp_runbook.cli.options import find_run
from ctp_runbook.errors import RunRefused
from ctp_runbook.model import Outcome, State
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.kinds import RequestAnswered, RequestTaken
from ctp_runbook.record.rundir import RunDir, private_path
from ctp_runbook.run.launch import is_attended, read_history, read_whole, take_lock
from ctp_runbook.run.steer import steer
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack
from tests.run.test_undo_completed import completed
from tests.scenarios.test_both_dead import kill_both

ALL = int(os.environ.get("CTP_RUNBOOK_PAIRS", "100"))
IN_CI, FEW = 10, 2
_STARTER = """
import sys
import ctp_runbook.cli.main, ctp_runbook.run.guardian, ctp_runbook.run.launch, ctp_runbook.show.terminal
for line in sys.stdin:
    sys.argv[1:] = line.split()
    try:
        ctp_runbook.cli.main.main()
    except SystemExit as end:
        print(f"EXIT {end.code}", flush=True)
"""


@dataclass
class Starter:
    """A process that has all of ``ctp-runbook`` loaded and runs the next command when told."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, folder: Path) -> Self:
        """Loaded, in this folder."""
        piped = subprocess.PIPE
        argv = [sys.executable, "-c", _STARTER]
        return cls(
            subprocess.Popen(
                argv, cwd=folder, stdin=piped, stdout=piped, stderr=subprocess.STDOUT, text=True
            )
        )

    def tell(self, line: str) -> None:
        """Run this command now."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def exit_code(self) -> int:
        """Of the command that runs, once it is over; what it said is in ``said``."""
        assert self.process.stdout is not None
        self.said = []
        for line in self.process.stdout:
            if line.startswith("EXIT "):
                return int(line.removeprefix("EXIT "))
            self.said.append(line)
        raise AssertionError(f"the starter died: {self.said}")


@contextlib.contextmanager
def two_starters(folder: Path) -> Iterator[tuple[Starter, Starter]]:
    """Both ready."""
    pair = Starter.new(folder), Starter.new(folder)
    try:
        yield pair
    finally:
        for one in pair:
            one.process.kill()
            one.process.communicate()


def command(plan: Plan, outputs: Path) -> str:
    """`ctp-runbook orchestrate --execute` of this plan."""
    files = f"--limits {plan.limits_file} --watch {plan.watch_file}"
    templates = f"--cutover-template {plan.cutover_template}"
    templates += f" --rollback-template {plan.rollback_template}"
    return f"orchestrate --execute {templates} {files} --outputs {outputs} --accept-unmeasured test"


def runs_of(outputs: Path) -> list[RunDir]:
    """Every run directory, whatever is in it."""
    return [RunDir(path) for path in outputs.iterdir()] if outputs.exists() else []


def is_armed(run: RunDir) -> list[str]:
    """What of a loser's run could still start anything, after somebody asks it to resume."""
    found = []
    if not run.journal.exists():
        return [] if not private_path(run).exists() else ["private files without a run"]
    with contextlib.suppress(RunRefused):
        found.append(f"resume was let through: {steer(run, 'resume', by='ops').sentence}")
    history = read_whole(run)
    if history.outcome is not Outcome.REFUSED:
        found.append(f"it is {history.outcome or history.state.value}, not REFUSED")
    if any(record.kind == "orchestrator_started" for record in history.records):
        found.append("an orchestrator began it")
    found += [f"control/{path.name}" for path in run.control.iterdir()]
    if private_path(run).exists():
        found.append("its private files are there")
    return found


def pair_of_starts(stack: SmallStack, plan: Plan, pair: tuple[Starter, Starter]) -> list[str]:
    """Two at one instant, of which one has to win; what is wrong with the other one's run."""
    outputs = stack.folder / "outputs"
    known = {run.path for run in runs_of(outputs)}
    for one in pair:
        one.tell(command(plan, outputs))

    def begun() -> list[RunDir]:
        new = [run for run in runs_of(outputs) if run.path not in known and run.journal.exists()]
        return [run for run in new if read_whole(run).unfinished]

    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(one.exit_code) for one in pair]
        wait_for(begun)
        (winner,) = begun()
        # Only now may the winner end: a loser that the host kept waiting would find nobody there.
        wait(ends, timeout=240, return_when=FIRST_COMPLETED)
        found = looked_at(outputs, known, winner)
        steer(winner, "abort", by="ops")
        codes = sorted(end.result() for end in ends)
    if codes != [2, 3]:
        found.append(f"exit codes {codes}: {[one.said for one in pair]}")
    wait_for(lambda: not is_attended(winner))
    # Now that nobody holds the environment any more nothing is refused for that alone.
    return found + looked_at(outputs, known, winner)


def looked_at(outputs: Path, known: set[Path], winner: RunDir) -> list[str]:
    """What is wrong with any other new run than the winner's, and with whose run it is called."""
    new = [run for run in runs_of(outputs) if run.path not in known]
    losers = [run for run in new if run.path != winner.path]
    found = [told for run in losers for told in is_armed(run)]
    if find_run(None, outputs).path != winner.path:
        found.append(f"without --run it is {find_run(None, outputs).run_id}")
    return found


def armed(stack: SmallStack, *, pairs: int) -> list[str]:
    """What is wrong after that many pairs; the old stack never changed."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    starts = stack.starts
    found = []
    with two_starters(stack.folder) as pair:
        for number in range(pairs):
            wrong = pair_of_starts(stack, plan, pair)
            found += [f"pair {number}: {one}" for one in wrong]
            if found:
                break  # what was armed has the environment now
    assert stack.starts == starts
    assert stack.is_up("old_core_engine")
    assert stack.is_up("old_strategy_runner")
    return found


@pytest.mark.timeout(300)
def test_of_two_starts_at_one_instant_the_loser_is_not_armed(stack: SmallStack) -> None:
    """Exit 2, and no run of it that `resume` could start: neither while the winner runs nor after."""
    assert armed(stack, pairs=IN_CI) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_of_all_pairs_of_starts_no_loser_is_armed(stack: SmallStack) -> None:
    """All 100."""
    assert armed(stack, pairs=ALL) == []


def both(pair: tuple[Starter, Starter], line: str) -> list[int]:
    """The exit codes of one command, given to both at one instant; lowest first."""
    for one in pair:
        one.tell(line)
    return sorted(one.exit_code() for one in pair)


def left_in(run: RunDir) -> list[str]:
    """What the folders of a run that is over still have that could start or steer anything."""
    history = read_whole(run)
    known = {record.payload.file for record in history.of_kind(RequestTaken)}
    left = [f"control/{path.name}" for path in run.control.iterdir() if path.name not in known]
    if private_path(run).exists():
        left.append("its private files are there")
    if history.closed is None:
        left.append("it is not closed")
    return left


def pairs_of_resumes(stack: SmallStack, *, pairs: int) -> None:
    """Nobody conducts a run: of two who take it up one does, and both are told of the same run."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    with two_starters(stack.folder) as pair:
        for _ in range(pairs):
            run = stack.begin(plan)
            wait_for(lambda run=run: read_whole(run).unfinished)  # type: ignore[misc]
            kill_both(run)
            codes = both(pair, f"resume --run {run.path}")
            starts = [record.kind for record in read_whole(run).records]
            told = codes, [one.said for one in pair]
            assert starts.count("orchestrator_started") == 2, told
            assert is_attended(run), told
            steer(run, "abort", by="ops")
            assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH
            wait_for(lambda run=run: not is_attended(run))  # type: ignore[misc]
            assert left_in(run) == []
    assert len(runs_of(stack.folder / "outputs")) == pairs
    assert stack.starts == ["old_core_engine", "old_strategy_runner"]


@pytest.mark.timeout(300)
def test_of_two_resumes_at_one_instant_one_takes_the_run_up(stack: SmallStack) -> None:
    """And nothing is left in its folders that could start it again."""
    pairs_of_resumes(stack, pairs=FEW)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_of_all_pairs_of_resumes_one_takes_the_run_up(stack: SmallStack) -> None:
    """All 100."""
    pairs_of_resumes(stack, pairs=ALL)


def pairs_of_rollbacks(stack: SmallStack, *, pairs: int) -> None:
    """Of a COMPLETED run: one new run rolls it back, and the other one's is not there, or closed."""
    plan = passing(stack)
    with two_starters(stack.folder) as pair:
        for _ in range(pairs):
            done = completed(stack, plan)
            known = {run.path for run in runs_of(stack.folder / "outputs")}
            started = len(stack.starts)
            codes = both(pair, f"rollback --run {done.path}")
            new = [run for run in runs_of(stack.folder / "outputs") if run.path not in known]
            acted = [run for run in new if run.journal.exists() and read_whole(run).has_begun]
            told = codes, [one.said for one in pair]
            assert len(acted) == 1, told
            assert codes == [2, 4], told
            assert stack.closed(acted[0]).outcome is Outcome.ROLLED_BACK_IN_BUDGET, told
            wait_for(lambda run=acted[0]: not is_attended(run))  # type: ignore[misc]
            armed_runs = [is_armed(run) for run in new if run.path != acted[0].path]
            assert armed_runs == [[]] * (len(new) - 1)
            assert left_in(acted[0]) == []
            assert list(done.control.iterdir()) == []
            assert stack.starts[started:] == ["old_core_engine", "old_strategy_runner"]


@pytest.mark.timeout(300)
def test_of_two_rollbacks_at_one_instant_one_acts(stack: SmallStack) -> None:
    """And nothing is left in any folder that could start another."""
    pairs_of_rollbacks(stack, pairs=FEW)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_of_all_pairs_of_rollbacks_one_acts(stack: SmallStack) -> None:
    """All 100."""
    pairs_of_rollbacks(stack, pairs=ALL)


def passing(stack: SmallStack) -> Plan:
    """A plan whose gates pass at once."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    commands = {f"{gate}_CMD": "ls" for gate in gates}
    return stack.plan(**commands, PRECHECK_CMD=stack.readiness_command("precheck"))


def test_the_loser_is_not_in_the_way_of_the_winner_s_rollback(stack: SmallStack) -> None:
    """`rollback` without --run reaches the run that switched, whatever newer folder there is."""
    plan = passing(stack)
    planned = stack.create(plan)
    winner = stack.begin(plan)
    os.utime(planned.run_json)
    wait_for(lambda: read_whole(winner).state is State.WATCHING)
    with pytest.raises(RunRefused, match=f"is held by run {winner.run_id} "):
        stack.begin(plan)
    asked = find_run(None, stack.folder / "outputs")
    assert asked.path == winner.path
    steer(asked, "rollback", by="ops")
    assert stack.closed(winner).outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert {run.path for run in runs_of(stack.folder / "outputs")} == {planned.path, winner.path}
    assert stack.starts.count("new_core_engine") == 1
    assert find_run(None, stack.folder / "outputs").path == winner.path


# --- its neighbours ---------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from ctp_runbook.run import guardian
from ctp_runbook.run.launch import RunOptions, begin
from ctp_runbook.plan.plan import load_plan

def killed(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)

guardian.spawn_guardian = killed
here = Path.cwd()
plan = load_plan(
    here / "cutover.env", here / "rollback.env", limits=here / "limits.toml",
    watch=here / "watch.toml", environ=os.environ, base=here,
)
begin(plan, RunOptions(execute=True, outputs=here / "outputs", accept_unmeasured="x"), reason="x")
"""


def test_a_start_killed_before_its_guardian_leaves_nothing_armed(stack: SmallStack) -> None:
    """kill -9 between the run and its guardian: no go on disk, no lock, and `resume` starts nothing;
    another start goes its way, and `abort` discards what was left."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=stack.folder, check=False)
    assert done.returncode == -9
    (left,) = runs_of(stack.folder / "outputs")
    assert list(left.control.iterdir()) == []
    for request in ("resume", "hold", "rollback", "go"):
        with pytest.raises(RunRefused, match=r"was planned and never started"):
            steer(left, request, by="ops")
    assert list(left.control.iterdir()) == []
    assert not read_history(left).has_begun
    run = stack.begin(plan)
    os.utime(left.run_json)
    assert find_run(None, stack.folder / "outputs").path == run.path
    steer(left, "abort", by="ops", reason="left over")
    history = read_history(left)
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert not private_path(left).exists()
    assert left.manifest.exists()
    assert read_whole(run).closed is None
    steer(run, "abort", by="ops")
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH


def answers(run: RunDir) -> list[RequestAnswered]:
    """What was answered to requests of the run so far."""
    return [record.payload for record in read_whole(run).of_kind(RequestAnswered)]


def test_a_go_left_beside_a_planned_run_arms_nothing(stack: SmallStack) -> None:
    """Whoever starts the run is asked for the switch all the same, and the file is gone; a go for
    the start there is counts."""
    from ctp_runbook.run.launch import request, start
    from ctp_runbook.run.requests import send_request

    plan = passing(stack)
    run = stack.create(plan)
    send_request(run, "go", by="somebody")
    old = run.control / "00000000000000000001-1-go.json"
    old.write_text('{"request": "go", "by": "x", "reason": "", "requested_utc": "2026-01-01"}')
    start(run)
    wait_for(lambda: len(answers(run)) == 2)
    wait_for(lambda: read_whole(run).state is State.READY)
    history = read_whole(run)
    assert [(answer.request, answer.obeyed) for answer in answers(run)] == [("go", False)] * 2
    assert history.go is None
    assert list(run.control.iterdir()) == []
    request(run, "go", by="chief")
    wait_for(lambda: read_whole(run).go)
    wait_for(lambda: read_whole(run).state is State.WATCHING)
    steer(run, "rollback", by="ops")
    assert stack.closed(run).outcome is Outcome.ROLLED_BACK_IN_BUDGET


def test_a_go_is_not_carried_to_another_start(stack: SmallStack) -> None:
    """The orchestrator that was looked at died before it took the go: the next one asks again."""
    from ctp_runbook.run.launch import request, start

    run = stack.create(passing(stack))
    start(run)
    wait_for(lambda: read_whole(run).state is State.READY)
    seen = read_whole(run)
    assert seen.conducted is not None
    os.kill(seen.conducted.writer.pid, 9)
    wait_for(lambda: read_whole(run).restarts)
    name = request(run, "go", by="ops", seen=seen)
    wait_for(
        lambda: [r for r in read_whole(run).of_kind(RequestTaken) if r.payload.file == name],
        seconds=20,
    )
    wait_for(lambda: read_whole(run).state is State.READY)
    assert read_whole(run).go is None
    steer(run, "abort", by="ops")
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH


def test_a_lost_run_that_cannot_be_taken_up_keeps_no_request(stack: SmallStack) -> None:
    """Another run has the environment: `rollback` is refused and waits nowhere; `hold` takes up
    nothing at all."""
    run = stack.begin(stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null"))
    wait_for(lambda: read_whole(run).unfinished)
    history = read_whole(run)
    kill_both(run)
    with pytest.raises(RunRefused, match=r"nobody conducts run .* so nobody can hold it"):
        steer(run, "hold", by="ops")
    lock = take_lock(history.created.environment, run_id="other")
    with pytest.raises(RunRefused, match="is held by run other "):
        steer(run, "abort", by="ops")
    os.close(lock)
    assert list(run.control.iterdir()) == []
    assert read_whole(run).closed is None
    steer(run, "abort", by="ops")
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH
