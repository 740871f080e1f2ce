"""Bring a plane up, take it down, say how it is: what the rest of the twin calls."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.host.proc import ALIVE, GONE, ProcReport, alive, start, stop
from ctp_runbook.host.process import identity_of
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, PARTS, PartState, Plane
from ctp_runbook.rehearsal.plane.postgres import remove_cluster

__all__ = ["PlaneStatus", "begin", "down", "status", "wait_serving"]

_SERVING_SECONDS = 60.0


@dataclass(frozen=True)
class PlaneStatus:
    """How a plane is now."""

    supervisor: ProcReport
    parts: dict[str, PartState]
    serving_after_seconds: float | None

    @property
    def is_serving(self) -> bool:
        """Supervisor, every part and every connector."""
        attended = self.supervisor.exit_code == ALIVE
        return attended and all(each.state == "serving" for each in self.parts.values())

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line a part."""
        return tuple(
            f"{name}: {each.state}"
            + (f", port {each.port}" if each.port else "")
            + f", {each.resident_mb:.0f} MB"
            + (f", started again {each.restarts} times" if each.restarts else "")
            + (f": {each.sentence}" if each.sentence else "")
            for name, each in self.parts.items()
        )


def begin(directory: Path) -> Plane:
    """Start the supervisor and do not wait; RunRefused where one runs there already."""
    plane = Plane(directory.resolve())
    report = alive(plane.pid_file("supervisor"))
    if report.exit_code != GONE:
        raise RunRefused(f"{plane.dir} holds a data plane that runs: {report.sentence}; down first")
    plane.make_credentials()
    plane.state_file.unlink(missing_ok=True)
    argv, log = plane.argv("supervisor"), plane.log("supervisor")
    start(plane.pid_file("supervisor"), argv, log=log).raise_if_failed()
    return plane


def wait_serving(plane: Plane) -> None:
    """Until every part and connector serves; RunbookError names those that do not."""
    end = time.monotonic() + _SERVING_SECONDS
    while time.monotonic() < end:
        state = plane.state()
        if state.serving_after_seconds is not None:
            return
        failed = [
            f"{name} {part.sentence}"
            for name, part in state.parts.items()
            if part.state == "failed"
        ]
        if alive(plane.pid_file("supervisor")).exit_code != ALIVE:
            failed.append(f"the supervisor died; see {plane.log('supervisor')}")
        if failed:
            raise RunbookError(f"the data plane did not come up: {'; '.join(failed)}")
        time.sleep(0.03)
    late = [line for line in status(plane.dir).sentences if ": serving" not in line]
    which = f"{'; '.join(late)}; see {plane.dir}/logs"
    raise RunbookError(f"not serving within {_SERVING_SECONDS:g} s: {which}")


def status(directory: Path) -> PlaneStatus:
    """What runs now; a state file whose supervisor is gone is not believed."""
    plane = Plane(directory.resolve())
    supervisor, state = alive(plane.pid_file("supervisor")), plane.state()
    attended = supervisor.exit_code == ALIVE
    known = {name: state.parts.get(name, PartState()) for name in (*PARTS, *CONNECTORS)}
    workers = {known[name].pid for name in CONNECTORS}
    parts = {
        name: _looked_at(part, attended=attended, apart=workers) for name, part in known.items()
    }
    return PlaneStatus(supervisor, parts, state.serving_after_seconds)


def _looked_at(part: PartState, *, attended: bool, apart: set[int | None]) -> PartState:
    """The part as it is now, by its process."""
    process = identity_of(part.pid) if part.pid else None
    runs = process is not None and part.start_ticks in (0, process.start_ticks)
    if not attended and part.state not in ("down", "failed"):
        state = "unattended" if runs else "dead"
        part = replace(part, state=state, sentence="the supervisor is gone")
    if not runs or not part.pid:
        return replace(part, pid=None)
    return replace(part, resident_mb=_resident_mb(part.pid, apart - {part.pid}))


def _resident_mb(pid: int, apart: set[int | None]) -> float:
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
