"""The seventeen steps of the runbook, in order: a row a step, with all that is known of it before
a template gave it a command. A step is one row here and its command in the template.

The rollback's budget is split over its steps by a column of theirs.
"""

from __future__ import annotations

from msgspec import Struct

from ctp_runbook.model import Generation, Phase, Role, StepKind

__all__ = [
    "STEP_TABLE",
    "StepSpec",
    "budget_shares",
    "start_steps",
    "step_due",
    "step_spec",
    "steps_of",
]


class StepSpec(Struct, frozen=True):
    """A step before a template gave it a command.

    ``budget_share`` is what of the rollback's budget it may count on, whatever the steps before it
    do; what one leaves goes to the next. A stop's share covers its command, and ending the member
    by signal should that fail.
    """

    name: str
    phase: Phase
    kind: StepKind
    effect: str
    when_it_fails: str
    undo: tuple[str, ...] = ()
    acts_on: tuple[Generation, Role] | None = None
    budget_share: float = 0.0

    @property
    def command_key(self) -> str:
        """The template key of the step's command."""
        return f"{self._stem}_CMD"

    @property
    def timeout_key(self) -> str:
        """The template key of the step's timeout."""
        return f"{self._stem}_TIMEOUT_SECONDS"

    @property
    def _stem(self) -> str:
        """The step's name, and of a member's the member first: OLD_CORE_ENGINE_STOP."""
        verb, _, member = self.name.partition("_")
        return (f"{member}_{verb}" if self.acts_on else self.name).upper()


_GONE = "proved gone: alive command says gone, the recorded process is gone"
_EFFECTS = {
    ("stop", Role.STRATEGY_RUNNER): f"{{}} {_GONE}",
    ("stop", Role.CORE_ENGINE): f"{{}} {_GONE}, metrics port closed",
    ("start", Role.STRATEGY_RUNNER): "{} alive with its identity recorded",
    ("start", Role.CORE_ENGINE): "{} alive, TD and MD logged in, settlement confirmed, private "
    "stream drained",
}
_RUN_ENDS = (
    "The run ends (exit 3). The old stack still trades and was not touched; mend the cause"
    " and start a new run."
)
_ENDED_BY_SIGNAL = (
    "TERM, then KILL goes to the recorded process. Nothing new starts before it is proved"
    " gone; then, or if it cannot be proved, the run rolls back."
)
_ROLLS_BACK = "The run rolls back."
_NOTHING_STARTS = (
    "TERM, then KILL goes to the recorded process. If it cannot be proved gone, nothing of"
    " the previous generation is started (exit 6): end it by hand, then start the previous"
    " engine and runner by hand."
)
_GOES_ON = "The rollback goes on: the steps that bring trading back are not held up by this one."
_ROLLBACK_FAILED = "The rollback has failed (exit 6): start it by hand with the command above."
_NOT_VALIDATED = (
    "Rolled back, but not validated (exit 5): look at each SLI of"
    " ctp_readiness_rollback.json before trading goes on."
)


def _gate(name: str, effect: str) -> StepSpec:
    return StepSpec(name, Phase.GATE, StepKind.GATE, effect, _RUN_ENDS)


def _restore(name: str, effect: str, *, budget_share: float) -> StepSpec:
    done = f"{effect}: exit code 0"
    return StepSpec(
        name, Phase.ROLLBACK, StepKind.RESTORE, done, _GOES_ON, budget_share=budget_share
    )


def _of_member(
    name: str,
    phase: Phase,
    when_it_fails: str,
    *,
    undo: tuple[str, ...] = (),
    budget_share: float = 0.0,
) -> StepSpec:
    """A step that stops or starts a member: which one, and what proves it, its name says."""
    verb, which, member = name.split("_", 2)
    role = Role(member)
    generation = Generation.OLD if which == "previous" else Generation(which)
    effect = _EFFECTS[verb, role].format(f"{which} {member.replace('_', ' ')}")
    acts_on = (generation, role)
    return StepSpec(name, phase, StepKind(verb), effect, when_it_fails, undo, acts_on, budget_share)


STEP_TABLE: tuple[StepSpec, ...] = (
    _gate("bootstrap_infra", "every service of the compose project answers a health check"),
    _gate("init_kafka_topic", "topics exist with the partitions wanted, as the broker reports"),
    _gate("init_clickhouse_schema", "tables and views exist, as ClickHouse reports"),
    _gate("init_debezium_connector", "connectors and their tasks RUNNING, slots active"),
    _gate("precheck", "ctp_readiness_precheck.json: every SLI measured and healthy"),
    # The source of orders stops before the engine it feeds, and starts after it.
    _of_member(
        "stop_old_strategy_runner",
        Phase.SWITCH,
        _ENDED_BY_SIGNAL,
        undo=("start_previous_strategy_runner",),
    ),
    _of_member(
        "stop_old_core_engine",
        Phase.SWITCH,
        _ENDED_BY_SIGNAL,
        undo=(
            "restore_previous_binaries",
            "restore_redis_bridge_compat",
            "start_previous_core_engine",
        ),
    ),
    _of_member("start_new_core_engine", Phase.SWITCH, _ROLLS_BACK, undo=("stop_new_core_engine",)),
    _of_member(
        "start_new_strategy_runner", Phase.SWITCH, _ROLLS_BACK, undo=("stop_new_strategy_runner",)
    ),
    StepSpec(
        "warmup_query",
        Phase.SWITCH,
        StepKind.CHECK,
        "the instrument query answered: exit code 0",
        _ROLLS_BACK,
    ),
    _of_member("stop_new_strategy_runner", Phase.ROLLBACK, _NOTHING_STARTS, budget_share=0.15),
    _of_member("stop_new_core_engine", Phase.ROLLBACK, _NOTHING_STARTS, budget_share=0.2),
    _restore("restore_previous_binaries", "previous binaries in place", budget_share=0.08),
    _restore("restore_redis_bridge_compat", "Redis compatibility path in place", budget_share=0.07),
    _of_member("start_previous_core_engine", Phase.ROLLBACK, _ROLLBACK_FAILED, budget_share=0.25),
    _of_member(
        "start_previous_strategy_runner", Phase.ROLLBACK, _ROLLBACK_FAILED, budget_share=0.15
    ),
    StepSpec(
        "post_rollback_validate",
        Phase.ROLLBACK,
        StepKind.CHECK,
        "ctp_readiness_rollback.json: every SLI measured and healthy",
        _NOT_VALIDATED,
        budget_share=0.1,
    ),
)
_BY_NAME = {spec.name: spec for spec in STEP_TABLE}
_SHARES = {spec.name: spec.budget_share for spec in STEP_TABLE if spec.budget_share}


def step_spec(name: str) -> StepSpec:
    """Return the row of a step. Raises KeyError for a name that is none."""
    return _BY_NAME[name]


def steps_of(phase: Phase) -> tuple[str, ...]:
    """Return the names of a phase's steps, in order."""
    return tuple(spec.name for spec in STEP_TABLE if spec.phase is phase)


def start_steps(generation: Generation, role: Role) -> tuple[str, ...]:
    """Return the steps that start this member."""
    acts_on = (generation, role)
    starts = (spec for spec in STEP_TABLE if spec.kind is StepKind.START)
    return tuple(spec.name for spec in starts if spec.acts_on == acts_on)


def budget_shares(budget_seconds: float) -> dict[str, float]:
    """Return the seconds of the budget that belong to each step, milliseconds at the finest."""
    return {name: round(share * budget_seconds, 3) for name, share in _SHARES.items()}


def step_due(name: str, *, now: float, started: float, budget_seconds: float) -> float:
    """Return when step ``name`` must end, on the clock of ``now`` and ``started``.

    All that is left, less what the later steps are owed; where that is less than the step's part
    of what is left (something before it overran), that part.
    """
    names = list(_SHARES)
    later = sum(_SHARES[step] for step in names[names.index(name) + 1 :])
    own = _SHARES[name]
    deadline = started + budget_seconds
    part = now + max(0.0, deadline - now) * own / (own + later)
    return min(deadline, max(deadline - later * budget_seconds, part))
