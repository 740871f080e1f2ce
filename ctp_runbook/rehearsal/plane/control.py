"""Bring a plane up, take it down, say how it is: what the rest of the twin calls."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.host.proc import ALIVE, GONE, ProcReport, alive, start, stop
from ctp_runbook.host.process import identity_of
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, PARTS, Plane
from ctp_runbook.rehearsal.plane.postgres import remove_cluster

__all__ = ["PartStatus", "PlaneStatus", "begin", "down", "status", "up", "wait_serving"]

_SERVING_SECONDS = 60.0


@dataclass(frozen=True)
class PartStatus:
    """A part or connector: ``state`` is starting, serving, dead, failed or down."""

    name: str
    state: str
    pid: int | None
    port: int | None
    restarts: int
    serving_seconds: float | None
    resident_mb: float
    sentence: str


@dataclass(frozen=True)
class PlaneStatus:
    """How a plane is now; ``events`` are the supervisor's, oldest first."""

    supervisor: ProcReport
    parts: dict[str, PartStatus]
    serving_after_seconds: float | None
    events: tuple[dict[str, str], ...]

    @property
    def is_serving(self) -> bool:
        """Supervisor, every part and every connector."""
        attended = self.supervisor.exit_code == ALIVE
        return attended and all(each.state == "serving" for each in self.parts.values())

    @property
    def resident_mb(self) -> float:
        """Of all parts together."""
        return sum(each.resident_mb for each in self.parts.values())

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line a part."""
        return tuple(
            f"{each.name}: {each.state}"
            + (f", port {each.port}" if each.port else "")
            + f", {each.resident_mb:.0f} MB"
            + (f", started again {each.restarts} times" if each.restarts else "")
            + (f": {each.sentence}" if each.sentence else "")
            for each in self.parts.values()
        )


def up(directory: Path, *, seconds: float = _SERVING_SECONDS) -> Plane:
    """``begin`` and ``wait_serving``; what had been started is ended again when that fails."""
    plane = begin(directory)
    try:
        wait_serving(plane, seconds=seconds)
    except BaseException:
        down(directory)
        raise
    return plane


def begin(directory: Path) -> Plane:
    """Start the supervisor and do not wait; RunRefused where one runs there already."""
    plane = Plane(directory.resolve())
    found = alive(plane.pid_file("supervisor"))
    if found.exit_code != GONE:
        raise RunRefused(f"{plane.dir} holds a data plane that runs: {found.sentence}; down first")
    for name in ("run", "logs"):
        (plane.dir / name).mkdir(parents=True, exist_ok=True)
    plane.make_credentials()
    plane.state_file.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "ctp_runbook.rehearsal.plane.supervisor"]
    argv += ["--plane", str(plane.dir)]
    log = plane.log("supervisor")
    start(plane.pid_file("supervisor"), argv, log=log).raise_if_failed()
    return plane


def wait_serving(plane: Plane, *, seconds: float = _SERVING_SECONDS) -> PlaneStatus:
    """Until every part and connector serves; RunbookError names those that do not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = plane.state()
        if state.get("serving_after_seconds") is not None:
            return status(plane.dir)
        failed = [
            f"{name} {facts['sentence']}"
            for name, facts in {**state.get("parts", {}), **state.get("connectors", {})}.items()
            if facts.get("state") == "failed"
        ]
        if alive(plane.pid_file("supervisor")).exit_code != ALIVE:
            failed.append(f"the supervisor died; see {plane.log('supervisor')}")
        if failed:
            raise RunbookError(f"the data plane did not come up: {'; '.join(failed)}")
        time.sleep(0.03)
    late = [line for line in status(plane.dir).sentences if ": serving" not in line]
    raise RunbookError(f"not serving within {seconds:g} s: {'; '.join(late)}; see {plane.dir}/logs")


def status(directory: Path) -> PlaneStatus:
    """What runs now; a state file whose supervisor is gone is not believed."""
    plane = Plane(directory.resolve())
    supervisor, state = alive(plane.pid_file("supervisor")), plane.state()
    attended = supervisor.exit_code == ALIVE
    known = {**state.get("parts", {}), **state.get("connectors", {})}
    workers = {facts.get("pid") for facts in state.get("connectors", {}).values()}
    parts = {
        name: _part(name, known.get(name, {}), attended=attended, apart=workers)
        for name in (*PARTS, *CONNECTORS)
    }
    events = tuple(state.get("events", ()))
    return PlaneStatus(supervisor, parts, state.get("serving_after_seconds"), events)


def _part(name: str, facts: dict[str, Any], *, attended: bool, apart: set[Any]) -> PartStatus:
    pid = facts.get("pid")
    state, sentence = facts.get("state", "down"), facts.get("sentence", "")
    found = identity_of(pid) if pid else None
    runs = found is not None and facts.get("start_ticks", found.start_ticks) == found.start_ticks
    if not attended and state not in ("down", "failed"):
        state, sentence = "dead" if not runs else "unattended", "the supervisor is gone"
    resident = _resident_mb(pid, apart - {pid}) if runs and pid else 0.0
    return PartStatus(
        name,
        state,
        pid if runs else None,
        facts.get("port"),
        int(facts.get("restarts", 0)),
        facts.get("serving_seconds"),
        resident,
        sentence,
    )


def _resident_mb(pid: int, apart: set[Any]) -> float:
    """Resident memory of a process and its descendants but those counted apart; shared twice."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            if process.pid not in apart:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
    return total / 2**20


def down(directory: Path, *, keep_data: bool = False) -> dict[str, ProcReport]:
    """End supervisor and parts, prove them gone, leave no pid or lock file; twice does no harm.

    The parts' own pid files are followed too, for a supervisor that was killed. Without
    ``keep_data`` the cluster of PostgreSQL is removed, which may lie under /tmp.
    """
    plane = Plane(directory.resolve())
    names = ("supervisor", "ingester", "connect", "postgres", "clickhouse", "valkey", "kafka")
    reports = {}
    for name in names if (plane.dir / "run").is_dir() else ():
        grace = 15.0 if name == "supervisor" else 2.0
        reports[name] = stop(plane.pid_file(name), grace_seconds=grace, kill_grace_seconds=3.0)
    if all(report.exit_code == 0 for report in reports.values()):
        for lock in (plane.dir / "run").glob("*.lock"):
            lock.unlink(missing_ok=True)
        if not keep_data:
            remove_cluster(plane)
    return reports
