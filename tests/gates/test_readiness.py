"""Readiness: measured, not typed; health follows from value and target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import InputError
from ctp_runbook.gates.readiness import (
    DECLARED_FLAGS,
    SLIS,
    declared_readings,
    judge_readiness,
    judge_readiness_file,
    write_readiness,
)
from ctp_runbook.gates.readiness_probes import ReadinessSources, measure
from ctp_runbook.record.journal import utc_text
from tests.props.small_servers import free_port, http_page, valkey

NOW = 1_770_000_000.0
RUNBOOK_FLAGS = {
    "query-latency-ms": "1200",
    "flow-control-hits": "1",
    "disconnect-recovery-success-rate": "1.0",
    "reject-classified-ratio": "1.0",
    "core-process-alive": "true",
    "redis-health": "healthy",
    "timescale-health": "healthy",
    "strategy-bridge-chain-status": "complete",
}
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
LATENCY, RECOVERY, REJECTS, HITS, ALIVE, REDIS, TIMESCALE, CHAIN = (
    DECLARED_FLAGS[flag]
    for flag in (
        "query-latency-ms",
        "disconnect-recovery-success-rate",
        "reject-classified-ratio",
        "flow-control-hits",
        "core-process-alive",
        "redis-health",
        "timescale-health",
        "strategy-bridge-chain-status",
    )
)


def _report(**edits: Any) -> dict[str, Any]:
    """A whole report, all measured and healthy, with the edits (by SLI's short name) made."""
    slis = [
        {
            "name": spec.name,
            "value": spec.target,
            "target": spec.target,
            "unit": spec.unit,
            "healthy": True,
            "provenance": "measured",
            "detail": "",
            "source": "probe",
            "sampled_utc": utc_text(NOW + 1),
        }
        for spec in SLIS.values()
        if spec.core
    ]
    report = {
        "overall_healthy": True,
        "slis": slis,
        "metadata": {"not_in_this_environment": []},
    }
    for one in slis:
        one.update(edits.get(str(one["name"]), {}))
    return report


def _findings(report: Any, *, rehearsal: bool = False) -> str:
    found = judge_readiness(report, real=True, since=NOW, until=NOW + 10, rehearsal=rehearsal)
    return "\n".join(found)


def test_a_whole_measured_report_passes() -> None:
    """Every SLI at its target, measured within the step: no finding."""
    assert _findings(_report()) == ""


BAD_SLIS: dict[str, tuple[dict[str, Any], str]] = {
    "over target": ({"value": 2400.0, "healthy": False}, "expected <= 2000 ms"),
    "healthy by claim": ({"value": 2400.0}, "healthy is True with the value 2400.0"),
    "negative": ({"value": -5.0}, "healthy is True with the value -5.0"),
    "nan": ({"value": float("nan")}, "with the value nan"),
    "text": ({"value": "fast"}, "with the value 'fast'"),
    "true": ({"value": True}, "with the value True"),
    "no value": ({"value": None, "healthy": False}, "no value, expected"),
    "another target": ({"target": 9000.0}, "CONTRACT §3 has <= 2000 ms"),
    "another unit": ({"unit": "s"}, "CONTRACT §3 has <= 2000 ms"),
    "declared": ({"provenance": "declared"}, "a real run wants it measured"),
    "guessed": ({"provenance": "guessed"}, "expected measured or declared"),
    "stale": ({"sampled_utc": utc_text(NOW - 60)}, "stale"),
    "from the future": ({"sampled_utc": utc_text(NOW + 60)}, "stale, or not"),
    "no time": ({"sampled_utc": None}, "sampled_utc None"),
    "local time": ({"sampled_utc": "2026-02-02T02:40:01"}, "stale"),
}


@pytest.mark.parametrize(("edit", "said"), BAD_SLIS.values(), ids=BAD_SLIS)
def test_an_sli_that_proves_nothing_is_refused(edit: dict[str, Any], said: str) -> None:
    """Health is recomputed; declared, stale, NaN and out-of-range values fail a real run."""
    assert said in _findings(_report(**{LATENCY: edit}))


def test_an_sli_that_is_missing_or_there_twice_is_refused() -> None:
    """All eight must be there, once, and none that nobody knows."""
    report = _report()
    first, *others = report["slis"]
    assert f"{first['name']} is missing" in _findings({**report, "slis": others})
    assert "stands in it twice" in _findings({**report, "slis": [first, first, *others]})
    odd = {**first, "name": "quant_hft_mood"}
    assert "no known SLI" in _findings({**report, "slis": [*report["slis"], odd]})
    bare = {key: value for key, value in first.items() if key != "source"}
    assert "source is missing" in _findings({**report, "slis": [bare, *others]})


def test_only_a_rehearsal_may_lack_what_the_twin_lacks() -> None:
    """The twin has no TimescaleDB; production does, and nothing else may be left out."""
    report = _report()
    for name, excused in ((TIMESCALE, True), (REDIS, False)):
        slis = [one for one in report["slis"] if one["name"] != name]
        metadata = {"not_in_this_environment": [name]}
        lacking = {**report, "slis": slis, "metadata": metadata}
        assert (_findings(lacking, rehearsal=True) == "") is excused
        assert f"{name} is missing" in _findings(lacking)


def test_the_overall_claim_is_recomputed() -> None:
    """overall_healthy is what the SLIs make it."""
    assert "the SLIs make it True" in _findings({**_report(), "overall_healthy": False})
    empty = {**_report(), "slis": []}
    assert "the SLIs make it False" in _findings(empty)


@pytest.mark.parametrize("payload", [None, [], {}, {"slis": 3}, {"slis": [None], "metadata": {}}])
def test_what_is_no_report_is_refused(payload: Any) -> None:
    """Any JSON at all gives findings, never a crash."""
    assert _findings(payload)


@pytest.mark.parametrize("data", [b"", b"{", b'{"slis": NaN}', b"\xff"])
def test_a_file_that_is_no_json_is_refused(data: bytes, tmp_path: Path) -> None:
    """Torn, empty and NaN files are findings with the file's name."""
    path = tmp_path / "ctp_readiness_precheck.json"
    path.write_bytes(data)
    (finding,) = judge_readiness_file(path, real=True, since=NOW)
    assert finding.startswith("ctp_readiness_precheck.json: ")
    path.unlink()
    assert "cannot be read" in judge_readiness_file(path, real=True, since=NOW)[0]


# --- declared ---------------------------------------------------------------------


def test_the_flags_of_the_runbook_make_a_healthy_declared_report(tmp_path: Path) -> None:
    """RUNBOOK §4.2 works as written; a real run refuses all eight values, a dry one none."""
    began = time.time()
    found = measure(ReadinessSources("single-host-ubuntu", declared=RUNBOOK_FLAGS))
    assert found.is_healthy
    assert {one.provenance for one in found.readings} == {"declared"}
    path = tmp_path / "readiness.json"
    write_readiness(path, found)
    assert judge_readiness_file(path, real=False, since=began) == []
    refused = judge_readiness_file(path, real=True, since=began)
    assert len(refused) == 8
    assert all("declared" in one for one in refused)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("query-latency-ms", "-5"),
        ("query-latency-ms", "nan"),
        ("query-latency-ms", "inf"),
        ("query-latency-ms", "fast"),
        ("reject-classified-ratio", "42"),
        ("disconnect-recovery-success-rate", "-0.1"),
        ("core-process-alive", "yes"),
        ("redis-health", "fine"),
        ("strategy-bridge-chain-status", ""),
    ],
)
def test_a_value_that_cannot_be_is_refused(flag: str, text: str) -> None:
    """Latency -5 and ratio 42 are refused with exit code 2, naming flag, value and range."""
    with pytest.raises(InputError) as refused:
        declared_readings({**RUNBOOK_FLAGS, flag: text})
    assert refused.value.exit_code == 2
    (problem,) = refused.value.problems
    assert problem.key == f"--{flag}"
    assert problem.found == repr(text)


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
    assert time.monotonic() - began < 5
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
    assert one.provenance == "measured"


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


def test_a_report_is_finite_json(tmp_path: Path) -> None:
    """The file parses without NaN and holds the keys of CONTRACT §3 for each SLI."""
    path = tmp_path / "readiness.json"
    write_readiness(path, measure(ReadinessSources("x", declared=RUNBOOK_FLAGS)))
    report = json.loads(path.read_bytes(), parse_constant=_never)
    keys = "name value target unit healthy provenance detail source sampled_utc"
    assert {" ".join(one) for one in map(_ordered(keys), report["slis"])} == {keys}


def _ordered(keys: str) -> Callable[[dict[str, Any]], list[str]]:
    return lambda one: [key for key in keys.split() if key in one]


def _never(text: str) -> float:
    raise AssertionError(text)
