"""The old engine held against the limits: each window of a recording, judged as a watch would be.

Nothing is judged here. A window is cut from the recording, or put together from pieces of one that is
shorter, and shown to the same ``WindowJudge`` that watches live, so that whatever rule decides there
decides here. numpy comes with this module: neither a dry run nor the process that rolls back imports it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from decimal import Decimal
from operator import gt
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET, Struct, structs

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.calibration import AlarmRate
from ctp_runbook.record.sample_blocks import Block, Chunk
from ctp_runbook.record.samples import split_series
from ctp_runbook.watch.judge import MetricJudgement, WindowJudge, WindowJudgement
from ctp_runbook.watch.measure import concerns, counts_events, pages_of
from ctp_runbook.watch.pieces import Pieces, pieces_rate
from ctp_runbook.watch.sequential import share_interval, upper_share
from ctp_runbook.watch.verdicts import Firing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Outcome",
    "Recorded",
    "Suggestion",
    "Windows",
    "Yardstick",
    "alarm_rate",
    "any_measured",
    "judge_windows",
    "metric_alarms",
    "quantiles_of",
    "suggest_limit",
    "values_of",
    "whole",
    "windows_needed",
]

_SURE = 0.95
_END_OF_CALENDAR = 253402300800.0
_ROUND = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


class Yardstick(Struct, frozen=True):
    """What a recording is held against: rules, which of them are watched, and the trigger."""

    rules: WatchRules
    keys: tuple[str, ...]
    trigger: Trigger

    @property
    def watched(self) -> tuple[MetricRule, ...]:
        """The rules that are watched."""
        return tuple(self.rules.metrics[key] for key in self.keys)

    def of(self, rule: MetricRule, limit: float | None = None) -> Yardstick:
        """Return that of one metric alone, its limit and its trigger's at ``limit`` where given.

        What the trigger joins by ``and`` stands alone then: the other half may be true any day.
        """
        own = [c for clause in self.trigger.any_of for c in clause if c.metric == rule.name]
        if limit is not None:
            rule = structs.replace(rule, limit=limit)
            own = [structs.replace(condition, value=limit) for condition in own]
        rules = structs.replace(self.rules, metrics={rule.name: rule})
        return Yardstick(rules, (rule.name,), Trigger("", tuple((each,) for each in own)))


class Recorded:
    """A recording in memory, target by target, from which windows are cut.

    ``begins`` and ``ends`` are monotonic seconds of the first and the last sample, ``wall_zero`` what
    makes wall clock of them. Raises ValueError for samples of two boots, of no year that there is, or
    none.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._items = [item for chunk in chunks for item in chunk.items]
        if not self._items:
            raise ValueError("no sample is in it")
        spans = [(item.mono[0], item.mono[-1]) for item in self._items]
        self._firsts, self._lasts = np.array(spans).T
        self.begins, self.ends = float(self._firsts.min()), float(self._lasts.max())
        latest: dict[tuple[str, str], float] = {}
        for item, (first, last) in zip(self._items, spans, strict=True):
            whose = item.source, item.target
            if first < latest.get(whose, -math.inf) or any(map(gt, item.mono, item.mono[1:])):
                raise ValueError(
                    f"the samples of {item.source} go back in time: two boots in one file"
                )
            latest[whose] = last
        self.wall_zero = self._items[0].wall[0] - spans[0][0]
        if not self.wall_zero + self.ends < _END_OF_CALENDAR:
            raise ValueError("its clock goes on beyond the year 9999")

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(item.seq) for item in self._items)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.ends - self.begins

    @property
    def blocks(self) -> Iterator[Block]:
        """All that succeeded."""
        return (item for item in self._items if item.ok)

    def between(self, since: float, until: float) -> Chunk:
        """Return the samples from one monotonic second to another, both included."""
        places = np.flatnonzero((self._lasts >= since) & (self._firsts <= until))
        items = [cut for at in places if (cut := self._items[at].between(since, until)).seq]
        order = np.repeat(np.arange(len(items)), [len(item.seq) for item in items])
        numbers = np.array([number for item in items for number in item.seq])
        return Chunk(items, order[np.argsort(numbers, kind="stable")].tolist())

    def of(self, rule: MetricRule, *, pages: Collection[str]) -> Recorded:
        """Return what measures one metric, on the same clock; ``pages`` are those of all rules."""
        own = copy(self)
        kept = [n for n, item in enumerate(self._items) if concerns(item, rule, pages=pages)]
        own._items = [self._items[n] for n in kept]
        own._firsts, own._lasts = self._firsts[kept], self._lasts[kept]
        return own

    def pieces(self, rules: Iterable[MetricRule], *, seconds: float) -> Pieces:
        """Return the recording in pieces of so many seconds, to put windows together from."""
        return Pieces(self._items, rules, begins=self.begins, ends=self.ends, seconds=seconds)

    def starts(self, *, seconds: float, step: float, slack: float) -> list[float]:
        """Return where windows begin that the recording holds whole, but for ``slack`` at its end."""
        count = math.floor((self.seconds + slack - seconds) / step + 1e-9) + 1
        return [self.begins + number * step for number in range(max(0, count))]


class Outcome(Struct, frozen=True):
    """How one window ended: the judge's own words."""

    began: float
    judged: WindowJudgement
    firing: Firing | None


class Suggestion(Struct, frozen=True):
    """What limit would have held, None where none can be told; the limit to take, what alarms it would
    have raised, and why it is this."""

    would_hold: float | None
    limit: float | None
    alarms: AlarmRate | None
    sentence: str


class Windows(Struct, frozen=True):
    """Where windows begin (monotonic seconds), how long one is, and how many on the first begins that
    does not overlap with one; ``rate`` is how many of them may alarm.

    With ``pieces``, which is how many seconds one has, they are put together from such pieces of the
    recording, and where they begin says nothing.
    """

    starts: tuple[float, ...]
    seconds: float
    apart: int
    rate: float
    pieces: float = 0.0

    def judged(self, recorded: Recorded, yardstick: Yardstick) -> Iterator[Outcome]:
        """Judge each of them."""
        return judge_windows(
            recorded, yardstick, starts=self.starts, seconds=self.seconds, pieces=self.pieces
        )

    def rate_of(self, alarms: Sequence[bool | None], recorded: Recorded) -> AlarmRate:
        """Return the rate of alarms in them, with the interval that fits how they were made."""
        if self.pieces:
            return pieces_rate(alarms, seconds=self.seconds, recorded=recorded.seconds)
        return alarm_rate(alarms, apart=self.apart)


def judge_windows(
    recorded: Recorded,
    yardstick: Yardstick,
    *,
    starts: Sequence[float],
    seconds: float,
    pieces: float = 0.0,
) -> Iterator[Outcome]:
    """Judge each window as a watch that began there and lasted so long."""
    cut = recorded.pieces(yardstick.watched, seconds=pieces) if pieces else None
    for number, began in enumerate(starts):
        judge = _judge(yardstick, began, began + seconds)
        if cut is None:
            judge.take(recorded.between(began, began + seconds))
        else:
            judge.take(cut.window(number, began=began, seconds=seconds))
        yield Outcome(began, judge.at(began + seconds, final=True), judge.firing)


def whole(recorded: Recorded, rule: MetricRule, rules: WatchRules) -> MetricJudgement:
    """Judge the whole recording by one rule, as one window without a warm-up, for its points."""
    rule = structs.replace(rule, warm_up_seconds=0.0)
    yardstick = Yardstick(
        structs.replace(rules, metrics={rule.name: rule}), (rule.name,), Trigger("", ())
    )
    judge = _judge(yardstick, recorded.begins, recorded.ends)
    judge.take(recorded.between(recorded.begins, recorded.ends))
    return judge.at(recorded.ends, final=True).metrics[rule.name]


def _judge(yardstick: Yardstick, began: float, ends: float) -> WindowJudge:
    return WindowJudge(
        rules=yardstick.rules,
        keys=yardstick.keys,
        trigger=yardstick.trigger,
        started_mono=began,
        ends_mono=ends,
    )


def values_of(recorded: Recorded, rule: MetricRule, yardstick: Yardstick) -> NDArray[np.float64]:
    """Return what the judge saw of a metric in the whole recording, a value a sample that has one."""
    own = recorded.of(rule, pages=pages_of(yardstick.watched))
    _, values, _ = whole(own, rule, yardstick.rules).points.columns()
    return values[~np.isnan(values)]


def quantiles_of(values: NDArray[np.float64]) -> dict[str, float]:
    """Return what they are spread over, by name; nothing for no value."""
    if not len(values):
        return {}
    named = {"lowest": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "highest": 1.0}
    quantiles = np.quantile(values, list(named.values()))
    return {name: float(f"{value:.6g}") for name, value in zip(named, quantiles, strict=True)}


def metric_alarms(outcomes: Sequence[Outcome], name: str) -> list[bool | None]:
    """Return of each window whether a metric would have alarmed; None where nothing was measured."""
    return [_alarm(outcome.judged.metrics[name]) for outcome in outcomes]


def any_measured(outcome: Outcome) -> bool:
    """True for a window in which something was measured of any metric."""
    return any(_alarm(metric) is not None for metric in outcome.judged.metrics.values())


def _alarm(metric: MetricJudgement) -> bool | None:
    # FAILED is both: a limit that was broken, and the trigger that fired by this metric.
    if metric.verdict is Verdict.FAILED:
        return True
    return False if metric.verdict is Verdict.PASSED or metric.worst is not None else None


def alarm_rate(alarms: Sequence[bool | None], *, apart: int) -> AlarmRate:
    """Return the rate of alarms, every ``apart``-th window being the first that does not overlap.

    Windows that measured nothing count neither way: silence is no proof of quiet.
    """
    own = [alarm for alarm in alarms[::apart] if alarm is not None]
    low, high = share_interval(len(own), sum(own)) if own else (0.0, 1.0)
    measured = [alarm for alarm in alarms if alarm is not None]
    return AlarmRate(
        alarms=sum(own),
        windows=len(own),
        low=round(low, 6),
        high=round(high, 6),
        sliding_alarms=sum(measured),
        sliding_windows=len(measured),
    )


def windows_needed(rate: float) -> int:
    """Return how many windows without an alarm prove, at 95 %, a rate no higher than ``rate``."""
    return math.ceil(math.log(1 - _SURE) / math.log1p(-rate))


def suggest_limit(
    recorded: Recorded, rule: MetricRule, yardstick: Yardstick, windows: Windows, now: AlarmRate
) -> Suggestion:
    """Return the strictest limit whose alarms, limit's and trigger's together, were no more than
    allowed, and the limit to take; ``now`` is the rate at the limit that there is.

    A limit that held is never loosened, and made stricter only where so many windows prove the rate
    at the stricter one as well. One that did not hold is loosened, a step beyond what would have held
    where nothing proves the rate. A state's limit says what is allowed, not what was measured: none
    is suggested.
    """
    if not now.sliding_windows:
        return Suggestion(None, None, None, "nothing was measured: the limit is as it was")
    if rule.kind == "state":
        return Suggestion(None, None, now, "a state's limit says what is allowed: it is as it was")
    recorded = recorded.of(rule, pages=pages_of(yardstick.watched))
    levels = _levels(recorded, rule, whole(recorded, rule, yardstick.rules))
    if not levels:
        return Suggestion(None, None, now, "no value was measured: any limit would have held")

    def rate_at(limit: float, own: Windows = windows) -> AlarmRate:
        outcomes = list(own.judged(recorded, yardstick.of(rule, limit)))
        return own.rate_of(metric_alarms(outcomes, rule.name), recorded)

    # Most levels are told by the windows that do not overlap; the rest are a third of the work.
    few = structs.replace(windows, starts=windows.starts[:: windows.apart], apart=1)
    place = _first_holding(levels, lambda limit: _share(rate_at(limit, few)) <= windows.rate)
    rates = {place: rate_at(levels[place])} if place < len(levels) else {}
    while place < len(levels) and _share(rates[place]) > windows.rate:
        place += 1
        if place < len(levels):
            rates[place] = rate_at(levels[place])
    if place == len(levels):
        why = "no limit can be told that would have held: the histogram ends before it"
        return Suggestion(None, None, now, why)
    proof = _events_proof(recorded, rule, yardstick.rules)
    return _suggestion(rule, levels, place, rates[place], now, proof, windows, rate_at)


def _suggestion(
    rule: MetricRule,
    levels: Sequence[float],
    place: int,
    held: AlarmRate,
    now: AlarmRate,
    proof: _Proof | None,
    windows: Windows,
    rate_at: Callable[[float], AlarmRate],
) -> Suggestion:
    would_hold, rate = levels[place], windows.rate
    most = upper_share(held.windows, held.alarms) if held.windows else 1.0
    if windows.pieces:
        most = held.high  # windows put together from the same pieces prove nothing by their number
    is_proved = most <= rate or (proof is not None and proof.bound <= would_hold * (1 + 1e-9))
    text = f"{rule.amount(f'{would_hold:g}')} would have held"
    if proof is not None:
        share = f"{(1 - rule.quantile) * 100:.3g} %"
        bound = rule.amount(f"{next((x for x in levels if x >= proof.bound), proof.bound):g}")
        text += (
            f"; of {proof.events:.0f} events at most {share} are over {bound}, proved at 95 % if "
        )
        text += f"{proof.independent} are independent of each other"
    if not is_proved:
        text += f"; {_too_few(held, most, windows)}, for {rate * 100:.3g} % it takes "
        text += f"{windows_needed(rate)}" + (" whole ones" if windows.pieces else "")
    has_held = _share(now) <= rate
    if has_held and (not is_proved or _leniency(rule, would_hold) >= _leniency(rule, rule.limit)):
        return Suggestion(would_hold, rule.limit, now, f"{text}; the limit held, and stays")
    if is_proved or place + 1 == len(levels):
        return Suggestion(would_hold, would_hold, held, text)
    limit = levels[place + 1]
    return Suggestion(would_hold, limit, rate_at(limit), f"{text}, so this is a step beyond")


def _too_few(held: AlarmRate, most: float, windows: Windows) -> str:
    """Say what so many windows leave open."""
    if windows.pieces:
        return "a recording shorter than one window proves no rate of them"
    return f"{held.windows} windows prove no rate below {most * 100:.2g} %"


def _share(rate: AlarmRate) -> float:
    """The share of all windows, overlapping ones too: what happened between two counts as well."""
    return rate.sliding_alarms / rate.sliding_windows if rate.sliding_windows else 0.0


def _leniency(rule: MetricRule, limit: float) -> float:
    return limit if rule.direction == "max" else -limit


def _first_holding(levels: Sequence[float], holds: Callable[[float], bool]) -> int:
    """Return the place of the first level that holds: whatever is more lenient than it holds too."""
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(levels[middle]) else (middle + 1, high)
    return low


def _levels(recorded: Recorded, rule: MetricRule, judged: MetricJudgement) -> list[float]:
    """Limits worth trying, the strictest first: of a histogram its own bounds, for between two of them
    nothing is known; else round numbers from the lowest value measured to one above the highest."""
    if (extremes := judged.points.extremes) is None:
        return []
    if counts_events(rule) and rule.kind == "latency_quantile":
        return sorted(_bounds(recorded, rule), key=lambda bound: _leniency(rule, bound))
    lowest, highest = extremes
    if rule.unit in ("count", "state") and highest <= 1000:
        return [float(n) for n in range(int(max(0.0, lowest)), math.ceil(highest) + 2)]
    most = max(abs(lowest), abs(highest), 1e-3)
    least = most / 1e4
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 2)
    rounded = [float(Decimal(str(m)).scaleb(power)) for power in powers for m in _ROUND]
    levels = [level for level in rounded if least <= level <= most * 2.5]
    return levels if rule.direction == "max" else levels[::-1]


def _bounds(recorded: Recorded, rule: MetricRule) -> set[float]:
    family = f"{rule.query}_bucket"
    layouts = {block.layout for block in recorded.blocks}
    names = {name for layout in layouts for name in layout if name.startswith(family)}
    limits = (split_series(name)[1].get("le", "") for name in names)
    bounds = (
        float(Decimal(text) * Decimal(str(rule.scale))) for text in limits if _is_number(text)
    )
    return {bound for bound in bounds if bound > 0}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class _Proof(Struct, frozen=True):
    """The least bound that enough events prove the rule's quantile to lie below, if what is named
    ``independent`` is so."""

    bound: float
    events: float
    independent: str


def _events_proof(recorded: Recorded, rule: MetricRule, rules: WatchRules) -> _Proof | None:
    """Return what the events of the whole recording prove; None for too few, and where the rule judges
    by no such proof: a plain p99 of few orders is their slowest.

    Of n events so many may be over a bound that the true share is surely (95 %) no more than the
    quantile allows. Where they begin is a quantile as well, which the judge is asked for. Where the
    rule allows for bursts, n are the spans with events in them, as long as a burst, and each event
    over the bound is taken for a span of its own.
    """
    if not counts_events(rule) or not rule.is_sequential:
        return None
    long = structs.replace(
        rule,
        window_seconds=recorded.seconds + rule.interval_seconds,
        min_events=1,
        still_seconds=UNSET,
    )
    points = whole(recorded, long, rules).points
    events = next((p.events for p in reversed(list(points)) if p.events), 0.0) or 0.0
    trials, independent = events, "they"
    if span := rule.span_seconds:
        seen = whole(recorded, structs.replace(long, window_seconds=span), rules).points
        busy = [bool(point.events) for point in seen if point.events is not None]
        trials = recorded.seconds / span * (sum(busy) / len(busy) if busy else 0.0)
        trials, independent = min(events, trials), f"those {span:g} s apart"
    over = _most_over(int(trials), 1 - rule.quantile)
    if over is None:
        return None
    level = min(max(1 - (over + 0.5) / events, 0.0), 0.999999)
    last = whole(recorded, structs.replace(long, quantile=level), rules).points
    value = next((p for p in reversed(list(last)) if p.value is not None), None)
    if value is None or value.value is None or value.is_over:
        return None
    return _Proof(value.value, events, independent)


def _most_over(events: int, share: float) -> int | None:
    """Return how many of so many events may be over, with the true share surely no more than ``share``."""
    allowed = range(int(events * share) + 1)
    number = bisect_right(allowed, share, key=lambda over: upper_share(events, over))
    return number - 1 if number else None
