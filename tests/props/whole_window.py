"""A watch window judged from its samples, one at a time: what the quicker judges are held against."""

from __future__ import annotations

from collections.abc import Iterable

from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing

__all__ = ["judge_window"]


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
