"""Proofs of effect: what was stopped is gone, what was started lives and its session is usable.

Every look is written down with what each witness said. And the last resort of a rollback: to
end a member by its identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Identity, Member, Role, Step, StepKind
from ctp_runbook.process import end_processes, identity_of, is_running
from ctp_runbook.steps import RunContext

if TYPE_CHECKING:
    # The probes are not needed, and so not paid for, in a dry run.
    from ctp_runbook.probes.liveness import Liveness

__all__ = [
    "end_member",
    "observe",
    "prove_for",
    "prove_gone",
    "prove_started",
    "record_identity",
    "session_gap",
]

_LEAST_ASK_SECONDS = 0.15
_START_STEPS = {
    Generation.NEW: {
        Role.CORE_ENGINE: ("start_new_core_engine",),
        Role.STRATEGY_RUNNER: ("start_new_strategy_runner",),
    },
    Generation.OLD: {
        Role.CORE_ENGINE: ("start_previous_core_engine",),
        Role.STRATEGY_RUNNER: ("start_previous_strategy_runner",),
    },
}


def observe(
    context: RunContext, member: Member, *, question: str, deadline: float | None = None
) -> Liveness:
    """Look at a member once with every witness and write down what they said.

    The alive command is given ``alive_timeout_seconds``, less where ``deadline`` comes first.
    """
    from ctp_runbook.probes.liveness import observe_member

    seen = observe_member(
        member,
        known=context.history.identities.get(member.name),
        cwd=context.cwd,
        env=context.environment_of(),
        seconds=_seconds_to_ask(context, deadline),
        leftovers=_started_processes(context, member),
        interrupt=context.interrupt,
    )
    context.record(
        "probe",
        subject=member.name,
        question=question,
        ok=seen.is_alive if question == "alive" else seen.is_gone,
        observed=seen.sentence,
        expected=question,
    )
    return seen


def _seconds_to_ask(context: RunContext, deadline: float | None) -> float:
    """How long a probe's command may take; a little even past the deadline, to ask at all."""
    seconds = context.plan.limits.alive_timeout_seconds
    if deadline is None:
        return seconds
    return min(seconds, max(_LEAST_ASK_SECONDS, deadline - time.monotonic()))


def _started_processes(context: RunContext, member: Member) -> tuple[int, ...]:
    """What the start of the member left running; nothing where it was never begun."""
    from ctp_runbook.probes.liveness import processes_of_step

    steps = _START_STEPS[member.generation][member.role]
    begun = tuple(name for name in steps if context.history.step(name).attempt)
    found = processes_of_step(context.run.run_id, begun) if begun else ()
    # What a completed run started carries that run's id, and is this one's to undo.
    if parent := context.history.parent:
        found += processes_of_step(str(parent.payload["run_id"]), steps)
    return found


def prove_gone(context: RunContext, member: Member, *, deadline: float) -> str:
    """Why the member is not proved gone by ``deadline``, or nothing. Asks at least once."""
    while True:
        seen = observe(context, member, question="gone", deadline=deadline)
        if seen.is_gone:
            return ""
        if time.monotonic() >= deadline or context.interrupt():
            return seen.sentence
        time.sleep(context.plan.limits.effect_poll_seconds)


def prove_started(context: RunContext, member: Member, *, deadline: float) -> str:
    """Why the member is not proved up by ``deadline``, or nothing.

    Up means alive with its identity (which is written down), and for an engine a verified
    session. A member that is proved gone past the grace is not waited for.
    """
    limits = context.plan.limits
    began = time.monotonic()
    while True:
        seen = observe(context, member, question="alive", deadline=deadline)
        why = seen.sentence
        if seen.is_alive:
            record_identity(context, member, seen.identity)
            why = session_gap(context, member, deadline=deadline)
            if not why:
                return ""
        elif seen.is_gone and time.monotonic() - began > limits.proof_grace_seconds:
            return f"it is not there after its start: {why}"
        if time.monotonic() >= deadline or (interrupted := context.interrupt()):
            return interrupted if time.monotonic() < deadline else why
        time.sleep(limits.effect_poll_seconds)


def record_identity(context: RunContext, member: Member, identity: Identity | None) -> None:
    """Write down who a member is, unless nobody can tell, or the journal has it so already."""
    if identity is None:
        return
    known = context.history.identities.get(member.name)
    if known is None or (known.pid, known.start_ticks) != (identity.pid, identity.start_ticks):
        context.record(
            "identity",
            member=member.name,
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            unit=member.unit,
        )


def session_gap(context: RunContext, member: Member, *, deadline: float | None = None) -> str:
    """Why an engine's session is not verified, or nothing (always for a runner)."""
    if member.role is not Role.CORE_ENGINE:
        return ""
    from ctp_runbook.probes.session import read_session

    try:
        session = read_session(
            member,
            command=context.plan.trading_state_command,
            cwd=context.cwd,
            env=context.environment_of(),
            seconds=_seconds_to_ask(context, deadline),
            interrupt=context.interrupt,
        )
    except ProbeError as error:
        observed, ok = str(error), False
    else:
        observed, ok = session.sentence, session.is_verified
    context.record(
        "probe",
        subject=member.name,
        question="session",
        ok=ok,
        observed=observed,
        expected="TD and MD logged in, settlement confirmed, private stream drained",
    )
    return "" if ok else observed


def end_member(context: RunContext, member: Member, *, deadline: float) -> None:
    """TERM, then KILL, to the member's known identity and to what its start left behind.

    The graces are cut to what is left until ``deadline`` (monotonic seconds).
    """
    from ctp_runbook.probes.liveness import recorded_identity

    left = _started_processes(context, member)
    journaled = context.history.identities.get(member.name)
    known = [journaled, recorded_identity(member, cwd=context.cwd)]
    wanted = {one for one in (*known, *map(identity_of, left)) if one is not None}
    running = tuple(one for one in wanted if is_running(one))
    limits = context.plan.limits
    available = max(0.2, (deadline - time.monotonic()) / 2)
    stuck = end_processes(
        running,
        term_grace=min(limits.term_grace_seconds, available),
        kill_grace=min(limits.kill_grace_seconds, available),
        meanwhile=context.interrupt,
    )
    for identity in running:
        told = "still running" if identity in stuck else "gone"
        sentence = f"{member.name}: ended {identity} by signal: {told}"
        context.record("finding", severity="warning", sentence=sentence)


def prove_for(context: RunContext, step: Step) -> Callable[[float], str] | None:
    """The proof that belongs to a step's kind; None where exit 0 is all there is to prove."""
    if step.acts_on is None or step.kind not in (StepKind.STOP, StepKind.START):
        return None
    member = context.plan.member(*step.acts_on)
    prove = prove_gone if step.kind is StepKind.STOP else prove_started
    return lambda deadline: prove(context, member, deadline=deadline)
