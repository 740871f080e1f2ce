"""The judge: samples and rules in, verdicts out. Pure: the same samples give the same verdict.

The same class judges live, sample by sample, and offline, replaying a file. A verdict is PASSED
only on positive proof: no data, NaN, stale or sparse data is never a pass. What could not be
measured (``blind``) is told apart from what was measured and is bad.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctp_runbook.config import MetricRule, WatchRules
from ctp_runbook.measure import Point, asked_of, badness, counts_events, is_page
from ctp_runbook.model import Verdict, worst
from ctp_runbook.points import Points
from ctp_runbook.samples import Sample
from ctp_runbook.triggers import Condition, Trigger
from ctp_runbook.watched import SLACK_SECONDS, Watched

if TYPE_CHECKING:
    from ctp_runbook.sample_blocks import Block, Chunk, Row

__all__ = ["Firing", "MetricJudgement", "WindowJudge", "WindowJudgement", "judge_window"]


@dataclass(frozen=True)
class Firing:
    """The rollback trigger became true at one sample."""

    metric: str
    value: float
    limit: float
    unit: str
    sentence: str
    sample_seq: int
    wall: float
    mono: float


@dataclass(frozen=True)
class MetricJudgement:
    """What is known of one metric. ``margin`` is how far the worst value stayed from the limit;
    ``query`` is what was asked, and of whom.

    ``blind``: there is no fresh measurement. ``coverage``: share of the window, past the warm-up,
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
    """A condition that holds: since which measurement of its metric, and by which last (mono)."""

    since: float
    last: float
    value: float


@dataclass(frozen=True)
class _Moment:
    """When a verdict is taken, of which window; times in monotonic seconds."""

    mono: float
    started: float
    ends: float
    final: bool
    firing: Firing | None

    @property
    def is_early(self) -> bool:
        """True when the window is judged for good before it is over."""
        return self.final and self.mono < self.ends - SLACK_SECONDS


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
            if _concerns(sample, watched.rule, pages=self._pages)
        }
        if self.firing or not touched:
            return None
        self._note_held(touched)
        self.firing = self._evaluate(sample.seq, sample.wall, sample.mono)
        return self.firing

    def add_chunk(self, chunk: Chunk) -> Firing | None:
        """Take part of a samples file in; the firing that a sample of it caused."""
        from ctp_runbook.sample_blocks import rows_of

        known = {key: len(watched.log) for key, watched in self._watched.items()}
        looks: list[tuple[Block | tuple[int, Sample], tuple[str, ...]]] = []
        for item in chunk.items:
            one = item[1] if isinstance(item, tuple) else item
            keys = [
                k for k, w in self._watched.items() if _concerns(one, w.rule, pages=self._pages)
            ]
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
            condition.holds(value)
            for clause in self._trigger.any_of
            for condition in clause
            for value in self._watched[condition.metric].log.value[known[condition.metric] :]
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
        moment = _Moment(mono, self._started, self._ends, final, self.firing)
        judged = {key: _judge_metric(one, moment) for key, one in self._watched.items()}
        overall = worst(one.verdict for one in judged.values())
        told = [one.sentence for one in judged.values() if one.verdict is overall]
        sentence = told[0] if told else "no metric is watched"
        return WindowJudgement(overall=overall, sentence=sentence, metrics=judged)

    def _note_held(self, touched: Mapping[str, Point]) -> None:
        for condition in {one for clause in self._trigger.any_of for one in clause}:
            if (point := touched.get(condition.metric)) is None:
                continue
            if point.judged and point.value is not None and condition.holds(point.value):
                goes_on = self._holds(condition, point.mono)
                since = self._held[condition].since if goes_on else point.mono
                self._held[condition] = _Held(since, point.mono, point.value)
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
        return mono - held.last <= fresh_seconds + SLACK_SECONDS

    def _is_due(self, condition: Condition, mono: float) -> bool:
        if not self._holds(condition, mono):
            return False
        held = self._held[condition]
        return held.last - held.since >= condition.for_seconds - SLACK_SECONDS

    def _fire(self, condition: Condition, seq: int, wall: float, mono: float) -> Firing:
        value = self._held[condition].value
        unit = self._watched[condition.metric].rule.unit
        return Firing(
            metric=condition.metric,
            value=value,
            limit=condition.value,
            unit=unit,
            sentence=(
                f"rollback trigger: {condition.metric} = {_number(value)} {unit} at "
                f"{_clock(wall)}; condition {condition.sentence}"
            ),
            sample_seq=seq,
            wall=wall,
            mono=mono,
        )


def judge_window(
    samples: Iterable[Sample],
    *,
    rules: WatchRules,
    keys: tuple[str, ...],
    trigger: Trigger,
    started_mono: float,
    ends_mono: float,
    accepted_mono: Iterable[float] = (),
    judged_mono: float | None = None,
    final: bool = True,
) -> tuple[WindowJudgement, Firing | None]:
    """Judge a window again from its raw samples, as the live judge did.

    ``accepted_mono`` are the moments somebody resumed the watch; ``judged_mono`` is when the
    verdict was taken (``ends_mono`` when None). ``final`` asks for proof over the whole window.
    """
    judge = WindowJudge(
        rules=rules, keys=keys, trigger=trigger, started_mono=started_mono, ends_mono=ends_mono
    )
    resumes = sorted(accepted_mono)
    for sample in samples:
        while resumes and resumes[0] <= sample.mono:
            judge.accept()
            resumes.pop(0)
        judge.add(sample)
    if resumes:
        judge.accept()
    at = ends_mono if judged_mono is None else judged_mono
    return judge.at(at, final=final), judge.firing


def _concerns(sample: Sample | Block, rule: MetricRule, *, pages: Collection[str]) -> bool:
    """Every sample but a page goes by the metric's name; ``pages`` are those that rules name."""
    if sample.source != rule.source:
        return False
    if not is_page(rule):
        return sample.target in ("", rule.source, rule.name)
    return sample.target == rule.url if rule.url else sample.target not in pages


def _judge_metric(watched: Watched, moment: _Moment) -> MetricJudgement:
    rule, extreme = watched.rule, watched.extreme
    worst_value = extreme.value if extreme else None
    coverage = watched.coverage(moment.started, min(moment.mono, moment.ends))
    verdict, sentence, blind = _verdict(watched, coverage=coverage, moment=moment)
    return MetricJudgement(
        name=rule.name,
        query=asked_of(rule),
        verdict=verdict,
        sentence=f"{rule.name} {verdict.name}: {sentence}; query {_shortened(asked_of(rule))}",
        value=watched.valued.value if watched.valued else None,
        limit=rule.limit,
        margin=None if worst_value is None else 0.0 - badness(rule, worst_value),
        worst=worst_value,
        worst_wall=extreme.wall if extreme else None,
        coverage=coverage,
        blind=blind,
        breaching=watched.breach_since is not None,
        points=watched.log.points,
    )


def _verdict(watched: Watched, *, coverage: float, moment: _Moment) -> tuple[Verdict, str, bool]:
    """Verdict, sentence, and whether there is no fresh measurement. Hard limits come first."""
    rule = watched.rule
    where = f"watch.{rule.name}.limit {_number(rule.limit)} {rule.unit}"
    if (bad := watched.failed_at) and bad.value is not None:
        sign = ">" if rule.direction == "max" else "<"
        text = (
            f"{_number(bad.value)} {rule.unit} {sign} {where} at {_clock(bad.wall)}, beyond it by "
            f"{_number(badness(rule, bad.value))} {rule.unit}"
        )
        return Verdict.FAILED, text, False
    if moment.firing and moment.firing.metric == rule.name:
        return Verdict.FAILED, moment.firing.sentence, False
    if moment.mono - moment.started <= rule.warm_up_seconds and not moment.final:
        return Verdict.INCONCLUSIVE, "warming up", False
    age = moment.mono - (watched.fresh.mono if watched.fresh else moment.started)
    if age > rule.fresh_seconds:
        last = watched.last
        why = last.reason if last and not last.measured else "no sample came"
        text = f"no fresh measurement for {age:.0f} s (fresh_seconds {rule.fresh_seconds:g}): {why}"
        verdict = Verdict.ERROR if last and last.status == "error" else Verdict.INCONCLUSIVE
        return verdict, text, True
    if moment.final and coverage < rule.min_coverage:
        text = f"{coverage:.0%} of the due samples came; min_coverage is {rule.min_coverage:.0%}"
        return Verdict.INCONCLUSIVE, text, True
    if watched.fresh is None:
        return Verdict.INCONCLUSIVE, "not measured yet", False
    if moment.is_early:
        return Verdict.INCONCLUSIVE, _early(watched, moment, where=where), False
    return _proof(watched, where=where)


def _early(watched: Watched, moment: _Moment, *, where: str) -> str:
    """A window that was stopped proves nothing, whatever it showed until then."""
    lasted, due = moment.mono - moment.started, moment.ends - moment.started
    beyond = f", beyond {where} when it was" if watched.breach_since is not None else ""
    return f"the watch was stopped after {lasted:.0f} s of {due:.0f} s{beyond}"


def _proof(watched: Watched, *, where: str) -> tuple[Verdict, str, bool]:
    rule, events, extreme = watched.rule, watched.series.events, watched.extreme
    if missed := watched.series.unjudged:
        text = f"{missed:.0f} events since the engine restarted, and no sample after that to judge"
        return Verdict.INCONCLUSIVE, text, False
    if counts_events(rule) and events < max(1, rule.min_events):
        if events == 0 and rule.zero_events == "pass":
            return Verdict.PASSED, f"fresh scrapes prove no event at all; {where}", False
        text = (
            f"{events:.0f} events in the window; min_events is {rule.min_events}: too few to judge"
        )
        return Verdict.INCONCLUSIVE, text, False
    if extreme is None or extreme.value is None:
        return Verdict.INCONCLUSIVE, "no value was measured in the window", False
    margin = 0.0 - badness(rule, extreme.value)
    text = (
        f"worst {_number(extreme.value)} {rule.unit} at {_clock(extreme.wall)}, margin "
        f"{_number(margin)} {rule.unit}; {where}"
    )
    if margin < 0:
        text += f", which it was beyond for less than for_seconds {rule.for_seconds:g}"
    return Verdict.PASSED, text, False


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%SZ")


def _shortened(query: str) -> str:
    """Of a long query its begin and whom it was put to; whole it stands in ``query``."""
    return query if len(query) <= 80 else f"{query[:50]}…{query[query.rindex(' (') :]}"
