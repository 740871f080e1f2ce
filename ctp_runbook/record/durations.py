"""How long cutover and rollback took in an environment: read from the journals of its runs."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from msgspec import Struct

from ctp_runbook.errors import RunbookError
from ctp_runbook.model import Outcome, Phase, StepStatus
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.plan.timing import Measured, p95
from ctp_runbook.record.evidence import rollback_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir, glance_at, runs_under

__all__ = [
    "Bound",
    "bound_of",
    "cutover_seconds",
    "measured_durations",
    "rising_p",
    "runs_needed",
    "usual_step_seconds",
]

_LAST_RUNS = 20
_TWIN = "rehearsal-"
# One that failed has no duration.
_ROLLED_BACK = (
    Outcome.ROLLED_BACK_IN_BUDGET,
    Outcome.ROLLED_BACK_LATE,
    Outcome.ROLLED_BACK_UNVALIDATED,
)


def measured_durations(environment: str, outputs: Iterable[Path]) -> Measured:
    """p95 over the real runs of exactly this environment under ``outputs``.

    A journal that cannot be read, or whose chain does not hold, measures nothing.
    """
    cutovers, rollbacks = [], []
    for history in _histories(environment, {path.resolve() for path in outputs}):
        if (seconds := cutover_seconds(history)) is not None:
            cutovers.append(seconds)
        if history.outcome in _ROLLED_BACK:
            rollbacks.append(rollback_seconds(history))
    return Measured(
        _rounded(p95(cutovers)), len(cutovers), _rounded(p95(rollbacks)), len(rollbacks)
    )


def usual_step_seconds(run: RunDir) -> dict[str, float]:
    """The median that each step took, where it ended well, in the last real runs beside ``run``.

    Those of its environment count; every twin is an environment of its own, so that a rehearsal is
    held against all rehearsals.
    """
    own = glance_at(run).environment
    alike = [
        other
        for other in runs_under(run.path.parent)
        if other.path != run.path and _is_alike(other, own)
    ]
    took: dict[str, list[float]] = {}
    # Their names begin with the time; a viewer that came to a thousandth run must not read them all.
    for other in sorted(alike, key=lambda other: other.path)[-_LAST_RUNS:]:
        with contextlib.suppress(OSError, RunbookError):
            for step in History.of(read_journal(other.journal).records).steps.values():
                if step.status is StepStatus.OK and step.attempt:
                    took.setdefault(step.name, []).append(step.duration_ms / 1000)
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in took.items()}


def _is_alike(run: RunDir, environment: str) -> bool:
    glance = glance_at(run)
    is_twin = environment.startswith(_TWIN) and glance.environment.startswith(_TWIN)
    return not glance.dry_run and (is_twin or glance.environment == environment)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _histories(environment: str, outputs: Iterable[Path]) -> Iterator[History]:
    # The journal is what counts; run.json only spares reading those of others.
    runs = [run for root in outputs for run in runs_under(root) if _is_wanted(run, environment)]
    for run in sorted(runs, key=lambda run: run.path):
        with contextlib.suppress(OSError, RunbookError):
            history = History.of(read_journal(run.journal).records)
            if not history.is_dry_run and history.created.environment == environment:
                yield history


def _is_wanted(run: RunDir, environment: str) -> bool:
    glance = glance_at(run)
    return glance.environment == environment and not glance.dry_run


def cutover_seconds(history: History) -> float | None:
    """From the first stop to the watch; None for a switch that did not get there in one boot."""
    started = (history.step(name).started_mono_ns for name in steps_of(Phase.SWITCH))
    first, watch = next(filter(None, started), 0), history.watch_started
    if watch is None or not first or history.restarts:
        return None
    return (watch.mono_ns - first) / 1e9


# --- a bound ----------------------------------------------------------------------

# Fewer runs can be in any order by chance.
_TREND_RUNS = 8
_TREND_P = 0.01
# Each is held against each: of a thousand that would be half a million.
_TREND_MOST = 300


class Bound(Struct, frozen=True):
    """How long something takes, by runs that are taken as alike, whatever their distribution.

    With a ``confidence`` at least ``share`` of all such runs end within ``seconds``. ``share`` is the
    one that was asked for, or the largest that so few runs prove; ``needed`` is how many it takes for
    the one asked for. ``failed`` of the ``runs`` did not end well: they count as longer than any. None
    where nothing is known. ``trend_p``: chance that durations would rise or fall so by themselves.
    """

    what: str
    runs: int
    failed: int
    wanted: float
    confidence: float
    median_seconds: float | None
    longest_seconds: float | None
    seconds: float | None
    share: float | None
    needed: int
    spoken: str
    trend_p: float | None = None

    @property
    def is_proved(self) -> bool:
        """True where the share that was asked for has a bound."""
        return self.share is not None and self.share >= self.wanted

    @property
    def has_trend(self) -> bool:
        """True where the runs are not alike: later ones take longer, or shorter."""
        return self.trend_p is not None and self.trend_p < _TREND_P

    @property
    def sentence(self) -> str:
        """``95 % confident that 95 % of rollbacks end within 8.2 s: 64 runs``, or what is missing."""
        sure = f"{self.confidence * 100:g} % confident"
        those = f", {self.failed} of which did not end well" if self.failed else ""
        there = f"{self.needed} runs are needed, {self.runs} {'is' if self.runs == 1 else 'are'} there{those}"
        if self.seconds is None or self.share is None:
            return f"{sure} of nothing: for {self.wanted * 100:g} % of {self.spoken} {there}"
        shown = f"{math.floor(self.share * 1000) / 10:g} % of {self.spoken} end within {self.seconds:.4g} s"
        if self.is_proved:
            said = f"{sure} that {shown}: {self.runs} runs{those}"
        else:
            said = f"{sure} that {shown}; for {self.wanted * 100:g} % {there}"
        if not self.has_trend:
            return said
        return (
            f"{said}; but they change from run to run (p = {self.trend_p:.1g}), and a bound takes "
            "runs as alike"
        )


def bound_of(
    what: str,
    seconds: Iterable[float],
    *,
    failed: int = 0,
    wanted: float = 0.95,
    confidence: float = 0.95,
    spoken: str = "",
) -> Bound:
    """Bound durations by order statistics: the r-th longest of n is a bound for a share where r - 1 or
    fewer of n beyond it would be a chance of at most 1 - confidence.

    ``seconds`` are in the order of the runs; a sentence calls them ``spoken``, else ``what``.
    """
    lasted = list(seconds)
    ordered, runs = sorted(lasted), len(lasted) + failed
    tail = 1 - confidence + 1e-12  # 0.05, and not what binary fractions make of it
    # The longest that is known, and then those before it while they are bounds as well.
    above = failed
    while above + 1 < runs and _chance(runs, above + 1, 1 - wanted) <= tail:
        above += 1
    share = None
    if ordered:
        is_proved = _chance(runs, above, 1 - wanted) <= tail
        share = wanted if is_proved else _share(runs, failed, tail)
    return Bound(
        what=what,
        runs=runs,
        failed=failed,
        wanted=wanted,
        confidence=confidence,
        median_seconds=ordered[len(ordered) // 2] if ordered else None,
        longest_seconds=ordered[-1] if ordered else None,
        seconds=ordered[runs - above - 1] if ordered else None,
        share=share,
        needed=runs_needed(failed, wanted=wanted, confidence=confidence),
        spoken=spoken or what,
        trend_p=rising_p(lasted),
    )


def runs_needed(failed: int = 0, *, wanted: float = 0.95, confidence: float = 0.95) -> int:
    """Return how many runs bound a share, where ``failed`` of them did not end well: 59 of none."""
    tail = 1 - confidence + 1e-12
    low, high = failed, failed + 1
    while _chance(high, failed, 1 - wanted) > tail:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = _chance(middle, failed, 1 - wanted) <= tail
        low, high = (low, middle) if enough else (middle, high)
    return high


def _share(runs: int, above: int, tail: float) -> float:
    """Return the largest share of runs that is bounded where ``above`` of so many lie beyond."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        is_sure = _chance(runs, above, 1 - middle) <= tail
        low, high = (middle, high) if is_sure else (low, middle)
    return low


def _chance(runs: int, most: int, share: float) -> float:
    """Return the chance that ``most`` or fewer of so many runs are of a ``share``."""
    if most >= runs or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    odds, none = math.log(share), math.log1p(-share)
    whole = math.lgamma(runs + 1)
    return math.fsum(
        math.exp(
            whole
            - math.lgamma(count + 1)
            - math.lgamma(runs - count + 1)
            + count * odds
            + (runs - count) * none
        )
        for count in range(most + 1)
    )


def rising_p(seconds: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the Mann-Kendall test: do they rise or fall from run to run?

    None for too few of them, and where all are one.
    """
    last = seconds[-_TREND_MOST:]
    many = len(last)
    if many < _TREND_RUNS or len(set(last)) == 1:
        return None
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(last, 2))
    ties = sum(alike * (alike - 1) * (2 * alike + 5) for alike in Counter(last).values())
    variance = (many * (many - 1) * (2 * many + 5) - ties) / 18
    return math.erfc(max(abs(score) - 1, 0) / math.sqrt(2 * variance))
