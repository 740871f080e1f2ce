"""The infra gates of RUNBOOK §4.1: a row a gate, with all that is known of it before it is run.

A gate is one module that makes its tasks and one row here; another distribution adds a row of its
own as an entry point of the group ``ctp_runbook.gates``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

from ctp_runbook._late import LateModule
from ctp_runbook.errors import PlanRefused

if TYPE_CHECKING:
    from ctp_runbook.plan import plugins as _plugins
else:
    _plugins = LateModule("ctp_runbook.plan.plugins")  # for names that none of our rows has

__all__ = [
    "GATES",
    "GATE_GROUP",
    "PARTS",
    "Gate",
    "find_gate",
    "gates_in",
    "unobserved_gates",
    "usable_gates",
]

GATE_GROUP = "ctp_runbook.gates"
# Key and title of each part of the host, in the order of the picture.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "front": "CTP front",
        "engine": "core engine",
        "redis": "Redis bridge",
        "postgres": "PostgreSQL",
        "debezium": "Debezium",
        "kafka": "Kafka",
        "clickhouse": "ClickHouse",
    }
)
_SCRIPTS = {
    "bootstrap": "infra/scripts/bootstrap_prodlike.sh",
    "kafka-topics": "infra/scripts/init_kafka_topics.sh",
    "clickhouse-schema": "infra/scripts/init_clickhouse_schema.sh",
    "debezium-connectors": "infra/scripts/init_debezium_connectors.sh",
}
_ENDING = "_result.env"
# The results of the run itself end alike, and are no gate's.
_OF_THE_RUN = ("ctp_cutover_result.env", "ctp_rollback_result.env")


class Gate(Struct, frozen=True):
    """A row: ``infra <name>``, the step it belongs to, the prefix and name of its evidence.

    ``component`` is what it looks at. ``performer`` is ``module:function``, imported when the gate
    is run: it takes a ``GateContext`` and returns its tasks, none where no address is known;
    ``address`` is the flag that would have named one. ``parts``: which part of the picture a step
    of its evidence speaks for, by the beginning of its name; the first that fits. ``is_due``: its
    evidence must be there when its step has passed. ``seconds``: its deadline where no flag says.
    ``is_optional_in_twin``: the rehearsal may lack the component.
    """

    name: str
    step: str
    prefix: str
    file: str
    component: str
    performer: str
    help: str = ""
    address: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    seconds: float = 50.0
    is_due: bool = False
    is_optional_in_twin: bool = True


# Each deadline is a little below the step's timeout in configs/limits.toml: a gate that is late is
# to say itself what it waited for.
GATES: Mapping[str, Gate] = MappingProxyType(
    {
        gate.name: gate
        for gate in (
            Gate(
                "bootstrap",
                "bootstrap_infra",
                "SINGLE_HOST_BOOTSTRAP",
                "single_host_bootstrap_result.env",
                "services",
                "ctp_runbook.gates.bootstrap:bootstrap_tasks",
                help="Services up and healthy.",
                address="--compose-file FILE or --endpoint NAME=URL",
                parts=(
                    ("observe_front", "front"),
                    ("observe_redis", "redis"),
                    ("migrate_timescale", "postgres"),
                    ("observe_timescale", "postgres"),
                ),
                seconds=280.0,
                is_due=True,
                is_optional_in_twin=False,
            ),
            Gate(
                "kafka-topics",
                "init_kafka_topic",
                "KAFKA_TOPIC_INIT",
                "kafka_topic_init_result.env",
                "kafka",
                "ctp_runbook.gates.kafka:kafka_tasks",
                help="Topics as wanted.",
                address="--bootstrap-servers HOST:PORT",
                parts=(("", "kafka"),),
                is_due=True,
            ),
            Gate(
                "clickhouse-schema",
                "init_clickhouse_schema",
                "CLICKHOUSE_SCHEMA_INIT",
                "clickhouse_schema_init_result.env",
                "clickhouse",
                "ctp_runbook.gates.clickhouse:clickhouse_tasks",
                help="Schema as wanted.",
                address="--clickhouse-url http://HOST:PORT",
                parts=(("", "clickhouse"),),
                is_due=True,
            ),
            Gate(
                "debezium-connectors",
                "init_debezium_connector",
                "DEBEZIUM_CONNECTOR_INIT",
                "debezium_connector_init_result.env",
                "debezium",
                "ctp_runbook.gates.connectors:connector_tasks",
                help="Connectors and their tasks running.",
                address="--connect-url http://HOST:PORT",
                parts=(("", "debezium"),),
                seconds=110.0,
                is_due=True,
            ),
        )
    }
)


def find_gate(name: str) -> Gate | None:
    """Return the row of this name, None for nobody's. Raises PlanRefused for a plug-in that is broken."""
    return GATES.get(name) or _plugins.find_row(GATE_GROUP, name, kind=Gate)


def unobserved_gates(
    commands: Mapping[str, str], *, evidence: Path | None = None
) -> dict[Gate, str]:
    """Return the gates whose step has a command that is none of ours, each with what to say of it.

    ``commands`` are those of the steps, by name. Such a command writes no evidence, so none is due,
    and its exit code is all there is; where ``evidence`` has a file all the same, somebody looked.
    """
    return {
        gate: (
            f"{gate.step} is not observed by this tool: its command is not `ctp-runbook infra "
            f"{gate.name}`, which would write {gate.file}; that it ended well is all that is known"
        )
        for gate in GATES.values()
        if gate.is_due
        and gate.step in commands
        and not _is_ours(gate, commands[gate.step])
        and not (evidence and (evidence / gate.file).exists())
    }


def _is_ours(gate: Gate, command: str) -> bool:
    """True where a command names the gate, or the script of infra/scripts that only calls it."""
    named = rf"\bctp[-_]runbook\b.*\binfra\b.*(?<![\w-]){gate.name}(?![\w-])"
    return _SCRIPTS[gate.name] in command or re.search(named, command, re.S) is not None


def gates_in(evidence: Path) -> Iterator[Gate]:
    """Yield the gates whose evidence is in this folder: ours in their order, then anybody else's.

    A record is read where its plug-ins are not, too: then a file says by its name and first key
    whose it is, and nothing more is known of it.
    """
    ours = {gate.file: gate for gate in GATES.values()}
    yield from (gate for file, gate in ours.items() if (evidence / file).is_file())
    strange = {file.name for file in evidence.glob(f"*{_ENDING}")} - {*ours, *_OF_THE_RUN}
    known = {gate.file: gate for gate in usable_gates()} if strange else {}
    for file in sorted(strange):
        if gate := known.get(file) or _gate_of(evidence / file):
            yield gate


def usable_gates() -> Iterator[Gate]:
    """Yield the rows of plug-ins that can be used; why another cannot is said to whoever names it."""
    for name in _plugins.installed_names(GATE_GROUP):
        with contextlib.suppress(PlanRefused):
            if gate := find_gate(name):
                yield gate


def _gate_of(file: Path) -> Gate | None:
    """Return a row of what a file says of its gate; None for a file that is no gate's."""
    with file.open("rb") as stream:
        first = stream.readline(200).decode("utf-8", "replace")
    prefix, ending, _ = first.partition("_DRY_RUN=")
    name = file.name.removesuffix(_ENDING)
    return Gate(name, "", prefix, file.name, name, "") if ending else None
