"""``ctp-runbook rejudge``: the watch judged again, offline, from the run directory alone.

No clock, no environment, no path of this host gets into what comes out: the same run directory and
the same rules give the same bytes, here and on another machine's copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import EvidenceInvalid, RunRefused
from ctp_runbook.plan.config import WatchRules, load_watch
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal, utc_text
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.watch import sample_findings, verdict_findings
from ctp_runbook.watch.judge import MetricJudgement, WindowJudgement
from ctp_runbook.watch.measure import more_than
from ctp_runbook.watch.replay import rejudge
from ctp_runbook.watch.verdicts import Firing

__all__ = ["Rejudgement", "Ruling", "rejudge_run"]


@dataclass(frozen=True)
class Ruling:
    """The window judged by one set of rules; ``rules`` says which, in words."""

    rules: str
    judged: WindowJudgement
    firing: Firing | None

    @property
    def trigger_sentence(self) -> str:
        """Which sample made the rollback trigger true, or that none did."""
        if self.firing is None:
            return "the rollback trigger never came true"
        return f"sample {self.firing.sample_seq}: {self.firing.sentence}"

    def data(self) -> dict[str, Any]:
        """For JSON: nothing in it depends on where or when it is asked."""
        return {
            "rules": self.rules,
            "overall": self.judged.overall.name,
            "sentence": self.judged.sentence,
            "trigger": self.trigger_sentence,
            "trigger_sample": None if self.firing is None else self.firing.sample_seq,
            "metrics": {name: _metric(one) for name, one in self.judged.metrics.items()},
        }

    def lines(self) -> Iterator[str]:
        """The verdicts for a terminal, a metric a line."""
        yield f"by {self.rules}: {self.judged.overall.name}"
        for one in self.judged.metrics.values():
            yield f"  {one.sentence}; {_numbers(one)}"
        yield f"  {self.trigger_sentence}"


@dataclass(frozen=True)
class Rejudgement:
    """A run's window by its own rules and, where asked, by ``other`` ones."""

    run_id: str
    minutes: float
    started_utc: str
    samples: int
    samples_sha256: str
    own: Ruling
    other: Ruling | None

    @property
    def changes(self) -> tuple[str, ...]:
        """What the other rules say otherwise, in sentences."""
        if self.other is None:
            return ()
        before, after = self.own.judged, self.other.judged
        told = [
            f"{after.metrics[name].sentence} (was {one.verdict.name})"
            for name, one in before.metrics.items()
            if one.verdict is not after.metrics[name].verdict
        ]
        if before.overall is not after.overall:
            told.insert(0, f"the window {after.overall.name} (was {before.overall.name})")
        if _sample(self.own) != _sample(self.other):
            told.append(f"rollback trigger: {self.other.trigger_sentence}")
        return tuple(told)

    @property
    def text(self) -> str:
        """For a terminal."""
        lines = [
            f"run {self.run_id}: watch of {self.minutes:g} min from {self.started_utc}, "
            f"{self.samples} samples, sha256 {self.samples_sha256}",
            *self.own.lines(),
        ]
        if self.other is not None:
            lines += self.other.lines()
            lines += [f"would have changed: {one}" for one in self.changes or ("nothing",)]
        return "\n".join(lines) + "\n"

    @property
    def json(self) -> bytes:
        """The same for a program, keys in order."""
        told = {
            "run_id": self.run_id,
            "watch_minutes": self.minutes,
            "watch_started_utc": self.started_utc,
            "samples": self.samples,
            "samples_sha256": self.samples_sha256,
            "own": self.own.data(),
            "other": self.other.data() if self.other else None,
            "changes": list(self.changes),
        }
        return (json.dumps(told, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


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
    own = Ruling("the run's own rules", *rejudge(run, history))
    return Rejudgement(
        run_id=history.run_id,
        minutes=float(started.payload["minutes"]),
        started_utc=utc_text(started.wall.timestamp()),
        samples=int(ended.payload["samples"]),
        samples_sha256=str(ended.payload["samples_sha256"]),
        own=own,
        other=_by_others(run, history, watch) if watch else None,
    )


def _by_others(run: RunDir, history: History, watch: Path) -> Ruling:
    rules = load_watch(watch)
    _refuse_missing(history, rules, watch)
    told = f"{watch.name} ({digest_of(watch.read_bytes())[:12]}…)"
    return Ruling(told, *rejudge(run, history, rules=rules))


def _refuse_missing(history: History, rules: WatchRules, watch: Path) -> None:
    lacking = [key for key in history.plan["monitor_keys"] if key not in rules.metrics]
    if lacking:
        raise RunRefused(
            f"{watch} has no [metrics.{lacking[0]}]; the run watched {', '.join(lacking)} as well: "
            "add what is missing, with the limit to try"
        )


def _metric(one: MetricJudgement) -> dict[str, Any]:
    fields = ("sentence", "value", "is_over", "limit", "margin", "worst", "worst_is_over")
    worst_utc = None if one.worst_wall is None else utc_text(one.worst_wall)
    told = {name: getattr(one, name) for name in (*fields, "coverage", "query")}
    return {"verdict": one.verdict.name, "worst_utc": worst_utc, **told}


def _sample(ruling: Ruling) -> int | None:
    return None if ruling.firing is None else ruling.firing.sample_seq


def _numbers(one: MetricJudgement) -> str:
    last, margin = (
        "none" if value is None else f"{value + 0.0:.4g}" for value in (one.value, one.margin)
    )
    last = more_than(last, is_over=one.is_over)
    margin = "not known" if one.worst_is_over else margin
    return f"last value {last}, margin {margin}, coverage {one.coverage:.0%}"
