"""The gates and the canary against the twin's data plane, under profile rehearsal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates.canary import HOPS, fly_canaries
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult, judge_gate_evidence
from ctp_runbook.gates.run import run_gate
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.layout import Plane
from tests.props.data_plane import plane_up
from tests.props.real_chain import ROOT

pytestmark = pytest.mark.timeout(400)
ON_THE_TWIN = [name for name, gate in GATES.items() if gate.is_due]


@dataclass(frozen=True)
class Twin:
    """A plane that serves; what is wanted of it is infra/, as of production."""

    plane: Plane

    @property
    def environ(self) -> dict[str, str]:
        """The passwords, as the environment gives them."""
        secrets = self.plane.credentials()
        return {
            "CLICKHOUSE_PASSWORD": secrets.clickhouse,
            "DEBEZIUM_PASSWORD": secrets.debezium,
            "TIMESCALE_PASSWORD": secrets.postgres,
        }

    def options(self, **more: Any) -> GateOptions:
        """The flags that name this plane."""
        dsn = f"host=127.0.0.1 port={self.plane.port('postgres')} dbname=quant_hft user=postgres"
        flags: dict[str, Any] = {
            "execute": True,
            "profile": "rehearsal",
            "bootstrap_servers": self.plane.bootstrap,
            "clickhouse_url": self.plane.url("clickhouse"),
            "connect_url": self.plane.url("connect"),
            "redis_url": f"redis://127.0.0.1:{self.plane.port('valkey')}",
            "postgres_dsn": dsn,
            "connector_set": {
                "database.hostname": "127.0.0.1",
                "database.port": str(self.plane.port("postgres")),
            },
            "deadline_seconds": 30.0,
        }
        return GateOptions(**{**flags, **more})

    def gate(self, name: str, **more: Any) -> GateResult:
        """A gate, executed."""
        return run_gate(name, self.options(**more), environ=self.environ)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A data plane."""
    plane = plane_up(tmp_path_factory.mktemp("twin") / "plane")
    try:
        yield Twin(plane)
    finally:
        control.down(plane.dir)


def _argv(name: str, flags: GateOptions) -> list[str]:
    argv = [sys.executable, "-m", "ctp_runbook", "infra", name, "--execute"]
    argv += ["--profile", "rehearsal", "--bootstrap-servers", flags.bootstrap_servers]
    argv += ["--clickhouse-url", flags.clickhouse_url, "--connect-url", flags.connect_url]
    argv += ["--postgres-dsn", flags.postgres_dsn, "--redis-url", flags.redis_url]
    if name == "debezium-connectors":
        argv += [f"--set={key}={value}" for key, value in flags.connector_set.items()]
    return argv


@pytest.mark.parametrize("name", ON_THE_TWIN)
def test_a_gate_killed_in_the_middle_can_be_run_again(
    twin: Twin, name: str, tmp_path: Path
) -> None:
    """KILL at three moments of --execute on a bare plane; then it passes, then changes nothing."""
    argv = [*_argv(name, twin.options()), "--evidence-dir", str(tmp_path)]
    for after_seconds in (0.35, 0.6, 0.9):
        child = subprocess.Popen(
            argv, cwd=ROOT, env={**os.environ, **twin.environ}, stdout=subprocess.DEVNULL
        )
        time.sleep(after_seconds)
        child.kill()
        child.wait()
    again = twin.gate(name)
    assert again.is_ok, again.sentence
    assert twin.gate(name).changes == 0


@pytest.mark.parametrize("name", ON_THE_TWIN)
def test_every_gate_passes_and_then_changes_nothing(twin: Twin, name: str, tmp_path: Path) -> None:
    """Each gate passes, the second time with CHANGES=0; a rehearsal's verifier takes its word."""
    first, second = twin.gate(name), twin.gate(name)
    assert first.is_ok, first.sentence
    assert second.is_ok, second.sentence
    assert second.changes == 0
    path = tmp_path / GATES[name].file
    path.write_bytes(second.evidence())
    assert list(judge_gate_evidence(path, gate=GATES[name], real=True, rehearsal=True)) == []
    secrets = twin.environ.values()
    assert not [one for one in secrets if one in path.read_text()]


def test_retention_that_nobody_tells_fails_a_real_run(twin: Twin) -> None:
    """The twin's broker describes no configuration: enough for a rehearsal, and for nothing else."""
    assert "retention.ms not observable" in str(
        [s.sentence for s in twin.gate("kafka-topics").steps]
    )
    result = twin.gate("kafka-topics", profile="single-host")
    assert result.exit_code == 3
    assert "retention is not observable" in result.sentence


def test_canaries_on_the_twin(twin: Twin, record_table: Callable[[str, list[str]], None]) -> None:
    """20 marked records, each hop timed, end to end under 3 s; no market is needed."""
    context = GateContext.of(twin.options(), environ=twin.environ, tell=print)
    found = fly_canaries(context, runs=20)
    assert found.is_ok, found.sentence
    assert len(found.flights) == 20
    assert max(one.seconds for one in found.flights) < 3
    rows = [
        f"{name:22} p50 {ms['p50']:8.1f} ms   p99 {ms['p99']:8.1f} ms"
        for name, ms in found.percentiles_ms().items()
    ]
    record_table("canary_twin", rows)


def test_a_canary_that_does_not_arrive_names_its_hop(twin: Twin) -> None:
    """With no time left for Debezium the flight ends there, and says what to run."""
    context = GateContext.of(twin.options(deadline_seconds=0.06), environ=twin.environ, tell=print)
    found = fly_canaries(context)
    assert found.exit_code == 3
    assert "--deadline-seconds" in found.sentence or "Kafka" in found.sentence


def test_the_canary_command_writes_its_evidence(twin: Twin, tmp_path: Path) -> None:
    """`infra canary --execute` ends with 0 and writes each hop's time; no password in it."""
    flags = twin.options()
    argv = [sys.executable, "-m", "ctp_runbook", "infra", "canary", "--execute", "--runs", "2"]
    argv += ["--profile", "rehearsal", "--bootstrap-servers", flags.bootstrap_servers]
    argv += ["--clickhouse-url", flags.clickhouse_url, "--postgres-dsn", flags.postgres_dsn]
    argv += ["--output-json", str(tmp_path / "canary.json")]
    environ = {**os.environ, **twin.environ, "CTP_RUN_ID": "r1"}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "canary.json").read_text()
    data = json.loads(text)
    assert data["success"] is True
    assert [one["hop"] for one in data["flights"][1]["hops"]] == list(HOPS)
    assert data["flights"][0]["mark"].startswith("canary-r1-")
    assert not [one for one in twin.environ.values() if one in text + done.stdout]
