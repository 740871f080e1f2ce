"""Facts about watch/pieces.py: windows put together from pieces of a recording that is shorter."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from msgspec import structs

from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.sample_blocks import Chunk, chunks_of
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.calibrate import (
    Recorded,
    Windows,
    Yardstick,
    judge_windows,
    metric_alarms,
    suggest_limit,
)
from ctp_runbook.watch.judge import WindowJudge
from ctp_runbook.watch.pieces import PIECED_WINDOWS, piece_length, pieces_rate
from tests.props.recorded_engine import FAMILY, engine_samples, lag_rule, latency_rule, yardstick

LATENCY = "order_latency_p99_ms"
COUNT = f'{FAMILY}_bucket{{le="+Inf"}}'
HALF_HOUR = 1800.0


def recorded(samples: Iterable[Sample]) -> Recorded:
    """The samples as a recording."""
    return Recorded(chunks_of(samples))


def pieced(recording: Recorded, *, seconds: float = HALF_HOUR, rate: float = 0.01) -> Windows:
    """Windows longer than it."""
    starts = (recording.begins,) * PIECED_WINDOWS
    return Windows(starts, seconds, 1, rate, pieces=30.0)


def window(samples: Iterable[Sample], number: int = 0, *, seconds: float = HALF_HOUR) -> Chunk:
    """One of them, of latency and lag."""
    recording, rules = recorded(samples), (latency_rule(), lag_rule())
    cut = recording.pieces(rules, seconds=30.0)
    return cut.window(number, began=recording.begins, seconds=seconds)


def counts(chunk: Chunk) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What was counted in all, reading by reading."""
    blocks = [block for block in chunk.items if COUNT in block.layout]
    return np.concatenate([block.column(block.layout.index(COUNT)) for block in blocks])


def test_a_window_is_whole_and_counts_on() -> None:
    """A reading a second, moments in order, and no count that falls; of one number always the same."""
    samples = list(engine_samples(600, seed=1, slow_per_second=1 / 60, lags_ms=True))
    chunk = window(samples)
    latency = next(block for block in chunk.items if block.source == "engine")
    assert len(latency.seq) == HALF_HOUR
    assert np.diff(latency.mono).min() > 0
    assert math.isclose(latency.mono[-1] - latency.mono[0], HALF_HOUR - 1)
    assert np.diff(counts(chunk)).min() >= 0
    grown = counts(chunk)[-1] / HALF_HOUR
    assert abs(grown - 5.0) < 0.5
    again, other = window(samples), window(samples, 1)
    assert counts(again).tolist() == counts(chunk).tolist()
    assert counts(other).tolist() != counts(chunk).tolist()
    numbers = [number for block in chunk.items for number in block.seq]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(chunk.order) == len(numbers)


def test_a_restarted_engine_and_a_reading_that_is_none_leave_no_trace_in_what_is_counted() -> None:
    """Counts that began anew, and one that is no number: what was counted is what it was."""
    samples = list(engine_samples(600, seed=1))
    before = samples[299].series
    torn = [
        structs.replace(s, series={k: v - before[k] for k, v in s.series.items()})
        if s.seq >= 300
        else s
        for s in samples
    ]
    torn[100] = structs.replace(torn[100], series=dict.fromkeys(before, math.nan))
    torn_counts, whole_counts = counts(window(torn)), counts(window(samples))
    # Piece by piece: what the reading that was none did not tell, the next one did.
    assert torn_counts[29::30].tolist() == whole_counts[29::30].tolist()


def test_a_look_that_failed_is_one_in_the_window_too() -> None:
    """Where half of all looks failed, half of a window is not measured."""
    samples = [
        structs.replace(s, ok=False, error="refused", series={}) if s.seq % 2 else s
        for s in engine_samples(600, seed=1)
    ]
    chunk = window(samples)
    failed = [item for item in chunk.items if not item.ok]
    assert len(failed) == HALF_HOUR / 2
    assert len(chunk.order) == HALF_HOUR


def test_a_family_that_came_later_counts_from_zero() -> None:
    """What is first seen at 3 has counted 3."""
    samples = [
        structs.replace(s, series={"up": 1.0}) if s.seq < 300 else s
        for s in engine_samples(600, seed=1)
    ]
    chunk = window(samples)
    assert {len(block.layout) for block in chunk.items} == {1, 7}
    assert np.diff(counts(chunk)).min() >= 0


@pytest.mark.parametrize("slow", [1 / 7200, 1 / 1800])
def test_the_interval_holds_the_known_rate(slow: float) -> None:
    """Plain: a slow order is an alarm. Ten minutes seldom hold one, and the interval knows."""
    known, by, outside = -math.expm1(-slow * HALF_HOUR), yardstick(latency_rule()), 0
    for seed in range(5):
        recording = recorded(engine_samples(600, seed=seed, slow_per_second=slow))
        windows = structs.replace(pieced(recording), starts=(recording.begins,) * 20)
        outcomes = list(windows.judged(recording, by))
        told = windows.rate_of(metric_alarms(outcomes, LATENCY), recording)
        outside += not told.low <= known <= told.high
        assert told.windows == 20
        assert told.high > 0.99
    assert outside <= 1


def test_alarms_that_are_sure_are_told_so() -> None:
    """One slow order in twelve seconds: no half hour without, and ten minutes prove it."""
    recording = recorded(engine_samples(600, seed=1, slow_per_second=1 / 12))
    windows = structs.replace(pieced(recording), starts=(recording.begins,) * 40)
    outcomes = list(windows.judged(recording, yardstick(latency_rule())))
    told = windows.rate_of(metric_alarms(outcomes, LATENCY), recording)
    assert (told.alarms, told.windows) == (40, 40)
    assert told.low > 0.9


def test_no_alarm_in_a_short_recording_proves_nothing_of_a_long_window() -> None:
    """The rule of three, for windows three times as long as the recording."""
    none = pieces_rate([False] * PIECED_WINDOWS, seconds=1800.0, recorded=600.0)
    assert (none.alarms, none.windows, none.low) == (0, PIECED_WINDOWS, 0.0)
    assert none.high > 0.999
    as_long = pieces_rate([False] * PIECED_WINDOWS, seconds=600.0, recorded=600.0)
    assert 0.97 < as_long.high < 0.98
    unknown = pieces_rate([None] * PIECED_WINDOWS, seconds=1800.0, recorded=600.0)
    assert (unknown.windows, unknown.low, unknown.high) == (0, 0.0, 1.0)


def test_a_piece_is_longer_than_what_hangs_together_in_it() -> None:
    """A burst, a ``for``, an interval."""
    none = Trigger("", ())
    assert piece_length([latency_rule()], none) == 30.0
    assert piece_length([latency_rule(test="sequential", burst_seconds=20.0)], none) == 60.0
    assert piece_length([latency_rule(for_seconds=45.0)], none) == 90.0
    assert piece_length([lag_rule(interval_seconds=60.0)], none) == 180.0
    long = yardstick(latency_rule(), trigger="order_latency_p99_ms > 5 ms for 60 s").trigger
    assert piece_length([latency_rule()], long) == 120.0


def later(by: Yardstick, *, count: int, seed: int, slow: float) -> int:
    """In how many half hours to come of the same engine there is an alarm."""
    alarms = 0
    for number in range(count):
        samples = engine_samples(int(HALF_HOUR), seed=seed + number, slow_per_second=slow)
        recording = recorded(samples)
        (outcome,) = judge_windows(recording, by, starts=[recording.begins], seconds=HALF_HOUR)
        alarms += bool(metric_alarms([outcome], LATENCY)[0])
    return alarms


@pytest.mark.parametrize("count", [3, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("test", ["plain", "sequential"])
def test_ten_minutes_suggest_a_limit_that_half_hours_keep(test: str, count: int) -> None:
    """One slow order in twelve seconds of sixty: too many for 5 ms, and the limit told is kept."""
    slow = 1 / 12
    rule = latency_rule(test=test) if test == "sequential" else latency_rule()
    recording = recorded(engine_samples(600, seed=11, slow_per_second=slow))
    by, windows = yardstick(rule), pieced(recording)
    windows = structs.replace(windows, starts=windows.starts[:10])
    alarms = metric_alarms(list(windows.judged(recording, by)), LATENCY)
    now = windows.rate_of(alarms, recording)
    found = suggest_limit(recording, rule, by, windows, now)
    assert found.limit is not None
    assert "a recording shorter than one window proves no rate of them" in found.sentence
    assert later(by.of(rule, found.limit), count=count, seed=100, slow=slow) <= 0.01 * count


def test_pieces_are_judged_as_they_would_be_live() -> None:
    """Sample by sample, the same words."""
    samples = list(engine_samples(600, seed=3, slow_per_second=1 / 60, lags_ms=True))
    by, recording = yardstick(latency_rule(), lag_rule()), recorded(samples)
    began, seconds = recording.begins, 900.0
    chunk = recording.pieces(by.watched, seconds=30.0).window(7, began=began, seconds=seconds)
    live, block = (
        WindowJudge(
            rules=by.rules,
            keys=by.keys,
            trigger=by.trigger,
            started_mono=began,
            ends_mono=began + seconds,
        )
        for _ in range(2)
    )
    block.take(chunk)
    rows = [sample for item in chunk.items for sample in item.samples(range(len(item.layout)))]
    for sample in sorted(rows, key=lambda sample: sample.seq):
        live.add(sample)
    assert live.at(began + seconds, final=True) == block.at(began + seconds, final=True)
