"""The judge: samples and rules in, verdicts out. Pure: the same samples give the same verdict.

The same class judges live, sample by sample, and offline, replaying a file. A verdict is PASSED
only on positive proof: no data, NaN, stale or sparse data is never a pass. What could not be
measured (``blind``) is told apart from what was measured and is bad.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ctp_runbook.config import MetricRule, WatchRules
from ctp_runbook.measure import MetricSeries, Point, badness, counts_events, is_page
from ctp_runbook.model import Verdict, worst
from ctp_runbook.samples import Sample
from ctp_runbook.triggers import Condition, Trigger

__all__ = ["Firing", "MetricJudgement", "WindowJudge", "WindowJudgement", "judge_window"]

_SLACK_SECONDS = 1e-6


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
    """What is known of one metric. ``margin`` is how far the worst value stayed from the limit.

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
    points: tuple[Point, ...]


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


@dataclass
class _Watched:
    """One metric under watch, and what is asked of its points: kept as they come, for a verdict
    must not cost more the longer it is watched."""

    rule: MetricRule
    series: MetricSeries
    keeps_points: bool = True
    breach_since: float | None = None
    failed_at: Point | None = None
    points: list[Point] = field(default_factory=list)
    last: Point | None = None
    fresh: Point | None = None
    valued: Point | None = None
    extreme: Point | None = None
    # Of each point that counts: when, and how much of the time until then is covered, in seconds.
    times: array[float] = field(default_factory=lambda: array("d"))
    covered: array[float] = field(default_factory=lambda: array("d"))

    def add(self, sample: Sample) -> Point:
        point = self.series.add(sample)
        self.last = point
        if self.keeps_points:
            self.points.append(point)
        if point.status == "breach":
            self.breach_since = point.mono if self.breach_since is None else self.breach_since
            if point.mono - self.breach_since >= self.rule.for_seconds - _SLACK_SECONDS:
                self.failed_at = self.failed_at or point
        elif point.measured:
            self.breach_since = None
        self._count(point)
        return point

    def _count(self, point: Point) -> None:
        if not point.measured:
            return
        self.fresh = point
        if not point.judged:
            return
        interval = self.rule.interval_seconds
        before = self.covered[-1] if self.covered else interval
        gap = _covered(point.mono - self.times[-1], interval) if self.times else 0.0
        self.times.append(point.mono)
        self.covered.append(before + gap)
        if point.value is not None:
            self.valued = point
            how_bad = badness(self.rule, point.value)
            if self.extreme is None or how_bad > badness(self.rule, self.extreme.value or 0.0):
                self.extreme = point

    def coverage(self, *, started: float, until: float) -> float:
        """Share of the due intervals that measurements speak for, however many came in one."""
        interval = self.rule.interval_seconds
        due = int((until - started - self.rule.warm_up_seconds) / interval)
        number = bisect_right(self.times, until + _SLACK_SECONDS)
        if due <= 0 or not number:
            return 0.0
        return min(1.0, self.covered[number - 1] / (due * interval))


@dataclass(frozen=True)
class _Held:
    """A condition that holds: since which measurement of its metric, and by which last (mono)."""

    since: float
    last: float


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
        return self.final and self.mono < self.ends - _SLACK_SECONDS


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
            key: _Watched(rule, MetricSeries(rule, started_mono=started_mono), keeps_points)
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
        self.firing = self._evaluate(sample)
        return self.firing

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
                self._held[condition] = _Held(since, point.mono)
            else:
                self._held.pop(condition, None)

    def _evaluate(self, sample: Sample) -> Firing | None:
        for clause in self._trigger.any_of:
            if all(self._is_due(condition, sample.mono) for condition in clause):
                return self._fire(clause[0], sample)
        return None

    def _holds(self, condition: Condition, mono: float) -> bool:
        """True while the measurement that it held by is fresh; silence makes no ``for``."""
        held = self._held.get(condition)
        if held is None:
            return False
        fresh_seconds = self._watched[condition.metric].rule.fresh_seconds
        return mono - held.last <= fresh_seconds + _SLACK_SECONDS

    def _is_due(self, condition: Condition, mono: float) -> bool:
        if not self._holds(condition, mono):
            return False
        held = self._held[condition]
        return held.last - held.since >= condition.for_seconds - _SLACK_SECONDS

    def _fire(self, condition: Condition, sample: Sample) -> Firing:
        watched = self._watched[condition.metric]
        unit, value = watched.rule.unit, watched.last.value if watched.last else None
        assert value is not None  # it held
        return Firing(
            metric=condition.metric,
            value=value,
            limit=condition.value,
            unit=unit,
            sentence=(
                f"rollback trigger: {condition.metric} = {_number(value)} {unit} at "
                f"{_clock(sample.wall)}; condition {condition.sentence}"
            ),
            sample_seq=sample.seq,
            wall=sample.wall,
            mono=sample.mono,
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


def _concerns(sample: Sample, rule: MetricRule, *, pages: Collection[str]) -> bool:
    """Every sample but a page goes by the metric's name; ``pages`` are those that rules name."""
    if sample.source != rule.source:
        return False
    if not is_page(rule):
        return sample.target in ("", rule.source, rule.name)
    return sample.target == rule.url if rule.url else sample.target not in pages


def _judge_metric(watched: _Watched, moment: _Moment) -> MetricJudgement:
    rule, extreme = watched.rule, watched.extreme
    worst_value = extreme.value if extreme else None
    until = min(moment.mono, moment.ends)
    coverage = watched.coverage(started=moment.started, until=until)
    verdict, sentence, blind = _verdict(watched, coverage=coverage, moment=moment)
    return MetricJudgement(
        name=rule.name,
        verdict=verdict,
        sentence=f"{rule.name} {verdict.name}: {sentence}",
        value=watched.valued.value if watched.valued else None,
        limit=rule.limit,
        margin=None if worst_value is None else 0.0 - badness(rule, worst_value),
        worst=worst_value,
        worst_wall=extreme.wall if extreme else None,
        coverage=coverage,
        blind=blind,
        breaching=watched.breach_since is not None,
        points=tuple(watched.points),
    )


def _covered(gap: float, interval: float) -> float:
    """Of the time between two measurements, what is covered: a schedule may be half an interval
    off. Fixed slots would make much of where they begin."""
    return max(0.0, gap if gap <= 1.5 * interval else interval)


def _verdict(watched: _Watched, *, coverage: float, moment: _Moment) -> tuple[Verdict, str, bool]:
    """Verdict, sentence, and whether there is no fresh measurement. Hard limits come first."""
    rule, last = watched.rule, watched.last
    where = f"watch.{rule.name}.limit {_number(rule.limit)} {rule.unit}"
    if (bad := watched.failed_at) and bad.value is not None:
        sign = ">" if rule.direction == "max" else "<"
        text = f"{_number(bad.value)} {rule.unit} {sign} {where} at {_clock(bad.wall)}"
        return Verdict.FAILED, text, False
    if moment.firing and moment.firing.metric == rule.name:
        return Verdict.FAILED, moment.firing.sentence, False
    if moment.mono - moment.started <= rule.warm_up_seconds and not moment.final:
        return Verdict.INCONCLUSIVE, "warming up", False
    fresh = watched.fresh
    age = moment.mono - (fresh.mono if fresh else moment.started)
    if age > rule.fresh_seconds:
        why = last.reason if last and not last.measured else "no sample came"
        text = f"no fresh measurement for {age:.0f} s (fresh_seconds {rule.fresh_seconds:g}): {why}"
        verdict = Verdict.ERROR if last and last.status == "error" else Verdict.INCONCLUSIVE
        return verdict, text, True
    if moment.final and coverage < rule.min_coverage:
        text = f"{coverage:.0%} of the due samples came; min_coverage is {rule.min_coverage:.0%}"
        return Verdict.INCONCLUSIVE, text, True
    if moment.is_early:
        return Verdict.INCONCLUSIVE, _early(watched, moment, where=where), False
    return _proof(watched, where=where)


def _early(watched: _Watched, moment: _Moment, *, where: str) -> str:
    """A window that was stopped proves nothing, whatever it showed until then."""
    lasted, due = moment.mono - moment.started, moment.ends - moment.started
    beyond = f", beyond {where} when it was" if watched.breach_since is not None else ""
    return f"the watch was stopped after {lasted:.0f} s of {due:.0f} s{beyond}"


def _proof(watched: _Watched, *, where: str) -> tuple[Verdict, str, bool]:
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
    text = f"worst {_number(extreme.value)} {rule.unit} at {_clock(extreme.wall)}; {where}"
    if badness(rule, extreme.value) > 0:
        text += f", which it was beyond for less than for_seconds {rule.for_seconds:g}"
    return Verdict.PASSED, text, False


def _number(value: float) -> str:
    return f"{value:.4g}"


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%SZ")
