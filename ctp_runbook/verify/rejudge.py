"""``ctp-runbook rejudge``: the watch judged again, offline, from the run directory alone.

No clock, no environment, no path of this host gets into what comes out: the same run directory and
the same rules give the same bytes, here and on another machine's copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, structs

from ctp_runbook.decoding import convert
from ctp_runbook.errors import EvidenceInvalid, RunRefused
from ctp_runbook.plan.config import WatchRules, load_watch
from ctp_runbook.record.calibration import lasting
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal, utc_text
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.watch import sample_findings, verdict_findings
from ctp_runbook.watch.judge import MetricJudgement, WindowJudgement
from ctp_runbook.watch.measure import more_than
from ctp_runbook.watch.replay import rejudge
from ctp_runbook.watch.verdicts import Firing

__all__ = ["MetricRuling", "Rejudgement", "Ruling", "rejudge_run"]


class MetricRuling(Struct, frozen=True):
    """What one metric comes to, and when it was at its worst."""

    verdict: str
    sentence: str
    value: float | None
    is_over: bool
    limit: float
    margin: float | None
    worst: float | None
    worst_is_over: bool
    worst_utc: str | None
    coverage: float
    query: str

    @property
    def numbers(self) -> str:
        """Last value, margin and coverage, for a terminal."""
        last, margin = (
            "none" if value is None else f"{value + 0.0:.4g}" for value in (self.value, self.margin)
        )
        last = more_than(last, is_over=self.is_over)
        margin = "not known" if self.worst_is_over else margin
        return f"last value {last}, margin {margin}, coverage {self.coverage:.0%}"


class Ruling(Struct, frozen=True):
    """The window judged by one set of rules; ``rules`` says which, in words.

    ``trigger_sample`` is the sample that made the rollback trigger true, if one did.
    """

    rules: str
    overall: str
    sentence: str
    trigger: str
    trigger_sample: int | None
    metrics: dict[str, MetricRuling]

    def lines(self) -> Iterator[str]:
        """The verdicts for a terminal, a metric a line."""
        yield f"by {self.rules}: {self.overall}"
        yield from (f"  {metric.sentence}; {metric.numbers}" for metric in self.metrics.values())
        yield f"  {self.trigger}"

    def changes(self, before: Ruling) -> Iterator[str]:
        """What is ruled otherwise than ``before``, in sentences."""
        if before.overall != self.overall:
            yield f"the window {self.overall} (was {before.overall})"
        for name, metric in self.metrics.items():
            was = before.metrics[name].verdict
            if was != metric.verdict:
                yield f"{metric.sentence} (was {was})"
        if before.trigger_sample != self.trigger_sample:
            yield f"rollback trigger: {self.trigger}"


class Rejudgement(Struct, frozen=True):
    """A run's window by its own rules and, where asked, by ``other`` ones.

    Nothing in it depends on where or when it is asked.
    """

    run_id: str
    watch_minutes: float
    watch_started_utc: str
    samples: int
    samples_sha256: str
    own: Ruling
    other: Ruling | None
    changes: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a terminal."""
        lines = [
            f"run {self.run_id}: watch of {lasting(self.watch_minutes)} from "
            f"{self.watch_started_utc}, {self.samples} samples, sha256 {self.samples_sha256}",
            *self.own.lines(),
        ]
        if self.other is not None:
            lines += self.other.lines()
            lines += [f"would have changed: {change}" for change in self.changes or ("nothing",)]
        return "\n".join(lines) + "\n"

    @property
    def json(self) -> bytes:
        """The same for a program, keys in order."""
        data = msgspec.json.encode(self, order="sorted")
        return msgspec.json.format(data, indent=2) + b"\n"


def rejudge_run(run: RunDir, *, watch: Path | None = None) -> Rejudgement:
    """Judge a finished window again, and by the rules of ``watch`` where that is given.

    Raises:
        RunRefused: when the run has no finished watch, or ``watch`` lacks one of its metrics.
        EvidenceInvalid: when the samples are not those of the journal, or judge to something else
            than what was written.
        ConfigError, TriggerError: when ``watch`` has a problem, or the trigger a unit it lacks.
        JournalError: when the journal does not hold together.
    """
    history = History.of(read_journal(run.journal).records)
    started, ended = history.watch_started, history.watch_ended
    if started is None or ended is None:
        why = "a dry run watches nothing" if history.is_dry_run else "its watch is not over"
        raise RunRefused(
            f"run {history.run_id} has no finished watch window to judge again: {why}; name a run "
            "that has one by --run"
        )
    wrong = (*sample_findings(run, history), *verdict_findings(run, history))
    if wrong:
        raise EvidenceInvalid(wrong)
    own = _ruling("the run's own rules", rejudge(run, history))
    other = _by_others(run, history, watch) if watch else None
    return Rejudgement(
        run_id=history.run_id,
        watch_minutes=started.payload.minutes,
        watch_started_utc=utc_text(started.wall.timestamp()),
        samples=ended.payload.samples,
        samples_sha256=ended.payload.samples_sha256,
        own=own,
        other=other,
        changes=tuple(other.changes(own)) if other else (),
    )


def _by_others(run: RunDir, history: History, watch: Path) -> Ruling:
    rules = load_watch(watch)
    _refuse_missing(history, rules, watch)
    rules = _without_guesses(history, rules)
    words = f"{watch.name} ({digest_of(watch.read_bytes())[:12]}…)"
    return _ruling(words, rejudge(run, history, rules=rules))


def _refuse_missing(history: History, rules: WatchRules, watch: Path) -> None:
    lacking = [key for key in history.plan.monitor_keys if key not in rules.metrics]
    if lacking:
        raise RunRefused(
            f"{watch} has no [metrics.{lacking[0]}]; the run watched {', '.join(lacking)} as well: "
            "add what is missing, with the limit to try"
        )


def _without_guesses(history: History, rules: WatchRules) -> WatchRules:
    """The rules as far as this recording can be asked: samples hold only the families that the run's
    own rules read, so that of any other family its absence proves nothing (``absent = "zero"``)."""
    recorded: dict[tuple[str, str], set[str]] = {}
    for key in history.plan.monitor_keys:
        own = history.plan.watch.metrics[key]
        recorded.setdefault((own.source, own.url), set()).update(own.families)
    metrics = {
        key: rule
        if recorded.get((rule.source, rule.url), set()).issuperset(rule.families)
        else structs.replace(rule, absent=UNSET)
        for key, rule in rules.metrics.items()
    }
    return structs.replace(rules, metrics=metrics)


def _ruling(rules: str, judged: tuple[WindowJudgement, Firing | None]) -> Ruling:
    window, firing = judged
    return Ruling(
        rules=rules,
        overall=window.overall.name,
        sentence=window.sentence,
        trigger=f"sample {firing.sample_seq}: {firing.sentence}"
        if firing
        else "the rollback trigger never came true",
        trigger_sample=firing.sample_seq if firing else None,
        metrics={name: _metric(metric) for name, metric in window.metrics.items()},
    )


def _metric(metric: MetricJudgement) -> MetricRuling:
    facts = {name: getattr(metric, name, None) for name in MetricRuling.__struct_fields__}
    worst_utc = None if metric.worst_wall is None else utc_text(metric.worst_wall)
    own = {"verdict": metric.verdict.name, "worst_utc": worst_utc}
    return convert(facts | own, MetricRuling)
