"""The vocabulary: what runs, what is done to it, and how it may end. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple

__all__ = [
    "Generation",
    "Identity",
    "Member",
    "Outcome",
    "Phase",
    "Role",
    "State",
    "Step",
    "StepKind",
    "StepStatus",
    "Verdict",
    "lag_fault",
    "worst",
]

# So far the clocks of two hosts that NTP keeps may differ; a CTP tick is stamped to half a second.
_CLOCKS_DIFFER_SECONDS = 1.0


class Verdict(IntEnum):
    """What a judgement can be, in order: the worst wins."""

    PASSED = 0
    INCONCLUSIVE = 1
    ERROR = 2
    FAILED = 3


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of ``verdicts``; INCONCLUSIVE where there are none, for nothing was proved."""
    return max(verdicts, default=Verdict.INCONCLUSIVE)


def lag_fault(lag: float, unit: str = "s") -> str:
    """Return why a lag is none, "" where it is one.

    One below zero by no more than the clocks may differ is none to speak of. Beyond that the record
    is from the future, and how far behind anybody is, nobody knows: zero would be made up. One that
    is no time (a count, say) has no clock.
    """
    if math.isnan(lag):
        return "a lag that is no number"
    if unit not in ("ms", "s"):
        return f"a lag of {lag:g} {unit} is none" if lag < 0 else ""
    seconds = lag / 1000 if unit == "ms" else lag
    if seconds >= -_CLOCKS_DIFFER_SECONDS:
        return ""
    return (
        f"a record from the future, {-seconds:.3f} s ahead (clocks may differ by "
        f"{_CLOCKS_DIFFER_SECONDS:g} s): the clock of another host, or the trading day's date; set "
        "the clocks, or compare with the time of the event"
    )


class Generation(StrEnum):
    """An engine and what runs beside it: all that can send orders switches together."""

    OLD = "old"
    NEW = "new"


class Role(StrEnum):
    """A part of a generation. Every one but the engine may be missing (OLD_STRATEGY_RUNNER=none)."""

    CORE_ENGINE = "core_engine"
    STRATEGY_RUNNER = "strategy_runner"


class Phase(StrEnum):
    """Where in the runbook a step stands."""

    GATE = "gate"
    SWITCH = "switch"
    ROLLBACK = "rollback"


class StepKind(StrEnum):
    """What a step does to the world, which decides how its effect is proved."""

    GATE = "gate"
    STOP = "stop"
    START = "start"
    CHECK = "check"
    RESTORE = "restore"


class StepStatus(StrEnum):
    """How a step ended. ``unknown``: started, and nobody saw it end."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"
    NOT_RUN = "not_run"
    UNKNOWN = "unknown"
    SIMULATED_OK = "simulated_ok"


class State(StrEnum):
    """The states of a run that is not over; an over one has an Outcome instead."""

    PLANNED = "PLANNED"
    GATING = "GATING"
    READY = "READY"
    SWITCHING = "SWITCHING"
    WATCHING = "WATCHING"
    HOLDING = "HOLDING"
    ROLLING_BACK = "ROLLING_BACK"
    CLOSED = "CLOSED"

    @property
    def is_before_switch(self) -> bool:
        """True while the old stack has not been touched."""
        return self in (State.PLANNED, State.GATING, State.READY)


class Outcome(Enum):
    """How a run may end, each with its exit code (CONTRACT §5)."""

    COMPLETED = "COMPLETED"
    DRY_RUN_OK = "DRY_RUN_OK"
    REFUSED = "REFUSED"
    ABORTED_BEFORE_SWITCH = "ABORTED_BEFORE_SWITCH"
    ROLLED_BACK_IN_BUDGET = "ROLLED_BACK_IN_BUDGET"
    ROLLED_BACK_LATE = "ROLLED_BACK_LATE"
    ROLLED_BACK_UNVALIDATED = "ROLLED_BACK_UNVALIDATED"
    ROLLBACK_FAILED = "ROLLBACK_FAILED"

    @property
    def exit_code(self) -> int:
        """The exit code a command ends with when its run ends so."""
        return _EXIT_CODES[self.value]


_EXIT_CODES = {
    "COMPLETED": 0,
    "DRY_RUN_OK": 0,
    "REFUSED": 2,
    "ABORTED_BEFORE_SWITCH": 3,
    "ROLLED_BACK_IN_BUDGET": 4,
    "ROLLED_BACK_LATE": 5,
    "ROLLED_BACK_UNVALIDATED": 5,
    "ROLLBACK_FAILED": 6,
}


class Identity(NamedTuple):
    """A process that cannot be mistaken for another that got its pid later.

    ``start_ticks`` is field 22 of /proc/PID/stat (clock ticks after boot).
    """

    pid: int
    start_ticks: int
    boot_id: str = ""

    def __str__(self) -> str:
        return f"pid {self.pid} (started at tick {self.start_ticks})"


class Member(NamedTuple):
    """One part of one generation, and how to tell whether it lives (CONTRACT §1).

    Blank fields were not given; a real run refuses a member without ``alive_command``
    or without both ``pid_file`` and ``unit``.
    """

    generation: Generation
    role: Role
    alive_command: str = ""
    pid_file: str = ""
    unit: str = ""
    metrics_url: str = ""

    @property
    def name(self) -> str:
        """``old_core_engine`` and the like."""
        return f"{self.generation}_{self.role}"


class Step(NamedTuple):
    """One command of the runbook: what it is, how long it may take, how it is undone.

    ``key`` is the template key the command came from; ``acts_on`` the member it starts or
    stops; ``effect`` the proof that it worked, in words; ``undo`` the rollback steps that
    take it back, empty for a step that changes nothing of the old stack. ``skipped`` is why the
    plan itself leaves the step out, blank where it does not; its command is the line that says so.
    """

    name: str
    phase: Phase
    kind: StepKind
    key: str
    command: str
    timeout_seconds: float
    effect: str
    undo: tuple[str, ...] = ()
    acts_on: tuple[Generation, Role] | None = None
    skipped: str = ""
