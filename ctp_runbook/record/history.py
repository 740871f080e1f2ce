"""What a journal says, folded: the state of a run is read from here and set nowhere. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, structs

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Identity, Outcome, State, StepStatus
from ctp_runbook.plan.step_table import members_left
from ctp_runbook.record import kinds
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import Payload

if TYPE_CHECKING:
    from ctp_runbook.host.pin import Pin

__all__ = ["WITH_START", "History", "StepHistory", "Transition", "pin_of", "pinned"]

_P = TypeVar("_P", bound=Payload)

# What stands for the file's name in the record of a request that came with the start itself.
WITH_START = "with the start"


class Transition(Struct, frozen=True):
    """The run entered ``state`` for ``reason``."""

    state: State
    reason: str
    wall_utc: str
    mono_ns: int


class StepHistory(Struct, frozen=True):
    """The last attempt at one step. Started without an end is UNKNOWN."""

    name: str
    phase: str
    status: StepStatus
    command: str = ""
    exit_code: int | None = None
    duration_ms: float = 0.0
    output_sha256: str = ""
    output: str = ""
    reason: str = ""
    attempt: int = 0
    pid: int = 0
    start_ticks: int = 0
    started_utc: str = ""
    started_mono_ns: int = 0
    due_mono_ns: int = 0
    ended_utc: str = ""


class History(Struct, frozen=True):
    """A run as its journal tells it."""

    records: tuple[Record, ...]
    header: kinds.RunCreated | None = None
    state: State = State.PLANNED
    steps: Mapping[str, StepHistory] = {}
    transitions: tuple[Transition, ...] = ()
    pins: Mapping[str, Pin] = {}
    parent: Record[kinds.ParentAdopted] | None = None
    conducted: Record[kinds.OrchestratorStarted] | None = None
    go: Record[kinds.RequestTaken] | None = None
    held: Record[kinds.RequestTaken] | None = None
    stop_asked: Record[kinds.RequestTaken] | None = None
    baseline_ended: Record[kinds.BaselineEnded] | None = None
    watch_started: Record[kinds.WatchStarted] | None = None
    watch_ended: Record[kinds.WatchEnded] | None = None
    judgement: Record[kinds.Judged] | None = None
    trigger: Record[kinds.Triggered] | None = None
    rollback_started: Record[kinds.RollbackStarted] | None = None
    closed: Record[kinds.Closed] | None = None
    restarts: int = 0

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Fold ``records``, first to last."""
        return cls(records=()).then(tuple(records))

    def then(self, records: tuple[Record, ...]) -> History:
        """This history with more ``records`` after it."""
        history = structs.replace(self, records=(*self.records, *records))
        for record in records:
            fold = _FOLDS.get(type(record.payload))
            history = fold(history, record) if fold else history
        return history

    def of_kind(self, kind: type[_P]) -> Iterator[Record[_P]]:
        """The records of one kind, in order."""
        return (record for record in self.records if isinstance(record.payload, kind))  # type: ignore[misc]

    @property
    def created(self) -> kinds.RunCreated:
        """What the run was created as. Raises JournalError for a journal without a first record."""
        if self.header is None:
            raise JournalError("the journal has no first record: no run was created here")
        return self.header

    @property
    def run_id(self) -> str:
        """The run's id, empty for an empty journal."""
        return self.header.run_id if self.header else ""

    @property
    def is_dry_run(self) -> bool:
        """True unless the run was created to act."""
        return self.header is None or self.header.dry_run

    @property
    def plan(self) -> kinds.PlanFacts:
        """The redacted plan the run was created with."""
        return self.created.plan

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that the run's plan has."""
        return self.header.plan.members if self.header else members_left(())

    @property
    def identities(self) -> Mapping[str, Identity]:
        """Each member's process, as it was pinned last."""
        return {member: pin.identity for member, pin in self.pins.items()}

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        return self.closed.payload.outcome if self.closed else None

    @property
    def has_begun(self) -> bool:
        """True once an orchestrator, or for a dry run its simulation, took the run up."""
        tried = any(step.attempt for step in self.steps.values())
        return bool(self.conducted or self.transitions or tried)

    @property
    def would_refuse(self) -> tuple[str, ...]:
        """Why --execute would have refused what this dry run was made of; empty for a real run."""
        if self.header is None or not self.is_dry_run:
            return ()
        said = (record.payload for record in self.of_kind(kinds.Finding))
        return tuple(finding.sentence for finding in said if finding.severity == "critical")

    @property
    def wants_rollback(self) -> bool:
        """True for a drill and for a run that undoes another: rolled back in budget, it did its work."""
        created = self.created
        return created.force_rollback or bool(created.parent_run or self.parent)

    @property
    def unfinished(self) -> tuple[StepHistory, ...]:
        """Steps that were started and that nobody saw end."""
        return tuple(s for s in self.steps.values() if s.status is StepStatus.UNKNOWN)

    def entered(self, state: State) -> Transition | None:
        """The last time the run entered ``state``."""
        entries = [t for t in self.transitions if t.state is state]
        return entries[-1] if entries else None

    def step(self, name: str) -> StepHistory:
        """The step's last attempt, NOT_RUN when the journal does not name it."""
        return self.steps.get(name, StepHistory(name, "", StepStatus.NOT_RUN))


def pinned(member: str, unit: str, pin: Pin) -> kinds.MemberPinned:
    """A pin as the journal keeps it."""
    return kinds.MemberPinned(
        member=member,
        unit=unit,
        pid=pin.identity.pid,
        start_ticks=pin.identity.start_ticks,
        executable=pin.executable,
        command_sha256=pin.command_sha256,
        tree=tuple((child.pid, child.start_ticks) for child in pin.tree),
        bystanders=tuple((other.pid, other.start_ticks) for other in pin.bystanders),
        kin=pin.kin,
    )


def pin_of(record: Record[kinds.MemberPinned]) -> Pin:
    """The pin that a record keeps, in the boot it was written in."""
    from ctp_runbook.host.pin import Pin

    kept, boot = record.payload, record.boot_id
    return Pin(
        Identity(kept.pid, kept.start_ticks, boot),
        executable=kept.executable,
        command_sha256=kept.command_sha256,
        tree=tuple(Identity(pid, ticks, boot) for pid, ticks in kept.tree),
        bystanders=tuple(Identity(pid, ticks, boot) for pid, ticks in kept.bystanders),
        kin=kept.kin,
    )


def _created(history: History, record: Record[kinds.RunCreated]) -> History:
    return structs.replace(history, header=record.payload)


def _state(history: History, record: Record[kinds.StateEntered]) -> History:
    state = record.payload.to
    entry = Transition(state, record.payload.reason, record.wall_utc, record.mono_ns)
    return structs.replace(history, state=state, transitions=(*history.transitions, entry))


def _step_started(history: History, record: Record[kinds.StepStarted]) -> History:
    started = record.payload
    step = StepHistory(
        name=started.step,
        phase=started.phase,
        status=StepStatus.UNKNOWN,
        command=started.command,
        attempt=started.attempt,
        pid=started.pid,
        start_ticks=started.start_ticks,
        started_utc=record.wall_utc,
        started_mono_ns=record.mono_ns,
        due_mono_ns=started.due_mono_ns,
        reason="started; its end was not seen",
    )
    return _with_step(history, step)


def _step_ended(history: History, record: Record[kinds.StepEnded]) -> History:
    ended = record.payload
    step = structs.replace(
        history.step(ended.step),
        status=ended.status,
        exit_code=ended.exit_code,
        duration_ms=ended.duration_ms,
        output_sha256=ended.output_sha256,
        output=ended.output,
        reason=ended.reason,
        ended_utc=record.wall_utc,
    )
    return _with_step(history, step)


def _step_not_done(history: History, record: Record[kinds.StepNotDone]) -> History:
    left_out = record.payload
    step = StepHistory(
        name=left_out.step,
        phase=left_out.phase,
        status=left_out.status,
        command=left_out.command,
        duration_ms=left_out.duration_ms,
        reason=left_out.reason,
        started_utc=record.wall_utc,
        ended_utc=record.wall_utc,
    )
    return _with_step(history, step)


def _with_step(history: History, step: StepHistory) -> History:
    return structs.replace(history, steps={**history.steps, step.name: step})


def _identity(history: History, record: Record[kinds.MemberPinned]) -> History:
    pins = {**history.pins, record.payload.member: pin_of(record)}
    return structs.replace(history, pins=pins)


def _control(history: History, record: Record[kinds.RequestTaken]) -> History:
    """``held``: a hold that nobody has ended by resume; ``stop_asked``: the last wish to stop.

    A go counts for the start it was given to, which it names by the record of that start.
    """
    request = record.payload.request
    if request == "go":
        seq = history.conducted.seq if history.conducted else None
        return structs.replace(history, go=record) if record.payload.start == seq else history
    if request in ("hold", "resume"):
        return structs.replace(history, held=record if request == "hold" else None)
    return structs.replace(history, stop_asked=record)


def _orchestrator_started(history: History, record: Record[kinds.OrchestratorStarted]) -> History:
    restarts = history.restarts + record.payload.resumed
    go = history.go
    # A go that a person gave was given to the start they saw. One that is taken up again looks at
    # everything anew, and so does the person; what a run was started with stays with it.
    if go and history.state.is_before_switch and go.payload.file != WITH_START:
        go = None
    return structs.replace(history, conducted=record, restarts=restarts, go=go)


def _closed(history: History, record: Record[kinds.Closed]) -> History:
    return structs.replace(history, closed=record, state=State.CLOSED)


def _kept(name: str, *, first: bool = False) -> Callable[[History, Any], History]:
    """A fold that keeps the last record of its kind under ``name``, or the first."""

    def fold(history: History, record: Record[Any]) -> History:
        is_known = first and getattr(history, name) is not None
        return history if is_known else structs.replace(history, **{name: record})

    return fold


_FOLDS: Mapping[type[Payload], Callable[[History, Any], History]] = {
    kinds.RunCreated: _created,
    kinds.StateEntered: _state,
    kinds.StepStarted: _step_started,
    kinds.StepEnded: _step_ended,
    kinds.StepNotDone: _step_not_done,
    kinds.ParentAdopted: _kept("parent"),
    kinds.MemberPinned: _identity,
    kinds.RequestTaken: _control,
    kinds.OrchestratorStarted: _orchestrator_started,
    kinds.BaselineEnded: _kept("baseline_ended"),
    kinds.WatchStarted: _kept("watch_started", first=True),
    kinds.WatchEnded: _kept("watch_ended"),
    kinds.Judged: _kept("judgement"),
    # The first trigger is the one that is acted on; later ones are more of the same.
    kinds.Triggered: _kept("trigger", first=True),
    kinds.RollbackStarted: _kept("rollback_started", first=True),
    kinds.Closed: _closed,
}
