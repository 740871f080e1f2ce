"""The seventeen steps of the runbook, in order: a row a step, with all that is known of it before
a template gave it a command. A step is one row here and its command in the template.
"""

from __future__ import annotations

from msgspec import Struct

from ctp_runbook.model import Generation, Phase, Role, StepKind

__all__ = ["STEP_TABLE", "StepSpec", "start_steps", "step_spec", "steps_of"]


class StepSpec(Struct, frozen=True):
    """A step before a template gave it a command.

    ``stem`` is its template key without ``_CMD``; its timeout key is ``<stem>_TIMEOUT_SECONDS``.
    ``budget_share`` is what of the rollback's budget it may count on, whatever the steps before it
    do; what one leaves goes to the next. A stop's share covers its command, and ending the member
    by signal should that fail.
    """

    name: str
    phase: Phase
    kind: StepKind
    stem: str
    effect: str
    when_it_fails: str
    undo: tuple[str, ...] = ()
    acts_on: tuple[Generation, Role] | None = None
    budget_share: float = 0.0

    @property
    def command_key(self) -> str:
        """The template key of the step's command."""
        return f"{self.stem}_CMD"

    @property
    def timeout_key(self) -> str:
        """The template key of the step's timeout."""
        return f"{self.stem}_TIMEOUT_SECONDS"


_GONE = "alive command says gone, the recorded process is gone"
_OLD_ENGINE = (Generation.OLD, Role.CORE_ENGINE)
_OLD_RUNNER = (Generation.OLD, Role.STRATEGY_RUNNER)
_NEW_ENGINE = (Generation.NEW, Role.CORE_ENGINE)
_NEW_RUNNER = (Generation.NEW, Role.STRATEGY_RUNNER)
_SESSION = "TD and MD logged in, settlement confirmed, private stream drained"

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
    return StepSpec(name, Phase.GATE, StepKind.GATE, name.upper(), effect, _RUN_ENDS)


def _restore(name: str, effect: str, *, budget_share: float) -> StepSpec:
    return StepSpec(
        *(name, Phase.ROLLBACK, StepKind.RESTORE, name.upper(), effect, _GOES_ON),
        budget_share=budget_share,
    )


STEP_TABLE: tuple[StepSpec, ...] = (
    _gate("bootstrap_infra", "every service of the compose project answers a health check"),
    _gate("init_kafka_topic", "topics exist with the partitions wanted, as the broker reports"),
    _gate("init_clickhouse_schema", "tables and views exist, as ClickHouse reports"),
    _gate("init_debezium_connector", "connectors and their tasks RUNNING, slots active"),
    _gate("precheck", "ctp_readiness_precheck.json: every SLI measured and healthy"),
    StepSpec(
        "stop_old_strategy_runner",
        Phase.SWITCH,
        StepKind.STOP,
        "OLD_STRATEGY_RUNNER_STOP",
        f"old strategy runner proved gone: {_GONE}",
        _ENDED_BY_SIGNAL,
        undo=("start_previous_strategy_runner",),
        acts_on=_OLD_RUNNER,
    ),
    StepSpec(
        "stop_old_core_engine",
        Phase.SWITCH,
        StepKind.STOP,
        "OLD_CORE_ENGINE_STOP",
        f"old core engine proved gone: {_GONE}, metrics port closed",
        _ENDED_BY_SIGNAL,
        undo=(
            "restore_previous_binaries",
            "restore_redis_bridge_compat",
            "start_previous_core_engine",
        ),
        acts_on=_OLD_ENGINE,
    ),
    StepSpec(
        "start_new_core_engine",
        Phase.SWITCH,
        StepKind.START,
        "NEW_CORE_ENGINE_START",
        f"new core engine alive, {_SESSION}",
        _ROLLS_BACK,
        undo=("stop_new_core_engine",),
        acts_on=_NEW_ENGINE,
    ),
    StepSpec(
        "start_new_strategy_runner",
        Phase.SWITCH,
        StepKind.START,
        "NEW_STRATEGY_RUNNER_START",
        "new strategy runner alive with its identity recorded",
        _ROLLS_BACK,
        undo=("stop_new_strategy_runner",),
        acts_on=_NEW_RUNNER,
    ),
    StepSpec(
        "warmup_query",
        Phase.SWITCH,
        StepKind.CHECK,
        "WARMUP_QUERY",
        "the instrument query answered: exit code 0",
        _ROLLS_BACK,
    ),
    StepSpec(
        "stop_new_strategy_runner",
        Phase.ROLLBACK,
        StepKind.STOP,
        "NEW_STRATEGY_RUNNER_STOP",
        f"new strategy runner proved gone: {_GONE}",
        _NOTHING_STARTS,
        acts_on=_NEW_RUNNER,
        budget_share=0.15,
    ),
    StepSpec(
        "stop_new_core_engine",
        Phase.ROLLBACK,
        StepKind.STOP,
        "NEW_CORE_ENGINE_STOP",
        f"new core engine proved gone: {_GONE}, metrics port closed",
        _NOTHING_STARTS,
        acts_on=_NEW_ENGINE,
        budget_share=0.2,
    ),
    _restore(
        "restore_previous_binaries", "previous binaries in place: exit code 0", budget_share=0.08
    ),
    _restore(
        "restore_redis_bridge_compat",
        "Redis compatibility path in place: exit code 0",
        budget_share=0.07,
    ),
    StepSpec(
        "start_previous_core_engine",
        Phase.ROLLBACK,
        StepKind.START,
        "PREVIOUS_CORE_ENGINE_START",
        f"previous core engine alive, {_SESSION}",
        _ROLLBACK_FAILED,
        acts_on=_OLD_ENGINE,
        budget_share=0.25,
    ),
    StepSpec(
        "start_previous_strategy_runner",
        Phase.ROLLBACK,
        StepKind.START,
        "PREVIOUS_STRATEGY_RUNNER_START",
        "previous strategy runner alive with its identity recorded",
        _ROLLBACK_FAILED,
        acts_on=_OLD_RUNNER,
        budget_share=0.15,
    ),
    StepSpec(
        "post_rollback_validate",
        Phase.ROLLBACK,
        StepKind.CHECK,
        "POST_ROLLBACK_VALIDATE",
        "ctp_readiness_rollback.json: every SLI measured and healthy",
        _NOT_VALIDATED,
        budget_share=0.1,
    ),
)
_BY_NAME = {spec.name: spec for spec in STEP_TABLE}


def step_spec(name: str) -> StepSpec:
    """The row of a step. Raises KeyError for a name that is none."""
    return _BY_NAME[name]


def steps_of(phase: Phase) -> tuple[str, ...]:
    """The names of a phase's steps, in order."""
    return tuple(spec.name for spec in STEP_TABLE if spec.phase is phase)


def start_steps(generation: Generation, role: Role) -> tuple[str, ...]:
    """The steps that start this member."""
    acts_on = (generation, role)
    starts = (spec for spec in STEP_TABLE if spec.kind is StepKind.START)
    return tuple(spec.name for spec in starts if spec.acts_on == acts_on)
