"""A samples file read in blocks: the pages of one target as a table of numbers, the rest one by one.

What comes out says the same as ``read_samples``, and what that refuses is refused. A page a second
for a day from five endpoints is read in seconds, and no more than a few megabytes of it are kept.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ctp_runbook.record.samples import Sample, each_sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Block", "Chunk", "chunks_of", "read_chunks"]

_CHUNK_LINES = 1 << 16


class Block(Struct, frozen=True):
    """Samples of one target with the same series, all of them ok; ``values`` has a row a sample
    and a column a series of ``layout``."""

    source: str
    target: str
    layout: tuple[str, ...]
    seq: tuple[int, ...]
    wall: NDArray[np.float64]
    mono: NDArray[np.float64]
    values: NDArray[np.float64]

    def samples(self, columns: Sequence[int] | None = None) -> Iterator[Sample]:
        """Yield each sample, with no more of its series than ``columns``; how long it took and
        when it was due are not kept."""
        chosen = range(len(self.layout)) if columns is None else columns
        layout = [self.layout[column] for column in chosen]
        rows = zip(
            self.seq,
            self.wall.tolist(),
            self.mono.tolist(),
            self.values[:, chosen].tolist(),
            strict=True,
        )
        for seq, wall, mono, values in rows:
            series = dict(zip(layout, values, strict=True))
            yield Sample(seq, wall, mono, self.source, self.target, True, "", 0.0, series)


class Chunk(Struct, frozen=True):
    """Part of a samples file: blocks, and the samples that failed, in order within each target.

    ``order`` has the index of its item for each line; ``cuts`` says how many of the moments asked
    for lie before the chunk.
    """

    items: tuple[Block | Sample, ...]
    order: Sequence[int]
    cuts: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All that succeeded."""
        return tuple(item for item in self.items if isinstance(item, Block))

    def lines(self) -> Iterator[tuple[int, Sample]]:
        """Yield each line's item and moment in the order of the file; series are left out."""
        moments = [
            iter((item,)) if isinstance(item, Sample) else item.samples(()) for item in self.items
        ]
        for at in self.order:
            yield at, next(moments[at])


class _Rows:
    """A block in the making."""

    def __init__(self, source: str, target: str, layout: tuple[str, ...]) -> None:
        self.source, self.target, self.layout = source, target, layout
        self.seq = list[int]()
        self.wall, self.mono, self.values = array("d"), array("d"), array("d")

    def add(self, sample: Sample) -> None:
        """Take a row in."""
        self.seq.append(sample.seq)
        self.wall.append(sample.wall)
        self.mono.append(sample.mono)
        # Two thirds of the time that ``extend`` takes of a view, which has no length to go by.
        self.values.fromlist(list(sample.series.values()))

    def block(self) -> Block:
        """Return what was gathered."""
        values = np.array(self.values).reshape(len(self.seq), len(self.layout))
        times = np.array(self.wall), np.array(self.mono)
        return Block(self.source, self.target, self.layout, tuple(self.seq), *times, values)


class _Gathering:
    """A chunk in the making."""

    def __init__(self) -> None:
        self.order = array("l")
        self._items: list[_Rows | Sample] = []
        self._open: dict[tuple[str, str], tuple[int, _Rows]] = {}

    def add(self, sample: Sample) -> None:
        """Take a sample in: a row of its target's block, or after what is none a block anew."""
        whose = sample.source, sample.target
        if not sample.ok:
            self._open.pop(whose, None)
            self._items.append(sample)
            self.order.append(len(self._items) - 1)
            return
        layout = tuple(sample.series)
        place, rows = self._open.get(whose, (0, None))
        if rows is None or rows.layout != layout:
            place, rows = self._open[whose] = len(self._items), _Rows(*whose, layout)
            self._items.append(rows)
        rows.add(sample)
        self.order.append(place)

    def chunk(self, cuts: int) -> Chunk:
        """Return what was gathered."""
        items = (item if isinstance(item, Sample) else item.block() for item in self._items)
        return Chunk(tuple(items), self.order, cuts)


def read_chunks(path: Path, *, cuts: Iterable[float] = ()) -> Iterator[Chunk]:
    """Yield the samples of a file, none when it does not exist, as ``chunks_of`` has them.

    Raises JournalError naming the line that is no sample.
    """
    return chunks_of(each_sample(path), cuts=cuts)


def chunks_of(samples: Iterable[Sample], *, cuts: Iterable[float] = ()) -> Iterator[Chunk]:
    """Yield samples in order, a few ten thousand at a time.

    A new chunk begins at the first sample at or past each of ``cuts`` (monotonic seconds).
    """
    due = [*sorted(cuts), math.inf]
    gathering, passed = _Gathering(), 0
    for sample in samples:
        if sample.mono >= due[0] or len(gathering.order) >= _CHUNK_LINES:
            yield gathering.chunk(passed)
            gathering, passed = _Gathering(), 0
            while sample.mono >= due[0]:
                due.pop(0)
                passed += 1
        gathering.add(sample)
    yield gathering.chunk(passed)
