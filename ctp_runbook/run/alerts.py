"""Calling for a person: ALERT_CMD and ALERT_WEBHOOK_URL, beside the run and never in its way.

Each hook runs in a thread of its own, bounded by ``alert_timeout_seconds`` of limits.toml. What
came of it goes into the journal when the run next looks; a hook that fails or hangs is told there
and changes nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ctp_runbook.host.seam import Clock
from ctp_runbook.record.journal import utc_text
from ctp_runbook.record.kinds import AlertEnded, AlertSent
from ctp_runbook.run.context import RunContext

__all__ = ["AlertDesk"]

_KILL_GRACE_SECONDS = 1.0
_SAID_BYTES = 4096


@dataclass(frozen=True)
class _Call:
    """One hook called for one occasion; ``began`` is monotonic."""

    occasion: str
    hook: str
    began: float


@dataclass(frozen=True)
class _Outcome:
    call: _Call
    failure: str
    took_ms: float


class AlertDesk:
    """Calls the hooks of a run's plan, and tells the journal what came of each.

    The journal has one writer, the orchestrator's thread: hooks only leave their ends in a queue.
    """

    def __init__(self) -> None:
        self._done: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._open: set[_Call] = set()

    def call(self, context: RunContext, occasion: str, sentence: str) -> None:
        """Call every hook the plan names; returns at once. Without hooks nothing happens."""
        hooks = dict(_hooks(context))
        if not hooks:
            return
        clock = context.world.clock
        masked = context.plan.redactor(sentence)
        context.record(AlertSent(occasion=occasion, sentence=masked, hooks=tuple(hooks)))
        facts = _facts(context, occasion, masked)
        for name, hook in hooks.items():
            call = _Call(occasion, name, clock.mono())
            self._open.add(call)
            # A thread and not a wait: at three in the morning the hook's server is what is down,
            # and the rollback must not find out by its time-out.
            thread = threading.Thread(
                target=self._run,
                args=(call, hook, facts, clock),
                daemon=True,
                name=f"alert-{name}",
            )
            try:
                thread.start()
            except RuntimeError as error:  # the host gives no thread; the run goes on without it
                self._done.put(_Outcome(call, str(error), 0.0))

    def collect(self, context: RunContext) -> None:
        """Write down what ended since the last look, and what is over its time."""
        while not self._done.empty():
            outcome = self._done.get()
            if outcome.call in self._open:
                self._end(context, outcome)
        limit = context.plan.limits.alert_timeout_seconds + _KILL_GRACE_SECONDS
        now = context.world.clock.mono()
        for call in [call for call in self._open if now - call.began > limit]:
            # Told once and left alone: its thread ends with the process, if it ever ends.
            failure = f"no end within alert_timeout_seconds {limit - _KILL_GRACE_SECONDS:g} s"
            self._end(context, _Outcome(call, failure, (now - call.began) * 1000))

    def leave(self, context: RunContext) -> None:
        """The run ends: what is still under way is told to be so, and left."""
        # Before the record that closes the run: after that one the journal is final.
        self.collect(context)
        for call in list(self._open):
            took_ms = (context.world.clock.mono() - call.began) * 1000
            self._end(context, _Outcome(call, "still under way when the run ended", took_ms))

    def drain(self, context: RunContext) -> None:
        """Give hooks under way their time before the process ends; nothing is recorded."""
        clock = context.world.clock
        deadline = clock.mono() + context.plan.limits.alert_timeout_seconds
        for thread in threading.enumerate():
            if thread.name.startswith("alert-"):
                thread.join(max(0.0, deadline - clock.mono()))

    def _end(self, context: RunContext, outcome: _Outcome) -> None:
        self._open.discard(outcome.call)
        context.record(
            AlertEnded(
                occasion=outcome.call.occasion,
                hook=outcome.call.hook,
                ok=not outcome.failure,
                sentence=context.plan.redactor(outcome.failure) or "delivered",
                took_ms=round(outcome.took_ms, 3),
            )
        )

    def _run(self, call: _Call, hook: _Hook, facts: Mapping[str, str], clock: Clock) -> None:
        try:
            failure = hook(facts)
        except Exception as error:  # noqa: BLE001  whatever a hook does, the run goes on
            failure = f"{type(error).__name__}: {error}"
        self._done.put(_Outcome(call, failure, (clock.mono() - call.began) * 1000))


_Hook = Callable[[Mapping[str, str]], str]


def _facts(context: RunContext, occasion: str, sentence: str) -> dict[str, str]:
    return {
        "run_id": context.run.run_id,
        "environment": context.plan.environment,
        "occasion": occasion,
        "state": context.history.state.value,
        "sentence": sentence,
        "utc": utc_text(context.world.clock.wall()),
        "decide": f"ctp-runbook hold|resume|rollback --run {context.run.path}",
    }


def _hooks(context: RunContext) -> Iterator[tuple[str, _Hook]]:
    plan = context.plan
    seconds = plan.limits.alert_timeout_seconds
    if plan.alert_command:
        yield "command", lambda facts: _run_command(context, facts, seconds=seconds)
    if url := plan.alert_webhook_url:
        # Asked for in the hook's own thread: what cannot be imported any more must stop nobody.
        webhooks = context.world.webhooks
        yield "webhook", lambda facts: webhooks.post_json(url, facts, seconds=seconds)


def _run_command(context: RunContext, facts: Mapping[str, str], *, seconds: float) -> str:
    """Run ALERT_CMD with the facts as ``CTP_ALERT_…``; why it failed, or nothing."""
    world = context.world
    env = context.environment_of()
    env |= {f"CTP_ALERT_{name.upper()}": _as_variable(value) for name, value in facts.items()}
    # Two alerts may be under way at once, each with an output of its own.
    with world.files.scratch("alert") as output:
        command = context.plan.alert_command
        held = world.commands.hold(command, cwd=context.cwd, env=env, output=output)
        try:
            held.release()
            end = held.wait(deadline=world.clock.mono() + seconds, interrupt=lambda: "")
            held.end(term_grace=0.2, kill_grace=_KILL_GRACE_SECONDS / 2)
            size = world.files.size_of(output)
            tail = world.files.read(output, start=max(0, size - _SAID_BYTES))
        finally:
            held.close()
    if end.timed_out:
        return f"no end within alert_timeout_seconds {seconds:g} s"
    if end.exit_code == 0:
        return ""
    said = tail.decode(errors="replace").strip()
    last = f"; it said: {said.splitlines()[-1][:200]}" if said else ""
    return f"exit {end.exit_code}{last}"


def _as_variable(text: str) -> str:
    """The text as an environment takes it: what a program said last may hold anything."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\ufffd")
