"""A watch window judged from its samples: one at a time, and as a file in blocks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.replay import replay
from ctp_runbook.watch.verdicts import Firing

__all__ = ["judge_recorded", "judge_window"]

Judged = tuple[WindowJudgement, Firing | None]


def judge_window(
    samples: Iterable[Sample],
    *,
    accepted_mono: Iterable[float] = (),
    judged_mono: float | None = None,
    final: bool = True,
    **window: Any,
) -> Judged:
    """Judge a window again from its raw samples, as the live judge did.

    ``accepted_mono`` are the moments somebody resumed the watch; ``judged_mono`` is when the
    verdict was taken (``ends_mono`` when None). ``final`` asks for proof over the whole window.
    ``window`` is what a WindowJudge is made of.
    """
    judge = WindowJudge(**window)
    resumes = sorted(accepted_mono)
    for sample in samples:
        while resumes and resumes[0] <= sample.mono:
            judge.accept()
            resumes.pop(0)
        judge.add(sample)
    if resumes:
        judge.accept()
    at = window["ends_mono"] if judged_mono is None else judged_mono
    return judge.at(at, final=final), judge.firing


def judge_recorded(path: Path, *, accepted_mono: Iterable[float] = (), **window: Any) -> Judged:
    """Judge a window by the samples of a file, at its end."""
    judge = WindowJudge(**window)
    replay(judge, path, accepted_mono=tuple(accepted_mono))
    return judge.at(window["ends_mono"], final=True), judge.firing
