"""A samples file read in blocks: the pages of one target as a table of numbers, the rest one by one.

What comes out says the same as ``read_samples``, and what that refuses is refused. A page a second
for a day from five endpoints is read in seconds, and no more than a few megabytes of it are kept.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctp_runbook.record.samples import Sample, sample_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Block", "Chunk", "Row", "read_chunks", "rows_of"]

_CHUNK_LINES = 1 << 16
# A block shorter than this costs more than its samples one by one.
_WORTH_IT = 16


@dataclass(frozen=True)
class Block:
    """Samples of one target with the same series, all of them ok; ``values`` has a row a sample
    and a column a series of ``layout``. ``place`` is the line in the file, from 0."""

    source: str
    target: str
    layout: tuple[str, ...]
    place: NDArray[np.int64]
    seq: tuple[int, ...]
    wall: NDArray[np.float64]
    mono: NDArray[np.float64]
    values: NDArray[np.float64]

    def samples(self, columns: Sequence[int] | None = None) -> Iterator[tuple[int, Sample]]:
        """Each with its place, or no more of its series than ``columns``; how long it took is not
        kept."""
        wanted = range(len(self.layout)) if columns is None else columns
        layout, values = [self.layout[one] for one in wanted], self.values[:, wanted]
        for at, place in enumerate(self.place.tolist()):
            series = dict(zip(layout, values[at].tolist(), strict=True))
            wall, mono = float(self.wall[at]), float(self.mono[at])
            yield (
                place,
                Sample(self.seq[at], wall, mono, self.source, self.target, True, "", 0.0, series),
            )


@dataclass(frozen=True)
class Chunk:
    """Part of a samples file: blocks and single samples (with their place), in order within each
    target. ``cuts`` says how many of the moments asked for lie before it."""

    items: tuple[Block | tuple[int, Sample], ...]
    cuts: int


@dataclass(frozen=True)
class Row:
    """Where and when one sample of a file was taken."""

    place: int
    seq: int
    wall: float
    mono: float


class _Rows:
    """A block in the making."""

    def __init__(self, source: str, target: str, layout: tuple[str, ...]) -> None:
        self.source, self.target, self.layout = source, target, layout
        self.place, self.seq = array("q"), list[int]()
        self.wall, self.mono, self.values = array("d"), array("d"), array("d")

    def add(self, place: int, sample: Sample) -> None:
        """A sample more."""
        self.place.append(place)
        self.seq.append(sample.seq)
        self.wall.append(sample.wall)
        self.mono.append(sample.mono)
        self.values.extend(sample.series.values())

    def block(self) -> Block:
        """What was gathered."""
        shape = len(self.mono), len(self.layout)
        return Block(
            self.source,
            self.target,
            self.layout,
            np.array(self.place),
            tuple(self.seq),
            np.array(self.wall),
            np.array(self.mono),
            np.array(self.values).reshape(shape),
        )


class _Gathered:
    """A chunk in the making."""

    def __init__(self) -> None:
        self._items: list[_Rows | tuple[int, Sample]] = []
        self._open: dict[tuple[str, str], _Rows] = {}

    def add(self, place: int, sample: Sample) -> None:
        """A page as a row; any other sample on its own: what its target says next is another
        block."""
        target = sample.source, sample.target
        if not (sample.ok and sample.series):
            self._open.pop(target, None)
            self._items.append((place, sample))
            return
        layout = tuple(sample.series)
        rows = self._open.get(target)
        if rows is None or rows.layout != layout:
            rows = self._open[target] = _Rows(*target, layout)
            self._items.append(rows)
        rows.add(place, sample)

    def chunk(self, cuts: int) -> Chunk:
        """What was gathered, small blocks taken apart."""
        items: list[Block | tuple[int, Sample]] = []
        for one in self._items:
            if isinstance(one, tuple):
                items.append(one)
            elif len(one.mono) >= _WORTH_IT:
                items.append(one.block())
            else:
                items.extend(one.block().samples())
        return Chunk(tuple(items), cuts)


def rows_of(item: Block | tuple[int, Sample]) -> Iterator[Row]:
    """An item of a chunk, sample by sample."""
    if isinstance(item, tuple):
        place, one = item
        yield Row(place, one.seq, one.wall, one.mono)
        return
    columns = (item.place.tolist(), item.seq, item.wall.tolist(), item.mono.tolist())
    for place, seq, wall, mono in zip(*columns, strict=True):
        yield Row(place, seq, wall, mono)


def read_chunks(path: Path, *, cuts: Iterable[float] = ()) -> Iterator[Chunk]:
    """The samples of a file, none when it does not exist, in order.

    A new chunk begins at the first sample at or past each of ``cuts`` (monotonic seconds). Raises
    JournalError naming the line that is no sample.
    """
    if not path.exists():
        return
    due = [*sorted(cuts), math.inf]
    gathered, begun, passed = _Gathered(), 0, 0
    with path.open("rb") as lines:
        for place, line in enumerate(lines):
            sample = sample_of(line, path=path, number=place + 1)
            if sample.mono >= due[0] or place - begun >= _CHUNK_LINES:
                yield gathered.chunk(passed)
                gathered, begun, passed = _Gathered(), place, 0
                while sample.mono >= due[0]:
                    due.pop(0)
                    passed += 1
            gathered.add(place, sample)
    yield gathered.chunk(passed)
