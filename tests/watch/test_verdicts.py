"""Facts about watch/verdicts.py: each state of a metric has its verdict, and a sentence that says why."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ctp_runbook.model import Verdict
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.metric_state import Watched
from ctp_runbook.watch.points import Point
from ctp_runbook.watch.verdicts import Firing, Moment, firing_of, shortened_query, verdict_of
from tests.props.metric_samples import WALL, histogram, rule, sample, states

PASSED, INCONCLUSIVE, ERROR, FAILED = Verdict
ENDS = 20.0
WHERE = "watch.m.limit 5 ms"
GOOD = [1.0] * 21


def grown(*steps: tuple[float, float]) -> list[Sample]:
    """A histogram a second: so many events up to 1, and beyond it, since the last."""
    low, high, taken = 0.0, 0.0, []
    for mono, (below, above) in enumerate(steps):
        low, high = low + below, high + below + above
        taken.append(sample(mono, histogram({1.0: low, math.inf: high})))
    return taken


# What came, what of the rule is different, when it is judged and whether for good; the verdict, its
# words, and whether nothing fresh is known.
Row = tuple[list[Sample], dict[str, Any], float, bool, Verdict, str, bool]
VERDICTS: dict[str, Row] = {
    "warming up": ([], {"warm_up_seconds": 9.0}, 9.0, False, INCONCLUSIVE, "warming up", False),
    "nothing yet": ([], {}, 2.0, False, INCONCLUSIVE, "not measured yet", False),
    "nothing at all": (
        *([], {}, 4.0, False, INCONCLUSIVE),
        "no fresh measurement for 4 s (fresh_seconds 3): no sample came",
        True,
    ),
    "went silent": (
        *(states(GOOD[:5]), {}, 8.0, False, INCONCLUSIVE),
        "no fresh measurement for 4 s (fresh_seconds 3): no sample came",
        True,
    ),
    "refused": (
        *(states([1.0, *["refused"] * 5]), {}, 5.0, False, ERROR),
        "no fresh measurement for 5 s (fresh_seconds 3): refused",
        True,
    ),
    "not in the page": (
        *(states([1.0, *[None] * 5]), {}, 5.0, False, INCONCLUSIVE),
        "no fresh measurement for 5 s (fresh_seconds 3): f is not in the sample",
        True,
    ),
    "sparse": (
        *(states([1.0] * 11, every=2.0), {}, ENDS, True, INCONCLUSIVE),
        "55% of the due samples came; min_coverage is 90%",
        True,
    ),
    "stopped": (
        *(states(GOOD[:10]), {"min_coverage": 0.0}, 9.0, True, INCONCLUSIVE),
        "the watch was stopped after 9 s of 20 s",
        False,
    ),
    "stopped in a breach": (
        *(states([*GOOD[:9], 9.0]), {"min_coverage": 0.0}, 9.0, True, INCONCLUSIVE),
        f"the watch was stopped after 9 s of 20 s, beyond {WHERE} when it was",
        False,
    ),
    "beyond its limit": (
        *(states([1.0, 9.0, 9.0, 9.0, 1.0]), {}, 4.0, False, FAILED),
        f"9 ms > {WHERE} at 22:13:23Z, beyond it by 4 ms",
        False,
    ),
    "below its least": (
        *(states([9.0, 1.0, 1.0, 1.0]), {"direction": "min"}, 3.0, False, FAILED),
        f"1 ms < {WHERE} at 22:13:23Z, beyond it by 4 ms",
        False,
    ),
    "above all buckets": (
        *(grown((0, 0), (0, 3), (0, 3), (0, 3)), {"limit": 1.0}, 3.0, False, FAILED),
        "more than 1 ms > watch.m.limit 1 ms at 22:13:23Z: its histogram's widest bucket ends at "
        "1 ms",
        False,
    ),
    "above all buckets, which end below the limit": (
        *(grown((0, 0), (0, 3)), {}, 1.0, False, INCONCLUSIVE),
        f"more than 1 ms at 22:13:21Z: its histogram's widest bucket ends at 1 ms, below {WHERE}; "
        "the engine's histogram needs a bucket at or above the limit",
        True,
    ),
    "few events": (
        *(grown((0, 0), (2, 0)), {"min_events": 3}, 1.0, False, INCONCLUSIVE),
        "2 events in the window; min_events is 3: too few to judge",
        False,
    ),
    "no event": (
        *(grown((0, 0), (0, 0)), {}, 1.0, False, INCONCLUSIVE),
        "0 events in the window; min_events is 1: too few to judge",
        False,
    ),
    "no event, which is good": (
        *(grown((0, 0), (0, 0)), {"zero_events": "pass"}, 1.0, False, PASSED),
        f"fresh scrapes prove no event at all; {WHERE}",
        False,
    ),
    "restarted just now": (
        *([*grown((9, 0)), sample(1, histogram({1.0: 4, math.inf: 4}))], {}, 1.0, False),
        *(INCONCLUSIVE, "4 events since the engine restarted, and no sample after that to judge"),
        False,
    ),
    "all good": (
        *(states(GOOD), {}, ENDS, True, PASSED),
        f"worst 1 ms at 22:13:20Z, margin 4 ms; {WHERE}",
        False,
    ),
    "at the limit": (
        *(states([5.0] * 21), {}, ENDS, True, PASSED),
        f"worst 5 ms at 22:13:20Z, margin 0 ms; {WHERE}",
        False,
    ),
    "a short breach": (
        *(states([*GOOD[:9], 9.0, 9.0, *GOOD[11:]]), {}, ENDS, True, PASSED),
        f"worst 9 ms at 22:13:29Z, margin -4 ms; {WHERE}, which it was beyond for less than "
        "for_seconds 2",
        False,
    ),
    "more than the least": (
        *(grown((0, 0), (0, 3)), {"direction": "min", "limit": 0.5}, 1.0, False, PASSED),
        "worst more than 1 ms at 22:13:21Z, margin more than 0.5 ms; watch.m.limit 0.5 ms",
        False,
    ),
    "in large numbers": (
        *(states([1234567.0] * 21), {"limit": 2e6, "unit": "count"}, ENDS, True, PASSED),
        "worst 1234567 at 22:13:20Z, margin 765433; watch.m.limit 2000000",
        False,
    ),
}


@pytest.mark.parametrize(
    ("taken", "changes", "mono", "final", "verdict", "words", "blind"),
    VERDICTS.values(),
    ids=VERDICTS,
)
def test_a_state_has_its_verdict(
    taken: list[Sample],
    changes: dict[str, Any],
    mono: float,
    final: bool,
    verdict: Verdict,
    words: str,
    blind: bool,
) -> None:
    """Verdict, the whole sentence to the letter, and whether the watch is blind."""
    kind = (
        "latency_quantile" if any("bucket" in key for s in taken for key in s.series) else "state"
    )
    watched = Watched(rule(kind, **changes), started=0.0, ends=ENDS)
    for one in taken:
        watched.add(one)
    moment = Moment(mono, 0.0, ENDS, final, None)
    coverage = watched.coverage(0.0, min(mono, ENDS))
    found = verdict_of(watched, coverage=coverage, moment=moment)
    assert found == (verdict, words, blind)


def test_a_firing_fails_its_metric_and_no_other() -> None:
    """The trigger's sentence is the metric's; a metric beside it is judged by its own."""
    firing = Firing("m", 9.0, 8.0, "ms", "rollback trigger: m", 3, WALL, 3.0)
    watched = Watched(rule(), started=0.0, ends=ENDS)
    other = Watched(rule(name="other"), started=0.0, ends=ENDS)
    for one in states([1.0, 1.0]):
        watched.add(one)
        other.add(one)
    moment = Moment(1.0, 0.0, ENDS, False, firing)
    assert verdict_of(watched, coverage=1.0, moment=moment) == (FAILED, firing.sentence, False)
    assert verdict_of(other, coverage=1.0, moment=moment)[0] is PASSED


FIRINGS: dict[str, tuple[str, Point, str]] = {
    "a value": (
        "m > 5ms for 3s",
        Point(WALL, 7.0, 9.0, 4.0, "breach"),
        "rollback trigger: m = 9 ms at 22:13:29Z; condition m > 5 ms for 3 s",
    ),
    "more than a value": (
        "m_ge_8ms",
        Point(WALL, 7.0, 8.0, 4.0, "breach", is_over=True),
        "rollback trigger: m is more than 8 ms at 22:13:29Z, above its histogram's widest bucket; "
        "condition m >= 8 ms",
    ),
}


@pytest.mark.parametrize(("text", "point", "sentence"), FIRINGS.values(), ids=FIRINGS)
def test_a_firing_says_value_moment_and_condition(text: str, point: Point, sentence: str) -> None:
    """The value is the last of the first condition, the moment that of the sample that fired."""
    condition = parse_trigger(text, units={"m": "ms"}, file="t", line=1).any_of[0][0]
    firing = firing_of(condition, point, rule=rule(), sample=sample(9.0, {}, seq=12))
    assert firing.sentence == sentence
    assert (firing.sample_seq, firing.wall, firing.mono) == (12, WALL + 9.0, 9.0)
    assert (firing.value, firing.limit) == (point.value, condition.value)
    assert firing.is_over is point.is_over


def test_a_long_query_is_shortened_and_says_who_was_asked() -> None:
    """Its begin and its end; a short one stands whole."""
    assert shortened_query("up (engine)") == "up (engine)"
    long = f"SELECT {'x' * 90} (clickhouse)"
    assert shortened_query(long) == f"{long[:50]}… (clickhouse)"
    # A short query of a file far down says each word once.
    far = f"mode (file /{'far/' * 25}readiness.json)"
    assert shortened_query(far) == far
