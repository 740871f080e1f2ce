"""Old engine against new: shifts that are there are found, those that are not are not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.kinds import Comparison
from ctp_runbook.record.sample_blocks import chunks_of
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.watch.comparison import (
    block_seconds,
    compare_metric,
    rank_test,
    with_comparison,
)
from ctp_runbook.watch.judge import MetricJudgement, WindowJudgement
from ctp_runbook.watch.points import Points
from ctp_runbook.watch.readings import Readings

LATENCY = MetricRule(
    name="latency",
    label="Latency",
    unit="ms",
    kind="latency_quantile",
    source="engine",
    query="took_seconds",
    limit=50.0,
    direction="max",
    scale=1000.0,
)
STATE = replace(LATENCY, name="state", kind="state", unit="state", query="state", scale=1.0)
LAG = replace(STATE, name="lag", kind="lag", unit="ms", source="kafka", window_seconds=5.0)
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, math.inf)


def sample(seq: int, series: dict[str, float], *, source: str = "engine") -> Sample:
    """One good sample, a second after the last."""
    return Sample(seq, 1e9 + seq, 100.0 + seq, source, "", True, "", 1.0, series)


def latencies(
    median_ms: float, *, seconds: int = 120, rate: int = 5, seed: int = 1
) -> list[Sample]:
    """A histogram that counts ``rate`` orders a second around ``median_ms``."""
    dice, counts, made = random.Random(seed), dict.fromkeys(BOUNDS, 0.0), []
    for second in range(seconds):
        for _ in range(rate):
            took = median_ms / 1000 * dice.lognormvariate(0, 0.3)
            for bound in BOUNDS:
                counts[bound] += took <= bound
        series = {f'took_seconds_bucket{{le="{bound}"}}': n for bound, n in counts.items()}
        made.append(sample(second, series))
    return made


def states(values: list[float], *, source: str = "engine") -> list[Sample]:
    """A state or lag with these values, one a second."""
    name = "lag" if source == "kafka" else "state"
    return [sample(n, {name: value}, source=source) for n, value in enumerate(values)]


def compared(rule: MetricRule, before: list[Sample], after: list[Sample]) -> Comparison:
    """Both sides read sample by sample."""
    spans = [side[-1].mono - side[0].mono for side in (before, after) if side]
    old, new = (Readings(rule, seconds=block_seconds(rule, *spans)) for _ in range(2))
    for readings, side in ((old, before), (new, after)):
        read(readings, side)
    return compare_metric(rule, old, new)


def read(readings: Readings, samples: Iterable[Sample], *, rows: int = 1 << 16) -> None:
    """Show the samples to ``readings``, so many at a time."""
    left = iter(samples)
    while some := list(islice(left, rows)):
        for chunk in chunks_of(some):
            for block in chunk.blocks:
                readings.add(block)


def test_a_shift_is_found_with_its_interval() -> None:
    """3 ms to 8 ms: the whole interval is above zero, and the ranks agree."""
    found = compared(LATENCY, latencies(3), latencies(8, seed=2))
    assert found.median is not None
    assert found.p99 is not None
    assert found.rank_p is not None
    assert found.median.low > 2
    assert found.median.high < 8
    assert found.p99.low > 0
    assert found.rank_p < 1e-6
    assert not found.failed, "without baseline_max_shift a shift is only reported"
    assert f"n {found.n_before} before, {found.n_after} after" in found.sentence


def test_no_shift_is_no_shift() -> None:
    """The same engine twice: zero lies within both intervals."""
    found = compared(LATENCY, latencies(3), latencies(3, seed=2))
    assert found.median is not None
    assert found.p99 is not None
    assert found.median.low <= 0 <= found.median.high
    assert found.p99.low <= 0 <= found.p99.high
    assert found.rank_p is not None
    assert found.rank_p > 0.01


def test_identical_sets_differ_by_nothing() -> None:
    """The same bytes on both sides: shift 0, nothing failed whatever the rule."""
    rule = replace(LATENCY, baseline_max_shift=0.0)
    found = compared(rule, latencies(3), latencies(3))
    assert found.median is not None
    assert found.median.shift == 0
    assert not found.failed


SMALL = {
    "nothing before": ([], latencies(3)),
    "nothing after": (latencies(3), []),
    "five seconds": (latencies(3, seconds=5), latencies(9)),
    "no event": (latencies(3, rate=0), latencies(9)),
}


@pytest.mark.parametrize(("before", "after"), SMALL.values(), ids=SMALL)
def test_too_few_say_so_with_their_numbers(before: list[Sample], after: list[Sample]) -> None:
    """No figure is made of too little; the sentence counts, and names the rule not applied."""
    found = compared(replace(LATENCY, baseline_max_shift=0.1), before, after)
    assert found.median is None
    assert found.p99 is None
    assert not found.failed
    assert f"{found.n_before} blocks before, {found.n_after} after" in found.sentence
    assert "baseline_max_shift 0.1 was not applied" in found.sentence


def test_a_p99_needs_more_than_a_median() -> None:
    """Fifty events have a median and no p99."""
    found = compared(LATENCY, latencies(3, seconds=50, rate=1), latencies(3))
    assert found.median is not None
    assert found.p99 is None
    assert "p99 too small to judge: 49 before" in found.sentence


def test_what_is_above_all_buckets_has_no_shift() -> None:
    """A bound is no quantile: on either side it would prove a shift, or none, of its own. The ranks
    hold where both engines have the same buckets."""
    rule = replace(LATENCY, baseline_max_shift=0.0)
    quick, slow = latencies(3), latencies(200, seed=2)
    for before, after in ((quick, slow), (slow, quick), (slow, slow)):
        found = compared(rule, before, after)
        assert (found.median, found.p99, found.failed) == (None, None, False)
        assert "median not known: it may lie above the widest bucket" in found.sentence
        assert "p99 not known" in found.sentence
        assert "baseline_max_shift 0 was not applied" in found.sentence
        assert found.rank_p is not None
        assert (found.rank_p < 1e-6) is (before is not after)
        json.dumps(to_builtins(found), allow_nan=False)


def test_a_median_may_be_known_where_the_p99_is_not() -> None:
    """Some orders above all buckets leave what most of them took."""
    found = compared(LATENCY, latencies(3), latencies(25, seed=2))
    assert found.median is not None
    assert found.p99 is None
    assert "p99 not known" in found.sentence


def test_ranks_above_different_buckets_are_not_known() -> None:
    """More than 50 ms and 80 ms: which of them is more nobody knows."""
    wider = [
        replace(one, series={k.replace('"0.05"', '"0.5"'): n for k, n in one.series.items()})
        for one in latencies(200)
    ]
    found = compared(LATENCY, latencies(200, seed=2), wider)
    assert found.rank_p is None
    json.dumps(to_builtins(found), allow_nan=False)


def test_an_engine_that_changed_its_buckets_is_not_compared() -> None:
    """What one histogram counted is not added to what another did."""
    first, second = latencies(3, seconds=60), latencies(3, seconds=60, seed=2)
    moved = [
        replace(
            one,
            mono=one.mono + 60,
            series={k.replace('"0.05"', '"0.06"'): n for k, n in one.series.items()},
        )
        for one in second
    ]
    found = compared(LATENCY, latencies(3), [*first, *moved])
    assert found.sentence == "not compared: an engine's histogram changed its buckets meanwhile"
    assert not found.failed


def test_what_is_no_histogram_makes_no_block() -> None:
    """Counts that fall with the bound, and pages without ``+Inf``, are read over."""
    good = latencies(3)
    lacking = [
        replace(one, series={k: n for k, n in one.series.items() if '"inf"' not in k})
        for one in good
    ]
    falling = [replace(one, series={**one.series, key_of(one): 1e9}) for one in good]
    for broken in (lacking, falling):
        assert compared(LATENCY, broken, good).n_before == 0


def key_of(one: Sample) -> str:
    """The series of its narrowest bucket."""
    return next(iter(one.series))


def test_what_is_not_a_number_is_no_value() -> None:
    """NaN on the page makes no block; nothing but NaN is too small to judge."""
    nothing = states([math.nan] * 60)
    found = compared(STATE, nothing, states([0.0] * 60))
    assert (found.n_before, found.median) == (0, None)


def test_a_constant_state_did_not_shift() -> None:
    """All zero on both sides: shift 0 within 0 to 0, and p is 1."""
    found = compared(STATE, states([0.0] * 60), states([0.0] * 60))
    assert found.median is not None
    assert (found.median.low, found.median.shift, found.median.high) == (0, 0, 0)
    assert found.rank_p == 1.0


def test_a_lag_counts_once_a_window() -> None:
    """Values that look back over the same five seconds are one block, not five."""
    found = compared(LAG, states([1.0] * 100, source="kafka"), states([1.0] * 100, source="kafka"))
    assert (found.n_before, found.n_after) == (20, 20)


def test_a_restart_makes_no_negative_block() -> None:
    """A histogram that begins again loses the interval of the restart, and nothing else."""
    late = [replace(s, mono=s.mono + 120) for s in latencies(3)]
    found = compared(LATENCY, latencies(3), [*latencies(3), *late])
    assert found.events_after == 2 * found.events_before


@pytest.mark.parametrize(("allowed", "fails"), [(None, False), (1.0, True), (20.0, False)])
def test_only_a_sure_shift_beyond_the_rule_fails(allowed: float | None, fails: bool) -> None:
    """3 ms to 8 ms is beyond 1 ms, within 20 ms, and without a rule a report."""
    rule = replace(LATENCY, baseline_max_shift=allowed)
    found = compared(rule, latencies(3), latencies(8, seed=2))
    assert found.failed is fails
    better = compared(rule, latencies(8, seed=2), latencies(3))
    assert not better.failed, "getting better never fails"


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("failed", [True, False])
def test_statistics_only_add_a_failure(verdict: Verdict, failed: bool) -> None:
    """PASSED may become FAILED; every other verdict stays what it was."""
    one = MetricJudgement(
        "latency", verdict, "said", 1.0, 5.0, 4.0, 1.0, 0.0, 1.0, False, False, Points.of(())
    )
    judged = WindowJudgement(verdict, "said", {"latency": one})
    shifted = Comparison(
        metric="latency",
        n_before=9,
        n_after=9,
        events_before=9.0,
        events_after=9.0,
        failed=failed,
        sentence="worse",
    )
    compared = {"latency": shifted}
    turned = with_comparison(judged, compared)
    is_turned = failed and verdict is Verdict.PASSED
    assert turned.overall is (Verdict.FAILED if is_turned else verdict)
    assert ("worse" in turned.sentence) is is_turned
    assert with_comparison(judged, compared, accepted=True).overall is verdict


def test_the_rank_test_gives_the_textbook_figure() -> None:
    """1…10 against 6…15, by hand: ties at 6…10, U = 12.5, p = 0.005 with both corrections."""
    found = rank_test([float(n) for n in range(1, 11)], [float(n) for n in range(6, 16)])
    assert found == pytest.approx(0.0050, abs=0.0005)


values = st.lists(st.floats(0, 1000, allow_nan=False), min_size=8, max_size=40)


@settings(max_examples=40, deadline=None)
@given(values, values)
def test_the_same_bytes_come_out_twice(before: list[float], after: list[float]) -> None:
    """Whatever was measured: the same inputs, the same figures; swapped, the same p."""
    first = compared(STATE, states(before), states(after))
    assert first == compared(STATE, states(before), states(after))
    assert first.rank_p == compared(STATE, states(after), states(before)).rank_p
    if first.median is not None:
        assert first.median.low <= first.median.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(), max_size=20), st.lists(st.floats(), max_size=20))
def test_no_number_makes_it_crash(before: list[float], after: list[float]) -> None:
    """NaN, infinities, nothing at all: a sentence, and never a failure without a figure."""
    found = compared(replace(STATE, baseline_max_shift=0.0), states(before), states(after))
    assert found.sentence
    assert not found.failed or found.median is not None or found.p99 is not None


HARD = st.one_of(
    st.integers(0, 50).map(float),
    st.sampled_from([math.nan, math.inf]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@settings(max_examples=60)
@given(
    values=st.lists(st.one_of(st.none(), HARD), min_size=20, max_size=80),
    rule=st.sampled_from([STATE, replace(STATE, kind="counter"), replace(STATE, direction="min")]),
    cut=st.tuples(st.integers(0, 30), st.integers(30, 80)),
)
def test_blocks_read_what_samples_read(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[float | None],
    rule: MetricRule,
    cut: tuple[int, int],
) -> None:
    """Whatever stands in the file, from whenever to whenever it counts."""
    path = tmp_path_factory.mktemp("blocks") / "samples.jsonl"
    taken = [sample(n, {} if value is None else {"state": value}) for n, value in enumerate(values)]
    path.write_bytes(b"".join(one.to_line() for one in taken))
    since, until = 100.0 + cut[0], 100.0 + cut[1]
    singly, whole = (Readings(rule, seconds=3.0, since=since, until=until) for _ in range(2))
    read(singly, taken, rows=1)
    read(whole, read_samples(path))
    assert singly.increases == whole.increases
    assert singly.furthest == whole.furthest


def test_a_page_of_its_own_is_read_alone() -> None:
    """A rule's own url wins, and a page that another rule names is not the engine's."""
    mine, other = (
        replace(one, target=url)
        for one, url in ((sample(0, {"state": 1.0}), "mine"), (sample(1, {"state": 9.0}), "other"))
    )
    named = Readings(replace(STATE, url="mine"), seconds=1.0)
    unnamed = Readings(STATE, seconds=1.0, pages={"other"})
    for readings in (named, unnamed):
        read(readings, (mine, other))
    assert named.furthest == unnamed.furthest == [1.0]
