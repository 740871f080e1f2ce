"""The judge: samples and rules in, verdicts out. Pure: the same samples give the same verdict.

The same class judges live, by each sample as it comes, and offline, by a file in chunks. A verdict is PASSED
only on positive proof: no data, NaN, stale or sparse data is never a pass. What could not be
measured (``blind``) is told apart from what was measured and is bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from msgspec import Struct

from ctp_runbook.model import Verdict, worst
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import Condition, Trigger
from ctp_runbook.record.sample_blocks import Block, Chunk
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import asked_of, badness, concerns, pages_of
from ctp_runbook.watch.metric_state import SLACK_SECONDS, Watched
from ctp_runbook.watch.points import Point, Points
from ctp_runbook.watch.share_tests import Tested, is_tested, tests_of
from ctp_runbook.watch.verdicts import Firing, Moment, firing_of, shortened_query, verdict_of

__all__ = ["MetricJudgement", "WindowJudge", "WindowJudgement"]

_NOTHING = Point(0.0, 0.0, None, None, "no_data")


class MetricJudgement(Struct, frozen=True):
    """What is known of one metric. ``margin`` is how far the worst value stayed from the limit;
    ``query`` is what was asked, and of whom.

    Where ``is_over`` the truth is more than ``value``, where ``worst_is_over`` it is more than
    ``worst``, and the margin is not known. ``blind``: nothing fresh is known. ``coverage``: share
    of the window, past the warm-up, that measurements speak for (0..1), each for one interval.
    Values, limit and margin are in the metric's own unit.
    """

    name: str
    verdict: Verdict
    sentence: str
    value: float | None
    limit: float
    margin: float | None
    worst: float | None
    worst_wall: float | None
    coverage: float
    blind: bool
    breaching: bool
    points: Points
    query: str = ""
    is_over: bool = False
    worst_is_over: bool = False


class WindowJudgement(Struct, frozen=True):
    """What is known of the whole window; ``overall`` is the worst of its metrics."""

    overall: Verdict
    sentence: str
    metrics: Mapping[str, MetricJudgement]

    @property
    def blind(self) -> tuple[str, ...]:
        """Metrics without a fresh measurement."""
        return tuple(name for name, judged in self.metrics.items() if judged.blind)

    @property
    def breaching(self) -> tuple[str, ...]:
        """Metrics beyond their limit now."""
        return tuple(name for name, judged in self.metrics.items() if judged.breaching)


class _Held(Struct):
    """A condition of the trigger, and the first and the last measurement that it holds by without
    a break; None while it does not hold. ``proof``: what it is true by, where a test makes it so."""

    condition: Condition
    rule: MetricRule
    first: Point | None = None
    last: Point | None = None
    proof: Tested | None = None

    @property
    def metric(self) -> str:
        """The metric it is a condition on."""
        return self.condition.metric

    def is_true_of(self, point: Point) -> bool:
        """True when the point counts and makes the condition true; where a test makes it so, the point
        only must not be within the bound."""
        is_needed, is_proved = self.is_tested, self.proof is not None
        if not point.judged or (is_needed and not is_proved):
            return False
        if point.value is None:
            return is_needed
        return self.condition.holds(point.value, is_over=point.is_over)

    @property
    def is_tested(self) -> bool:
        """True where a test makes it true, and not a value."""
        return is_tested(self.rule, self.condition)

    def accept(self) -> None:
        """Forget what was proved so far."""
        if self.is_tested:
            self.first = self.last = self.proof = None

    def note(self, point: Point) -> None:
        """Take a point of its metric in."""
        for tested in point.tested:
            if self.is_tested and tested.is_of(self.condition.value):
                self.proof = tested if tested.stands else None
        if not self.is_true_of(point):
            self.first = self.last = None
            return
        self.first = self.first if self._is_fresh(point.mono) else point
        self.last = point

    def is_due(self, mono: float) -> bool:
        """True once it has held for as long as it says, by what is still fresh."""
        if self.first is None or self.last is None or not self._is_fresh(mono):
            return False
        held_seconds = self.last.mono - self.first.mono
        return held_seconds >= self.condition.for_seconds - SLACK_SECONDS

    def firing(self, sample: Sample) -> Firing:
        """Return what there is to say when the trigger fires by it, at ``sample``."""
        assert self.last is not None  # asked of what is due
        return firing_of(self.condition, self.last, rule=self.rule, sample=sample, proof=self.proof)

    def _is_fresh(self, mono: float) -> bool:
        """True while the measurement that it held by is fresh; silence makes no ``for``."""
        if self.last is None:
            return False
        return mono - self.last.mono <= self.rule.fresh_seconds + SLACK_SECONDS


class WindowJudge:
    """Judges a window as its samples come in.

    ``started_mono`` and ``ends_mono`` are seconds of the host's monotonic clock. Without
    ``keeps_points``, which is for drawing, the memory of a long watch stays flat.
    """

    def __init__(
        self,
        *,
        rules: WatchRules,
        keys: tuple[str, ...],
        trigger: Trigger,
        started_mono: float,
        ends_mono: float,
        keeps_points: bool = True,
    ) -> None:
        self._started, self._ends = started_mono, ends_mono
        own = {key: rules.metrics[key] for key in keys}
        self._pages = pages_of(own.values())
        self._watched = {
            key: Watched(
                rule,
                started=started_mono,
                ends=ends_mono,
                keeps_points=keeps_points,
                tests=tests_of(rule, trigger),
            )
            for key, rule in own.items()
        }
        # A clause on what nobody watches never becomes true.
        self._clauses = [
            [_Held(condition, own[condition.metric]) for condition in clause]
            for clause in trigger.any_of
            if own.keys() >= {condition.metric for condition in clause}
        ]
        self._held = [*chain.from_iterable(self._clauses)]
        self.firing: Firing | None = None

    def add(self, sample: Sample) -> Firing | None:
        """Take a sample in as it comes; return the firing, where this one made the trigger true."""
        has_fired = self.firing is not None
        self.take(Chunk.of(sample))
        return None if has_fired else self.firing

    def take(self, chunk: Chunk) -> None:
        """Take samples in, as few or as many as there are: what is said of them is the same."""
        counts = {key: len(watched.log) for key, watched in self._watched.items()}
        keys = [self._measured_by(item) for item in chunk.items]
        for item, own in zip(chunk.items, keys, strict=True):
            for key in own:
                self._watched[key].take(item)
        if self.firing is None and self._may_fire(counts):
            self.firing = self._firing_in(chunk, keys, counts)
        for watched in self._watched.values():
            watched.rest()

    def accept(self) -> None:
        """Forget limits broken so far: a person or a rule resumed the watch knowing them."""
        for watched in self._watched.values():
            watched.accept()
        for held in self._held:
            held.accept()

    def at(self, mono: float, *, final: bool = False) -> WindowJudgement:
        """Return the verdicts as they stand at ``mono``; ``final`` asks for proof over the whole
        window."""
        moment = Moment(mono, self._started, self._ends, final, self.firing)
        metrics = {key: _judge_metric(watched, moment) for key, watched in self._watched.items()}
        overall = worst(metric.verdict for metric in metrics.values())
        sentences = (metric.sentence for metric in metrics.values() if metric.verdict is overall)
        return WindowJudgement(overall, next(sentences, "no metric is watched"), metrics)

    def _measured_by(self, item: Block) -> list[str]:
        return [k for k, w in self._watched.items() if concerns(item, w.rule, pages=self._pages)]

    def _note(self, points: Mapping[str, Point]) -> None:
        for held in self._held:
            if point := points.get(held.metric):
                held.note(point)

    def _firing_at(self, sample: Sample) -> Firing | None:
        # Asked at each sample, not only at those of its metrics: what is due may go stale meanwhile.
        for clause in self._clauses:
            if all(held.is_due(sample.mono) for held in clause):
                return clause[0].firing(sample)
        return None

    def _may_fire(self, counts: Mapping[str, int]) -> bool:
        # Most chunks make no condition true, and then nobody needs to look at each line.
        return any(
            held.last
            or held.proof
            or self._watched[held.metric].log.has_turned(counts[held.metric])
            for held in self._held
        ) or any(
            held.condition.holds(value, is_over=bool(over))
            for held in self._held
            if not held.is_tested
            for value, over in self._watched[held.metric].log.values_since(counts[held.metric])
        )

    def _firing_in(
        self, chunk: Chunk, keys: Sequence[Sequence[str]], counts: Mapping[str, int]
    ) -> Firing | None:
        """Go line by line through what was taken in, for the sample that fires."""
        # In the order of the file, and not metric by metric: which sample fires is in the record.
        since = {
            held.metric: self._watched[held.metric].log.points.since(counts[held.metric])
            for held in self._held
        }
        for item, sample in chunk.lines():
            self._note({key: next(since[key]) for key in keys[item] if key in since})
            if keys[item] and (firing := self._firing_at(sample)):
                return firing
        return None


def _judge_metric(watched: Watched, moment: Moment) -> MetricJudgement:
    rule, extreme = watched.rule, watched.extreme or _NOTHING
    valued, query = watched.valued or _NOTHING, asked_of(watched.rule)
    known = None if extreme.is_over else extreme.value
    coverage = watched.coverage(moment.started, min(moment.mono, moment.ends))
    verdict, sentence, blind = verdict_of(watched, coverage=coverage, moment=moment)
    return MetricJudgement(
        name=rule.name,
        query=query,
        verdict=verdict,
        sentence=f"{rule.name} {verdict.name}: {sentence}; query {shortened_query(query)}",
        value=valued.value,
        limit=rule.limit,
        margin=None if known is None else 0.0 - badness(rule, known),
        worst=extreme.value,
        worst_wall=extreme.wall if watched.extreme else None,
        coverage=coverage,
        blind=blind,
        breaching=watched.breach_since is not None,
        points=watched.log.points,
        is_over=valued.is_over,
        worst_is_over=extreme.is_over,
    )
