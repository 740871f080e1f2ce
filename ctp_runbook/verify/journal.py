"""Is this journal one that a run can have written? Order, clocks, acts and states, from it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ctp_runbook.model import Generation, Outcome, Phase, Role, State, StepKind, StepStatus
from ctp_runbook.plan.step_table import (
    NO_MEMBER,
    ROLES_BESIDE,
    STEP_TABLE,
    member_steps,
    members_left,
    presence_key,
)
from ctp_runbook.record import kinds
from ctp_runbook.record.history import History
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
_BEFORE_SWITCH = {state for state in State if state.is_before_switch}
# Whatever is not named here is the end of a rollback, kept, late, unvalidated or failed.
_ENDS = {
    Outcome.COMPLETED: {State.WATCHING, State.HOLDING},
    Outcome.DRY_RUN_OK: set(State),
    Outcome.REFUSED: _BEFORE_SWITCH,
    Outcome.ABORTED_BEFORE_SWITCH: _BEFORE_SWITCH,
}
_STEP_STATES = {
    Phase.GATE: {State.GATING, State.READY},
    Phase.SWITCH: {State.SWITCHING},
    Phase.ROLLBACK: {State.ROLLING_BACK},
}
_PHASES = {spec.name: spec.phase for spec in STEP_TABLE}
_KINDS = {spec.name: spec.kind for spec in STEP_TABLE}
_ORDER = {spec.name: number for number, spec in enumerate(STEP_TABLE)}
# Nothing of one generation starts until both parts of the other are proved gone.
_GONE_BEFORE = {
    spec.name: tuple(f"{generation}_{role}" for role in Role)
    for spec in STEP_TABLE
    for generation in Generation
    if spec.kind is StepKind.START and spec.acts_on and generation is not spec.acts_on[0]
}


def plan_findings(history: History) -> Iterator[str]:
    """The plan in the header must hold the runbook's steps, all of them and in its order."""
    created, plan = history.created, history.plan
    if plan.environment != created.environment:
        yield f"the plan is for {plan.environment}; the run is of {created.environment}"
    planned = [(step.name, step.phase.value, step.kind.value) for step in plan.steps]
    wanted = [(spec.name, spec.phase.value, spec.kind.value) for spec in STEP_TABLE]
    for step, due in zip(planned, wanted, strict=False):
        if step != due:
            yield f"run.json plan.steps: {step} stands where {due} is due"
    if len(planned) != len(wanted):
        yield f"run.json plan.steps: {len(planned)} steps; the runbook has {len(wanted)}"
    yield from _left_out_findings(history)
    yield from _command_findings(history)


def _left_out_findings(history: History) -> Iterator[str]:
    """What a plan leaves out are all steps of a part that a generation may do without, by its line."""
    planned = {step.name: step for step in history.plan.steps}
    for generation in Generation:
        for role in Role:
            steps = [planned.get(spec.name) for spec in member_steps(generation, role)]
            line = f"{presence_key(generation, role)}={NO_MEMBER}"
            said = {(step.command == line, bool(step.skipped)) for step in steps if step}
            if role in ROLES_BESIDE and said == {(True, True)}:
                continue
            if any(is_out for _, is_out in said):
                yield (
                    f"run.json plan.steps: steps of {generation}_{role} are left out, and not by "
                    f"{line}, all of them"
                )
    of_members = {spec.name for spec in STEP_TABLE if spec.acts_on}
    for name in history.plan.left_out.keys() - of_members:
        yield f"run.json plan.steps: {name} is left out, and is no step of a part"


def _command_findings(history: History) -> Iterator[str]:
    """What was run is what was planned."""
    planned = {step.name: step for step in history.plan.steps}
    for record in history.records:
        if isinstance(record.payload, kinds.StepStarted | kinds.StepNotDone):
            step = planned.get(record.payload.step)
            for key in ("command", "timeout_seconds"):
                due = getattr(step, key, None)
                said = getattr(record.payload, key, due)  # a step not done names no timeout
                if said != due:
                    yield (
                        f"journal record {record.seq}: {record.payload.step} has the {key} "
                        f"{str(said)[:80]!r}; the plan has {str(due)[:80]!r}"
                    )


def clock_findings(records: Sequence[Record]) -> Iterator[str]:
    """Within a boot the monotonic clock never goes back and the wall clock keeps up with it."""
    first: dict[str, Record] = {}
    shifts, shifted = ClockShifts(records), 0.0
    before, earlier = records[0], records[0].wall
    walls: dict[str, datetime] = {}
    for record in records:
        wall, origin = record.wall, first.setdefault(record.boot_id, record)
        where = f"journal record {record.seq}"
        mono = record.mono - origin.mono
        apart = (wall - walls.setdefault(record.boot_id, wall)).total_seconds() - mono
        was = shifted
        shifted = shifts.shift_of(boot_id=record.boot_id, mono=record.mono, apart=apart)
        back = (earlier - wall).total_seconds()
        same_boot = before.boot_id == record.boot_id
        if same_boot:
            # A clock that the journal says was set has not gone back by itself.
            back += shifted - was
        if back > CLOCK_SLACK_SECONDS:
            yield f"{where}: its wall clock is {back:.1f} s before that of the record before it"
        if same_boot and record.mono_ns < before.mono_ns:
            yield f"{where}: its monotonic clock went back within one boot"
        if not same_boot:
            yield from _reboot_findings(before, record, is_new=origin is record, where=where)
        apart = abs(apart - shifted)
        if apart > CLOCK_SLACK_SECONDS + _CLOCK_SLEW * abs(mono):
            yield (
                f"{where}: wall and monotonic clock are {apart:.1f} s apart since record "
                f"{origin.seq}; {CLOCK_SLACK_SECONDS} s are allowed"
            )
        before, earlier = record, wall


def _reboot_findings(before: Record, record: Record, *, is_new: bool, where: str) -> Iterator[str]:
    """A boot does not come back, and a new one began after the record before it."""
    gap = (record.wall - before.wall).total_seconds()
    if not is_new:
        yield f"{where}: boot {record.boot_id[:8]} comes back after another one"
    elif record.mono > gap + CLOCK_SLACK_SECONDS:
        yield (
            f"{where}: another boot id {gap:.1f} s after the record before it, and yet this boot "
            f"is {record.mono:.0f} s old"
        )


def sequence_findings(history: History) -> Iterator[str]:
    """Every act with its record before and after, in a state that allows it; closed last."""
    names = [record.kind for record in history.records]
    if names[0] != "run_created" or names.count("run_created") != 1:
        yield "the journal must begin with run_created, and hold it once"
    if names[-1] != "closed":
        yield f"the journal ends with {names[-1]}, not with closed: the run is not over"
    if names.count("closed") > 1:
        yield f"the journal was closed {names.count('closed')} times"
    created = history.created
    walk = _Walk(
        dry_run=created.dry_run,
        has_parent=bool(created.parent_run),
        left_out=created.plan.left_out,
        members=created.plan.members,
    )
    for record in history.records:
        check = _WALK.get(type(record.payload))
        for finding in check(walk, record, record.payload) if check else ():
            yield f"journal record {record.seq} ({record.kind}): {finding}"


@dataclass
class _Walk:
    """Where a reader stands in the journal.

    Each method says what is wrong with a record that stands here, and then stands behind it.
    """

    dry_run: bool
    has_parent: bool
    left_out: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = members_left(())
    state: State = State.PLANNED
    open_step: Record[kinds.StepStarted] | None = None
    resumed: bool = False
    has_go: bool = False
    start: int = -1
    rolling: bool = False
    watching: bool = False
    started: dict[str, int] = field(default_factory=dict)
    gone: dict[str, bool] = field(default_factory=dict)
    last_order: int = -1
    unvalidated: bool = False

    def orchestrator_started(
        self, record: Record, start: kinds.OrchestratorStarted
    ) -> Iterator[str]:
        self.resumed = self.resumed or start.resumed
        self.start = record.seq
        if start.resumed:
            # What was open when the writer before died stays UNKNOWN.
            self.open_step = None
        elif self.started:
            yield "a fresh start of the orchestrator after steps were started"

    def request_taken(self, record: Record, asked: kinds.RequestTaken) -> Iterator[str]:
        # A go for another start of the run counts for nothing.
        self.has_go = self.has_go or (asked.request == "go" and asked.start == self.start)
        yield from ()

    def state_entered(self, record: Record, entered: kinds.StateEntered) -> Iterator[str]:
        to, follows = entered.to, entered.to in _NEXT[self.state]
        if self.has_parent:  # it undoes what another run switched, and does nothing else
            follows = (self.state, to) == (State.PLANNED, State.ROLLING_BACK)
        if not follows and not self._is_taken_up(to):
            yield f"no run goes from {self.state} to {to}"
        if to is State.SWITCHING and not self.has_go and not self.dry_run:
            yield "the switch began without a recorded go"
        self.state = to

    def step_started(
        self, record: Record[kinds.StepStarted], step: kinds.StepStarted
    ) -> Iterator[str]:
        name = step.step
        if self.dry_run:
            yield f"a dry run started {name}"
        if name in self.left_out:
            yield f"{name} was started; by the plan, {self.left_out[name]}"
        if self.open_step is not None:
            yield f"{name} started while {self.open_step.payload.step} had no end"
        if step.attempt != self.started.get(name, 0) + 1:
            yield f"{name}: attempt {step.attempt} follows {self.started.get(name, 0)}"
        if step.due_mono_ns > record.mono_ns + step.timeout_seconds * 1e9:
            yield f"{name} is due later than its timeout of {step.timeout_seconds} s allows"
        yield from self._in_place(name, step.phase)
        yield from self._alone(name)
        self.open_step = record
        self.started[name] = step.attempt

    def step_ended(self, record: Record, end: kinds.StepEnded) -> Iterator[str]:
        begun, self.open_step = self.open_step, None
        name, code, status = end.step, end.exit_code, end.status
        if begun is None or begun.payload.step != name:
            yield f"the end of {name} without its start before it"
            return
        if status is StepStatus.OK and code != 0:
            yield f"{name} is ok with exit code {code}"
        if status is StepStatus.TIMED_OUT and code is not None:
            yield f"{name} timed out, and yet has exit code {code}"
        if status is StepStatus.FAILED and code == 0 and not end.reason:
            yield f"{name} failed with exit code 0 and no reason"
        if _KINDS.get(name) is StepKind.CHECK and end.phase is Phase.ROLLBACK:
            self.unvalidated = status is not StepStatus.OK
        if end.phase != begun.payload.phase:
            yield f"{name} began in phase {begun.payload.phase}"
        took = (record.mono_ns - begun.mono_ns) / 1e6
        # The record after an act is written when its effect was proved, which takes its time.
        if begun.boot_id == record.boot_id and not -2000 <= took - end.duration_ms <= 5000:
            yield f"{name} says it took {end.duration_ms:.0f} ms; its records are {took:.0f} ms apart"

    def step_not_done(self, record: Record, step: kinds.StepNotDone) -> Iterator[str]:
        if step.status is StepStatus.SIMULATED_OK and not self.dry_run:
            yield f"{step.step} was simulated in a run that is no dry run"
        if step.step not in _PHASES:
            yield f"{step.step} is no step of the runbook"
        reason, is_skipped = self.left_out.get(step.step), step.status is StepStatus.SKIPPED
        if reason and (not is_skipped or step.reason != reason):
            yield f"{step.step} is {step.status}: {step.reason!r}; by the plan, {reason}"
        if is_skipped and not reason and step.phase is not Phase.ROLLBACK:
            yield f"{step.step} is skipped, and the plan does not leave it out"
        if self.open_step is not None and self.open_step.payload.step == step.step:
            self.open_step = None

    def probe_answered(self, record: Record, look: kinds.ProbeAnswered) -> Iterator[str]:
        if look.question == "gone":
            self.gone[look.subject] = look.ok
        elif look.question == "alive" and look.ok:
            self.gone[look.subject] = False
        yield from ()

    def watch_started(self, record: Record, watch: kinds.WatchStarted) -> Iterator[str]:
        if self.state not in (State.WATCHING, State.SWITCHING) and not self.dry_run:
            yield f"a watch window began in {self.state}"
        self.watching = True

    def watch_ended(self, record: Record, watch: kinds.WatchEnded) -> Iterator[str]:
        if not self.watching:
            yield "a watch window ended that never began"

    def rollback_started(self, record: Record, begun: kinds.RollbackStarted) -> Iterator[str]:
        if self.rolling:
            yield "a second rollback began"
        self.rolling = True
        if self.state.is_before_switch and not (self.dry_run or self.has_parent):
            yield f"a rollback began in {self.state}, before anything was switched"

    def closed(self, record: Record, end: kinds.Closed) -> Iterator[str]:
        outcome = end.outcome
        if end.exit_code != outcome.exit_code:
            yield f"exit code {end.exit_code}; {outcome.value} has {outcome.exit_code}"
        if self.state not in _ENDS.get(outcome, {State.ROLLING_BACK}):
            yield f"no run ends {outcome.value} out of {self.state}"
        if self.open_step is not None:
            yield f"{self.open_step.payload.step} was started and has no end"
        if outcome is Outcome.DRY_RUN_OK and not self.dry_run:
            yield "a real run ended DRY_RUN_OK"

    def _is_taken_up(self, to: State) -> bool:
        """True for a step back that a resumed run makes: the gates again, nothing switched yet."""
        untouched = not any(_PHASES.get(name) is Phase.SWITCH for name in self.started)
        return self.resumed and (to is self.state or (to is State.GATING and untouched))

    def _in_place(self, name: str, phase: Phase) -> Iterator[str]:
        """The step is known, its phase fits the state, and its turn has come."""
        if _PHASES.get(name) is not phase:
            yield f"{name} is no {phase} step of the runbook"
            return
        if self.state not in _STEP_STATES[phase]:
            yield f"{name} ({phase}) was started in {self.state}"
        # A resumed run gates again, and READY asks the gates once more before a late go. What died
        # after it was restored is started again, and then validated again.
        may_repeat = self.resumed or self.state is State.READY
        may_repeat = may_repeat or (self.unvalidated and _KINDS[name] is StepKind.START)
        if _ORDER[name] < self.last_order and not may_repeat:
            yield f"{name} was started out of the runbook's order"
        self.last_order = _ORDER[name]

    def _alone(self, name: str) -> Iterator[str]:
        """The other generation is proved gone before this step starts anything."""
        for member in _GONE_BEFORE.get(name, ()):
            if member not in self.members:
                continue
            # A new member that this run never started, and no parent did, is nobody to prove gone.
            is_due = f"start_{member}" in self.started or member.startswith("old_")
            if (is_due or self.has_parent) and not self.gone.get(member, False):
                yield f"{name} was started while {member} was not proved gone"


_WALK: Mapping[type[kinds.Payload], Callable[[_Walk, Any, Any], Iterator[str]]] = {
    kinds.OrchestratorStarted: _Walk.orchestrator_started,
    kinds.RequestTaken: _Walk.request_taken,
    kinds.StateEntered: _Walk.state_entered,
    kinds.StepStarted: _Walk.step_started,
    kinds.StepEnded: _Walk.step_ended,
    kinds.StepNotDone: _Walk.step_not_done,
    kinds.ProbeAnswered: _Walk.probe_answered,
    kinds.WatchStarted: _Walk.watch_started,
    kinds.WatchEnded: _Walk.watch_ended,
    kinds.RollbackStarted: _Walk.rollback_started,
    kinds.Closed: _Walk.closed,
}
