"""What is said of a member, by how it is known and what became of it: the table of witnesses.

Each row is about real processes, pinned as in READY; systemctl alone is a stand-in. The alive
command says "gone" in every row, as one does that looks for a pid file which its stop command has
removed: whatever lives, it is the other witnesses that must say so.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ctp_runbook.host.pin import Pin, lookalikes, pin_process, survivors
from ctp_runbook.host.process import group_members, identity_of
from ctp_runbook.model import Generation, Identity, Member, Role
from ctp_runbook.probes.liveness import Liveness, observe_member
from tests.props.plan_fixtures import wait_for

KINDS = (
    "our pid file",
    "bare pid file",
    "no pid file",
    "system unit",
    "user unit",
    "unit with a shell supervisor",
)
STATES = ("alive", "gone", "zombie", "pid reused", "restarted", "other namespace")
# Of a zombie nothing acts any more, and a reused pid is somebody else's: these are gone.
LIVES = {"alive", "restarted", "other namespace"}
_LONG = "time.sleep(600)"
_SHELL = 'while :; do "$@"; sleep 0.05; done'


@dataclass
class Scene:
    """A member of one kind, its engine with an argument of its own, and who was started."""

    folder: Path
    kind: str
    unit: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """Where its pid file lies, or would."""
        return self.folder / "engine.pid"

    @property
    def engine(self) -> list[str]:
        """Its command line, like nobody else's."""
        return [sys.executable, "-c", f"import time; {_LONG}", str(self.folder)]

    @property
    def member(self) -> Member:
        """As a plan has it."""
        member = Member(Generation.OLD, Role.STRATEGY_RUNNER, alive_command="exit 1")
        return member._replace(pid_file="" if self.unit else str(self.file), unit=self.unit)

    def start(self) -> Identity:
        """Start it, or the shell that supervises it; who is its main process."""
        is_shell = self.kind == KINDS[-1]
        words = ["bash", "-c", _SHELL, "supervisor", *self.engine] if is_shell else self.engine
        process = subprocess.Popen(words, start_new_session=True)
        self.started.append(process)
        wait_for(lambda: (not is_shell) or bool(self.children(process.pid)))
        found = identity_of(process.pid)
        assert found is not None
        return found

    def children(self, pid: int) -> list[int]:
        """Who was started by a process and has become the engine."""
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = []
        for word in words:
            with contextlib.suppress(OSError):  # one that ended meanwhile is nobody
                if os.fsencode(_LONG) in Path(f"/proc/{word}/cmdline").read_bytes():
                    found.append(int(word))
        return found

    def end(self, identity: Identity, *, reap: bool = True) -> None:
        """KILL a member's process with all that it started; each dies in its own time."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(identity.pid, signal.SIGKILL)
        wait_for(lambda: not group_members(identity.pid))
        for process in self.started:
            if reap and process.pid == identity.pid:
                process.wait()

    def says(self, pid: int, *, ticks: int = 0, active: bool = True) -> None:
        """Let the pid file, or systemd, name a process."""
        if self.unit:
            state = ("active", "running") if active else ("inactive", "dead")
            lines = (
                "LoadState=loaded",
                f"ActiveState={state[0]}",
                f"SubState={state[1]}",
                f"MainPID={pid if active else 0}",
                "ControlGroup=/",
                f"Id={self.unit.split()[-1]}",
            )
            (self.folder / "shown").write_text("\n".join(lines) + "\n")
        elif self.kind == KINDS[0]:
            self.file.write_text(f"{pid}\n{ticks}\n")
        elif self.kind == KINDS[1]:
            self.file.write_text(f"{pid}\n")

    def look(self, pin: Pin | None) -> Liveness:
        """Ask every witness as a run does."""
        alike = lookalikes(pin, run_ids=(), others=()) if pin else ()
        return observe_member(
            self.member,
            known=pin.identity if pin else None,
            survivors=tuple(each.pid for each in survivors(pin)) if pin else (),
            lookalikes=tuple(each.pid for each in alike) if pin else None,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
            seconds=10,
        )

    def close(self) -> None:
        """End whoever is left."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def scene_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Scene]]:
    """Make a member of a kind; all that was started is ended."""
    scenes: list[Scene] = []
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor last; do :; done\ncat "${last%.service}/shown"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")

    def make(kind: str) -> Scene:
        folder = tmp_path / f"scene{len(scenes)}"
        folder.mkdir()
        manager = "--user " if kind == "user unit" else ""
        scene = Scene(folder, kind, f"{manager}{folder}.service" if "unit" in kind else "")
        scenes.append(scene)
        return scene

    yield make
    for scene in scenes:
        scene.close()


def seen_of(scene: Scene, state: str) -> tuple[Liveness, bool]:
    """Bring a member into a state and look; whether something of it lives."""
    main = scene.start()
    scene.says(main.pid, ticks=main.start_ticks)
    pin = pin_process(main)
    if state in ("gone", "zombie"):
        scene.end(main, reap=state == "gone")
        scene.says(main.pid, ticks=main.start_ticks, active=False)
    elif state == "pid reused":
        # The stranger has the number that was pinned, and began later than its process.
        scene.end(main)
        stranger = Scene(scene.folder, "stranger").started
        stranger.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        scene.started += stranger
        other = identity_of(stranger[0].pid)
        assert other is not None
        pin = Pin(
            Identity(other.pid, other.start_ticks - 9000, other.boot_id),
            pin.executable,
            pin.command_sha256,
        )
        scene.says(other.pid, ticks=pin.identity.start_ticks, active=False)
        if scene.file.exists():
            then = time.time() - 60
            os.utime(scene.file, (then, then))
    elif state == "restarted":
        if scene.kind == KINDS[-1]:  # its shell stays, and has another engine
            (child,) = scene.children(main.pid)
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: bool(set(scene.children(main.pid)) - {child}))
        else:
            scene.end(main)
            again = scene.start()
            if scene.unit:
                scene.says(again.pid)
    return scene.look(pin), state in LIVES


def in_other_namespace(scene: Scene) -> tuple[Liveness, bool] | None:
    """A member in a pid namespace of its own, that names itself by its number there; None where
    this machine lets nobody make one. Without a pid file it was pinned by its number here."""
    inner = scene.folder / "inner"
    script = f'"$@" & echo $! > {inner}; wait'
    words = ["unshare", "--pid", "--fork", "bash", "-c", script, "inner", *scene.engine]
    if os.geteuid():
        words[1:1] = ["--user", "--map-root-user"]
    outer = subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)
    scene.started.append(outer)
    line = b"\0".join(map(os.fsencode, scene.engine)) + b"\0"
    wait_for(lambda: outer.poll() is not None or bool(running(line)))
    if outer.poll() is not None:
        return None
    (engine,) = running(line)
    wait_for(lambda: inner.exists() and bool(inner.read_text().strip()))
    scene.says(int(inner.read_text()), ticks=engine.start_ticks)
    if scene.unit:  # its group is of its own namespace too, and nobody here is in it
        shown = scene.folder / "shown"
        shown.write_text(shown.read_text().replace("Group=/", "Group=/system.slice/engine.service"))
    return scene.look(pin_process(engine) if scene.kind == "no pid file" else None), True


def running(line: bytes) -> list[Identity]:
    """Whoever has exactly this command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == line:
                found.append(identity_of(int(path.parent.name)))
    return [each for each in found if each]


def row_of(kind: str, state: str, seen: Liveness | None, folder: Path) -> str:
    """A line of the table, without what differs from one machine to the next."""
    if seen is None:
        return f"{kind} | {state} | not tried: nobody may make a pid namespace here"
    said = seen.sentence.replace(str(folder.parent), "").replace("old_strategy_runner ", "", 1)
    said = re.sub(r"pid \d+ \(started at tick \d+\)", "pid N (started at tick T)", said)
    said = re.sub(r"\b(?<!exit )\d{2,}\b", "N", said)
    return f"{kind} | {state} | {said}"


def test_whatever_lives_is_not_gone(
    scene_of: Callable[[str], Scene], record_table: Callable[[str, list[str]], None]
) -> None:
    """Every kind of identity in every state: what lives is never called gone, and what is gone is
    called so unless its witness cannot tell."""
    rows = ["known by | it is | what is said, where the alive command says gone"]
    wrong = []
    for kind in KINDS:
        for state in STATES:
            scene = scene_of(kind)
            if state == "other namespace":
                found = in_other_namespace(scene)
            else:
                found = seen_of(scene, state)
            seen, lives = found or (None, True)
            rows.append(row_of(kind, state, seen, scene.folder))
            is_sure = state in ("gone", "zombie")
            if seen and (
                seen.is_alive or (seen.is_gone and lives) or (is_sure and not seen.is_gone)
            ):
                wrong.append(rows[-1])
            scene.close()
    record_table("witnesses", rows)
    assert not wrong
