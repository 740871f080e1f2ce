"""Reading a run as it stands, and following it: what every viewer of a run does, and all it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from ctp_runbook.errors import JournalError, RunLost, RunRefused
from ctp_runbook.model import Generation, Identity, Phase, Role, State, StepStatus
from ctp_runbook.plan.step_table import STEP_TABLE, sender_of, start_steps
from ctp_runbook.record.evidence import is_left_unsealed, missing_copies
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, read_journal, read_known, records_behind
from ctp_runbook.record.kinds import (
    GuardianFacts,
    GuardianStarted,
    OrchestratorStarted,
    Payload,
    RequestAnswered,
)
from ctp_runbook.record.rundir import RunDir, behind_path
from ctp_runbook.run.world import HERE, World

if TYPE_CHECKING:
    from ctp_runbook.host.heartbeat import Beat, Who

__all__ = [
    "Silence",
    "answer_in",
    "end_silent",
    "follow",
    "has_records_behind",
    "is_attended",
    "is_touched",
    "left_sentence",
    "looks",
    "lost_sentence",
    "read_history",
    "read_whole",
    "set_aside_sentence",
    "silence_of",
    "silent_sentence",
    "unstarted_sentence",
    "unwritten_sentence",
    "waiting_sentence",
]

_SWITCH = tuple(spec.name for spec in STEP_TABLE if spec.phase is Phase.SWITCH)
_RUNS, _GONE, _NEVER = "runs", "gone", "never started"
# A guardian needs some of them to bring an orchestrator back, more on a busy host.
_UNATTENDED_SECONDS = 15.0
# Ten signs of life a second are usual; a sync to a busy disk may keep them back for some seconds.
_SILENT_SECONDS = 5.0
# Whoever was stopped together with them and woke first hears them within this.
_WAKE_SECONDS = 1.0
# What a guardian needs for ending one that hangs, unless the kernel does not let it go.
_END_SECONDS = 5.0
_TORN_TRIES, _TORN_SECONDS = 20, 0.05


def read_history(run: RunDir) -> History:
    """The run as its journal tells it now. Raises JournalError, RunRefused for no run."""
    if not run.journal.exists():
        raise RunRefused(f"{run.path} holds no run (no journal.jsonl); check --run")
    history = History.of(read_known(run.journal, behind_path(run)))
    if history.header is None:  # it came to be with its first record, or not at all
        raise JournalError(f"{run.journal}: its first record is lost; nothing is known of this run")
    return history


def is_attended(run: RunDir, *, world: World = HERE) -> bool:
    """True while an orchestrator or a guardian of this run lives, or somebody holds its environment
    for it: whoever takes a run up does so for seconds before that is on record."""
    return _is_attended(read_whole(run, world=world), world)


def _is_attended(history: History, world: World) -> bool:
    if any(map(world.processes.is_running, _attendants(history.records))):
        return True
    if history.header is None or history.is_dry_run:
        return False
    holder = world.locks.holder_of(history.header.environment)
    # A run id is never used twice.
    return bool(holder) and Path(holder).name == history.run_id


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
    looking = looks(run, until=until, on_change=on_change, poll_seconds=poll_seconds, world=world)
    while True:
        try:
            seconds = next(looking)
        except StopIteration as end:
            history: History = end.value
            return history
        world.clock.sleep(seconds)


def looks(
    run: RunDir,
    *,
    until: Callable[[History], bool],
    on_change: Callable[[History], None] | None = None,
    poll_seconds: float = 0.2,
    world: World = HERE,
) -> Generator[float, None, History]:
    """``follow`` for who waits in a way of their own: yields the seconds until the next look."""
    clock, seen = world.clock, -1
    unattended_since: float | None = None
    history = read_whole(run, world=world)
    while True:
        if len(history.records) != seen:
            seen = len(history.records)
            if on_change is not None:
                on_change(history)
        # The manifest comes last: a viewer that goes at ``closed`` would read half the evidence.
        is_over = history.closed is not None and world.files.exists(run.manifest)
        if is_over or (history.closed is None and until(history)):
            return history
        now = clock.mono()
        unattended_since = None if _is_conducted(run, history, world) else unattended_since or now
        if unattended_since is not None and now - unattended_since > _UNATTENDED_SECONDS:
            if history.closed is not None:
                return history  # how it ended is known, whatever became of its evidence
            may_have_acted = history.has_begun and not history.is_dry_run
            kind = RunLost if may_have_acted else RunRefused
            raise kind(_unattended_sentence(run, history, world))
        yield poll_seconds
        # Whoever conducts it has it open, and puts it back where somebody took it away: what is known
        # stands until then.
        with contextlib.suppress(JournalError, RunRefused, OSError):
            history = _read_untorn(run, world)


def _is_readable(run: RunDir) -> bool:
    with contextlib.suppress(JournalError, RunRefused, OSError):
        return bool(read_history(run).records)
    return False


def answer_in(history: History, name: str) -> Record[RequestAnswered] | None:
    """The orchestrator's answer to the request in file ``name``; None while there is none."""
    answers = history.of_kind(RequestAnswered)
    return next((answer for answer in answers if answer.payload.file == name), None)


def _unattended_sentence(run: RunDir, history: History, world: World) -> str:
    if not history.has_begun:
        return unstarted_sentence(run)
    if history.is_dry_run:
        return f"dry run {run.run_id} was interrupted; nothing was done, and none takes it up: make another"
    if not _is_readable(run):
        said = (
            f"run {run.run_id} is lost: {run.journal} was taken away or cannot be read, and nobody "
            f"conducts the run. It was {history.state.value} at {history.records[-1].wall_utc}. "
            f"{_what_runs(history, world)}; syslog and ALERT_CMD have what came after it. Look at the "
            "engines now, and decide by hand"
        )
        return f"{said}: {set_aside_sentence(run)}" if world.files.exists(run.path) else said
    runs = _what_runs(history, world)
    return (
        f"run {run.run_id} is {history.state.value} and nobody conducts it; {runs[0].lower()}"
        f"{runs[1:]}. Now: `ctp-runbook resume --run {run.path}`"
    )


def set_aside_sentence(run: RunDir) -> str:
    """What closes a run that nobody can take up any more: no request does, for nobody would act."""
    place = run.path.parent / "set-aside"
    return (
        "see by the alive commands what runs, and to it by hand that one stack trades; then "
        f"`mkdir -p {place} && mv {run.path} {place}/` keeps its record, and lets the next run begin"
    )


# --- silence ----------------------------------------------------------------------


class Silence(Struct, frozen=True):
    """Who of those that keep a run conducted runs, and gives no sign of life.

    ``heard`` has the last sign of each such one, ``at`` is when that was looked for. ``is_left``:
    none of the others runs, so that nobody would replace them.
    """

    heard: dict[Who, Beat]
    at: float
    is_left: bool

    def seconds(self, who: Who) -> float:
        """For how long ``who`` has been silent; 0.0 where it is not, is gone, or nobody knows."""
        beat = self.heard.get(who)
        return self.at - beat.mono if beat else 0.0

    @property
    def is_overdue(self) -> bool:
        """True where each of them has been silent for longer than it is waited for."""
        return all(self.at - beat.mono > beat.allowed for beat in self.heard.values())


def silence_of(
    run: RunDir,
    history: History,
    *,
    after: float = _SILENT_SECONDS,
    is_awake: bool = False,
    world: World = HERE,
) -> Silence:
    """Look who has given no sign of life for ``after`` seconds beyond what was announced.

    Twice where there is somebody, unless the caller knows that it ``is_awake`` that long itself: it
    may have been stopped with them.
    """
    silence = _silence(run, history, after, world)
    if silence.heard and not is_awake:
        world.clock.sleep(_WAKE_SECONDS)
        silence = _silence(run, history, after, world)
    return silence


def _silence(run: RunDir, history: History, after: float, world: World) -> Silence:
    if history.is_dry_run:
        return Silence({}, 0.0, is_left=False)
    now, heard = world.clock.mono(), {}
    running = {_key(who) for who in _attendants(history.records) if world.processes.is_running(who)}
    roles: tuple[Who, ...] = ("orchestrator", "guardian")
    for who in roles:
        beat = world.hearts.beat_of(history.created.environment, who, path=run.path)
        if beat is None or not world.processes.is_running(_giver(beat, world)):
            continue
        running.add((beat.pid, beat.start_ticks))
        if now - beat.mono - beat.busy > after:
            heard[who] = beat
    silent = {(beat.pid, beat.start_ticks) for beat in heard.values()}
    return Silence(heard, now, is_left=bool(silent) and running <= silent)


def _giver(beat: Beat, world: World) -> Identity:
    return Identity(beat.pid, beat.start_ticks, world.clock.boot_id())


def _key(identity: Identity) -> tuple[int, int]:
    return (identity.pid, identity.start_ticks)


def end_silent(run: RunDir, history: History, *, world: World = HERE) -> tuple[Who, ...]:
    """End those who hold the run and will not act on it, so that it can be taken up; who that was.

    Only where nobody else would. Raises RunRefused where one of them is not gone afterwards.
    """
    silence = silence_of(run, history, world=world)
    # It is said early, and done late: a busy machine may keep both silent for a while.
    while silence.is_left and not silence.is_overdue:
        world.clock.sleep(_WAKE_SECONDS)
        silence = _silence(run, history, _SILENT_SECONDS, world)
    if not silence.is_left:
        return ()
    # The guardian first: of the other's end it would make a start.
    for who, beat in sorted(silence.heard.items()):
        if not world.processes.kill_process(_giver(beat, world), seconds=_END_SECONDS):
            raise RunRefused(
                f"the {who} of run {run.run_id} (pid {beat.pid}) has given no sign of life for "
                f"{silence.seconds(who):.0f} s and cannot be ended: it belongs to another user, or "
                f"hangs in the kernel; end it, then `ctp-runbook resume --run {run.path}`"
            )
    return tuple(silence.heard)


def silent_sentence(run: RunDir, history: History, silence: Silence) -> str:
    """Of a run whose conductor or guardian gives no answer: since when, and what comes of it."""
    look = f"see `ctp-runbook status --run {run.path}`"
    if (beat := silence.heard.get("orchestrator")) is None:
        if (guardian := silence.heard.get("guardian")) is None:
            return ""
        then = "the orchestrator goes on, ends it and starts another"
        if silence.is_left:
            then = (
                "it is stopped, or held up in a call, and holds the environment still: `ctp-runbook "
                f"resume --run {run.path}` ends it"
            )
        seconds = silence.seconds("guardian")
        return f"no answer since {seconds:.0f} s from the guardian (pid {guardian.pid}): {then}"
    seconds = silence.seconds("orchestrator")
    if seconds > beat.allowed + _END_SECONDS:
        then = "its guardian cannot end it: see which disk or file system does not answer"
    else:
        then = (
            f"its guardian ends it after {beat.allowed:.0f} s and starts another, which goes on "
            f"or rolls back; {look}"
        )
    return (
        f"no answer since {seconds:.0f} s from the orchestrator (pid {beat.pid}): it is stopped, "
        f"or held up in a call; {then}"
    )


def _is_conducted(run: RunDir, history: History, world: World) -> bool:
    """True while somebody is at it, and not everybody who is has fallen silent."""
    if not _is_attended(history, world):
        return False
    return not _silence(run, history, _SILENT_SECONDS, world).is_left


def lost_sentence(
    run: RunDir, history: History, silence: Silence | None = None, *, world: World = HERE
) -> str:
    """Of a run that began and that nobody conducts: since when, what runs, the one command; of any
    other nothing. ``silence`` is what was just looked for."""
    if history.closed is not None or history.is_dry_run or not history.has_begun:
        return ""
    silence = silence or silence_of(run, history, world=world)
    if _is_attended(history, world) and not silence.is_left:
        return ""
    if read_whole(run, world=world).closed is not None:
        return ""  # it ended since it was read, and they with it
    last = history.records[-1]
    same_boot = last.boot_id == world.clock.boot_id()
    now, then = (
        (world.clock.mono(), last.mono)
        if same_boot
        else (world.clock.wall(), last.wall.timestamp())
    )
    since = f"{last.wall:%Y-%m-%d %H:%M:%S} UTC, {max(0.0, now - then):.0f} s ago"
    answers = "".join(
        f"no answer since {silence.seconds(who):.0f} s from its {who} (pid {beat.pid}), "
        for who, beat in silence.heard.items()
    )
    held_up = ends = ""
    if answers:
        held_up = f"{answers}stopped or held up in a call, and nobody replaces what is; "
        ends = " ends that and takes the run up"
    return (
        f"NOBODY CONDUCTS run {run.run_id} ({history.state.value}): {held_up}its last record is of "
        f"{since}, and nothing of it goes on by itself. {_what_runs(history, world)}. "
        f"Now: `ctp-runbook resume --run {run.path}`{ends}"
    )


def _what_runs(history: History, world: World) -> str:
    """What its processes tell, and whether anything trades; as far as they tell it."""
    if not is_touched(history):
        return "It had not begun to stop the old stack"
    members = history.members
    known = {
        f"{generation}_{role}": _word_of(history, generation, role, world)
        for generation in Generation
        for role in Role
        if f"{generation}_{role}" in members
    }
    seen = ", ".join(f"{name} {word}" for name, word in known.items())
    senders = {known[sender_of(generation, members)] for generation in Generation}
    trades = "whether anything trades is not known"
    if senders <= {_GONE, _NEVER}:
        trades = "NOTHING TRADES"
    elif any(word.startswith(_RUNS) for word in senders):
        trades = "orders may be sent, and nobody watches"
    return f"By the processes it pinned: {seen}; {trades}"


def _word_of(history: History, generation: Generation, role: Role, world: World) -> str:
    # Proofs are for who acts, or speaks of members that may run: no dry run has any.
    from ctp_runbook.run.proofs import lookalikes_of

    name = f"{generation}_{role}"
    pin = history.pins.get(name)
    if pin is not None and world.processes.is_running(pin.identity):
        return f"{_RUNS} (pid {pin.identity.pid})"
    alike = lookalikes_of(history, name, run_ids=[history.run_id], world=world)
    if alike:  # a supervisor may have brought it back
        return f"{_RUNS} again (pid {alike[0].pid})"
    # A start whose end nobody saw may have left its member running, pinned or not.
    starts = [history.step(step) for step in start_steps(generation, role)]
    if any(step.status is StepStatus.UNKNOWN for step in starts):
        return "not known, its start was begun"
    if pin is not None:
        return _GONE
    if generation is Generation.OLD:
        return "not known"
    if not any(step.attempt for step in starts):
        return _NEVER
    # It failed, and may have left somebody all the same, until that was proved gone.
    is_gone = history.step(f"stop_{name}").status is StepStatus.OK
    return _GONE if is_gone else "not known, its start failed"


def unwritten_sentence(run: RunDir, history: History, *, world: World = HERE) -> str:
    """What is not written of the evidence of a run that is over, and the remedy; else nothing."""
    if history.closed is None:
        return ""
    lacks = [f"its copy {path} is not there" for path in missing_copies(history)]
    if not world.files.exists(run.manifest):
        if _is_conducted(run, history, world):
            return ""  # it is being written
        lacks = [f"its evidence is not written; see {run.logs}"]
    elif is_left_unsealed(run):
        lacks.append("it is not sealed, for whoever executed its notebooks was ended before")
    if has_records_behind(run):
        lacks.append("its journal lacks its last records, for which there was no room")
    if not lacks:
        return ""
    return (
        f"run {run.run_id} is over ({history.closed.payload.outcome.value}), but {', '.join(lacks)}: "
        f"mend what is in the way, then `ctp-runbook resume --run {run.path}` writes it"
    )


def has_records_behind(run: RunDir) -> bool:
    """True where records are kept that the journal had no room for, and does not have since."""
    behind = behind_path(run)
    with contextlib.suppress(OSError):
        if (
            behind is not None and behind.exists()
        ):  # of hardly any run: else its journal is not read
            return bool(records_behind(behind, read_journal(run.journal).records))
    return False


def unstarted_sentence(run: RunDir) -> str:
    """What such a run is, and what starts or discards it."""
    return (
        f"run {run.run_id} was planned and never started, and nothing but its own start starts "
        f"it: 02_infra_gate with run_dir = {run.path} does, `ctp-runbook abort --run {run.path}` "
        "discards it"
    )


def left_sentence(run: RunDir, history: History) -> str:
    """What to say to whoever stops following a run: whether it goes on, how to come back, and how
    to end it, where it can be ended."""
    status = f"`ctp-runbook status --run {run.path}`"
    if history.outcome is not None:
        return f"left; run {run.run_id} is over ({history.outcome.value}); see {status}"
    ends = f", roll it back with `ctp-runbook rollback --run {run.path}`"
    if history.state is State.ROLLING_BACK or history.parent is not None:
        ends = ""  # to go back is all it does, and nothing ends that
    elif history.state.is_before_switch:
        ends = f", end it with `ctp-runbook abort --run {run.path}`"
    return f"left; run {run.run_id} goes on ({history.state.value}). Come back with {status}{ends}"


def waiting_sentence(run: RunDir, history: History) -> str:
    """What a run waits for a person to do, by which command; nothing where it waits for nobody."""
    if history.state is State.HOLDING:
        return (
            f"Decide: `ctp-runbook resume --run {run.path}` goes on watching, `ctp-runbook rollback "
            f"--run {run.path}` rolls back"
        )
    if history.state is not State.READY or history.is_dry_run:
        return ""
    ends = f"`ctp-runbook abort --run {run.path}` ends the run untouched"
    if history.held is not None:
        by = history.held.payload.by
        return f"Held by {by}: `ctp-runbook resume --run {run.path}` lets it go on, {ends}"
    if history.go is None:
        return f"Waits for a go: 04_switch with run_dir = {run.path} gives it, {ends}"
    return ""


def read_whole(run: RunDir, *, world: World = HERE) -> History:
    """The history; a record caught in the middle of its write is read a moment later, and a journal
    that somebody removed as soon as whoever conducts the run has put it back. Raises RunLost where
    that does not come."""
    try:
        return _read_untorn(run, world)
    except RunRefused:
        from ctp_runbook.record.charge import await_its_folder

        await_its_folder([run.path])
        return _read_untorn(run, world)


def _read_untorn(run: RunDir, world: World) -> History:
    for _ in range(_TORN_TRIES):
        try:
            return read_history(run)
        except JournalError:
            world.clock.sleep(_TORN_SECONDS)
    return read_history(run)
