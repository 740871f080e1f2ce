"""The seventeen steps of the runbook, in order: a row a step, with all that is known of it before
a template gave it a command. A step is one row here and its command in the template.

The rollback's budget is split over its steps by a column of theirs.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from ctp_runbook.model import Generation, Phase, Role, StepKind

__all__ = [
    "NO_MEMBER",
    "ROLES_BESIDE",
    "SESSION_PROVED",
    "STEP_TABLE",
    "StepSpec",
    "budget_shares",
    "member_steps",
    "members_left",
    "order_steps",
    "presence_key",
    "sender_of",
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


# Of an engine's session, where TRADING_STATE_CMD or its page tells of it.
SESSION_PROVED = "TD and MD logged in, settlement confirmed, private stream drained"
_GONE = "proved gone: alive command says gone, the recorded process is gone"
_EFFECTS = {
    ("stop", Role.STRATEGY_RUNNER): f"{{}} {_GONE}",
    ("stop", Role.CORE_ENGINE): f"{{}} {_GONE}, metrics port closed",
    ("start", Role.STRATEGY_RUNNER): "{} alive with its identity recorded",
    ("start", Role.CORE_ENGINE): f"{{}} alive, {SESSION_PROVED}",
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
    " generation by hand."
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
# What a generation may do without: all but the engine itself.
ROLES_BESIDE = tuple(role for role in Role if role is not Role.CORE_ENGINE)
# What a presence key says where there is no such part: its work is done in the engine's process.
NO_MEMBER = "none"
# Who sends a generation's orders: the first of these that it has.
_SENDERS = (Role.STRATEGY_RUNNER, Role.CORE_ENGINE)
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


def member_steps(generation: Generation, role: Role) -> tuple[StepSpec, ...]:
    """Return the steps that stop or start this member."""
    return tuple(spec for spec in STEP_TABLE if spec.acts_on == (generation, role))


def presence_key(generation: Generation, role: Role) -> str:
    """Return the template key that says whether there is such a part: OLD_STRATEGY_RUNNER."""
    return f"{generation}_{role}".upper()


def members_left(left_out: Collection[str]) -> tuple[str, ...]:
    """Return the names of the members of a plan that leaves the steps ``left_out`` out."""
    return tuple(
        f"{generation}_{role}"
        for generation in Generation
        for role in Role
        if not any(spec.name in left_out for spec in member_steps(generation, role))
    )


def sender_of(generation: Generation, members: Collection[str]) -> str:
    """Return the name of the member that sends a generation's orders: its strategy runner, or its
    engine where the strategies run in that."""
    names = (f"{generation}_{role}" for role in _SENDERS)
    return next(name for name in names if name in members)


def order_steps(members: Collection[str]) -> dict[str, StepKind]:
    """Return the steps by which orders stop and come again: trading goes by who sends them."""
    senders = {sender_of(generation, members) for generation in Generation}
    return {
        spec.name: spec.kind
        for spec in STEP_TABLE
        if spec.acts_on and "_".join(spec.acts_on) in senders
    }


def _shares(left_out: Collection[str]) -> dict[str, float]:
    """Return each step's part of the budget; that of steps left out goes to all others alike."""
    shares = {name: share for name, share in _SHARES.items() if name not in left_out}
    if len(shares) == len(_SHARES):
        return shares
    whole = sum(shares.values())
    return {name: share / whole for name, share in shares.items()}


def budget_shares(budget_seconds: float, *, left_out: Collection[str] = ()) -> dict[str, float]:
    """Return the seconds of the budget that belong to each step, milliseconds at the finest."""
    shares = _shares(left_out).items()
    return {name: round(share * budget_seconds, 3) for name, share in shares}


def step_due(
    name: str,
    *,
    now: float,
    started: float,
    budget_seconds: float,
    left_out: Collection[str] = (),
) -> float:
    """Return when step ``name`` must end, on the clock of ``now`` and ``started``.

    All that is left, less what the later steps are owed; where that is less than the step's part
    of what is left (something before it overran), that part.
    """
    shares = _shares(left_out)
    names = list(shares)
    later = sum(shares[step] for step in names[names.index(name) + 1 :])
    own = shares[name]
    deadline = started + budget_seconds
    part = now + max(0.0, deadline - now) * own / (own + later)
    return min(deadline, max(deadline - later * budget_seconds, part))
