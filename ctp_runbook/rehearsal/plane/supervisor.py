"""One process over all parts: starts them side by side, sees each die, starts it again, says so.

Parts are children, so a death is known at once, by its signal; the kernel ends them with the
supervisor, should that be killed. Connect is started when the broker listens, its JVMs
warming while PostgreSQL is made; connectors are registered when PostgreSQL and topics are there.
Three deaths of a part within a minute, and it is left dead and reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import subprocess
import time
from asyncio.subprocess import Process
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.host.files import append
from ctp_runbook.host.process import end_group, identity_of
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.plane.connectors import call_connect, failed_task
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, PartState, Plane, PlaneEvent, PlaneState
from ctp_runbook.rehearsal.plane.parts import Part, plane_parts
from ctp_runbook.rehearsal.plane.postgres import run_as
from ctp_runbook.rehearsal.process import end_tasks, on_term

__all__ = ["Supervisor", "main"]

_SERVE_SECONDS = 20.0
_DEATHS_MAX, _DEATHS_SECONDS = 3, 60.0
_WATCH_SECONDS = 0.5
_EVENTS_KEPT = 50
_GRACE_SECONDS = 4.0
_STARTS = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class _Tended:
    part: Part
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    child: Process | None = None
    deaths: list[float] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.returncode is None


class Supervisor:
    """Tends a plane's parts until told to end; its word is the state file."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._tended = {part.name: _Tended(part) for part in plane_parts()}
        self._ending = asyncio.Event()
        self._began = time.monotonic()
        self._events: tuple[PlaneEvent, ...] = ()
        self._serving_after: float | None = None
        self._now = {name: PartState() for name in (*self._tended, *CONNECTORS)}

    async def run(self) -> None:
        """Until TERM or INT; then every part is ended and proved gone."""
        on_term(self._ending.set)
        tasks = [asyncio.create_task(self._tend(each)) for each in self._tended.values()]
        tasks.append(asyncio.create_task(self._watch_connectors()))
        await self._ending.wait()
        await end_tasks(tasks)
        # Connect and ingester first, so that nobody complains of a server that is gone.
        for wave in (("ingester", "connect"), ("postgres", "clickhouse", "valkey", "kafka")):
            await asyncio.gather(*(self._end(name) for name in wave))
        self._write()

    async def _tend(self, tended: _Tended) -> None:
        while True:
            try:
                await self._bring_up(tended)
            except (RunbookError, OSError) as error:
                self._note(tended.part.name, "failed", f"did not come up: {error}")
                self._log(tended.part.name, f"did not come up: {error}")
                await self._kill(tended)
            else:
                await self._until_dead(tended)
            tended.ready.clear()
            if not self._may_start_again(tended):
                return

    def _may_start_again(self, tended: _Tended) -> bool:
        name, now = tended.part.name, time.monotonic()
        tended.deaths = [at for at in (*tended.deaths, now) if now - at < _DEATHS_SECONDS]
        if len(tended.deaths) < _DEATHS_MAX:
            self._set(name, restarts=self._now[name].restarts + 1)
            return True
        how = f"{len(tended.deaths)} ends within {_DEATHS_SECONDS:g} s; it is left as it is"
        why = f"; {last}" if (last := self._now[name].sentence) else ""
        self._log(name, how)
        self._note(name, "failed", f"{how}{why}; see {self._plane.log(name)}")
        return False

    def _log(self, name: str, sentence: str) -> None:
        """Add to the log of a part, which may have printed nothing, or never begun: it is there then."""
        append(self._plane.log(name), f"supervisor: {sentence}\n".encode())

    async def _bring_up(self, tended: _Tended) -> None:
        part = tended.part
        self._set(part.name, state="starting", sentence="")
        self._write()
        await self._ready(part.needs)
        self._plane.home(part.name).mkdir(exist_ok=True)
        await asyncio.to_thread(part.prepare, self._plane)
        await self._start(tended)
        await self._ready(part.provided_after)
        await asyncio.to_thread(part.provide, self._plane)
        if not tended.runs:
            raise ProbeError("it died while it was being set up")
        self._note(part.name, "serving", serving_seconds=self._elapsed())
        tended.ready.set()
        self._look_if_all_serve()

    async def _ready(self, needs: tuple[str, ...]) -> None:
        for need in needs:
            await self._tended[need].ready.wait()

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)

    async def _start(self, tended: _Tended) -> None:
        """Start on its port, on another should the first start not get it."""
        name = tended.part.name
        for turn in range(_STARTS):
            if tended.part.has_port and self._now[name].port is None:
                self._set(name, port=self._plane.choose_port(name))
            await self._spawn(tended)
            if await self._listens(tended):
                return
            if not self._now[name].serving_seconds:
                self._set(name, port=None)  # it may have been taken meanwhile
            if turn < _STARTS - 1:
                await asyncio.sleep(0.3)
        raise ProbeError(f"it ended at once, {_STARTS} times")

    async def _spawn(self, tended: _Tended) -> None:
        """From the main thread: the kernel ties a child's life to the thread that forked it."""
        part = tended.part
        with self._plane.log(part.name).open("ab") as sink:
            tended.child = child = await asyncio.create_subprocess_exec(
                *part.argv(self._plane),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd="/",
                env=_ours() if part.environment is None else part.environment,
                start_new_session=True,
                preexec_fn=partial(_die_with_parent, part.death_signal, os.getpid()),
                **(run_as(part.user) if part.user else {}),
            )
        identity = identity_of(child.pid)
        ticks = identity.start_ticks if identity else 0
        self._set(part.name, pid=child.pid, start_ticks=ticks)
        write_atomic(self._plane.pid_file(part.name), f"{child.pid}\n{ticks}\n".encode())

    async def _listens(self, tended: _Tended) -> bool:
        """True once it serves, False when it died first."""
        end, last = time.monotonic() + _SERVE_SECONDS, ""
        while time.monotonic() < end:
            if not tended.runs:
                return False
            try:
                await asyncio.to_thread(tended.part.serves, self._plane)
                return True
            except ProbeError as error:
                last = str(error)
            await asyncio.sleep(0.03)
        raise ProbeError(f"it did not serve within {_SERVE_SECONDS} s: {last}")

    async def _until_dead(self, tended: _Tended) -> None:
        assert tended.child is not None  # brought up
        name, code = tended.part.name, await tended.child.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._note(name, "dead", f"{how} (pid {tended.child.pid})")
        for other in self._tended.values():  # what cannot outlive it comes up again once it is back
            if name in other.part.falls_with and other.runs and other.child is not None:
                self._say(other.part.name, "restarting", f"because {name} died")
                other.child.terminate()
        if name == "connect":  # its workers went with it
            for connector in CONNECTORS:
                self._note(connector, "starting", "because connect died", pid=None)
        await self._kill(tended)

    async def _kill(self, tended: _Tended) -> tuple[int, ...]:
        """End what is left of its group, whose children may outlive it; who outlived KILL."""
        if tended.child is None:
            return ()
        end = partial(end_group, tended.child.pid, term_grace=0.5, kill_grace=2.0)
        return (await asyncio.to_thread(end)).left

    def _look_if_all_serve(self) -> None:
        serves = all(now.state == "serving" for now in self._now.values())
        if serves and self._serving_after is None:
            self._serving_after = self._elapsed()
            self._write()

    async def _watch_connectors(self) -> None:
        """Worker processes are Connect's children: what it says of them goes into the state."""
        while True:
            if self._tended["connect"].ready.is_set():
                for name in CONNECTORS:
                    with contextlib.suppress(ProbeError):
                        # Else Connect has died, or the connector was deleted: named elsewhere.
                        self._note_connector(name, *await asyncio.to_thread(self._ask, name))
                self._look_if_all_serve()
            await asyncio.sleep(_WATCH_SECONDS if self._serving_after else 0.05)

    def _ask(self, name: str) -> tuple[str | None, int | None]:
        wrong = failed_task(self._plane, name)
        return wrong, call_connect(self._plane, "GET", "/twin/workers", seconds=1.0).get(name)

    def _note_connector(self, name: str, wrong: str | None, pid: int | None) -> None:
        state = "starting" if wrong is None else "dead" if wrong else "serving"
        before = self._now[name]
        self._set(name, pid=pid)
        if state == "serving" and before.serving_seconds is None:
            self._set(name, serving_seconds=self._elapsed())
        if state != before.state:
            self._note(name, state, wrong or "")

    def _note(self, name: str, state: str, sentence: str = "", **facts: Any) -> None:
        self._set(name, state=state, sentence=sentence, **facts)
        self._say(name, state, sentence)

    def _set(self, name: str, **facts: Any) -> None:
        self._now[name] = replace(self._now[name], **facts)

    def _say(self, name: str, state: str, sentence: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = PlaneEvent(at, name, state, sentence)
        self._events = (*self._events, event)[-_EVENTS_KEPT:]
        print(f"{at} {name}: {state} {sentence}".rstrip(), flush=True)
        self._write()

    def _write(self) -> None:
        state = PlaneState(self._serving_after, self._now, self._events)
        write_atomic(self._plane.state_file, json.dumps(asdict(state), indent=1).encode())

    async def _end(self, name: str) -> None:
        tended = self._tended[name]
        if tended.runs and tended.child is not None:
            tended.child.send_signal(tended.part.end_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(tended.child.wait(), _GRACE_SECONDS)
            if tended.runs:
                tended.child.send_signal(tended.part.death_signal)
        if left := await self._kill(tended):
            self._set(name, state="left", sentence=f"processes {left} outlived KILL")
            return
        self._plane.pid_file(name).unlink(missing_ok=True)
        self._set(name, state="down", sentence="")


def _die_with_parent(sign: int, parent: int) -> None:
    """In a child before exec: the kernel sends ``sign`` when the thread that forked ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sign)
    if os.getppid() != parent:  # it ended before that was asked for
        os._exit(0)


def _ours() -> dict[str, str]:
    """This environment, with this very package first: a part does not start where we did."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def main() -> None:
    """Supervise a plane until TERM."""
    asyncio.run(Supervisor(Plane.of_command_line()).run())


if __name__ == "__main__":
    main()
