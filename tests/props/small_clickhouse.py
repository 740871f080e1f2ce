"""The engine of ClickHouse alone, behind the twin's HTTP: no data plane, no plane's password."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from tests.props.small_servers import free_port

__all__ = ["small_clickhouse"]

_SERVER = """
import sys
from pathlib import Path
from ctp_runbook.rehearsal.plane.clickhouse import ClickHouse, answer
from ctp_runbook.rehearsal.plane.web import serve, serve_until_term
engine = ClickHouse(Path(sys.argv[1]))
handle = lambda request: answer(engine, request, user="quant_hft", password="")
serve_until_term(serve(int(sys.argv[2]), handle, name="ClickHouse"))
engine.close()
"""


@contextlib.contextmanager
def small_clickhouse() -> Iterator[ClickHouseDoor]:
    """A way into an empty server, in a process of its own: it owns its data."""
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("chdb is not installed: no ClickHouse to compare a schema with")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="clickhouse-") as folder:
        argv = [sys.executable, "-c", _SERVER, str(Path(folder) / "data"), str(port)]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            door = ClickHouseDoor(f"http://127.0.0.1:{port}", "quant_hft", "")
            _wait_for(door)
            yield door
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(door: ClickHouseDoor) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            door.rows("SELECT 1", seconds=5)
        except ProbeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
