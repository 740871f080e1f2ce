"""The new engine held against the old one: shifts with intervals, and a rank test. Pure.

Both sides are cut into blocks that do not overlap: bucket deltas of a histogram, increases of a
counter, the worst value of a state or a lag. A block counts once, however many samples are in
it, and the bootstrap draws blocks. The draws are seeded by the inputs: the same bytes come out
twice. Statistics may only add a failure; what is too small to judge says so, with its numbers. A
quantile above the widest finite bucket of its histogram is not known, and has no shift.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from ctp_runbook.model import Verdict, worst
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.kinds import Comparison, Shift
from ctp_runbook.watch.histogram import bucket_quantile
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.measure import counts_events

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctp_runbook.watch.readings import Readings

__all__ = ["block_seconds", "compare_metric", "rank_test", "with_comparison"]

_LEAST_BLOCKS = 8
_LEAST_FOR = {0.5: 20, 0.99: 100}  # events, or values, without which the quantile is noise
_BLOCKS = 300
_DRAWS = 1000
_CONFIDENCE = (0.025, 0.975)


class _Block(Struct, frozen=True):
    """What one stretch of time came to: a value for the ranks (inf: above all buckets), and the
    buckets behind it."""

    value: float
    events: float = 1.0
    buckets: Mapping[float, float] = {}


def compare_metric(rule: MetricRule, before: Readings, after: Readings) -> Comparison:
    """Compare what both engines showed of one metric; the warm-up is the caller's to leave out."""
    old, new = _blocks(rule, before), _blocks(rule, after)
    sizes = Comparison(
        metric=rule.name,
        n_before=len(old),
        n_after=len(new),
        events_before=sum((block.events for block in old), 0.0),
        events_after=sum((block.events for block in new), 0.0),
    )
    if not (before.is_of_one_histogram and after.is_of_one_histogram):
        why = "not compared: an engine's histogram changed its buckets meanwhile"
        return structs.replace(sizes, sentence=why + _unasked(rule))
    if min(len(old), len(new)) < _LEAST_BLOCKS:
        why = f"too small to judge: {len(old)} blocks before, {len(new)} after; at least "
        why += f"{_LEAST_BLOCKS} each are needed"
        return structs.replace(sizes, sentence=why + _unasked(rule))
    # Only the whole interval beyond the limit is a failure: statistics may add one, never by chance.
    median, p99 = (_shift(rule, old, new, quantile=quantile) for quantile in _LEAST_FOR)
    failed = any(_is_beyond(rule, shift) for shift in (median, p99) if shift)
    figures = structs.replace(
        sizes, median=median, p99=p99, rank_p=_rank_p(old, new), failed=failed
    )
    return structs.replace(figures, sentence=_sentence(rule, figures))


def with_comparison(
    judged: WindowJudgement, compared: Mapping[str, Comparison], *, accepted: bool = False
) -> WindowJudgement:
    """Return the judgement with the failures that the comparison adds; it takes none away.

    ``accepted``: a person resumed the watch at its end, knowing them.
    """
    metrics = dict(judged.metrics)
    for name, metric in judged.metrics.items():
        shifted = name in compared and compared[name].failed
        if shifted and not accepted and metric.verdict is Verdict.PASSED:
            sentence = f"{name} FAILED: {compared[name].sentence}"
            metrics[name] = structs.replace(metric, verdict=Verdict.FAILED, sentence=sentence)
    overall = worst(metric.verdict for metric in metrics.values())
    if overall is judged.overall:
        return structs.replace(judged, metrics=metrics)
    sentence = next(metric.sentence for metric in metrics.values() if metric.verdict is overall)
    return WindowJudgement(overall, sentence, metrics)


def _rank_p(old: Sequence[_Block], new: Sequence[_Block]) -> float | None:
    """None where a block's value is above all buckets, and the other engine's end elsewhere: which
    of the two is greater is not known then. Above the same buckets it is greater than all below."""
    values = [block.value for block in (*old, *new)]
    if math.inf in values and len({_widest(block) for block in (*old, *new)}) > 1:
        return None
    return _rounded(rank_test(values[: len(old)], values[len(old) :]))


def _widest(block: _Block) -> float:
    return max((bound for bound in block.buckets if math.isfinite(bound)), default=math.inf)


def rank_test(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p-value of Mann–Whitney's U, by the normal approximation with ties; 1.0 for
    values that are all the same."""
    import numpy as np

    n, m = len(before), len(after)
    _, place, ties = np.unique([*before, *after], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    tied = float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1))
    spread = math.sqrt(max(0.0, n * m / 12 * (total + 1 - tied)))
    if spread == 0.0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / spread
    return math.erfc(z / math.sqrt(2))


# --- from samples to blocks -------------------------------------------------------


def block_seconds(rule: MetricRule, *spans: float) -> float:
    """How long a block is for sides of these lengths (s). A lag may look back over its whole
    window; longer stretches get longer blocks."""
    least = rule.window_seconds if rule.kind == "lag" else rule.interval_seconds
    return max(least, max(spans, default=0.0) / _BLOCKS)


def _blocks(rule: MetricRule, readings: Readings) -> list[_Block]:
    if not counts_events(rule):
        return [_Block(value) for value in readings.furthest]
    if rule.kind == "counter":
        return [_Block(count[0.0] * rule.scale, count[0.0]) for count in readings.increases]
    return [
        _Block(_quantile(rule, delta, 0.5), delta[math.inf], delta)
        for delta in readings.increases
        if delta[math.inf]
    ]


def _quantile(rule: MetricRule, buckets: Mapping[float, float], quantile: float) -> float:
    """In the rule's unit; inf above all buckets, NaN for no event."""
    within = bucket_quantile(buckets, quantile=quantile)
    if within is None:
        return math.nan
    return math.inf if within.is_over else within.value * rule.scale


# --- from blocks to figures -------------------------------------------------------


def _shift(
    rule: MetricRule, old: Sequence[_Block], new: Sequence[_Block], *, quantile: float
) -> Shift | None:
    import numpy as np

    enough = min(sum(b.events if b.buckets else 1 for b in side) for side in (old, new))
    if enough < _LEAST_FOR[quantile]:
        return None
    before, after = (_drawn(rule, side, quantile, name) for side, name in ((old, "o"), (new, "n")))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    low, high = np.quantile(after[1:] - before[1:], _CONFIDENCE)
    return Shift(
        before=_rounded(before[0]),
        after=_rounded(after[0]),
        shift=_rounded(after[0] - before[0]),
        low=_rounded(low),
        high=_rounded(high),
    )


def _drawn(
    rule: MetricRule, blocks: Sequence[_Block], quantile: float, side: str
) -> NDArray[np.float64]:
    """Return the quantile of the blocks, and behind it that of each bootstrap draw."""
    import numpy as np

    n = len(blocks)
    picks = np.random.default_rng(_seed(rule, blocks, side)).integers(0, n, size=(_DRAWS, n))
    picks = np.vstack([np.arange(n), picks])
    if not blocks[0].buckets:
        values = np.array([block.value for block in blocks])
        drawn: NDArray[np.float64] = np.quantile(values[picks], quantile, axis=1)
        return drawn
    bounds = sorted(blocks[0].buckets)  # those of all: what changed them is not compared
    counts = np.array([[block.buckets[bound] for bound in bounds] for block in blocks])
    times = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(float)
    sums = (times @ counts).tolist()  # whole numbers: exact in whatever order they are added
    return np.array(
        [_quantile(rule, dict(zip(bounds, row, strict=True)), quantile) for row in sums]
    )


def _seed(rule: MetricRule, blocks: Iterable[_Block], side: str) -> int:
    said = repr((rule.name, side, [(b.value, b.events, sorted(b.buckets.items())) for b in blocks]))
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")


def _is_beyond(rule: MetricRule, shift: Shift) -> bool:
    """True when the whole interval lies beyond what the rule allows, in the bad direction."""
    if rule.baseline_max_shift is None:
        return False
    surely = shift.low if rule.direction == "max" else -shift.high
    return surely > rule.baseline_max_shift


def _rounded(value: float) -> float:
    """Seven figures: more is not known, and no processor's last bit gets into a record."""
    return float(f"{value:.7g}") + 0.0


# --- in words ---------------------------------------------------------------------


def _unasked(rule: MetricRule) -> str:
    if rule.baseline_max_shift is None:
        return ""
    return f"; watch.{rule.name}.baseline_max_shift {rule.baseline_max_shift:g} was not applied"


def _sentence(rule: MetricRule, figures: Comparison) -> str:
    shifts = {0.5: ("median", figures.median), 0.99: ("p99", figures.p99)}
    sentence = "; ".join(
        f"{name} {_shift_words(rule, shift) if shift else _no_shift(rule, figures, quantile)}"
        for quantile, (name, shift) in shifts.items()
    )
    if figures.median is None and figures.p99 is None:
        return sentence + _unasked(rule)
    rank = "not known" if figures.rank_p is None else f"p {figures.rank_p:.2g}"
    sentence += f"; rank test {rank} (n {figures.n_before} before, {figures.n_after} after)"
    most = rule.amount(f"{rule.baseline_max_shift or 0:g}")
    limit = f"watch.{rule.name}.baseline_max_shift {most}"
    return f"{sentence}; surely beyond {limit}" if figures.failed else sentence


def _shift_words(rule: MetricRule, shift: Shift) -> str:
    return (
        f"{shift.before:.3g} → {rule.amount(f'{shift.after:.3g}')} "
        f"({shift.shift:+.3g}, 95 % {shift.low:+.3g} to {shift.high:+.3g})"
    )


def _no_shift(rule: MetricRule, figures: Comparison, quantile: float) -> str:
    least, old, new = _LEAST_FOR[quantile], float(figures.n_before), float(figures.n_after)
    if rule.kind == "latency_quantile":
        old, new = figures.events_before, figures.events_after
    if min(old, new) >= least:
        return "not known: it may lie above the widest bucket of an engine's histogram"
    return f"too small to judge: {old:.0f} before, {new:.0f} after, {least} needed"
