"""Structured mutants of finished runs, put before ``verify`` by the thousand.

    python -m tests.props.verify_fuzz SEED COUNT FOLDER

Each mutant edits one place of a recorded run: a field, a record, some bytes, or what kind of thing
a file is. How far whoever edited it went on from there is its ``depth``: they left it so
(``plain``), made the manifest anew (``resealed``), or chained the journal anew and derived evidence
and manifest from it (``forged``); a ``pair`` is two bare result files. Nothing may end verification
but its own words: no traceback, no hang. And nothing plain passes; of what is resealed, no file
that the journal answers for. What only its witness knows (an engine's answer, the operator's name)
a forger of all that stands around it may change: such passes are counted.

Prints one line of JSON: how many mutants came to what, and each fault with what makes it again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ctp_runbook.cli.main import main as command_line
from ctp_runbook.record.evidence import CHECKLISTS, CUTOVER_RESULT, ROLLBACK_RESULT, write_manifest
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir
from tests.props.run_mutants import rewrite_journal
from tests.props.synthetic_runs import seal

__all__ = ["DEPTHS", "Fuzz", "Hang"]

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
DEPTHS = {"plain": 5, "resealed": 3, "forged": 3, "pair": 1}
# Nothing takes a second; a machine that stands still for a while is no hang.
HANG_SECONDS = 60.0
UNFORESEEN = "an error that nobody foresaw"

_RESULTS = (f"evidence/{CUTOVER_RESULT}", f"evidence/{ROLLBACK_RESULT}")
# What the journal answers for: digested in it, or derived from it.
_ANSWERED = re.compile(
    r"journal\.jsonl|run\.json|plan/.*|samples/.*|logs/steps/.*|"
    + "|".join(map(re.escape, (*_RESULTS, *(f"evidence/{name}" for name in CHECKLISTS))))
)
_DEEP = 100_000
_RAW = "@@RAW@@"
_RAWS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e400",
    b"1e308",
    b"5e-324",
    b"-0.0",
    b"9" * 400,
    b"-" + b"9" * 400,
    b"1" + b"0" * 5000 + b".5",
    b"18446744073709551616",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"[" * _DEEP + b"]" * _DEEP,
    b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    b'"\\ud800"',
    b'"\\u0000"',
    b'"' + b"x" * 100_000 + b'"',
    b'"\xff\xfe"',
    b"",
    b"nul",
    b"1,2",
    b'1,"a":2',
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63 - 1,
    0.5,
    1e300,
    -1e300,
    1e-300,
    "",
    "x",
    "NaN",
    "inf",
    "../../../etc/passwd",
    "/dev/zero",
    "\x00",
    "\x1b[31m",
    "2026-02-30T00:00:00.000000+00:00",
    "9999-12-31T23:59:59.999999+00:00",
    "0001-01-01T00:00:00.000000+00:00",
    "2026-01-01T00:00:00",
    "0" * 64,
    [],
    {},
    [[]],
    {"x": 1},
)
_TEXTS = ("", "nan", "inf", "1e400", "-1", "9" * 400, "true", "0", "x", "\x00", "é", '"', "[" * 999)
_BYTES = (
    b"\x00",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"{",
    b" ",
)


class Hang(BaseException):
    """Verification was at it for too long. No ``except Exception`` of the product takes it."""


@dataclass(frozen=True)
class Edit:
    """What is to become of one file: other bytes, or something that is no file."""

    file: str
    what: str
    data: bytes | None = None


@dataclass
class Fuzz:
    """Some runs in a folder of its own, edited and put back; ``counts`` says what came of it."""

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, object]] = field(default_factory=list)
    added: Path | None = None

    def __post_init__(self) -> None:
        self.runs = [RunDir(self.folder / path.name) for path in sorted(GOLDEN.iterdir())]
        for run in self.runs:
            shutil.copytree(GOLDEN / run.run_id, run.path)
            run.notebooks.mkdir(exist_ok=True)
            seal(run)
        self.kept = {run.run_id: _files(run) for run in self.runs}
        for run in self.runs:
            # A rollback of another run is held against that one, where it lies beside it.
            if (run.plan / PARENT_JOURNAL).exists():
                parent = f"../{History.of(read_journal(run.journal).records).created.parent_run}"
                beside = f"{parent}/journal.jsonl"
                self.kept[run.run_id][beside] = (run.path / beside).read_bytes()
        self.names = {name: sorted(kept) for name, kept in self.kept.items()}
        self.told = {run.run_id: self._say(*_of_run(run)) for run in self.runs}

    def go(self, *, seed: int, count: int) -> None:
        """Try ``count`` mutants that ``seed`` names."""
        for number in range(count):
            self.one(f"{seed}:{number}")

    def one(self, name: str) -> None:
        """Try the mutant of that name; a fault is kept with it."""
        dice = random.Random(name)
        run = dice.choice(self.runs)
        depth = dice.choices(list(DEPTHS), weights=list(DEPTHS.values()))[0]
        edit = self._edit(dice, run, depth)
        began = time.monotonic()
        ended = "unchanged"
        try:
            if self._is_made(run, edit, depth):
                ended = self._judged(run, edit, depth)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._put_back(run)
        self.counts[f"{depth} {ended}"] += 1
        if ended in ("passed", "traceback", "hang"):
            took = round(time.monotonic() - began, 2)
            what = {"run": run.run_id, "file": edit.file, "edit": edit.what[:200], "seconds": took}
            self.faults.append({"name": name, "depth": depth, "ended": ended, **what})

    def _edit(self, dice: random.Random, run: RunDir, depth: str) -> Edit:
        names = self.names[run.run_id]
        if depth != "plain":
            names = [name for name in names if not name.startswith("..")]
        if depth == "pair":
            names = list(_RESULTS)
        elif depth == "forged":
            names = [name for name in names if _is_digested(name)] + ["journal.jsonl"] * 20
        # The journal and what is judged are most of what is read.
        weights = [6 if name.endswith((".jsonl", "manifest.json")) else 1 for name in names]
        name = dice.choices(names, weights=weights)[0]
        data = self.kept[run.run_id][name]
        # The run that was rolled back need not lie there at all.
        if depth in ("plain", "pair") and dice.random() < 0.06 and not name.startswith(".."):
            return Edit(name, dice.choice(_KINDS))
        if depth == "plain" and dice.random() < 0.02 and not name.startswith(".."):
            added = Path(name).parent / os.fsdecode(dice.choice(_ADDED))
            return Edit(str(added), "added", dice.choice((b"", b"{}", None)))
        return Edit(name, *_edited(dice, name, data))

    def _is_made(self, run: RunDir, edit: Edit, depth: str) -> bool:
        """Edit the run; False where that changed nothing."""
        path, kept = run.path / edit.file, self.kept[run.run_id].get(edit.file)
        if kept is None:
            if edit.data is None:
                os.mkfifo(path)
            else:
                path.write_bytes(edit.data)
            self.added = path
            return True
        if edit.data is None:
            _make_kind(path, edit.what)
            return True
        if edit.data == kept:
            return False
        path.write_bytes(edit.data)
        if depth == "resealed" and edit.file != "manifest.json":
            write_manifest(run, sealed=True)
        if depth == "forged":
            self._derive(run, edit, kept)
        return True

    def _derive(self, run: RunDir, edit: Edit, kept: bytes) -> None:
        """Do what somebody would who knows how it is made; what cannot be derived stays undone."""
        journal = run.journal.read_bytes()
        if edit.file != "journal.jsonl":
            new = digest_of(run.path.joinpath(edit.file).read_bytes())
            journal = journal.replace(digest_of(kept).encode(), new.encode())
        # Whatever breaks here are the forger's own tools.
        with contextlib.suppress(Exception):
            rewrite_journal(run, [json.loads(line) for line in journal.splitlines()])

    def _judged(self, run: RunDir, edit: Edit, depth: str) -> str:
        """``found``, or what is wrong with verification."""
        words, before = _of_run(run), self.told[run.run_id]
        if depth == "pair":
            words, before = _of_pair(run), (2, frozenset())
        try:
            code, said = self._say(*words)
        except Hang:
            return "hang"
        if code not in (0, 2) or any(UNFORESEEN in line for line in said):
            return "traceback"
        if code != before[0] or said - before[1]:
            return "found"
        if depth == "pair":
            return "let pass"
        if depth == "forged" or (depth == "resealed" and not _ANSWERED.fullmatch(edit.file)):
            return "let pass"
        if edit.what == "unreadable" and os.access(run.path / edit.file, os.R_OK):
            return "unchanged"  # for this user it is what it was
        return "passed"

    def _say(self, *words: str) -> tuple[int, frozenset[str]]:
        """The exit code of ``verify``, and all that it says against a run."""
        # As a terminal has it: what cannot be said in UTF-8 raises.
        said, kept = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n"), sys.argv
        sys.argv = ["ctp-runbook", "verify", *words]
        hangs: list[int] = []

        def hang(number: int, _: object) -> None:
            hangs.append(number)
            raise Hang

        signal.signal(signal.SIGALRM, hang)
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                command_line()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.argv = kept
        if hangs:  # the last boundary of the product catches all that is raised
            raise Hang
        said.seek(0)
        lines = said.read().splitlines()
        # Not what is well, and not how many checks that were: a finding must say what is wrong.
        well = ("✓", "–", "verification passed", "verification failed")
        return code, frozenset(line for line in lines if not line.startswith(well))

    def _put_back(self, run: RunDir) -> None:
        if self.added is not None:
            self.added.unlink()
            self.added = None
        kept = self.kept[run.run_id]
        for name, data in kept.items():
            path = run.path / name
            if path.is_symlink() or not path.is_file():
                _remove(path)
                path.write_bytes(data)
                continue
            path.chmod(0o600)
            if path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)


def _of_run(run: RunDir) -> tuple[str, ...]:
    return "--run", str(run.path), "--allow-cutover-rollback"


def _of_pair(run: RunDir) -> tuple[str, ...]:
    cutover, rollback = (str(run.path / name) for name in _RESULTS)
    files = "--cutover-evidence-file", cutover, "--rollback-evidence-file", rollback
    return *files, "--allow-cutover-rollback"


def _files(run: RunDir) -> dict[str, bytes]:
    paths = sorted(path for path in run.path.rglob("*") if path.is_file())
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in paths}


def _is_digested(name: str) -> bool:
    return name.startswith(("plan/", "samples/", "logs/steps/"))


# --- what kind of thing a file is --------------------------------------------------

_KINDS = (
    "removed",
    "unreadable",
    "a FIFO",
    "a directory",
    "a full directory",
    "a socket",
    "a link to the same",
    "a link to nothing",
    "a link to itself",
    "a link to a device",
    "a hole of 1 TiB",
    "a hole of 128 MiB",
)
# What a folder has that nobody listed, by its name.
_ADDED = (
    b"more.json",
    b".hidden",
    b"x" * 255,
    b"a\nline: \xe2\x9c\x93 well",
    b"\xff\xfe.csv",
    b"\x1b[2J",
    b" ",
    b"samples.jsonl~",
)


def _make_kind(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "unreadable":
        return path.chmod(0)
    if kind.startswith("a hole of"):
        path.chmod(0o600)
        return os.truncate(path, 2**40 if kind.endswith("TiB") else 2**27)
    path.unlink()
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind in ("a directory", "a full directory"):
        path.mkdir()
        if kind == "a full directory":
            (path / path.name).write_bytes(data)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
            listener.bind(path.name)
    elif kind.startswith("a link to"):
        same = path.parents[2] / "same"
        same.write_bytes(data)
        targets = {
            "the same": same,
            "nothing": Path("nowhere"),
            "itself": path,
            "a device": Path("/dev/zero"),
        }
        path.symlink_to(targets[kind.removeprefix("a link to ")])
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- what is in it -----------------------------------------------------------------


def _edited(dice: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    """What was done, and the bytes that it gave."""
    if name.endswith(".jsonl") and dice.random() < 0.75:
        return _edited_lines(dice, data)
    if name.endswith((".json", ".ipynb")) and dice.random() < 0.8:
        what, value, raw = _edited_json(dice, msgspec.json.decode(data))
        indent = 1 if name.endswith(".ipynb") else 2
        text = msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"
        return what, _with_raw(text, raw)
    if name.endswith((".env", ".toml")) and dice.random() < 0.7:
        return _edited_setting(dice, data)
    return _edited_bytes(dice, data)


def _edited_lines(dice: random.Random, data: bytes) -> tuple[str, bytes]:
    lines = data.splitlines(keepends=True)
    number = dice.randrange(len(lines))
    way = dice.random()
    if way < 0.2:
        other = dice.randrange(len(lines))
        what = dice.choice(("swapped", "doubled", "removed", "torn", "put instead", "cut off"))
        if what == "swapped":
            lines[number], lines[other] = lines[other], lines[number]
        elif what == "doubled":
            lines.insert(other, lines[number])
        elif what == "removed":
            del lines[number]
        elif what == "torn":
            lines[number] = lines[number][: dice.randrange(len(lines[number]))] + b"\n"
        elif what == "put instead":
            lines[number] = lines[other]
        else:
            del lines[number:]
        return f"line {number + 1} {what} ({other + 1})", b"".join(lines)
    if way < 0.3:
        what, lines[number] = _edited_bytes(dice, lines[number])
    else:
        value, whats, raw = msgspec.json.decode(lines[number]), [], b""
        for _ in range(dice.choice((1, 1, 1, 2))):
            what, value, more = _edited_json(dice, value)
            raw = more or raw
            whats.append(what)
        what = ", ".join(whats)
        lines[number] = _with_raw(msgspec.json.encode(value), raw) + b"\n"
    return f"line {number + 1}: {what}", b"".join(lines)


def _with_raw(text: bytes, raw: bytes) -> bytes:
    return text.replace(f'"{_RAW}"'.encode(), raw)


def _edited_json(dice: random.Random, value: Any) -> tuple[str, Any, bytes]:
    """What was done, the value it gave, and what stands where it says RAW."""
    places = list(_places(value))
    path = dice.choice(places) if places else ()
    where, raw = ".".join(map(str, path)), b""
    old = _at(value, path)
    way = dice.choice(("gone", "raw", "other", "like", "like", "like", "more", "from elsewhere"))
    if way == "gone" and path:
        return f"{where} gone", _put(value, path, None, gone=True), b""
    new: Any
    if way == "raw":
        new, raw = _RAW, dice.choice(_RAWS)
    elif way == "from elsewhere" and places:
        new = _at(value, dice.choice(places))
    elif way == "more" and isinstance(old, dict):
        new = {**old, dice.choice(("x", "kind", "format", "", "\x00")): dice.choice(_VALUES)}
    elif way == "more" and isinstance(old, list):
        new = [*old, *(old[:1] or [dice.choice(_VALUES)])]
    elif way == "like":
        new = _like(dice, old)
    else:
        new = dice.choice(_VALUES)
    said = raw[:30].decode(errors="replace") if raw or new == _RAW else repr(new)[:60]
    return f"{where} = {said}", _put(value, path, new), raw


def _like(dice: random.Random, old: Any) -> Any:
    """Another of the same type."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return dice.choice((old + 1, old - 1, -old, old * 1000, old // 2, old + 10**9, 0))
    if isinstance(old, float):
        return dice.choice((old + 0.001, old * 2, -old, old * 1e6, old + 600.0, old - 600.0, 0.0))
    if isinstance(old, str):
        at = dice.randrange(len(old) + 1)
        char = dice.choice("0a1fZ ./:-é\t")
        return dice.choice((old[:at] + char + old[at + 1 :], old[:at], old + char, old.swapcase()))
    if isinstance(old, list):
        return dice.sample(old, len(old)) if dice.random() < 0.5 else old[: len(old) // 2]
    if isinstance(old, dict) and old:
        return {key: old[key] for key in dice.sample(sorted(old), max(1, len(old) - 1))}
    return dice.choice(_VALUES)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, each in items:
        yield from _places(each, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: tuple[Any, ...], new: Any, *, gone: bool = False) -> Any:
    """The value with another at ``path``, or without what is there."""
    if not path:
        return new
    key, *rest = path
    whole = dict(value) if isinstance(value, dict) else list(value)
    if gone and not rest:
        del whole[key]
    else:
        whole[key] = _put(value[key], tuple(rest), new, gone=gone)
    return whole


def _edited_setting(dice: random.Random, data: bytes) -> tuple[str, bytes]:
    lines = data.decode().splitlines(keepends=True)
    number = dice.randrange(len(lines))
    key, equals, value = lines[number].partition("=")
    way = dice.choice(("value", "value", "value", "key", "gone", "twice", "swapped"))
    if way == "gone":
        del lines[number]
    elif way == "twice":
        lines.insert(dice.randrange(len(lines)), lines[number])
    elif way == "swapped":
        other = dice.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    elif way == "key":
        lines[number] = f"{_like(dice, key)}{equals}{value}"
    else:
        new = dice.choice((*_TEXTS, str(_like(dice, value.rstrip("\n")))))
        lines[number] = f"{key}={new}\n"
    return f"line {number + 1} {way}", "".join(lines).encode(errors="surrogatepass")


def _edited_bytes(dice: random.Random, data: bytes) -> tuple[str, bytes]:
    start = dice.randrange(len(data) + 1)
    end = min(len(data), start + dice.choice((1, 1, 8, 200, 5000)))
    way = dice.choice(("cut", "emptied", "put in", "put over", "doubled", "gone", "bit", "grown"))
    if way == "cut":
        return f"cut at {start}", data[:start]
    if way == "emptied":
        return "emptied", b""
    if way == "bit" and start < len(data):
        flipped = bytes([data[start] ^ 1 << dice.randrange(8)])
        return f"a bit of byte {start}", data[:start] + flipped + data[start + 1 :]
    if way == "doubled":
        return f"{start} to {end} doubled", data[:end] + data[start:end] + data[end:]
    if way == "gone":
        return f"{start} to {end} gone", data[:start] + data[end:]
    if way == "grown":
        more = dice.choice((b"\n", b" " * 100_000, b"\x00" * 5000, data[-200:], b"{}\n"))
        return "grown", data + more
    new = dice.choice(_BYTES)
    rest = data[end:] if way == "put over" else data[start:]
    return f"{new!r} at {start}", data[:start] + new + rest


def main() -> None:
    """Fuzz, and say what came of it."""
    seed, count, folder = sys.argv[1:]
    fuzz = Fuzz(Path(folder))
    fuzz.go(seed=int(seed), count=int(count))
    print(json.dumps({"counts": fuzz.counts, "faults": fuzz.faults}))


if __name__ == "__main__":
    main()
