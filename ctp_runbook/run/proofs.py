"""Proofs of effect: what was stopped is gone, what was started lives and its session is usable.

Every look is written down with what each witness said. And the last resort of a rollback: to
end a member by its identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.pin import below, lookalikes, pin_process, survivors
from ctp_runbook.host.process import end_processes, identity_of, is_running
from ctp_runbook.model import Identity, Member, Role, Step, StepKind
from ctp_runbook.plan.step_table import start_steps
from ctp_runbook.record.history import pinned
from ctp_runbook.run.context import RunContext

if TYPE_CHECKING:
    # The probes are not needed, and so not paid for, in a dry run.
    from ctp_runbook.probes.liveness import Liveness

__all__ = [
    "end_member",
    "gone_gap",
    "observe",
    "pin_anew",
    "pin_member",
    "proof_for",
    "second_of",
    "session_gap",
    "shows_life",
    "start_gap",
]

_LEAST_ASK_SECONDS = 0.5


def observe(
    context: RunContext, member: Member, *, question: str, deadline: float | None = None
) -> Liveness:
    """Look at a member once with every witness and write down what they said.

    The alive command is given ``alive_timeout_seconds``, less where ``deadline`` comes first.
    """
    from ctp_runbook.probes.liveness import observe_member

    pin = context.history.pins.get(member.name)
    alike = _lookalikes(context, member)
    seen = observe_member(
        member,
        known=pin.identity if pin else None,
        cwd=context.cwd,
        env=context.environment_of(),
        seconds=_seconds_to_ask(context, deadline),
        leftovers=_started_processes(context, member),
        survivors=tuple(one.pid for one in survivors(pin)) if pin else (),
        lookalikes=None if alike is None else tuple(one.pid for one in alike),
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


def shows_life(context: RunContext, member: Member) -> bool:
    """A glance at a member that was proved gone: a suspicion, to be followed by ``observe``."""
    from ctp_runbook.probes.liveness import shows_by_name_or_port

    pin = context.history.pins.get(member.name)
    known = pin.identity if pin else None
    return (
        bool(pin and survivors(pin))
        or bool(_lookalikes(context, member))
        or shows_by_name_or_port(member, known=known, cwd=context.cwd)
    )


def _lookalikes(context: RunContext, member: Member) -> tuple[Identity, ...] | None:
    """Who runs as the member ran and is not accounted for; None where it was never pinned."""
    pins = dict(context.history.pins)
    pin = pins.pop(member.name, None)
    if pin is None:
        return None
    parent = context.history.parent
    run_ids = [context.run.run_id, *([str(parent.payload["run_id"])] if parent else [])]
    return lookalikes(pin, run_ids=run_ids, others=[one.identity for one in pins.values()])


def second_of(context: RunContext, member: Member) -> tuple[int, ...]:
    """Pids of whoever runs as a living member does and is neither it nor below it: a supervisor
    that starts what lies where the old engine lay starts a second new one."""
    pin = context.history.pins.get(member.name)
    alike = _lookalikes(context, member) or ()
    own = set(below(pin.identity)) if pin and alike else set()
    return tuple(one.pid for one in alike if one not in own)


def _seconds_to_ask(context: RunContext, deadline: float | None) -> float:
    """How long a probe's command may take; a little even past the deadline, to ask at all."""
    seconds = context.plan.limits.alive_timeout_seconds
    if deadline is None:
        return seconds
    return min(seconds, max(_LEAST_ASK_SECONDS, deadline - time.monotonic()))


def _started_processes(context: RunContext, member: Member) -> tuple[int, ...]:
    """What the start of the member left running; nothing where it was never begun."""
    from ctp_runbook.probes.liveness import processes_of_step

    steps = start_steps(member.generation, member.role)
    begun = tuple(name for name in steps if context.history.step(name).attempt)
    found = processes_of_step(context.run.run_id, begun) if begun else ()
    # What a completed run started carries that run's id, and is this one's to undo.
    if parent := context.history.parent:
        found += processes_of_step(str(parent.payload["run_id"]), steps)
    return found


def gone_gap(context: RunContext, member: Member, *, deadline: float | None = None) -> str:
    """Why the member is not proved gone by ``deadline``, or nothing. Asks at least once.

    Without a deadline it asks once, and waits for the answer as long as one may take.
    """
    while True:
        seen = observe(context, member, question="gone", deadline=deadline)
        if seen.is_gone:
            return ""
        if deadline is None or time.monotonic() >= deadline or context.interrupt():
            return seen.sentence
        time.sleep(context.plan.limits.effect_poll_seconds)


def start_gap(context: RunContext, member: Member, *, deadline: float) -> str:
    """Why the member is not proved up by ``deadline``, or nothing.

    Up means alive with its identity (it is pinned), and for an engine a verified session. A
    member that is proved gone past the grace is not waited for.
    """
    limits = context.plan.limits
    began = time.monotonic()
    while True:
        seen = observe(context, member, question="alive", deadline=deadline)
        why = seen.sentence
        if seen.is_alive:
            pin_member(context, member, seen.process, anew=False)
            why = session_gap(context, member, deadline=deadline)
            if not why:
                # Once more, with what it has started by now.
                pin_member(context, member, seen.process)
                return ""
        elif seen.is_gone and time.monotonic() - began > limits.proof_grace_seconds:
            return f"it is not there after its start: {why}"
        if time.monotonic() >= deadline or (interrupted := context.interrupt()):
            return interrupted if time.monotonic() < deadline else why
        time.sleep(limits.effect_poll_seconds)


def pin_member(
    context: RunContext, member: Member, process: Identity | None, *, anew: bool = True
) -> None:
    """Write down whose process a member is, as the system tells it, unless the journal has it so.

    ``anew`` looks again at a process that is pinned already: a shell has become the program it was
    to start, and has started others. Nothing is pinned where there is no process.
    """
    known = context.history.pins.get(member.name)
    if process is None or (known and known.identity == process and not anew):
        return
    pin = pin_process(process, before=known)
    if pin == known:
        return
    context.record(pinned(member.name, member.unit, pin))
    if known is None and pin.bystanders:
        pids = tuple(one.pid for one in pin.bystanders)
        told = (
            f"{pids} run with the executable and command line of {member.name} ({process}) and are "
            "taken for others: if one of them is a second one of it, end the run and that process"
        )
        context.record("finding", severity="warning", sentence=told)


def pin_anew(context: RunContext, member: Member) -> None:
    """Look again at a pinned process that is about to be stopped: what it has started since then
    would outlive it unseen."""
    pin = context.history.pins.get(member.name)
    if pin is not None and is_running(pin.identity):
        pin_member(context, member, pin.identity)


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
    """TERM, then KILL, to all that is known to be the member, and to what its start left behind.

    That is what was pinned, what ran below it, what its pid file or unit names, and what has its
    command line. The graces are cut to what is left until ``deadline`` (monotonic seconds).
    """
    running = _processes_of(context, member)
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


def _processes_of(context: RunContext, member: Member) -> tuple[Identity, ...]:
    from ctp_runbook.probes.liveness import recorded_identity

    pin = context.history.pins.get(member.name)
    pinned = (pin.identity, *pin.tree) if pin else ()
    alike = _lookalikes(context, member) or ()
    left = map(identity_of, _started_processes(context, member))
    wanted = {*pinned, *alike, *left, recorded_identity(member, cwd=context.cwd)}
    return tuple(one for one in wanted if one is not None and is_running(one))


def proof_for(context: RunContext, step: Step) -> Callable[[float], str] | None:
    """The proof that belongs to a step's kind; None where exit 0 is all there is to prove."""
    if step.acts_on is None or step.kind not in (StepKind.STOP, StepKind.START):
        return None
    member = context.plan.member(*step.acts_on)
    prove = gone_gap if step.kind is StepKind.STOP else start_gap
    return lambda deadline: prove(context, member, deadline=deadline)
