"""Single edits of a finished run's files, and which of them verification lets pass.

Works on any run directory, synthetic or that of a rehearsal. The directory is left as it was.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ctp_runbook.record.evidence import write_evidence, write_manifest
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import FIRST_PREV, digest_of, read_journal
from ctp_runbook.record.rundir import RunDir

__all__ = [
    "Mutant",
    "file_mutants",
    "forgeries",
    "restore",
    "rewrite_journal",
    "sampled",
    "snapshot",
    "survivors",
]

_GONE = object()


@dataclass(frozen=True)
class Mutant:
    """One edit: ``data`` in place of the file's bytes, None for a file removed."""

    file: str
    edit: str
    data: bytes | None


def file_mutants(run: RunDir, names: Iterable[str]) -> Iterator[Mutant]:
    """Every edit of the named files: by line, by JSON field or by KEY=VALUE, and as a whole."""
    for name in names:
        data = (run.path / name).read_bytes()
        edits = _whole_edits(data)
        if name.endswith(".jsonl"):
            edits = _chain(edits, _line_edits(data), _json_line_edits(data))
        elif name.endswith((".json", ".ipynb")):
            edits = _chain(edits, _json_edits(data))
        else:
            edits = _chain(edits, _line_edits(data), _env_edits(data))
        for edit, changed in edits:
            if changed != data:
                yield Mutant(name, edit, changed)


def forgeries(run: RunDir) -> Iterator[tuple[str, Callable[[], None]]]:
    """Edits of one journal field by somebody who then derives all else again, chain and seal.

    Yields ``kind.path`` and the act that puts the forged run in place of the true one.
    """
    lines = run.journal.read_bytes().splitlines()
    raws = [json.loads(line) for line in lines]
    for number, raw in enumerate(raws):
        for path, changed in _edits_of(raw):
            if path[0] in ("seq", "prev", "kind") or not isinstance(changed, dict):
                continue
            where = ".".join(str(part) for part in path)

            def forge(number: int = number, changed: dict[str, Any] = changed) -> None:
                forged = [changed if n == number else one for n, one in enumerate(raws)]
                rewrite_journal(run, forged)

            yield f"{raw['kind']}.{where}", forge


def sampled(mutants: Iterable[Any], *, most: int, seed: int) -> list[Any]:
    """All of them, or ``most`` drawn by ``seed``; no more than these are held at a time.

    Each mutant is a file, and a rehearsal has some fifty thousand.
    """
    dice, kept = random.Random(seed), []
    for number, mutant in enumerate(mutants):
        if number < most:
            kept.append(mutant)
        elif (place := dice.randint(0, number)) < most:
            kept[place] = mutant
    return kept


def survivors(
    run: RunDir, mutants: Iterable[Mutant], *, passes: Callable[[RunDir], bool]
) -> list[Mutant]:
    """The mutants that ``passes`` does not tell from the run itself."""
    found = []
    for mutant in mutants:
        path = run.path / mutant.file
        kept = path.read_bytes()
        try:
            if mutant.data is None:
                path.unlink()
            else:
                path.write_bytes(mutant.data)
            if passes(run):
                found.append(mutant)
        finally:
            path.write_bytes(kept)
    return found


# --- edits of a whole file, of lines, of values -----------------------------------

_Edits = Iterator[tuple[str, bytes | None]]


def _chain(*parts: _Edits) -> _Edits:
    for part in parts:
        yield from part


def _whole_edits(data: bytes) -> _Edits:
    yield "file removed", None
    yield "file emptied", b""
    yield "cut in half", data[: len(data) // 2]
    yield "last byte cut", data[:-1]
    yield "a byte added", data + b"\n"


def _line_edits(data: bytes) -> _Edits:
    lines = data.splitlines(keepends=True)
    for n, line in enumerate(lines):
        yield f"line {n + 1} removed", b"".join(lines[:n] + lines[n + 1 :])
        yield f"line {n + 1} doubled", b"".join([*lines[: n + 1], line, *lines[n + 1 :]])
        yield f"line {n + 1} torn", b"".join([*lines[:n], line[: len(line) // 2], *lines[n + 1 :]])
        if n + 1 < len(lines):
            swapped = [*lines[:n], lines[n + 1], line, *lines[n + 2 :]]
            yield f"lines {n + 1} and {n + 2} swapped", b"".join(swapped)


def _json_line_edits(data: bytes) -> _Edits:
    lines = data.splitlines()
    for n, line in enumerate(lines):
        for path, changed in _edits_of(json.loads(line)):
            new = msgspec.json.encode(changed)
            edited = b"\n".join([*lines[:n], new, *lines[n + 1 :]]) + b"\n"
            yield f"line {n + 1}: {'.'.join(map(str, path))} edited", edited


def _json_edits(data: bytes) -> _Edits:
    whole = json.loads(data)
    for path, changed in _edits_of(whole):
        new = msgspec.json.encode(changed)
        for indent in (1, 2):
            text = msgspec.json.format(new, indent=indent) + b"\n"
            yield f"{'.'.join(map(str, path))} edited", text


def _env_edits(data: bytes) -> _Edits:
    lines = data.decode().splitlines()
    for n, line in enumerate(lines):
        key, equals, value = line.partition("=")
        if not equals:
            continue
        changed = [value + "0", value + "x", "", "nan", f"-{value}", value.upper()]
        changed += [{"true": "false", "false": "true", "0": "1", "1": "0"}.get(value, value)]
        for new in changed:
            if new != value:
                edited = [*lines[:n], f"{key}={new}", *lines[n + 1 :]]
                yield f"{key}={new}", ("\n".join(edited) + "\n").encode()


def _edits_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every way to edit one place of a JSON value: (where, the whole value edited)."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key), _with(value, key, _GONE)
            for where, changed in _edits_of(value[key], (*path, key)):
                yield where, _with(value, key, changed)
    elif isinstance(value, list):
        for index in range(len(value)):
            yield (*path, index), value[:index] + value[index + 1 :]
            for where, changed in _edits_of(value[index], (*path, index)):
                yield where, [*value[:index], changed, *value[index + 1 :]]
    else:
        for changed in _other_scalars(value):
            yield path, changed


def _with(value: dict[str, Any], key: str, changed: Any) -> dict[str, Any]:
    result = copy.copy(value)
    if changed is _GONE:
        del result[key]
    else:
        result[key] = changed
    return result


def _other_scalars(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value, int(value)]
    if isinstance(value, int):
        return [value + 1, value - 1, -value - 1, str(value), None]
    if isinstance(value, float):
        return [value + 0.5, value * 2 + 1, -value - 1, "NaN", None]
    if isinstance(value, str):
        return [value + "x", "", value.swapcase(), 7] if value else ["x", None]
    return ["x", 0]


def rewrite_journal(run: RunDir, raws: list[dict[str, Any]]) -> None:
    """Write a journal of these records with a good chain, and all that is derived from it."""
    prev, lines = FIRST_PREV, []
    for seq, raw in enumerate(raws):
        chained = {**raw, "seq": seq, "prev": prev}
        line = msgspec.json.encode(chained)
        lines.append(line)
        prev = digest_of(line)
    data = b"\n".join(lines) + b"\n"
    run.journal.write_bytes(data)
    created = raws[0].get("payload", {})
    run.run_json.write_bytes(msgspec.json.format(msgspec.json.encode(created), indent=2) + b"\n")
    for path in run.notebooks.glob("*.ipynb"):
        notebook = json.loads(path.read_bytes())
        stamp = notebook["metadata"]["ctp_runbook"]
        stamp["journal_records"] = min(stamp["journal_records"], len(lines))
        stamp["journal_sha256"] = digest_of(b"\n".join(lines[: stamp["journal_records"]]) + b"\n")
        path.write_text(json.dumps(notebook, indent=1) + "\n")
    write_evidence(run, History.of(read_journal(run.journal).records))
    write_manifest(run, sealed=True)


def snapshot(run: RunDir) -> dict[Path, bytes]:
    """All files of a run, to put back."""
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def restore(files: dict[Path, bytes]) -> None:
    """Put files back as they were."""
    for path, data in files.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
