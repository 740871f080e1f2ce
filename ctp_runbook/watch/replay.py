"""A recorded window judged from its samples file, in blocks: what ``judge_window`` says, quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.sample_blocks import Block, read_chunks
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing

__all__ = ["judge_recorded"]


def judge_recorded(
    path: Path,
    *,
    rules: WatchRules,
    keys: tuple[str, ...],
    trigger: Trigger,
    started_mono: float,
    ends_mono: float,
    accepted_mono: Iterable[float] = (),
    judged_mono: float | None = None,
    final: bool = True,
    onlooker: Callable[[Sample | Block], None] | None = None,
) -> tuple[WindowJudgement, Firing | None]:
    """``judge_window`` over the samples of a file; raises JournalError naming a line that is none.

    ``onlooker`` is shown all that is read: a day of samples is worth reading once only.
    """
    judge = WindowJudge(
        rules=rules, keys=keys, trigger=trigger, started_mono=started_mono, ends_mono=ends_mono
    )
    resumes, passed = tuple(accepted_mono), 0
    for chunk in read_chunks(path, cuts=resumes):
        for _ in range(chunk.cuts):
            judge.accept()
        passed += chunk.cuts
        judge.add_chunk(chunk)
        if onlooker is not None:
            for item in chunk.items:
                onlooker(item[1] if isinstance(item, tuple) else item)
    if passed < len(resumes):
        judge.accept()
    at = ends_mono if judged_mono is None else judged_mono
    return judge.at(at, final=final), judge.firing
