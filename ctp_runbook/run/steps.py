"""One step: hold, write down, release, wait, end, prove, write down.

A step is ok when its command exited 0 in time **and** its effect is proved: what was stopped is
gone, what was started is alive with a verified session.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import JournalError
from ctp_runbook.host.held_command import CommandEnd, HeldCommand
from ctp_runbook.host.process import end_processes, identity_of
from ctp_runbook.model import Identity, Phase, Step, StepKind, StepStatus
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.rundir import private_dir, write_atomic
from ctp_runbook.run.context import RunContext

__all__ = ["StepResult", "run_step", "skip_step"]

_OUTPUT_LIMIT = 4 << 20
_TAIL = 64 << 10  # longer than any secret


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
) -> StepResult:
    """Run a step; it ends by ``deadline`` (monotonic seconds) or its own timeout.

    ``prove`` is called with that deadline after the command exited 0 and returns why the
    effect is not proved, or nothing. A stop of the switch that ended otherwise asks it once, for
    its words alone.
    """
    began = time.monotonic()
    deadline = min(deadline, began + step.timeout_seconds)
    raw = private_dir(context.run) / f"{step.name}.out"
    held = HeldCommand(
        step.command, cwd=context.cwd, env=context.environment_of(step.name), output=raw
    )
    try:
        _record_start(context, step, held.identity, due=deadline)
        held.release()
        graces = _graces(context, step, deadline=deadline)
        end = held.wait(deadline=deadline - graces.room, interrupt=_bounded(context, raw))
        left = (
            () if end.exit_code == 0 else held.end(**graces.words, meanwhile=context.interrupt).left
        )
        left = (*left, *_end_strays(context, step, end, known=left))
    finally:
        held.close()
    status, reason = _judge_command(step, end, left=left)
    if status is not StepStatus.OK:
        reason += _last_words(context, raw)
        if prove is not None and (step.kind, step.phase) == (StepKind.STOP, Phase.SWITCH):
            # Who still runs is what an operator must know now; it excuses no failed command. (A
            # rollback ends the member by signal next, says so itself, and has no time for this.)
            reason += f"; {prove(time.monotonic()) or 'yet it is proved gone'}"
    elif prove is not None:
        if why := prove(deadline):
            status, reason = StepStatus.FAILED, f"exit 0, but its effect is not proved: {why}"
        else:
            reason = f"exit 0; proved: {step.effect}"
    result = StepResult(step, status, end.exit_code, (time.monotonic() - began) * 1000, reason)
    _record_end(context, result, raw=raw, left=left)
    return result


def skip_step(
    context: RunContext, step: Step, *, reason: str, status: StepStatus = StepStatus.SKIPPED
) -> StepResult:
    """Write down that a step is not done, and why."""
    context.record_not_done(step, reason=reason, status=status)
    return StepResult(step, status, None, 0.0, reason)


def _record_start(context: RunContext, step: Step, identity: Identity, *, due: float) -> None:
    attempts = sum(
        1
        for record in context.journal.records
        if record.kind == "step_started" and record.payload["step"] == step.name
    )
    context.record(
        "step_started",
        step=step.name,
        phase=step.phase.value,
        attempt=attempts + 1,
        pid=identity.pid,
        start_ticks=identity.start_ticks,
        command=step.command,
        timeout_seconds=step.timeout_seconds,
        due_mono_ns=int(due * 1e9),
    )


@dataclass(frozen=True)
class _Graces:
    """How long TERM and KILL are waited for, and what of the deadline that takes, in seconds."""

    term: float
    kill: float
    room: float

    @property
    def words(self) -> dict[str, float]:
        return {"term_grace": self.term, "kill_grace": self.kill}


def _graces(context: RunContext, step: Step, *, deadline: float) -> _Graces:
    """The limits' graces; in a rollback they are cut and come out of the step's own time."""
    limits = context.plan.limits
    if step.phase is not Phase.ROLLBACK:
        return _Graces(limits.term_grace_seconds, limits.kill_grace_seconds, 0.0)
    share = max(0.0, deadline - time.monotonic()) * 0.15
    term, kill = min(limits.term_grace_seconds, share), min(limits.kill_grace_seconds, share)
    return _Graces(term, kill, term + kill)


def _end_strays(
    context: RunContext, step: Step, end: CommandEnd, *, known: tuple[int, ...]
) -> tuple[int, ...]:
    """A session of its own is no way to outlive a failed step; a started member is the
    rollback's to end. The pids that are left."""
    if end.exit_code == 0 or step.kind is StepKind.START:
        return ()
    from ctp_runbook.probes.liveness import processes_of_step

    strays = [identity_of(pid) for pid in processes_of_step(context.run.run_id, (step.name,))]
    limits = context.plan.limits
    left = end_processes(
        [one for one in strays if one is not None and one.pid not in known],
        term_grace=limits.term_grace_seconds,
        kill_grace=limits.kill_grace_seconds,
        meanwhile=context.interrupt,
    )
    return tuple(one.pid for one in left)


def _judge_command(step: Step, end: CommandEnd, *, left: tuple[int, ...]) -> tuple[StepStatus, str]:
    remains = f"; processes {left} of its group could not be ended" if left else ""
    if end.interrupted:
        return StepStatus.FAILED, f"interrupted: {end.interrupted}{remains}"
    if end.timed_out:
        limit = f"{step.name.upper()}_TIMEOUT_SECONDS {step.timeout_seconds:g} s"
        return StepStatus.TIMED_OUT, f"did not end within its limit ({limit}){remains}"
    if end.exit_code != 0:
        return StepStatus.FAILED, f"exit {end.exit_code}, expected 0{remains}"
    return StepStatus.OK, "exit 0"


def _last_words(context: RunContext, raw: Path) -> str:
    """The end of a failed step's output, where the reason usually stands."""
    size = raw.stat().st_size
    with raw.open("rb") as source:
        source.seek(max(0, size - _TAIL))
        text = context.plan.redactor(source.read().decode(errors="replace"))
    # A first line that was cut may begin with half a secret.
    lines = text.split("\n")[1 if size > _TAIL and "\n" in text else 0 :]
    said = [line.strip() for line in lines if line.strip()]
    return f"; it said: {said[-1][-400:]}" if said else ""


def _record_end(
    context: RunContext, result: StepResult, *, raw: Path, left: tuple[int, ...]
) -> None:
    data = _redacted_output(context, raw)
    name = f"steps/{len(context.journal.records):04d}_{result.step.name}.log"
    try:
        write_atomic(context.run.logs / name, data)
    except OSError as error:
        if not context.journal.tolerant:
            raise JournalError(f"{context.run.logs / name}: cannot be written: {error}") from error
        # Restoring trading matters more than a log; its digest is in the journal all the same.
    context.record(
        "step_ended",
        step=result.step.name,
        phase=result.step.phase.value,
        status=result.status.value,
        exit_code=result.exit_code,
        duration_ms=round(result.duration_ms, 3),
        output_sha256=digest_of(data),
        output=f"logs/{name}",
        reason=result.reason,
        left_behind=list(left),
    )


def _redacted_output(context: RunContext, raw: Path) -> bytes:
    """The output without secrets, cut after redaction: half a secret is too much."""
    with raw.open("rb") as source:
        data = source.read(_OUTPUT_LIMIT + _TAIL)
    raw.unlink()
    text = context.plan.redactor(data.decode(errors="replace")).encode()
    if len(data) <= _OUTPUT_LIMIT:
        return text
    return text[:_OUTPUT_LIMIT] + b"\n[cut: the output was longer than 4 MiB]\n"


def _bounded(context: RunContext, raw: Path) -> Callable[[], str]:
    """The run's interrupt, which also keeps a talkative step from filling the memory."""

    def look() -> str:
        with contextlib.suppress(OSError):
            if raw.stat().st_size > _OUTPUT_LIMIT * 8:
                os.truncate(raw, 0)  # the command appends: it goes on at the start
        return context.interrupt()

    return look
