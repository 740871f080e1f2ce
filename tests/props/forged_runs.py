"""Finished runs with one thing forged in them, and all that is derived from it made anew.

A forger of records chains, derives and seals again, as somebody would who knows the tool; a forger
of a file writes a new manifest over it. What is said of the run then is what the record itself
contradicts. Works on the bytes of a run directory alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.kinds import KINDS
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.run import verify_run
from tests.props.run_mutants import rewrite_journal

__all__ = [
    "Edit",
    "Raw",
    "Raws",
    "changed",
    "copy_of",
    "edit_file",
    "edit_json",
    "edit_samples",
    "findings_of",
    "forge",
    "inserted",
    "moved",
    "nth",
    "planned",
    "removed",
    "together",
]

Raw = dict[str, Any]
Raws = list[Raw]
# Whatever an edit returns, it is what it did to the records that counts.
Edit = Callable[[Raws], object]


def copy_of(run: RunDir, folder: Path) -> RunDir:
    """A copy of a run under another folder, by its own name."""
    shutil.copytree(run.path, folder / run.run_id)
    return RunDir(folder / run.run_id)


def forge(run: RunDir, edit: Edit) -> None:
    """Edit the records of a run, then chain, derive and seal anew as far as that can be done."""
    raws = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    edit(raws)
    for raw in raws:
        raw["payload"] = _in_order(raw["kind"], raw["payload"])
    # Of a record that contradicts itself there may be no evidence: the old one stays then.
    with contextlib.suppress(RunbookError, KeyError, ValueError, TypeError, AttributeError):
        rewrite_journal(run, raws)


def _in_order(kind: str, payload: Raw) -> Raw:
    """The payload with its keys where this version writes them."""
    order = KINDS[kind].__struct_fields__ if kind in KINDS else ()
    return {**{key: payload[key] for key in ("format", *order) if key in payload}, **payload}


def findings_of(run: RunDir, **options: Any) -> str:
    """All findings of a verification that allows a rollback, a line each."""
    return "\n".join(verify_run(run, allow_cutover_rollback=True, **options).findings)


def edit_file(run: RunDir, name: str, data: bytes | None) -> None:
    """Put ``data`` in place of a file, None to remove it, and seal anew."""
    if data is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(data)
    write_manifest(run, sealed=True)


def edit_json(run: RunDir, name: str, edit: Callable[[Any], None]) -> None:
    """Edit a JSON file as data, and seal anew."""
    value = json.loads((run.path / name).read_bytes())
    edit(value)
    edit_file(run, name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def edit_samples(run: RunDir, edit: Edit, *, name: str = "samples") -> None:
    """Edit the samples of the watch (or of the ``baseline``), and digest them in the journal."""
    path = run.path / "samples" / f"{name}.jsonl"
    raws = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(raws)
    data = b"".join(json.dumps(raw, separators=(",", ":")).encode() + b"\n" for raw in raws)
    path.write_bytes(data)
    kind = {"samples": "watch_ended", "baseline": "baseline_ended"}[name]
    forge(run, changed(kind, samples=len(raws), samples_sha256=digest_of(data)))


# --- edits of records -------------------------------------------------------------


def nth(raws: Raws, kind: str, number: int = 0, **payload: Any) -> Raw:
    """The record of a kind, counted from 0, whose payload has these values."""
    fits = [
        raw for raw in raws if raw["kind"] == kind and payload.items() <= raw["payload"].items()
    ]
    return fits[number]


def changed(kind: str, /, number: int = 0, where: Raw | None = None, **payload: Any) -> Edit:
    """Other values in a record's payload; ``where`` says which record of the kind."""

    def edit(raws: Raws) -> None:
        nth(raws, kind, number, **(where or {}))["payload"].update(payload)

    return edit


def removed(kind: str, /, number: int = 0, **where: Any) -> Edit:
    """A record less."""
    return lambda raws: raws.remove(nth(raws, kind, number, **where))


def inserted(after: str, kind: str, /, where: Raw | None = None, **payload: Any) -> Edit:
    """One record more, at the instant of the record of kind ``after`` that it is put behind."""

    def edit(raws: Raws) -> None:
        before = nth(raws, after, **(where or {}))
        raws.insert(raws.index(before) + 1, {**before, "kind": kind, "payload": payload})

    return edit


def moved(kind: str, *, behind: str, number: int = 0, **where: Any) -> Edit:
    """A record in another place: right behind the first of kind ``behind``, at its instant."""

    def edit(raws: Raws) -> None:
        record = nth(raws, kind, number, **where)
        raws.remove(record)
        before = nth(raws, behind)
        clocks = {key: before[key] for key in ("wall_utc", "mono_ns")}
        raws.insert(raws.index(before) + 1, {**record, **clocks})

    return edit


def planned(**values: Any) -> Edit:
    """Other values in the plan of the header."""
    return lambda raws: raws[0]["payload"]["plan"].update(values)


def together(*edits: Edit) -> Edit:
    """Several edits, in their order."""

    def edit(raws: Raws) -> None:
        for each in edits:
            each(raws)

    return edit
