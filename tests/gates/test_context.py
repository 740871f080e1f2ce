"""What a gate's tasks share: addresses from flag, environment and file; secrets; the deadline."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.context import Deadline, GateContext, open_door
from ctp_runbook.gates.gate import GateOptions, GateResult, GateStep
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES


def _context(tmp_path: Path, text: str = "", **given: object) -> GateContext:
    file = tmp_path / "prodlike.env"
    file.write_text(text)
    environ = given.pop("environ", {})
    options = GateOptions(env_file=file, **given)  # type: ignore[arg-type]
    return GateContext.of(options, environ=environ, tell=print)  # type: ignore[arg-type]


def test_an_address_comes_from_flag_environment_file_and_default(tmp_path: Path) -> None:
    """In this order; the single host has a default at the env file's port, the twin has none."""
    text = "KAFKA_PORT=19092\nCLICKHOUSE_URL='http://file:1'\n# CONNECT_PORT=1\n"
    found = _context(tmp_path, text, clickhouse_url="http://flag:1")
    assert found.clickhouse_url == "http://flag:1"
    assert _context(tmp_path, text).clickhouse_url == "http://file:1"
    environ = {"CLICKHOUSE_URL": "http://environ:1"}
    assert _context(tmp_path, text, environ=environ).clickhouse_url == "http://environ:1"
    assert found.bootstrap_servers == "127.0.0.1:19092"
    assert found.connect_url == "http://127.0.0.1:8083"
    twin = _context(tmp_path, "", profile="rehearsal")
    assert (twin.bootstrap_servers, twin.connect_url) == ("", "")
    with pytest.raises(ProbeError, match="--postgres-dsn"):
        _ = twin.postgres


def test_a_password_is_put_in_here_and_never_in_a_flag(tmp_path: Path) -> None:
    """Redis' and PostgreSQL's come from variables; one in --postgres-dsn is refused."""
    text = "REDIS_PASSWORD=a/b\nTIMESCALE_PASSWORD=geheim\nMONITOR_PASSWORD=m\n"
    found = _context(tmp_path, text)
    assert found.redis_url == "redis://:a%2Fb@127.0.0.1:6379"
    assert found.postgres.password == "geheim"
    assert "geheim" not in repr(found.postgres)
    assert open_door("user=quant_hft_monitor", values=found.values).password == "m"
    assert open_door("user=x", values={"PGPASSWORD": "p"}).password == "p"
    with pytest.raises(RunRefused, match="seen by everybody") as refused:
        open_door("user=x password=geheim", values={})
    assert "geheim" not in str(refused.value)
    with pytest.raises(RunRefused, match="expected host="):
        open_door("host", values={})


def test_an_env_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A misspelt --env-file does not quietly mean no file."""
    with pytest.raises(RunRefused, match="--env-file"):
        GateContext.of(GateOptions(env_file=tmp_path / "none"), environ={}, tell=print)


def test_what_is_wanted_is_found_or_refused(tmp_path: Path) -> None:
    """--infra names the folder; else it is here or in the checkout; a part that is not is refused."""
    assert _context(tmp_path).infra("kafka/topics.toml").is_file()
    with pytest.raises(RunRefused, match="name its infra folder by --infra"):
        _context(tmp_path, infra=tmp_path).infra("kafka/topics.toml")


def test_a_result_is_redacted(tmp_path: Path) -> None:
    """Secrets of the env file are masked in facts, reasons and questions alike."""
    context = _context(tmp_path, "REDIS_PASSWORD=geheim-geheim\n")
    leaks = "at geheim-geheim"
    step = GateStep("s", StepStatus.FAILED, 0.0, leaks, {"seen": leaks}, leaks)
    result = context.redacted(GateResult(GATES["bootstrap"], False, (step,)))
    assert b"geheim" not in result.evidence()
    assert b"at ***" in result.evidence()


def test_a_deadline_cuts_every_call() -> None:
    """A call gets what it asks for or what is left; with nothing left it is refused, by its flag."""
    assert Deadline.after(100).call(5) == 5
    assert 0 < Deadline.after(1).call(5) <= 1
    over = Deadline.after(-1)
    assert not over.pause(0.01)
    with pytest.raises(ProbeError, match="--deadline-seconds"):
        over.call(5)
