"""Facts about gates/readiness_probes.py: each SLI is measured where it is, or has no value."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import InputError, ProbeError
from ctp_runbook.gates import readiness_probes
from ctp_runbook.gates.readiness import (
    DECLARED_FLAGS,
    Readiness,
    SliReading,
    judge_readiness,
    measured,
)
from ctp_runbook.gates.readiness_probes import (
    COMMANDS_VARIABLE,
    ReadinessSources,
    add_commands,
    by_command,
    commands_of_run,
    measure,
)
from ctp_runbook.probes import kafka
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.probes.redis import RedisLook
from tests.props.small_servers import free_port, http_page, valkey

LATENCY, HITS, RECOVERY, REJECTS, ALIVE, REDIS, TIMESCALE, CHAIN = DECLARED_FLAGS.values()
PUBLISH, SPOOL, CDC, INGEST = (
    "quant_hft_kafka_publish_success_rate",
    "quant_hft_kafka_spool_backlog",
    "quant_hft_cdc_lag_seconds",
    "quant_hft_clickhouse_ingest_lag_seconds",
)
PAGE = """\
# TYPE quant_hft_ctp_query_latency_seconds histogram
quant_hft_ctp_query_latency_seconds_bucket{{le="0.1"}} {fast}
quant_hft_ctp_query_latency_seconds_bucket{{le="5.0"}} {all}
quant_hft_ctp_query_latency_seconds_bucket{{le="+Inf"}} {all}
quant_hft_ctp_query_latency_seconds_count {all}
quant_hft_ctp_query_latency_seconds_sum 1.0
# TYPE quant_hft_query_rate_violation_total counter
quant_hft_query_rate_violation_total 2.0
# TYPE quant_hft_ctp_reconnect_total counter
quant_hft_ctp_reconnect_total {reconnects}
# TYPE quant_hft_ctp_connected gauge
quant_hft_ctp_connected {connected}
# TYPE quant_hft_risk_reject_total counter
quant_hft_risk_reject_total{{reason="limit"}} {classified}
quant_hft_risk_reject_total{{reason="unknown"}} {unclassified}
"""
GOOD = {"fast": 50, "all": 50, "reconnects": 0, "connected": 1, "classified": 0, "unclassified": 0}


def test_what_was_not_measured_is_not_healthy() -> None:
    """Without a source every SLI is there, without a value, and says what to give."""
    found = measure(ReadinessSources("x"))
    assert len(found.readings) == 8
    assert found.exit_code == 3
    assert all(one.value is None and "no source was given" in one.detail for one in found.readings)


# --- measured ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "value"), [("exit 0", True), ("exit 1", False), ("exit 7", None)]
)
def test_the_alive_command_has_three_answers(command: str, value: bool | None) -> None:
    """Exit 0 alive, 1 gone, anything else could not tell: only the first is healthy."""
    found = measure(ReadinessSources("x", alive_command=command))
    (alive,) = [one for one in found.readings if one.name == ALIVE]
    assert (alive.value, alive.is_healthy) == (value, value is True)


@pytest.mark.parametrize("command", ["sleep 60", "sleep 60 & wait", "trap '' TERM; sleep 60"])
def test_a_command_that_hangs_is_ended(command: str) -> None:
    """A hanging probe ends within its deadline, and is no answer."""
    began = time.monotonic()
    found = measure(ReadinessSources("x", alive_command=command, seconds=0.3))
    (alive,) = [one for one in found.readings if one.name == ALIVE]
    assert time.monotonic() - began < 50
    assert alive.value is None
    assert "did not end" in alive.detail


@pytest.mark.parametrize(
    ("name", "command", "value"),
    [
        (LATENCY, "echo 1200", 1200.0),
        (LATENCY, "echo nan", None),
        (LATENCY, "echo 1200; exit 1", None),
        (LATENCY, "true", None),
        (CHAIN, "echo complete", "complete"),
        (CHAIN, "echo so-so", None),
        (ALIVE, "echo true", True),
        ("quant_hft_cdc_lag_seconds", "echo 0.5", 0.5),
    ],
)
def test_an_sli_command_prints_the_value(name: str, command: str, value: object) -> None:
    """For an engine without metrics: exit 0 and a possible value, or there is no value."""
    found = measure(ReadinessSources("x", commands={name: command}))
    (one,) = [one for one in found.readings if one.name == name]
    assert one.value == value
    # Each of these only prints, whatever it prints: somebody typed it.
    assert one.provenance == "declared"


def test_a_command_of_an_unknown_sli_is_refused() -> None:
    """A misspelt SLI is an input error, not an SLI nobody reads."""
    with pytest.raises(InputError, match="quant_hft_mood"):
        measure(ReadinessSources("x", commands={"quant_hft_mood": "echo 1"}))


def _measured(*pages: dict[str, Any]) -> dict[str, Any]:
    texts = [PAGE.format(**{**GOOD, **page}) for page in pages]
    with http_page(*texts) as url:
        found = measure(ReadinessSources("x", metrics_url=url, window_seconds=0.0))
    return {one.name: one for one in found.readings}


@pytest.mark.twin
def test_the_engine_is_measured_from_its_page() -> None:
    """Four SLIs come from /metrics, each with where and when it was read."""
    found = _measured({}, {"fast": 60, "all": 60})
    for name in (LATENCY, HITS, RECOVERY, REJECTS):
        assert found[name].is_healthy, found[name].sentence
        assert found[name].source.startswith("GET http://127.0.0.1:")


@pytest.mark.twin
def test_latency_is_that_of_the_recent_queries() -> None:
    """A slow engine is not saved by a fast past: the p99 is of bucket deltas, or there is none."""
    recent = _measured({}, {"fast": 50, "all": 60})[LATENCY]
    assert not recent.is_healthy
    assert "10 queries just now" in recent.detail
    assert _measured({"fast": 0, "all": 0})[LATENCY].value is None
    assert _measured({})[LATENCY].value is None


def _latency_of(*edits: tuple[str, str]) -> Any:
    """The query latency of an engine that made ten queries meanwhile, its pages edited."""
    pages = [PAGE.format(**{**GOOD, "fast": 0, "all": count}) for count in (0, 10)]
    for old, new in edits:
        assert old in pages[1]
        pages = [page.replace(old, new) for page in pages]
    with http_page(*pages) as url:
        found = measure(ReadinessSources("x", metrics_url=url, window_seconds=0.0))
    return next(one for one in found.readings if one.name == LATENCY)


# The widest finite bound of queries that all took longer; the value, and what is said.
ABOVE = {
    "beyond the target": ("5.0", 5000.0, "is more than 5000 ms"),
    "at the target": ("2.0", None, "is more than 2000 ms"),
    "below the target": ("1.5", None, "is more than 1500 ms"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("bound", "value", "said"), ABOVE.values(), ids=ABOVE)
def test_latency_above_all_buckets_is_never_healthy(
    bound: str, value: float | None, said: str
) -> None:
    """A bound that does not exceed the target is no value: as a number it would be healthy."""
    found = _latency_of(('le="5.0"} 10', 'le="5.0"} 0'), ('le="5.0"', f'le="{bound}"'))
    assert (found.value, found.is_healthy) == (value, False)
    assert said in found.sentence


NO_HISTOGRAM = {
    "no +Inf": (('le="+Inf"', 'le="7.0"'), "there is no bucket +Inf"),
    "no number as a bound": (('le="0.1"', 'le="quick"'), 'le="quick" is no bound'),
    "NaN as a bound": (('le="0.1"', 'le="NaN"'), 'le="NaN" is no bound'),
    "falls with the bound": (('le="0.1"} 0', 'le="0.1"} 99'), "fewer events than a narrower one"),
    "no count": (('le="0.1"} 0', 'le="0.1"} NaN'), "not finite"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("edit", "said"), NO_HISTOGRAM.values(), ids=NO_HISTOGRAM)
def test_latency_of_what_is_no_histogram_is_no_value(edit: tuple[str, str], said: str) -> None:
    """The whole histogram has none: what a broken bucket counted is in no other."""
    found = _latency_of(edit)
    assert found.value is None
    assert said in found.sentence


BAD_PAGES: dict[str, tuple[dict[str, Any], str]] = {
    "lost session": ({"reconnects": 3, "connected": 0}, RECOVERY),
    "unclassified": ({"classified": 1, "unclassified": 1}, REJECTS),
    "nan": ({"connected": "NaN"}, RECOVERY),
    "nan rejects": ({"classified": "NaN"}, REJECTS),
}


@pytest.mark.twin
@pytest.mark.parametrize(("page", "name"), BAD_PAGES.values(), ids=BAD_PAGES)
def test_a_bad_page_is_not_healthy(page: dict[str, Any], name: str) -> None:
    """A lost session, rejects without a reason and NaN are each seen for what they are."""
    assert not _measured(page)[name].is_healthy


@pytest.mark.twin
@pytest.mark.parametrize("text", ["", "<html>", "quant_hft_ctp_connected maybe\n"])
def test_a_page_that_is_none_gives_no_value(text: str) -> None:
    """An empty or broken page measures nothing."""
    with http_page(text) as url:
        found = measure(ReadinessSources("x", metrics_url=url, window_seconds=0.0))
    assert [one.value for one in found.readings] == [None] * 8


@pytest.mark.twin
def test_redis_and_the_bridge_are_looked_at(tmp_path: Path) -> None:
    """Redis healthy by its own INFO; the chain complete only with every client and key there."""
    with valkey(tmp_path) as url:
        sources = ReadinessSources("x", redis_url=url, bridge_keys={"compat": "1"})
        found = {one.name: one for one in measure(sources).readings}
    assert found[REDIS].value == "healthy"
    assert found[CHAIN].value == "incomplete"
    assert "compat is '', expected '1'" in found[CHAIN].detail


@pytest.mark.twin
def test_a_dead_redis_gives_no_value() -> None:
    """Nobody at the port: no value for Redis nor for the chain."""
    url = f"redis://127.0.0.1:{free_port()}"
    sources = ReadinessSources("x", redis_url=url, bridge_clients=("old_core_engine",))
    found = {one.name: one for one in measure(sources).readings}
    assert (found[REDIS].value, found[CHAIN].value) == (None, None)
    assert "refused" in found[REDIS].detail


def test_the_rehearsal_profile_says_what_it_lacks() -> None:
    """TimescaleDB and the new pipeline are listed as not in this environment, never as healthy."""
    found = measure(ReadinessSources("x", profile="rehearsal"))
    report = json.loads(found.to_bytes())
    absent = report["metadata"]["not_in_this_environment"]
    assert TIMESCALE in absent
    assert not {one["name"] for one in report["slis"]} & set(absent)


def by_name(sources: ReadinessSources) -> dict[str, SliReading]:
    """What is measured, by SLI."""
    return {reading.name: reading for reading in measure(sources).readings}


def test_a_measured_value_wins_over_a_declared_one() -> None:
    """What was typed is no reason not to look."""
    declared = {"core-process-alive": "true", "redis-health": "healthy"}
    found = by_name(ReadinessSources("x", declared=declared, alive_command="exit 1"))
    assert (found[ALIVE].value, found[ALIVE].provenance) == (False, "measured")
    assert (found[REDIS].value, found[REDIS].provenance) == ("healthy", "declared")


def test_a_report_says_where_it_was_made() -> None:
    """Host, run and step, for whoever compares two of them."""
    environ = {"CTP_RUN_ID": "r1", "CTP_STEP": "precheck"}
    report = json.loads(measure(ReadinessSources("x", environ=environ)).to_bytes())
    assert (report["metadata"]["run_id"], report["metadata"]["step"]) == ("r1", "precheck")


# --- the page's families ----------------------------------------------------------

PAGE_SLIS: dict[str, tuple[str, str, str, float | None, str]] = {
    "no query was refused": (HITS, "quant_hft_query_rate_violation_total 0", "", 0.0, "since the"),
    "hits of two kinds are added": (
        HITS,
        'quant_hft_query_rate_violation_total{code="-2"} 3',
        'quant_hft_query_rate_violation_total{code="-3"} 4',
        7.0,
        "queries refused (-2, -3)",
    ),
    "no such family": (HITS, "other 1", "", None, "violation_total is not on the page"),
    "half of a reconnect": (RECOVERY, "quant_hft_ctp_reconnect_total 3", "", None, "or quant_hft"),
    "never lost": (
        RECOVERY,
        "quant_hft_ctp_reconnect_total 0",
        "quant_hft_ctp_connected 1",
        1.0,
        "0 sessions came back, 0 is lost now",
    ),
    "one lost of four": (
        RECOVERY,
        "quant_hft_ctp_reconnect_total 3",
        "quant_hft_ctp_connected 0",
        0.75,
        "3 sessions came back, 1 is lost now",
    ),
    "no reject": (REJECTS, 'quant_hft_risk_reject_total{reason="limit"} 0', "", 1.0, "no reject"),
    "half of them without a reason": (
        REJECTS,
        'quant_hft_risk_reject_total{reason="limit"} 2',
        'quant_hft_risk_reject_total{reason="UNKNOWN"} 2',
        0.5,
        "2 of 4 rejects carry a reason",
    ),
    "no label at all": (REJECTS, "quant_hft_risk_reject_total 2", "", 0.0, "0 of 2 rejects"),
    "all published": (PUBLISH, 'quant_hft_kafka_publish_total{result="ok"} 9', "", 1.0, "9 of 9"),
    "one lost": (
        PUBLISH,
        'quant_hft_kafka_publish_total{result="ok"} 3',
        'quant_hft_kafka_publish_total{result="error"} 1',
        0.75,
        "3 of 4 records",
    ),
    "none published yet": (
        PUBLISH,
        'quant_hft_kafka_publish_total{result="ok"} 0',
        "",
        None,
        "nothing was published since the engine's start",
    ),
    "a spool": (
        SPOOL,
        'quant_hft_kafka_publish_total{result="ok"} 1',
        "quant_hft_kafka_spool_backlog 5",
        5.0,
        "quant_hft_kafka_spool_backlog of the page",
    ),
    "no spool": (
        SPOOL,
        'quant_hft_kafka_publish_total{result="ok"} 1',
        "",
        None,
        "quant_hft_kafka_spool_backlog is not there",
    ),
    "a value that cannot be": (
        SPOOL,
        'quant_hft_kafka_publish_total{result="ok"} 1',
        "quant_hft_kafka_spool_backlog -5",
        None,
        "-5.0 is no value of it",
    ),
}


@pytest.mark.twin
@pytest.mark.parametrize(
    ("name", "first", "second", "value", "said"), PAGE_SLIS.values(), ids=PAGE_SLIS
)
def test_each_sli_of_the_page(
    name: str, first: str, second: str, value: float | None, said: str
) -> None:
    """Added up over labels; what is not there, or no number of it, is no value."""
    with http_page(f"{first}\n{second}\n") as url:
        found = by_name(ReadinessSources("x", metrics_url=url, window_seconds=0.0))[name]
    assert found.value == value
    assert said in found.detail


@pytest.mark.twin
def test_an_engine_that_publishes_nothing_has_no_such_sli() -> None:
    """An engine without Kafka is not asked for its spool."""
    with http_page("quant_hft_ctp_connected 1\n") as url:
        found = by_name(ReadinessSources("x", metrics_url=url, window_seconds=0.0))
    assert not {PUBLISH, SPOOL} & found.keys()


@pytest.mark.twin
def test_the_next_query_is_waited_for() -> None:
    """An engine that rests for a moment has its p99 from its next query, and no sooner."""
    idle = PAGE.format(**GOOD)
    busy = PAGE.format(**{**GOOD, "fast": 60, "all": 60})
    with http_page(idle, idle, idle, busy) as url:
        found = by_name(ReadinessSources("x", metrics_url=url, window_seconds=30.0))[LATENCY]
    assert found.is_healthy, found.sentence
    assert found.detail.startswith("p99 of 10 queries just now")


@pytest.mark.twin
def test_an_engine_that_was_started_again_has_no_latency() -> None:
    """Its counts fell, or its buckets are others: what lies between is not known."""
    fewer = _measured({}, {"fast": 40, "all": 40})[LATENCY]
    assert fewer.value is None
    assert "of the queries just now bucket" in fewer.detail
    other = [PAGE.format(**GOOD), PAGE.format(**GOOD).replace('le="5.0"', 'le="2.0"')]
    with http_page(*other) as url:
        found = by_name(ReadinessSources("x", metrics_url=url, window_seconds=0.0))[LATENCY]
    assert (found.value, "other buckets than a moment ago" in found.detail) == (None, True)


# --- Redis ------------------------------------------------------------------------

# What Redis shows: role, clients, keys; health and chain, and what is said of the chain.
BRIDGES: dict[str, tuple[str, tuple[str, ...], dict[str, str], str, str]] = {
    "whole": ("master", ("engine", "other"), {"compat": "1"}, "complete", "seen: engine, compat=1"),
    "no client": ("master", ("other",), {"compat": "1"}, "incomplete", "no client engine"),
    "another value": (
        "master",
        ("engine",),
        {"compat": ""},
        "incomplete",
        "compat is '', expected '1'",
    ),
    "neither": (
        "slave",
        (),
        {"compat": "2"},
        "incomplete",
        "no client engine; compat is '2', expected '1'",
    ),
}


@pytest.mark.parametrize(
    ("role", "clients", "keys", "chain", "said"), BRIDGES.values(), ids=BRIDGES
)
def test_the_chain_is_whole_with_every_client_and_key(
    role: str,
    clients: tuple[str, ...],
    keys: dict[str, str],
    chain: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And Redis' own health is another question."""
    look = RedisLook({"role": role, "loading": "0"}, clients, keys)
    monkeypatch.setattr(readiness_probes, "look_at_redis", lambda url, **asked: look)
    sources = ReadinessSources(
        "x", redis_url="redis://:geheim@h", bridge_clients=("engine",), bridge_keys={"compat": "1"}
    )
    found = by_name(sources)
    assert found[REDIS].value == ("healthy" if role == "master" else "unhealthy")
    assert (found[CHAIN].value, found[CHAIN].detail) == (chain, said)
    assert found[CHAIN].source == "CLIENT LIST, GET redis://h"
    assert found[REDIS].source == "PING, INFO redis://h"


def test_without_a_bridge_only_redis_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that nobody described is not called whole."""
    look = RedisLook({"role": "master", "loading": "0"}, (), {})
    monkeypatch.setattr(readiness_probes, "look_at_redis", lambda url, **asked: look)
    found = by_name(ReadinessSources("x", redis_url="redis://h"))
    assert found[REDIS].is_healthy
    assert "no source was given" in found[CHAIN].detail


# --- commands ---------------------------------------------------------------------

SILENT: dict[str, tuple[str, str]] = {
    "a failure": ("echo 1200; exit 4", "exit 4, printed '1200'; expected exit 0, a finite number"),
    "a word": ("echo fast", "exit 0, printed 'fast'; expected exit 0, a finite number >= 0"),
    "nothing": ("echo", "exit 0, printed ''"),
    "a long word": ("printf '%0999d' 7 | tr 0 x", f"printed '{'x' * 40}'"),
    "too late": ("sleep 60", "the command did not end within 0.5 s"),
    "no text": (r"printf '\377'", "printed '\ufffd'"),
}


@pytest.mark.parametrize(("command", "said"), SILENT.values(), ids=SILENT)
def test_a_command_that_says_no_value_is_quoted(command: str, said: str) -> None:
    """By its exit code and its last word, with what could stand there."""
    found = by_name(ReadinessSources("x", commands={LATENCY: command}, seconds=0.5))[LATENCY]
    assert found.value is None
    assert said in found.detail


def test_the_last_word_counts(tmp_path: Path) -> None:
    """What a command says before it is for people, and what it says on stderr, too."""
    (tmp_path / "value").write_text("7\n")
    command = 'echo "depth is"; echo 9 >&2; cat value; test "$WORD" = x'
    environ = {"PATH": "/usr/bin:/bin", "WORD": "x"}
    sources = ReadinessSources("x", commands={SPOOL: command}, cwd=tmp_path, environ=environ)
    assert by_name(sources)[SPOOL].value == 7.0


def test_a_command_that_leaves_a_child_does_not_wait_for_it() -> None:
    """The answer is there when its shell ends; what it left behind is ended."""
    began = time.monotonic()
    found = by_name(ReadinessSources("x", alive_command="sleep 60 & exit 0", seconds=30))
    assert found[ALIVE].value is True
    assert time.monotonic() - began < 10


def test_a_command_that_could_not_tell_says_how_it_ended() -> None:
    """Neither alive nor gone, with its exit code."""
    found = by_name(ReadinessSources("x", alive_command="exit 7"))[ALIVE]
    assert found.detail == "exit 7: could not tell (0 is alive, 1 is gone)"


# --- the pipeline -----------------------------------------------------------------


class Answer:
    """The rows of a query."""

    def __init__(self, *row: object) -> None:
        self.row = row

    def fetchall(self) -> list[tuple[object, ...]]:
        """The one row."""
        return [self.row]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ReadinessSources]:
    """Make the three say so: PostgreSQL's role and newest order, Kafka's record, a delay."""

    def use(
        *,
        standby: bool = False,
        newest: float | None = 5000.0,
        record: bytes | None = b'{"__source_ts_ms": 3500}',
        delay: list[object] | None = None,
        down: str = "",
    ) -> ReadinessSources:
        class Connection:
            def execute(self, query: str) -> Answer:
                return Answer(standby, "17.2") if "recovery" in query else Answer(newest)

        @contextmanager
        def opened(self: PostgresDoor, *, seconds: float) -> Iterator[Connection]:
            if down:
                raise ProbeError(down)
            yield Connection()

        def rows(self: ClickHouseDoor, query: str, *, seconds: float) -> list[list[object]]:
            if down:
                raise ProbeError(down)
            return [delay or [250, 9]]

        monkeypatch.setattr(PostgresDoor, "open", opened)
        monkeypatch.setattr(ClickHouseDoor, "rows", rows)
        monkeypatch.setattr(kafka, "newest_record", lambda servers, topic, seconds: record)
        return ReadinessSources(
            "x",
            bootstrap_servers="h:9092",
            clickhouse=ClickHouseDoor("http://h", "u", "p"),
            postgres=PostgresDoor("host=h dbname=d", ""),
        )

    return use


PIPELINES: dict[str, tuple[Mapping[str, object], str, object, str]] = {
    "a primary": ({}, TIMESCALE, "healthy", "PostgreSQL 17.2 answers and is the primary"),
    "a standby": ({"standby": True}, TIMESCALE, "unhealthy", "is a standby, expected the primary"),
    "a lag": ({}, CDC, 1.5, "newest order written against newest change in Kafka"),
    "none": ({"newest": 3500.0}, CDC, 0.0, "newest order"),
    "Kafka's clock is ahead": ({"newest": 3000.0}, CDC, 0.0, "newest order"),
    "no order yet": ({"newest": None}, CDC, None, "has no row: no lag is proved; fly a canary"),
    "an empty topic": ({"record": None}, CDC, None, "newest record None has no time"),
    "another record": ({"record": b"[]"}, CDC, None, "newest record b'[]' has no time"),
    "a record without a time": ({"record": b"{}"}, CDC, None, "has no time"),
    "a delay": ({}, INGEST, 0.25, "p99 of the ticks of the last minute"),
    "no tick": ({"delay": [0, 0]}, INGEST, None, "no tick came in during the last minute"),
    "PostgreSQL down": ({"down": "refused"}, TIMESCALE, None, "refused"),
    "ClickHouse down": ({"down": "refused"}, INGEST, None, "refused"),
}


@pytest.mark.parametrize(("facts", "name", "value", "said"), PIPELINES.values(), ids=PIPELINES)
def test_the_pipeline_is_measured_where_it_is(
    facts: dict[str, Any],
    name: str,
    value: object,
    said: str,
    answering: Callable[..., ReadinessSources],
) -> None:
    """Each from its own store; what proves nothing is no value."""
    found = by_name(answering(**facts))[name]
    assert found.value == value
    assert said in found.detail


def test_only_what_is_named_is_asked(answering: Callable[..., ReadinessSources]) -> None:
    """CDC lag needs PostgreSQL and Kafka; without either there is no reading of it."""
    whole = answering()
    for sources, names in (
        (ReadinessSources("x"), set()),
        (ReadinessSources("x", bootstrap_servers="h:9092"), set()),
        (ReadinessSources("x", postgres=whole.postgres), {TIMESCALE}),
        (ReadinessSources("x", clickhouse=whole.clickhouse), {INGEST}),
        (whole, {TIMESCALE, CDC, INGEST}),
    ):
        readings = measure(sources).readings
        assert {one.name for one in readings if one.source} == names


# --- what a template's own commands say -------------------------------------------


def told(command: str, folder: Path) -> SliReading:
    """What READINESS_FLOW_CONTROL_HITS_CMD says."""
    return by_command(HITS, command, cwd=folder, env=dict(os.environ), seconds=5)


def test_a_command_that_only_prints_declares(tmp_path: Path) -> None:
    """``=echo 0`` is a number somebody typed; one that reads something is measured."""
    (tmp_path / "hits").write_text("3\n")
    declared, read = told("echo 0", tmp_path), told("cat hits", tmp_path)
    assert (declared.value, declared.provenance) == (0.0, "declared")
    assert "only prints measures nothing" in declared.sentence
    assert (read.value, read.provenance) == (3.0, "measured")
    report = json.loads(Readiness((declared,), "x").to_bytes())
    found = list(judge_readiness(report, real=True, since=0))
    assert any("declared (SLI command); a real run wants it measured" in each for each in found)


def test_what_an_engine_cannot_have_is_said_with_its_reason(tmp_path: Path) -> None:
    """It is no value and no failure; but only where the reviewed template says so."""
    cannot, read = told("not_measurable: it has no counter", tmp_path), told("expr 1 + 2", tmp_path)
    assert (cannot.value, cannot.provenance) == (None, "not_measurable")
    assert cannot.sentence == (
        f"{HITS} NOT MEASURED: this engine cannot have it (it has no counter)"
    )
    assert not Readiness((cannot,), "x").is_healthy
    others = (read, replace(cannot, name=REJECTS))
    assert Readiness(others, "x").is_healthy
    report = json.loads(Readiness(others, "x").to_bytes())
    assert not [
        each
        for each in judge_readiness(report, real=True, since=0, excused=[REJECTS])
        if REJECTS in each or "overall" in each
    ]
    assert [
        each
        for each in judge_readiness(report, real=True, since=0)
        if f"{REJECTS}: said not to be measurable" in each
    ]


def test_a_step_of_a_run_is_handed_the_commands(tmp_path: Path) -> None:
    """What is no JSON, or names no SLI, is nobody's."""
    assert commands_of_run({}) == {}
    assert commands_of_run({COMMANDS_VARIABLE: "{"}) == {}
    given = {HITS: "cat hits", "x": "y", REJECTS: 1}
    assert commands_of_run({COMMANDS_VARIABLE: json.dumps(given)}) == {HITS: "cat hits"}


def test_a_file_of_somebody_elses_gets_what_the_template_asks(tmp_path: Path) -> None:
    """Each command is run that the writer of the file did not run; its health is counted again."""
    path = tmp_path / "readiness.json"
    path.write_bytes(
        Readiness((measured(REJECTS, 1.0, detail="", source="probe"),), "x").to_bytes()
    )
    running = {"cwd": tmp_path, "env": dict(os.environ), "seconds": 5.0}
    for word, is_healthy in (("expr 2 + 3", True), ("expr 90 + 9", False), ("exit 127", False)):
        before = path.read_bytes()
        add_commands(path, {HITS: word}, **running)  # type: ignore[arg-type]
        report = json.loads(path.read_bytes())
        assert report["overall_healthy"] is is_healthy
        assert {each["name"] for each in report["slis"]} == {HITS, REJECTS}
        add_commands(path, {HITS: "touch asked"}, **running)  # type: ignore[arg-type]
        assert not (tmp_path / "asked").exists()
        path.write_bytes(before)
    path.write_text("[")
    add_commands(path, {HITS: "echo 1"}, **running)  # type: ignore[arg-type]
    assert path.read_text() == "["
