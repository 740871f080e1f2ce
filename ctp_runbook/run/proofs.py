"""Proofs of effect: what was stopped is gone, what was started lives and its session is usable.

Every look is written down with what each witness said. And the last resort of a rollback: to
end a member by its identity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Identity, Member, Role, Step, StepKind
from ctp_runbook.plan.shell.commands import never_ran
from ctp_runbook.plan.step_table import start_steps
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.kinds import (
    Finding,
    GuardianFacts,
    GuardianStarted,
    OrchestratorStarted,
    ProbeAnswered,
    StepStarted,
)
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.world import World

if TYPE_CHECKING:
    # The probes are not needed, and so not paid for, in a dry run.
    from ctp_runbook.probes.liveness import Liveness
    from ctp_runbook.probes.session import SessionFacts

__all__ = [
    "Ended",
    "Permission",
    "end_member",
    "end_seconds",
    "gone_gap",
    "is_ending",
    "is_said_alive",
    "lookalikes_of",
    "new_source_gap",
    "observe",
    "old_session_gap",
    "permission_of",
    "pin_anew",
    "pin_member",
    "proof_for",
    "runs_again",
    "second_of",
    "session_gap",
    "shows_life",
    "start_gap",
]

# What is expected of a session: as TRADING_STATE_CMD and our page tell it, and as sources do.
_STATED = "TD and MD logged in, settlement confirmed, private stream drained"
_DECLARED = "TD and MD logged in, settlement confirmed, recovered, and not Blocked"
# Of the time left, TERM and KILL get half each, and never less than lets a healthy process go.
_LEAST_GRACE_SECONDS = 0.2


def observe(
    context: RunContext, member: Member, *, question: str, deadline: float | None = None
) -> Liveness:
    """Look at a member once with every witness and write down what they said.

    The alive command is given ``alive_timeout_seconds``, less where ``deadline`` comes first.
    """
    pin = context.history.pins.get(member.name)
    alike = _lookalikes(context, member)
    below = _survivors(context, member)
    seen = context.world.witnesses.observe_member(
        member,
        known=pin.identity if pin else None,
        leftovers=_started_processes(context, member),
        survivors=_pids(below),
        lookalikes=None if alike is None else _pids(alike),
        **context.asking(deadline=deadline),
    )
    context.record(
        ProbeAnswered(
            subject=member.name,
            question=question,
            ok=seen.is_alive if question == "alive" else seen.is_gone,
            observed=seen.sentence,
            expected=question,
        )
    )
    return seen


def shows_life(context: RunContext, member: Member) -> bool:
    """A glance at a member that was proved gone: a suspicion, to be followed by ``observe``."""
    world, pin = context.world, context.history.pins.get(member.name)
    return (
        bool(_survivors(context, member))
        or bool(_lookalikes(context, member))
        or world.witnesses.shows_by_name_or_port(
            member, known=pin.identity if pin else None, cwd=context.cwd
        )
    )


def is_said_alive(context: RunContext, member: Member, *, seconds: float) -> bool:
    """Whether a member's alive command says that it lives, asked so long and written down nowhere."""
    asked = context.asking()
    asked["seconds"] = min(seconds, asked["seconds"])
    pin = context.history.pins.get(member.name)
    seen = context.world.witnesses.observe_member(
        member, known=pin.identity if pin else None, **asked
    )
    return seen.command == 0


def _survivors(context: RunContext, member: Member) -> tuple[Identity, ...]:
    """Who still runs of what was below a member, but for another member that it has started: that
    one is stopped by its own step, and with what is below it is kept by its own pin."""
    pins = dict(context.history.pins)
    if (pin := pins.pop(member.name, None)) is None:
        return ()
    left = context.world.pins.survivors(pin)
    theirs = {
        each
        for other in pins.values()
        if other.identity in pin.tree
        for each in (other.identity, *context.world.pins.survivors(other))
    }
    return tuple(each for each in left if each not in theirs)


def _lookalikes(context: RunContext, member: Member) -> tuple[Identity, ...] | None:
    """Who runs as the member ran and is not accounted for; None where it was never pinned."""
    return lookalikes_of(
        context.history, member.name, run_ids=_run_ids(context), world=context.world
    )


def lookalikes_of(
    history: History, name: str, *, run_ids: Collection[str], world: World
) -> tuple[Identity, ...] | None:
    """The same by a history alone."""
    pins = dict(history.pins)
    pin = pins.pop(name, None)
    if pin is None:
        return None
    others = [other.identity for other in pins.values()]
    starts: list[str] = []
    for generation in Generation:
        for role in Role:
            other = pins.get(f"{generation}_{role}")
            # Who is started is not pinned yet, or looks the same (a binary replaced in place). Once
            # it is known and looks otherwise, its start has no business with this member.
            if other is None or pin.shares_line(other):
                starts += start_steps(generation, role)
    return world.pins.lookalikes(pin, run_ids=run_ids, others=others, starts=starts)


def _run_ids(context: RunContext) -> list[str]:
    """This run's id, and that of the completed run it undoes: what carries it is ours too."""
    parent = context.history.parent
    return [context.run.run_id, parent.payload.run_id] if parent else [context.run.run_id]


def second_of(context: RunContext, member: Member) -> tuple[int, ...]:
    """Pids of whoever runs as a living member does and is neither it nor below it: a supervisor
    that starts what lies where the old engine lay starts a second new one."""
    return _pids(_seconds_of(context, member))


def _seconds_of(context: RunContext, member: Member) -> tuple[Identity, ...]:
    pin = context.history.pins.get(member.name)
    alike = _lookalikes(context, member)
    if pin is None or not alike:
        return ()
    # A worker that it forked runs by the same line, and is part of it.
    own = context.world.pins.below(pin.identity)
    return tuple(identity for identity in alike if identity not in own)


def end_seconds(context: RunContext, member: Member, *, deadline: float) -> bool:
    """End whoever runs as a living member does beside it by ``deadline``; True where there was
    somebody."""
    if not (seconds := _seconds_of(context, member)):
        return False
    pids = _pids(seconds)
    context.warn(f"{member.name} runs twice: {pids}, which no step of ours started, are ended")
    most = max(_LEAST_GRACE_SECONDS, (deadline - context.world.clock.mono()) / 2)
    graces = context.graces(most=most)
    context.world.processes.end_processes(seconds, **graces, meanwhile=context.interrupt)
    return True


def runs_again(context: RunContext, member: Member) -> tuple[Identity, ...]:
    """Who runs as a member ran, where all that was known to be it is gone: somebody starts it
    again, and neither its pid file nor any step of ours knows of it."""
    world, pin = context.world, context.history.pins.get(member.name)
    if pin is None or world.processes.is_running(pin.identity):
        return ()
    if _survivors(context, member) or _started_processes(context, member):
        return ()
    return _lookalikes(context, member) or ()


def _started_processes(context: RunContext, member: Member) -> tuple[int, ...]:
    """What the start of the member left running; nothing where it was never begun."""
    of_step = context.world.witnesses.processes_of_step
    steps = start_steps(member.generation, member.role)
    begun = tuple(name for name in steps if context.history.step(name).attempt)
    own, *parents = _run_ids(context)
    pids = of_step(own, begun) if begun else ()
    pids += tuple(each.pid for each in _orphans_of(context, begun) if each.pid not in pids)
    # A completed run's journal is not this one's: any start of it may have left something.
    return pids + tuple(pid for run_id in parents for pid in of_step(run_id, steps))


def _orphans_of(context: RunContext, steps: tuple[str, ...]) -> Iterator[Identity]:
    """What those steps left to the guardian, which adopts whoever has lost its parent: `su -`, sudo and
    `env -i` take the environment away by which a step's processes are known, and a session of their
    own tells nothing either. Whose they are is told by when they were born: from the start of the
    step until the next one's."""
    started = [each.payload for each in context.history.of_kind(StepStarted)]
    guardian = _guardian_of(context.history)
    if guardian is None or not any(each.step in steps for each in started):
        return
    world = context.world
    own = world.processes.own_identity()
    ends = [*(each.start_ticks for each in started[1:]), math.inf]
    spans = [
        (each.start_ticks, end)
        for each, end in zip(started, ends, strict=True)
        if each.step in steps
    ]
    for orphan in world.processes.children_of(guardian):
        if orphan != own and any(since <= orphan.start_ticks < end for since, end in spans):
            yield from (orphan, *world.pins.below(orphan))


def _guardian_of(history: History) -> Identity | None:
    """Who guards the run by its journal, running or not; None where nobody does."""
    for record in reversed(history.records):
        payload = record.payload
        by = payload.guardian if isinstance(payload, OrchestratorStarted) else payload
        if isinstance(by, GuardianStarted | GuardianFacts):
            return Identity(by.pid, by.start_ticks, record.boot_id)
        if by is None:
            break
    return None


def gone_gap(context: RunContext, member: Member, *, deadline: float | None = None) -> str:
    """Why the member is not proved gone by ``deadline``, or nothing. Asks at least once.

    Without a deadline it asks once, and waits for the answer as long as one may take.
    """
    clock, whole = context.world.clock, ""
    while True:
        seen = observe(context, member, question="gone", deadline=deadline)
        if seen.is_gone:
            return ""
        is_cut = _is_cut(context, deadline, answered=_has_answered(member, seen))
        whole = whole if is_cut else seen.sentence
        if deadline is None or clock.mono() >= deadline or context.interrupt():
            return _last_words(whole, seen.sentence)
        clock.sleep(context.plan.limits.effect_poll_seconds)


def start_gap(context: RunContext, member: Member, *, deadline: float) -> str:
    """Why the member is not proved up by ``deadline``, or nothing.

    Up means alive with its identity (it is pinned), and for an engine a verified session. A
    member that is proved gone past the grace is not waited for.
    """
    clock, limits = context.world.clock, context.plan.limits
    began, whole = clock.mono(), ""
    while True:
        seen = observe(context, member, question="alive", deadline=deadline)
        why, answered = seen.sentence, _has_answered(member, seen)
        if seen.is_alive:
            # Before its session is asked for: should this process die meanwhile, whoever takes the
            # run over knows by name what to end.
            pin_member(context, member, seen.process, anew=False)
            why, answered = _session_gap(context, member, deadline=deadline)
            if not why:
                # Once more, with what it has started by now.
                pin_member(context, member, seen.process)
                return ""
        elif seen.is_gone and clock.mono() - began > limits.proof_grace_seconds:
            # A daemon needs a moment to show itself; one that is gone after it trades no sooner
            # for being waited for, and the rollback is paid for by the second.
            return f"it is not there after its start: {why}"
        whole = whole if _is_cut(context, deadline, answered=answered) else why
        if clock.mono() >= deadline:
            return _last_words(whole, why)
        if interrupted := context.interrupt():
            return interrupted if clock.mono() < deadline else _last_words(whole, why)
        clock.sleep(limits.effect_poll_seconds)


# --- what a look that was cut short is worth --------------------------------------


def _has_answered(member: Member, seen: Liveness) -> bool:
    """True unless its alive command was ended before it could tell."""
    return seen.command is not None or bool(seen.unasked) or not member.alive_command


def _is_cut(context: RunContext, deadline: float | None, *, answered: bool) -> bool:
    """True where a look had no answer because the deadline came first: it saw nothing.

    What is known then is what the look before it saw. "The alive command says no answer" would
    hide that the engine lives and has no session.
    """
    return not answered and deadline is not None and context.world.clock.mono() >= deadline


def _last_words(whole: str, last: str) -> str:
    """What the last whole look saw; ``last`` is the very last, whole or not."""
    if whole == last:
        return last
    if not whole:
        return f"{last}; it was cut short by the deadline, and no look before it was whole"
    return f"{whole}; a later look was cut short by the deadline"


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
    pin = context.world.pins.pin_process(process, before=known)
    if pin == known:
        return
    context.record(pinned(member.name, member.unit, pin))
    if known is None and pin.bystanders:
        context.warn(
            f"{_pids(pin.bystanders)} run with the executable and command line of {member.name} "
            f"({process}) and are taken for others: if one of them is a second one of it, end the "
            "run and that process"
        )


def pin_anew(context: RunContext, member: Member) -> None:
    """Look again at a pinned process that is about to be stopped: what it has started since then
    would outlive it unseen, and where somebody started it again it is another one by now."""
    pin = context.history.pins.get(member.name)
    if pin is None:
        return
    if context.world.processes.is_running(pin.identity):
        pin_member(context, member, pin.identity)
    elif (seen := observe(context, member, question="alive")).is_alive:
        pin_member(context, member, seen.process)


def session_gap(context: RunContext, member: Member, *, deadline: float | None = None) -> str:
    """Why an engine's session is not verified, or nothing (always for a runner)."""
    return _session_gap(context, member, deadline=deadline)[0]


def _session_gap(
    context: RunContext, member: Member, *, deadline: float | None
) -> tuple[str, bool]:
    """The gap, and whether the engine told of its session at all."""
    if member.role is not Role.CORE_ENGINE:
        return "", True
    asked = context.plan.sessions[member.generation]
    seen = _by_sources if asked.is_declared else _by_state_or_page
    observed, ok, is_told = seen(context, member, deadline)
    context.record(
        ProbeAnswered(
            subject=member.name,
            question="session",
            ok=ok,
            observed=observed,
            expected=_DECLARED if asked.is_declared else _STATED,
        )
    )
    return "" if ok else observed, is_told


def old_session_gap(context: RunContext, *, verified: bool) -> str:
    """Why the old engine's session could not be proved again after a rollback, or nothing.

    Its source answers while it trades, or it will not answer then. ``verified``: right before the
    first stop the session itself must be usable too; until then its front may not be open yet.
    """
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    gap, is_told = _session_gap(context, engine, deadline=None)
    return gap if gap and (verified or not is_told) else ""


def new_source_gap(context: RunContext) -> str:
    """Why the new engine's session command cannot tell anything, or nothing. Asked while it is gone:
    that its session is not usable is right, and a command that says yes is told as a warning."""
    engine = context.plan.member(Generation.NEW, Role.CORE_ENGINE)
    if not context.plan.sessions[Generation.NEW].command:
        return ""
    session = _facts_of(context, engine, None)
    never_run = [each for each in session.facts if re.search(r": exit 12[67],", each.problem)]
    if never_run:
        return never_run[0].problem
    if session.is_verified and session.is_told:
        context.warn(
            f"{context.plan.sessions[Generation.NEW].key} says that {engine.name} may be given orders, "
            f"and it does not run: {session.sentence}; if that is not another engine's answer, it proves "
            "nothing"
        )
    return ""


def _by_state_or_page(
    context: RunContext, member: Member, deadline: float | None
) -> tuple[str, bool, bool]:
    """What TRADING_STATE_CMD or the engine's page says of its session, whether that is enough, and
    whether there was an answer."""
    try:
        session = context.world.sessions.read_session(
            member,
            command=context.plan.trading_state_command,
            **context.asking(deadline=deadline),
        )
    except ProbeError as error:
        return str(error), False, False
    if stale := _stale_words(context, session.as_of):
        return f"{session.sentence}; {stale}", False, True
    return session.sentence, session.is_verified, True


def _by_sources(
    context: RunContext, member: Member, deadline: float | None
) -> tuple[str, bool, bool]:
    """The same by the sources that the template declares."""
    session = _facts_of(context, member, deadline)
    if stale := _stale_words(context, session.as_of):
        return f"{session.sentence}; {stale}", False, True
    # Cut short by a deadline it tells some facts and not others, and is no whole answer.
    is_whole = deadline is None or not any(fact.problem for fact in session.facts)
    return session.sentence, session.is_verified, session.is_told and is_whole


class Permission(NamedTuple):
    """What is known of whether an engine may send orders: ``mode`` is Ready, CloseOnly, Blocked, or
    blank where nothing tells. ``gap`` is why it is not to be waited for any longer, or nothing;
    ``words`` say it for people. ``closes_for`` is how many seconds more it is known to close only."""

    mode: str
    gap: str
    words: str
    closes_for: float = 0.0


def permission_of(context: RunContext, member: Member) -> Permission:
    """Ask an engine with declared sources whether it may trade now; write down what is new."""
    asked = context.plan.sessions[member.generation]
    session = _facts_of(context, member, None)
    probes = [each.payload for each in context.history.of_kind(ProbeAnswered)]
    looks = [each for each in probes if (each.subject, each.question) == (member.name, "session")]
    # Each look of half an hour would be a journal of its own.
    if (
        not looks
        or looks[-1].ok is not session.is_verified
        or session.words not in looks[-1].observed
    ):
        context.record(
            ProbeAnswered(
                subject=member.name,
                question="session",
                ok=session.is_verified,
                observed=session.sentence,
                expected=_DECLARED,
            )
        )
    if not session.is_verified:
        return Permission(session.mode, session.sentence, session.sentence)
    login = "alive, login NOT PROVED" if "logged_in" in asked.unproved else "logged in"
    if session.mode != "CloseOnly":
        return Permission(session.mode, "", f"{login}, {session.words}")
    left = asked.close_only_seconds - (
        context.world.clock.wall() - _closes_since(context, member, session)
    )
    if not asked.close_only_seconds:
        return Permission(session.mode, "", f"{login}, CloseOnly")
    if left > 0:
        return Permission(session.mode, "", f"{login}, CloseOnly for {left:.0f} s more", left)
    late = f"CloseOnly for {-left:.0f} s longer than its close_only_seconds {asked.close_only_seconds:g}"
    return Permission(session.mode, f"{member.name} may only close: {late}", f"{login}, {late}")


def _closes_since(context: RunContext, member: Member, session: SessionFacts) -> float:
    """When it began to close only: as it says itself, or since it was seen first."""
    for fact in session.facts:
        if fact.name == "may_trade" and fact.since is not None:
            return fact.since
    since = context.world.clock.wall()
    for record in reversed(context.journal.records):
        look = record.payload
        if isinstance(look, ProbeAnswered) and (look.subject, look.question) == (
            member.name,
            "session",
        ):
            if not look.closes_only:
                break
            since = record.wall.timestamp()
    return since


def _facts_of(context: RunContext, member: Member, deadline: float | None) -> SessionFacts:
    pin = context.history.pins.get(member.name)
    return context.world.sessions.read_facts(
        member,
        asked=context.plan.sessions[member.generation],
        known=pin.identity if pin else None,
        wall=context.world.clock.wall(),
        **context.asking(deadline=deadline),
    )


def _stale_words(context: RunContext, as_of: float | None) -> str:
    """Why a session was so once and need not be so now, or nothing."""
    from ctp_runbook.probes.trading_state import stale_words

    most = context.plan.limits.trading_state_max_age_seconds
    return stale_words(as_of, now=context.world.clock.wall(), most=most)


class Ended(NamedTuple):
    """Who of a member was ended by signal, and what came of it in words."""

    processes: tuple[Identity, ...]
    words: str


def end_member(
    context: RunContext, member: Member, *, deadline: float, patient: bool = False
) -> Ended:
    """TERM, then KILL, to all that is known to be the member, and to what its start left behind.

    That is what was pinned, what ran below it, what its pid file or unit names, and what has its
    command line. The graces are cut to what is left until ``deadline`` (monotonic seconds);
    ``patient`` gives TERM half of that, whatever limits.toml says.
    """
    world = context.world
    running = _processes_of(context, member)
    if running and member.generation is Generation.OLD:
        # Before it is done: whoever takes the run over must not keep one that is ending for one
        # that is well.
        context.warn(f"{_signals(member)}{', '.join(map(str, running))}")
    most = max(_LEAST_GRACE_SECONDS, (deadline - world.clock.mono()) / 2)
    graces = context.graces(most=most)
    if patient:
        graces["term_grace"] = most
    began = world.clock.mono()
    stuck = world.processes.end_processes(running, **graces, meanwhile=context.interrupt)
    # KILL is sent when the whole grace is over, and not before.
    grace = graces["term_grace"]
    is_killed = world.clock.mono() - began >= grace
    how = f"gone after KILL (TERM did not end it in {grace:.3g} s)" if is_killed else "gone"
    words = []
    for identity in running:
        fate = "still running" if identity in stuck else how
        words.append(f"ended {identity} by signal: {fate}")
        context.warn(f"{member.name}: {words[-1]}")
    return Ended(running, "; ".join(words))


def is_ending(context: RunContext, member: Member, process: Identity) -> bool:
    """True where a living member of the old generation was asked to stop and may end any moment.

    A session is still verified seconds after TERM, and a clean end takes an engine up to a minute:
    kept because it is alive right now, it would be gone when the rollback is over, and nobody
    would trade. From outside nothing tells one that is ending from one that will not, but this: a
    process that ignores TERM, with all that is below it, and whose session is still usable, was not
    reached by a stop. Everybody else that a stop was begun for counts as ending, also one that is
    stuck: it trades no more either.

    No stop was begun for who was started since, nor by a command that never ran.
    """
    world, pin = context.world, context.history.pins.get(member.name)
    if pin is None or pin.identity != process or not _is_stop_begun(context, member):
        return False
    family = (process, *world.pins.survivors(pin))
    if not all(world.processes.ignores_term(each.pid) for each in family):
        return True
    return bool(session_gap(context, member))


def _is_stop_begun(context: RunContext, member: Member) -> bool:
    """True where a stop may have reached the member's process since it was started last."""
    history = context.history
    if any(history.step(name).attempt for name in start_steps(member.generation, member.role)):
        return False  # in this run: whoever is pinned now came after the stop
    words = _signals(member)
    if any(each.payload.sentence.startswith(words) for each in history.of_kind(Finding)):
        return True
    name = f"stop_{member.name}"
    done = history.step(name)
    # Its end not seen is a stop begun: whether it was released nobody knows any more.
    return done.attempt > 0 and not never_ran(
        context.plan.step(name).command,
        -1 if done.exit_code is None else done.exit_code,
        base=context.cwd,
        environ=context.environment_of(name),
    )


def _signals(member: Member) -> str:
    """How the record of signals begins, which is looked for afterwards."""
    return f"{member.name}: TERM, then KILL, to "


def _processes_of(context: RunContext, member: Member) -> tuple[Identity, ...]:
    world, pin = context.world, context.history.pins.get(member.name)
    pinned = (pin.identity, *_survivors(context, member)) if pin else ()
    alike = _lookalikes(context, member) or ()
    started = map(world.processes.identity_of, _started_processes(context, member))
    recorded = world.witnesses.recorded_identity(member, cwd=context.cwd)
    # A pid may be a stranger's by now: only who is exactly that process is ended.
    wanted = filter(None, {*pinned, *alike, *started, recorded})
    return tuple(identity for identity in wanted if world.processes.is_running(identity))


def _pids(identities: Iterable[Identity]) -> tuple[int, ...]:
    return tuple(identity.pid for identity in identities)


def proof_for(context: RunContext, step: Step) -> Callable[[float], str] | None:
    """The proof that belongs to a step's kind; None where exit 0 is all there is to prove."""
    if step.acts_on is None or step.kind not in (StepKind.STOP, StepKind.START):
        return None
    member = context.plan.member(*step.acts_on)
    prove = gone_gap if step.kind is StepKind.STOP else start_gap
    return lambda deadline: prove(context, member, deadline=deadline)
