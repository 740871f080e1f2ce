"""Facts about the simulated front: what it admits, what it writes down, what can go wrong in it."""

from __future__ import annotations

import signal
import time

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.log import overlaps, read_front_log, trading_generations
from ctp_runbook.rehearsal.front.protocol import CtpError, ReturnCode
from tests.props.twin_tools import StartFront, events, wait_until

pytest_plugins = ("tests.props.twin_fixtures",)
pytestmark = pytest.mark.twin


def test_the_login_sequence_is_written_down_in_order(front: StartFront) -> None:
    """Connect, authenticate, login, settlement, query, drained stream: one line each."""
    running = front()
    client = running.client()
    client.log_in()
    client.ask("confirm_settlement")
    client.ask("query", what="instruments")
    client.ask("resume")
    client.push("stream_drained")
    client.ask("logout")
    client.close()
    due = ["authenticated", "login", "settlement_confirmed", "query", "stream_drained", "logout"]
    wait_until(lambda: events(running.log) == ["front_started", "connect", *due])


def test_generation_and_role_come_from_the_login(front: StartFront) -> None:
    """Every line after it carries them, with both clocks and a growing sequence."""
    running = front()
    running.client("new", "strategy_runner").log_in()
    *_, login = read_front_log(running.log)
    assert (login["generation"], login["role"], login["channel"]) == (
        "new",
        "strategy_runner",
        "td",
    )
    assert login["wall_utc"].endswith("Z")
    assert [record["seq"] for record in read_front_log(running.log)] == [1, 2, 3, 4]


REFUSALS = {
    "login before authentication": ("login", CtpError.AUTHENTICATION_FAILED),
    "settlement before login": ("confirm_settlement", CtpError.NOT_LOGIN_YET),
    "query before login": ("query", CtpError.NOT_LOGIN_YET),
    "replay before settlement": ("resume", CtpError.SETTLEMENT_NOT_CONFIRMED),
}


@pytest.mark.parametrize(("op", "error"), REFUSALS.values(), ids=REFUSALS)
def test_out_of_order_requests_are_refused(op: str, error: CtpError, front: StartFront) -> None:
    """CTP's order is kept: nothing may be skipped, and the refusal has CTP's number."""
    client = front().client()
    assert client.ask(op, **client.login.fields(pid=0))["error_id"] == error


def test_an_order_before_settlement_is_refused(front: StartFront) -> None:
    """Logged in is not enough to trade."""
    client = front().client()
    client.log_in()
    client.order(1)
    assert client.read()["error_id"] == CtpError.SETTLEMENT_NOT_CONFIRMED


def test_an_order_before_the_replay_has_drained_is_marked(front: StartFront) -> None:
    """The front takes it, as the real one does, and the log convicts the client."""
    running = front()
    client = running.client()
    client.log_in()
    client.ask("confirm_settlement")
    client.order(1)
    wait_until(lambda: "order" in events(running.log))
    assert read_front_log(running.log)[-1]["before_drain"] is True


def test_a_later_session_sees_the_day_so_far(front: StartFront) -> None:
    """Resume mode: orders and trades of an earlier session, then the marker that says all."""
    running = front()
    first = running.client()
    first.get_ready()
    for ref in (1, 2, 3):
        first.order(ref)
    trade = first.push("trade")
    second = running.client()
    second.log_in()
    second.ask("confirm_settlement")
    second.ask("resume")
    assert second.push("order")["order_ref"] == 1
    assert second.push("trade")["trade_id"] == trade["trade_id"]
    assert second.push("stream_drained")["replayed"] == 4


def test_max_order_ref_rises_over_the_day_and_a_front_restart(front: StartFront) -> None:
    """A login gets the day's highest ref; lower or equal ones are duplicates (error 22)."""
    running = front()
    client = running.client()
    assert client.get_ready()["max_order_ref"] == 0
    client.order(7)
    client.push("order")
    running.process.process.terminate()
    assert running.process.ends() == 0
    again = front().client()
    assert again.get_ready()["max_order_ref"] == 7
    again.order(7)
    assert again.read()["error_id"] == CtpError.DUPLICATE_ORDER_REF


def test_query_flow_control(front: StartFront) -> None:
    """One a second: the second within it gets -3; with room, one while another pends gets -2."""
    strict = front().client()
    strict.log_in()
    assert strict.ask("query", what="instruments")["return_code"] == 0
    refused = strict.ask("query", what="instruments")
    assert refused["return_code"] == ReturnCode.TOO_MANY_PER_SECOND


def test_pending_query_flow_control(front: StartFront) -> None:
    """Where the rate would allow it, a query while another is unanswered gets -2."""
    client = front("--queries-per-second", 10, "--query-latency-ms", 300).client()
    client.log_in()
    client.send("query", what="instruments")
    assert client.ask("query", what="account")["return_code"] == ReturnCode.TOO_MANY_PENDING


def test_failed_logins_lead_to_error_75_for_good(front: StartFront) -> None:
    """After the third failure the right password is refused too; a reconnect changes nothing."""
    running = front("--lockout-failures", 3)
    wrong = [running.client(password="wrong").log_in() for _ in range(3)]
    assert [each["error_id"] for each in wrong] == [CtpError.INVALID_LOGIN] * 3
    assert [each["attempts_left"] for each in wrong] == [2, 1, 0]
    assert running.client().log_in()["error_id"] == CtpError.LOGIN_FORBIDDEN
    assert running.control()["attempts_left"] == 0


def test_a_second_login_is_accepted_and_logged(front: StartFront) -> None:
    """As many real fronts do: both trade, and only the log shows the overlap."""
    running = front()
    running.client("old").get_ready()
    running.client("new").get_ready()
    (overlap,) = overlaps(running.log)
    assert {overlap.first.generation, overlap.second.generation} == {"old", "new"}
    assert overlap.until_ns is None
    assert trading_generations(running.log) == {"old", "new"}


def test_a_second_login_kicks_the_first(front: StartFront) -> None:
    """With --second-login kick the earlier session is lost and the later one trades alone."""
    running = front("--second-login", "kick")
    first = running.client("old")
    first.get_ready()
    running.client("new").get_ready()
    with pytest.raises(EOFError):
        first.read()
    assert trading_generations(running.log) == {"new"}
    assert overlaps(running.log) == []


def test_a_second_login_is_refused_until_the_lost_one_expired(front: StartFront) -> None:
    """With --second-login refuse a killed session blocks its successor for a heartbeat's time."""
    running = front("--second-login", "refuse", "--heartbeat-seconds", 0.6)
    first = running.client("old")
    first.get_ready()
    first.close()
    wait_until(lambda: "session_lost" in events(running.log))
    assert running.client("new").log_in()["error_id"] == CtpError.DUPLICATE_LOGIN
    assert running.control()["lingering"] == 1
    wait_until(lambda: events(running.log)[-1] == "session_expired")
    assert running.client("new").log_in()["error_id"] == 0


def test_a_runner_beside_its_engine_is_no_second_login(front: StartFront) -> None:
    """One user, two roles: kick and refuse concern the same role only."""
    running = front("--second-login", "refuse")
    running.client("new", "core_engine").get_ready()
    assert running.client("new", "strategy_runner").log_in()["error_id"] == 0


def test_a_killed_session_is_lost_at_once_and_expires_later(front: StartFront) -> None:
    """EOF without logout ends the ability to trade now; the login is counted a while longer."""
    running = front("--heartbeat-seconds", 0.6)
    client = running.client("old")
    client.get_ready()
    client.close()
    wait_until(lambda: "session_lost" in events(running.log))
    assert trading_generations(running.log) == frozenset()
    wait_until(lambda: "session_expired" in events(running.log))
    lost, expired = (each["mono_ns"] / 1e9 for each in read_front_log(running.log)[-2:])
    assert expired - lost > 0.3


def test_a_silent_session_is_lost_by_its_heartbeat(front: StartFront) -> None:
    """A stopped process keeps its TCP connection; the front ends it when nothing is heard."""
    running = front("--heartbeat-seconds", 0.5)
    client = running.client("old")
    client.get_ready()
    assert trading_generations(running.log) == {"old"}
    wait_until(lambda: events(running.log)[-2:] == ["session_lost", "session_expired"])
    with pytest.raises(EOFError):
        client.read()


def test_no_generation_trades_on_a_front_that_is_gone(front: StartFront) -> None:
    """Stopped or killed: its log has open logins, and yet nobody can trade."""
    running = front()
    running.client("old").get_ready()
    running.process.process.send_signal(signal.SIGKILL)
    running.process.ends()
    assert trading_generations(running.log) == frozenset()
    again = front()
    again.client("new").get_ready()
    assert overlaps(running.log) == []
    assert trading_generations(running.log) == {"new"}


def test_market_data_ticks_after_login_and_subscription(front: StartFront) -> None:
    """MD is a session of its own: no tick before its login, ticks of what was subscribed after."""
    running = front("--ticks-per-second", 50)
    client = running.client(channel="md")
    assert client.ask("subscribe", instruments=["rb2601"])["error_id"] == CtpError.NOT_LOGIN_YET
    client.log_in()
    client.ask("subscribe", instruments=["rb2601"])
    assert client.push("tick")["instrument"] == "rb2601"


def test_order_latency_can_be_injected_for_one_generation(front: StartFront) -> None:
    """The other generation's orders are answered as fast as ever."""
    running = front()
    running.control(order_latency_ms=2000, order_latency_generation="new")
    took = {}
    for ref, generation in enumerate(("old", "new"), start=1):
        client = running.client(generation)
        client.get_ready()
        began = time.monotonic()
        client.order(ref)
        client.push("order")
        took[generation] = time.monotonic() - began
        client.ask("logout")
    assert took["old"] < 1.9 < 2.0 <= took["new"]


def test_orders_and_instrument_queries_can_be_rejected(front: StartFront) -> None:
    """A ratio of a half rejects every second order; a refused query is CTP error 90."""
    running = front()
    running.control(reject_orders_ratio=0.5, reject_instrument_query=True)
    client = running.client()
    client.get_ready()
    assert client.ask("query", what="instruments")["error_id"] == CtpError.QUERY_NOT_READY
    for ref in range(1, 5):
        client.order(ref)
    wait_until(lambda: events(running.log).count("order") == 2)
    refused = [record for record in read_front_log(running.log) if record["event"] == "refused"]
    assert [record["error"] for record in refused] == [
        "QUERY_NOT_READY",
        *2 * ["INSUFFICIENT_MONEY"],
    ]


def test_a_replay_can_be_made_long_and_slow(front: StartFront) -> None:
    """The marker comes after as many returns, and as late, as was asked for."""
    running = front()
    running.control(replay_size=2000, replay_delay_ms=300)
    client = running.client()
    began = time.monotonic()
    client.get_ready()
    assert time.monotonic() - began >= 0.3
    assert read_front_log(running.log)[-1]["replayed"] == 2000


def test_a_generation_can_be_disconnected_and_kept_out(front: StartFront) -> None:
    """Its sessions end now and its logins are refused for so long; the other is not touched."""
    running = front()
    old, new = running.client("old"), running.client("new")
    for client in (old, new):
        client.get_ready()
    running.control(disconnect="new", refuse_logins="new", refuse_seconds=0.5)
    with pytest.raises(EOFError):
        new.read()
    assert running.client("new").log_in()["error_id"] == CtpError.NOT_INITED
    assert old.ask("confirm_settlement")["error_id"] == 0
    time.sleep(0.5)
    assert running.client("new").log_in()["error_id"] == 0


def test_a_fault_can_be_armed_for_a_login(front: StartFront) -> None:
    """It waits for that generation's engine, happens after so long, and can repeat."""
    running = front()
    running.control(
        disconnect="new",
        after_login_of="new",
        after_seconds=0.2,
        repeat=2,
        repeat_every_seconds=0.3,
    )
    running.client("old").get_ready()
    assert running.control()["armed"] == 1
    for _ in range(2):
        client = running.client("new")
        client.get_ready()
        with pytest.raises(EOFError):
            client.read()
    assert running.control()["armed"] == 0


def test_reset_takes_faults_back(front: StartFront) -> None:
    """What is armed is disarmed, what was refused is admitted."""
    running = front()
    running.control(disconnect="new", after_login_of="new", after_seconds=0.1)
    running.control(refuse_logins="new", refuse_seconds=60)
    running.control(reset=True)
    client = running.client("new")
    assert client.log_in()["error_id"] == 0
    time.sleep(0.2)
    assert client.ask("confirm_settlement")["error_id"] == 0


def test_a_misspelt_fault_is_refused(front: StartFront) -> None:
    """A fault that is silently not applied would make a rehearsal prove nothing."""
    running = front()
    with pytest.raises(RunbookError, match="unexpected keyword argument 'order_latency'"):
        running.control(order_latency=5)


def test_garbage_ends_only_its_own_connection(front: StartFront) -> None:
    """A line that is no JSON drops that client; the front goes on."""
    running = front()
    bad = running.client()
    bad.line.sendall(b"\xff\x00not json\n")
    with pytest.raises(EOFError):
        bad.read()
    assert running.client().log_in()["error_id"] == 0


def test_term_ends_the_front_with_a_last_line(front: StartFront) -> None:
    """Exit 0, and front_stopped closes every open login in the record."""
    running = front()
    running.client("old").get_ready()
    running.process.process.terminate()
    assert running.process.ends() == 0
    assert "front_stopped" in events(running.log)
    assert trading_generations(running.log) == frozenset()
