"""Facts about the engines as they are found: real processes at a real (simulated) front."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.probes.trading_state import parse_trading_state
from ctp_runbook.rehearsal import faults
from ctp_runbook.rehearsal.as_found import Delays, read_session
from ctp_runbook.rehearsal.engine.as_found_redis import (
    STRATEGY,
    batch_key,
    last_tick_seconds,
    read_orders,
    read_positions,
)
from ctp_runbook.rehearsal.engine.as_found_told import read_write_ahead_log
from ctp_runbook.rehearsal.engine.bridge import bridge_client
from ctp_runbook.rehearsal.front.log import trading_generations
from ctp_runbook.rehearsal.front.protocol import read_ports
from ctp_runbook.rehearsal.rehearse import Rehearsal
from ctp_runbook.rehearsal.twin import Twin
from tests.props.small_servers import valkey
from tests.props.twin_tools import (
    FrontHandle,
    Started,
    StartFront,
    StartModule,
    wait_until,
    write_json,
)

pytest_plugins = ("tests.props.twin_fixtures",)
pytestmark = pytest.mark.twin

ENGINE = "ctp_runbook.rehearsal.engine.as_found"
RUNNER = "ctp_runbook.rehearsal.engine.as_found_runner"
StartEngine = Callable[..., "Found"]


@dataclass
class Found:
    """An engine as found, where it writes, and the front it is at."""

    front: FrontHandle
    process: Started
    dir: Path
    port: int

    @property
    def readiness(self) -> dict[str, Any]:
        """What its file says; empty while there is none."""
        path = self.dir / "readiness.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    @property
    def mode(self) -> str:
        """Ready, CloseOnly or Blocked."""
        return str(self.readiness.get("mode", ""))

    @property
    def page(self) -> str:
        """Its metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    @property
    def families(self) -> set[str]:
        """The families on it."""
        return {line.split()[2] for line in self.page.splitlines() if line.startswith("# TYPE")}

    @property
    def orders(self) -> int:
        """Orders the front has seen."""
        return int(self.front.control()["orders"])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Path]:
    """A folder that says where a Valkey of its own serves."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    with valkey(folder) as url:
        (folder / "port").write_text(url.rpartition(":")[2].strip("/"))
        yield folder


@pytest.fixture
def engine(front: StartFront, started: StartModule, tmp_path: Path) -> StartEngine:
    """Start ``new`` (or ``old``) as found; short CloseOnly and stop unless told otherwise."""

    def start(kind: str = "new", *, at: FrontHandle | None = None, **settings: Any) -> Found:
        running = at or front()
        folder = tmp_path / f"data-{kind}"
        folder.mkdir(exist_ok=True)
        port = int(read_ports(running.dir)["reserved"][1])
        config = {
            "generation": kind,
            "front_dir": str(running.dir),
            "dir": str(folder),
            "metrics_port": port,
            "stop_seconds": 0.1,
            "close_only_seconds": 0.1,
            "quotes_per_second": 50.0,
            **settings,
        }
        file = write_json(tmp_path / f"{kind}.json", config)
        words = ["--config", file] if kind == "new" else [file]
        return Found(running, started(ENGINE, kind, *words), folder, port)

    return start


def test_the_new_one_closes_only_for_a_while_and_then_trades(engine: StartEngine) -> None:
    """Its file says the mode; no order leaves before Ready, and its heartbeat goes on."""
    found = engine(close_only_seconds=1.5)
    wait_until(lambda: found.mode == "CloseOnly")
    said = found.readiness
    assert (said["trader_ready"], said["settlement_confirmed"], said["recovery_complete"]) == (
        (True,) * 3
    )
    assert said["reasons"] == ["recovery"]
    assert found.orders == 0
    wait_until(lambda: found.mode == "Ready")
    wait_until(lambda: found.orders > 3)
    wait_until(lambda: found.readiness["heartbeat_ts_ns"] > said["heartbeat_ts_ns"])
    assert trading_generations(found.front.log) == {"new"}


def test_its_page_has_one_gauge_until_the_first_order(engine: StartEngine) -> None:
    """``ctp_connected`` alone; then the latency of orders, and no family of the twin's own."""
    found = engine(close_only_seconds=1.5)
    wait_until(lambda: found.mode == "CloseOnly")
    assert found.families == {"quant_hft_ctp_connected"}
    wait_until(lambda: len(found.families) > 1)
    assert found.families == {"quant_hft_ctp_connected", "quant_hft_order_latency_seconds"}
    assert 'le="0.005"' in found.page


def test_its_log_has_an_event_a_line(engine: StartEngine) -> None:
    """Logfmt, with the events by which a session is proved."""
    found = engine()
    wait_until(lambda: "event=order_submitted" in found.process.says())
    lines = found.process.says().splitlines()
    assert all(line.startswith("ts_ns=") and " app=core_engine event=" in line for line in lines)
    events = [line.split("event=")[1].split()[0] for line in lines]
    assert events[:5] == [
        "ctp_trader_connection_lost",
        "ctp_settlement_confirmed",
        "ctp_recovery_report",
        "trading_permission_changed",
        "trading_permission_changed",
    ]
    assert 'mode="CloseOnly" reasons="recovery"' in found.process.says()


def test_no_order_has_a_reference_anywhere(engine: StartEngine) -> None:
    """Neither log nor file nor write-ahead log nor page; positions and orders can be read."""
    found = engine()
    wait_until(lambda: found.orders > 3)
    state = read_write_ahead_log(found.dir / "wal.jsonl")
    assert state["positions"] == []
    told = [found.process.says(), found.page, *(each.read_text() for each in found.dir.iterdir())]
    assert not any("ref" in text.lower().replace("refused", "") for text in told)


def test_what_it_holds_is_in_its_log_after_a_restart_too(
    engine: StartEngine, front: StartFront
) -> None:
    """Orders and positions of the day, whoever sent them."""
    running = front()
    client = running.client("old")
    client.get_ready()
    for ref in range(1, 5):
        client.order(ref)
    found = engine(at=running)
    wait_until(lambda: found.mode == "Ready")
    state = read_write_ahead_log(found.dir / "wal.jsonl")
    held = {"instrument": "rb2601", "direction": "long", "hedge_flag": "speculation", "volume": 1}
    assert state["positions"] == [held]
    assert len(state["working_orders"]) == 3
    assert time.time() - state["as_of_ns"] / 1e9 < 30


def test_term_takes_its_time_and_the_file_stays_behind(engine: StartEngine) -> None:
    """Logged in while it stops; then a clean exit, and a file that says nothing of its death."""
    found = engine(stop_seconds=1.0)
    wait_until(lambda: found.mode == "Ready")
    began = time.monotonic()
    found.process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: found.mode == "Blocked")
    assert trading_generations(found.front.log) == {"new"}
    assert found.process.ends() == 0
    assert time.monotonic() - began >= 1.0
    assert trading_generations(found.front.log) == frozenset()
    assert found.readiness["trader_ready"] is True or found.readiness["mode"] == "Blocked"


def test_a_deadlocked_one_looks_well(engine: StartEngine) -> None:
    """Alive, connected, Ready, its heartbeat fresh; no order moves, and TERM does nothing."""
    found = engine(deadlock_after_seconds=0.3)
    wait_until(lambda: 'reason="ledger"' in found.process.says())
    time.sleep(0.3)
    before, said = found.orders, found.readiness
    found.process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: found.readiness["heartbeat_ts_ns"] > said["heartbeat_ts_ns"])
    assert (found.orders, found.mode) == (before, "Ready")
    assert "quant_hft_ctp_connected 1.0" in found.page
    assert found.process.process.poll() is None


def test_one_that_stays_close_only_never_trades(engine: StartEngine) -> None:
    """The mode stays, and says why."""
    found = engine(stays_close_only=True)
    wait_until(lambda: found.mode == "CloseOnly")
    time.sleep(0.5)
    assert (found.mode, found.orders) == ("CloseOnly", 0)
    assert found.readiness["reasons"] == ["strategy_state_unproven"]


def test_one_dies_of_a_segmentation_fault(engine: StartEngine) -> None:
    """By SIGSEGV, some time after it was allowed to trade."""
    found = engine(segfault_after_seconds=0.1)
    assert found.process.ends() == -signal.SIGSEGV


def test_a_page_that_cannot_be_served_is_only_a_warning(engine: StartEngine) -> None:
    """It trades on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = engine(metrics_port=taken.getsockname()[1])
        wait_until(lambda: found.mode == "Ready")
    assert "event=metrics_exporter_failed" in found.process.says()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old", "--config", "x"], "unrecognized arguments: --config"),
        (["new", "x"], "required: --config"),
        (["new", "--config", "/nowhere"], "config error"),
        (["old", "a", "b"], "unrecognized"),
    ],
)
def test_arguments_that_do_not_fit_end_it_with_1(
    started: StartModule, words: list[str], said: str
) -> None:
    """As theirs: the old one knows no ``--config``, the new one nothing else."""
    process = started(ENGINE, *words)
    assert process.ends() == 1
    assert said in process.says()


# --- the old one -------------------------------------------------------------------


def test_the_old_one_is_silent_and_keeps_what_it_knows_in_redis(
    engine: StartEngine, started: StartModule, redis: Path, tmp_path: Path
) -> None:
    """Ticks say that its session stands; orders and positions are by its own numbers."""
    found = engine("old", valkey_dir=str(redis))
    wait_until(lambda: last_tick_seconds(redis) > 0)
    runner = started(RUNNER, write_json(tmp_path / "runner.json", {"valkey_dir": str(redis)}))
    wait_until(lambda: any(each["status"] == "filled" for each in read_orders(redis)))
    with bridge_client(redis, name="test") as client:
        names = {each["name"] for each in client.client_list()}
    assert names == {"", "test"}
    runner.process.send_signal(signal.SIGTERM)
    assert runner.ends() == 0
    wait_until(lambda: all(each["status"] != "working" for each in read_orders(redis)))
    assert set(read_orders(redis)[0]) == {
        *("order_id", "instrument", "direction", "offset", "volume", "price", "status")
    }
    wait_until(lambda: read_positions(redis))
    found.process.process.send_signal(signal.SIGTERM)
    assert found.process.ends() == 0
    assert found.process.says() == ""


def test_the_old_one_places_its_last_batch_again_without_its_log(
    engine: StartEngine, front: StartFront, redis: Path
) -> None:
    """With its log it does not; without, the batch rests, for nobody cancels it."""
    running = front()
    order = {"instrument": "IF2512", "direction": "buy", "offset": "open", "price": 1.0}
    with bridge_client(redis, name="test") as client:
        batch = {"batch": 7, "at": time.time() - 60, "orders": [order, order]}
        client.set(batch_key(STRATEGY), json.dumps(batch))
    for forgets, orders in ((False, 2), (False, 2), (True, 4)):
        began = time.time()
        found = engine("old", at=running, valkey_dir=str(redis), forgets_batches=forgets)
        wait_until(partial(_sees_the_market, redis, began))
        wait_until(partial(_has_orders, found, orders))
        time.sleep(0.3)
        assert found.orders == orders
        os.kill(found.process.pid, signal.SIGTERM)
        assert found.process.ends() == 0
    assert running.control()["working"] >= 3


def _sees_the_market(redis: Path, since: float) -> bool:
    return last_tick_seconds(redis) > since


def _has_orders(found: Found, orders: int) -> bool:
    return found.orders == orders


def test_the_old_one_without_redis_ends_with_5(
    engine: StartEngine, tmp_path: Path, front: StartFront
) -> None:
    """In free text."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
        found = engine("old", at=front(), valkey_dir=str(folder))
        assert found.process.ends() == 5
    assert "redis client unhealthy" in found.process.says()


def test_an_engine_whose_login_is_refused_ends_with_2(
    engine: StartEngine, front: StartFront, redis: Path
) -> None:
    """Once the front forbids the login."""
    running = front("--lockout-failures", 1)
    bad = running.client("old", password="wrong")  # no secret: it is wrong on purpose
    bad.log_in()
    found = engine("old", at=running, valkey_dir=str(redis))
    assert found.process.ends() == 2
    assert "CTP settlement confirm failed" in found.process.says()


def test_the_state_of_either_can_be_compared_without_references(
    engine: StartEngine, redis: Path
) -> None:
    """What the two keep makes a whole state once the comparison leaves references and funds out."""
    found = engine("new")
    wait_until(lambda: found.mode == "Ready")
    state = read_write_ahead_log(found.dir / "wal.jsonl")
    said = {
        "td_session": "ready",
        "md_session": "logged_in",
        "settlement_confirmed": True,
        "stream_drained": True,
        **{name: state[name] for name in ("trading_day", "working_orders", "positions")},
    }
    compares = ("positions", "working_orders")
    read = parse_trading_state(json.dumps(said).encode(), subject="it", compares=compares)
    assert (read.working_orders, read.positions, read.funds) == ((), (), None)


# --- the faults, and the twin of them -----------------------------------------------


@pytest.mark.parametrize(("fault", "is_as_found"), [("deadlock", False), ("engine-dies", True)])
def test_a_fault_of_other_engines_is_refused(tmp_path: Path, fault: str, is_as_found: bool) -> None:
    """By name, with those that fit."""
    twin = Twin(tmp_path)
    if is_as_found:
        twin.data("old").mkdir(parents=True)
    with pytest.raises(RunRefused, match=r"expected one of \w+"):
        faults.apply(twin, fault)


def test_an_engine_of_no_kind_is_refused() -> None:
    """And those there are are named."""
    assert Rehearsal(engine="as-found", stop_seconds=3.0).delays == Delays(30.0, 3.0)
    assert Rehearsal().delays is None
    with pytest.raises(RunRefused, match="expected twin or as-found"):
        assert Rehearsal(engine="found").delays


def test_a_session_is_inferred_from_a_fresh_tick_alone(tmp_path: Path, redis: Path) -> None:
    """Of since the engine's start; and it says no more than a tick proves."""
    twin = Twin(tmp_path)
    with bridge_client(redis, name="") as client:
        client.hset("market:tick:rb2601:latest", mapping={"price": 1, "ts_ns": time.time_ns()})
    twin.valkey_dir.mkdir(exist_ok=True)
    with pytest.raises(ProbeError, match="no old engine was started"):
        read_session(twin, "old")
    pid_file = twin.pid_file("old_core_engine")
    pid_file.parent.mkdir()
    pid_file.write_text("1\n")
    # Set, not left to the file system: its clock is up to 4 ms behind the one the tick has.
    later = time.time() + 60
    os.utime(pid_file, (later, later))
    with pytest.raises(ProbeError, match="of before its start"):
        read_session(twin, "old")
    os.utime(pid_file, (0, 0))
    said = read_session(twin, "old")
    assert {*said} == {"td_logged_in", "md_logged_in", "settlement_confirmed", "as_of"}
