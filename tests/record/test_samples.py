"""Facts about record/samples.py: a sample is kept whole, and read back as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.record.samples import (
    Sample,
    cut_torn_line,
    read_samples,
    sample_of,
    series_key,
    split_series,
    without_secrets,
)
from ctp_runbook.redact import Redactor

GOOD = Sample(
    seq=3,
    wall=1.7e9,
    mono=12.25,
    source="engine",
    target="http://127.0.0.1:18081/metrics",
    ok=True,
    error="",
    took_ms=1.5,
    series={"b": 2.0, 'a{le="+Inf"}': 1.0},
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def same(one: float, other: float) -> bool:
    """Equal, NaN being equal to NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


@given(
    seq=st.integers(min_value=0, max_value=2**53),
    wall=st.floats(min_value=0, max_value=253402300799),
    mono=numbers,
    words=st.tuples(texts, texts, texts),
    ok=st.booleans(),
    series=st.dictionaries(texts, st.floats(), max_size=5),
)
def test_any_sample_comes_back(
    seq: int,
    wall: float,
    mono: float,
    words: tuple[str, str, str],
    ok: bool,
    series: dict[str, float],
) -> None:
    """One line of strict JSON and back: every value, NaN and infinities included."""
    source, target, error = words
    sample = Sample(seq, wall, mono, source, target, ok, error, 0.5, series)
    line = sample.to_line()
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
    back = sample_of(line, path=Path("samples.jsonl"), number=1)
    assert back.series.keys() == series.keys()
    assert all(same(back.series[key], value) for key, value in series.items())
    assert structs.replace(back, series={}) == structs.replace(sample, series={})


def test_a_sample_reads_the_same_however_it_was_put_together() -> None:
    """Series stand in order, so that equal samples are equal bytes."""
    other = structs.replace(GOOD, series=dict(sorted(GOOD.series.items())))
    assert other.to_line() == GOOD.to_line()


def test_samples_are_read_in_order(tmp_path: Path) -> None:
    """One a line; no file is no sample."""
    path = tmp_path / "samples.jsonl"
    assert read_samples(path) == ()
    path.write_bytes(GOOD.to_line() * 2)
    assert read_samples(path) == (GOOD, GOOD)


TORN = {
    "whole": (GOOD.to_line() * 2, 2, b""),
    "torn": (GOOD.to_line() + b'{"seq":', 1, b'{"seq":'),
    "torn at its first": (b'{"seq":', 0, b'{"seq":'),
    "empty": (b"", 0, b""),
}


@pytest.mark.parametrize(("content", "left", "torn"), TORN.values(), ids=TORN)
def test_a_torn_line_is_cut(content: bytes, left: int, torn: bytes, tmp_path: Path) -> None:
    """What a crash left behind the last whole line goes, and is handed out; no file is none."""
    path = tmp_path / "samples.jsonl"
    assert cut_torn_line(path) == b""
    path.write_bytes(content)
    assert cut_torn_line(path) == torn
    assert read_samples(path) == (GOOD,) * left


def edited(**changes: object) -> bytes:
    """The good line with some fields changed; a field set to ``...`` is left out."""
    raw = {**json.loads(GOOD.to_line()), **changes}
    kept = {key: value for key, value in raw.items() if value is not ...}
    return json.dumps(kept, separators=(",", ":")).encode()


BROKEN = {
    "blank": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "half a line": GOOD.to_line()[:40],
    "a field too few": edited(seq=...),
    "a field too many": edited(extra=1),
    "no series": edited(series=...),
    "series no table": edited(series=[1]),
    "a value no number": edited(series={"a": "fast"}),
    "a value missing": edited(series={"a": None}),
    "no time": edited(mono=float("nan")),
    "time without end": edited(wall=float("inf")),
    "time as a text": edited(mono="12"),
    "a number below none": edited(seq=-1),
    "ok a word": edited(ok="yes"),
    "the error none": edited(error=None),
    "a duration below none": edited(took_ms=-0.5),
    "missed a fraction": edited(missed=0.5),
    "another word for a value": edited(series={"a": "NaN"}),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_what_is_no_sample_is_refused_with_its_line(line: bytes, tmp_path: Path) -> None:
    """The second line of the file is named."""
    path = tmp_path / "samples.jsonl"
    path.write_bytes(GOOD.to_line() + line + b"\n" + GOOD.to_line())
    with pytest.raises(JournalError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}:2: not a sample: ")


OTHER_FORMATS = {
    "the next": (
        edited(format=2),
        "sample of format 2; this version of ctp_runbook reads format 1",
    ),
    "none": (edited(format=...), "sample without a format number"),
}


@pytest.mark.parametrize(("line", "said"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_another_format_is_refused_by_name_and_number(
    line: bytes, said: str, tmp_path: Path
) -> None:
    """Whatever else the line holds."""
    path = tmp_path / "samples.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(JournalError, match=said):
        read_samples(path)


def test_a_series_is_named_as_prometheus_does() -> None:
    """Labels in order, none at all without braces."""
    assert series_key("up", {}) == "up"
    assert series_key("m", {"le": "+Inf", "a": "1"}) == 'm{a="1",le="+Inf"}'
    assert split_series('m{a="1",le="+Inf"}') == ("m", {"a": "1", "le": "+Inf"})


label_names = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)


@given(labels=st.dictionaries(label_names, st.text(max_size=8), max_size=4))
def test_any_label_comes_back(labels: dict[str, str]) -> None:
    """Quotes, commas and braces in a value make no other label out of it."""
    assert split_series(series_key("family", labels)) == ("family", labels)


def test_a_sample_is_kept_without_secrets() -> None:
    """In its error, its target's address and the values of its labels; names and bounds stay."""
    series = {
        'engine{le="0.5",user="hunter22"}': 1.0,
        'engine{session_token="abc"}': 2.0,
        "hunter22": 3.0,
    }
    sample = structs.replace(
        GOOD, series=series, target="http://a:pw12@h/x", error="http://h: hunter22"
    )
    kept = without_secrets(sample, Redactor.of(["hunter22", "engine", "0.5x"]))
    assert kept.series == {
        'engine{le="0.5",user="***"}': 1.0,
        'engine{session_token="***"}': 2.0,
        "hunter22": 3.0,
    }
    assert (kept.target, kept.error) == ("http://***@h/x", "http://h: ***")
    assert without_secrets(kept, Redactor.of(["hunter22"])) == kept


def test_masked_series_are_told_apart() -> None:
    """Two that differ in their secret alone stay two, in the same order each time."""
    series = {'a{user="***"}': 1.0, 'a{user="hunter22"}': 2.0, 'a{user="hunter11"}': 3.0}
    redactor = Redactor.of(["hunter22", "hunter11"])
    kept = without_secrets(structs.replace(GOOD, series=series), redactor).series
    assert kept == {'a{user="***"}': 1.0, 'a{user="***3"}': 2.0, 'a{user="***2"}': 3.0}


def test_a_sample_without_secrets_is_as_it_was() -> None:
    """To the byte."""
    assert without_secrets(GOOD, Redactor.of(["hunter22"])).to_line() == GOOD.to_line()
