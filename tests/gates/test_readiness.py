"""Facts about gates/readiness.py: health follows from value and target, never from a claim."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import InputError
from ctp_runbook.gates.readiness import (
    DECLARED_FLAGS,
    SLIS,
    SliReading,
    declared_readings,
    judge_readiness,
    judge_readiness_file,
    write_readiness,
)
from ctp_runbook.gates.readiness_probes import ReadinessSources, measure
from ctp_runbook.record.journal import utc_text

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
LATENCY, _, _, _, ALIVE, REDIS, TIMESCALE, CHAIN = DECLARED_FLAGS.values()


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
    "infinite": ({"value": float("inf")}, "with the value inf"),
    "beyond a float": ({"value": 10**400, "healthy": False}, "expected <= 2000 ms"),
    "text": ({"value": "fast"}, "with the value 'fast'"),
    "true": ({"value": True}, "with the value True"),
    "no value": ({"value": None, "healthy": False}, "no value, expected"),
    "another target": ({"target": 9000.0}, "CONTRACT §3 has <= 2000 ms"),
    "another unit": ({"unit": "s"}, "CONTRACT §3 has <= 2000 ms"),
    "declared": ({"provenance": "declared"}, "a real run wants it measured"),
    "guessed": ({"provenance": "guessed"}, "expected measured or declared"),
    "stale": ({"sampled_utc": utc_text(NOW - 60)}, "stale"),
    "from the future": ({"sampled_utc": utc_text(NOW + 60)}, "stale, or not"),
    "no time": ({"sampled_utc": None}, "got `null` - at `$.sampled_utc`"),
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
    assert "missing required field `source`" in _findings({**report, "slis": [bare, *others]})


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


NO_REPORTS: list[Any] = [
    *(None, [], {}, {"slis": 3}, {"slis": [], "metadata": 3}),
    *({"slis": [sli], "metadata": {}} for sli in (None, 3, ALIVE, [ALIVE], {"name": [ALIVE]}, {})),
]


@pytest.mark.parametrize("payload", NO_REPORTS)
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


VALUES: dict[str, tuple[str, str, object]] = {
    "a number": (LATENCY, "1200", 1200.0),
    "zero": (LATENCY, "0", 0.0),
    "an exponent": (LATENCY, "1e3", 1000.0),
    "below all": (LATENCY, "-1", None),
    "no number": (LATENCY, "fast", None),
    "not a number": (LATENCY, "nan", None),
    "beyond all": (LATENCY, "inf", None),
    "true": (ALIVE, "true", True),
    "false": (ALIVE, "false", False),
    "true otherwise": (ALIVE, "True", None),
    "one": (ALIVE, "1", None),
    "a word": (REDIS, "unhealthy", "unhealthy"),
    "a word of another": (REDIS, "complete", None),
    "true for a word": (REDIS, "true", None),
    "its own word": (CHAIN, "incomplete", "incomplete"),
    "nothing": (CHAIN, "", None),
}


@pytest.mark.parametrize(("name", "text", "value"), VALUES.values(), ids=VALUES)
def test_a_text_is_a_value_or_none(name: str, text: str, value: object) -> None:
    """Typed or printed: of the SLI's own kind and range, or it is no value."""
    got = SLIS[name].read(text)
    assert (got, type(got)) == (value, type(value))


def test_each_sli_is_healthy_at_its_target_only_on_its_side() -> None:
    """Up to it, from it on, or exactly it; true is not 1, and no value is never healthy."""
    for spec in SLIS.values():
        assert spec.is_healthy(spec.target)
        assert not any(map(spec.is_healthy, (None, "", [], math.nan, math.inf, -1.0)))
        if isinstance(spec.target, float):
            step = 0.001 if spec.op == "<=" else -0.001
            assert not spec.is_healthy(spec.target + step)
            assert not spec.is_healthy(True)
    assert not SLIS[ALIVE].is_healthy(1)


SENTENCES = {
    f"{LATENCY} FAILED: 2400 ms, expected <= 2000 ms (measured: p99)": SliReading(
        LATENCY, 2400.0, "measured", "p99", "", ""
    ),
    f"{ALIVE} ok: true, expected == true (declared)": SliReading(
        ALIVE, True, "declared", "", "", ""
    ),
    f"{REDIS} FAILED: no value, expected == healthy (measured: refused)": SliReading(
        REDIS, None, "measured", "refused", "", ""
    ),
}


@pytest.mark.parametrize(("sentence", "reading"), SENTENCES.items())
def test_a_reading_says_value_target_and_where_from(sentence: str, reading: SliReading) -> None:
    """As the terminal shows it."""
    assert reading.sentence == sentence


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
