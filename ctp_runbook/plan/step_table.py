"""The seventeen steps of the runbook, in order, with what each does and how it is undone."""

from __future__ import annotations

from dataclasses import dataclass

from ctp_runbook.model import Generation, Phase, Role, StepKind

__all__ = ["STEP_TABLE", "StepSpec"]


@dataclass(frozen=True)
class StepSpec:
    """A step before a template gave it a command.

    ``stem`` is its template key without ``_CMD``; its timeout key is ``<stem>_TIMEOUT_SECONDS``.
    """

    name: str
    phase: Phase
    kind: StepKind
    stem: str
    effect: str
    undo: tuple[str, ...] = ()
    acts_on: tuple[Generation, Role] | None = None

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


def _gate(name: str, effect: str) -> StepSpec:
    return StepSpec(name, Phase.GATE, StepKind.GATE, name.upper(), effect)


def _restore(name: str, effect: str) -> StepSpec:
    return StepSpec(name, Phase.ROLLBACK, StepKind.RESTORE, name.upper(), effect)


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
        undo=("start_previous_strategy_runner",),
        acts_on=_OLD_RUNNER,
    ),
    StepSpec(
        "stop_old_core_engine",
        Phase.SWITCH,
        StepKind.STOP,
        "OLD_CORE_ENGINE_STOP",
        f"old core engine proved gone: {_GONE}, metrics port closed",
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
        undo=("stop_new_core_engine",),
        acts_on=_NEW_ENGINE,
    ),
    StepSpec(
        "start_new_strategy_runner",
        Phase.SWITCH,
        StepKind.START,
        "NEW_STRATEGY_RUNNER_START",
        "new strategy runner alive with its identity recorded",
        undo=("stop_new_strategy_runner",),
        acts_on=_NEW_RUNNER,
    ),
    StepSpec(
        "warmup_query",
        Phase.SWITCH,
        StepKind.CHECK,
        "WARMUP_QUERY",
        "the instrument query answered: exit code 0",
    ),
    StepSpec(
        "stop_new_strategy_runner",
        Phase.ROLLBACK,
        StepKind.STOP,
        "NEW_STRATEGY_RUNNER_STOP",
        f"new strategy runner proved gone: {_GONE}",
        acts_on=_NEW_RUNNER,
    ),
    StepSpec(
        "stop_new_core_engine",
        Phase.ROLLBACK,
        StepKind.STOP,
        "NEW_CORE_ENGINE_STOP",
        f"new core engine proved gone: {_GONE}, metrics port closed",
        acts_on=_NEW_ENGINE,
    ),
    _restore("restore_previous_binaries", "previous binaries in place: exit code 0"),
    _restore("restore_redis_bridge_compat", "Redis compatibility path in place: exit code 0"),
    StepSpec(
        "start_previous_core_engine",
        Phase.ROLLBACK,
        StepKind.START,
        "PREVIOUS_CORE_ENGINE_START",
        f"previous core engine alive, {_SESSION}",
        acts_on=_OLD_ENGINE,
    ),
    StepSpec(
        "start_previous_strategy_runner",
        Phase.ROLLBACK,
        StepKind.START,
        "PREVIOUS_STRATEGY_RUNNER_START",
        "previous strategy runner alive with its identity recorded",
        acts_on=_OLD_RUNNER,
    ),
    StepSpec(
        "post_rollback_validate",
        Phase.ROLLBACK,
        StepKind.CHECK,
        "POST_ROLLBACK_VALIDATE",
        "ctp_readiness_rollback.json: every SLI measured and healthy",
    ),
)
