"""The plan: what it holds, what its digest covers, and when a real run may begin."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.errors import ConfigError, TemplateError
from ctp_runbook.model import Generation, Phase, Role
from ctp_runbook.plan.plan import Plan, load_plan, plan_digest, window_refusals

ROOT = Path(__file__).parents[2]
VALID = ROOT / "tests" / "contract" / "corpus" / "valid"
ENVIRON = {"PATH": "/usr/bin:/bin"}
FILES = ("cutover.env", "rollback.env", "limits.toml", "watch.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a plan's four files, the CTP config, and a script of its own."""
    for name in FILES:
        source = (VALID if name.endswith(".env") else ROOT / "configs") / name
        (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "ctp.yaml").write_text("ctp: {}\n")
    (tmp_path / "engine.sh").write_text("#!/bin/sh\n")
    (tmp_path / "engine.sh").chmod(0o755)
    return tmp_path


def planned(folder: Path) -> Plan:
    """The plan of the files in ``folder``."""
    return load_plan(
        folder / "cutover.env",
        folder / "rollback.env",
        limits=folder / "limits.toml",
        watch=folder / "watch.toml",
        environ=ENVIRON,
        base=folder,
    )


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_steps_stand_in_the_order_of_the_runbook(folder: Path) -> None:
    """Gates, switch, rollback; the source of orders stops before the engine it feeds."""
    plan = planned(folder)
    assert [step.name for step in plan.gates] == [
        "bootstrap_infra",
        "init_kafka_topic",
        "init_clickhouse_schema",
        "init_debezium_connector",
        "precheck",
    ]
    assert [step.name for step in plan.switch] == [
        "stop_old_strategy_runner",
        "stop_old_core_engine",
        "start_new_core_engine",
        "start_new_strategy_runner",
        "warmup_query",
    ]
    assert [step.name for step in plan.rollback] == [
        "stop_new_strategy_runner",
        "stop_new_core_engine",
        "restore_previous_binaries",
        "restore_redis_bridge_compat",
        "start_previous_core_engine",
        "start_previous_strategy_runner",
        "post_rollback_validate",
    ]
    assert plan.steps == plan.gates + plan.switch + plan.rollback


def test_every_stop_and_start_of_the_switch_can_be_undone(folder: Path) -> None:
    """Each is taken back by steps of the rollback, and no gate needs one."""
    plan = planned(folder)
    names = {step.name for step in plan.rollback}
    for step in plan.switch[:4]:
        assert step.undo
        assert set(step.undo) <= names
    assert all(not step.undo for step in plan.gates)


def test_previous_is_old(folder: Path) -> None:
    """The rollback starts the very members the switch stopped."""
    plan = planned(folder)
    stopped = plan.step("stop_old_core_engine").acts_on
    assert plan.step("start_previous_core_engine").acts_on == stopped
    assert plan.member(Generation.OLD, Role.CORE_ENGINE).pid_file == "run/old_core_engine.pid"
    assert plan.member(Generation.NEW, Role.STRATEGY_RUNNER).unit == "new-strategy-runner.service"


def test_values_left_out_have_the_defaults_of_the_contract(folder: Path) -> None:
    """CONTRACT §1 names them; hold and timeouts come from limits.toml."""
    rewrite(folder / "limits.toml", "precheck = 60", "precheck = 61")
    plan = planned(folder)
    assert (plan.lead_minutes, plan.window_minutes, plan.session_policy) == (30, 60, "any")
    assert (plan.hold_seconds, plan.hold_expiry) == (300, "rollback")
    assert plan.forced_rollback_after_seconds == 0
    assert (plan.working_orders_policy, plan.redis_compat) == ("refuse", "auto")
    assert plan.step("precheck").timeout_seconds == 61


def test_values_of_the_template_win(folder: Path) -> None:
    """Our optional keys may stand in either template, and override limits.toml."""
    with (folder / "cutover.env").open("a") as file:
        file.write("PRECHECK_TIMEOUT_SECONDS=7.5\nREADINESS_CDC_LAG_SECONDS_CMD=cat lag\n")
    with (folder / "rollback.env").open("a") as file:
        file.write("HOLD_EXPIRY=keep\nHOLD_SECONDS=0\nOLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS=9\n")
    plan = planned(folder)
    assert plan.step("precheck").timeout_seconds == 7.5
    assert plan.step("stop_old_core_engine").timeout_seconds == 9
    assert (plan.hold_seconds, plan.hold_expiry) == (0, "keep")
    assert plan.readiness_commands == {"quant_hft_cdc_lag_seconds": "cat lag"}


def test_watched_rules_follow_monitor_keys(folder: Path) -> None:
    """Only what is asked for is watched, in the order asked for."""
    rewrite(folder / "cutover.env", "breaker_state,reconnect_p99_s", "reconnect_p99_s")
    rules = planned(folder).watched
    assert [rule.name for rule in rules] == ["order_latency_p99_ms", "reconnect_p99_s"]


def test_problems_of_all_four_files_come_at_once(folder: Path) -> None:
    """A broken config does not hide what is wrong with the templates."""
    rewrite(folder / "watch.toml", "min_events", "min_event")
    rewrite(folder / "limits.toml", "restarts_max", "restart_max")
    rewrite(folder / "cutover.env", "CTP_CONFIG_PATH=ctp.yaml\n", "")
    rewrite(folder / "rollback.env", "=180", "=soon")
    with pytest.raises(ConfigError) as caught:
        planned(folder)
    assert {Path(problem.file).name for problem in caught.value.problems} == set(FILES)


def test_secrets_of_refused_lines_are_masked(folder: Path) -> None:
    """A password given under a key that is refused does not reach the screen elsewhere either."""
    with (folder / "cutover.env").open("a") as file:
        file.write("CTP_PASSWORD=hunter22\nSESSION_POLICY=hunter22\n")
    with pytest.raises(TemplateError) as caught:
        planned(folder)
    assert "hunter22" not in str(caught.value)


def test_secrets_of_infra_env_are_masked(folder: Path) -> None:
    """What infra/env/ names so is known to the plan's redactor."""
    (folder / "infra" / "env").mkdir(parents=True)
    (folder / "infra" / "env" / "prodlike.env").write_text("POSTGRES_PASSWORD=hunter22\n")
    assert planned(folder).redactor("hunter22") == "***"


DIGESTED: dict[str, Callable[[Path], None]] = {
    "a comment in a template": lambda folder: _append(folder / "rollback.env", "# x\n"),
    "limits": lambda folder: _append(folder / "limits.toml", "\n"),
    "watch": lambda folder: _append(folder / "watch.toml", "\n"),
    "CTP config": lambda folder: _append(folder / "ctp.yaml", "\n"),
    "CTP config gone": lambda folder: (folder / "ctp.yaml").unlink(),
    "authority": lambda folder: _append(folder / "own.pem", "\n"),
    "authority gone": lambda folder: (folder / "own.pem").unlink(),
    "authority of one address": lambda folder: _append(folder / "clickhouse.pem", "\n"),
    "executable": lambda folder: _append(folder / "engine.sh", "\n"),
    "executable gone": lambda folder: (folder / "engine.sh").unlink(),
}


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _trust(folder: Path, every: str, clickhouse: str) -> None:
    """Have the watch trust these authorities: in every address, and in one that names its own."""
    for name in (every, clickhouse):
        (folder / name).write_text("a certificate\n")
    rewrite(
        folder / "watch.toml",
        'clickhouse_url = "http://127.0.0.1:8123"',
        f'clickhouse_url = "https://127.0.0.1:8443/#ca_file={folder / clickhouse}"\n'
        f'ca_file = "{folder / every}"',
    )


@pytest.mark.parametrize("change", DIGESTED.values(), ids=DIGESTED)
def test_digest_covers(change: Callable[[Path], None], folder: Path) -> None:
    """A change in anything the plan stands on changes the digest, and shows when recomputed."""
    rewrite(folder / "cutover.env", "cat new_core_engine.conf", "./engine.sh --new")
    _trust(folder, "own.pem", "clickhouse.pem")
    plan = planned(folder)
    change(folder)
    assert plan_digest(plan, base=folder, environ=ENVIRON) != plan.sha256
    assert planned(folder).sha256 != plan.sha256


def test_digest_is_the_same_in_another_folder(folder: Path, tmp_path: Path) -> None:
    """It covers bytes, not places: what was reviewed elsewhere is known again here."""
    other = tmp_path / "other"
    other.mkdir()
    for name in (*FILES, "ctp.yaml"):
        (other / name).write_bytes((folder / name).read_bytes())
    assert planned(other).sha256 == planned(folder).sha256


@pytest.mark.parametrize("strange", ["a pipe", "a device"])
def test_digest_does_not_wait_for_what_is_no_file(folder: Path, strange: str) -> None:
    """It counts as missing, and the plan says so; nobody waits at it for ever."""
    (folder / "ctp.yaml").unlink()
    missing = planned(folder)
    if strange == "a pipe":
        os.mkfifo(folder / "ctp.yaml")
    else:
        (folder / "ctp.yaml").symlink_to("/dev/zero")
    found = planned(folder)
    assert found.sha256 == missing.sha256
    assert any("there is no file 'ctp.yaml'" in each for each in found.execute_refusals)


def test_digest_tells_missing_from_empty(folder: Path) -> None:
    """An empty CTP config is not the same plan as none."""
    (folder / "ctp.yaml").write_bytes(b"")
    empty = planned(folder).sha256
    (folder / "ctp.yaml").unlink()
    assert planned(folder).sha256 != empty


def test_shipped_templates_plan_with_warnings_alone() -> None:
    """The production templates are a plan; what is not filled in yet only --execute refuses."""
    plan = load_plan(
        ROOT / "configs" / "ops" / "ctp_cutover.template.env",
        ROOT / "configs" / "ops" / "ctp_rollback_drill.template.env",
        limits=ROOT / "configs" / "limits.toml",
        watch=ROOT / "configs" / "watch.toml",
        environ=ENVIRON,
        base=ROOT,
    )
    assert plan.execute_refusals
    assert set(plan.execute_refusals) <= set(plan.warnings)
    assert len(plan.monitor_keys) == 6
    assert plan.monitor_minutes == 30
    assert not any("is not given" in text for text in plan.execute_refusals)


def test_plan_does_not_read_the_clock(folder: Path) -> None:
    """A window of long ago is a plan like any other; only a real run asks for the time."""
    rewrite(folder / "cutover.env", "2026-03-02", "2001-03-02")
    assert planned(folder).warnings == ()


WINDOW = {
    "too early": ("2026-03-02T07:59:59+08:00", "before 2026-03-02T08:00:00+08:00"),
    "lead": ("2026-03-02T08:00:00+08:00", ""),
    "another offset": ("2026-03-02T00:30:00+00:00", ""),
    "last moment": ("2026-03-02T09:30:00+08:00", ""),
    "too late": ("2026-03-02T09:30:01+08:00", "after 2026-03-02T09:30:00+08:00"),
}


@pytest.mark.parametrize(("now", "said"), WINDOW.values(), ids=WINDOW)
def test_window_is_kept(now: str, said: str, folder: Path) -> None:
    """Gates may start 30 minutes before the window, the switch 60 after, by any clock's offset."""
    refusals = window_refusals(planned(folder), now=datetime.fromisoformat(now))
    assert [said in text for text in refusals] == ([True] if said else [])


SESSION = {
    "any": ("any", "09:30", ""),
    "in a session": ("in_session", "09:05", ""),
    "before it": ("in_session", "08:30", "outside sessions"),
    "outside": ("outside_trading", "08:30", ""),
    "not outside": ("outside_trading", "09:30", "in a trading session"),
}


@pytest.mark.parametrize(("policy", "now", "said"), SESSION.values(), ids=SESSION)
def test_session_policy_is_kept(policy: str, now: str, said: str, folder: Path) -> None:
    """A policy other than ``any`` is checked against the sessions of limits.toml."""
    plan = replace(planned(folder), session_policy=policy)
    moment = datetime.fromisoformat(f"2026-03-02T{now}+08:00")
    refusals = window_refusals(plan, now=moment)
    assert [said in text for text in refusals] == ([True] if said else [])


def test_session_must_last(folder: Path) -> None:
    """Switch, watch and rollback must be over before trading closes."""
    plan = replace(
        planned(folder),
        session_policy="in_session",
        window_local=datetime.fromisoformat("2026-03-02T14:20+08:00"),
    )
    (refusal,) = window_refusals(plan, now=datetime.fromisoformat("2026-03-02T14:25+08:00"))
    assert f"{plan.minutes_needed:.0f} minutes" in refusal
    assert "closes at 2026-03-02T15:00:00+08:00" in refusal


def test_session_policy_needs_sessions(folder: Path) -> None:
    """A policy that cannot be checked is refused, not taken as kept."""
    limits = folder / "limits.toml"
    text = limits.read_text(encoding="utf-8")
    begins, ends = text.index("[sessions]"), text.index("[step_timeout_seconds]")
    limits.write_text(text[:begins] + text[ends:], encoding="utf-8")
    plan = replace(planned(folder), session_policy="in_session")
    (refusal,) = window_refusals(plan, now=plan.window_local)
    assert "limits.toml has no [sessions]" in refusal


def test_phases_and_unknown_steps(folder: Path) -> None:
    """Every step knows its phase; a name that is no step is a KeyError."""
    plan = planned(folder)
    assert {step.phase for step in plan.rollback} == {Phase.ROLLBACK}
    with pytest.raises(KeyError):
        plan.step("stop_everything")


def test_planning_imports_nothing_heavy() -> None:
    """`ctp-runbook plan` must not pay for what only a run, a plot or a mistake needs."""
    heavy = "difflib shutil asyncio httpx click rich pandas psutil socket dataclasses inspect"
    code = (
        "import sys; from ctp_runbook._late import import_msgspec; import_msgspec()\n"
        "import ctp_runbook.plan.checklist\n"
        f"print(*[name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_digest_covers_the_end_of_a_large_file(folder: Path) -> None:
    """It is read in pieces, and the last byte of the last one counts as any other."""
    (folder / "ctp.yaml").write_bytes(bytes(200_001))
    plan = planned(folder)
    (folder / "ctp.yaml").write_bytes(bytes(200_000) + b"1")
    assert plan_digest(plan, base=folder, environ=ENVIRON) != plan.sha256


def test_digest_covers_what_has_no_size(folder: Path) -> None:
    """A file of /proc says 0 bytes and has some: as many as are read are counted."""
    config = folder / "ctp.yaml"
    config.unlink()
    config.symlink_to("/proc/version")
    digest = planned(folder).sha256
    config.unlink()
    config.write_bytes(Path("/proc/version").read_bytes())
    assert planned(folder).sha256 == digest
