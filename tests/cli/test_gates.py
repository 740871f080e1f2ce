"""Facts about cli/gates.py: what is typed reaches the gate, and what it found the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.decoding import decoder
from ctp_runbook.gates import canary as flight
from ctp_runbook.gates import gate as gate_module
from ctp_runbook.gates import readiness_probes
from ctp_runbook.gates import run as gate_run
from ctp_runbook.gates.canary import HOPS, CanaryFlight, CanaryResult
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.gates.readiness import DECLARED_FLAGS
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.record.gate_files import CanaryFile
from tests.props.command_line import typed

DECLARED = {
    "query-latency-ms": "12",
    "flow-control-hits": "0",
    "disconnect-recovery-success-rate": "1",
    "reject-classified-ratio": "1",
    "core-process-alive": "true",
    "redis-health": "healthy",
    "timescale-health": "healthy",
    "strategy-bridge-chain-status": "complete",
}


def test_every_value_that_may_be_declared_has_its_flag(tmp_path: Path) -> None:
    """Typed by hand, each is written down as declared."""
    assert DECLARED.keys() == DECLARED_FLAGS.keys()
    file = tmp_path / "readiness.json"
    words = [word for flag, value in DECLARED.items() for word in (f"--{flag}", value)]
    assert typed("readiness", "--profile", "rehearsal", *words, "--output-json", file) == 0
    slis = json.loads(file.read_bytes())["slis"]
    declared = {sli["name"] for sli in slis if sli["provenance"] == "declared"}
    assert set(DECLARED_FLAGS.values()) <= declared


def test_readiness_passes_on_where_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses, what comes again, and pairs."""
    asked: list[Any] = []

    def measure(sources: Any) -> Any:
        asked.append(sources)
        raise KeyboardInterrupt

    monkeypatch.setattr(readiness_probes, "measure", measure)
    words = ("--bridge-client", "a", "--bridge-client", "b", "--bridge-key", "k=v")
    more = ("--alive-cmd", "true", "--sli-cmd", "x=echo 1", "--redis-url", "redis://h:1")
    assert typed("readiness", *words, *more, "--bootstrap-servers", "h:9") == 130
    (sources,) = asked
    assert sources.bridge_clients == ("a", "b")
    assert sources.bridge_keys == {"k": "v"}
    assert sources.commands == {"x": "echo 1"}
    assert (sources.alive_command, sources.redis_url) == ("true", "redis://h:1")
    assert sources.bootstrap_servers == "h:9"
    assert sources.declared == {}


@pytest.mark.parametrize(
    ("words", "variable", "seconds"),
    [((), None, 5.0), ((), "30", 30.0), (("--sli-timeout-seconds", "60"), "30", 60.0)],
)
def test_an_sli_has_the_time_that_is_set(
    words: tuple[str, ...],
    variable: str | None,
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the flag, else by the run, which has it from limits.toml."""
    asked: list[Any] = []

    def measure(sources: Any) -> Any:
        asked.append(sources.seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(readiness_probes, "measure", measure)
    if variable:
        monkeypatch.setenv("CTP_SLI_TIMEOUT_SECONDS", variable)
    assert typed("readiness", *words) == 130
    assert asked == [seconds]


@pytest.mark.parametrize("variable", ["0", "-1", "301", "nan", "soon"])
def test_the_time_of_an_sli_is_bounded(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From wherever it comes; nothing is measured then."""
    assert typed("readiness", "--sli-timeout-seconds", variable) == 2
    monkeypatch.setenv("CTP_SLI_TIMEOUT_SECONDS", variable)
    assert typed("readiness") == 2
    assert "CTP_SLI_TIMEOUT_SECONDS" in capsys.readouterr().err


def test_the_validation_of_a_rollback_writes_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the step it runs in; an SLI that nobody could measure fails it."""
    monkeypatch.setenv("CTP_EVIDENCE_DIR", str(tmp_path))
    monkeypatch.setenv("CTP_STEP", "post_rollback_validate")
    assert typed("readiness") == 3
    assert [file.name for file in tmp_path.iterdir()] == ["ctp_readiness_rollback.json"]


def test_infra_lists_every_gate_and_the_canary(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it looks at."""
    assert typed("infra", "--help") == 0
    _, _, listed = capsys.readouterr().out.partition("Commands:\n")
    assert {line.split()[0] for line in listed.splitlines()} >= {*GATES, "canary"}


def test_a_gate_gets_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its options, the one only it takes among them, and its exit code."""
    runs: list[tuple[str, GateOptions]] = []
    result = type("Result", (), {"steps": (), "sentence": "as wanted", "exit_code": 3})

    def perform(name: str, options: GateOptions, **_: object) -> object:
        runs.append((name, options))
        return result

    monkeypatch.setattr(gate_run, "run_gate", perform)
    monkeypatch.setattr(gate_module, "write_gate", lambda *_, **__: None)
    words = ("--execute", "--set", "a=b", "--update", "x", "--endpoint", "redis=redis://h:1")
    assert typed("infra", "debezium-connectors", *words) == 3
    assert capsys.readouterr().out == "as wanted\n"
    (name, options) = runs[0]
    assert name == "debezium-connectors"
    assert options == GateOptions(
        execute=True,
        profile="single-host",
        connector_set={"a": "b"},
        update=("x",),
        endpoints={"redis": "redis://h:1"},
        deadline_seconds=GATES["debezium-connectors"].seconds,
    )


def test_a_gate_knows_no_flag_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    """--set is for connectors alone."""
    assert typed("infra", "kafka-topics", "--set", "a=b") == 2
    assert "No such option" in capsys.readouterr().err


def test_a_gate_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2; nothing was looked at."""
    assert typed("infra", "moon-phase") == 2
    assert "No such command 'moon-phase'." in capsys.readouterr().err


def test_a_canary_that_flew_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into the run's evidence, where no file is named; a dry run writes none."""
    monkeypatch.setenv("CTP_EVIDENCE_DIR", str(tmp_path))

    def fly(context: object, *, runs: int, run_id: str) -> CanaryResult:
        hops = dict.fromkeys(HOPS, 0.001)
        flights = [CanaryFlight(f"{number}", "", hops) for number in range(runs)]
        return CanaryResult(tuple(flights), dry_run=False)

    monkeypatch.setattr(flight, "fly_canaries", fly)
    assert typed("infra", "canary", "--runs", "2") == 0
    written = decoder(CanaryFile).decode((tmp_path / "ctp_canary.json").read_bytes())
    assert [canary.mark for canary in written.flights] == ["0", "1"]
    assert capsys.readouterr().out.startswith("canary ok: 2 arrived: ")
