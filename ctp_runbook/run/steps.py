"""One step: hold, write down, release, wait, end, prove, write down.

A step is ok when its command exited 0 in time **and** its effect is proved: what was stopped is
gone, what was started is alive with a verified session.
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Identity, Phase, Step, StepKind, StepStatus
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.kinds import ProbeAnswered, StepEnded, StepStarted
from ctp_runbook.run.context import RunContext

if TYPE_CHECKING:
    from ctp_runbook.host.held_command import CommandEnd

__all__ = ["StepResult", "run_step", "skip_step"]

_OUTPUT_LIMIT = 4 << 20
_TAIL = 64 << 10  # longer than any secret
# Of a rollback step's time, what TERM may take at its end; KILL may take as much again.
_GRACE_SHARE = 0.15


@dataclass(frozen=True)
class StepResult:
    """How a step ended, and why in words."""

    step: Step
    status: StepStatus
    exit_code: int | None
    duration_ms: float
    reason: str

    @property
    def is_ok(self) -> bool:
        """True when the command succeeded and its effect is proved."""
        return self.status is StepStatus.OK

    @property
    def sentence(self) -> str:
        """``step stop_old_core_engine failed after 2.0 s: …``."""
        took = f"{self.duration_ms / 1000:.1f} s"
        return f"step {self.step.name} {self.status.value} after {took}: {self.reason}"


def run_step(
    context: RunContext,
    step: Step,
    *,
    deadline: float,
    prove: Callable[[float], str] | None = None,
    make_good: Callable[[], str] = lambda: "",
    budget_ends: float | None = None,
) -> StepResult:
    """Run a step; it ends by ``deadline`` (monotonic seconds) or its own timeout.

    ``prove`` is called with that deadline after the command exited 0 and returns why the
    effect is not proved, or nothing. A stop of the switch that ended otherwise asks it once, for
    its words alone. ``make_good`` is called where the step is not ok, before that is written down,
    and returns what came of it in words. Where it is the rollback's budget that gives the deadline, ``budget_ends`` says
    when that is over.
    """
    clock = context.world.clock
    began = clock.mono()
    if deadline >= began + step.timeout_seconds:
        deadline, budget_ends = began + step.timeout_seconds, None
    # A last look at what the command may write to: it may have been taken away a moment ago.
    context.interrupt()
    # What a command prints may hold secrets: it stays in memory, and only its redacted copy
    # enters the run directory.
    with context.world.files.scratch(step.name) as raw:
        return _run(
            context,
            step,
            raw,
            began=began,
            deadline=deadline,
            prove=prove,
            make_good=make_good,
            budget_ends=budget_ends,
        )


def _run(
    context: RunContext,
    step: Step,
    raw: Path,
    *,
    began: float,
    deadline: float,
    prove: Callable[[float], str] | None,
    make_good: Callable[[], str],
    budget_ends: float | None,
) -> StepResult:
    clock = context.world.clock
    held = context.world.commands.hold(
        step.command, cwd=context.cwd, env=context.environment_of(step.name), output=raw
    )
    try:
        # Before it is released: whoever takes the run over finds who acts, and a command whose
        # starter dies in between has done nothing.
        _record_start(context, step, held.identity, due=deadline)
        held.release()
        is_cut = step.phase is Phase.ROLLBACK
        share = max(0.0, deadline - clock.mono()) * _GRACE_SHARE if is_cut else math.inf
        graces = context.graces(most=share)
        # In a rollback the graces come out of the step's own time: what is after it restores
        # trading and does not wait for them. Elsewhere a step has its whole time, and they add.
        room = graces["term_grace"] + graces["kill_grace"] if is_cut else 0.0
        end = held.wait(deadline=deadline - room, interrupt=_bounded(context, raw))
        left: tuple[int, ...] = ()
        if end.exit_code != 0:
            left = held.end(**graces, meanwhile=context.interrupt).left
            left += _end_strays(context, step, known=left)
    finally:
        held.close()
    limit = _own_limit(step)
    if budget_ends is not None:
        limit = _budget_limit(context, left=budget_ends - clock.mono())
    status, reason = _judge_command(end, left=left, limit=limit)
    if status is not StepStatus.OK:
        reason += _last_words(context, raw)
        if prove is not None and (step.kind, step.phase) == (StepKind.STOP, Phase.SWITCH):
            # Who still runs is what an operator must know now; it excuses no failed command. (A
            # rollback makes it good by signals, says so itself, and has no time for this.)
            reason += f"; {prove(clock.mono()) or 'yet it is proved gone'}"
    elif prove is not None:
        # Exit 0 is the command's opinion. A stop that exits 0 over a living engine would let the
        # next step start a second one.
        if why := prove(deadline):
            status, reason = StepStatus.FAILED, f"exit 0, but its effect is not proved: {why}"
        else:
            reason = f"exit 0; proved: {_proved(context, step)}{_killed(context, step, raw)}"
    if status is not StepStatus.OK and (words := make_good()):
        reason += f"; {words}"
    result = StepResult(step, status, end.exit_code, (clock.mono() - began) * 1000, reason)
    _record_end(context, result, raw=raw, left=left)
    return result


def skip_step(
    context: RunContext, step: Step, *, reason: str, status: StepStatus = StepStatus.SKIPPED
) -> StepResult:
    """Write down that a step is not done, and why."""
    context.record_not_done(step, reason=reason, status=status)
    if step.skipped:
        return StepResult(step, StepStatus.SKIPPED, None, 0.0, step.skipped)
    return StepResult(step, status, None, 0.0, reason)


def _record_start(context: RunContext, step: Step, identity: Identity, *, due: float) -> None:
    attempts = sum(
        started.payload.step == step.name for started in context.history.of_kind(StepStarted)
    )
    context.record(
        StepStarted(
            step=step.name,
            phase=step.phase,
            attempt=attempts + 1,
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            command=step.command,
            timeout_seconds=step.timeout_seconds,
            due_mono_ns=int(due * 1e9),
        )
    )


def _end_strays(context: RunContext, step: Step, *, known: tuple[int, ...]) -> tuple[int, ...]:
    """End what a failed step started outside its group; the pids that are left.

    A session of its own is no way to outlive a failed step. What a start left is a member, and the
    rollback's to end, with proof.
    """
    if step.kind is StepKind.START:
        return ()
    world = context.world
    pids = world.witnesses.processes_of_step(context.run.run_id, (step.name,))
    strays = [world.processes.identity_of(pid) for pid in pids if pid not in known]
    left = world.processes.end_processes(
        filter(None, strays), **context.graces(), meanwhile=context.interrupt
    )
    return tuple(identity.pid for identity in left)


def _own_limit(step: Step) -> str:
    limit = f"{step.name.upper()}_TIMEOUT_SECONDS {step.timeout_seconds:g} s"
    return f"did not end within its limit ({limit})"


def _budget_limit(context: RunContext, *, left: float) -> str:
    """Why a step of a rollback was ended before its own limit."""
    budget = f"the budget of {context.plan.max_rollback_seconds:g} s"
    if left > 0:
        return f"did not end in its part of the time: cut by {budget} ({left:.1f} s left)"
    return f"did not end: cut, for {budget} is over"


def _judge_command(end: CommandEnd, *, left: tuple[int, ...], limit: str) -> tuple[StepStatus, str]:
    remains = f"; processes {left} of its group could not be ended" if left else ""
    if end.interrupted:
        return StepStatus.FAILED, f"interrupted: {end.interrupted}{remains}"
    if end.timed_out:
        return StepStatus.TIMED_OUT, f"{limit}{remains}"
    if end.exit_code != 0:
        return StepStatus.FAILED, f"exit {end.exit_code}, expected 0{remains}"
    return StepStatus.OK, "exit 0"


def _proved(context: RunContext, step: Step) -> str:
    """What is proved of a step's effect; of a stop, by the witnesses that were asked and no other."""
    if step.kind is StepKind.STOP:
        for record in reversed(context.journal.records):
            if isinstance(seen := record.payload, ProbeAnswered):
                return seen.observed if seen.ok and seen.question == "gone" else step.effect
    return step.effect


def _killed(context: RunContext, step: Step, raw: Path) -> str:
    """What a stop command said where it speaks of KILL: such an end leaves half of a log unwritten,
    and whoever reads the step's line is to see that it was none of the orderly ones."""
    said = _last_words(context, raw) if step.kind is StepKind.STOP else ""
    return said if re.search(r"\b(?:SIG)?KILL(?:ed)?\b|\bkill -9\b", said) else ""


def _last_words(context: RunContext, raw: Path) -> str:
    """The end of a step's output, where the reason of a failure usually stands."""
    files = context.world.files
    size = files.size_of(raw)
    tail = files.read(raw, start=max(0, size - _TAIL))
    text = context.plan.redactor(tail.decode(errors="replace"))
    # A first line that was cut may begin with half a secret.
    lines = text.split("\n")[1 if size > _TAIL and "\n" in text else 0 :]
    said = [line.strip() for line in lines if line.strip()]
    return f"; it said: {said[-1][-400:]}" if said else ""


def _record_end(
    context: RunContext, result: StepResult, *, raw: Path, left: tuple[int, ...]
) -> None:
    data = _redacted_output(context, raw)
    name = f"steps/{len(context.journal.records):04d}_{result.step.name}.log"
    _keep_log(context, context.run.logs / name, data)
    context.record(
        StepEnded(
            step=result.step.name,
            phase=result.step.phase,
            status=result.status,
            exit_code=result.exit_code,
            duration_ms=round(result.duration_ms, 3),
            output_sha256=digest_of(data),
            output=f"logs/{name}",
            reason=result.reason,
            left_behind=left,
        )
    )


def _keep_log(context: RunContext, path: Path, data: bytes) -> None:
    """Write a step's log; a second time once what is in the way was cleared, as far as it can be."""
    try:
        try:
            context.world.files.write_atomic(path, data)
        except OSError as error:
            # What was taken away is put back by a look at it, and a full disk has a reserve.
            context.interrupt()
            if error.errno == errno.ENOSPC:
                context.journal.give_back()
            context.world.files.write_atomic(path, data)
    except OSError as error:
        said = f"{path}: cannot be written: {error}"
        # Restoring trading matters more than a log; its digest is in the journal all the same.
        if not context.journal.tolerant:
            raise JournalError(said) from error
        context.world.outcry.cry_out(f"{said}; going on without it")


def _redacted_output(context: RunContext, raw: Path) -> bytes:
    """The output without secrets, cut after redaction: half a secret is too much."""
    data = context.world.files.read(raw, most=_OUTPUT_LIMIT + _TAIL)
    text = context.plan.redactor(data.decode(errors="replace")).encode()
    if len(data) <= _OUTPUT_LIMIT:
        return text
    return text[:_OUTPUT_LIMIT] + b"\n[cut: the output was longer than 4 MiB]\n"


def _bounded(context: RunContext, raw: Path) -> Callable[[], str]:
    """The run's interrupt, which also keeps a talkative step from filling the memory."""
    files = context.world.files

    def look() -> str:
        with contextlib.suppress(OSError):
            if files.size_of(raw) > _OUTPUT_LIMIT * 8:
                files.truncate(raw, 0)  # the command appends: it goes on at the start
        return context.interrupt()

    return look
