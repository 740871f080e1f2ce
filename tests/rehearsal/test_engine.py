"""Facts about the new engine and runner: real processes at a real (simulated) front."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ctp_runbook.rehearsal.front.log import read_front_log, trading_generations
from ctp_runbook.rehearsal.front.protocol import read_ports
from tests.props.twin_tools import (
    FrontHandle,
    Started,
    StartFront,
    StartModule,
    events,
    wait_until,
    write_json,
)

pytest_plugins = ("tests.props.twin_fixtures",)
pytestmark = pytest.mark.twin

SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


@dataclass
class Running:
    """An engine and its door."""

    front: FrontHandle
    process: Started
    port: int

    def get(self, path: str, *, method: str = "GET") -> Any:
        """JSON of a path."""
        return json.loads(self.fetch(path, method=method))

    def fetch(self, path: str, *, method: str = "GET") -> str:
        """The text of a path; raises URLError."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())

    def metrics(self) -> dict[str, float]:
        """Every sample of the metrics page."""
        return {name: float(value) for name, value in SAMPLE.findall(self.fetch("/metrics"))}

    @property
    def serves(self) -> bool:
        """Whether its door is open."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def is_ready(self) -> bool:
        """TD ready and MD logged in."""
        if not self.serves:
            return False
        state = self.get("/state")
        return bool(state["td_session"] == "ready" and state["md_session"] == "logged_in")


StartEngine = Callable[..., Running]


@pytest.fixture
def engine(front: StartFront, started: StartModule, tmp_path: Path) -> StartEngine:
    """Start an engine of the new generation at a front of its own; quotes 50 a second."""

    def start(*, at: FrontHandle | None = None, name: str = "e", **settings: Any) -> Running:
        running = at or front()
        port = read_ports(running.dir)["reserved"][0 if name == "e" else 1]
        config = {
            "generation": "new",
            "front_dir": str(running.dir),
            "metrics_port": port,
            "quotes_per_second": 50.0,
            **settings,
        }
        file = write_json(tmp_path / f"{name}.json", config)
        process = started("ctp_runbook.rehearsal.engine.core_engine", "--config", file)
        return Running(running, process, port)

    return start


def ready(engine: Running) -> Running:
    """The engine, once its sessions stand."""
    wait_until(lambda: engine.is_ready, what=engine.process.log.name)
    return engine


def test_an_engine_is_ready_soon_after_its_start(engine: StartEngine) -> None:
    """Both sessions, settlement confirmed, stream drained; for less than 1.5 s of a processor."""
    running = ready(engine())
    spent = psutil.Process(running.process.pid).cpu_times()
    assert spent.user + spent.system < 1.5
    state = running.get("/state")
    assert (state["settlement_confirmed"], state["stream_drained"]) == (True, True)
    assert state["next_order_ref"] > state["max_order_ref"] == 0
    assert trading_generations(running.front.log) == {"new"}


def test_the_metrics_are_those_of_the_domain(engine: StartEngine) -> None:
    """Every name of DOMAIN.md is on the page, and only names of ours."""
    running = ready(engine())
    wait_until(lambda: running.metrics()["quant_hft_order_latency_seconds_count"] > 10)
    samples = running.metrics()
    assert samples['quant_hft_ctp_session_state{channel="td"}'] == 4
    assert samples['quant_hft_ctp_session_state{channel="md"}'] == 2
    assert samples["quant_hft_ctp_connected"] == 1
    assert samples["quant_hft_ctp_reconnect_total"] == 0
    assert samples["quant_hft_query_rate_violation_total"] == 0
    assert samples['quant_hft_risk_reject_total{reason="breaker_open"}'] == 0
    assert samples["quant_hft_ctp_query_latency_seconds_count"] == 1
    assert {name for name in samples if "breaker" in name} == {
        f'quant_hft_breaker_state{{scope="{scope}"}}' for scope in ("order", "query", "login")
    } | {'quant_hft_risk_reject_total{reason="breaker_open"}'}
    assert all(name.startswith("quant_hft_") for name in samples)


def test_order_latency_is_what_the_front_took(engine: StartEngine) -> None:
    """With answers delayed by 200 ms, no order is counted below 150 ms."""
    running = ready(engine())
    running.front.control(order_latency_ms=200)
    fast = 'quant_hft_order_latency_seconds_bucket{le="0.15"}'
    # Once one is late, none that was sent before is under way.
    wait_until(lambda: _orders(page := running.metrics()) > page[fast])
    before = running.metrics()
    wait_until(lambda: _orders(running.metrics()) > _orders(before) + 10)
    assert running.metrics()[fast] == before[fast]


def _orders(samples: dict[str, float]) -> float:
    return samples["quant_hft_order_latency_seconds_count"]


def test_quotes_leave_no_position_and_no_working_order(engine: StartEngine) -> None:
    """The handover comparison must not see the engine's own measuring orders."""
    running = ready(engine())
    wait_until(lambda: running.get("/state")["orders_answered"] > 20)

    def is_flat() -> bool:
        state = running.get("/state")
        return (state["positions"], state["working_orders"]) == ([], [])

    wait_until(is_flat)  # but for a quote under way
    assert running.get("/state")["funds"]["Commission"] == 0


def test_term_logs_out_and_exits_0_at_once(engine: StartEngine) -> None:
    """TD and MD both log out, so the front knows at once; nothing lingers."""
    running = ready(engine())
    began = time.monotonic()
    running.process.process.terminate()
    assert running.process.ends() == 0
    assert time.monotonic() - began < 5
    assert events(running.front.log, "logout", "session_lost") == ["logout", "logout"]


def test_a_dropped_session_comes_back_and_is_measured(engine: StartEngine) -> None:
    """The reconnect histogram has the time from the loss to a drained stream."""
    running = ready(engine())
    running.front.control(disconnect="new", refuse_logins="new", refuse_seconds=1.0)
    wait_until(lambda: running.metrics()["quant_hft_ctp_reconnect_total"] == 1)
    samples = running.metrics()
    assert samples["quant_hft_ctp_reconnect_seconds_count"] == 1
    assert samples["quant_hft_ctp_reconnect_seconds_sum"] >= 1
    assert samples['quant_hft_breaker_state{scope="login"}'] == 0


def test_failed_logins_open_the_login_breaker(engine: StartEngine) -> None:
    """Each refusal counts; the state shows while the front keeps refusing."""
    running = ready(engine())
    running.front.control(disconnect="new", refuse_logins="new", refuse_seconds=60)
    name = 'quant_hft_breaker_state{scope="login"}'
    wait_until(lambda: running.metrics()[name] > 0)
    assert running.metrics()["quant_hft_ctp_connected"] == 0


def test_rejected_orders_open_the_order_breaker(engine: StartEngine) -> None:
    """Open, orders are kept back and counted with their reason; once healthy it closes again."""
    running = ready(engine())
    running.front.control(reject_orders_ratio=1.0)
    state = 'quant_hft_breaker_state{scope="order"}'
    wait_until(lambda: running.metrics()[state] == 2)
    wait_until(lambda: running.metrics()['quant_hft_risk_reject_total{reason="breaker_open"}'] > 0)
    running.front.control(reject_orders_ratio=0.0)
    wait_until(lambda: running.metrics()[state] == 0)


def test_a_wrong_password_stops_before_the_lockout(engine: StartEngine) -> None:
    """It gives up with attempts to spare for whoever must log in after it, and stays stoppable."""
    running = engine(password="wrong")
    wait_until(lambda: running.serves)
    wait_until(lambda: running.get("/state")["gave_up"])
    assert running.get("/state")["login_attempts_left"] >= 1
    assert running.front.control()["attempts_left"] >= 1
    time.sleep(1)
    assert running.front.control()["attempts_left"] >= 1
    running.process.process.terminate()
    assert running.process.ends() == 0


def test_refused_logins_are_capped(engine: StartEngine) -> None:
    """So many attempts in a row and no more, with pauses between them."""
    running = engine(login_attempts=3)
    ready(running)
    running.front.control(disconnect="new", refuse_logins="new", refuse_seconds=60)
    wait_until(lambda: "the limit (3)" in running.get("/state")["gave_up"])
    refused = [each for each in read_front_log(running.front.log) if each["event"] == "refused"]
    assert [each["channel"] for each in refused].count("td") == 3


def test_a_warm_up_is_a_real_instrument_query(engine: StartEngine) -> None:
    """It shows in the front's log, and fails when the front refuses."""
    running = ready(engine())
    before = events(running.front.log).count("query")
    assert running.get("/warmup")["ok"] is True
    assert events(running.front.log).count("query") == before + 1
    running.front.control(reject_instrument_query=True)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        running.get("/warmup")


def test_a_query_flood_is_refused_and_counted(engine: StartEngine) -> None:
    """The front answers -3; the metric counts what the front refused."""
    running = ready(engine(flood_after_login_seconds=0.0, flood_seconds=0.5))
    name = "quant_hft_query_rate_violation_total"
    wait_until(lambda: running.metrics()[name] >= 3)
    time.sleep(1)
    refused = [each for each in read_front_log(running.front.log) if each["event"] == "refused"]
    assert running.metrics()[name] == len(refused)


def test_a_restart_continues_the_days_order_refs(engine: StartEngine) -> None:
    """The next OrderRef is above the MaxOrderRef of its own login, which has risen."""
    first = ready(engine())
    wait_until(lambda: first.get("/state")["orders_answered"] > 5)
    first.process.process.terminate()
    first.process.ends()
    second = ready(engine(at=first.front, name="second"))
    state = second.get("/state")
    assert state["next_order_ref"] > state["max_order_ref"] > 5
    wait_until(lambda: second.get("/state")["orders_answered"] > 5)
    assert "DUPLICATE_ORDER_REF" not in first.front.log.read_text()


def test_a_restart_that_starts_refs_over_is_refused_by_the_front(engine: StartEngine) -> None:
    """What DOMAIN warns of: refs from 1 again are duplicates of the same trading day."""
    first = ready(engine())
    wait_until(lambda: first.get("/state")["orders_answered"] > 5)
    first.process.process.terminate()
    first.process.ends()
    second = ready(engine(at=first.front, name="second", first_order_ref=1))
    wait_until(lambda: "DUPLICATE_ORDER_REF" in second.front.log.read_text())


def test_a_long_replay_delays_ready_but_not_the_login(engine: StartEngine) -> None:
    """Logged in for a while with the stream undrained: no order is sent in that time."""
    front = engine().front
    front.control(replay_size=3000, replay_delay_ms=700)
    running = engine(at=front, name="second")
    wait_until(lambda: running.serves)
    wait_until(lambda: running.get("/state")["td_session"] == "settlement_confirmed")
    assert running.get("/state")["stream_drained"] is False
    ready(running)
    assert running.get("/state")["replayed"] >= 3000
    wait_until(lambda: running.get("/state")["orders_answered"] > 0)
    orders = [each for each in read_front_log(front.log) if each["event"] == "order"]
    assert not any(each["before_drain"] for each in orders)


def test_working_orders_are_listed_and_can_be_cancelled(engine: StartEngine) -> None:
    """Also by an engine that did not send them: the replay told it of them."""
    first = ready(engine(leave_working_orders=2))
    wait_until(lambda: len(first.get("/state")["working_orders"]) == 2)
    first.process.process.terminate()
    first.process.ends()
    second = ready(engine(at=first.front, name="second"))
    # One of its own quotes may be among them for a moment.
    wait_until(lambda: len(second.get("/state")["working_orders"]) == 2)
    assert second.get("/cancel_working_orders", method="POST")["ok"] is True
    wait_until(lambda: second.get("/state")["working_orders"] == [])


def test_an_engine_can_ignore_term(engine: StartEngine) -> None:
    """What a stop step must cope with: only KILL ends it, and its session is lost, not ended."""
    running = ready(engine(ignore_term=True))
    running.process.process.terminate()
    time.sleep(0.5)
    assert running.is_ready
    running.process.process.kill()
    assert running.process.ends() == -signal.SIGKILL
    wait_until(lambda: "session_lost" in events(running.front.log))


def test_an_engine_can_die_after_its_login(engine: StartEngine) -> None:
    """As a crash: SIGKILL, no logout."""
    running = engine(die_after_login_seconds=0.0)
    assert running.process.ends() == -signal.SIGKILL
    wait_until(lambda: "session_lost" in events(running.front.log))
    assert "logout" not in events(running.front.log)


def test_an_engine_can_die_after_its_start(engine: StartEngine) -> None:
    """Started well, dead soon after: what counts as started elsewhere."""
    assert engine(die_after_seconds=0.5).process.ends() == -signal.SIGKILL


def test_an_engine_can_hang_before_its_login(engine: StartEngine) -> None:
    """Alive and serving metrics that say: not logged in."""
    running = engine(hang_at_login=True)
    wait_until(lambda: running.serves)
    assert running.metrics()['quant_hft_ctp_session_state{channel="td"}'] == 0
    assert trading_generations(running.front.log) == frozenset()


def test_a_behaviour_file_overrides_the_configuration(engine: StartEngine, tmp_path: Path) -> None:
    """Faults are armed without touching the configuration, whose digest the plan holds."""
    file = write_json(tmp_path / "behaviour.json", {"hang_at_login": True})
    running = engine(behaviour_file=str(file))
    wait_until(lambda: running.serves)
    assert running.get("/state")["td_session"] == "disconnected"


def test_an_engine_of_the_wrong_generation_does_not_start(
    engine: StartEngine, started: StartModule, tmp_path: Path
) -> None:
    """When the restore step was forgotten, the rollback must not start the new engine as old."""
    engine(name="e").process.process.terminate()
    process = started(
        "ctp_runbook.rehearsal.engine.core_engine",
        "--config",
        tmp_path / "e.json",
        "--generation",
        "old",
    )
    assert process.ends() == 2
    assert "restore the right release" in process.says()


def run_new_runner(
    started: StartModule, front: FrontHandle, tmp_path: Path, *words: str, **settings: Any
) -> Started:
    """Start the direct runner at a front, without a Redis path to close."""
    file = write_json(tmp_path / "runner.json", {"front_dir": str(front.dir), **settings})
    return started("ctp_runbook.rehearsal.engine.new_runner", "--config", file, *words)


def test_the_direct_runner_runs_once(
    front: StartFront, started: StartModule, tmp_path: Path
) -> None:
    """--run-once: a session of its own in the runner's role, one order, logout, 0."""
    running = front()
    assert run_new_runner(started, running, tmp_path, "--run-once").ends() == 0
    log = read_front_log(running.log)
    assert [each["role"] for each in log if each["event"] == "order"] == ["strategy_runner"]
    assert events(running.log, "logout", "session_lost") == ["logout", "logout"]


def test_the_direct_runner_runs_for_seconds(
    front: StartFront, started: StartModule, tmp_path: Path
) -> None:
    """--run-seconds N: it ends by itself, and leaves no working order behind."""
    running = front()
    process = run_new_runner(started, running, tmp_path, "--run-seconds", "1", order_ttl_seconds=60)
    assert process.ends() == 0
    assert running.control()["orders"] >= 3
    assert running.control()["working"] == 0


def test_the_direct_runner_ends_on_term(
    front: StartFront, started: StartModule, tmp_path: Path
) -> None:
    """Cancel, logout, 0."""
    running = front()
    process = run_new_runner(started, running, tmp_path)
    wait_until(lambda: "order" in events(running.log))
    process.process.terminate()
    assert process.ends() == 0
    assert events(running.log, "logout", "session_lost") == ["logout", "logout"]


def test_the_direct_runner_without_a_session_fails(
    front: StartFront, started: StartModule, tmp_path: Path
) -> None:
    """A run that never traded is no success, also with --run-once."""
    running = front()
    running.control(refuse_logins="new", refuse_seconds=60)
    process = run_new_runner(started, running, tmp_path, "--run-once")
    assert process.ends() == 1
