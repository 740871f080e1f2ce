"""The static preflight: what stops a real run, and what is only worth knowing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctp_runbook.plan.plan import Plan, load_plan

ROOT = Path(__file__).parents[2]
VALID = ROOT / "tests" / "contract" / "corpus" / "valid"
WATCH = ROOT / "configs" / "watch.toml"


def planned(folder: Path, *changes: tuple[str, str], watch: Path = WATCH) -> Plan:
    """The valid plan with ``KEY``, ``value`` changed (None value: the line deleted)."""
    for name in ("cutover.env", "rollback.env"):
        lines = (VALID / name).read_text().splitlines()
        for key, value in changes:
            lines = [f"{key}={value}" if line.startswith(f"{key}=") else line for line in lines]
        (folder / name).write_text("\n".join(lines))
    (folder / "ctp.yaml").touch()
    known = {
        line.partition("=")[0]
        for name in ("cutover.env", "rollback.env")
        for line in (folder / name).read_text().splitlines()
    }
    added = [f"{key}={value}" for key, value in changes if key not in known]
    with (folder / "cutover.env").open("a") as file:
        file.write("\n" + "\n".join(added))
    return load_plan(
        folder / "cutover.env",
        folder / "rollback.env",
        limits=ROOT / "configs" / "limits.toml",
        watch=watch,
        environ={"PATH": "/usr/bin:/bin"},
        base=folder,
    )


def test_sound_plan_has_no_findings(tmp_path: Path) -> None:
    """Nothing is said where there is nothing to say."""
    plan = planned(tmp_path)
    assert plan.execute_refusals == ()
    assert plan.warnings == ()


def test_the_authority_of_a_source_is_read(tmp_path: Path) -> None:
    """One that cannot be is told by its place in watch.toml, before anybody is asked."""
    text = WATCH.read_text(encoding="utf-8")
    watch = tmp_path / "watch.toml"
    watch.write_text(text.replace("[sources]", '[sources]\nca_file = "/no/own.pem"'))
    plan = planned(tmp_path, watch=watch)
    (said,) = plan.execute_refusals
    assert said.startswith("watch.toml: sources.ca_file: ca_file /no/own.pem: no certificates")


SEEN = {
    "shipped": ("order_latency_p99_ms,breaker_state", "", "", False),
    "without orders": ("breaker_state,reconnect_p99_s", "", "", True),
    "orders may stand still": ("order_latency_p99_ms", "still_seconds = 120\n", "", True),
    "a least number of orders": (
        "query_rate_violation",
        'limit = 0\ndirection = "max"\nfor_seconds = 0\nwarm_up_seconds = 0\n',
        'limit = 1\ndirection = "min"\nlabels = { kind = "order" }\n',
        True,  # nothing says that it counts orders
    ),
}


@pytest.mark.parametrize(("keys", "old", "new", "is_told"), SEEN.values(), ids=SEEN)
def test_a_plan_that_would_not_notice_a_deadlock_is_told(
    keys: str, old: str, new: str, is_told: bool, tmp_path: Path
) -> None:
    """Alive, connected and Ready is what an engine is whose orders do not move."""
    text = WATCH.read_text(encoding="utf-8")
    watch = tmp_path / "watch.toml"
    watch.write_text(text.replace(old, new, 1) if old else text)
    trigger = ("ROLLBACK_TRIGGER_CONDITION", f"{keys.partition(',')[0]} > 9")
    plan = planned(tmp_path, ("MONITOR_KEYS", keys), trigger, watch=watch)
    told = [warning for warning in plan.warnings if "no metric of it shows that orders" in warning]
    assert bool(told) == is_told
    assert plan.execute_refusals == ()


STOPPING = {
    "placeholder": ("WARMUP_QUERY_CMD", "cat <x> <y>", "still has <x>, <y>"),
    "placeholder in an optional command": ("TRADING_STATE_CMD", "cat <x>", "still has <x>"),
    "no alive command": ("NEW_CORE_ENGINE_ALIVE_CMD", "", "NEW_CORE_ENGINE_ALIVE_CMD is not"),
    "no identity": ("OLD_STRATEGY_RUNNER_PID_FILE", "", "old_strategy_runner has no identity"),
    "no metrics of the old engine": ("OLD_CORE_ENGINE_METRICS_URL", "", "old_core_engine could"),
    "no config": ("CTP_CONFIG_PATH", "no/ctp.yaml", "there is no file 'no/ctp.yaml'"),
    "config is a folder": ("CTP_CONFIG_PATH", ".", "there is no file '.'"),
    "copy below a file": ("CUTOVER_EVIDENCE_OUTPUT", "ctp.yaml/x", "'ctp.yaml/x' is below"),
    "copy is a folder": ("ROLLBACK_EVIDENCE_OUTPUT", ".", "'.' is a directory"),
    "copy elsewhere": ("CUTOVER_EVIDENCE_OUTPUT", "s3://b/x.env", "'s3://b/x.env' is an address"),
    "no executable": ("PRECHECK_CMD", "no-such-tool x", "'no-such-tool' is not on PATH"),
    "no script": ("PRECHECK_CMD", "bash no.sh", "'no.sh' is no file"),
    "not executable": ("PRECHECK_CMD", "./ctp.yaml", "'./ctp.yaml' is no file"),
    "stop hides failure": ("OLD_CORE_ENGINE_STOP_CMD", "cat x || true", "hides its own failure"),
    "no certificates": (
        "NEW_CORE_ENGINE_METRICS_URL",
        "https://127.0.0.1:18081/metrics#ca_file=/no/own.pem",
        "NEW_CORE_ENGINE_METRICS_URL: ca_file /no/own.pem: no certificates can be read from it",
    ),
    "certificates for nobody": (
        "ALERT_WEBHOOK_URL",
        "http://alert.example/x#ca_file=/no/own.pem",
        "ALERT_WEBHOOK_URL: ca_file /no/own.pem stands in an address that is not https://",
    ),
    "behind env": ("PRECHECK_CMD", "env -C / A=1 /no/tool x", "'/no/tool' is no file"),
    "behind a login shell": ("PRECHECK_CMD", "bash -lc '/no/tool x'", "'/no/tool' is no file"),
    "behind many": (
        "NEW_CORE_ENGINE_START_CMD",
        "cd / && nohup timeout 9 sh -c 'exec ./no-tool' >log 2>&1 & echo $! >pid",
        "'./no-tool' is no file",
    ),
    "echo below a shell": (
        "NEW_CORE_ENGINE_STOP_CMD",
        "bash -lc 'echo skip'",
        "only prints or succeeds",
    ),
    "hidden below a shell": (
        "OLD_CORE_ENGINE_STOP_CMD",
        "bash -c 'cat x || true'",
        "hides its own failure",
    ),
    "echo gate": ("BOOTSTRAP_INFRA_CMD", "echo done", "only prints or succeeds"),
    "same unit": ("OLD_STRATEGY_RUNNER_UNIT", "new-strategy-runner.service", "are the same"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), STOPPING.values(), ids=STOPPING)
def test_finding_stops_a_real_run(key: str, value: str, said: str, tmp_path: Path) -> None:
    """It refuses --execute and is a warning of the plan, in one sentence."""
    plan = planned(tmp_path, (key, value))
    (refusal,) = plan.execute_refusals
    assert said in refusal
    assert refusal in plan.warnings


LONG = "n" * 240
OUTPUTS = {
    "a directory": ("results", "is a directory"),
    "below a file": ("ctp.yaml/result.env", "ctp.yaml, which is no directory"),
    "far below a file": ("ctp.yaml/a/b/result.env", "ctp.yaml, which is no directory"),
    "too long a name": (f"results/{LONG}.env", "is too long"),
    "too long a folder": (f"{LONG}{LONG}/result.env", "is too long"),
    "too long a path": (f"{'d/' * 2100}result.env", "is too long"),
    "a template": ("cutover.env", "is there already, and is no"),
    "the other template": ("./results/../rollback.env", "is there already, and is no"),
    "the configuration": ("ctp.yaml", "is there already, and is no"),
    "a link to it": ("link", "is there already, and is no"),
    "another's result": ("other.env", "is there already, and is no"),
    "a device": ("/dev/null", "is no regular file"),
    "a pipe": ("pipe", "is no regular file"),
    "a pid file to come": ("results/../run/old.pid", "is the pid file of OLD_CORE_ENGINE_PID_FILE"),
    "a record": ("results/run-1/evidence/x.env", "is in the record of run run-1"),
}  # fmt: skip


@pytest.mark.parametrize("side", ["CUTOVER", "ROLLBACK"])
@pytest.mark.parametrize(("path", "said"), OUTPUTS.values(), ids=OUTPUTS)
def test_evidence_that_cannot_be_written_stops_a_real_run(
    side: str, path: str, said: str, tmp_path: Path
) -> None:
    """Told before anything is touched, with the key, the path, and what is in its way."""
    record = tmp_path / "results" / "run-1"
    record.mkdir(parents=True)
    (record / "journal.jsonl").touch()
    (tmp_path / "ctp.yaml").write_text("broker: 9999")
    (tmp_path / "link").symlink_to("ctp.yaml")
    (tmp_path / "other.env").write_text(f"{'CUTOVER' if side == 'ROLLBACK' else 'ROLLBACK'}_ENV=x")
    os.mkfifo(tmp_path / "pipe")
    plan = planned(
        tmp_path,
        (f"{side}_EVIDENCE_OUTPUT", path),
        ("OLD_CORE_ENGINE_PID_FILE", "run/old.pid"),
    )
    (refusal,) = plan.execute_refusals
    assert f"{side}_EVIDENCE_OUTPUT: " in refusal
    assert said in refusal
    assert {path.name for path in tmp_path.iterdir()} >= {"cutover.env", "ctp.yaml", "link", "pipe"}


def test_evidence_where_nobody_may_write_stops_a_real_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the nearest folder there is; the rest would have to be made in it."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    plan = planned(tmp_path, ("CUTOVER_EVIDENCE_OUTPUT", "a/b/result.env"))
    assert len(plan.execute_refusals) == 2
    assert f"is in {tmp_path}, where this user may not write" in plan.execute_refusals[0]


@pytest.mark.parametrize("before", ["CUTOVER_ENV=prod\n", "# kept\nCUTOVER_ENV=x\n", "", None])
def test_an_earlier_result_may_be_replaced(before: str | None, tmp_path: Path) -> None:
    """That is what the key is for; an empty file, or none in a folder yet to be made, as well."""
    if before is not None:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "cutover.env").write_text(before)
    assert planned(tmp_path).execute_refusals == ()


REMARKS = {
    "swallowed elsewhere": ("PRECHECK_CMD", "cat x || true", "its exit code proves nothing"),
    "idle restore": ("RESTORE_PREVIOUS_BINARIES_CMD", "true", "checks or restores nothing"),
    "short watch": ("POST_SWITCH_MONITOR_MINUTES", "5", "--short-watch REASON"),
    "no trading state": ("TRADING_STATE_CMD", "", "TRADING_STATE_CMD is not given"),
    "not there yet": (
        "PRECHECK_CMD",
        "cp x y && ./no-tool",
        "'./no-tool' is no file that can be run",
    ),
    "on a login's PATH": ("PRECHECK_CMD", "bash -lc no-tool", "'no-tool' is not on PATH as seen"),
    "known to bash": (
        "PRECHECK_CMD",
        "bash -lc '$ENGINE_HOME/tool'",
        "it cannot be told from here what $ENGINE_HOME/tool stands for: whether",
    ),
    "a condition": (
        "PRECHECK_CMD",
        "if cat x; then cat y; fi",
        "from here what `if` does: whether",
    ),
    "session policy": ("SESSION_POLICY", "in_session", "holidays are not"),
}


@pytest.mark.parametrize(("key", "value", "said"), REMARKS.values(), ids=REMARKS)
def test_finding_is_only_told(key: str, value: str, said: str, tmp_path: Path) -> None:
    """A real run may go on; the operator has been told."""
    plan = planned(tmp_path, (key, value))
    assert plan.execute_refusals == ()
    (warning,) = plan.warnings
    assert said in warning


@pytest.mark.parametrize(
    ("stop", "seconds", "said"),
    [
        (
            "kill $(cat /run/old.pid); rm -f /run/old.pid",
            "60",
            "OLD_CORE_ENGINE_STOP_CMD removes the pid file '/run/old.pid' itself: what tells then whether "
            "the process went is who was pinned before; it is waited for until "
            "OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS 60 s is over, so give it as long as old_core_engine "
            "may need",
        ),
        ("kill $(cat /run/old.pid); rm -f /tmp/x; cat /run/old.pid", "60", ""),
        (
            "env proc stop --pid-file /run/old.pid --grace-seconds 65",
            "60",
            "OLD_CORE_ENGINE_STOP_CMD waits up to 70 s (--grace-seconds, --kill-grace-seconds), and "
            "OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS 60 s ends it before it has sent KILL or proved "
            "anything; raise the timeout or lower the graces",
        ),
        ("env proc stop --pid-file /run/old.pid --grace-seconds=55", "60", ""),
        (
            "env proc stop --pid-file /run/old.pid",
            "14",
            "OLD_CORE_ENGINE_STOP_CMD waits up to 15 s",
        ),
    ],
)
def test_a_stop_that_cannot_do_its_work_is_told(
    stop: str, seconds: str, said: str, tmp_path: Path
) -> None:
    """At plan time: one that takes its witness away, and one that is ended before it sends KILL."""
    plan = planned(
        tmp_path,
        ("OLD_CORE_ENGINE_PID_FILE", "/run/old.pid"),
        ("OLD_CORE_ENGINE_STOP_CMD", stop),
        ("OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS", seconds),
    )
    told = [each for each in plan.warnings if each.startswith("OLD_CORE_ENGINE_STOP_CMD")]
    assert len(told) == bool(said)
    assert not said or told[0].startswith(said)
    assert not set(told) & set(plan.execute_refusals)


def test_old_engine_without_metrics_may_be_measured_by_commands(tmp_path: Path) -> None:
    """``READINESS_<SLI>_CMD`` stands in for the old engine's metrics URL."""
    plan = planned(
        tmp_path,
        ("OLD_CORE_ENGINE_METRICS_URL", ""),
        ("READINESS_CORE_PROCESS_ALIVE_CMD", "cat alive"),
    )
    assert plan.execute_refusals == ()


def test_one_missing_tool_is_one_sentence(tmp_path: Path) -> None:
    """A tool that half the template needs is not reported half a dozen times."""
    plan = planned(tmp_path, ("PRECHECK_CMD", "tool a"), ("WARMUP_QUERY_CMD", "tool b"))
    (refusal,) = plan.execute_refusals
    assert "PRECHECK_CMD and 1 more: 'tool' is not on PATH" in refusal


def test_secrets_in_findings_are_masked(tmp_path: Path) -> None:
    """A warning that quotes a command quotes no password."""
    plan = planned(tmp_path, ("BOOTSTRAP_INFRA_CMD", "A_PASSWORD=hunter22 echo hunter22"))
    (refusal,) = plan.execute_refusals
    assert "hunter22" not in refusal


def test_a_secret_in_a_command_is_warned_of_by_its_line(tmp_path: Path) -> None:
    """What everybody can read in the process list only a person can mend; it is not shown here."""
    commands = {
        "WARMUP_QUERY_CMD": "ls && curl -u ops:hunter22 http://h/",
        "PRECHECK_CMD": 'PGPASSWORD=hunter33 psql; curl -u "ops:$PW" h',
    }
    plan = planned(tmp_path, *commands.items())
    lines = (tmp_path / "cutover.env").read_text().splitlines()
    numbers = {line.partition("=")[0]: at for at, line in enumerate(lines, start=1)}
    told = [warning for warning in plan.warnings if "a secret stands" in warning]
    assert [warning.partition(", and every user")[0] for warning in sorted(told)] == sorted(
        f"{tmp_path}/cutover.env:{numbers[key]}: {key}: a secret stands in the command itself "
        f"(behind {words}"
        for key, words in (("WARMUP_QUERY_CMD", "-u)"), ("PRECHECK_CMD", "PGPASSWORD)"))
    )
    assert not any("a secret stands" in refusal for refusal in plan.execute_refusals)
    assert "hunter" not in " ".join(plan.warnings)


def test_secrets_of_the_configuration_are_known(tmp_path: Path) -> None:
    """What the engine is started with is masked in what it prints."""
    (tmp_path / "ctp.yaml").write_text("ctp:\n  password: hunter22\n")
    plan = planned(tmp_path)
    assert plan.redactor("login as ann with hunter22") == "login as ann with ***"


def test_reasons_for_everything_are_no_session(tmp_path: Path) -> None:
    """A new engine of which nothing need be told could not be proved to be up."""
    reasons = "logged_in: a; settlement_confirmed: b; recovered: c; may_trade: d"
    given = (("SESSION_NOT_PROVED", reasons), ("NEW_SESSION_CMD", "cat x"))
    (said,) = planned(tmp_path, *given).execute_refusals
    assert "SESSION_NOT_PROVED names all that there is to know of a session" in said
    fewer = ("SESSION_NOT_PROVED", reasons.partition("; may_trade")[0])
    assert planned(tmp_path, fewer, given[1]).execute_refusals == ()


@pytest.mark.parametrize(
    ("command", "is_told"),
    [
        ("kill -0 $(cat /run/old.pid)", True),
        ("kill -0 `cat /run/old.pid` 2>/dev/null", True),
        ('kill -0 "$(cat /run/old.pid)"', False),
        ("kill -0 $(cat /run/old.pid) || exit 1", False),
        ("test -s /run/old.pid && kill -0 $(cat /run/old.pid)", False),
    ],
)
def test_an_alive_command_that_never_says_gone_is_told(
    command: str, is_told: bool, tmp_path: Path
) -> None:
    """Found out with everything stopped, it costs the switch."""
    plan = planned(tmp_path, ("OLD_CORE_ENGINE_ALIVE_CMD", command))
    told = [each for each in plan.warnings if "OLD_CORE_ENGINE_ALIVE_CMD ends with 2" in each]
    assert bool(told) is is_told
