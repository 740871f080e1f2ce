"""Bring a twin up, take it down, say how it is.

``up`` starts the front and Valkey (or the whole data plane), then the old generation, as ``proc
start`` of the templates does. ``down`` ends every process by its identity and proves it gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.host.interruption import answered
from ctp_runbook.host.lock import holder_of
from ctp_runbook.host.proc import ALIVE, GONE, ProcReport, alive, start, stop
from ctp_runbook.host.process import end_process, end_processes, identity_of
from ctp_runbook.model import Identity
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal import as_found, registry
from ctp_runbook.rehearsal.engine.bridge import bridge_client
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.front.log import Overlap, overlaps, trading_generations
from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.layout import free_port
from ctp_runbook.rehearsal.plane.postgres import remove_cluster
from ctp_runbook.rehearsal.plane.valkey import valkey_argv
from ctp_runbook.rehearsal.process import ProcessFolder
from ctp_runbook.rehearsal.seams import write_seams
from ctp_runbook.rehearsal.twin import MEMBERS, PARTS, SUPERVISORS, Twin
from ctp_runbook.rehearsal.twin_files import (
    render_templates,
    set_keys,
    write_env_file,
    write_releases,
    write_wrappers,
)

__all__ = ["TwinDown", "TwinStatus", "down", "down_all", "start_member", "status", "up", "use_of"]

_READY_SECONDS = 15.0
_VALKEY_TRIES = 5


@dataclass(frozen=True)
class TwinStatus:
    """What of a twin runs, by the pid files, and who can trade, by the front's own log."""

    alive: dict[str, ProcReport]
    trading: frozenset[str]
    overlaps: tuple[Overlap, ...]
    plane: control.PlaneStatus | None = None
    new_has_no_runner: bool = False

    @property
    def is_up(self) -> bool:
        """Front, Valkey (or the whole data plane) and one whole generation run."""
        if self.plane is not None and not self.plane.is_serving:
            return False
        runs = {name for name, report in self.alive.items() if report.exit_code == ALIVE}
        whole = [{f"{each}_core_engine", f"{each}_strategy_runner"} for each in ("old", "new")]
        if self.new_has_no_runner:
            whole.append({"new_core_engine"})
        return set(self.alive) - set(MEMBERS) <= runs and any(
            generation <= runs for generation in whole
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line a process, then who trades."""
        lines = [f"{name}: {report.sentence}" for name, report in self.alive.items()]
        lines += [f"plane {line}" for line in self.plane.sentences] if self.plane else []
        trades = ", ".join(sorted(self.trading)) or "nobody"
        lines.append(f"able to trade, by the front's log: {trades}")
        return (*lines, *(f"OVERLAP: {each}" for each in self.overlaps))


@dataclass(frozen=True)
class TwinDown:
    """How every process ended; ``left`` names those not proved gone."""

    twin: Twin
    reports: dict[str, ProcReport]

    @property
    def sentence(self) -> str:
        """Whether that is proved of every process."""
        if self.left:
            return f"twin NOT down: {', '.join(self.left)} still run; see {self.twin.dir}/run"
        return "twin down: every process proved gone"

    @property
    def left(self) -> tuple[str, ...]:
        """Processes not proved gone; empty is what is wanted."""
        return tuple(name for name, report in self.reports.items() if report.exit_code)


def up(
    directory: Path,
    *,
    front_options: Sequence[str] = (),
    watch_minutes: float = 0.5,
    plane: bool = False,
    delays: as_found.Delays | None = None,
    hold_seconds: float | None = None,
) -> Twin:
    """Bring up a twin in ``directory``, old generation trading, templates rendered.

    With ``plane`` it has the data plane, whose Valkey is then the bridge's; with ``delays`` its
    engines are those that are found, and take so long. ``front_options`` go to the front
    (``--second-login kick``, …). ``hold_seconds`` is for a person, who wants to think before a run
    that holds rolls back; else it is what a rehearsal waits. Raises RunRefused when something of a twin runs there
    already, RunbookError when a part does not come up; whatever had been started is ended again
    then.
    """
    twin = Twin(directory.resolve())
    _refuse_if_running(twin)
    registry.enter(twin)
    try:
        _prepare(twin, is_as_found=delays is not None)
        if plane:
            control.begin(twin.plane.dir)
        _bring_up(twin, front_options, watch_minutes, delays)
        if hold_seconds is not None:
            set_keys(twin.cutover_template, HOLD_SECONDS=f"{hold_seconds:g}")
    except BaseException:
        down(directory)
        raise
    return twin


def _refuse_if_running(twin: Twin) -> None:
    files = [*map(twin.pid_file, (*PARTS, *MEMBERS)), twin.plane.pid_file("supervisor")]
    reports = [report for report in map(alive, files) if report.exit_code != GONE]
    if reports:
        running = "; ".join(report.sentence for report in reports)
        raise RunRefused(f"{twin.dir} holds a twin that runs: {running}; take it down first")


def _prepare(twin: Twin, *, is_as_found: bool) -> None:
    """The folders, without what a twin of before would mislead by; the front's log goes on."""
    for name in ("valkey", "faults"):
        (twin.dir / name).mkdir(parents=True, exist_ok=True)
    (twin.front_dir / "ports.json").unlink(missing_ok=True)
    for generation in ("old", "new"):
        twin.behaviour_file(generation).unlink(missing_ok=True)
    twin.env_file.unlink(missing_ok=True)
    if twin.plane.dir.is_dir():  # its parts agree with each other only as long as they run
        remove_cluster(twin.plane)
        shutil.rmtree(twin.plane.dir)
    if (data := twin.data("old").parent).is_dir():
        shutil.rmtree(data)
    if is_as_found:
        data.mkdir()
    write_wrappers(twin)


def _bring_up(
    twin: Twin,
    front_options: Sequence[str],
    watch_minutes: float,
    delays: as_found.Delays | None,
) -> None:
    module = "ctp_runbook.rehearsal.front.server"
    _start(twin, "front", module, "--dir", str(twin.front_dir), *front_options)
    if twin.has_plane:
        _take_valkey_of_plane(twin)
    else:
        _start_valkey(twin)
    _wait(twin, "front", lambda: bool(front_control(twin.front_dir)))
    if delays:
        as_found.write_releases(twin, delays)
    else:
        write_releases(twin)
    write_seams(twin)
    start_member(twin, "old_core_engine")
    _wait(twin, "old_core_engine", lambda: _is_ready(twin, "old"))
    start_member(twin, "old_strategy_runner")
    if twin.has_plane:
        control.wait_serving(twin.plane)
        write_env_file(twin)
    render_templates(twin, watch_minutes=watch_minutes, delays=delays)
    _wait(twin, "old_strategy_runner", lambda: _is_trading(twin))


def _is_trading(twin: Twin) -> bool:
    """Whether an order of the old generation got through."""
    if twin.is_as_found:
        return bool(as_found.read_state(twin, "old")["orders"])
    return bool(twin.state("old")["orders_answered"] > 0)


def _is_ready(twin: Twin, generation: str) -> bool:
    if twin.is_as_found:
        return bool(as_found.read_session(twin, generation))
    state = twin.state(generation)
    return bool(state["td_session"] == "ready" and state["md_session"] == "logged_in")


def start_member(twin: Twin, name: str) -> None:
    """Start ``new_core_engine`` and the like, as ``proc start`` does, with its release's files.

    Raises RunbookError when it dies at once; does not wait until it is ready. One as found is
    started as its operator would, who does not wait for anything.
    """
    if twin.is_as_found:
        as_found.start_member(twin, name)
        return
    generation, role = name.split("_", 1)
    words = ["--config", str(twin.release(generation) / f"{role}.json")]
    module = f"{generation}_runner"
    if role == "core_engine":
        module, words = role, [*words, "--generation", generation]
    _start(twin, name, f"ctp_runbook.rehearsal.engine.{module}", *words)


def _start(twin: Twin, name: str, module: str, *words: str) -> None:
    _start_command(twin, name, [str(twin.python), "-m", module, *words])


def _start_command(twin: Twin, name: str, argv: Sequence[str]) -> None:
    report = start(twin.pid_file(name), argv, log=twin.log(name))
    if report.exit_code:
        raise RunbookError(f"{name} did not start: {report.sentence}; see {twin.log(name)}")


def _start_valkey(twin: Twin) -> None:
    """Start Valkey on a port that is free now, on another should it be taken meanwhile."""
    for turn in range(_VALKEY_TRIES):
        port = free_port()
        try:
            _start_command(twin, "valkey", valkey_argv(port, folder=twin.valkey_dir))
            break
        except RunbookError:
            if turn == _VALKEY_TRIES - 1:
                raise
    _write_valkey_port(twin, port)
    _wait(twin, "valkey", lambda: _ping(twin))


def _take_valkey_of_plane(twin: Twin) -> None:
    def serves() -> bool:
        return twin.plane.part_state("valkey").state == "serving"

    _wait(twin.plane, "supervisor", serves, what="the plane's valkey")
    _write_valkey_port(twin, twin.plane.port("valkey"))


def _write_valkey_port(twin: Twin, port: int) -> None:
    """Where the bridge looks for it."""
    write_atomic(twin.valkey_dir / "port", f"{port}\n".encode())


def _ping(twin: Twin) -> bool:
    with bridge_client(twin.valkey_dir, name="stack") as client:
        return bool(client.ping())


def _wait(
    folder: ProcessFolder, name: str, is_there: Callable[[], bool], *, what: str = ""
) -> None:
    """Until ``is_there``; raises RunbookError when the process dies or takes too long."""
    end, last = time.monotonic() + _READY_SECONDS, "no answer yet"
    while time.monotonic() < end:
        try:
            if is_there():
                return
        except RunbookError as error:
            last = str(error)
        if alive(folder.pid_file(name)).exit_code == GONE:
            raise RunbookError(f"{name} died while it came up; see {folder.log(name)}")
        time.sleep(0.02)
    raise RunbookError(
        f"{what or name} was not ready within {_READY_SECONDS} s: {last}; see {folder.log(name)}"
    )


def down(directory: Path, *, grace_seconds: float = 3.0) -> TwinDown:
    """End runners, then engines, then strays, then the parts and the plane; twice does no harm.

    Every process is ended by the identity in its pid file and proved gone. A stray is one that
    no pid file names but that holds a session at the twin's front.
    """
    twin = Twin(directory.resolve())
    with answered("the twin is being taken down, which takes some seconds"):
        ended = TwinDown(twin, _end(twin, grace_seconds))
    if not ended.left:
        registry.strike(twin)
    return ended


def _end(twin: Twin, grace_seconds: float) -> dict[str, ProcReport]:
    reports: dict[str, ProcReport] = {}
    # Who starts an engine again is ended before it.
    supervisors = tuple(name for name in SUPERVISORS if twin.pid_file(name).exists())
    for wave in filter(None, (supervisors, MEMBERS[:2], MEMBERS[2:], twin.parts)):
        if wave == twin.parts:
            reports.update(_end_strays(twin, grace_seconds))
        with ThreadPoolExecutor(len(wave)) as pool:
            ended = pool.map(lambda name: _stop(twin, name, grace_seconds), wave)
            reports.update(zip(wave, ended, strict=True))
    if twin.has_plane:
        ended_parts = control.down(twin.plane.dir)
        reports |= {f"plane {name}": report for name, report in ended_parts.items()}
    reports |= _end_remains(twin, grace_seconds)
    if not twin.dir.is_dir():
        remove_cluster(twin.plane)  # which may lie elsewhere
    return reports


def _end_remains(twin: Twin, grace: float) -> dict[str, ProcReport]:
    """End what no pid file names any more: somebody may have removed them, or the whole folder."""
    remains = _remains(twin)
    left = end_processes(remains, term_grace=grace, kill_grace=grace)
    return {
        f"process {each.pid}": ProcReport(
            1 if each in left else 0,
            f"{each} was in no pid file: {'NOT ended' if each in left else 'ended'}",
            each,
        )
        for each in remains
    }


def _remains(twin: Twin) -> tuple[Identity, ...]:
    """This user's processes that are a twin's, at work in this very folder: by their command line,
    or, as Valkey writes another over its own, by its program and the folder it stands in."""
    remains, inside = [], f"{twin.dir}/"
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = [os.fsdecode(word) for word in (place / "cmdline").read_bytes().split(b"\0")]
            is_part = (
                any(word.startswith("ctp_runbook.rehearsal.") for word in words)
                and any(word.startswith(inside) for word in words)
            ) or (
                (place / "exe").readlink().name == "valkey-server"
                and Path(inside) in (place / "cwd").readlink().parents
            )
            if is_part and place.stat().st_uid == os.geteuid():
                remains.append(identity_of(int(place.name)))
    return tuple(filter(None, remains))


def down_all(*, force: bool) -> tuple[tuple[Twin, str, bool], ...]:
    """Take down every twin of this user that nobody uses: each with what came of it, and if it is
    down. With ``force`` those in use go too."""
    return tuple(_down_left(entry, force=force) for entry in registry.entries())


def _down_left(entry: registry.Entry, *, force: bool) -> tuple[Twin, str, bool]:
    twin = entry.twin
    if (use := use_of(twin, entry)) and not force:
        return twin, f"left up: {use}", False
    gone = "" if twin.dir.is_dir() else "its folder is gone; "
    ended = down(twin.dir)
    return twin, f"{gone}{ended.sentence}", not ended.left


def use_of(twin: Twin, entry: registry.Entry | None = None) -> str:
    """Who would lose the twin under its hands, and the remedy; empty when nobody would."""
    if run := holder_of(twin.environment):
        return f"run {run} is at work on it; `ctp-runbook abort --run {run}` ends that"
    if entry is not None and entry.is_kept:
        return f"{entry.keeper} brought it up and will take it down; Ctrl-C ends that"
    return ""


def _end_strays(twin: Twin, grace: float) -> dict[str, ProcReport]:
    try:
        sessions = front_control(twin.front_dir)["sessions"]
    except RunbookError:
        return {}  # no front, no session
    reports = {}
    for pid in {int(session["pid"]) for session in sessions} - {0, os.getpid()}:
        if stray := identity_of(pid):
            gone = end_process(stray, term_grace=grace, kill_grace=grace)
            sentence = f"{stray} held a session and no pid file: {'ended' if gone else 'NOT ended'}"
            reports[f"stray {pid}"] = ProcReport(0 if gone else 1, sentence, stray)
    return reports


def _stop(twin: Twin, name: str, grace: float) -> ProcReport:
    pid_file = twin.pid_file(name)
    if not pid_file.parent.is_dir():
        return ProcReport(0, f"already gone: there is no twin in {twin.dir}")
    return stop(pid_file, grace_seconds=grace, kill_grace_seconds=grace)


def status(directory: Path) -> TwinStatus:
    """What runs in ``directory`` now; reads pid files and the front's log, touches nothing."""
    twin = Twin(directory.resolve())
    reports = {name: alive(twin.pid_file(name)) for name in (*twin.parts, *MEMBERS)}
    trading = trading_generations(twin.front_log)
    plane = control.status(twin.plane.dir) if twin.has_plane else None
    together = tuple(overlaps(twin.front_log))
    return TwinStatus(reports, trading, together, plane, new_has_no_runner=twin.is_as_found)
