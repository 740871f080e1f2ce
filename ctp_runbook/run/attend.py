"""Reading a run as it stands, and following it: what every viewer of a run does, and all it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctp_runbook.errors import JournalError, RunbookError, RunLost, RunRefused
from ctp_runbook.model import Generation, Identity, Phase, Role, StepStatus
from ctp_runbook.plan.step_table import STEP_TABLE, start_steps
from ctp_runbook.record.evidence import missing_copies
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, read_journal
from ctp_runbook.record.kinds import (
    GuardianFacts,
    GuardianStarted,
    OrchestratorStarted,
    Payload,
    RequestAnswered,
)
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.world import HERE, World

__all__ = [
    "answer_in",
    "follow",
    "is_attended",
    "is_touched",
    "lost_sentence",
    "read_history",
    "read_whole",
    "set_aside_sentence",
    "unstarted_sentence",
    "unwritten_sentence",
]

_SWITCH = tuple(spec.name for spec in STEP_TABLE if spec.phase is Phase.SWITCH)
_RUNS, _GONE, _NEVER = "runs", "gone", "never started"
# A guardian needs some of them to bring an orchestrator back, more on a busy host.
_UNATTENDED_SECONDS = 15.0
_TORN_TRIES, _TORN_SECONDS = 20, 0.05


def read_history(run: RunDir) -> History:
    """The run as its journal tells it now. Raises JournalError, RunRefused for no run."""
    if not run.journal.exists():
        raise RunRefused(f"{run.path} holds no run (no journal.jsonl); check --run")
    history = History.of(read_journal(run.journal).records)
    if history.header is None:  # it came to be with its first record, or not at all
        raise JournalError(f"{run.journal}: its first record is lost; nothing is known of this run")
    return history


def is_attended(run: RunDir, *, world: World = HERE) -> bool:
    """True while an orchestrator or a guardian of this run lives."""
    return _is_attended(read_history(run), world)


def _is_attended(history: History, world: World) -> bool:
    return any(map(world.processes.is_running, _attendants(history.records)))


def is_touched(history: History) -> bool:
    """True once a step of the switch was begun, and of a run that undoes what another switched."""
    switched = any(history.step(name).attempt for name in _SWITCH)
    return switched or history.parent is not None


def _attendants(records: tuple[Record, ...]) -> Iterator[Identity]:
    """Every orchestrator and guardian there was: any of them may still be at it."""
    for record in records:
        who: Payload | GuardianFacts | None = record.payload
        if isinstance(who, OrchestratorStarted):
            yield Identity(record.writer.pid, record.writer.start_ticks, record.boot_id)
            who = who.guardian
        if isinstance(who, GuardianFacts | GuardianStarted):
            yield Identity(who.pid, who.start_ticks, record.boot_id)


def follow(
    run: RunDir,
    *,
    until: Callable[[History], bool],
    on_change: Callable[[History], None] | None = None,
    poll_seconds: float = 0.2,
    world: World = HERE,
) -> History:
    """Read the journal until ``until`` holds or the run is over and its evidence written.

    ``on_change`` is called with each new state of affairs. A run that is over and whose evidence
    nobody writes any more is returned without it (``unwritten_sentence``). Raises RunRefused when
    nobody conducts the run any more, and RunLost where it has begun.
    """
    clock, seen = world.clock, -1
    unattended_since: float | None = None
    history = History(())
    while True:
        try:
            history = read_whole(run, world=world)
        except (RunbookError, OSError) as error:
            if not history.has_begun or history.is_dry_run:
                raise
            raise RunLost(_unreadable_sentence(run, history, str(error), world)) from error
        if len(history.records) != seen:
            seen = len(history.records)
            if on_change is not None:
                on_change(history)
        # The manifest comes last: a viewer that goes at ``closed`` would read half the evidence.
        is_over = history.closed is not None and world.files.exists(run.manifest)
        if is_over or (history.closed is None and until(history)):
            return history
        now = clock.mono()
        unattended_since = None if _is_attended(history, world) else unattended_since or now
        if unattended_since is not None and now - unattended_since > _UNATTENDED_SECONDS:
            if history.closed is not None:
                return history  # how it ended is known, whatever became of its evidence
            kind = RunLost if history.has_begun else RunRefused
            raise kind(_unattended_sentence(run, history))
        clock.sleep(poll_seconds)


def answer_in(history: History, name: str) -> Record[RequestAnswered] | None:
    """The orchestrator's answer to the request in file ``name``; None while there is none."""
    answers = history.of_kind(RequestAnswered)
    return next((answer for answer in answers if answer.payload.file == name), None)


def _unattended_sentence(run: RunDir, history: History) -> str:
    if not history.has_begun:
        return unstarted_sentence(run)
    return (
        f"run {run.run_id} is {history.state.value} and nobody conducts it; take it up again with "
        f"`ctp-runbook resume --run {run.path}`"
    )


def _unreadable_sentence(run: RunDir, history: History, why: str, world: World) -> str:
    """What a viewer knows of a run whose record it could read, and can no more."""
    known = (
        f"run {run.run_id} can be read no more ({why}); it was {history.state.value} at "
        f"{history.records[-1].wall_utc}. {_what_runs(history, world)}. "
    )
    if _is_attended(history, world):
        return (
            f"{known}It is conducted still, goes on, and calls for a person by syslog; ask it with "
            f"`ctp-runbook status --run {run.path}`"
        )
    return f"{known}Nobody conducts it; {set_aside_sentence(run)}"


def set_aside_sentence(run: RunDir) -> str:
    """What closes a run that nobody can take up any more: no request does, for nobody would act."""
    place = run.path.parent / "set-aside"
    return (
        "see by the alive commands what runs, and to it by hand that one stack trades; then "
        f"`mkdir -p {place} && mv {run.path} {place}/` keeps its record, and lets the next run begin"
    )


def lost_sentence(run: RunDir, history: History, *, world: World = HERE) -> str:
    """Of a run that began and that nobody conducts: since when, what runs, the one command; of any
    other nothing."""
    if history.closed is not None or history.is_dry_run or not history.has_begun:
        return ""
    if _is_attended(history, world):
        return ""
    last = history.records[-1]
    same_boot = last.boot_id == world.clock.boot_id()
    now, then = (
        (world.clock.mono(), last.mono)
        if same_boot
        else (world.clock.wall(), last.wall.timestamp())
    )
    since = f"{last.wall:%Y-%m-%d %H:%M:%S} UTC, {max(0.0, now - then):.0f} s ago"
    return (
        f"NOBODY CONDUCTS run {run.run_id} ({history.state.value}): its last record is of {since}, "
        f"and nothing of it goes on by itself. {_what_runs(history, world)}. "
        f"Now: `ctp-runbook resume --run {run.path}`"
    )


def _what_runs(history: History, world: World) -> str:
    """What its processes tell, and whether anything trades; as far as they tell it."""
    if not is_touched(history):
        return "It had not begun to stop the old stack"
    known = {
        f"{generation}_{role}": _word_of(history, generation, role, world)
        for generation in Generation
        for role in Role
    }
    seen = ", ".join(f"{name} {word}" for name, word in known.items())
    runners = {known[f"{generation}_{Role.STRATEGY_RUNNER}"] for generation in Generation}
    trades = "whether anything trades is not known"
    if runners <= {_GONE, _NEVER}:
        trades = "NOTHING TRADES"
    elif any(word.startswith(_RUNS) for word in runners):
        trades = "orders may be sent, and nobody watches"
    return f"By the processes it pinned: {seen}; {trades}"


def _word_of(history: History, generation: Generation, role: Role, world: World) -> str:
    name = f"{generation}_{role}"
    pin = history.pins.get(name)
    if pin is not None and world.processes.is_running(pin.identity):
        return f"{_RUNS} (pid {pin.identity.pid})"
    if pin is not None and (alike := _lookalikes(history, name, world)):
        return f"{_RUNS} again (pid {alike[0].pid})"
    # A start whose end nobody saw may have left its member running, pinned or not.
    starts = [history.step(step) for step in start_steps(generation, role)]
    if any(step.status is StepStatus.UNKNOWN for step in starts):
        return "not known, its start was begun"
    if pin is not None:
        return _GONE
    return _NEVER if generation is Generation.NEW else "not known"


def _lookalikes(history: History, name: str, world: World) -> tuple[Identity, ...]:
    """Who runs as the member ran: a supervisor may have brought it back."""
    pins = dict(history.pins)
    pin = pins.pop(name)
    others = [other.identity for other in pins.values()]
    return world.pins.lookalikes(pin, run_ids=[history.run_id], others=others)


def unwritten_sentence(run: RunDir, history: History, *, world: World = HERE) -> str:
    """What is not written of the evidence of a run that is over, and the remedy; else nothing."""
    if history.closed is None:
        return ""
    lacks = [f"its copy {path} is not there" for path in missing_copies(history)]
    if not world.files.exists(run.manifest):
        if _is_attended(history, world):
            return ""  # it is being written
        lacks = [f"its evidence is not written; see {run.logs}"]
    if not lacks:
        return ""
    return (
        f"run {run.run_id} is over ({history.closed.payload.outcome.value}), but {', '.join(lacks)}: "
        f"mend what is in the way, then `ctp-runbook resume --run {run.path}` writes it"
    )


def unstarted_sentence(run: RunDir) -> str:
    """What such a run is, and what starts or discards it."""
    return (
        f"run {run.run_id} was planned and never started, and nothing but its own start starts "
        f"it: 02_infra_gate with run_dir = {run.path} does, `ctp-runbook abort --run {run.path}` "
        "discards it"
    )


def read_whole(run: RunDir, *, world: World = HERE) -> History:
    """The history; a record caught in the middle of its write is read a moment later."""
    for _ in range(_TORN_TRIES):
        try:
            return read_history(run)
        except JournalError:
            world.clock.sleep(_TORN_SECONDS)
    return read_history(run)
