"""A samples file judged in blocks: the same points, verdicts and firing as one sample at a time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import ctp_runbook.record.sample_blocks as blocks_module
from ctp_runbook.errors import JournalError
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.sample_blocks import read_chunks
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing
from tests.props.whole_window import judge_recorded, judge_window

STARTED, SECONDS = 1000.0, 60
PAGE, OTHER_PAGE = "http://127.0.0.1:1/metrics", "http://127.0.0.1:2/metrics"
BOUNDS = ("0.001", "0.005", "0.02", "+Inf")
COMMON: dict[str, Any] = {
    "label": "M",
    "unit": "ms",
    "source": "engine",
    "direction": "max",
    "for_seconds": 2.0,
    "warm_up_seconds": 5.0,
    "window_seconds": 12.0,
    "fresh_seconds": 3.0,
    "min_events": 3,
}
RULES = {
    rule.name: rule
    for rule in (
        MetricRule(name="latency", kind="latency_quantile", query="lat", limit=5, **COMMON),
        MetricRule(
            name="scoped",
            kind="latency_quantile",
            query="lat",
            limit=4,
            **{**COMMON, "labels": {"scope": "b"}, "scale": 1000.0, "quantile": 0.5},
        ),
        # The widest finite bucket ends at 20: below this limit, and at that one.
        MetricRule(
            name="unknown",
            kind="latency_quantile",
            query="lat",
            limit=30,
            **{**COMMON, "labels": {"scope": "a"}, "scale": 1000.0, "min_events": 1},
        ),
        MetricRule(
            name="at_least",
            kind="latency_quantile",
            query="lat",
            limit=20,
            **{**COMMON, "direction": "min", "scale": 1000.0, "quantile": 0.7},
        ),
        MetricRule(
            name="proved",
            kind="latency_quantile",
            query="lat",
            limit=5,
            test="sequential",
            burst_seconds=2.0,
            false_alarm_rate=0.1,
            cap=30,
            **{**COMMON, "labels": {"scope": "a"}, "scale": 1000.0, "quantile": 0.9},
        ),
        MetricRule(
            name="together",
            kind="latency_quantile",
            query="lat",
            limit=5,
            test="sequential",
            burst_seconds=0.0,
            false_alarm_rate=0.2,
            **{**COMMON, "scale": 1000.0, "quantile": 0.9},
        ),
        MetricRule(name="errors", kind="counter", query="err", limit=6, **COMMON),
        MetricRule(name="state", kind="state", query="st", limit=1.5, **COMMON),
        MetricRule(
            name="spare", kind="state", query="st", limit=-3, **{**COMMON, "direction": "min"}
        ),
        MetricRule(
            name="away", kind="state", query="st", limit=1.5, **{**COMMON, "url": OTHER_PAGE}
        ),
        MetricRule(name="absent", kind="state", query="nowhere", limit=1, **COMMON),
    )
}
TRIGGERS = (
    "latency > 0.01 for 3 s or errors > 8",
    "state > 1 and errors > 4 for 2 s or away > 1.9",
    "spare < -1.5 for 4 s and latency >= 0",
    "state > 1e9",
    "unknown >= 20 for 2 s or at_least != 20 for 9 s",
    "proved > 1 for 2 s and together > 5 or together >= 20 for 3 s",
)
# How often each kind of trouble strikes a page: none, now and then, all the time.
TROUBLES = ("error", "reset", "nan", "layout", "gap", "back", "slow", "falls", "bounds")


def story(seed: int, trouble: float) -> list[Sample]:
    """Pages of two endpoints in turn, with trouble of every kind at this rate."""
    dice = random.Random(seed)
    kinds = {kind: trouble * dice.choice((0, 0, 1, 3)) for kind in TROUBLES}
    taken: list[Sample] = []
    pages = {url: _engine(dice) for url in (PAGE, OTHER_PAGE)}
    for second in range(SECONDS):
        for url, page in pages.items():
            strikes = {kind for kind, rate in kinds.items() if dice.random() < rate}
            if "gap" in strikes:
                continue
            mono = STARTED + second + dice.uniform(-0.3, 0.3) - 2 * ("back" in strikes)
            ok = "error" not in strikes
            series = page(strikes) if ok else {}
            taken.append(
                Sample(
                    seq=len(taken),
                    wall=1.7e9 + mono,
                    mono=mono,
                    source="engine",
                    target=url,
                    ok=ok,
                    error="" if ok else "refused",
                    took_ms=1.5,
                    series=series,
                )
            )
    return taken


def _engine(dice: random.Random) -> Callable[[set[str]], dict[str, float]]:
    counts = {(scope, bound): 0.0 for scope in "ab" for bound in BOUNDS}
    errors = {"x": 0.0, "y": 0.0}
    busy = dice.choice((0.2, 3.0))

    def page(strikes: set[str]) -> dict[str, float]:
        nonlocal busy
        if "reset" in strikes:
            counts.update(dict.fromkeys(counts, 0.0))
            errors.update(dict.fromkeys(errors, 0.0))
        for scope in "ab":
            for _ in range(int(dice.expovariate(1 / busy))):
                took = dice.lognormvariate(0, 1) * (0.02 if "slow" in strikes else 0.002)
                for bound in BOUNDS:
                    counts[scope, bound] += took <= float(bound)
        errors[dice.choice("xy")] += dice.choice((0, 0, 0.1, 0.7, 2))
        series = {f'lat_bucket{{le="{b}",scope="{s}"}}': n for (s, b), n in counts.items()}
        series |= {f'err{{of="{k}"}}': n for k, n in errors.items()}
        series |= {f'st{{of="{k}"}}': dice.gauss(0, 1) for k in "pqr"}
        if "nan" in strikes:
            series[dice.choice(list(series))] = dice.choice((math.nan, math.inf))
        if "layout" in strikes:
            series.pop(dice.choice(list(series)))
        if "falls" in strikes:
            series[dice.choice([key for key in series if key.startswith("lat")])] += 5
        if "bounds" in strikes:  # other ones in a series, none of a bucket, one too many
            old, new = dice.choice([("0.001", "0.5"), ("0.001", "NaN"), ("+Inf", "0.5"), ("", "x")])
            renamed = dice.choice(("a", "b", '"'))
            series = {
                key.replace(f'le="{old}', f'le="{new}') if renamed in key else key: n
                for key, n in series.items()
            }
        return series

    return page


def written(samples: list[Sample], room: Path) -> Path:
    """The samples as a file."""
    path = room / "samples.jsonl"
    path.write_bytes(b"".join(sample.to_line() for sample in samples))
    return path


def fixed(text: str) -> dict[str, Any]:
    """What both judges are given."""
    units = {name: rule.unit for name, rule in RULES.items()}
    return {
        "rules": WatchRules(RULES, 1.0, 1.0, 1.0),
        "keys": tuple(RULES),
        "trigger": parse_trigger(text, units=units, file="t", line=1),
        "started_mono": STARTED,
        "ends_mono": STARTED + SECONDS - 1,
    }


def every_way(
    samples: list[Sample], text: str, accepted: tuple[float, ...], lines: int
) -> Iterator[tuple[WindowJudgement, Firing | None]]:
    """The judgement a sample at a time, so many lines at a time, and all of them at once."""
    with TemporaryDirectory() as room:
        path = written(samples, Path(room))
        yield judge_window(read_samples(path), accepted_mono=accepted, **fixed(text))
        for many in (lines, len(samples) + 1):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(blocks_module, "_CHUNK_LINES", many)
                yield judge_recorded(path, accepted_mono=accepted, **fixed(text))


@given(
    seed=st.integers(0, 10_000),
    trouble=st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]),
    text=st.sampled_from(TRIGGERS),
    accepted=st.lists(st.floats(STARTED, STARTED + SECONDS), max_size=2),
    lines=st.integers(1, 120),
)
def test_however_samples_are_cut_the_same_is_said(
    seed: int, trouble: float, text: str, accepted: list[float], lines: int
) -> None:
    """Every point, value, sentence and the firing, to the last bit, whatever the pages came to."""
    one_by_one, *others = every_way(story(seed, trouble), text, tuple(accepted), lines)
    for in_blocks in others:
        assert in_blocks[1] == one_by_one[1]
        for name, one in one_by_one[0].metrics.items():
            found = in_blocks[0].metrics[name]
            assert tuple(found.points) == tuple(one.points), name
            assert found == one
        assert in_blocks == one_by_one


LINES: dict[str, bytes | dict[str, Any] | None] = {
    "no JSON": b"nothing\n",
    "no object": b"[1]\n",
    "torn": None,
    "a key too many": {"more": 1},
    "no time": {"mono": "soon"},
    "an endless time": {"wall": float("inf")},
    "a series that is no number": {"series": {"a": "high"}},
    "a series of nothing": {"series": {"a": None}},
    "a series that is a list": {"series": {"a": [1]}},
    "a number beyond all floats": {"series": {"a": 10**400}},
    "no series": {"series": None},
    "an empty line": b"\n",
}


@pytest.mark.parametrize("bad", LINES.values(), ids=LINES)
def test_both_readers_refuse_the_same_line(
    bad: bytes | dict[str, Any] | None, tmp_path: Path
) -> None:
    """With the same words, which name the line."""
    good = story(1, 0.0)[:5]
    line = bad if isinstance(bad, bytes) else good[0].to_line()[:-9]
    if isinstance(bad, dict):
        line = (json.dumps({**json.loads(good[0].to_line()), **bad}) + "\n").encode()
    path = written(good, tmp_path)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(JournalError) as slow:
        read_samples(path)
    with pytest.raises(JournalError) as quick:
        list(read_chunks(path))
    assert str(quick.value) == str(slow.value)
    assert f"{path.name}:6: not a sample" in str(quick.value)


def test_a_block_gives_its_samples_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample of a regular file is in one block of its target, as it was."""
    samples = [replace(one, took_ms=0.0) for one in story(5, 0.0)]
    monkeypatch.setattr(blocks_module, "_CHUNK_LINES", 50)
    chunks = list(read_chunks(written(samples, tmp_path)))
    assert len(chunks) > 1
    read: list[Sample] = []
    for chunk in chunks:
        own = [block.samples(range(len(block.layout))) for block in chunk.items]
        read += [next(own[item]) for item in chunk.order]
    assert read == samples


def test_a_look_costs_no_walk_over_the_window() -> None:
    """What a verdict needs is kept up to date: a look makes no point of the window anew."""
    given = fixed(TRIGGERS[3])
    judge = WindowJudge(**given)
    for sample in story(2, 0.0):
        judge.add(sample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctp_runbook.watch.points.Points._at", None)
        assert judge.at(STARTED + SECONDS).metrics["state"].coverage > 0.9
