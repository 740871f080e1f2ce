"""Points of a metric as lines to draw: of a day no more than the eye can tell apart, and no extreme lost.

A column of the picture that many points fall into keeps its first, lowest, highest and last one:
what is drawn looks the same, and a breach of a single sample still stands out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctp_runbook.watch.points import Points

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "Line", "over_marks", "stretches", "unbroken_lines"]

COLUMNS = 1000  # more than a panel has pixels
_MARKS = 40


@dataclass(frozen=True)
class Line:
    """Neighbouring points that have a value: monotonic seconds and values."""

    monos: Sequence[float]
    values: Sequence[float]


def unbroken_lines(points: Points, *, far_seconds: float) -> Iterator[Line]:
    """Yield a line for each stretch of points with values no more than ``far_seconds`` apart."""
    monos, values, _ = points.columns()
    whole = ~np.isnan(values)
    if not whole.any():
        return
    width = max(float(monos.max() - monos.min()) / COLUMNS, 1e-9)
    parted = _parted(monos, whole, far_seconds)
    if np.count_nonzero(parted) > COLUMNS:  # gaps that nobody could see: the strip below has them
        monos, values = monos[whole], values[whole]
        whole = whole[whole]
        parted = _parted(monos, whole, max(far_seconds, 2 * width))
    for run in np.split(np.arange(len(monos)), np.flatnonzero(parted) + 1):
        if whole[run[0]]:
            kept = run[_telling(monos[run], values[run], width)]
            yield Line(monos[kept].tolist(), values[kept].tolist())


def over_marks(points: Points) -> Line | None:
    """Return where the truth is more than the value, as marks that can be told apart; None for none."""
    monos, values = points.over()
    if not len(monos):
        return None
    kept = _columns(monos, max(float(monos.max() - monos.min()) / _MARKS, 1e-9))
    return Line(monos[kept].tolist(), values[kept].tolist())


def _parted(
    monos: NDArray[np.float64], whole: NDArray[np.bool_], far_seconds: float
) -> NDArray[np.bool_]:
    """Between which neighbours there is no line."""
    return ~(whole[1:] & whole[:-1] & (np.diff(monos) <= far_seconds))


def _columns(monos: NDArray[np.float64], width: float) -> NDArray[np.intp]:
    """Where each column ``width`` seconds wide begins among the points."""
    return np.flatnonzero(np.diff(np.floor((monos - monos[0]) / width), prepend=-1.0))


def _telling(monos: NDArray[np.float64], values: NDArray[np.float64], width: float) -> Any:
    """Of each column ``width`` seconds wide: the first, lowest, highest and last point, in order."""
    if len(monos) <= 4:
        return np.arange(len(monos))
    begins = _columns(monos, width)
    ends = np.append(begins[1:], len(monos)) - 1
    # Sorted by column, then by value: the lowest of each comes first, the highest last.
    by_value = np.lexsort((values, np.repeat(begins, ends - begins + 1)))
    return np.unique(np.concatenate([begins, ends, by_value[begins], by_value[ends]]))


def stretches(
    points: Points, *, words: Sequence[str], interval: float, far_seconds: float
) -> Iterator[tuple[str, float, float]]:
    """Yield neighbouring points of one word, joined; each holds for its interval. ``words`` has the word
    of each status, in the order of STATUSES. Where more of them fall into one column than can be
    told apart, the last of the words shows.
    """
    monos, _, statuses = points.columns()
    if not len(monos):
        return
    known = list(dict.fromkeys(words))
    word = np.array([known.index(name) for name in words])[statuses]
    width = float(monos.max() - monos.min()) / COLUMNS
    if len(_begins(monos, word, far_seconds)) > COLUMNS and width > interval:
        monos, word = _worst_by_column(monos, word, width)
        interval, far_seconds = width, max(far_seconds, 1.5 * width)
    begins = _begins(monos, word, far_seconds)
    ends = np.append(begins[1:], len(monos)) - 1
    for first, last in zip(begins.tolist(), ends.tolist(), strict=True):
        yield known[word[first]], float(monos[first]), float(monos[last]) + interval


def _begins(monos: NDArray[np.float64], word: NDArray[Any], far_seconds: float) -> NDArray[Any]:
    changed = (np.diff(word) != 0) | (np.diff(monos) > far_seconds)
    return np.concatenate([[0], np.flatnonzero(changed) + 1])


def _worst_by_column(
    monos: NDArray[np.float64], word: NDArray[Any], width: float
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    begins = _columns(monos, width)
    return monos[begins], np.maximum.reduceat(word, begins)
