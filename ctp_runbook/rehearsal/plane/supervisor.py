"""One process over all parts: starts them side by side, sees each die, starts it again, says so.

Parts are children, so a death is known at once (pidfd), by its signal; the kernel ends them with
the supervisor, should that be killed. Connect is started when the broker listens, its JVMs
warming while PostgreSQL is made; connectors are registered when PostgreSQL and topics are there.
Three deaths of a part within a minute, and it is left dead and reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.host.process import end_group, identity_of, own_identity
from ctp_runbook.rehearsal.front.protocol import write_atomically
from ctp_runbook.rehearsal.plane.connect_tasks import die_with_parent
from ctp_runbook.rehearsal.plane.connectors import call_connect, failed_task
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, Plane
from ctp_runbook.rehearsal.plane.parts import Part, plane_parts

__all__ = ["Supervisor", "main"]

_SERVE_SECONDS = 20.0
_DEATHS_MAX, _DEATHS_SECONDS = 3, 60.0
_WATCH_SECONDS = 0.5
_EVENTS_KEPT = 50
_GRACE_SECONDS = 4.0
_STARTS = 3


@dataclass
class _Tended:
    part: Part
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    child: subprocess.Popen[bytes] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    deaths: list[float] = field(default_factory=list)


class Supervisor:
    """Tends a plane's parts until told to end; its word is the state file."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._tended = {part.name: _Tended(part) for part in plane_parts(plane)}
        self._ending = asyncio.Event()
        self._began = time.monotonic()
        self._events: list[dict[str, str]] = []
        self._serving_after: float | None = None
        self._connectors: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Until TERM or INT; then every part is ended and proved gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        tasks = [asyncio.create_task(self._tend(each)) for each in self._tended.values()]
        tasks.append(asyncio.create_task(self._watch_connectors()))
        await self._ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end_all()

    async def _tend(self, tended: _Tended) -> None:
        while True:
            try:
                await self._bring_up(tended)
            except (ProbeError, RunbookError, OSError) as error:
                self._note(tended, "failed", f"did not come up: {error}")
                await self._kill(tended)
            else:
                await self._until_dead(tended)
            tended.ready.clear()
            if not self._may_start_again(tended):
                return

    def _may_start_again(self, tended: _Tended) -> bool:
        now = time.monotonic()
        tended.deaths = [at for at in (*tended.deaths, now) if now - at < _DEATHS_SECONDS]
        if len(tended.deaths) < _DEATHS_MAX:
            tended.facts["restarts"] = tended.facts.get("restarts", 0) + 1
            return True
        how = f"{len(tended.deaths)} ends within {_DEATHS_SECONDS:g} s; it is left as it is"
        self._note(tended, "failed", f"{how}; see {self._plane.log(tended.part.name)}")
        return False

    async def _bring_up(self, tended: _Tended) -> None:
        part, began = tended.part, time.monotonic()
        self._note(tended, "starting", "", quiet=True)
        for need in part.needs:
            await self._tended[need].ready.wait()
        await asyncio.to_thread(part.prepare)
        await self._start(tended)
        tended.facts["listening_seconds"] = round(time.monotonic() - began, 3)
        if part.name == "connect":
            for need in ("postgres", "kafka"):
                await self._tended[need].ready.wait()
        await asyncio.to_thread(part.provide)
        if tended.child is None or tended.child.poll() is not None:
            raise ProbeError("it died while it was being set up")
        tended.facts["serving_seconds"] = round(time.monotonic() - self._began, 3)
        self._note(tended, "serving", "")
        tended.ready.set()
        self._look_if_all_serve()

    async def _start(self, tended: _Tended) -> None:
        """Start on its port, on another should the first start not get it."""
        for turn in range(_STARTS):
            if tended.part.has_port and ("port" not in tended.facts):
                tended.facts["port"] = self._plane.choose_port(tended.part.name)
            self._spawn(tended)
            if await self._listens(tended):
                return
            if not tended.facts.get("serving_seconds"):
                tended.facts.pop("port", None)  # it may have been taken meanwhile
            if turn < _STARTS - 1:
                await asyncio.sleep(0.3)
        raise ProbeError(f"it ended at once, {_STARTS} times")

    def _spawn(self, tended: _Tended) -> None:
        """On the main thread: the kernel ties a child's life to the thread that forked it."""
        part = tended.part
        log = self._plane.log(part.name)
        environment = dict(_ours() if part.environment is None else part.environment)
        options: dict[str, Any] = {}
        if part.uid_gid:
            options = {"user": part.uid_gid[0], "group": part.uid_gid[1], "extra_groups": []}
        with log.open("ab") as sink:
            tended.child = subprocess.Popen(
                part.argv(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, part.end_signal),
                **options,
            )
        found = identity_of(tended.child.pid)
        ticks = found.start_ticks if found else 0
        tended.facts.update(pid=tended.child.pid, start_ticks=ticks)
        text = f"{tended.child.pid}\n{ticks}\n"
        write_atomically(self._plane.pid_file(part.name), text)

    async def _listens(self, tended: _Tended) -> bool:
        """True once it serves, False when it died first."""
        end, last = time.monotonic() + _SERVE_SECONDS, ""
        while time.monotonic() < end:
            if tended.child is None or tended.child.poll() is not None:
                return False
            try:
                await asyncio.to_thread(tended.part.serves)
                return True
            except ProbeError as error:
                last = str(error)
            await asyncio.sleep(0.03)
        raise ProbeError(f"it did not serve within {_SERVE_SECONDS} s: {last}")

    async def _until_dead(self, tended: _Tended) -> None:
        assert tended.child is not None  # brought up
        fd = os.pidfd_open(tended.child.pid)
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        code = tended.child.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._note(tended, "dead", f"{how} (pid {tended.child.pid})")
        self._end_dependents(tended.part.name)
        if tended.part.name == "connect":  # its workers went with it
            for name, facts in self._connectors.items():
                facts.update(state="starting", pid=None)
                self._say(name, "starting", "because connect died")
        await self._kill(tended)

    def _end_dependents(self, name: str) -> None:
        """Parts that cannot outlive ``name`` are ended, and come up again once it is back."""
        for other in self._tended.values():
            if name in other.part.falls_with and other.child is not None:
                self._say(other.part.name, "restarting", f"because {name} died")
                other.child.terminate()

    async def _kill(self, tended: _Tended) -> None:
        """What is left of its group: PostgreSQL's children outlive it by a moment."""
        if tended.child is not None:
            end = partial(end_group, tended.child.pid, term_grace=0.5, kill_grace=2.0)
            await asyncio.to_thread(end)
            tended.child.poll()

    def _look_if_all_serve(self) -> None:
        parts = all(each.ready.is_set() for each in self._tended.values())
        connectors = all(
            self._connectors.get(name, {}).get("state") == "serving" for name in CONNECTORS
        )
        if parts and connectors and self._serving_after is None:
            self._serving_after = round(time.monotonic() - self._began, 3)
            self._write()

    async def _watch_connectors(self) -> None:
        """Worker processes are Connect's children: what it says of them goes into the state."""
        while True:
            if self._tended["connect"].ready.is_set():
                for name in CONNECTORS:
                    await asyncio.to_thread(self._ask_about, name)
                self._look_if_all_serve()
            await asyncio.sleep(_WATCH_SECONDS if self._serving_after else 0.05)

    def _ask_about(self, name: str) -> None:
        try:
            wrong = failed_task(self._plane, name)
            pid = call_connect(self._plane, "GET", "/twin/workers", seconds=1.0).get(name)
        except ProbeError:
            return  # Connect itself has died, or the connector was deleted: named elsewhere
        state = "starting" if wrong is None else "dead" if wrong else "serving"
        before = self._connectors.get(name, {})
        self._connectors[name] = {"state": state, "pid": pid, "sentence": wrong or ""}
        if state == "serving" and "serving_seconds" not in before:
            before["serving_seconds"] = round(time.monotonic() - self._began, 3)
        if "serving_seconds" in before:
            self._connectors[name]["serving_seconds"] = before["serving_seconds"]
        if state != before.get("state"):
            self._say(name, state, wrong or "")

    def _note(self, tended: _Tended, state: str, sentence: str, *, quiet: bool = False) -> None:
        tended.facts.update(state=state, sentence=sentence)
        if quiet:
            self._write()
        else:
            self._say(tended.part.name, state, sentence)

    def _say(self, name: str, state: str, sentence: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"at": at, "part": name, "state": state, "sentence": sentence}
        self._events = [*self._events, event][-_EVENTS_KEPT:]
        print(f"{at} {name}: {state} {sentence}".rstrip(), flush=True)
        self._write()

    def _write(self) -> None:
        me = own_identity()
        state = {
            "supervisor": {"pid": me.pid, "start_ticks": me.start_ticks},
            "serving_after_seconds": self._serving_after,
            "parts": {name: each.facts for name, each in self._tended.items()},
            "connectors": self._connectors,
            "events": self._events,
        }
        write_atomically(self._plane.state_file, json.dumps(state, indent=1) + "\n")

    async def _end_all(self) -> None:
        """Connect and ingester first, so that nobody complains of a server that is gone."""
        for wave in (("ingester", "connect"), ("postgres", "clickhouse", "valkey", "kafka")):
            await asyncio.gather(*(asyncio.to_thread(self._end, name) for name in wave))
        self._write()

    def _end(self, name: str) -> None:
        tended = self._tended[name]
        if (child := tended.child) is not None:
            if child.poll() is None:
                child.send_signal(tended.part.end_signal)
                _wait(child.poll, seconds=_GRACE_SECONDS)
            left = end_group(child.pid, term_grace=1.0, kill_grace=2.0).left
            child.poll()
            if left:
                tended.facts.update(state="left", sentence=f"processes {left} outlived KILL")
                return
        self._plane.pid_file(name).unlink(missing_ok=True)
        tended.facts.update(state="down", sentence="")


def _ours() -> dict[str, str]:
    """This environment, with this very package first: a part does not start where we did."""
    root = str(CHECKOUT)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def _wait(ended: Callable[[], int | None], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while ended() is None and time.monotonic() < end:
        time.sleep(0.02)


def main() -> None:
    """Supervise a plane until TERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--plane", type=Path, required=True)
    plane = Plane(parser.parse_args().plane)
    asyncio.run(Supervisor(plane).run())


if __name__ == "__main__":
    main()
