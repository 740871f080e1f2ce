"""Facts about watch/share_tests.py: what is counted over a bound, and what a verdict makes of it."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.sample_blocks import Chunk, chunks_of
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import MetricJudgement, WindowJudge
from ctp_runbook.watch.sequential import ShareTest
from ctp_runbook.watch.share_tests import ShareTests
from ctp_runbook.watch.verdicts import Firing, missing_buckets
from tests.props.decided_looks import decide

PASSED, INCONCLUSIVE, _, FAILED = Verdict
STARTED, ENDS = 1000.0, 1600.0
# Orders of 2, 7, 20 and 500 ms, by what a story calls them.
TOOK = {"fast": 0.002, "slow": 0.007, "late": 0.02, "lost": 0.5}
BOUNDS = (0.001, 0.005, 0.01, 0.1)
RULE = MetricRule(
    name="m",
    label="M",
    unit="ms",
    kind="latency_quantile",
    source="engine",
    query="lat",
    limit=5.0,
    direction="max",
    scale=1000.0,
    min_events=20,
    fresh_seconds=3.0,
    test="sequential",
)
# What a second brings, by label set: so many orders of each kind.
Second = dict[str, dict[str, int]]


def pages(story: Iterable[Second | str], bounds: Sequence[float] = BOUNDS) -> list[Sample]:
    """A page a second; ``restart`` is one of an engine that counts anew, ``error`` is none."""
    counts: dict[tuple[str, float], float] = {}
    taken = []
    for second, said in enumerate(story):
        if said == "restart":
            counts = dict.fromkeys(counts, 0.0)
        for who, orders in said.items() if isinstance(said, dict) else ():
            for end in (*bounds, math.inf):
                many = sum(n for kind, n in orders.items() if TOOK[kind] <= end)
                counts[who, end] = counts.get((who, end), 0.0) + many
        error = "refused" if said == "error" else ""
        series = {
            f'lat_bucket{{le="{"+Inf" if math.isinf(end) else end}",of="{who}"}}': n
            for (who, end), n in counts.items()
        }
        shown = {} if error else series
        at = STARTED + second
        taken.append(Sample(second, 1.7e9 + second, at, "engine", "", not error, error, 1.0, shown))
    return taken


def orders(**many: int) -> Second:
    """So many orders of each kind, of one label set."""
    return {"a": many}


def judges(
    samples: Sequence[Sample],
    rule: MetricRule = RULE,
    trigger: str = "m > 10",
    accepted: float = math.inf,
    chunk: int = 10_000,
) -> list[WindowJudge]:
    """A judge shown one sample after the other, and one shown them in blocks."""
    window: dict[str, Any] = {
        "rules": WatchRules({"m": rule}, 1.0, 1.0, 1.0),
        "keys": ("m",),
        "trigger": parse_trigger(trigger, units={"m": "ms"}, file="t", line=1),
        "started_mono": STARTED,
        "ends_mono": STARTED + len(samples) - 1,
    }
    live, blocks = WindowJudge(**window), WindowJudge(**window)
    left = [accepted]
    for sample in samples:
        if left and left[0] <= sample.mono:
            live.accept()
            left.pop()
        live.add(sample)
    cuts = [STARTED + at for at in range(chunk, len(samples), chunk)]
    passed = 0
    for piece in chunks_of(samples, cuts=sorted({*cuts, accepted} - {math.inf})):
        if piece.items and not passed and accepted <= piece_begin(piece):
            blocks.accept()
            passed = 1
        blocks.take(piece)
    return [live, blocks]


def piece_begin(piece: Chunk) -> float:
    """The moment of its first line."""
    return next(sample.mono for _, sample in piece.lines())


def judged(story: Iterable[Second | str], **given: Any) -> tuple[MetricJudgement, Firing | None]:
    """The last word on the metric, which both judges must say alike."""
    bounds = given.pop("bounds", BOUNDS)
    samples = pages(story, bounds)
    ends = STARTED + len(samples) - 1
    live, blocks = (
        (judge.at(ends, final=True).metrics["m"], judge.firing)
        for judge in judges(samples, **given)
    )
    assert live == blocks
    return live


STEADY = [orders(fast=5)] * 600


def test_it_decides_as_the_test_does_by_its_own_columns() -> None:
    """The counts over the limit look by look are those that the mathematics is shown."""
    dice = random.Random(1)
    slow = [dice.choice([0, 0, 0, 1]) for _ in range(120)]
    samples = pages([orders(fast=4), *(orders(fast=4 - n, slow=n) for n in slow)])
    (live, _) = judges(samples, trigger="m > 1e6")
    shown = [sample.mono for sample in samples[1:]]
    decided = decide(ShareTest(0.01, 0.01 * 0.9, 10.0), shown, [4] * 120, slow)
    points = live.at(ENDS).metrics["m"].points
    turned = [place for place, point in enumerate(points) if point.tested]
    assert turned[0] == decided.rejected_row + 1 if decided.rejected_row is not None else not turned


def test_one_slow_order_fires_nothing_and_fails_nothing() -> None:
    """Among twenty it made the p99: that is the accident this test is there for."""
    story = [orders(fast=1)] * 100 + [orders(slow=1)] + [orders(fast=1)] * 100
    found, firing = judged(story, trigger="m > 5")
    assert (found.verdict, firing) == (PASSED, None)
    assert "1 of 200 events over 5 ms (0.5%)" in found.sentence
    assert "p99 is not disproved" in found.sentence
    plain, firing = judged(story, rule=replace(RULE, test="plain"), trigger="m > 5")
    assert plain.verdict is FAILED
    assert firing is not None


def test_what_is_slow_is_proved_slow() -> None:
    """FAILED, and the trigger at its own number, with what was counted and what was assumed."""
    story = STEADY[:60] + [orders(fast=2, late=3)] * 100
    found, firing = judged(story)
    assert found.verdict is FAILED
    assert firing is not None
    assert firing.limit == 10.0
    for words in ("events over 10 ms", "evidence", "false_alarm_rate of 1%", "10 s at most"):
        assert words in firing.sentence
    assert "condition m > 10 ms" in firing.sentence


def test_slow_beyond_the_limit_alone_fires_no_trigger_above_it() -> None:
    """A condition has its own bound: 7 ms is over 5, and not over 10."""
    found, firing = judged(STEADY[:60] + [orders(fast=2, slow=3)] * 100)
    assert (found.verdict, firing) == (FAILED, None)
    assert "over 5 ms" in found.sentence


def test_a_condition_for_a_while_holds_as_long_as_it_is_proved() -> None:
    """The while begins with the proof, and ends where the window is within the bound again."""
    story = STEADY[:60] + [orders(fast=2, late=3)] * 120
    _, at_once = judged(story)
    _, later = judged(story, trigger="m > 10 for 20 s")
    assert at_once is not None
    assert later is not None
    assert later.mono == at_once.mono + 20
    again = story + [orders(fast=20)] * 200
    assert (
        judged(again, trigger="m > 10 for 100 s", rule=replace(RULE, window_seconds=10.0))[1]
        is None
    )


def test_a_burst_counts_once() -> None:
    """Every order of seven seconds is slow: one cause, and no proof; what it assumes is said."""
    found, firing = judged(STEADY[:100] + [orders(late=5)] * 7 + STEADY[:100], trigger="m > 10")
    assert (found.verdict, firing) == (PASSED, None)
    assert "at most" in found.sentence
    rule = replace(RULE, burst_seconds=0.0)
    found, firing = judged(STEADY[:100] + [orders(late=5)] * 7 + STEADY[:100], rule=rule)
    assert found.verdict is FAILED
    assert "independent" in found.sentence


def test_a_pass_says_what_is_proved() -> None:
    """In ten minutes of stretches of ten seconds no p99 is; with orders that are independent it is."""
    found, _ = judged(STEADY)
    assert found.verdict is PASSED
    assert "p99 is not disproved; with 60 spans of 10 s with events only p95 <= 5 ms is proved" in (
        found.sentence
    )
    found, _ = judged(STEADY, rule=replace(RULE, burst_seconds=0.0))
    assert "0 of 2995 events over 5 ms (0%): p99 <= 5 ms proved at 95 %" in found.sentence


def test_needs_proof_passes_nothing_that_is_not_proved() -> None:
    """Not disproved is not enough where the rule asks for more."""
    strict = replace(RULE, needs="proof")
    found, _ = judged(STEADY, rule=strict)
    assert found.verdict is INCONCLUSIVE
    assert "watch.m.needs is proof" in found.sentence
    assert judged(STEADY, rule=replace(strict, burst_seconds=0.0))[0].verdict is PASSED
    thirty = [orders(fast=3)] * 11
    found, _ = judged(thirty, rule=replace(strict, burst_seconds=0.0))
    assert "with 30 events only p90 <= 5 ms is proved" in found.sentence


def test_one_order_over_the_cap_fails_at_once() -> None:
    """Whatever its share, and whichever test the rule names."""
    for rule in (RULE, replace(RULE, test=UNSET)):
        found, firing = judged(
            [*STEADY[:300], orders(fast=4, lost=1), *STEADY[:100]],
            rule=replace(rule, cap=100.0, for_seconds=60.0),
        )
        assert found.verdict is FAILED
        assert "over 100 ms" in found.sentence
        assert "none may be; watch.m.cap 100 ms" in found.sentence
        assert firing is None


def test_a_cap_without_a_bucket_proves_by_the_next_one_above() -> None:
    """An order over that is over the cap; one between the buckets around it may be, and no more."""
    rule = replace(RULE, cap=50.0)
    story = [*STEADY[:300], orders(fast=4, lost=1), *STEADY[:100]]
    assert judged(story, rule=rule)[0].verdict is FAILED
    story = [*STEADY[:300], orders(fast=4, late=1), *STEADY[:100]]
    found, _ = judged(story, rule=rule)
    assert found.verdict is INCONCLUSIVE
    assert "1 of 2000 events may be on either side of watch.m.cap 50 ms" in found.sentence
    (told,) = missing_buckets(
        [rule], parse_trigger("m > 5", units={"m": "ms"}, file="t", line=1), pages(story)[-1]
    )
    assert told.startswith("watch.m.cap 50 ms has no bucket at it")


def test_a_limit_without_a_bucket_proves_nothing_by_what_lies_between() -> None:
    """Neither failed nor passed: which bucket is missing is the reason."""
    bounds = (0.001, 0.01, 0.1)
    found, firing = judged([orders(fast=3, slow=2)] * 300, bounds=bounds, trigger="m > 5")
    assert (found.verdict, firing) == (INCONCLUSIVE, None)
    assert "may be on either side of watch.m.limit 5 ms" in found.sentence
    assert "give the histogram a bucket at 5 ms" in found.sentence
    found, firing = judged([orders(fast=3, late=2)] * 300, bounds=bounds, trigger="m > 5")
    assert found.verdict is FAILED
    assert firing is not None


def test_orders_too_few_for_a_window_are_counted_over_the_watch() -> None:
    """One order in five seconds never makes twenty in a window; every second one slow is proved."""
    thin = [orders(fast=0)] * 5 + [
        orders(slow=1),
        *[orders(fast=0)] * 4,
        orders(fast=1),
        *[orders(fast=0)] * 4,
    ] * 40
    found, firing = judged(thin, trigger="m > 5")
    assert found.verdict is FAILED
    assert firing is not None
    assert (firing.value, firing.is_over) == (5.0, True)


def test_one_label_set_is_not_hidden_by_the_others() -> None:
    """Ten slow orders a second of one instrument beside a thousand fast ones of another."""
    story: list[Second | str] = [{"a": {"fast": 2000}, "b": {"late": 4}}] * 300
    found, firing = judged(story)
    assert found.verdict is FAILED
    assert 'of {of="b"}' in found.sentence.replace("'", '"')
    assert firing is not None


def test_a_warm_up_is_not_counted() -> None:
    """What an engine does in it is no evidence, either way."""
    rule = replace(RULE, warm_up_seconds=100.0)
    found, firing = judged([orders(late=5)] * 100 + STEADY[:100], rule=rule)
    assert (found.verdict, firing) == (PASSED, None)
    assert "0 of 500 events over 5 ms" in found.sentence


def test_accepting_forgets_the_evidence() -> None:
    """Who resumes the watch knows what was slow; what comes then is counted from nothing."""
    story = STEADY[:60] + [orders(fast=2, slow=3)] * 100 + STEADY[:300]
    assert judged(story, trigger="m > 1e6")[0].verdict is FAILED
    found, _ = judged(story, trigger="m > 1e6", accepted=STARTED + 170)
    assert found.verdict is PASSED
    assert "0 of 1450 events over 5 ms (0%) since the watch was resumed" in found.sentence
    slow = STEADY[:60] + [orders(fast=2, slow=3)] * 300
    assert judged(slow, trigger="m > 1e6", accepted=STARTED + 170)[0].verdict is FAILED


def test_a_restart_begins_no_evidence_anew() -> None:
    """An engine that counts from zero again was slow all the same."""
    slow = [orders(fast=2, slow=3)]
    story = slow * 12 + ["restart"] + slow * 30
    found, _ = judged(story, trigger="m > 1e6")
    assert found.verdict is FAILED


SECONDS = st.one_of(
    st.sampled_from(["restart", "error"]),
    st.sampled_from(
        [
            orders(fast=3),
            orders(fast=3),
            orders(fast=2, slow=1),
            orders(late=4),
            orders(fast=9, lost=1),
            orders(fast=0),
            {"a": {"fast": 2}, "b": {"late": 2}},
        ]
    ),
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "100")), deadline=None)
@given(
    runs=st.lists(st.tuples(SECONDS, st.integers(1, 30)), min_size=1, max_size=8),
    text=st.sampled_from(["m > 5", "m > 10 for 7 s", "m > 50 or m > 7.5 for 2 s", "m < 1"]),
    changed=st.fixed_dictionaries(
        {
            "test": st.sampled_from(["sequential", "plain"]),
            "cap": st.sampled_from([UNSET, 100.0, 50.0]),
            "warm_up_seconds": st.sampled_from([0.0, 9.0]),
            "burst_seconds": st.sampled_from([0.0, 2.0]),
            "for_seconds": st.sampled_from([0.0, 5.0]),
            "window_seconds": st.sampled_from([5.0, 60.0]),
            "limit": st.sampled_from([5.0, 7.0]),
        }
    ),
    accepted=st.sampled_from([math.inf, STARTED + 10, STARTED + 31]),
    chunk=st.sampled_from([7, 40, 1000]),
)
def test_blocks_say_what_samples_say(
    runs: list[tuple[Second | str, int]],
    text: str,
    changed: dict[str, Any],
    accepted: float,
    chunk: int,
) -> None:
    """Every point with what was proved by it, the verdict, its sentence, and the firing."""
    samples = pages([said for said, many in runs for _ in range(many)])
    rule = replace(RULE, **changed)
    live, blocks = judges(samples, rule, text, accepted=accepted, chunk=chunk)
    assert live.firing == blocks.firing
    ends = STARTED + len(samples) - 1
    one, other = (judge.at(ends, final=True).metrics["m"] for judge in (live, blocks))
    assert tuple(one.points) == tuple(other.points)
    assert one == other


def test_a_watch_of_any_length_keeps_no_more() -> None:
    """What is kept is a few numbers a bound: the size of a test does not grow with what it saw."""
    tests = ShareTests(RULE, bounds=[10.0, 20.0])
    sizes = []
    for second in range(3000):
        tests.note(STARTED + second, (0.005, 0.01, 0.02, math.inf), {"": [3.0] * 4})
        sizes.append(len(vars(tests)) + sum(len(each) for each in tests._counts.values()))
    assert len(set(sizes)) == 1


def test_a_tenfold_better_engine_is_not_rolled_back() -> None:
    """0.1 % of its orders are slow: by the plain rule a watch with one of them fires."""
    fired = {"sequential": 0, "plain": 0}
    for seed in range(12):
        dice = random.Random(seed)
        story = [
            orders(fast=many, slow=dice.random() < 0.001 * many)
            for many in (dice.choice([0, 1, 2]) for _ in range(1801))
        ]
        samples = pages(story)
        for test in fired:
            rule = replace(RULE, test=test)
            _, blocks = judges(samples, rule, "m > 5 for 10 s")
            fired[test] += blocks.firing is not None
    assert fired["sequential"] == 0
    assert fired["plain"] > 6


@pytest.mark.parametrize(
    ("bounds", "parts"), [((), 1), ((5.0,), 1), ((20.0,), 2), ((20.0, 100.0), 3)]
)
def test_a_stated_rate_is_of_all_numbers_together(bounds: Sequence[float], parts: int) -> None:
    """The limit and the trigger's numbers share it; a record without one gave 1 % to each."""
    stated = ShareTests(replace(RULE, false_alarm_rate=0.01, cap=1000.0), bounds=bounds)
    of_before = ShareTests(RULE, bounds=bounds)
    for tests, divided in ((stated, parts), (of_before, 1)):
        limit = tests._counts[RULE.limit, False][0].test
        assert math.isclose(limit.false_alarm_rate, 0.9 * 0.01 / divided)
