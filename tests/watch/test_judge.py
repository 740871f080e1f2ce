"""Facts about watch/judge.py: a pass is proved, and the trigger fires on the sample that makes it true.

A story is one word a second: what the engine did, or what the scrape came back with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import (
    MetricJudgement,
    WindowJudge,
    WindowJudgement,
)
from ctp_runbook.watch.verdicts import Firing
from tests.props.whole_window import judge_window

STARTED = 1000.0
SECONDS = 30
ENDS = STARTED + SECONDS
PASSED, INCONCLUSIVE, ERROR, FAILED = Verdict
KINDS = ("latency_quantile", "counter", "state", "lag")
EVENTS, GAUGES = KINDS[:2], KINDS[2:]
# Words that measure nothing: not in the page, no number, no answer, no sample.
BLIND_WORDS = ("absent", "nan", "inf", "error", "-")


def rule(kind: str, **changes: object) -> MetricRule:
    """The metric ``m``: limit 5 for 3 s, fresh for 3 s, 90 % coverage, 3 events at least."""
    given: dict[str, object] = {
        "name": "m",
        "label": "M",
        "unit": "ms",
        "kind": kind,
        "source": "engine",
        "query": "family",
        "limit": 5.0,
        "direction": "max",
        "quantile": 0.5,
        "scale": 1000.0 if kind == "latency_quantile" else 1.0,
        "for_seconds": 3.0,
        "interval_seconds": 1.0,
        "window_seconds": 10.0,
        "min_events": 3,
        "fresh_seconds": 3.0,
        "min_coverage": 0.9,
        **changes,
    }
    return MetricRule(**given)  # type: ignore[arg-type]


def rules(*given: MetricRule) -> WatchRules:
    """These metrics, and tolerances nobody here asks about."""
    return WatchRules({one.name: one for one in given}, 1.0, 1.0, 1.0)


def trigger(text: str, *names: str) -> Trigger:
    """The trigger over these metrics, all in ms."""
    return parse_trigger(text, units=dict.fromkeys(names, "ms"), file="t", line=1)


NEVER = trigger("m > 1e9", "m")


@dataclass
class Engine:
    """What an engine counted so far; ``page`` is its metrics page after another second."""

    kind: str
    fast: float = 0.0
    slow: float = 0.0
    above: float = 0.0
    count: float = 0.0
    second: int = -1

    def page(self, word: str) -> dict[str, float]:
        """good 2.5 ms, 1 event in 4 s or the value 1; bad beyond 5; limit exactly 5; above more
        than the widest bucket, which ends at 10."""
        self.second += 1
        if word == "reset":
            self.fast = self.slow = self.above = self.count = 0.0
        elif word in ("good", "bad", "limit"):
            self.fast += {"good": 2, "bad": 0, "limit": 1}[word]
            self.slow += {"good": 0, "bad": 2, "limit": 1}[word]
            every = {"good": 4, "bad": 1, "limit": 2}[word]
            self.count += self.second % every == 0
        self.above += 2 * (word == "above")
        if word in BLIND_WORDS:
            return {
                "nan": self._shown(math.nan, math.nan, math.nan),
                "inf": self._shown(math.inf, math.inf, math.inf),
            }.get(word, {})
        value = {"bad": 9.0, "limit": 5.0}.get(word, 1.0)
        return self._shown(self.fast, self.fast + self.slow, value)

    def _shown(self, fast: float, both: float, value: float) -> dict[str, float]:
        if self.kind == "latency_quantile":
            return {
                'family_bucket{le="0.005"}': fast,
                'family_bucket{le="0.01"}': both,
                'family_bucket{le="+Inf"}': both + self.above,
            }
        if self.kind == "counter" and math.isfinite(value):
            return {"family": self.count}
        return {"family": value}


def samples(kind: str, story: Iterable[str], *, started: float = STARTED) -> Iterator[Sample]:
    """A sample for each word but ``-``, a second apart."""
    engine = Engine(kind)
    for at, word in enumerate(story):
        page = engine.page(word)
        if word != "-":
            error = "connection refused" if word == "error" else ""
            yield sample(at, page, error=error, started=started)


def sample(
    at: float, series: Mapping[str, float], *, error: str = "", started: float = STARTED
) -> Sample:
    """A sample of the engine ``at`` seconds after the start."""
    return Sample(
        int(at), 1.7e9 + at, started + at, "engine", "url", not error, error, 1.0, dict(series)
    )


def judged(given: MetricRule, story: Iterable[str]) -> MetricJudgement:
    """The final judgement of the metric after the story."""
    window, _ = judge_window(
        samples(given.kind, story),
        rules=rules(given),
        keys=("m",),
        trigger=NEVER,
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    assert window.overall is window.metrics["m"].verdict
    return window.metrics["m"]


# --- how a window can end ---------------------------------------------------------


def spread(*parts: tuple[int, str]) -> list[str]:
    """``(seconds, word)`` as a story of 31 words, the last part going on to the end."""
    story = [word for seconds, word in parts for _ in range(seconds)]
    return (story + [parts[-1][1]] * (SECONDS + 1))[: SECONDS + 1]


COVERED = "of the due samples came; min_coverage is 90%"
STALE = "no fresh measurement for"
# Kinds, story, what of the rule is different, verdict, words of the sentence.
Ending = tuple[Sequence[str], list[str], dict[str, object], Verdict, str]
GOOD_ENDINGS: dict[str, Ending] = {
    "good": (KINDS, spread((31, "good")), {}, PASSED, "worst "),
    "flat at the limit": (KINDS, spread((31, "limit")), {}, PASSED, "worst 5 ms at"),
    "beyond, but shorter than for_seconds": (
        GAUGES,
        spread((9, "good"), (3, "bad"), (31, "good")),
        {},
        PASSED,
        "worst 9 ms at",
    ),
    "beyond in the warm-up alone": (
        GAUGES,
        spread((10, "bad"), (31, "good")),
        {"warm_up_seconds": 10.0},
        PASSED,
        "worst 1 ms",
    ),
    "two samples lost": (
        KINDS,
        spread((9, "good"), (2, "error"), (31, "good")),
        {},
        PASSED,
        "worst",
    ),
    "reset once": (EVENTS, spread((15, "good"), (1, "reset"), (31, "good")), {}, PASSED, "worst"),
    "just fresh enough": (KINDS, spread((28, "good"), (31, "-")), {}, PASSED, "worst"),
    "no event, and that is good": (
        EVENTS,
        spread((31, "idle")),
        {"zero_events": "pass"},
        PASSED,
        "fresh scrapes prove no event at all",
    ),
}
GOOD_ENDINGS["above all buckets, but shorter than for_seconds"] = (
    ("latency_quantile",),
    spread((9, "good"), (6, "above"), (31, "good")),
    {"for_seconds": 20.0},
    PASSED,
    "worst more than 10 ms at 22:13:34Z, margin at most -5 ms; watch.m.limit 5 ms, which it was "
    "beyond for less than for_seconds 20",
)
GOOD_ENDINGS["above all buckets, and that is what is wanted"] = (
    ("latency_quantile",),
    spread((31, "above")),
    {"direction": "min"},
    PASSED,
    "worst more than 10 ms at 22:13:22Z, margin more than 5 ms; watch.m.limit 5 ms",
)
BAD_ENDINGS: dict[str, Ending] = {
    "above all buckets": (
        ("latency_quantile",),
        spread((31, "above")),
        {},
        FAILED,
        "more than 10 ms > watch.m.limit 5 ms at 22:13:25Z: its histogram's widest bucket ends at "
        "10 ms",
    ),
    "above all buckets, which end at the limit": (
        ("latency_quantile",),
        spread((31, "above")),
        {"limit": 10.0},
        FAILED,
        "more than 10 ms > watch.m.limit 10 ms",
    ),
    "above all buckets, which end below the limit": (
        ("latency_quantile",),
        spread((31, "above")),
        {"limit": 11.0},
        INCONCLUSIVE,
        "more than 10 ms at 22:13:22Z: its histogram's widest bucket ends at 10 ms, below "
        "watch.m.limit 11 ms; the engine's histogram needs a bucket at or above the limit",
    ),
    "once above all buckets, which end below the limit": (
        ("latency_quantile",),
        spread((9, "good"), (6, "above"), (31, "good")),
        {"limit": 11.0},
        INCONCLUSIVE,
        "more than 10 ms at 22:13:34Z: its histogram's widest bucket ends at 10 ms, below",
    ),
    "above all buckets, which end below a minimum": (
        ("latency_quantile",),
        spread((31, "above")),
        {"limit": 11.0, "direction": "min"},
        INCONCLUSIVE,
        "more than 10 ms at",
    ),
    "beyond": (KINDS, spread((31, "bad")), {}, FAILED, "ms > watch.m.limit 5 ms at"),
    "beyond for exactly for_seconds": (
        GAUGES,
        spread((9, "good"), (4, "bad"), (31, "good")),
        {},
        FAILED,
        "9 ms > watch.m.limit 5 ms at",
    ),
    "too little": (
        GAUGES,
        spread((31, "good")),
        {"direction": "min"},
        FAILED,
        "1 ms < watch.m.limit 5 ms at",
    ),
    "beyond, then good for long": (
        KINDS,
        spread((15, "bad"), (31, "good")),
        {},
        FAILED,
        "ms > watch.m.limit",
    ),
    "beyond, then blind": (
        KINDS,
        spread((20, "bad"), (31, "error")),
        {},
        FAILED,
        "ms > watch.m.limit",
    ),
    "beyond after a warm-up": (
        GAUGES,
        spread((31, "bad")),
        {"warm_up_seconds": 20.0},
        FAILED,
        "9 ms > watch.m.limit",
    ),
}
UNPROVED_ENDINGS: dict[str, Ending] = {
    "missing from the start": (
        KINDS,
        spread((31, "absent")),
        {},
        INCONCLUSIVE,
        f"{STALE} 30 s (fresh_seconds 3): family",
    ),
    "no sample at all": (KINDS, spread((31, "-")), {}, INCONCLUSIVE, f"{STALE} 30 s"),
    "stops midway": (KINDS, spread((16, "good"), (31, "-")), {}, INCONCLUSIVE, "no sample came"),
    "goes missing midway": (
        KINDS,
        spread((16, "good"), (31, "absent")),
        {},
        INCONCLUSIVE,
        "is not in the sample",
    ),
    "NaN from the start": (KINDS, spread((31, "nan")), {}, INCONCLUSIVE, "is not finite"),
    "NaN midway": (KINDS, spread((16, "good"), (31, "nan")), {}, INCONCLUSIVE, "is not finite"),
    "infinite": (KINDS, spread((31, "inf")), {}, INCONCLUSIVE, "is not finite"),
    "error from the start": (KINDS, spread((31, "error")), {}, ERROR, "connection refused"),
    "error midway": (KINDS, spread((16, "good"), (31, "error")), {}, ERROR, "connection refused"),
    "stale at the end": (KINDS, spread((27, "good"), (31, "-")), {}, INCONCLUSIVE, f"{STALE} 4 s"),
    "every other sample": (
        KINDS,
        ["good", "-"] * 15 + ["good"],
        {},
        INCONCLUSIVE,
        f"53% {COVERED}",
    ),
    "one sample, at the end": (
        KINDS,
        spread((30, "-"), (1, "good")),
        {},
        INCONCLUSIVE,
        f"3% {COVERED}",
    ),
    "reset over and over": (
        ("latency_quantile",),
        ["good", "good", "reset"] * 11,
        {},
        INCONCLUSIVE,
        COVERED,
    ),
    "few events": (
        EVENTS,
        spread((8, "idle"), (1, "good"), (31, "idle")),
        {},
        INCONCLUSIVE,
        "events in the window; min_events is 3: too few to judge",
    ),
    "no event": (EVENTS, spread((31, "idle")), {}, INCONCLUSIVE, "0 events in the window"),
    "no event is good, but nobody looked": (
        EVENTS,
        spread((16, "idle"), (31, "-")),
        {"zero_events": "pass"},
        INCONCLUSIVE,
        STALE,
    ),
    "no event is good, but the counter is not there": (
        EVENTS,
        spread((31, "absent")),
        {"zero_events": "pass"},
        INCONCLUSIVE,
        STALE,
    ),
    "all of it warm-up": (
        KINDS,
        spread((31, "good")),
        {"warm_up_seconds": 60.0},
        INCONCLUSIVE,
        f"0% {COVERED}",
    ),
    "enough events, never enough at once": (
        ("latency_quantile",),
        [("good" if at % 11 == 0 else "idle") for at in range(31)],
        {},
        INCONCLUSIVE,
        "no value was measured in the window",
    ),
}
ENDINGS = {**GOOD_ENDINGS, **BAD_ENDINGS, **UNPROVED_ENDINGS}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, ending in ENDINGS.items() for kind in ending[0]]
)
def test_each_ending_of_each_kind(name: str, kind: str) -> None:
    """The verdict, and the words an operator needs to see why."""
    _, story, changes, verdict, words = ENDINGS[name]
    found = judged(rule(kind, **changes), story)
    assert found.verdict is verdict, found.sentence
    assert found.sentence.startswith(f"m {verdict.name}: ")
    assert words in found.sentence


def test_what_was_not_proved_is_never_passed() -> None:
    """No row of the table that measured too little says PASSED, and none of them says FAILED."""
    assert {row[3] for row in UNPROVED_ENDINGS.values()} == {INCONCLUSIVE, ERROR}


@given(
    story=st.lists(st.sampled_from(BLIND_WORDS), max_size=SECONDS + 1),
    kind=st.sampled_from(KINDS),
    zero=st.sampled_from(["pass", "inconclusive"]),
    coverage=st.sampled_from([0.0, 0.5, 1.0]),
    direction=st.sampled_from(["max", "min"]),
)
def test_nothing_measured_is_never_passed(
    story: list[str], kind: str, zero: str, coverage: float, direction: str
) -> None:
    """Whatever the rule allows, and in whatever way nothing came."""
    given = rule(kind, zero_events=zero, min_coverage=coverage, direction=direction)
    assert judged(given, story).verdict in (INCONCLUSIVE, ERROR)


@given(
    story=st.lists(st.sampled_from(["good", "bad", "limit", "idle", "error"]), min_size=SECONDS),
    kind=st.sampled_from(KINDS),
    lasted=st.floats(0, SECONDS - 0.01),
)
def test_a_watch_stopped_early_is_never_passed(story: list[str], kind: str, lasted: float) -> None:
    """However good it was until then; and what had failed by then stays failed."""
    seen = story[: int(lasted) + 1]
    window, _ = judge_window(
        samples(kind, seen),
        rules=rules(rule(kind, zero_events="pass")),
        keys=("m",),
        trigger=NEVER,
        started_mono=STARTED,
        ends_mono=ENDS,
        judged_mono=STARTED + lasted,
    )
    assert window.overall is not PASSED
    if all(word == "good" for word in seen) and lasted > 2:
        assert f"the watch was stopped after {lasted:.0f} s of 30 s" in window.sentence


def test_a_trigger_that_fired_is_a_failure() -> None:
    """Also where the limit of the metric itself was kept."""
    window, firing = judge_window(
        samples("state", ["limit"] * 31),
        rules=rules(rule("state")),
        keys=("m",),
        trigger=trigger("m > 4", "m"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    assert firing is not None
    assert window.overall is FAILED
    assert window.sentence == f"m FAILED: {firing.sentence}; query family (engine)"


# --- the numbers of a judgement ---------------------------------------------------


def test_a_judgement_has_its_numbers() -> None:
    """Last value, worst value with its time, margin to the limit, share of samples that came."""
    found = judged(
        rule("state"), spread((9, "good"), (1, "limit"), (6, "good"), (3, "error"), (31, "good"))
    )
    assert (found.value, found.worst, found.limit, found.margin) == (1.0, 5.0, 5.0, 0.0)
    assert found.worst_wall == 1.7e9 + 9
    assert found.coverage == pytest.approx(28 / 30)
    assert len(found.points) == 31


def test_the_worst_of_a_minimum_is_the_lowest() -> None:
    """Margin and worst value turn round with the direction of the limit."""
    found = judged(
        rule("state", direction="min", limit=0.5), spread((9, "bad"), (1, "good"), (31, "bad"))
    )
    assert (found.worst, found.margin, found.verdict) == (1.0, 0.5, PASSED)


def test_what_is_more_than_its_number_says_so() -> None:
    """Last and worst value are marked, and no margin is made of a bound."""
    found = judged(rule("latency_quantile", limit=20.0), spread((9, "good"), (31, "above")))
    assert (found.value, found.worst, found.margin) == (10.0, 10.0, None)
    assert (found.is_over, found.worst_is_over) == (True, True)
    found = judged(rule("latency_quantile", for_seconds=99.0), spread((6, "above"), (31, "good")))
    assert (found.is_over, found.worst_is_over) == (False, True)
    assert found.value is not None


def test_what_is_unknown_now_is_blind_and_ends_no_hold() -> None:
    """However freshly it was measured; a later value ends that, and no acceptance the doubt."""
    judge = WindowJudge(
        rules=rules(rule("latency_quantile", limit=11.0)),
        keys=("m",),
        trigger=NEVER,
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    seen = []
    for one in samples("latency_quantile", spread((5, "above"), (31, "good"))):
        judge.add(one)
        if one.seq == 10:
            judge.accept()
        found = judge.at(one.mono).metrics["m"]
        seen.append((found.verdict, found.blind, found.breaching))
    assert seen[2:8] == [(INCONCLUSIVE, True, False)] * 6
    assert seen[8:] == [(INCONCLUSIVE, False, False)] * 23


def test_without_a_value_there_are_no_numbers() -> None:
    """None is not zero."""
    found = judged(rule("state"), spread((31, "absent")))
    assert (found.value, found.worst, found.margin, found.worst_wall) == (None, None, None, None)
    assert (found.coverage, found.blind, found.breaching) == (0.0, True, False)


def two_metrics(story: Sequence[tuple[float | None, float | None]], text: str) -> WindowJudgement:
    """The window of two gauges, ``a`` and ``b``; None is a gauge that is not in the page."""
    window, _ = judge_window(
        pair_samples(story),
        rules=rules(rule("state", name="a", query="a"), rule("state", name="b", query="b")),
        keys=("a", "b"),
        trigger=trigger(text, "a", "b"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    return window


def pair_samples(story: Sequence[tuple[float | None, float | None]]) -> list[Sample]:
    """A sample a second of the gauges ``a`` and ``b``."""
    return [
        sample(at, {name: v for name, v in zip("ab", pair, strict=True) if v is not None})
        for at, pair in enumerate(story)
    ]


PAIRS: dict[str, tuple[float | None, float | None, Verdict, str]] = {
    "both good": (1.0, 1.0, PASSED, "a PASSED"),
    "one missing": (1.0, None, INCONCLUSIVE, "b INCONCLUSIVE"),
    "one bad": (1.0, 9.0, FAILED, "b FAILED"),
    "one bad, one missing": (None, 9.0, FAILED, "b FAILED"),
}


@pytest.mark.parametrize(("a", "b", "verdict", "words"), PAIRS.values(), ids=PAIRS)
def test_the_worst_metric_is_the_window(
    a: float | None, b: float | None, verdict: Verdict, words: str
) -> None:
    """One good metric proves nothing for another, and the sentence is the worst one's."""
    window = two_metrics([(a, b)] * 31, "a > 1e9")
    assert window.overall is verdict
    assert window.sentence.startswith(words)


def test_a_gap_in_one_metric_blinds_no_other() -> None:
    """Each is judged by its own points."""
    window = two_metrics([(1.0, None)] * 31, "a > 1e9")
    assert window.metrics["a"].verdict is PASSED
    assert (window.blind, window.breaching) == (("b",), ())


def test_no_metric_proves_nothing() -> None:
    """A window without metrics is inconclusive, in words."""
    judge = WindowJudge(rules=rules(), keys=(), trigger=NEVER, started_mono=STARTED, ends_mono=ENDS)
    assert judge.at(ENDS, final=True).overall is INCONCLUSIVE
    assert judge.at(ENDS).sentence == "no metric is watched"


# --- while it goes on -------------------------------------------------------------


def live(given: MetricRule, story: Iterable[str]) -> WindowJudge:
    """A judge that has seen the story."""
    judge = WindowJudge(
        rules=rules(given), keys=("m",), trigger=NEVER, started_mono=STARTED, ends_mono=ENDS
    )
    for one in samples(given.kind, story):
        judge.add(one)
    return judge


def test_a_warm_up_is_told_as_such() -> None:
    """Neither good nor blind until it is over."""
    judge = live(rule("state", warm_up_seconds=5.0), ["bad"] * 5)
    found = judge.at(STARTED + 4.5).metrics["m"]
    assert (found.verdict, found.blind) == (INCONCLUSIVE, False)
    assert found.sentence == "m INCONCLUSIVE: warming up; query family (engine)"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("story", [[], ["error"], ["absent"], ["nan"]], ids=str)
def test_before_the_first_measurement_nothing_passes(kind: str, story: list[str]) -> None:
    """Not blind yet, and not proved either, even where no event at all would be a pass."""
    found = live(rule(kind, zero_events="pass"), story).at(STARTED + 1).metrics["m"]
    assert (found.verdict, found.blind) == (INCONCLUSIVE, False)
    assert found.sentence == "m INCONCLUSIVE: not measured yet; query family (engine)"


def test_a_metric_is_blind_once_its_last_measurement_is_old() -> None:
    """Not at ``fresh_seconds``, but after."""
    judge = live(rule("state"), ["good"] * 5)
    assert judge.at(STARTED + 7).blind == ()
    assert judge.at(STARTED + 7.01).blind == ("m",)


def test_breaching_ends_with_the_first_good_value_and_failed_does_not() -> None:
    """Recovery is seen at once; the verdict stays until somebody resumes."""
    judge = live(rule("state"), ["bad"] * 5)
    assert judge.at(STARTED + 4).breaching == ("m",)
    judge.add(sample(5, {"family": 1.0}))
    window = judge.at(STARTED + 5)
    assert (window.breaching, window.overall) == ((), FAILED)
    judge.accept()
    assert judge.at(STARTED + 5).overall is PASSED


def test_a_limit_still_broken_after_resuming_fails_again() -> None:
    """Accepting is for what was, not for what is."""
    judge = live(rule("state"), ["bad"] * 5)
    judge.accept()
    judge.add(sample(5, {"family": 9.0}))
    assert judge.at(STARTED + 5).overall is FAILED


def test_samples_of_other_sources_are_not_its_own() -> None:
    """A scrape of something else is neither a point nor a reason to fire."""
    judge = live(rule("state"), ["good"])
    stranger = Sample(1, 1.7e9, STARTED + 1, "kafka", "kafka", True, "", 1.0, {"family": 9.0})
    assert judge.add(stranger) is None
    assert len(judge.at(STARTED + 1).metrics["m"].points) == 1


def test_many_samples_in_a_short_time_cover_no_more_of_it() -> None:
    """A metric due every 5 s that shares a 1 s scrape, seen in 12 s of 30 only, is not covered."""
    given = rule("state", interval_seconds=5.0)
    found = judged(given, spread((9, "good"), (18, "absent"), (31, "good")))
    assert found.coverage < 0.9
    assert found.verdict is INCONCLUSIVE


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_a_schedule_may_begin_anywhere_and_jitter(phase: float) -> None:
    """A sample a second, a quarter early or late, covers its window whole, also after a crash that
    moved the schedule by half a second."""
    late = [0.25 if at % 2 else -0.25 for at in range(SECONDS)]
    given = rule("state", min_coverage=1.0)
    window, _ = judge_window(
        [sample(at + phase + off, {"family": 1.0}) for at, off in enumerate(late, start=1)][:-1],
        rules=rules(given),
        keys=("m",),
        trigger=NEVER,
        started_mono=STARTED,
        ends_mono=ENDS - 1,
    )
    assert window.metrics["m"].coverage == pytest.approx(1.0, abs=0.02)


def test_what_came_after_the_end_covers_nothing() -> None:
    """Sampling goes on while the run holds; the window it holds for is over."""
    judge = live(rule("state"), spread((16, "good"), (31, "absent")))
    before = judge.at(ENDS, final=True).metrics["m"].coverage
    for at in range(31, 61):
        judge.add(sample(at, {"family": 1.0}))
    assert judge.at(STARTED + 60, final=True).metrics["m"].coverage == before == 16 / 30


def test_what_a_restarted_engine_counted_last_is_not_passed_over() -> None:
    """Seven refused queries in the very last sample, after a restart: nothing was judged of them."""
    given = rule("counter", limit=0.0, min_events=0, zero_events="pass", for_seconds=0.0)
    judge = live(given, ["idle"] * 30)
    judge.add(sample(29.3, {"family": 3.0}))
    judge.accept()
    judge.add(sample(29.6, {"family": 1.0}))
    found = judge.at(ENDS, final=True).metrics["m"]
    assert found.verdict is INCONCLUSIVE
    assert "1 events since the engine restarted, and no sample after that" in found.sentence
    judge.add(sample(30, {"family": 1.0}))
    assert judge.at(ENDS, final=True).metrics["m"].verdict is FAILED


# --- the trigger ------------------------------------------------------------------

ONE = "a > 5 ms"
FOR = "a > 5 for 3 s"
BOTH = "a > 5 and b > 5"
# Trigger, values of a, values of b, at which sample it fires. None: the gauge is not in the page.
Shots = tuple[str, list[float | None], list[float | None], int | None]
TRIGGERS: dict[str, Shots] = {
    "never": (ONE, [1, 5, 5, 4], [], None),
    "at once": (ONE, [6], [], 0),
    "above": (ONE, [1, 5, 5.001, 9], [], 2),
    "at least": ("a >= 5", [4.999, 5, 6], [], 1),
    "below": ("a < 5", [6, 5, 4.9], [], 2),
    "at most": ("a <= 5", [6, 5.1, 5], [], 2),
    "equal": ("a == 2", [1, 3, 2], [], 2),
    "not equal": ("a != 0", [0, 0, 0.5], [], 2),
    "underscores": ("a_gt_5ms", [5, 6], [], 1),
    "for a while": (FOR, [1, 6, 6, 6, 6, 6], [], 4),
    "for a while, from the start": (FOR, [6, 6, 6, 6], [], 3),
    "not long enough": (FOR, [6, 6, 6], [], None),
    "good in between": (FOR, [6, 6, 6, 1, 6, 6, 6, 6], [], 7),
    "missing in between": (FOR, [6, 6, 6, None, 6, 6, 6, 6], [], 7),
    "NaN in between": (FOR, [6, 6, 6, math.nan, 6, 6, 6, 6], [], 7),
    "NaN": (ONE, [math.nan] * 5, [], None),
    "NaN is not equal to nothing": ("a != 0", [math.nan] * 5, [], None),
    "missing": (ONE, [None] * 5, [], None),
    "and": (BOTH, [6, 6, 1, 6], [1, 1, 6, 6], 3),
    "and, never together": (BOTH, [6, 1, 6, 1], [1, 6, 1, 6], None),
    "or": ("a > 5 or b > 5", [1, 1, 1], [1, 6, 1], 1),
    "and before or": ("a > 8 and b > 5 or b > 7", [1, 9, 1], [1, 1, 8], 2),
    "and with a while": ("a > 5 for 2 s and b > 5", [6, 6, 6, 6], [1, 1, 1, 6], 3),
    "the while of the later one": ("a > 5 and b > 5 for 2 s", [6] * 5, [1, 6, 6, 6, 6], 3),
    "the shorter way first": ("a > 5 for 5 s or a > 8", [6, 6, 9, 9, 9, 9], [], 2),
}


@pytest.mark.parametrize(("text", "a", "b", "fires_at"), TRIGGERS.values(), ids=TRIGGERS)
def test_the_trigger_fires_on_exactly_this_sample(
    text: str, a: list[float | None], b: list[float | None], fires_at: int | None
) -> None:
    """Not one sample earlier, not one later, and once."""
    judge = WindowJudge(
        rules=rules(rule("state", name="a", query="a"), rule("state", name="b", query="b")),
        keys=("a", "b"),
        trigger=trigger(text, "a", "b"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    shots = [judge.add(one) for one in pair_samples(list(zip(a, b or [1] * len(a), strict=True)))]
    fired = [at for at, firing in enumerate(shots) if firing is not None]
    assert fired == ([] if fires_at is None else [fires_at])
    assert judge.firing == (None if fires_at is None else shots[fires_at])


def test_a_firing_names_what_was_seen() -> None:
    """Metric, value, limit, unit, condition and the sample that did it."""
    _, firing = judge_window(
        samples("state", ["good"] * 3 + ["bad"] * 3),
        rules=rules(rule("state")),
        keys=("m",),
        trigger=trigger("m > 5 for 1 s", "m"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    assert firing == Firing(
        metric="m",
        value=9.0,
        limit=5.0,
        unit="ms",
        sentence="rollback trigger: m = 9 ms at 22:13:24Z; condition m > 5 ms for 1 s",
        sample_seq=4,
        wall=1.7e9 + 4,
        mono=STARTED + 4,
    )


def fires_at(given: MetricRule, story: list[str], text: str) -> float | None:
    """Seconds after the start at which the trigger fires."""
    _, firing = judge_window(
        samples(given.kind, story),
        rules=rules(given),
        keys=("m",),
        trigger=trigger(text, "m"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    return firing.mono - STARTED if firing else None


def test_a_firing_above_all_buckets_says_more_than() -> None:
    """One reconnect of 300 s with a widest bucket of 10 s makes ``> 10`` true, and ``> 10.1`` not."""
    for text, fires in (
        ("m > 10", True),
        ("m >= 10", True),
        ("m > 10.1", False),
        ("m < 99", False),
    ):
        _, firing = judge_window(
            samples("latency_quantile", ["good", *["above"] * 9]),
            rules=rules(rule("latency_quantile")),
            keys=("m",),
            trigger=trigger(text, "m"),
            started_mono=STARTED,
            ends_mono=ENDS,
        )
        assert (firing is not None) is fires, text
        if firing is not None:
            assert (firing.value, firing.is_over) == (10.0, True)
            assert firing.sentence == (
                "rollback trigger: m is more than 10 ms at 22:13:22Z, above its histogram's widest "
                f"bucket; condition {text} ms"
            )


def test_a_warm_up_fires_nothing() -> None:
    """Neither in it, nor with time that was spent in it."""
    warm = rule("state", warm_up_seconds=5.0)
    assert fires_at(warm, ["bad"] * 5, "m > 5") is None
    assert fires_at(warm, ["bad"] * 20, "m > 5") == 5
    assert fires_at(warm, ["bad"] * 20, "m > 5 for 3 s") == 8


def test_too_few_events_fire_nothing() -> None:
    """A p99 of two orders is noise; the third makes it a measurement."""
    slow = ["idle", "idle", "bad", "idle", "bad"]
    assert fires_at(rule("latency_quantile"), slow[:4], "m > 5") is None
    assert fires_at(rule("latency_quantile"), slow, "m > 5") == 4


def test_an_error_fires_nothing() -> None:
    """What could not be measured is not bad, and breaks off a while."""
    assert fires_at(rule("state"), ["bad", "error", "bad", "error"] * 5, "m > 5 for 2 s") is None


def test_a_while_is_made_of_measurements() -> None:
    """One value beyond, then silence from its source, is not ``for 10 s``."""
    slow = rule("lag", name="slow", source="kafka", query="slow")
    quick = rule("state", name="quick", query="quick")
    judge = WindowJudge(
        rules=rules(slow, quick),
        keys=("slow", "quick"),
        trigger=trigger("slow > 5 for 10 s", "slow", "quick"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    judge.add(Sample(0, 1.7e9, STARTED, "kafka", "slow", True, "", 1.0, {"slow": 9.0}))
    assert [judge.add(sample(at, {"quick": 1.0})) for at in range(1, 15)] == [None] * 14


# Seconds at which the slow source says 9, at which the quick one does; when the trigger fires.
SILENCES: dict[str, tuple[str, list[float], list[float], float | None]] = {
    "often enough": ("slow > 5 for 6 s", [0, 3, 6], [], 6),
    "one gap longer than fresh": ("slow > 5 for 6 s", [0, 3, 7, 9], [], None),
    "again after the gap": ("slow > 5 for 6 s", [0, 4, 7, 10], [], 10),
    "both while fresh": ("slow > 5 and quick > 5", [0], [3], 3),
    "one of them stale": ("slow > 5 and quick > 5", [0], [3.5], None),
    "a while of the fresh one": ("slow > 5 and quick > 5 for 2 s", [0, 2], [1, 2, 3], 3),
    "a while of the stale one": ("slow > 5 and quick > 5 for 2 s", [0], [2, 3, 4], None),
    "other samples mature nothing": ("slow > 5 for 2 s", [0], [1, 2, 3], None),
}


@pytest.mark.parametrize(("text", "slow", "quick", "at"), SILENCES.values(), ids=SILENCES)
def test_what_is_stale_holds_no_condition(
    text: str, slow: list[float], quick: list[float], at: float | None
) -> None:
    """A value speaks for ``fresh_seconds`` (3 here), not for the silence after it."""
    judge = WindowJudge(
        rules=rules(
            rule("lag", name="slow", source="kafka", query="slow"),
            rule("state", name="quick", query="quick"),
        ),
        keys=("slow", "quick"),
        trigger=trigger(text, "slow", "quick"),
        started_mono=STARTED,
        ends_mono=ENDS,
    )
    taken = [replace(sample(t, {"slow": 9.0}), source="kafka", target="slow") for t in slow]
    taken += [sample(t, {"quick": 9.0}) for t in quick]
    fired = list(filter(None, map(judge.add, sorted(taken, key=lambda one: one.mono))))
    assert [firing.mono - STARTED for firing in fired] == ([] if at is None else [at])


# --- live and offline -------------------------------------------------------------

words = st.sampled_from(["good", "bad", "limit", "above", "idle", "reset", *BLIND_WORDS])
stories = st.lists(words, max_size=SECONDS + 1)
changes = st.fixed_dictionaries(
    {
        "for_seconds": st.sampled_from([0.0, 3.0]),
        "warm_up_seconds": st.sampled_from([0.0, 4.0]),
        "min_coverage": st.sampled_from([0.3, 0.9]),
        "zero_events": st.sampled_from(["pass", "inconclusive"]),
        "limit": st.sampled_from([5.0, 11.0]),
    }
)


@given(
    story=stories,
    kind=st.sampled_from(KINDS),
    changed=changes,
    text=st.sampled_from(["m > 5", "m > 5 for 2 s", "m >= 5 for 4 s or m > 20"]),
    looks=st.sets(st.integers(0, SECONDS)),
    accepted=st.sets(st.integers(0, SECONDS), max_size=3),
)
def test_the_replay_says_what_the_live_judge_said(
    story: list[str],
    kind: str,
    changed: dict[str, object],
    text: str,
    looks: set[int],
    accepted: set[int],
) -> None:
    """Looking in between changes nothing; samples and resumptions alone make the verdict."""
    given = rule(kind, **changed)
    fixed = {
        "rules": rules(given),
        "keys": ("m",),
        "trigger": trigger(text, "m"),
        "started_mono": STARTED,
        "ends_mono": ENDS,
    }
    taken = list(samples(kind, story))
    judge = WindowJudge(**fixed)  # type: ignore[arg-type]
    # Half a second before a sample: what was judged then did not have it.
    resumes = sorted(STARTED + at - 0.5 for at in accepted)
    left = list(resumes)
    for one in taken:
        while left and left[0] <= one.mono:
            judge.accept()
            left.pop(0)
        judge.add(one)
        if one.seq in looks:
            judge.at(one.mono)
    if left:
        judge.accept()
    replayed = judge_window(taken, accepted_mono=reversed(resumes), **fixed)  # type: ignore[arg-type]
    assert replayed == (judge.at(ENDS, final=True), judge.firing)


# --- worse never looks better -----------------------------------------------------


@given(
    story=st.lists(words, min_size=SECONDS + 1, max_size=SECONDS + 1),
    kind=st.sampled_from(GAUGES),
    changed=changes,
    at=st.integers(0, SECONDS),
)
def test_a_worse_value_never_betters_the_verdict(
    story: list[str], kind: str, changed: dict[str, object], at: int
) -> None:
    """Any one measurement turned bad leaves the verdict or worsens it."""
    given = rule(kind, **changed)
    worse = [*story]
    if story[at] not in BLIND_WORDS:
        worse[at] = "bad"
    assert judged(given, worse).verdict >= judged(given, story).verdict


@given(
    story=st.lists(words, min_size=SECONDS + 1, max_size=SECONDS + 1),
    kind=st.sampled_from(GAUGES),
    changed=changes,
    lost=st.sets(st.integers(0, SECONDS), max_size=6),
    how=st.sampled_from(BLIND_WORDS),
)
def test_less_measured_never_makes_a_pass(
    story: list[str], kind: str, changed: dict[str, object], lost: set[int], how: str
) -> None:
    """Good measurements lost, in whatever way, never turn what was no pass into one."""
    given = rule(kind, **changed)
    poorer = [how if at in lost and word != "bad" else word for at, word in enumerate(story)]
    before, after = judged(given, story).verdict, judged(given, poorer).verdict
    assert after is not PASSED or before is PASSED
    assert (after is FAILED) >= (before is FAILED)
