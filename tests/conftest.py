"""The interlock: a test that does not say ``twin`` or ``browser`` cannot touch the real thing.

It opens no internet socket and starts no server. The check is an audit hook of the interpreter
(PEP 578), so it holds for every library in this process, and it raises what ``except Exception``
does not catch. A hook cannot be removed again: it is closed for each unmarked test, and open
between tests, where fixtures of wider scope start what the marked ones share.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity

__all__ = ["KEPT_TABLES", "SERVERS", "Interlock", "browser_path", "interlock", "record_table"]

TESTS = Path(__file__).parent
# Every test in these folders is about real processes.
TWIN_FOLDERS = ("integration", "scenarios", "notebooks")
OPENING_MARKS = ("twin", "browser")
# Where tables are kept. `make prove` alone sets it, to tests/benchmarks: a test run leaves the
# checkout as it was.
KEPT_TABLES = "CTP_RUNBOOK_KEPT_TABLES"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# They ask for the session's ``chain``, which takes half a minute to start.
CHAIN_FILES = ("test_real_kafka.py", "test_sabotage.py")
# What an unmarked test may not start, by a word of its command line. Short commands are free.
SERVERS = (
    "chrome",
    "chromium",
    "ctp_runbook.rehearsal",
    "ctp-runbook rehearse",
    "ctp-runbook stack",
    "ipykernel",
    "jupyter",
    "papermill",
    "postgres",
    "prometheus",
    "valkey-server",
)

# Wall time on a shared machine says nothing about a property.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


class Interlock:
    """The audit hook; ``closed`` while an unmarked test runs."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Refuse what ``event`` announces: called by the interpreter before it happens."""
        if not self.closed:
            return
        if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
            self._socket(event, *args)
        elif event in ("subprocess.Popen", "os.posix_spawn"):
            self._command(" ".join(str(word) for word in args[1]))
        elif event == "os.system":
            self._command(str(args[0]))

    def _socket(self, event: str, sock: socket.socket, address: object = None) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self._refuse(f"{event} {address}")

    def _command(self, line: str) -> None:
        if any(server in line for server in SERVERS):
            self._refuse(f"starting {line!r}")

    def _refuse(self, act: str) -> None:
        pytest.fail(
            f"interlock: {act}, in a test without a mark; mark it `twin` or `browser`, "
            f"or move it to tests/{{{','.join(TWIN_FOLDERS)}}}/"
        )


_INTERLOCK = Interlock()
sys.addaudithook(_INTERLOCK)


@pytest.fixture(autouse=True)
def interlock(request: pytest.FixtureRequest) -> Iterator[Interlock]:
    """Closed around each test that carries none of ``OPENING_MARKS``."""
    _INTERLOCK.closed = not any(request.node.get_closest_marker(mark) for mark in OPENING_MARKS)
    yield _INTERLOCK
    _INTERLOCK.closed = False


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The browser installed on this machine; playwright's own is never downloaded."""
    return _installed_browser() or pytest.fail("no browser: tests marked `browser` are skipped")


def pytest_configure() -> None:
    """Be a process that is asked to end as any other: under nohup, or behind a shell's ``&``, some of
    these signals are ignored by whoever is started here, and by us."""
    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and by their table; without a browser, skip its tests."""
    missing = pytest.mark.skip(reason=f"none of {', '.join(BROWSERS)} is installed")
    for item in items:
        if TESTS in item.path.parents and item.path.relative_to(TESTS).parts[0] in TWIN_FOLDERS:
            item.add_marker("twin")
        if "record_table" in getattr(item, "fixturenames", ()):
            item.add_marker("table")
        if item.get_closest_marker("browser") and not _installed_browser():
            item.add_marker(missing)


def _installed_browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Each file to one worker; files that share the real chain to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "the real chain" if Path(file).name in CHAIN_FILES else file

    return Files(config, log)


@pytest.fixture
def record_table(capsys: pytest.CaptureFixture[str]) -> Callable[[str, list[str]], None]:
    """Print a table past pytest's capture; keep it as NAME.txt where ``KEPT_TABLES`` says."""

    def keep(name: str, rows: list[str]) -> None:
        text = "\n".join(rows) + "\n"
        if folder := os.environ.get(KEPT_TABLES):
            # Below the checkout: the test may stand in another folder.
            (Path(__file__).parents[1] / folder / f"{name}.txt").write_text(text, encoding="utf-8")
        with capsys.disabled():
            print(f"\n{name}\n{text}")

    return keep


@pytest.fixture
def process() -> Iterator[Identity]:
    """A process that lives, leads no group, and has a command line that no neighbour's has."""
    with subprocess.Popen(["sleep", f"{600 + os.getpid() / 1e6}"]) as child:
        found = identity_of(child.pid)
        assert found is not None
        yield found
        child.kill()
