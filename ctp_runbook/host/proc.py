"""Daemons with a name that cannot be mistaken: start detached, stop with proof, ask if alive.

``ctp-runbook proc start|stop|alive --pid-file F -- CMD`` is built from these three functions,
and templates are built from it, so that nobody writes ``kill … || true`` again.

A pid file holds two lines, ``PID`` and ``START_TICKS`` (field 22 of /proc/PID/stat): a pid that
another process got later is "gone", not "alive". A pid file with a pid alone was written by
something else; it is taken for what it is worth, and every sentence about it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.daemon import launch_daemon
from ctp_runbook.host.pid_file import PidFile, PidFileUnreadable, read_pid_file
from ctp_runbook.host.process import end_group, end_process, group_members, identity_of
from ctp_runbook.model import Identity

__all__ = [
    "ALIVE",
    "COULD_NOT_TELL",
    "GONE",
    "ProcReport",
    "alive",
    "main",
    "start",
    "stop",
]

ALIVE, GONE, COULD_NOT_TELL = 0, 1, 3


@dataclass(frozen=True)
class ProcReport:
    """What came of it, in one sentence, with the exit code the command ends with."""

    exit_code: int
    sentence: str
    identity: Identity | None = None

    def raise_if_failed(self) -> ProcReport:
        """Itself when the exit code is 0; RunbookError with the sentence otherwise."""
        if self.exit_code:
            raise RunbookError(self.sentence)
        return self


def _read(pid_file: Path) -> PidFile | None:
    """The record; None without a file. Raises PidFileUnreadable."""
    try:
        record = read_pid_file(pid_file)
    except PidFileUnreadable as error:
        raise PidFileUnreadable(f"cannot read pid file {pid_file}: {error}") from error
    # A process that lives and is perhaps not the one recorded: neither "alive" nor "gone" of it.
    if record is not None and (doubt := record.doubt):
        raise PidFileUnreadable(f"pid file {pid_file} names nobody for sure: {doubt}")
    return record


def _leftovers(record: PidFile) -> tuple[int, ...]:
    """Processes of its group that outlived it.

    The kernel gives no new process a pid that is still some group's id, so a group with members
    whose leader's pid nobody holds is the one that was started here.
    """
    if record.is_bare or identity_of(record.pid) is not None:
        return ()
    return group_members(record.pid)


def alive(pid_file: Path) -> ProcReport:
    """Whether the recorded process runs: exit code 0 alive, 1 gone, 3 could not tell."""
    try:
        record = _read(pid_file)
    except PidFileUnreadable as error:
        return ProcReport(COULD_NOT_TELL, f"could not tell: {error}; look at it by hand")
    if record is None:
        return ProcReport(GONE, f"gone: there is no pid file {pid_file}")
    if running := record.running:
        return ProcReport(ALIVE, f"alive: {record}", running)
    if left := _leftovers(record):
        return ProcReport(ALIVE, f"{record} is gone, but processes of its group live: {left}")
    return ProcReport(GONE, f"gone: {record}")


@contextlib.contextmanager
def _locked(pid_file: Path) -> Iterator[None]:
    """One start or stop at a time for a pid file; the lock file stays behind, empty.

    Raises RunbookError where the pid file's directory cannot be written.
    """
    try:
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        lock = pid_file.with_name(pid_file.name + ".lock").open("w", encoding="ascii")
    except (OSError, ValueError) as error:  # ValueError: no name of a file at all
        raise RunbookError(f"cannot lock {pid_file}: {error}; nothing was done") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(pid_file: Path, argv: Sequence[str], *, log: Path | None = None) -> ProcReport:
    """Start ``argv`` detached; exit code 0 once it has lived for 0.3 s, else 1.

    The command is held before its first instruction until the pid file names it, so whoever
    dies in between leaves either a recorded daemon or none. It gets a session of its own, no
    descriptor of the caller's, default signals, and ``log`` (appended to) as its output.
    """
    if not argv:
        return ProcReport(1, "nothing started: no command was given after --")
    with _locked(pid_file):
        before = alive(pid_file)
        if before.exit_code != GONE:
            return ProcReport(1, f"nothing started: {pid_file}: {before.sentence}; stop it first")
        return _start(pid_file, tuple(argv), log)


def _start(pid_file: Path, argv: tuple[str, ...], log: Path | None) -> ProcReport:
    launch = launch_daemon(pid_file, argv, log=log)
    if launch.problem:
        with contextlib.suppress(OSError):
            pid_file.unlink()
        return ProcReport(1, f"{argv[0]} did not start: {launch.problem}{_last_words(log)}")
    sentence = f"started {argv[0]} as {launch.identity}; recorded in {pid_file}{launch.notice}"
    return ProcReport(0, sentence, launch.identity)


def _last_words(log: Path | None) -> str:
    """The end of the log, where the reason usually stands."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    except OSError:
        return ""
    return f"; last line of {log}: {lines[-1][:300]}" if lines else ""


def stop(
    pid_file: Path, *, grace_seconds: float = 10.0, kill_grace_seconds: float = 5.0
) -> ProcReport:
    """TERM, grace, KILL, proof of gone, pid file removed; exit code 0 only with the proof.

    Idempotent: what is gone already ends with 0 and says so. The whole process group goes when
    the daemon leads one. Exit code 1: still there; 3: the pid file cannot be relied on.
    """
    with _locked(pid_file):
        try:
            record = _read(pid_file)
        except PidFileUnreadable as error:
            sentence = f"nothing stopped: {error}; look at it and remove it by hand"
            return ProcReport(COULD_NOT_TELL, sentence)
        if record is None:
            return ProcReport(0, f"already gone: there is no pid file {pid_file}")
        return _stop(pid_file, record, grace_seconds, kill_grace_seconds)


def _stop(pid_file: Path, record: PidFile, grace: float, kill_grace: float) -> ProcReport:
    running, began = record.running, time.monotonic()
    if running is None and not _leftovers(record):
        pid_file.unlink(missing_ok=True)
        return ProcReport(0, f"already gone: {record}; removed {pid_file}")
    if problem := _problem_of_ending(record.pid, running, grace, kill_grace):
        return ProcReport(1, f"NOT stopped: {record}: {problem}; end it by hand", running)
    pid_file.unlink(missing_ok=True)
    took = time.monotonic() - began
    how = "after TERM" if took < grace else f"after KILL (TERM did not end it in {grace:g} s)"
    sentence = f"stopped {record}: gone {how}, {took:.2f} s; removed {pid_file}"
    return ProcReport(0, sentence, running)


def _problem_of_ending(pid: int, running: Identity | None, grace: float, kill_grace: float) -> str:
    """End the process, or its group when it leads one; what is left, in words."""
    try:
        leads = running is None or os.getpgid(pid) == pid
    except ProcessLookupError:
        leads = True
    if leads:
        end = end_group(pid, term_grace=grace, kill_grace=kill_grace)
        return f"processes {end.left} of its group outlived KILL" if end.left else ""
    assert running is not None  # only a group is ended without a leader
    gone = end_process(running, term_grace=grace, kill_grace=kill_grace)
    return "" if gone else "it outlived KILL"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctp-runbook proc",
        usage="%(prog)s start|stop|alive --pid-file F [options] [-- CMD ...]",
        description="Start a daemon, stop it with proof, or ask whether it is alive.",
    )
    parser.add_argument("action", choices=("start", "stop", "alive"))
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="start: append the output here")
    parser.add_argument("--grace-seconds", type=float, default=10.0, help="stop: TERM to KILL")
    parser.add_argument("--kill-grace-seconds", type=float, default=5.0, help="stop: after KILL")
    return parser


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own words, and the command's: behind ``--``, or behind the last option of ours.

    click takes the ``--`` away before we see it, hence the second way.
    """
    if "--" in words:
        cut = words.index("--")
        return words[:cut], words[cut + 1 :]
    cut = 1
    while cut < len(words) and words[cut].startswith("-"):
        cut += 1 if "=" in words[cut] or words[cut] in ("-h", "--help") else 2
    return words[:cut], words[cut:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``proc`` with ``argv`` (default: the process's own), print its one sentence."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, command = _split(words)
    options = _parser().parse_args(own)
    try:
        report = _run(options, command)
    except RunbookError as error:
        report = ProcReport(error.exit_code, str(error))
    print(report.sentence, file=sys.stderr if report.exit_code else sys.stdout)
    return report.exit_code


def _run(options: argparse.Namespace, command: list[str]) -> ProcReport:
    if options.action == "start":
        return start(options.pid_file, command, log=options.log)
    if options.action == "alive":
        return alive(options.pid_file)
    return stop(
        options.pid_file,
        grace_seconds=options.grace_seconds,
        kill_grace_seconds=options.kill_grace_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
