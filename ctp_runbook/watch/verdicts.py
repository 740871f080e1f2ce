"""What a metric's measurements prove at a moment: its verdict, and the sentence that says why.

PASSED needs positive proof over the whole window. A value of which no more is known than that it is
more than some bound is FAILED where the limit is no higher than the bound, else it proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import chain

from msgspec import UNSET, Struct

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.triggers import Condition, Trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.histogram import bucket_quantile, counts_fault, scaled_bound
from ctp_runbook.watch.measure import (
    MetricSeries,
    badness,
    concerns,
    more_than,
    pages_of,
    status_of,
)
from ctp_runbook.watch.metric_state import SLACK_SECONDS, Watched
from ctp_runbook.watch.points import Point
from ctp_runbook.watch.sequential import ShareTest, assumption, proved_quantile, upper_share
from ctp_runbook.watch.share_tests import ShareTests, Tested

__all__ = ["Firing", "Moment", "firing_of", "missing_buckets", "shortened_query", "verdict_of"]

_MOST_EVIDENCE = 690.0  # its exponential is still a float
_MOST_ODDS = 10_000


class Firing(Struct, frozen=True):
    """The rollback trigger became true at one sample; ``is_over``: by more than ``value``."""

    metric: str
    value: float
    limit: float
    unit: str
    sentence: str
    sample_seq: int
    wall: float
    mono: float
    is_over: bool = False


class Moment(Struct, frozen=True):
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


def missing_buckets(
    rules: Collection[MetricRule], trigger: Trigger, sample: Sample
) -> Iterator[str]:
    """Yield, of each limit and each number of the trigger, that the histogram on this page has no
    bucket at it: a value near it, or above all buckets, is then told from it by guess, or not at all.
    """
    pages = pages_of(rules)
    for rule in rules:
        series = MetricSeries(rule, started_mono=0.0)
        if not (sample.ok and series.is_histogram and concerns(sample, rule, pages=pages)):
            continue
        ends = series.bounds(tuple(sample.series))
        bounds = [scaled_bound(rule, end) for end in ends if math.isfinite(end)]
        of_trigger = [
            (f"the trigger's {_shown(rule, condition.value)}", condition.value)
            for condition in chain.from_iterable(trigger.any_of)
            if condition.metric == rule.name
        ]
        caps = [] if rule.cap is UNSET else [(_where(rule, "cap"), rule.cap)]
        for where, limit in ((_where(rule), rule.limit), *of_trigger, *caps):
            if bounds and limit not in bounds:
                yield _missing_bucket(rule, bounds, where=where, limit=limit, page=sample.target)


def _missing_bucket(
    rule: MetricRule, bounds: list[float], *, where: str, limit: float, page: str
) -> str:
    below = max((bound for bound in bounds if bound < limit), default=None)
    above = min((bound for bound in bounds if bound > limit), default=None)
    text = f"{where} has no bucket at it: {rule.query} of {page} has its widest at "
    text += f"{_shown(rule, max(bounds))}, and nothing is known of what is more"
    if above is not None:
        stretch = f"up to {_shown(rule, above)}"
        if below is not None:
            stretch = f"from {_number(below)} {stretch.removeprefix('up ')}"
        text = (
            f"{where} has no bucket at it: what {rule.query} of {page} counts {stretch} may be on "
        )
        text += "either side of it"
    return f"{text}; give the histogram a bucket at {_shown(rule, limit)}"


def firing_of(
    condition: Condition,
    point: Point,
    *,
    rule: MetricRule,
    sample: Sample,
    proof: Tested | None = None,
) -> Firing:
    """Return the trigger true by ``condition``, last seen at ``point``, at this sample; by ``proof``
    where a test makes it true."""
    if proof is not None and point.value is None:
        # Too few events in the window for a quantile; that it is more than the bound is proved.
        value, is_over = condition.value, True
    else:
        value, is_over = _value(point), point.is_over  # what has neither makes no condition true
    seen = f"= {_shown(rule, value)}{_whose(point)} at {_clock(sample.wall)}"
    if proof is not None:
        seen = f"at {_clock(sample.wall)}: {_counted(rule, proof)}, {_evidence(rule, proof)}"
    elif point.is_over:
        amount = _amount(rule, point)
        seen = f"is {amount} at {_clock(sample.wall)}, above its histogram's widest bucket"
    return Firing(
        metric=condition.metric,
        value=value,
        limit=condition.value,
        unit=rule.unit,
        sentence=f"rollback trigger: {condition.metric} {seen}; condition {condition.sentence}",
        sample_seq=sample.seq,
        wall=sample.wall,
        mono=sample.mono,
        is_over=is_over,
    )


def verdict_of(watched: Watched, *, coverage: float, moment: Moment) -> tuple[Verdict, str, bool]:
    """Return verdict, sentence, and whether nothing fresh is known. Hard limits come first."""
    rule = watched.rule
    where = _where(rule)
    # A limit that was broken for as long as the rule allows stays broken, whatever came since.
    if bad := watched.failed_at:
        proof = watched.failed_by
        text = _disproved(rule, proof, at=bad) if proof else _beyond(rule, bad, where=where)
        return Verdict.FAILED, text, _is_unknown_now(watched)
    if moment.firing and moment.firing.metric == rule.name:
        return Verdict.FAILED, moment.firing.sentence, False
    if moment.mono - moment.started <= rule.warm_up_seconds and not moment.final:
        return Verdict.INCONCLUSIVE, "warming up", False
    # Silence before coverage: of the two it is the one that somebody can do something about now.
    age = moment.mono - (watched.fresh.mono if watched.fresh else moment.started)
    if age > rule.fresh_seconds:
        last = watched.last
        why = last.reason if last and not last.measured else "no sample came"
        text = f"no fresh measurement for {age:.0f} s (fresh_seconds {rule.fresh_seconds:g}): {why}"
        verdict = Verdict.ERROR if last and last.status == "error" else Verdict.INCONCLUSIVE
        return verdict, text, True
    if text := _stillness(watched, moment):
        return Verdict.INCONCLUSIVE, text, True
    if moment.final and coverage < rule.min_coverage:
        text = f"{coverage:.0%} of the due samples came; min_coverage is {rule.min_coverage:.0%}"
        return Verdict.INCONCLUSIVE, text, True
    if watched.fresh is None:
        return Verdict.INCONCLUSIVE, "not measured yet", False
    if moment.is_early:
        return Verdict.INCONCLUSIVE, _early(watched, moment, where=where), False
    return _proof(watched, where=where, final=moment.final)


def _stillness(watched: Watched, moment: Moment) -> str:
    """Say that nothing has moved for too long; blank where something has, or nobody asks."""
    most, moved = watched.rule.still_seconds, watched.series.moved
    since = moment.started if moved is None else moved
    if most is UNSET or moment.mono - since <= most or (moved is None and moment.final):
        return ""  # that there never was any is told otherwise
    quiet = f"no event for {moment.mono - since:.0f} s (still_seconds {most:g})"
    return f"{quiet}: whether anything moves is not known"


def _where(rule: MetricRule, key: str = "limit") -> str:
    return f"watch.{rule.name}.{key} {_shown(rule, getattr(rule, key))}"


# --- what tests say ---------------------------------------------------------------


def _counted(rule: MetricRule, tested: Tested) -> str:
    """How many events were over a bound, and which share that is."""
    share = tested.over / tested.events if tested.events else 0.0
    whose = f" of {tested.labels}" if tested.labels else ""
    return (
        f"{tested.over:.0f} of {tested.events:.0f} events{whose} over {_shown(rule, tested.bound)} "
        f"({_percent(share)})"
    )


def _evidence(rule: MetricRule, tested: Tested) -> str:
    """The odds that more are over it than may be, and what they rest on."""
    odds = math.exp(min(tested.evidence, _MOST_EVIDENCE))
    shown = f"{odds:.0f}" if odds < _MOST_ODDS else f"more than {_MOST_ODDS}"
    return (
        f"more than the {_percent(rule.allowed_share)} that may be: evidence {shown} to 1, at a "
        f"false_alarm_rate of {_percent(rule.false_alarms)} of watches, where {_assumed(rule)}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _assumed(rule: MetricRule) -> str:
    return assumption(ShareTest(rule.allowed_share, rule.false_alarms, rule.span_seconds))


def _disproved(rule: MetricRule, tested: Tested, *, at: Point) -> str:
    counted, moment = _counted(rule, tested), _clock(at.wall)
    if tested.is_cap:
        return f"{counted} at {moment}, and none may be; {_where(rule, 'cap')}"
    return f"{counted} at {moment}, {_evidence(rule, tested)}; {_where(rule)}"


def _untold(rule: MetricRule, tests: ShareTests | None) -> str:
    """Say of how many events nobody can tell on which side of a limit they are; blank for none."""
    for key, tested in (("limit", tests.at_limit), ("cap", tests.at_cap)) if tests else ():
        if tested and tested.unclear:
            return (
                f"{tested.unclear:.0f} of {tested.events:.0f} events may be on either side of "
                f"{_where(rule, key)}, which has no bucket at it; give the histogram a bucket at "
                f"{_shown(rule, tested.bound)}"
            )
    return ""


def _proved(rule: MetricRule, tests: ShareTests, *, final: bool) -> tuple[bool, str]:
    """Whether it is proved that no more events are over the limit than may be, and in words what is:
    at the end, for such a proof is one of one look."""
    counted = _counted(rule, tests.at_limit) if tests.at_limit else ""
    counted += " since the watch was resumed" if tests.is_resumed else ""
    if not final:
        return False, f"{counted}, which disproves nothing so far"
    many, over = tests.independent
    what, limit = f"p{100 * rule.quantile:g}", _shown(rule, rule.limit)
    assumed = f"where {_assumed(rule)}"
    if many and upper_share(many, over) <= rule.allowed_share:
        return True, f"{counted}: {what} <= {limit} proved at 95 %, {assumed}"
    known = proved_quantile(many, over)
    of_what = (
        f"{many} events"
        if rule.span_seconds == 0
        else f"{many} spans of {rule.span_seconds:g} s with events"
    )
    only = f"only p{100 * known:g} <= {limit} is proved" if known else "no quantile is proved"
    return False, f"{counted}: {what} is not disproved; with {of_what} {only} at 95 %, {assumed}"


def _early(watched: Watched, moment: Moment, *, where: str) -> str:
    # A window that was stopped proves nothing, whatever it showed until then.
    lasted, due = moment.mono - moment.started, moment.ends - moment.started
    beyond = f", beyond {where} when it was" if watched.breach_since is not None else ""
    return f"the watch was stopped after {lasted:.0f} s of {due:.0f} s{beyond}"


def _beyond(rule: MetricRule, bad: Point, *, where: str) -> str:
    """Value, comparison, limit, moment, and by how much; of what is more than a bound, the bound."""
    sign = ">" if rule.direction == "max" else "<"
    amount = f"{_amount(rule, bad)} {sign} {where} at {_clock(bad.wall)}"
    if bad.is_over:
        return f"{amount}: its histogram's widest bucket ends at {_shown(rule, _value(bad))}"
    return f"{amount}, beyond it by {_shown(rule, badness(rule, _value(bad)))}"


def _unknown(rule: MetricRule, point: Point, *, where: str) -> str:
    """A value above all buckets, which end below the limit: on which side of it is not known."""
    return (
        f"{_amount(rule, point)} at {_clock(point.wall)}: its histogram's widest bucket ends at "
        f"{_shown(rule, _value(point))}, below {where}; the engine's histogram needs a "
        "bucket at or above the limit"
    )


def _proof(watched: Watched, *, where: str, final: bool) -> tuple[Verdict, str, bool]:
    rule, events, extreme = watched.rule, watched.series.events, watched.extreme
    if watched.unknown is not None:
        text = _unknown(rule, watched.unknown, where=where)
        return Verdict.INCONCLUSIVE, text, _is_unknown_now(watched)
    if missed := watched.series.unjudged:
        text = f"{missed:.0f} events since the engine restarted, and no sample after that to judge"
        return Verdict.INCONCLUSIVE, text, False
    if watched.series.has_events and events < max(1, rule.min_events):
        # That nothing happened is a proof where the rule says so; that little did is none.
        if events == 0 and rule.zero_events == "pass":
            return Verdict.PASSED, f"fresh scrapes prove no event at all; {where}", False
        text = f"{events:.0f} events in the window; min_events is {rule.min_events}"
        return Verdict.INCONCLUSIVE, f"{text}: too few to judge", False
    if text := _untold(rule, watched.tests) or _sparse(watched, where=where):
        return Verdict.INCONCLUSIVE, text, False
    said = ""
    if watched.tests and rule.is_sequential:
        is_proved, said = _proved(rule, watched.tests, final=final)
        if rule.needs == "proof" and final and not is_proved:
            return Verdict.INCONCLUSIVE, f"{said}; watch.{rule.name}.needs is proof", False
    if extreme is None:
        return Verdict.INCONCLUSIVE, "no value was measured in the window", False
    text = f"worst {_amount(rule, extreme)} at {_clock(extreme.wall)}, {_margin(rule, extreme)}"
    text = f"{said}; the window's {text}" if said else text
    text += f"; {where}"
    if extreme.status == "breach":
        text += f", which it was beyond for less than for_seconds {rule.for_seconds:g}"
    return Verdict.PASSED, text, False


def _sparse(watched: Watched, *, where: str) -> str:
    """Return what is to be said of events that came too thin for the window; blank where they are
    within the limit, or are too few to say anything at all.

    Put together they are enough for a quantile. It fails nothing, for it is of no window; but with
    one beyond the limit, those that came thicker prove nothing for these.
    """
    rule, buckets = watched.rule, watched.series.unsettled()
    if rule.is_sequential or not buckets:
        return ""  # a test counts them all, however thin they came
    bounds = sorted(buckets)
    counts = [buckets[bound] for bound in bounds]
    events = counts[-1]
    if events < max(1, rule.min_events) or counts_fault(bounds, counts):
        return ""
    quantile = bucket_quantile(bounds, counts, quantile=rule.quantile)
    if quantile is None:
        return ""
    value = scaled_bound(rule, quantile.value) if quantile.is_over else quantile.value * rule.scale
    if status_of(rule, value, is_over=quantile.is_over) == "good":
        return ""
    amount = more_than(_shown(rule, value), is_over=quantile.is_over)
    return (
        f"{events:.0f} events came when fewer than min_events {rule.min_events} did within "
        f"window_seconds {rule.window_seconds:g}; together they are at {amount}, not within {where}: "
        "too few to fail, too slow to pass"
    )


def _is_unknown_now(watched: Watched) -> bool:
    """What is unknown is not good, however freshly it was measured: no hold may end by it."""
    return watched.fresh is not None and watched.fresh.status == "open_bucket"


def _margin(rule: MetricRule, extreme: Point) -> str:
    bound = ("at most " if rule.direction == "max" else "more than ") if extreme.is_over else ""
    return f"margin {bound}{_shown(rule, 0.0 - badness(rule, _value(extreme)))}"


def _amount(rule: MetricRule, point: Point) -> str:
    amount = _shown(rule, _value(point))
    return more_than(amount, is_over=point.is_over) + _whose(point)


def _whose(point: Point) -> str:
    """Name the series that is the worst, where it is one of several."""
    return f" of {point.labels}" if point.labels else ""


def _value(point: Point) -> float:
    assert point.value is not None  # asked of points with a value only
    return point.value


def _shown(rule: MetricRule, value: float) -> str:
    return rule.amount(_number(value))


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%SZ")


def shortened_query(query: str) -> str:
    """Return the begin of a long query and who was asked; whole it stands in ``query``."""
    asked, of, whom = query.rpartition(" (")
    is_long = len(query) > 80 and len(asked) > 50
    return f"{asked[:50]}…{of}{whom}" if is_long else query
