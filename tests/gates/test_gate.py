"""Infra gates: what is observed is written down, and what is not observed does not pass."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.gate import (
    GateOptions,
    Observation,
    judge_gate_evidence,
    output_path,
    write_gate,
)
from ctp_runbook.gates.run import _without_task, run_gate
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.probes.redis import look_at_redis, shown_url
from tests.props.small_servers import free_port, http_page, scripted_redis, valkey

ROOT = Path(__file__).parents[2]
NOT_SERVICES = [name for name, gate in GATES.items() if gate.component != "services"]
INFO = b"role:master\r\nloading:0\r\nredis_version:7.4.1\r\n"


@dataclass(frozen=True)
class Told:
    """An observer that says what it was given."""

    facts: dict[str, str] = field(default_factory=lambda: {"partitions": "6"})
    problems: tuple[str, ...] = ()
    dead: str = ""
    name: str = "kafka"
    question: str = "describe market.ticks.v1"

    def observe(self) -> Observation:
        """What was given, or a ProbeError."""
        if self.dead:
            raise ProbeError(self.dead)
        return Observation(self.facts, self.problems)


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def test_evidence_has_outcome_steps_and_what_was_seen() -> None:
    """CONTRACT §3: four keys with the gate's prefix, step lines, then observations."""
    result = run_gate("kafka-topics", GateOptions(execute=True, observers=(Told(),)))
    lines = result.evidence().decode().splitlines()
    assert lines[:4] == [
        "KAFKA_TOPIC_INIT_DRY_RUN=0",
        "KAFKA_TOPIC_INIT_SUCCESS=true",
        "KAFKA_TOPIC_INIT_FAILED_STEP=",
        "KAFKA_TOPIC_INIT_TOTAL_STEPS=1",
    ]
    assert lines[4:6] == ["STEP_1_NAME=observe_kafka", "STEP_1_STATUS=ok"]
    assert lines[-2:] == [
        "KAFKA_TOPIC_INIT_OBSERVED_OBSERVE_KAFKA_PARTITIONS=6",
        "KAFKA_TOPIC_INIT_OBSERVED_CHANGES=0",
    ]


def test_a_dry_run_asks_nobody() -> None:
    """Without --execute no observer is asked, and nothing is claimed to be seen."""
    result = run_gate("kafka-topics", GateOptions(observers=(Told(dead="asked!"),)))
    assert result.dry_run
    assert result.exit_code == 0
    assert b"STEP_1_STATUS=simulated_ok" in result.evidence()
    assert b"OBSERVED" not in result.evidence()


@pytest.mark.parametrize(
    "told", [Told(problems=("1 partition, wanted 6",)), Told(dead="no answer")]
)
def test_a_problem_fails_the_gate_with_what_was_seen(told: Told) -> None:
    """A topic with one partition where six are wanted, and a dead broker, both exit 3."""
    result = run_gate("kafka-topics", GateOptions(execute=True, observers=(told,)))
    assert result.exit_code == 3
    assert (told.problems or (told.dead,))[0] in result.sentence
    assert b"KAFKA_TOPIC_INIT_FAILED_STEP=observe_kafka" in result.evidence()


@pytest.mark.parametrize("name", NOT_SERVICES)
def test_the_twin_skips_what_it_does_not_have(name: str, tmp_path: Path) -> None:
    """Profile rehearsal: skipped, and the observed line says why; only a rehearsal accepts it."""
    options = GateOptions(execute=True, profile="rehearsal", output_file=tmp_path / "x.env")
    result = run_gate(name, options)
    write_gate(result, options, environ={})
    assert result.exit_code == 0
    assert b"the rehearsal twin has no" in result.evidence()
    judged = {
        rehearsal: list(
            judge_gate_evidence(
                tmp_path / "x.env", gate=GATES[name], real=True, rehearsal=rehearsal
            )
        )
        for rehearsal in (True, False)
    }
    assert judged[True] == []
    assert "a step is skipped" in judged[False][0]


@pytest.mark.parametrize("name", GATES)
def test_nothing_unobserved_passes_elsewhere(name: str) -> None:
    """A gate that finds nobody to ask fails and names the flag that is missing."""
    result = run_gate(name, GateOptions(execute=True, profile="rehearsal"), environ={})
    if GATES[name].component != "services":
        result = replace(result, steps=(_without_task(GATES[name], GateOptions(execute=True)),))
    assert result.exit_code == 3
    assert f"no observer for {GATES[name].component}" in result.sentence
    assert "--" in result.sentence


def test_an_unknown_endpoint_is_refused() -> None:
    """An endpoint whose scheme nobody can ask is refused by its flag, without its secrets."""
    options = GateOptions(execute=True, endpoints={"x": "ftp://me:secret@host/"})
    with pytest.raises(RunRefused, match="--endpoint x=ftp") as refused:
        run_gate("bootstrap", options)
    assert "secret" not in str(refused.value)


def test_where_evidence_goes(tmp_path: Path) -> None:
    """--output-file, then --evidence-dir, then the run's; a dry run writes only what was asked."""
    gate = GATES["bootstrap"]
    name = "single_host_bootstrap_result.env"
    run = {"CTP_EVIDENCE_DIR": "/run/evidence"}
    file, folder = tmp_path / "f.env", tmp_path
    assert (
        output_path(gate, GateOptions(output_file=file, evidence_dir=folder), environ=run) == file
    )
    assert output_path(gate, GateOptions(evidence_dir=folder), environ=run) == folder / name
    assert output_path(gate, GateOptions(), environ=run) == Path("/run/evidence") / name
    assert output_path(gate, GateOptions(execute=True), environ={}) == Path("outputs") / name
    assert output_path(gate, GateOptions(), environ={}) is None


BAD_FILES = {
    "missing": (None, "cannot be read"),
    "dry run": (b"X_DRY_RUN=1\n", "DRY_RUN is '1'"),
    "failed": (b"X_SUCCESS=false\n", "SUCCESS is 'false'"),
    "empty": (b"", "torn"),
    "no steps": (b"X_DRY_RUN=0\nX_SUCCESS=true\nX_FAILED_STEP=\nX_TOTAL_STEPS=0\n", "nothing was"),
}


@pytest.mark.parametrize(("data", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_evidence_that_proves_nothing_is_refused(
    data: bytes | None, said: str, tmp_path: Path
) -> None:
    """A gate's evidence that is missing, dry, failed or empty is a finding."""
    path = tmp_path / "gate.env"
    if data is not None:
        path.write_bytes(data.replace(b"X_", b"KAFKA_TOPIC_INIT_"))
    findings = judge_gate_evidence(path, gate=GATES["kafka-topics"], real=True)
    assert said in "\n".join(findings)


@pytest.mark.parametrize("url", ["redis://me:pw@h:1/0?x=pw#pw", "http://tok:pw@h:1/0"])
def test_a_shown_url_has_no_secret(url: str) -> None:
    """User, password, query and fragment are left out."""
    assert shown_url(url) == f"{url.partition(':')[0]}://h:1/0"


@pytest.mark.twin
def test_real_services_are_observed(tmp_path: Path) -> None:
    """Role and version of a real Valkey, an HTTP page and an open port end in the evidence."""
    with valkey(tmp_path) as redis, http_page("up\n") as page:
        endpoints = {"redis": redis, "page": page, "port": redis.replace("redis:", "tcp:")}
        result = run_gate("bootstrap", GateOptions(execute=True, endpoints=endpoints))
    assert result.is_ok, result.sentence
    evidence = result.evidence().decode()
    assert "SINGLE_HOST_BOOTSTRAP_OBSERVED_OBSERVE_REDIS_ROLE=master" in evidence
    assert "SINGLE_HOST_BOOTSTRAP_OBSERVED_OBSERVE_PORT_TCP=accepts" in evidence
    assert f"STEP_2_COMMAND=GET {page}" in evidence


@pytest.mark.twin
def test_dead_services_fail_the_gate() -> None:
    """Nobody at the port, and a page that answers 503, each fail with their own words."""
    port = free_port()
    with http_page("down", status=503) as page:
        for url, said in (
            (f"redis://127.0.0.1:{port}", "refused"),
            (f"tcp://127.0.0.1:{port}", "nobody accepts"),
            (page, "HTTP 503"),
        ):
            options = GateOptions(execute=True, endpoints={"service": url})
            assert said in run_gate("bootstrap", options).sentence


@pytest.mark.twin
def test_a_password_is_used_and_not_shown(tmp_path: Path) -> None:
    """A server that wants a password gets it; the evidence has the address only."""
    with valkey(tmp_path, "--requirepass", "geheim") as url:
        bare = run_gate("bootstrap", GateOptions(execute=True, endpoints={"redis": url}))
        known = url.replace("//", "//:geheim@")
        result = run_gate("bootstrap", GateOptions(execute=True, endpoints={"redis": known}))
    assert not bare.is_ok
    assert result.is_ok
    assert b"geheim" not in result.evidence()


BAD_REDIS = {
    "no role": (INFO.replace(b"role:master\r\n", b""), "role unknown"),
    "no loading": (INFO.replace(b"loading:0\r\n", b""), "loading unknown"),
    "a replica": (INFO.replace(b"master", b"slave"), "role slave"),
    "loading": (INFO.replace(b"loading:0", b"loading:1"), "loading 1"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("info", "said"), BAD_REDIS.values(), ids=BAD_REDIS)
def test_what_does_not_say_it_is_healthy_is_not(info: bytes, said: str) -> None:
    """No health field is not health; a replica or a loading server is no place for orders."""
    answers = {"PING": b"+PONG\r\n", "INFO": _bulk(info), "CLIENT": _bulk(b"id=1 name=\n")}
    with scripted_redis(answers) as url:
        result = run_gate("bootstrap", GateOptions(execute=True, endpoints={"redis": url}))
    assert said in result.sentence


BROKEN_REDIS: dict[str, dict[str, bytes]] = {
    "hangs up": {},
    "no PONG": {"PING": b"+HELLO\r\n"},
    "error": {"PING": b"-LOADING wait\r\n"},
    "torn": {"PING": b"+PONG\r\n", "INFO": b"$1000"},
    "huge": {"PING": b"+PONG\r\n", "INFO": b"$99999999999\r\n"},
    "nonsense": {"PING": b"+PONG\r\n", "INFO": b"$x\r\n"},
}


@pytest.mark.twin
@pytest.mark.parametrize("answers", BROKEN_REDIS.values(), ids=BROKEN_REDIS)
def test_a_broken_server_is_a_probe_error(answers: dict[str, bytes]) -> None:
    """Whatever comes back, the probe ends in time and says that it could not measure."""
    with scripted_redis(answers) as url, pytest.raises(ProbeError):
        look_at_redis(url, seconds=0.5)


def test_the_four_scripts_are_wrappers() -> None:
    """infra/scripts/*.sh stay three lines and hand their flags on."""
    names = (
        "bootstrap_prodlike",
        "init_kafka_topics",
        "init_clickhouse_schema",
        "init_debezium_connectors",
    )
    of_the_runbook = [gate.name for gate in GATES.values() if gate.is_due]
    for name, gate in zip(names, of_the_runbook, strict=True):
        script = ROOT / "infra/scripts" / f"{name}.sh"
        lines = script.read_text().splitlines()
        assert len(lines) == 3
        assert lines[-1] == f'exec ctp-runbook infra {gate} "$@"'
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)
