"""Accident: what only the record needs is taken away while a run is under way, and the run must not be
lost with it. One `rm -rf` of the run's folder ended orchestrator and guardian, with nothing trading.

CI runs a seeded part of the table, ``make prove`` all of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.errors import JournalError, RunLost, RunRefused
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity, Outcome, State
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import RunDir, private_path
from ctp_runbook.run.launch import follow, read_history, start
from ctp_runbook.run.requests import send_request
from tests.props.plan_fixtures import command_line, processes_with, wait_for
from tests.props.small_stack import GATES, SmallStack, small_stack

pytestmark = pytest.mark.twin

OLD = {"old_core_engine", "old_strategy_runner"}
NEW = {"new_core_engine", "new_strategy_runner"}
ABORTED = Outcome.ABORTED_BEFORE_SWITCH
RESTORED = {
    Outcome.ROLLED_BACK_IN_BUDGET,
    Outcome.ROLLED_BACK_LATE,
    Outcome.ROLLED_BACK_UNVALIDATED,
}


@dataclass
class Accident:
    """A run that waits at a known place, and who conducts it."""

    stack: SmallStack
    run: RunDir
    orchestrator: Identity
    guardian: Identity

    def go_on(self) -> None:
        """Let the command end that the run waits for."""
        (self.stack.folder / "go_on").touch()


# --- where the run stands --------------------------------------------------------------


def _held_back(stack: SmallStack, command: str) -> str:
    """The command, once somebody says so; it waits half a minute at most."""
    gate = f"timeout 30 bash -c 'until test -e {stack.folder}/go_on; do sleep 0.05; done'"
    return f"{gate}; {command}"


def _plan_of(stack: SmallStack, state: str) -> dict[str, str]:
    """What makes a run wait there."""
    given = {f"{gate}_CMD": "ls" for gate in GATES}
    given["ALERT_CMD"] = f"printenv CTP_ALERT_SENTENCE >> {stack.folder}/alerts"
    given["PRECHECK_CMD"] = stack.readiness_command("precheck")
    if state == "gates":
        given["INIT_KAFKA_TOPIC_CMD"] = _held_back(stack, "ls")
    if state == "switch":
        start = stack.start_command("new_core_engine")
        given["NEW_CORE_ENGINE_START_CMD"] = _held_back(stack, start)
    if state == "rollback":
        given["WARMUP_QUERY_CMD"] = "ls no-such-file"
        start = stack.start_command("old_core_engine")
        given["PREVIOUS_CORE_ENGINE_START_CMD"] = _held_back(stack, start)
    return given


def _is_there(history: History, state: str) -> bool:
    steps = {
        "gates": "init_kafka_topic",
        "switch": "start_new_core_engine",
        "rollback": "start_previous_core_engine",
    }
    if state in steps:
        return bool(history.step(steps[state]).attempt)
    return history.state is {"READY": State.READY, "watch": State.WATCHING}[state]


STATES = ("gates", "READY", "switch", "watch", "rollback")


def conducted(stack: SmallStack, state: str) -> Accident:
    """A run that has come so far."""
    plan = stack.plan(**_plan_of(stack, state))
    if state == "READY":
        start(run := stack.create(plan))
    else:
        run = stack.begin(plan)
    wait_for(lambda: _is_there(read_history(run), state))
    record = read_history(run).conducted
    assert record is not None
    assert record.payload.guardian is not None
    guardian = identity_of(record.payload.guardian.pid)
    orchestrator = identity_of(record.writer.pid)
    assert orchestrator is not None
    assert guardian is not None
    return Accident(stack, run, orchestrator, guardian)


# --- what happens to it ------------------------------------------------------------------


def _remove(folder: Path) -> None:
    """`rm -r`, once more where the run wrote there meanwhile."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _put_a_file_in_place_of(folder: Path) -> None:
    """Nothing can be written there, by root either; once more where the run made the folder again
    between the two."""
    while not folder.is_file():
        _remove(folder)
        with contextlib.suppress(FileExistsError), folder.open("x") as file:
            file.write("not a folder")


def remove_control(accident: Accident) -> None:
    """`rm -r control`."""
    _remove(accident.run.control)


def remove_run(accident: Accident) -> None:
    """`rm -rf RUN`, which loses its race with whoever makes it again, or does not."""
    shutil.rmtree(accident.run.path, ignore_errors=True)


def remove_run_and_kill(accident: Accident) -> None:
    """The same, and whoever has the journal open is killed at that moment."""
    os.kill(accident.orchestrator.pid, signal.SIGSTOP)
    _remove(accident.run.path)
    os.kill(accident.orchestrator.pid, signal.SIGKILL)


def remove_run_and_guardian(accident: Accident) -> None:
    """The same, of the guardian: the next one is started without a folder."""
    os.kill(accident.guardian.pid, signal.SIGSTOP)
    remove_run(accident)
    os.kill(accident.guardian.pid, signal.SIGKILL)


def outputs_are_a_file(accident: Accident) -> None:
    """The folder of all runs is gone, and something is in its place: nothing can be put back."""
    outputs = accident.run.path.parent
    outputs.rename(outputs.with_name("moved"))
    _put_a_file_in_place_of(outputs)


def remove_evidence(accident: Accident) -> None:
    """`rm -r evidence`."""
    _remove(accident.run.evidence)


def evidence_is_a_file(accident: Accident) -> None:
    """The evidence has no place."""
    _put_a_file_in_place_of(accident.run.evidence)


def logs_are_a_file(accident: Accident) -> None:
    """The logs of steps, of orchestrator and guardian have no place."""
    _put_a_file_in_place_of(accident.run.logs)


def replace_journal(accident: Accident) -> None:
    """An editor wrote it anew."""
    strange = accident.run.path / "strange"
    strange.write_text("edited\n")
    strange.rename(accident.run.journal)


def private_is_a_file(accident: Accident) -> None:
    """The private folder takes nothing any more."""
    _put_a_file_in_place_of(private_path(accident.run))


def disk_is_full(accident: Accident) -> None:
    """No file grows beyond what the journal has now."""
    size = accident.run.journal.stat().st_size
    subprocess.run(["prlimit", f"--pid={accident.orchestrator.pid}", f"--fsize={size}"], check=True)


def no_descriptors(accident: Accident) -> None:
    """EMFILE: what is open stays open, nothing more can be opened."""
    pid = accident.orchestrator.pid
    names = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    free = next(number for number in range(1000) if number not in names)
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={free}:{free}"], check=True)


def no_inodes(accident: Accident) -> None:
    """There is room, and no file more can be made."""
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (accident.run.path.parent / f"rubbish{number}").touch()


FAULTS: Mapping[str, Callable[[Accident], None]] = {
    "control gone": remove_control,
    "run gone": remove_run,
    "run gone, orchestrator killed": remove_run_and_kill,
    "run gone, guardian killed": remove_run_and_guardian,
    "outputs are a file": outputs_are_a_file,
    "evidence gone": remove_evidence,
    "evidence unwritable": evidence_is_a_file,
    "logs unwritable": logs_are_a_file,
    "journal replaced": replace_journal,
    "private folder unwritable": private_is_a_file,
    "disk full": disk_is_full,
    "no descriptors": no_descriptors,
    **({"no inodes": no_inodes} if os.getuid() == 0 else {}),  # only root has a disk to try it on
}
# What ends a run that has touched nothing yet.
LOSSES = {name for name in FAULTS if name.startswith(("run", "outputs", "evid", "logs", "journal"))}
TABLE = [(state, fault) for state in STATES for fault in FAULTS]


# --- how it ends ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """What there is to see when nobody is at work any more; ``outcome`` by the journal, where it can be
    read, and ``followed`` by a viewer who was there from before the accident."""

    up: frozenset[str]
    outcome: Outcome | None
    followed: Outcome | str
    called: str
    findings: str

    @property
    def row(self) -> str:
        """One line of a table."""
        trades = "old" if self.up == OLD else "new" if self.up == NEW else ",".join(sorted(self.up))
        outcome = self.outcome.value if self.outcome else "no record"
        followed = "" if self.followed is self.outcome else f"; a viewer: {self.followed}"
        return f"{outcome:24} trades: {trades or 'NOBODY'}{followed}"


def _at_work(stack: SmallStack) -> list[int]:
    """Orchestrators and guardians of this stack."""
    ours = processes_with(f"SMALL_STACK={stack.mark}")
    return [pid for pid in ours if b"ctp_runbook.run." in command_line(pid)]


def _let_end(accident: Accident, state: str, fault: str) -> None:
    """Let it go on, and end it where nothing else does: before the switch by an abort, after it by a
    death that is to be seen."""
    stack = accident.stack
    if state in ("gates", "READY"):
        if fault not in LOSSES:
            wait_for(accident.run.control.is_dir)  # or the request would make it
            for rubbish in accident.run.path.parent.glob("rubbish?"):
                rubbish.unlink()  # a disk without inodes takes no request either
            send_request(accident.run, "abort", by="ops")
        return
    accident.go_on()
    if state == "rollback":
        return
    wait_for(lambda: stack.is_up("new_strategy_runner") or not _at_work(stack), seconds=60)
    time.sleep(1)
    if (runner := stack.identity("new_strategy_runner")) is not None:
        os.kill(runner.pid, signal.SIGKILL)


def after(stack: SmallStack, state: str, fault: str) -> Ended:
    """A run that comes so far, meets with this, and ends."""
    with _disk_of_its_own(stack.folder / "outputs") if fault == "no inodes" else nullcontext():
        return _after(stack, state, fault)


@contextlib.contextmanager
def _disk_of_its_own(folder: Path) -> Iterator[None]:
    """A small one, in memory."""
    folder.mkdir()
    options = ["-o", "size=32m,nr_inodes=300"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _after(stack: SmallStack, state: str, fault: str) -> Ended:
    accident = conducted(stack, state)
    with ThreadPoolExecutor() as threads:
        is_there = threading.Event()
        viewer = threads.submit(_followed, accident.run, is_there)
        assert is_there.wait(60)
        FAULTS[fault](accident)
        _let_end(accident, state, fault)
        wait_for(lambda: not _at_work(stack), seconds=90)
        return ended(accident, viewer.result())


def _followed(run: RunDir, is_there: threading.Event) -> Outcome | str:
    """What a viewer leaves with."""
    try:
        history = follow(run, until=lambda _: False, on_change=lambda _: is_there.set())
        return history.outcome or "no outcome"
    except RunLost as lost:
        return f"{lost}"


def ended(accident: Accident, followed: Outcome | str) -> Ended:
    """What there is to see."""
    stack, outcome, findings = accident.stack, None, ""
    with contextlib.suppress(JournalError, RunRefused):
        history = read_history(accident.run)
        outcome = history.outcome
        findings = "\n".join(one.payload.sentence for one in history.of_kind(Finding))
    alerts = stack.folder / "alerts"
    members = (*OLD, *NEW)
    return Ended(
        up=frozenset(name for name in members if stack.is_up(name)),
        outcome=outcome,
        followed=followed,
        called=alerts.read_text() if alerts.exists() else "",
        findings=findings,
    )


# What is told of it, wherever it is told; of the others nothing is missing, or nothing can be told.
TOLD = {
    "control gone": "/control was removed while the run is under way",
    "run gone": "was removed while",
    "run gone, orchestrator killed": "journal.jsonl was removed while",
    "run gone, guardian killed": "was removed while",
    "outputs are a file": "cannot be made again (Not a directory)",
    "evidence gone": "/evidence was removed while the run is under way",
    "evidence unwritable": "/evidence was removed while the run is under way",
    "logs unwritable": "/logs was removed while the run is under way",
    "journal replaced": "journal.jsonl was replaced while it was written, by what is now ",
}


def gaps(state: str, fault: str, end: Ended) -> list[str]:
    """What is not as it must be."""
    expected = RESTORED if state in ("switch", "watch", "rollback") else {ABORTED}
    wrong = [] if end.up == OLD else [f"what trades is {sorted(end.up)}"]
    if fault == "outputs are a file":
        # The record went with its folder; how it ended was called out.
        if not any(f"{outcome.value}: " in end.called for outcome in expected):
            wrong.append(f"the end was not called out: {end.called}")
        if not str(end.followed).endswith("Look at the engines now, and decide by hand"):
            wrong.append(f"a viewer is told {end.followed}")
    else:
        if end.outcome not in expected:
            wrong.append(f"it ended {end.outcome}")
        if end.followed is not end.outcome:
            wrong.append(f"a viewer is told {end.followed}")
    for place, text in (("alerts", end.called), ("findings", end.findings)):
        unsaid = place == "findings" and end.outcome is None
        if (words := TOLD.get(fault, "")) not in text and not unsaid:
            wrong.append(f"{place} do not say {words!r}: {text}")
    return wrong


# Those that ended with nothing trading, and a few more.
ENDED_IN_NOTHING = [
    ("rollback", "run gone, orchestrator killed"),
    ("rollback", "private folder unwritable"),
    ("switch", "run gone"),
    # Not by its end alone: whoever came next did it all again, for nothing of it was on record.
    ("switch", "disk full"),
]
_QUICK = [row for row in TABLE if row not in ENDED_IN_NOTHING and row[1] != "outputs are a file"]
IN_CI = [*ENDED_IN_NOTHING, *random.Random(20261126).sample(_QUICK, 5)]


@pytest.mark.parametrize(("state", "fault"), IN_CI)
def test_the_old_stack_trades_at_the_end(stack: SmallStack, state: str, fault: str) -> None:
    """One generation trades, what vanished is named, and a viewer leaves with the outcome."""
    assert gaps(state, fault, after(stack, state, fault)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_table(tmp_path: Path, record_table: Callable[[str, list[str]], None]) -> None:
    """Every place a run may be at, with everything that may be taken away from it."""
    rows, wrong = [], []
    for number, (state, fault) in enumerate(TABLE):
        folder = tmp_path / str(number)
        folder.mkdir()
        with small_stack(folder) as stack:
            end = after(stack, state, fault)
        rows.append(f"{state:9} {fault:30} {end.row}".replace(str(folder), "…"))
        wrong += [f"{rows[-1]}: {gap}" for gap in gaps(state, fault, end)]
    record_table("vanish_table", rows)
    assert not wrong, "\n".join(wrong)
