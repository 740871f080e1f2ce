"""Run a gate: find its tasks, do them within the deadline, fold them into a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ctp_runbook.errors import RunRefused
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult, GateStep, perform
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES, Gate, find_gate
from ctp_runbook.plan.plugins import load_named

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
    if (gate := find_gate(name)) is None:
        raise RunRefused(f"no gate is named {name!r}; there are {', '.join(GATES)}")
    context = GateContext.of(options, environ=os.environ if environ is None else environ, tell=tell)
    # A gate imports only what it needs, and only when it is run.
    tasks = load_named(gate.performer)(context)
    steps = perform(
        tasks, execute=options.execute, probe=options.probe, reason_of=context.deadline.reason
    )
    # Redacted here, once: whatever a task says goes to evidence and terminal from this result.
    result = GateResult(gate, not options.execute, steps or (_step_without_task(gate, options),))
    return context.redacted(result)


def _step_without_task(gate: Gate, options: GateOptions) -> GateStep:
    """Return what to say where nobody is to be asked: in the twin skipped, elsewhere a failure."""
    name = f"observe_{gate.component}"
    if options.is_rehearsal and gate.is_optional_in_twin:
        reason = f"not in this environment: the rehearsal twin has no {gate.component} yet"
        return GateStep(name, StepStatus.SKIPPED, 0.0, f"no {gate.component} to ask", reason=reason)
    flag = gate.address or f"--endpoint {gate.component}=URL"
    status = StepStatus.FAILED if options.execute or options.probe else StepStatus.SIMULATED_OK
    question = f"no observer for {gate.component}"
    reason = (
        f"{question} under profile {options.profile or '(none)'}; name it with {flag}: nothing "
        "unobserved passes"
    )
    return GateStep(name, status, 0.0, question, reason=reason)
