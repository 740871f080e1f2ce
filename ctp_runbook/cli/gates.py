"""The gate commands: ``readiness`` and ``infra …`` (RUNBOOK §4)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctp_runbook.cli.click_commands import click_command
from ctp_runbook.cli.options import Command, Option, command, say

if TYPE_CHECKING:
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.plan.gate_table import Gate

__all__ = ["canary", "infra", "readiness"]

_BOOTSTRAP_SERVERS = Option("--bootstrap-servers HOST:PORT", "Kafka.")
_CLICKHOUSE_URL = Option("--clickhouse-url URL")
_POSTGRES_DSN = Option("--postgres-dsn DSN", "Without its password.")
_OUTPUT_JSON = Option("--output-json PATH", "[default: the run's evidence/]")
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
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.gates.readiness import write_readiness
    from ctp_runbook.gates.readiness_probes import ReadinessSources, measure

    typed = {flag: values.pop(flag.replace("-", "_")) for flag in _DECLARED}
    asked = {option.name: values.pop(option.name) for option in _PIPELINE}
    sources = ReadinessSources(
        **values,
        declared={flag: value for flag, value in typed.items() if value is not None},
        **_pipeline(GateOptions(**asked, profile=values["profile"])),
    typed = {flag: given[flag.replace("-", "_")] for flag in DECLARED_FLAGS}
    found = measure(
        ReadinessSources(
            environment=given["environment"],
            profile=given["profile"],
            declared={flag: value for flag, value in typed.items() if value is not None},
            metrics_url=given["metrics_url"],
            redis_url=given["redis_url"],
            alive_command=given["alive_cmd"],
            bridge_clients=given["bridge_client"],
            bridge_keys=given["bridge_key"],
            commands=given["sli_cmd"],
            **_pipeline(given),
        )
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
def _pipeline(given: Any) -> dict[str, Any]:
    """What readiness may ask beside engine and Redis; passwords by environment or env file."""
    from ctp_runbook.gates.context import GateContext
    from ctp_runbook.gates.gate import GateOptions

    names = ("env_file", "profile", "bootstrap_servers", "clickhouse_url", "postgres_dsn")
    if not any(given[name] for name in names[2:]):
        return {}
    options = GateOptions(**{name: given[name] for name in names})
    context = GateContext.of(options, environ=os.environ, tell=click.echo)
    return {
        "bootstrap_servers": options.bootstrap_servers,
        "clickhouse": context.clickhouse if options.clickhouse_url else None,
        "postgres": context.postgres if options.postgres_dsn else None,
    }
