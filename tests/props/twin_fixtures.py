"""Fixtures for tests of the twin: real processes, ended by identity, in paths that hurt.

A test module asks for them with ``pytest_plugins = ("tests.props.twin_fixtures",)``, and must not
import from here itself; what it works with stands in ``tests.props.twin_tools``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.stack import down, up
from ctp_runbook.rehearsal.twin import Twin
from tests.props.twin_tools import ROOT, FrontHandle, Started, StartFront, StartModule, wait_until

__all__ = ["front", "started", "twin", "twin_dir"]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[StartModule]:
    """Start ``python -m MODULE ARGS…``; whatever was started is killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(module: str, *args: object) -> Started:
        log = tmp_path / f"{module.rpartition('.')[2]}-{len(running)}.log"
        with log.open("wb") as sink:
            argv = [sys.executable, "-m", module, *map(str, args)]
            running.append(subprocess.Popen(argv, stdout=sink, stderr=sink, cwd=ROOT))
        return Started(running[-1], log)

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def front(tmp_path: Path, started: StartModule) -> Iterator[StartFront]:
    """Start a front with the options given, in a path with a space; it serves on return."""
    fronts: list[FrontHandle] = []

    def start(*options: object) -> FrontHandle:
        directory = tmp_path / "a front"
        (directory / "ports.json").unlink(missing_ok=True)
        process = started("ctp_runbook.rehearsal.front.server", "--dir", directory, *options)
        wait_until(lambda: front_control(directory), what=str(process.log))
        fronts.append(FrontHandle(directory, process))
        return fronts[-1]

    yield start
    for client in [client for each in fronts for client in each.clients]:
        client.close()


@pytest.fixture
def twin_dir(tmp_path: Path) -> Path:
    """A directory no shell word splitting survives."""
    return tmp_path / "a twin's $dir"


@pytest.fixture
def twin(twin_dir: Path) -> Iterator[Twin]:
    """A twin with its old generation trading; taken down again, with the front's log judged."""
    brought_up = up(twin_dir)
    yield brought_up
    assert down(twin_dir).left == ()
    assert overlaps(brought_up.front_log) == []
