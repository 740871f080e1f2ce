"""What a journal says, folded: the state of a run is read from here and set nowhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Identity, Outcome, State, StepStatus
from ctp_runbook.record.journal import Record

if TYPE_CHECKING:
    from ctp_runbook.host.pin import Pin

__all__ = ["WITH_START", "History", "StepHistory", "Transition"]

# What stands for the file's name in the record of a request that came with the start itself.
WITH_START = "with the start"


@dataclass(frozen=True)
class Transition:
    """The run entered ``state`` for ``reason``."""

    state: State
    reason: str
    wall_utc: str
    mono_ns: int


@dataclass(frozen=True)
class StepHistory:
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


@dataclass(frozen=True)
class History:
    """A run as its journal tells it."""

    records: tuple[Record, ...]
    created: Mapping[str, Any] = field(default_factory=dict)
    state: State = State.PLANNED
    steps: Mapping[str, StepHistory] = field(default_factory=dict)
    transitions: tuple[Transition, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)
    parent: Record | None = None
    conducted: Record | None = None
    go: Record | None = None
    held: Record | None = None
    stop_asked: Record | None = None
    baseline_ended: Record | None = None
    watch_started: Record | None = None
    watch_ended: Record | None = None
    judgement: Record | None = None
    trigger: Record | None = None
    rollback_started: Record | None = None
    closed: Record | None = None
    restarts: int = 0

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Fold ``records``, first to last."""
        return cls(records=()).then(tuple(records))

    def then(self, records: tuple[Record, ...]) -> History:
        """This history with more ``records`` after it."""
        history = replace(self, records=(*self.records, *records))
        for record in records:
            history = _FOLDS.get(record.kind, _unchanged)(history, record)
        return history

    @property
    def run_id(self) -> str:
        """The run's id, empty for an empty journal."""
        return str(self.created.get("run_id", ""))

    @property
    def is_dry_run(self) -> bool:
        """True unless the run was created to act: what is not False itself counts as dry."""
        return self.created.get("dry_run") is not False

    @property
    def plan(self) -> Mapping[str, Any]:
        """The redacted plan the run was created with."""
        plan: Mapping[str, Any] = self.created.get("plan", {})
        return plan

    @property
    def identities(self) -> Mapping[str, Identity]:
        """Each member's process, as it was pinned last."""
        return {member: pin.identity for member, pin in self.pins.items()}

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        return Outcome(self.closed.payload["outcome"]) if self.closed else None

    @property
    def has_begun(self) -> bool:
        """True once an orchestrator, or for a dry run its simulation, took the run up."""
        tried = any(step.attempt for step in self.steps.values())
        return bool(self.conducted or self.transitions or tried)

    @property
    def unfinished(self) -> tuple[StepHistory, ...]:
        """Steps that were started and that nobody saw end."""
        return tuple(s for s in self.steps.values() if s.status is StepStatus.UNKNOWN)

    def entered(self, state: State) -> Transition | None:
        """The last time the run entered ``state``."""
        found = [t for t in self.transitions if t.state is state]
        return found[-1] if found else None

    def step(self, name: str) -> StepHistory:
        """The step's last attempt, NOT_RUN when the journal does not name it."""
        return self.steps.get(name, StepHistory(name, "", StepStatus.NOT_RUN))


def _unchanged(history: History, record: Record) -> History:
    return history


def _created(history: History, record: Record) -> History:
    return replace(history, created=record.payload)


def _state(history: History, record: Record) -> History:
    state = State(record.payload["to"])
    entry = Transition(state, record.payload["reason"], record.wall_utc, record.mono_ns)
    return replace(history, state=state, transitions=(*history.transitions, entry))


def _step_started(history: History, record: Record) -> History:
    given = record.payload
    step = StepHistory(
        name=given["step"],
        phase=given["phase"],
        status=StepStatus.UNKNOWN,
        command=given["command"],
        attempt=given["attempt"],
        pid=given["pid"],
        start_ticks=given["start_ticks"],
        started_utc=record.wall_utc,
        started_mono_ns=record.mono_ns,
        due_mono_ns=given.get("due_mono_ns", 0),
        reason="started; its end was not seen",
    )
    return _with_step(history, step)


def _step_ended(history: History, record: Record) -> History:
    given = record.payload
    step = replace(
        history.step(given["step"]),
        status=StepStatus(given["status"]),
        exit_code=given["exit_code"],
        duration_ms=given["duration_ms"],
        output_sha256=given["output_sha256"],
        output=given["output"],
        reason=given["reason"],
        ended_utc=record.wall_utc,
    )
    return _with_step(history, step)


def _step_not_done(history: History, record: Record) -> History:
    given = record.payload
    step = StepHistory(
        name=given["step"],
        phase=given["phase"],
        status=StepStatus(given["status"]),
        command=given.get("command", ""),
        reason=given["reason"],
        started_utc=record.wall_utc,
        ended_utc=record.wall_utc,
    )
    return _with_step(history, step)


def _with_step(history: History, step: StepHistory) -> History:
    return replace(history, steps={**history.steps, step.name: step})


def _identity(history: History, record: Record) -> History:
    from ctp_runbook.host.pin import Pin

    pin = Pin.of(record.payload, boot_id=record.boot_id)
    return replace(history, pins={**history.pins, record.payload["member"]: pin})


def _control(history: History, record: Record) -> History:
    """``held``: a hold that nobody has ended by resume; ``stop_asked``: the last wish to stop.

    A go counts for the start it was given to, which it names by the record of that start; those of
    earlier versions name none.
    """
    request = record.payload["request"]
    if request == "go":
        seq = history.conducted.seq if history.conducted else None
        return replace(history, go=record) if record.payload.get("start", seq) == seq else history
    if request in ("hold", "resume"):
        return replace(history, held=record if request == "hold" else None)
    return replace(history, stop_asked=record)


def _orchestrator_started(history: History, record: Record) -> History:
    restarts = history.restarts + bool(record.payload["resumed"])
    go = history.go
    # A go that a person gave was given to the start they saw. One that is taken up again looks at
    # everything anew, and so does the person; what a run was started with stays with it.
    if go and history.state.is_before_switch and go.payload.get("file") != WITH_START:
        go = None
    return replace(history, conducted=record, restarts=restarts, go=go)


def _trigger(history: History, record: Record) -> History:
    # The first trigger is the one that is acted on; later ones are more of the same.
    return history if history.trigger else replace(history, trigger=record)


def _closed(history: History, record: Record) -> History:
    return replace(history, closed=record, state=State.CLOSED)


_FOLDS = {
    "run_created": _created,
    "state": _state,
    "step_started": _step_started,
    "step_ended": _step_ended,
    "step_not_done": _step_not_done,
    "parent": lambda h, r: replace(h, parent=r),
    "identity": _identity,
    "control": _control,
    "orchestrator_started": _orchestrator_started,
    "baseline_ended": lambda h, r: replace(h, baseline_ended=r),
    "watch_started": lambda h, r: replace(h, watch_started=h.watch_started or r),
    "watch_ended": lambda h, r: replace(h, watch_ended=r),
    "judgement": lambda h, r: replace(h, judgement=r),
    "trigger": _trigger,
    "rollback_started": lambda h, r: replace(h, rollback_started=h.rollback_started or r),
    "closed": _closed,
}
