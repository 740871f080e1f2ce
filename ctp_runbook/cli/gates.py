"""The gate commands: ``readiness`` and ``infra …`` (RUNBOOK §4)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ctp_runbook.cli.options import flags
from ctp_runbook.errors import PlanRefused
from ctp_runbook.plan.gate_table import GATE_GROUP, GATES, Gate, find_gate
from ctp_runbook.plan.plugins import installed_names

__all__ = ["canary", "infra", "readiness"]

_PATH = click.Path(path_type=Path)


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, joint, value in pairs:
        if not (name and joint and value):
            raise click.BadParameter(f"{name}{joint}{value}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command()
@click.option("--output-json", type=_PATH, help="[default: the run's evidence/]")
@click.option("--environment", default="single-host-ubuntu", show_default=True)
@click.option("--profile", default="", help="rehearsal: leave out what the twin does not have.")
@click.option("--metrics-url", default="", help="The engine's metrics page: measure there.")
@click.option("--redis-url", default="", help="redis://HOST:PORT: measure there.")
@click.option("--alive-cmd", default="", help="Exit 0: the core process is alive.")
@click.option("--bridge-client", multiple=True, help="A client name Redis must have.")
@click.option("--bridge-key", multiple=True, callback=_pairs, help="KEY=VALUE Redis must have.")
@click.option("--sli-cmd", multiple=True, callback=_pairs, help="SLI=COMMAND that prints it.")
@click.option("--env-file", type=_PATH, help="Passwords of what follows.")
@click.option("--bootstrap-servers", default="", metavar="HOST:PORT", help="Kafka.")
@click.option("--clickhouse-url", default="", metavar="URL")
@click.option("--postgres-dsn", default="", metavar="DSN", help="Without its password.")
@click.option("--query-latency-ms", help="Declared, not measured; refused by a real run.")
@click.option("--flow-control-hits", help="Declared.")
@click.option("--disconnect-recovery-success-rate", help="Declared.")
@click.option("--reject-classified-ratio", help="Declared.")
@click.option("--core-process-alive", help="Declared: true or false.")
@click.option("--redis-health", help="Declared.")
@click.option("--timescale-health", help="Declared.")
@click.option("--strategy-bridge-chain-status", help="Declared.")
def readiness(output_json: Path | None, **given: Any) -> int:
    """Measure the readiness SLIs and write them down (RUNBOOK §4.2)."""
    from ctp_runbook.gates.readiness import DECLARED_FLAGS, write_readiness
    from ctp_runbook.gates.readiness_probes import ReadinessSources, measure

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
            pipeline=_pipeline(given),
        )
    )
    path = output_json or _evidence_dir() / _readiness_name()
    write_readiness(path, found)
    for one in found.readings:
        click.echo(f"{'✓' if one.is_healthy else '✗'} {one.sentence}")
    click.echo(f"readiness {'ok' if found.is_healthy else 'FAILED'}: {path}")
    return found.exit_code


def _pipeline(given: Any) -> Any:
    """What readiness may ask beside engine and Redis; passwords by environment or env file."""
    from ctp_runbook.gates.context import GateContext
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.gates.readiness_probes import PipelineSources

    names = ("env_file", "profile", "bootstrap_servers", "clickhouse_url", "postgres_dsn")
    if not any(given[name] for name in names[2:]):
        return PipelineSources()
    options = GateOptions(**{name: given[name] for name in names})
    context = GateContext.of(options, environ=os.environ, tell=click.echo)
    return PipelineSources(
        bootstrap_servers=options.bootstrap_servers,
        clickhouse=context.clickhouse if options.clickhouse_url else None,
        postgres=context.postgres if options.postgres_dsn else None,
    )


def _evidence_dir() -> Path:
    return Path(os.environ.get("CTP_EVIDENCE_DIR") or "outputs")


def _readiness_name() -> str:
    """The validation of a rollback writes a file of its own."""
    after = os.environ.get("CTP_STEP") == "post_rollback_validate"
    return f"ctp_readiness_{'rollback' if after else 'precheck'}.json"


class _InfraGroup(click.Group):
    """The commands of the gates, and of those that a plug-in brings."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Ours, else whatever is installed under that name."""
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        gate = find_gate(cmd_name)
        return None if gate is None else _gate_command(gate)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours, and what is installed and can be used."""
        return sorted(
            {*super().list_commands(ctx), *filter(_is_usable, installed_names(GATE_GROUP))}
        )


def _is_usable(name: str) -> bool:
    try:
        return find_gate(name) is not None
    except PlanRefused:  # said to whoever names it; it hides no other gate
        return False


@click.group(cls=_InfraGroup)
def infra() -> None:
    """The infrastructure gates (RUNBOOK §4.1): dry run unless --execute."""


def _deadline(default: float) -> Callable[[Any], Any]:
    kind = click.FloatRange(min=0, min_open=True)
    return click.option("--deadline-seconds", type=kind, default=default, show_default=True)


_EXECUTE = click.option("--execute", is_flag=True, help="Act. Without it nothing is done.")
_ADDRESSES = (
    click.option("--profile", default="single-host", show_default=True),
    click.option("--compose-file", type=_PATH),
    click.option("--project-name", default=""),
    click.option("--env-file", type=_PATH, help="[default: infra/env/prodlike.env]"),
    click.option("--infra", type=_PATH, help="The folder of the wanted state  [default: infra]"),
    click.option("--bootstrap-servers", default="", metavar="HOST:PORT", help="Kafka."),
    click.option("--clickhouse-url", default="", metavar="URL"),
    click.option("--connect-url", default="", metavar="URL", help="Kafka Connect."),
    click.option("--postgres-dsn", default="", metavar="DSN", help="Without its password."),
    click.option("--redis-url", default="", metavar="URL"),
)
_FLAGS = (
    *_ADDRESSES,
    click.option("--endpoint", "endpoints", multiple=True, callback=_pairs, metavar="NAME=URL"),
    click.option("--output-file", type=_PATH),
    click.option("--evidence-dir", type=_PATH),
    click.option("--probe", is_flag=True, help="Dry run: look for real, change nothing."),
    _EXECUTE,
)
_CONNECTOR_FLAGS = (
    click.option("--max-slot-wal-mib", type=click.FloatRange(min=1), default=1024.0),
    click.option("--update", multiple=True, metavar="NAME", help="Replace what drifted."),
    click.option(
        "--set",
        "connector_set",
        multiple=True,
        callback=_pairs,
        metavar="KEY=VALUE",
        help="A key that is otherwise here than in the connector files; no secrets.",
    ),
)


# What one gate alone takes.
_MORE_FLAGS = {"debezium-connectors": _CONNECTOR_FLAGS}


def _gate_command(gate: Gate) -> click.Command:
    def command(**given: Any) -> int:
        from ctp_runbook.gates.gate import GateOptions, write_gate
        from ctp_runbook.gates.run import run_gate

        options = GateOptions(**given)
        result = run_gate(gate.name, options, environ=os.environ, tell=click.echo)
        write_gate(result, options, environ=os.environ)
        for step in result.steps:
            click.echo(step.sentence)
        click.echo(result.sentence)
        return result.exit_code

    more = (*_FLAGS, _deadline(gate.seconds), *_MORE_FLAGS.get(gate.name, ()))
    return click.command(gate.name, help=gate.help)(flags(*more)(command))


for _gate in GATES.values():
    infra.add_command(_gate_command(_gate))


@infra.command()
@flags(*_ADDRESSES, _deadline(30.0), _EXECUTE)
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--output-json", type=_PATH, help="[default: the run's evidence/]")
def canary(runs: int, output_json: Path | None, **given: Any) -> int:
    """Send a marked record through the whole chain and time every hop."""
    import json

    from ctp_runbook.gates.canary import fly_canaries
    from ctp_runbook.gates.context import GateContext
    from ctp_runbook.gates.gate import GateOptions
    from ctp_runbook.record.rundir import write_atomic

    context = GateContext.of(GateOptions(**given), environ=os.environ, tell=click.echo)
    result = fly_canaries(context, runs=runs, run_id=os.environ.get("CTP_RUN_ID", ""))
    if output_json or not result.dry_run:
        path = output_json or _evidence_dir() / "ctp_canary.json"
        write_atomic(path, (json.dumps(result.data(), indent=2) + "\n").encode())
    click.echo(result.sentence)
    return result.exit_code
