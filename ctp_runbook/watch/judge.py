"""The judge: samples and rules in, verdicts out. Pure: the same samples give the same verdict.

The same class judges live, sample by sample, and offline, replaying a file. A verdict is PASSED
only on positive proof: no data, NaN, stale or sparse data is never a pass. What could not be
measured (``blind``) is told apart from what was measured and is bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctp_runbook.model import Verdict, worst
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Condition, Trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import Point, asked_of, badness, concerns
from ctp_runbook.watch.metric_state import SLACK_SECONDS, Watched
from ctp_runbook.watch.points import Points
from ctp_runbook.watch.verdicts import Firing, Moment, firing_of, shortened_query, verdict_of

if TYPE_CHECKING:
    from ctp_runbook.record.sample_blocks import Block, Chunk, Row

__all__ = ["MetricJudgement", "WindowJudge", "WindowJudgement"]


@dataclass(frozen=True)
class MetricJudgement:
    """What is known of one metric. ``margin`` is how far the worst value stayed from the limit;
    ``query`` is what was asked, and of whom.

    Where ``is_over`` the truth is more than ``value``, where ``worst_is_over`` it is more than
    ``worst``, and the margin is not known. ``blind``: nothing fresh is known. ``coverage``: share of the window, past the warm-up,
    that measurements speak for (0..1), each for one interval. Values, limit and margin are in the metric's own unit.
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


@dataclass(frozen=True)
class WindowJudgement:
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


@dataclass(frozen=True)
class _Held:
    """A condition that holds: since when (mono) by measurements of its metric, and the last one."""

    since: float
    last: Point


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
        self._trigger = trigger
        self._held: dict[Condition, _Held] = {}
        self._watched = {
            key: Watched(rule, started=started_mono, ends=ends_mono, keeps_points=keeps_points)
            for key in keys
            for rule in [rules.metrics[key]]
        }
        self._pages = frozenset(one.rule.url for one in self._watched.values() if one.rule.url)
        self.firing: Firing | None = None

    def add(self, sample: Sample) -> Firing | None:
        """Take a sample in; the firing it caused, if it is the one that made the trigger true."""
        touched = {
            key: watched.add(sample)
            for key, watched in self._watched.items()
            if concerns(sample, watched.rule, pages=self._pages)
        }
        if self.firing or not touched:
            return None
        self._note_held(touched)
        self.firing = self._evaluate(sample.seq, sample.wall, sample.mono)
        return self.firing

    def add_chunk(self, chunk: Chunk) -> Firing | None:
        """Take part of a samples file in; the firing that a sample of it caused."""
        from ctp_runbook.record.sample_blocks import rows_of

        known = {key: len(watched.log) for key, watched in self._watched.items()}
        looks: list[tuple[Block | tuple[int, Sample], tuple[str, ...]]] = []
        for item in chunk.items:
            one = item[1] if isinstance(item, tuple) else item
            keys = [k for k, w in self._watched.items() if concerns(one, w.rule, pages=self._pages)]
            for key in keys:
                if isinstance(one, Sample):
                    self._watched[key].add(one)
                else:
                    self._watched[key].add_block(one)
            if keys:
                looks.append((item, tuple(k for k in keys if k in self._trigger.metrics)))
        if self.firing is None and (self._held or self._may_hold(known)):
            rows = ((row, keys) for item, keys in looks for row in rows_of(item))
            self.firing = self._fired_in(sorted(rows, key=lambda one: one[0].place), known)
            return self.firing
        return None

    def _may_hold(self, known: Mapping[str, int]) -> bool:
        """True when any value that came since makes a condition of the trigger true."""
        return any(
            condition.holds(value, is_over=bool(over))
            for clause in self._trigger.any_of
            for condition in clause
            for value, over in self._watched[condition.metric].log.values_from(
                known[condition.metric]
            )
        )

    def _fired_in(
        self, rows: Iterable[tuple[Row, tuple[str, ...]]], known: Mapping[str, int]
    ) -> Firing | None:
        """Go through samples that were taken in, each with the metrics of the trigger it has a
        point of, for the one that fires."""
        points = {key: self._watched[key].log.points for key in self._trigger.metrics}
        at = {key: known[key] for key in self._trigger.metrics}
        for row, keys in rows:
            touched = {key: points[key][at[key]] for key in keys}
            for key in keys:
                at[key] += 1
            self._note_held(touched)
            if firing := self._evaluate(row.seq, row.wall, row.mono):
                return firing
        return None

    def accept(self) -> None:
        """Forget limits broken so far: a person or a rule resumed the watch knowing them."""
        for watched in self._watched.values():
            watched.failed_at = None

    def at(self, mono: float, *, final: bool = False) -> WindowJudgement:
        """The verdicts as they stand at ``mono``; ``final`` asks for proof over the whole window."""
        moment = Moment(mono, self._started, self._ends, final, self.firing)
        judged = {key: _judge_metric(one, moment) for key, one in self._watched.items()}
        overall = worst(one.verdict for one in judged.values())
        told = [one.sentence for one in judged.values() if one.verdict is overall]
        sentence = told[0] if told else "no metric is watched"
        return WindowJudgement(overall=overall, sentence=sentence, metrics=judged)

    def _note_held(self, touched: Mapping[str, Point]) -> None:
        for condition in {one for clause in self._trigger.any_of for one in clause}:
            if (point := touched.get(condition.metric)) is None:
                continue
            if _is_true_of(condition, point):
                goes_on = self._holds(condition, point.mono)
                since = self._held[condition].since if goes_on else point.mono
                self._held[condition] = _Held(since, point)
            else:
                self._held.pop(condition, None)

    def _evaluate(self, seq: int, wall: float, mono: float) -> Firing | None:
        for clause in self._trigger.any_of:
            if all(self._is_due(condition, mono) for condition in clause):
                return self._fire(clause[0], seq, wall, mono)
        return None

    def _holds(self, condition: Condition, mono: float) -> bool:
        """True while the measurement that it held by is fresh; silence makes no ``for``."""
        held = self._held.get(condition)
        if held is None:
            return False
        fresh_seconds = self._watched[condition.metric].rule.fresh_seconds
        return mono - held.last.mono <= fresh_seconds + SLACK_SECONDS

    def _is_due(self, condition: Condition, mono: float) -> bool:
        if not self._holds(condition, mono):
            return False
        held = self._held[condition]
        return held.last.mono - held.since >= condition.for_seconds - SLACK_SECONDS

    def _fire(self, condition: Condition, seq: int, wall: float, mono: float) -> Firing:
        last, rule = self._held[condition].last, self._watched[condition.metric].rule
        return firing_of(condition, last, rule=rule, seq=seq, wall=wall, mono=mono)


def _is_true_of(condition: Condition, point: Point) -> bool:
    if not point.judged or point.value is None:
        return False
    return condition.holds(point.value, is_over=point.is_over)


def _judge_metric(watched: Watched, moment: Moment) -> MetricJudgement:
    rule, extreme = watched.rule, watched.extreme
    worst_value = extreme.value if extreme else None
    worst_is_over = extreme is not None and extreme.is_over
    known = None if worst_is_over else worst_value
    coverage = watched.coverage(moment.started, min(moment.mono, moment.ends))
    verdict, sentence, blind = verdict_of(watched, coverage=coverage, moment=moment)
    return MetricJudgement(
        name=rule.name,
        query=asked_of(rule),
        verdict=verdict,
        sentence=f"{rule.name} {verdict.name}: {sentence}; query {shortened_query(asked_of(rule))}",
        value=watched.valued.value if watched.valued else None,
        limit=rule.limit,
        margin=None if known is None else 0.0 - badness(rule, known),
        worst=worst_value,
        worst_wall=extreme.wall if extreme else None,
        coverage=coverage,
        blind=blind,
        breaching=watched.breach_since is not None,
        points=watched.log.points,
        is_over=watched.valued is not None and watched.valued.is_over,
        worst_is_over=worst_is_over,
    )
