"""Facts about gates/services.py: what a service must say of itself, and how a dead one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.gates.run import run_gate
from ctp_runbook.gates.services import endpoint_task, redis_task
from tests.props.small_servers import bulk, free_port, http_page, scripted_redis, valkey

INFO = b"role:master\r\nloading:0\r\nredis_version:7.4.1\r\n"
QUESTIONS = {
    "redis://me:pw@h:1/0": "PING, INFO redis://h:1/0",
    "http://tok:pw@h:1/x?y=z": "GET http://h:1/x",
    "tcp://h:1": "connect tcp://h:1",
}


@pytest.mark.parametrize(("url", "question"), QUESTIONS.items())
def test_a_url_is_asked_by_its_scheme(url: str, question: str) -> None:
    """The question stands in the evidence, without user, password and query."""
    task = endpoint_task("x", url)
    assert (task.name, task.question, task.acts) == ("observe_x", question, False)


def test_redis_has_a_name_of_its_own() -> None:
    """The step is observe_redis where no endpoint names it."""
    assert redis_task("redis://h:1").name == "observe_redis"


@pytest.mark.parametrize("url", ["ftp://me:secret@host/", "https://secret@host", "me:secret"])
def test_an_unknown_endpoint_is_refused(url: str) -> None:
    """An endpoint whose scheme nobody can ask is refused by its flag, without its secrets."""
    options = GateOptions(execute=True, endpoints={"x": url})
    words = "--endpoint x=.*expected redis://, http:// or tcp://"
    with pytest.raises(RunRefused, match=words) as refused:
        run_gate("bootstrap", options)
    assert "secret" not in str(refused.value)


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
    answers = {"PING": b"+PONG\r\n", "INFO": bulk(info), "CLIENT": bulk(b"id=1 name=\n")}
    with scripted_redis(answers) as url:
        result = run_gate("bootstrap", GateOptions(execute=True, endpoints={"redis": url}))
    assert said in result.sentence


REMEDIES = {
    "a replica": (
        INFO.replace(b"master", b"slave") + b"master_host:10.0.0.2\r\nmaster_port:6380\r\n",
        "follows 10.0.0.2:6380: name the primary by --redis-url, or `REPLICAOF NO ONE`",
    ),
    "a snapshot that failed": (
        INFO + b"rdb_last_bgsave_status:err\r\n",
        "rdb_last_bgsave_status is err, expected ok; look at the disk of its data directory",
    ),
    "an append-only file that failed": (
        INFO + b"aof_last_write_status:err\r\n",
        "aof_last_write_status is err, expected ok",
    ),
}


@pytest.mark.twin
@pytest.mark.parametrize(("info", "said"), REMEDIES.values(), ids=REMEDIES)
def test_what_is_wrong_with_redis_is_told_with_what_to_do(info: bytes, said: str) -> None:
    """Where it follows whom, and which disk to look at."""
    answers = {"PING": b"+PONG\r\n", "INFO": bulk(info), "CLIENT": bulk(b"id=1 name=\n")}
    with scripted_redis(answers) as url:
        seen = redis_task(url).run()
    assert said in "; ".join(seen.problems)
    assert (seen.facts["version"], seen.facts["aof_enabled"]) == ("7.4.1", "unknown")


REFUSALS = {
    "no password": ({"PING": b"-NOAUTH Authentication required.\r\n"}, "its password is that of"),
    "a wrong one": ({"PING": b"-WRONGPASS invalid pair\r\n"}, "REDIS_PASSWORD of the env file"),
    "another server": ({"PING": b"HTTP/1.1 400\r\n"}, "expected PONG; is this Redis' port"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("answers", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_where_the_password_comes_from(
    answers: dict[str, bytes], said: str
) -> None:
    """And what is no Redis, who else may be listening."""
    with scripted_redis(answers) as url, pytest.raises(ProbeError, match=said):
        redis_task(url).run()
