"""Facts about watch/calibrate.py: windows of a recording, judged as a watch would judge them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain

import pytest
from msgspec import structs

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.calibration import AlarmRate
from ctp_runbook.record.sample_blocks import chunks_of
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch import calibrate
from ctp_runbook.watch.calibrate import (
    Recorded,
    Suggestion,
    Windows,
    Yardstick,
    alarm_rate,
    judge_windows,
    metric_alarms,
    suggest_limit,
    windows_needed,
)
from ctp_runbook.watch.judge import WindowJudge
from tests.props.recorded_engine import engine_samples, lag_rule, latency_rule, yardstick

MINUTE = 60.0
LATENCY = "order_latency_p99_ms"


def recorded(samples: Iterable[Sample]) -> Recorded:
    """The samples as a recording."""
    return Recorded(chunks_of(samples))


def windows_of(recording: Recorded, *, seconds: float = MINUTE, rate: float = 0.01) -> Windows:
    """Windows that follow one another."""
    starts = recording.starts(seconds=seconds, step=seconds, slack=0.0)
    return Windows(tuple(starts), seconds, 1, rate)


def rate_of(recording: Recorded, by: Yardstick, name: str, windows: Windows) -> AlarmRate:
    """The alarms of a metric in these windows."""
    outcomes = list(judge_windows(recording, by, starts=windows.starts, seconds=windows.seconds))
    return alarm_rate(metric_alarms(outcomes, name), apart=windows.apart)


def suggested(recording: Recorded, rule: MetricRule, windows: Windows) -> Suggestion:
    """The limit suggested for one metric."""
    trigger = f"{LATENCY} > 5 ms" if rule.name == LATENCY else ""
    by = yardstick(rule, trigger=trigger)
    return suggest_limit(recording, rule, by, windows, rate_of(recording, by, rule.name, windows))


def test_a_window_is_judged_as_a_watch_that_began_there() -> None:
    """Verdicts, sentences and firing are those of the live judge, shown sample by sample."""
    samples = list(engine_samples(600, seed=1, slow_per_second=1 / 120, lags_ms=True))
    by, recording = yardstick(latency_rule(), lag_rule()), recorded(samples)
    starts = recording.starts(seconds=120.0, step=50.0, slack=0.0)
    assert len(starts) == 10
    seen = set()
    for outcome in judge_windows(recording, by, starts=starts, seconds=120.0):
        ends = outcome.began + 120.0
        live = WindowJudge(
            rules=by.rules,
            keys=by.keys,
            trigger=by.trigger,
            started_mono=outcome.began,
            ends_mono=ends,
        )
        for sample in samples:
            if outcome.began <= sample.mono <= ends:
                live.add(sample)
        assert outcome.judged == live.at(ends, final=True)
        assert outcome.firing == live.firing
        seen.add(outcome.judged.overall)
    assert seen == {Verdict.PASSED, Verdict.FAILED}


@pytest.mark.parametrize("seed", range(3))
def test_the_reported_rate_holds_the_known_one(seed: int) -> None:
    """A slow order in a window is an alarm here, and how often there is one is known."""
    slow, count = 1 / 120, 200
    samples = engine_samples(int(count * MINUTE), seed=seed, slow_per_second=slow)
    recording = recorded(samples)
    told = rate_of(recording, yardstick(latency_rule()), LATENCY, windows_of(recording))
    assert told.windows == count
    assert told.low <= -math.expm1(-slow * MINUTE) <= told.high
    assert told.high - told.low < 0.15


def test_silence_counts_neither_way() -> None:
    """A window without a value is no window without an alarm."""
    told = alarm_rate([True, None, False, None], apart=1)
    assert (told.alarms, told.windows) == (1, 2)
    none = alarm_rate([None], apart=1)
    assert (none.windows, none.low, none.high) == (0, 0.0, 1.0)
    assert none.sentence == "no window that measured it"


def test_windows_that_overlap_are_no_trials_of_their_own() -> None:
    """The interval is that of every third where a window begins each third of one."""
    told = alarm_rate([True, True, True, False, False, False], apart=3)
    assert (told.alarms, told.windows) == (1, 2)
    assert (told.sliding_alarms, told.sliding_windows) == (3, 6)
    between = alarm_rate([False, True, True, False, False, False], apart=3)
    assert between.sentence == "2 of 6 windows that overlap"


def test_how_many_windows_prove_a_rate() -> None:
    """The rule of three."""
    assert (windows_needed(0.01), windows_needed(0.5)) == (299, 5)


@pytest.mark.parametrize("seconds", [0.0, 1e-3, 59.0])
def test_a_window_that_is_not_there_whole_is_none(seconds: float) -> None:
    """Of what a recording lacks nothing can be said."""
    recording = recorded(engine_samples(int(seconds), seed=1))
    assert recording.starts(seconds=MINUTE, step=20.0, slack=0.0) == []


def test_a_recording_goes_one_way() -> None:
    """Two files one behind the other are two boots, whose seconds have nothing in common."""
    samples = list(engine_samples(5, seed=1))
    for wrong in (chain(samples, samples), reversed(samples)):
        with pytest.raises(ValueError, match="go back in time"):
            recorded(wrong)
    with pytest.raises(ValueError, match="no sample"):
        recorded([])


def test_a_limit_that_alarms_is_loosened_a_step_beyond_what_would_have_held() -> None:
    """Ten windows prove no rate of 1 %: 10 ms would have held, and 25 is the bucket above."""
    recording = recorded(engine_samples(600, seed=2, slow_per_second=1 / 60))
    found = suggested(recording, latency_rule(), windows_of(recording))
    assert (found.would_hold, found.limit) == (10.0, 25.0)
    assert found.alarms is not None
    assert (found.alarms.alarms, found.alarms.windows) == (0, 10)
    assert "10 windows prove no rate below 26 %, for 1 % it takes 299" in found.sentence
    assert "a step beyond" in found.sentence


def test_a_limit_that_is_proved_has_no_step_to_spare() -> None:
    """Ten windows without an alarm prove a rate of 30 %."""
    recording = recorded(engine_samples(600, seed=2, slow_per_second=1 / 60))
    found = suggested(recording, latency_rule(), windows_of(recording, rate=0.3))
    assert (found.would_hold, found.limit) == (10.0, 10.0)


def test_a_limit_that_held_stays_until_a_stricter_one_is_proved() -> None:
    """What ten windows have not shown may come any day."""
    recording = recorded(engine_samples(600, seed=3, lags_ms=True))
    stays = suggested(recording, lag_rule(), windows_of(recording))
    assert stays.limit == 1000.0
    assert stays.would_hold is not None
    assert stays.would_hold < 1000.0
    assert "the limit held, and stays" in stays.sentence
    proved = suggested(recording, lag_rule(), windows_of(recording, rate=0.3))
    assert proved.limit == proved.would_hold


def no_value(rule: MetricRule) -> MetricRule:
    """Of another family, which is not on the page."""
    return structs.replace(rule, query="nobody")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (no_value, "nothing was measured"),
        (lambda rule: structs.replace(rule, kind="state", query="up"), "what is allowed"),
        (lambda rule: structs.replace(rule, kind="outage", query="up"), "any limit would have"),
    ],
    ids=["no data", "state", "no outage"],
)
def test_where_nothing_can_be_suggested_it_is_said(
    change: Callable[[MetricRule], MetricRule], told: str
) -> None:
    """The limit is as it was."""
    pages = (
        structs.replace(page, series={**page.series, "up": 1.0}, mono=float(page.seq))
        for page in engine_samples(120, seed=1)
    )
    rule = structs.replace(latency_rule(), zero_events="pass")
    recording = recorded(pages)
    by = yardstick(change(rule), trigger="")
    windows = windows_of(recording)
    found = suggest_limit(
        recording, by.watched[0], by, windows, rate_of(recording, by, rule.name, windows)
    )
    assert (found.would_hold, found.limit) == (None, None)
    assert told in found.sentence


def test_a_histogram_that_ends_below_tells_no_limit() -> None:
    """Above its widest bucket nothing is known, and no limit can be told to hold."""
    recording = recorded(engine_samples(600, seed=4, slow_per_second=0.1, slow_ms=500.0))
    found = suggested(recording, latency_rule(), windows_of(recording))
    assert found.limit is None
    assert "the histogram ends before it" in found.sentence


def test_a_limit_of_at_least_is_loosened_downwards() -> None:
    """Where more is better the strictest limit is the highest."""
    pages = (
        structs.replace(page, series={"share": 0.5 if page.seq % 60 == 59 else 0.99})
        for page in engine_samples(600, seed=1)
    )
    recording = recorded(pages)
    rule = latency_rule(
        name="share",
        kind="lag",
        unit="ratio",
        query="share",
        scale=1.0,
        limit=0.95,
        direction="min",
    )
    found = suggested(recording, rule, windows_of(recording))
    assert (found.would_hold, found.limit) == (0.5, 0.4)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_suggested_limit_keeps_the_wanted_rate(count: int) -> None:
    """Used in windows to come, of an engine with the same rate of slow orders."""
    slow = 1 / 60
    ten_minutes = recorded(engine_samples(600, seed=11, slow_per_second=slow))
    rule = latency_rule()
    limit = suggested(ten_minutes, rule, windows_of(ten_minutes)).limit
    assert limit is not None
    later = recorded(engine_samples(int(count * MINUTE), seed=12, slow_per_second=slow))
    windows = windows_of(later)
    at_first = rate_of(later, yardstick(rule), LATENCY, windows)
    used = rate_of(later, yardstick(rule).of(rule, limit), LATENCY, windows)
    assert used.windows == count
    assert at_first.alarms > 0.5 * count
    assert used.alarms <= 0.01 * count


def test_many_events_prove_a_quantile() -> None:
    """By a binomial bound: a hundred orders prove no p99, some three hundred may."""
    assert calibrate._most_over(298, 0.01) is None
    assert calibrate._most_over(299, 0.01) == 0
    assert calibrate._most_over(10_000, 0.01) == 83
