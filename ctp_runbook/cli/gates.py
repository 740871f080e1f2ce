"""The gate commands: ``readiness`` and ``infra …`` (RUNBOOK §4)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctp_runbook.cli.click_commands import LateGroup, click_command
from ctp_runbook.cli.options import Command, Option, command, say

if TYPE_CHECKING:
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.plan.gate_table import Gate

__all__ = ["canary", "infra", "readiness"]

_BOOTSTRAP_SERVERS = Option("--bootstrap-servers HOST:PORT", "Kafka.")
_CLICKHOUSE_URL = Option("--clickhouse-url URL")
_POSTGRES_DSN = Option("--postgres-dsn DSN", "Without its password.")
_MOST_SLI_SECONDS = 300.0  # as in limits.toml
_OUTPUT_JSON = Option("--output-json PATH", "[default: the run's evidence/]", writes="file")
# What is typed by hand instead of measured, and what is said of it.
_DECLARED = {
    "query-latency-ms": "Declared, not measured; refused by a real run.",
    "flow-control-hits": "Declared.",
    "disconnect-recovery-success-rate": "Declared.",
    "reject-classified-ratio": "Declared.",
    "core-process-alive": "Declared: true or false.",
    "redis-health": "Declared.",
    "timescale-health": "Declared.",
    "strategy-bridge-chain-status": "Declared.",
}
_PIPELINE = (
    Option("--env-file PATH", "Passwords of what follows."),
    _BOOTSTRAP_SERVERS,
    _CLICKHOUSE_URL,
    _POSTGRES_DSN,
)


@command(
    _OUTPUT_JSON,
    Option("--environment TEXT", default="single-host-ubuntu"),
    Option("--profile TEXT", "rehearsal: leave out what the twin does not have."),
    Option("--metrics-url TEXT", "The engine's metrics page: measure there."),
    Option("--query-min-events INTEGER>=2", "Queries without which there is no p99.", default=5),
    Option(
        "--query-window-seconds FLOAT>0",
        "How long they are waited for.",
        name="window_seconds",
        default=10.0,
    ),
    Option(
        "--sli-timeout-seconds FLOAT>0",
        "How long one look may take; a run gives what limits.toml says.",
        name="seconds",
        default=5.0,
        envvar="CTP_SLI_TIMEOUT_SECONDS",
        show_envvar=True,
    ),
    Option("--redis-url TEXT", "redis://HOST:PORT: measure there."),
    Option("--alive-cmd TEXT", "Exit 0: the core process is alive.", name="alive_command"),
    Option("--bridge-client TEXT...", "A client name Redis must have.", name="bridge_clients"),
    Option("--bridge-key TEXT=...", "KEY=VALUE Redis must have.", name="bridge_keys"),
    Option("--sli-cmd TEXT=...", "SLI=COMMAND that prints it.", name="commands"),
    *_PIPELINE,
    *(Option(f"--{flag} TEXT", text, default=None) for flag, text in _DECLARED.items()),
)
def readiness(output_json: Path | None, **values: Any) -> int:
    """Measure the readiness SLIs and write them down (RUNBOOK §4.2)."""
    from ctp_runbook.errors import RunRefused
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.gates.readiness import write_readiness
    from ctp_runbook.gates.readiness_probes import ReadinessSources, commands_of_run, measure

    if (seconds := values["seconds"]) > _MOST_SLI_SECONDS:
        raise RunRefused(
            f"--sli-timeout-seconds {seconds:g} (or CTP_SLI_TIMEOUT_SECONDS, which a run sets to "
            f"sli_timeout_seconds of limits.toml): expected {_MOST_SLI_SECONDS:g} at most"
        )
    # The template's own, where this is a step of a run; what is typed goes before it.
    values["commands"] = {**commands_of_run(os.environ), **values["commands"]}
    typed = {flag: values.pop(flag.replace("-", "_")) for flag in _DECLARED}
    asked = {option.name: values.pop(option.name) for option in _PIPELINE}
    sources = ReadinessSources(
        **values,
        declared={flag: value for flag, value in typed.items() if value is not None},
        **_pipeline(GateOptions(**asked, profile=values["profile"])),
    )
    seen = measure(sources)
    path = output_json or _evidence_dir() / _readiness_name()
    with _evidence_written("readiness", acted=False):
        write_readiness(path, seen)
    for reading in seen.readings:
        say(f"{'✓' if reading.is_healthy else '✗'} {reading.sentence}")
    say(f"readiness {'ok' if seen.is_healthy else 'FAILED'}: {path}")
    return seen.exit_code


def _pipeline(options: GateOptions) -> dict[str, Any]:
    """What readiness may ask beside engine and Redis; passwords by environment or env file."""
    from ctp_runbook.gates.context import GateContext

    if not (options.bootstrap_servers or options.clickhouse_url or options.postgres_dsn):
        return {}
    context = GateContext.of(options, environ=os.environ, tell=say)
    return {
        "bootstrap_servers": options.bootstrap_servers,
        "clickhouse": context.clickhouse if options.clickhouse_url else None,
        "postgres": context.postgres if options.postgres_dsn else None,
    }


@contextlib.contextmanager
def _evidence_written(what: str, *, acted: bool) -> Iterator[None]:
    """Tell of evidence that cannot be written; a gate that acted has failed then."""
    from ctp_runbook.errors import RunEnded

    try:
        yield
    except OSError as error:
        raise RunEnded(
            f"{what}: no evidence: {error.filename}: {error.strerror}; name another place by a flag, "
            "or by CTP_EVIDENCE_DIR",
            exit_code=3 if acted else 2,
        ) from error


def _evidence_dir() -> Path:
    return Path(os.environ.get("CTP_EVIDENCE_DIR") or "outputs")


def _readiness_name() -> str:
    """The validation of a rollback writes a file of its own."""
    after = os.environ.get("CTP_STEP") == "post_rollback_validate"
    return f"ctp_readiness_{'rollback' if after else 'precheck'}.json"


class _InfraGroup(LateGroup):
    """A command a gate, ours and those that a plug-in brings, and the canary."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what is of that name, ours before whatever is installed."""
        from ctp_runbook.plan.gate_table import find_gate

        if cmd_name == "canary":
            return click_command(cmd_name, canary)
        gate = find_gate(cmd_name)
        return None if gate is None else _gate_command(gate)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name ours, and what is installed and can be used."""
        from ctp_runbook.plan.gate_table import GATES, usable_gates

        return sorted({"canary", *GATES, *(gate.name for gate in usable_gates())})


@click.group(cls=_InfraGroup)
def infra() -> None:
    """The infrastructure gates (RUNBOOK §4.1): dry run unless --execute."""


def _deadline(default: float) -> Option:
    return Option("--deadline-seconds FLOAT>0", default=default)


_EXECUTE = Option("--execute", "Act. Without it nothing is done.")
_ADDRESSES = (
    Option("--profile TEXT", default="single-host"),
    Option("--compose-file PATH"),
    Option("--project-name TEXT"),
    Option("--env-file PATH", "[default: infra/env/prodlike.env]"),
    Option("--infra PATH", "The folder of the wanted state  [default: infra]"),
    _BOOTSTRAP_SERVERS,
    _CLICKHOUSE_URL,
    Option("--connect-url URL", "Kafka Connect."),
    _POSTGRES_DSN,
    Option("--redis-url URL"),
)
_FLAGS = (
    *_ADDRESSES,
    Option("--endpoint NAME=URL...", name="endpoints"),
    Option("--output-file PATH", writes="file"),
    Option("--evidence-dir PATH", writes="folder"),
    Option("--probe", "Dry run: look for real, change nothing."),
    _EXECUTE,
)
_A_KEY = "A key that is otherwise here than in the connector files; no secrets."
# What one gate alone takes.
_MORE_FLAGS = {
    "debezium-connectors": (
        Option("--max-slot-wal-mib FLOAT>=1", default=1024.0, show_default=False),
        Option("--update NAME...", "Replace what drifted."),
        Option("--set KEY=VALUE...", _A_KEY, name="connector_set"),
    )
}


def _gate_command(gate: Gate) -> click.Command:
    def perform(**values: Any) -> int:
        from ctp_runbook.gates.gate import GateOptions, write_gate
        from ctp_runbook.gates.run import run_gate

        options = GateOptions(**values)
        result = run_gate(gate.name, options, environ=os.environ, tell=say)
        with _evidence_written(f"gate {gate.name}", acted=options.execute):
            write_gate(result, options, environ=os.environ)
        for step in result.steps:
            say(step.sentence)
        say(result.sentence)
        return result.exit_code

    options = (*_FLAGS, _deadline(gate.seconds), *_MORE_FLAGS.get(gate.name, ()))
    return click_command(gate.name, Command(perform, *options, help=gate.help))


@command(
    *_ADDRESSES,
    _deadline(30.0),
    _EXECUTE,
    Option("--runs INTEGER>=1", default=1),
    _OUTPUT_JSON,
)
def canary(runs: int, output_json: Path | None, **values: Any) -> int:
    """Send a marked record through the whole chain and time every hop."""
    from msgspec import json

    from ctp_runbook.gates.canary import fly_canaries
    from ctp_runbook.gates.context import GateContext
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.record.rundir import write_atomic

    context = GateContext.of(GateOptions(**values), environ=os.environ, tell=say)
    result = fly_canaries(context, runs=runs, run_id=os.environ.get("CTP_RUN_ID", ""))
    if output_json or not result.dry_run:
        path = output_json or _evidence_dir() / "ctp_canary.json"
        with _evidence_written("canary", acted=not result.dry_run):
            write_atomic(path, json.format(json.encode(result.file), indent=2) + b"\n")
    say(result.sentence)
    return result.exit_code
