"""Samples in blocks: what one target said again and again as columns of numbers, page below page.

What comes out says the same as ``read_samples``, and what that refuses is refused. A page a second
for a day from five endpoints is read in seconds, and no more than a few megabytes of it are kept.
A live sample is a block of one row. Nothing but the standard library is needed.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from operator import sub
from pathlib import Path

from msgspec import Struct, structs

from ctp_runbook.record.samples import Sample, each_sample

__all__ = ["Block", "Chunk", "chunks_of", "read_chunks"]

_CHUNK_LINES = 1 << 16


class Block(Struct, frozen=True, dict=True):
    """Samples of one target with the same series, or that failed with the same ``error``; ``values``
    has a page after the other, each in the order of ``layout``."""

    source: str
    target: str
    layout: tuple[str, ...]
    ok: bool
    error: str
    seq: array[int]
    wall: array[float]
    mono: array[float]
    values: array[float]

    @classmethod
    def begin(cls, sample: Sample) -> Block:
        """Return the block that begins with a sample, to be added to."""
        columns = array("q"), array("d"), array("d"), array("d")
        whose = sample.source, sample.target, tuple(sample.series), sample.ok, sample.error
        block = cls(*whose, *columns)
        block.add(sample)
        return block

    def add(self, sample: Sample) -> None:
        """Take a row in, which ``goes_on``."""
        self.seq.append(sample.seq)
        self.wall.append(sample.wall)
        self.mono.append(sample.mono)
        # Two thirds of the time that ``extend`` takes of a view, which has no length to go by.
        self.values.fromlist(list(sample.series.values()))

    def goes_on(self, sample: Sample) -> bool:
        """True where the sample may be a row of it: of its target, with its series and its error."""
        said = sample.ok, sample.error, tuple(sample.series)
        return said == (self.ok, self.error, self.layout)

    @cached_property
    def gaps(self) -> tuple[float, float, int]:
        """The shortest and the longest time between two rows, and all of them in whole nanoseconds: so
        they add up to the same in any order."""
        gaps = [*map(sub, self.mono[1:], self.mono)]
        whole = sum([round(gap * 1e9) for gap in gaps])
        return min(gaps, default=0.0), max(gaps, default=0.0), whole

    def column(self, place: int) -> array[float]:
        """Return one series, a value a row."""
        return self.values[place :: len(self.layout)]

    def rows(self, places: Sequence[int]) -> Iterator[tuple[float, ...]]:
        """Yield these series of each row."""
        if not places:
            return repeat((), len(self.seq))
        return zip(*map(self.column, places), strict=True)

    def between(self, since: float, until: float) -> Block:
        """Return its rows from one monotonic second to another, both included."""
        rows = slice(bisect_left(self.mono, since), bisect_right(self.mono, until))
        wide = len(self.layout)
        return structs.replace(
            self,
            seq=self.seq[rows],
            wall=self.wall[rows],
            mono=self.mono[rows],
            values=self.values[rows.start * wide : rows.stop * wide],
        )

    def samples(self, places: Sequence[int] = ()) -> Iterator[Sample]:
        """Yield each sample, with no more of its series than those at ``places``; how long it took
        and when it was due are not kept."""
        layout = [self.layout[place] for place in places]
        for seq, wall, mono, row in zip(
            self.seq, self.wall, self.mono, self.rows(places), strict=True
        ):
            series = dict(zip(layout, row, strict=True))
            yield Sample(
                seq, wall, mono, self.source, self.target, self.ok, self.error, 0.0, series
            )


class Chunk(Struct, frozen=True):
    """Part of a samples file: blocks, in order within each target.

    ``order`` has the index of its item for each line; ``cuts`` says how many of the moments asked
    for lie before the chunk.
    """

    items: Sequence[Block]
    order: Sequence[int]
    cuts: int = 0

    @classmethod
    def of(cls, sample: Sample) -> Chunk:
        """Return one sample, as it comes in."""
        return cls((Block.begin(sample),), (0,))

    def lines(self) -> Iterator[tuple[int, Sample]]:
        """Yield each line's item and moment in the order of the file; series are left out."""
        moments = [item.samples() for item in self.items]
        for at in self.order:
            yield at, next(moments[at])


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
    items, order, passed = list[Block](), array("l"), 0
    last = dict[tuple[str, str], int]()  # the block of each target that may go on
    for sample in samples:
        if sample.mono >= due[0] or len(order) >= _CHUNK_LINES:
            yield Chunk(items, order, passed)
            items, order, last, passed = [], array("l"), {}, 0
            while sample.mono >= due[0]:
                due.pop(0)
                passed += 1
        whose = sample.source, sample.target
        place = last.get(whose)
        if place is None or not items[place].goes_on(sample):
            place = last[whose] = len(items)
            items.append(Block.begin(sample))
        else:
            items[place].add(sample)
        order.append(place)
    yield Chunk(items, order, passed)
