"""Facts about record/sample_blocks.py: a samples file as tables, with nothing lost and nothing moved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

import ctp_runbook.record.sample_blocks as blocks_module
from ctp_runbook.errors import JournalError
from ctp_runbook.record.sample_blocks import Chunk, chunks_of, read_chunks
from ctp_runbook.record.samples import Sample


def story(words: str) -> list[Sample]:
    """A sample a letter: A and B pages of two targets, a and b with another series, x and y
    failures of the two."""
    taken = []
    for seq, word in enumerate(words):
        ok, target = word not in "xy", "one" if word in "Aax" else "two"
        series = {"up": float(seq), "lag" if word.isupper() else "depth": -1.0} if ok else {}
        error = "" if ok else "refused"
        taken.append(
            Sample(seq, 1e9 + seq, float(seq), "engine", target, ok, error, 0.0, dict(series))
        )
    return taken


def shape(chunk: Chunk) -> list[int | str]:
    """How many rows each block has; the error of what is none."""
    return [len(item.seq) if item.ok else item.error for item in chunk.items]


def whole(chunks: Iterable[Chunk]) -> list[Sample]:
    """The samples of the chunks in the order of the file."""
    taken: list[Sample] = []
    for chunk in chunks:
        own = [item.samples(range(len(item.layout))) for item in chunk.items]
        taken += [next(own[item]) for item in chunk.order]
    return taken


STORIES: dict[str, tuple[str, list[int | str]]] = {
    "none": ("", []),
    "one target": ("AAAA", [4]),
    "two targets in turn": ("ABABAB", [3, 3]),
    "another page from then on": ("AAaaA", [2, 2, 1]),
    "a failure": ("AAxAA", [2, "refused", 2]),
    "a failure of the other": ("AByABA", [3, 1, "refused", 1]),
    "failures alone": ("xyx", ["refused"] * 2),
}


@pytest.mark.parametrize(("words", "shapes"), STORIES.values(), ids=STORIES)
def test_pages_of_a_target_are_a_table(words: str, shapes: list[int | str]) -> None:
    """As long as its series are the same and none fails; and all of it can be had again."""
    samples = story(words)
    (chunk,) = chunks_of(samples)
    assert shape(chunk) == shapes
    assert whole([chunk]) == samples


def test_lines_say_whose_and_when() -> None:
    """Item and moment of each line, in the order of the file, without its series."""
    samples = story("AByAB")
    (chunk,) = chunks_of(samples)
    lines = [*chunk.lines()]
    assert [item for item, _ in lines] == [0, 1, 2, 0, 3]
    assert [sample for _, sample in lines] == [replace(one, series={}) for one in samples]


def test_a_sample_of_a_block_may_have_some_of_its_series() -> None:
    """Whoever wants one metric does not pay for the page."""
    (chunk,) = chunks_of(story("AA"))
    (block,) = chunk.items
    assert block.layout == ("up", "lag")
    assert [one.series for one in block.samples([1])] == [{"lag": -1.0}] * 2
    assert [one.series for one in block.samples([])] == [{}, {}]
    assert [*block.rows((1, 0))] == [(-1.0, 0.0), (-1.0, 1.0)]
    assert [*block.rows(())] == [(), ()]
    assert [*block.column(0)] == [0.0, 1.0]


def test_a_block_is_cut_where_its_time_is() -> None:
    """Both ends are of the part, and a page stays whole."""
    (block,) = next(chunks_of(story("AAAAA"))).items
    part = block.between(1.0, 2.5)
    assert ([*part.seq], [*part.mono]) == ([1, 2], [1.0, 2.0])
    assert [*part.rows((0, 1))] == [(1.0, -1.0), (2.0, -1.0)]
    assert [*block.between(9.0, 9.0).rows((0,))] == []
    assert block.gaps == (1.0, 1.0, 4_000_000_000)
    assert part.between(1.0, 1.0).gaps == (0.0, 0.0, 0)


def test_a_live_sample_is_a_chunk_of_one_row() -> None:
    """The same as what is read of a file that has no other."""
    for word in "Ax":
        (sample,) = story(word)
        (chunk,) = chunks_of([sample])
        live = Chunk.of(sample)
        assert ([*live.items], [*live.order]) == ([*chunk.items], [*chunk.order])
        assert whole([live]) == [sample]


# Moments to cut at, and of each chunk: how many of them lie before it, and its lines.
CUTS: dict[str, tuple[list[float], list[tuple[int, int]]]] = {
    "none": ([], [(0, 6)]),
    "at a sample": ([2.0], [(0, 2), (1, 4)]),
    "between two": ([2.5], [(0, 3), (1, 3)]),
    "out of order": ([4.0, 1.0], [(0, 1), (1, 3), (1, 2)]),
    "two at once": ([2.2, 2.4], [(0, 3), (2, 3)]),
    "before all": ([-1.0], [(0, 0), (1, 6)]),
    "after all": ([9.0], [(0, 6)]),
}


@pytest.mark.parametrize(("cuts", "lines"), CUTS.values(), ids=CUTS)
def test_a_chunk_begins_at_a_cut(cuts: list[float], lines: list[tuple[int, int]]) -> None:
    """With the first sample at or past it; a cut past all samples begins none."""
    samples = story("ABABAB")
    chunks = [*chunks_of(samples, cuts=cuts)]
    assert [(chunk.cuts, len(chunk.order)) for chunk in chunks] == lines
    assert whole(chunks) == samples


def test_a_chunk_is_no_longer_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day is not held at once."""
    monkeypatch.setattr(blocks_module, "_CHUNK_LINES", 4)
    samples = story("ABAB" * 2 + "A")
    chunks = [*chunks_of(samples)]
    assert [len(chunk.order) for chunk in chunks] == [4, 4, 1]
    assert whole(chunks) == samples


def test_a_file_is_read_as_its_samples_are(tmp_path: Path) -> None:
    """None where there is no file; a line that is no sample is named."""
    path = tmp_path / "samples.jsonl"
    assert whole(read_chunks(path)) == []
    samples = story("ABxAaB")
    path.write_bytes(b"".join(one.to_line() for one in samples))
    assert whole(read_chunks(path)) == [
        replace(one, series=dict(sorted(one.series.items()))) for one in samples
    ]
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(JournalError, match=r"samples\.jsonl:7: not a sample"):
        list(read_chunks(path))
