"""Gates, READY and the switch: what happens before the watch, in the runbook's order."""

from __future__ import annotations

from collections.abc import Callable

from ctp_runbook.model import Generation, Identity, Role, Step, StepKind, StepStatus
from ctp_runbook.plan.template_keys import NOT_MEASURABLE
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.handover import handover_gap, settle_before_stop, unreadable_state
from ctp_runbook.run.proofs import (
    gone_gap,
    new_source_gap,
    observe,
    old_session_gap,
    pin_anew,
    pin_member,
    proof_for,
    session_gap,
)
from ctp_runbook.run.steps import StepResult, run_step, skip_step

__all__ = [
    "generation_gone_gap",
    "probe_gaps",
    "readiness_proof",
    "ready_gaps",
    "run_gates",
    "run_switch",
    "session_gaps",
    "state_gaps",
    "warn_of_revival",
]


def run_gates(context: RunContext) -> StepResult | None:
    """Run the gates in order; the first that fails, or None. The old stack is not touched."""
    for step in context.plan.gates:
        prove = None
        if step.name == "precheck":
            prove = readiness_proof(context, "ctp_readiness_precheck.json")
        result = run_step(context, step, deadline=_due(context, step), prove=prove)
        if not result.is_ok:
            return result
    return None


def readiness_proof(context: RunContext, name: str) -> Callable[[float], str]:
    """The exit code of a readiness command is not enough: the file it wrote is judged here.

    The same proof before the switch and after the rollback. Call it right before the command.
    """
    # A file of before the command was left by another run, and speaks of another day.
    began = context.world.clock.wall()

    def prove(deadline: float) -> str:
        from ctp_runbook.gates.readiness import judge_readiness_file
        from ctp_runbook.gates.readiness_probes import add_commands

        path, plan = context.run.evidence / name, context.plan
        if commands := plan.readiness_commands:
            # Whatever wrote the file, and it need not be ours: what the template names is asked.
            add_commands(path, commands, **context.asking(deadline=deadline))
        excused = [sli for sli, text in commands.items() if text.startswith(NOT_MEASURABLE)]
        findings = judge_readiness_file(
            path, real=True, since=began, rehearsal=plan.is_rehearsal, excused=excused
        )
        return "; ".join(findings)

    return prove


def ready_gaps(context: RunContext) -> list[str]:
    """What speaks against touching the old stack now: it must live, and the new one be gone.

    The old generation is pinned while it is known to be well: later its pid files may be gone,
    and its stop commands are believed in nothing. What cannot be pinned is not stopped.
    """
    gaps = []
    for member in context.plan.members_of(Generation.OLD):
        seen = observe(context, member, question="alive")
        if seen.is_alive:
            pin_member(context, member, seen.process)
        else:
            gaps.append(f"expected alive: {seen.sentence}")
    gaps += [*_pin_gaps(context), *_stop_gaps(context)]
    gaps += [*state_gaps(context), *session_gaps(context)]
    if gone := generation_gone_gap(context, Generation.NEW):
        return [*gaps, f"expected gone: {gone}"]
    if why := new_source_gap(context):
        gaps.append(f"expected a command that tells the session of the new engine: {why}")
    return gaps


def _pin_gaps(context: RunContext) -> list[str]:
    """What was pinned and is not the member itself: it could be gone, and the member trade."""
    gaps, owners = [], dict[Identity, str]()
    for member in context.plan.members_of(Generation.OLD):
        if (pin := context.history.pins.get(member.name)) is None:
            continue
        if why := context.world.supervisors.gap_in_pin(member, pin):
            gaps.append(f"expected the member's own process: {why}")
        first = owners.setdefault(pin.identity, member.name)
        if first != member.name:
            gaps.append(
                f"expected two processes: {first} and {member.name} are both {pin.identity}, and the stop of "
                "the one would stop the other; where strategies run in the engine, write "
                "OLD_STRATEGY_RUNNER=none"
            )
    return gaps


def _stop_gaps(context: RunContext) -> list[str]:
    """Commands that would end who conducts the run, and leave nobody to start anything."""
    steps = (*context.plan.switch, *context.plan.rollback)
    return [
        f"expected a command that ends its own member: {step.key}: {why}; name the process by its pid"
        for step in steps
        if not step.skipped and (why := context.world.supervisors.ends_this_tool(step.command))
    ]


def session_gaps(context: RunContext, *, verified: bool = False) -> list[str]:
    """What speaks against the first stop where nobody could say after a rollback that the old engine
    may be given orders: it would run, and count as not trading."""
    if why := old_session_gap(context, verified=verified):
        return [f"expected a session of the old engine that can be proved again: {why}"]
    return []


def warn_of_revival(context: RunContext, generation: Generation = Generation.OLD) -> None:
    """Tell who of a generation may not end or not stay ended when its stop commands have run: of the old
    one while nothing is touched, of the new one before a rollback needs them."""
    # Told and not refused: a supervisor that the stop command ends first is none of these, and from
    # outside that cannot be seen.
    for step in (*context.plan.switch, *context.plan.rollback):
        if step.kind is not StepKind.STOP or step.acts_on is None or step.skipped:
            continue
        if step.acts_on[0] is not generation:
            continue
        member = context.plan.member(*step.acts_on)
        if (pin := context.history.pins.get(member.name)) is None:
            continue
        signs = context.world.supervisors.signs_of_revival(
            member,
            pin,
            stop_command=step.command,
            seconds=context.plan.limits.alive_timeout_seconds,
            interrupt=context.interrupt,
        )
        for sentence in signs:
            context.warn(sentence)


def state_gaps(context: RunContext) -> list[str]:
    """What speaks against the first stop where TRADING_STATE_CMD is there to tell."""
    if why := unreadable_state(context):
        return [f"expected to know what the old engine holds before anything is stopped: {why}"]
    return []


def probe_gaps(context: RunContext) -> list[str]:
    """Every read-only probe, for real: who lives, whose session is usable, who answers."""
    from ctp_runbook.errors import ProbeError

    gaps = ready_gaps(context)
    warn_of_revival(context)
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    why = session_gap(context, engine)
    # READY asks it too, where a rollback could not prove it again: one cause is told once.
    if why and not any(why in gap for gap in gaps):
        gaps.append(f"expected a verified session of {engine.name}: {why}")
    gaps += _readiness_gaps(context)
    if engine.metrics_url:
        try:
            seconds = context.plan.limits.alive_timeout_seconds
            context.world.pages.fetch(engine.metrics_url, seconds=seconds)
        except ProbeError as error:
            gaps.append(f"expected the old engine's metrics page: {error}")
    return gaps


def _readiness_gaps(context: RunContext) -> list[str]:
    """READINESS commands that measure nothing here and now: the precheck would find out as late as
    that, and the validation of a rollback later still."""
    from ctp_runbook.gates.readiness_probes import by_command

    gaps = []
    for sli, command in context.plan.readiness_commands.items():
        reading = by_command(sli, command, **context.asking())
        if reading.value is None and not reading.is_excused:
            gaps.append(f"expected a value of {sli} by its READINESS command: {reading.detail}")
    return gaps


def generation_gone_gap(
    context: RunContext, generation: Generation, *, deadline: float | None = None
) -> str:
    """Why a part of ``generation`` is not proved gone, or nothing (invariant 1).

    Looks once at each part, or where there is a ``deadline`` until then: what was gone a moment
    ago may only have been asked badly.
    """
    for member in context.plan.members_of(generation):
        if gap := gone_gap(context, member, deadline=deadline):
            return gap
    return ""


def run_switch(context: RunContext) -> StepResult | None:
    """Old generation out, new generation in; the first step that failed, or None."""
    for step in context.plan.switch:
        if step.skipped:
            skip_step(context, step, reason=step.skipped)
            continue
        began, deadline = context.world.clock.mono(), _due(context, step)
        if gap := _gap_before(context, step, deadline=deadline):
            # Nothing was begun, and yet cancels may have been waited for: trading rests meanwhile.
            took = (context.world.clock.mono() - began) * 1000
            return skip_step(context, step, reason=gap, status=StepStatus.FAILED, duration_ms=took)
        if step.kind is StepKind.STOP and step.acts_on is not None:
            # READY may be an hour ago: what a supervisor has started since is pinned only now, and
            # once the stop has begun nobody can say any more whose it was.
            pin_anew(context, context.plan.member(*step.acts_on))
        result = run_step(context, step, deadline=deadline, prove=_proof(context, step))
        if not result.is_ok:
            return result
    return None


def _due(context: RunContext, step: Step) -> float:
    return context.world.clock.mono() + step.timeout_seconds


def _gap_before(context: RunContext, step: Step, *, deadline: float) -> str:
    """Why the step must not be begun, or nothing."""
    # At each start anew, and not once after the stops: a supervisor may have brought the old engine
    # back meanwhile, and two generations with one account send orders against each other.
    if step.kind is StepKind.START and (gap := generation_gone_gap(context, Generation.OLD)):
        return f"not started, for the old generation is not proved gone: {gap}"
    if step.acts_on == (Generation.OLD, Role.CORE_ENGINE):
        return settle_before_stop(context, deadline=deadline)
    return ""


def _proof(context: RunContext, step: Step) -> Callable[[float], str] | None:
    """The new engine must also continue what the old one left."""
    prove = proof_for(context, step)
    if prove is None or step.acts_on != (Generation.NEW, Role.CORE_ENGINE):
        return prove
    return lambda deadline: prove(deadline) or handover_gap(context, deadline=deadline)
