"""Each part of the data plane is killed in turn: named within two seconds, and back again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.process import identity_of
from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.connectors import call_connect
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, PARTS, Plane
from ctp_runbook.rehearsal.plane.publisher import Publisher
from tests.props.data_plane import plane_up

NOTICED_SECONDS = 2.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A plane that serves."""
    folder = tmp_path_factory.mktemp("plane")
    yield plane_up(folder)
    control.down(folder)


def wait_for(is_so: Callable[[], bool], *, seconds: float) -> float:
    """Seconds until ``is_so``."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def kill(plane: Plane, name: str) -> int:
    """KILL a part or connector; the pid it had."""
    pid = control.status(plane.dir).parts[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


NOTICED: dict[str, tuple[float, float]] = {}


@pytest.mark.table  # the rows of the table below
@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_is_named_and_comes_back(plane: Plane, name: str) -> None:
    """The state names the dead part, its pid and the signal; then it serves again."""
    pid = kill(plane, name)

    def named() -> bool:
        said = f"was killed by signal 9 (pid {pid})"
        return any((event.part, event.sentence) == (name, said) for event in plane.state().events)

    noticed = wait_for(named, seconds=5)
    back = wait_for(lambda: control.status(plane.dir).is_serving, seconds=30)
    NOTICED[name] = (noticed, back)
    assert noticed <= NOTICED_SECONDS


def test_how_soon_each_death_is_noticed(record_table: Callable[[str, list[str]], None]) -> None:
    """Every part has its row: seconds until it is named, and until all serves again."""
    if set(NOTICED) != set(PARTS):
        pytest.skip("the tests above, which measure, did not all run")
    rows = [
        f"{name:12} named after {noticed:5.2f} s   serving again after {back:5.2f} s"
        for name, (noticed, back) in NOTICED.items()
    ]
    record_table("plane_deaths", [*rows, f"each within {NOTICED_SECONDS:g} s"])


def test_a_dead_engine_leaves_its_connector_running(plane: Plane) -> None:
    """The task is FAILED with a trace, the connector RUNNING; a restart brings the engine back."""
    name = CONNECTORS[0]
    kill(plane, name)

    def state() -> str:
        return control.status(plane.dir).parts[name].state

    assert wait_for(lambda: state() == "dead", seconds=5) <= NOTICED_SECONDS
    found = call_connect(plane, "GET", f"/connectors/{name}/status")
    assert found["connector"]["state"] == "RUNNING"
    assert found["tasks"][0]["state"] == "FAILED"
    assert "killed by signal 9" in found["tasks"][0]["trace"]
    call_connect(plane, "POST", f"/connectors/{name}/tasks/0/restart")
    wait_for(lambda: state() == "serving", seconds=10)


def test_the_chain_works_after_all_that(plane: Plane) -> None:
    """A row written now arrives in ClickHouse."""
    publisher, store = Publisher(plane, name="after"), Store(plane)
    publisher.row("orders", {"order_id": "after"})
    query = "SELECT count() FROM orders_cdc WHERE order_id = 'after'"
    wait_for(lambda: int(store.run(query)) > 0, seconds=15)
    publisher.close()


def test_parts_end_with_their_supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A killed supervisor takes every process along, a stuck one too, and ``down`` still tidies up."""
    plane = plane_up(tmp_path / "orphans")
    request.addfinalizer(lambda: control.down(plane.dir))
    status = control.status(plane.dir)
    supervisor = status.supervisor.identity
    assert supervisor is not None
    for name in ("ingester", "connect", "clickhouse", "valkey"):
        stuck = status.parts[name].pid
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)  # it answers to no signal that asks
    os.kill(supervisor.pid, signal.SIGKILL)
    pids = {name: part.pid for name, part in status.parts.items() if part.pid}
    assert set(pids) == {*PARTS, *CONNECTORS}

    def left() -> dict[str, str]:
        """What lives on, in which state: an assertion names it."""
        living = {name: pid for name, pid in pids.items() if identity_of(pid)}
        found = {}
        for name, pid in living.items():
            with contextlib.suppress(OSError):
                found[name] = Path(f"/proc/{pid}/stat").read_text()[:60]
        return found

    end = time.monotonic() + 60.0
    while left() and time.monotonic() < end:
        time.sleep(0.02)
    assert left() == {}
    assert not control.status(plane.dir).is_serving
    assert {report.exit_code for report in control.down(plane.dir).values()} == {0}
    assert list((plane.dir / "run").iterdir()) == []
