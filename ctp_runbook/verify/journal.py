"""Is this journal one that a run can have written? Order, clocks, acts and states, from it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ctp_runbook.model import Generation, Outcome, Phase, Role, State, StepKind
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.record.journal import Record
from ctp_runbook.verify.clocks import ClockShifts

__all__ = [
    "CLOCK_SLACK_SECONDS",
    "clock_findings",
    "plan_findings",
    "sequence_findings",
]

# Wall and monotonic clock of one boot may drift apart this far (NTP slews 0.5 ms a second).
CLOCK_SLACK_SECONDS = 2.0
_CLOCK_SLEW = 0.001

_NEXT = {
    State.PLANNED: {State.PLANNED, State.GATING},
    State.GATING: {State.READY},
    State.READY: {State.SWITCHING},
    State.SWITCHING: {State.WATCHING, State.ROLLING_BACK},
    State.WATCHING: {State.HOLDING, State.ROLLING_BACK},
    State.HOLDING: {State.WATCHING, State.ROLLING_BACK},
    State.ROLLING_BACK: set[State](),
    State.CLOSED: set[State](),
}
_ENDS = {
    Outcome.COMPLETED: {State.WATCHING, State.HOLDING},
    Outcome.DRY_RUN_OK: set(State),
    Outcome.REFUSED: {State.PLANNED, State.GATING, State.READY},
    Outcome.ABORTED_BEFORE_SWITCH: {State.PLANNED, State.GATING, State.READY},
    Outcome.ROLLED_BACK_IN_BUDGET: {State.ROLLING_BACK},
    Outcome.ROLLED_BACK_LATE: {State.ROLLING_BACK},
    Outcome.ROLLED_BACK_UNVALIDATED: {State.ROLLING_BACK},
    Outcome.ROLLBACK_FAILED: {State.ROLLING_BACK},
}
_STEP_STATES = {
    Phase.GATE: {State.GATING, State.READY},
    Phase.SWITCH: {State.SWITCHING},
    Phase.ROLLBACK: {State.ROLLING_BACK},
}
_PHASES = {spec.name: spec.phase for spec in STEP_TABLE}
_ORDER = {spec.name: number for number, spec in enumerate(STEP_TABLE)}
# Nothing of one generation starts until both parts of the other are proved gone.
_GONE_BEFORE = {
    spec.name: tuple(f"{generation}_{role}" for role in Role)
    for spec in STEP_TABLE
    for generation in Generation
    if spec.kind is StepKind.START and spec.acts_on and generation is not spec.acts_on[0]
}


def plan_findings(records: Sequence[Record]) -> Iterator[str]:
    """The plan in the header must hold the runbook's steps, all of them and in its order."""
    created = records[0].payload
    plan = created["plan"]
    if plan["environment"] != created["environment"]:
        yield f"the plan is for {plan['environment']}; the run is of {created['environment']}"
    given = [(step["name"], step["phase"], step["kind"]) for step in plan["steps"]]
    wanted = [(spec.name, spec.phase.value, spec.kind.value) for spec in STEP_TABLE]
    for found, due in zip(given, wanted, strict=False):
        if found != due:
            yield f"run.json plan.steps: {found} stands where {due} is due"
    if len(given) != len(wanted):
        yield f"run.json plan.steps: {len(given)} steps; the runbook has {len(wanted)}"
    yield from _command_findings(records)


def _command_findings(records: Sequence[Record]) -> Iterator[str]:
    """What was run is what was planned."""
    planned = {step["name"]: step for step in records[0].payload["plan"]["steps"]}
    for record in records:
        if record.kind not in ("step_started", "step_not_done"):
            continue
        step = planned.get(record.payload["step"], {})
        for key in ("command", "timeout_seconds"):
            if key in record.payload and record.payload[key] != step.get(key):
                yield (
                    f"journal record {record.seq}: {record.payload['step']} has the {key} "
                    f"{str(record.payload[key])[:80]!r}; the plan has {str(step.get(key))[:80]!r}"
                )


def clock_findings(records: Sequence[Record]) -> Iterator[str]:
    """Within a boot the monotonic clock never goes back and the wall clock keeps up with it."""
    first: dict[str, Record] = {}
    shifts, shifted = ClockShifts(records), 0.0
    for before, record in zip((None, *records), records, strict=False):
        origin = first.setdefault(record.boot_id, record)
        where = f"journal record {record.seq}"
        if before is None:
            continue
        mono = (record.mono_ns - origin.mono_ns) / 1e9
        apart = (record.wall - origin.wall).total_seconds() - mono
        was, shifted = (
            shifted,
            shifts.shift_of(boot_id=record.boot_id, mono=record.mono_ns / 1e9, apart=apart),
        )
        back = (before.wall - record.wall).total_seconds()
        if before.boot_id == record.boot_id:
            back += shifted - was
        if back > CLOCK_SLACK_SECONDS:
            yield f"{where}: its wall clock is {back:.1f} s before that of the record before it"
        if before.boot_id == record.boot_id and record.mono_ns < before.mono_ns:
            yield f"{where}: its monotonic clock went back within one boot"
        if before.boot_id != record.boot_id:
            yield from _reboot_findings(before, record, is_new=origin is record, where=where)
        apart = abs(apart - shifted)
        if apart > CLOCK_SLACK_SECONDS + _CLOCK_SLEW * abs(mono):
            yield (
                f"{where}: wall and monotonic clock are {apart:.1f} s apart since record "
                f"{origin.seq}; {CLOCK_SLACK_SECONDS} s are allowed"
            )


def _reboot_findings(before: Record, record: Record, *, is_new: bool, where: str) -> Iterator[str]:
    """A boot does not come back, and a new one began after the record before it."""
    gap = (record.wall - before.wall).total_seconds()
    if not is_new:
        yield f"{where}: boot {record.boot_id[:8]} comes back after another one"
    elif record.mono_ns / 1e9 > gap + CLOCK_SLACK_SECONDS:
        yield (
            f"{where}: another boot id {gap:.1f} s after the record before it, and yet this boot "
            f"is {record.mono_ns / 1e9:.0f} s old"
        )


def sequence_findings(records: Sequence[Record]) -> Iterator[str]:
    """Every act with its record before and after, in a state that allows it; closed last."""
    kinds = [record.kind for record in records]
    if kinds[0] != "run_created" or kinds.count("run_created") != 1:
        yield "the journal must begin with run_created, and hold it once"
    if kinds[-1] != "closed":
        yield f"the journal ends with {kinds[-1]}, not with closed: the run is not over"
    if kinds.count("closed") > 1:
        yield f"the journal was closed {kinds.count('closed')} times"
    header = records[0].payload
    walk = _Walk(
        dry_run=bool(header.get("dry_run", True)), has_parent=bool(header.get("parent_run"))
    )
    for record in records:
        for finding in walk.take(record):
            yield f"journal record {record.seq} ({record.kind}): {finding}"


@dataclass
class _Walk:
    """Where a reader stands in the journal."""

    dry_run: bool
    has_parent: bool = False
    state: State = State.PLANNED
    open_step: Record | None = None
    resumed: bool = False
    has_go: bool = False
    start: int | None = None
    rolling: bool = False
    watching: Record | None = None
    started: dict[str, int] = field(default_factory=dict)
    gone: dict[str, bool] = field(default_factory=dict)
    last_order: int = -1

    def take(self, record: Record) -> Iterator[str]:
        """What is wrong with ``record`` here; then stand behind it."""
        check = _WALK.get(record.kind)
        if check is not None:
            yield from check(self, record)

    def orchestrator_started(self, record: Record) -> Iterator[str]:
        self.resumed = self.resumed or record.payload["resumed"]
        self.start = record.seq
        if record.payload["resumed"]:
            # What was open when the writer before died stays UNKNOWN.
            self.open_step = None
        elif self.started:
            yield "a fresh start of the orchestrator after steps were started"

    def control(self, record: Record) -> Iterator[str]:
        if record.payload["request"] == "go":
            # Given to another start of the run it counts for nothing.
            self.has_go = self.has_go or record.payload.get("start", self.start) == self.start
        yield from ()

    def transition(self, record: Record) -> Iterator[str]:
        to = State(record.payload["to"])
        follows = to in _NEXT[self.state]
        if self.has_parent:  # it undoes what another run switched, and does nothing else
            follows = (self.state, to) == (State.PLANNED, State.ROLLING_BACK)
        if not follows and not self._taken_up(to):
            yield f"no run goes from {self.state} to {to}"
        if to is State.SWITCHING and not self.has_go and not self.dry_run:
            yield "the switch began without a recorded go"
        self.state = to

    def step_started(self, record: Record) -> Iterator[str]:
        given = record.payload
        name = given["step"]
        if self.dry_run:
            yield f"a dry run started {name}"
        if self.open_step is not None:
            yield f"{name} started while {self.open_step.payload['step']} had no end"
        if given["attempt"] != self.started.get(name, 0) + 1:
            yield f"{name}: attempt {given['attempt']} follows {self.started.get(name, 0)}"
        if given["due_mono_ns"] > record.mono_ns + given.get("timeout_seconds", 0.0) * 1e9:
            yield f"{name} is due later than its timeout of {given.get('timeout_seconds')} s allows"
        yield from self._in_place(name, given["phase"])
        yield from self._alone(name)
        self.open_step = record
        self.started[name] = given["attempt"]

    def step_ended(self, record: Record) -> Iterator[str]:
        given, begun = record.payload, self.open_step
        self.open_step = None
        if begun is None or begun.payload["step"] != given["step"]:
            yield f"the end of {given['step']} without its start before it"
            return
        code, status = given["exit_code"], given["status"]
        if status == "ok" and code != 0:
            yield f"{given['step']} is ok with exit code {code}"
        if status == "timed_out" and code is not None:
            yield f"{given['step']} timed out, and yet has exit code {code}"
        if status == "failed" and code == 0 and not given["reason"]:
            yield f"{given['step']} failed with exit code 0 and no reason"
        if given["phase"] != begun.payload["phase"]:
            yield f"{given['step']} began in phase {begun.payload['phase']}"
        took = (record.mono_ns - begun.mono_ns) / 1e6
        if begun.boot_id == record.boot_id and not -2000 <= took - given["duration_ms"] <= 5000:
            yield (
                f"{given['step']} says it took {given['duration_ms']:.0f} ms; its records are "
                f"{took:.0f} ms apart"
            )

    def step_not_done(self, record: Record) -> Iterator[str]:
        given = record.payload
        if (given["status"] == "simulated_ok") and not self.dry_run:
            yield f"{given['step']} was simulated in a run that is no dry run"
        if given["step"] not in _PHASES:
            yield f"{given['step']} is no step of the runbook"
        if self.open_step is not None and self.open_step.payload["step"] == given["step"]:
            self.open_step = None

    def probe(self, record: Record) -> Iterator[str]:
        given = record.payload
        if given["question"] == "gone":
            self.gone[given["subject"]] = given["ok"]
        elif given["question"] == "alive" and given["ok"]:
            self.gone[given["subject"]] = False
        yield from ()

    def watch_started(self, record: Record) -> Iterator[str]:
        if self.state not in (State.WATCHING, State.SWITCHING) and not self.dry_run:
            yield f"a watch window began in {self.state}"
        self.watching = self.watching or record

    def watch_ended(self, record: Record) -> Iterator[str]:
        if self.watching is None:
            yield "a watch window ended that never began"

    def rollback_started(self, record: Record) -> Iterator[str]:
        if self.rolling:
            yield "a second rollback began"
        self.rolling = True
        if self.state.is_before_switch and not (self.dry_run or self.has_parent):
            yield f"a rollback began in {self.state}, before anything was switched"

    def closed(self, record: Record) -> Iterator[str]:
        given = record.payload
        outcome = Outcome(given["outcome"])
        if given["exit_code"] != outcome.exit_code:
            yield f"exit code {given['exit_code']}; {outcome.value} has {outcome.exit_code}"
        if self.state not in _ENDS[outcome]:
            yield f"no run ends {outcome.value} out of {self.state}"
        if self.open_step is not None:
            yield f"{self.open_step.payload['step']} was started and has no end"
        if (outcome is Outcome.DRY_RUN_OK) and not self.dry_run:
            yield "a real run ended DRY_RUN_OK"

    def _taken_up(self, to: State) -> bool:
        """True for a step back that a resumed run makes: the gates again, nothing switched yet."""
        untouched = not any(_PHASES.get(name) is Phase.SWITCH for name in self.started)
        return self.resumed and (to is self.state or (to is State.GATING and untouched))

    def _in_place(self, name: str, phase: str) -> Iterator[str]:
        """The step is known, its phase fits the state, and its turn has come."""
        if name not in _PHASES or _PHASES[name].value != phase:
            yield f"{name} is no {phase} step of the runbook"
            return
        if self.state not in _STEP_STATES[_PHASES[name]]:
            yield f"{name} ({phase}) was started in {self.state}"
        if _ORDER[name] < self.last_order and not (self.resumed or self.state is State.READY):
            yield f"{name} was started out of the runbook's order"
        self.last_order = _ORDER[name]

    def _alone(self, name: str) -> Iterator[str]:
        """The other generation is proved gone before this step starts anything."""
        for member in _GONE_BEFORE.get(name, ()):
            other_started = f"start_{member}" in self.started or member.startswith("old_")
            other_started = other_started or self.has_parent
            if other_started and not self.gone.get(member, False):
                yield f"{name} was started while {member} was not proved gone"


_WALK: Mapping[str, Callable[[_Walk, Record], Iterator[str]]] = {
    "orchestrator_started": _Walk.orchestrator_started,
    "control": _Walk.control,
    "state": _Walk.transition,
    "step_started": _Walk.step_started,
    "step_ended": _Walk.step_ended,
    "step_not_done": _Walk.step_not_done,
    "probe": _Walk.probe,
    "watch_started": _Walk.watch_started,
    "watch_ended": _Walk.watch_ended,
    "rollback_started": _Walk.rollback_started,
    "closed": _Walk.closed,
}
