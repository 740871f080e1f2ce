"""Run a gate: find its tasks, do them within the deadline, fold them into a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import (
    GATES,
    Gate,
    GateOptions,
    GateResult,
    GateStep,
    Task,
    observing,
    perform,
)
from ctp_runbook.model import StepStatus

__all__ = ["run_gate"]


def run_gate(
    name: str,
    options: GateOptions,
    *,
    environ: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> GateResult:
    """Do a gate's tasks, or (without ``execute``) say what they would be.

    ``tell`` gets a line of progress now and then.
    """
    gate = GATES[name]
    context = GateContext.of(options, environ=os.environ if environ is None else environ, tell=tell)
    tasks = _given(options) if options.observers else _tasks(gate, context)
    if not tasks:
        steps: tuple[GateStep, ...] = (_without_task(gate, options),)
    else:
        steps = perform(tasks, execute=options.execute, probe=options.probe)
    return context.redacted(GateResult(gate, not options.execute, steps))


def _given(options: GateOptions) -> tuple[Task, ...]:
    return tuple(observing(one) for one in options.observers)


def _tasks(gate: Gate, context: GateContext) -> tuple[Task, ...]:
    """What the flags and the environment make of a gate. Imports only what the gate needs."""
    if gate.component == "kafka":
        from ctp_runbook.gates.kafka import kafka_tasks

        return kafka_tasks(context)
    if gate.component == "clickhouse":
        from ctp_runbook.gates.clickhouse import clickhouse_tasks

        return clickhouse_tasks(context)
    if gate.component == "debezium":
        from ctp_runbook.gates.connectors import connector_tasks

        return connector_tasks(context)
    from ctp_runbook.gates.bootstrap import bootstrap_tasks

    return bootstrap_tasks(context)


def _without_task(gate: Gate, options: GateOptions) -> GateStep:
    """Nothing to ask: the twin has no such component; anywhere else that is a failure."""
    name = f"observe_{gate.component}"
    if options.is_rehearsal and gate.component != "services":
        reason = f"not in this environment: the rehearsal twin has no {gate.component} yet"
        return GateStep(name, StepStatus.SKIPPED, 0.0, f"no {gate.component} to ask", reason=reason)
    flag = _FLAGS.get(gate.component, "--compose-file FILE or --endpoint NAME=URL")
    status = StepStatus.FAILED if options.execute or options.probe else StepStatus.SIMULATED_OK
    reason = (
        f"no observer for {gate.component} under profile {options.profile or '(none)'}; "
        f"name it with {flag}: nothing unobserved passes"
    )
    return GateStep(name, status, 0.0, f"no observer for {gate.component}", reason=reason)


_FLAGS: Mapping[str, str] = {
    "kafka": "--bootstrap-servers HOST:PORT",
    "clickhouse": "--clickhouse-url http://HOST:PORT",
    "debezium": "--connect-url http://HOST:PORT",
}
