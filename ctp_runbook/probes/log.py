"""Logs of engines: what a line says, and a file followed from its end, whatever rotates it.

No line is read twice, and none is lost in silence: what cannot be known any more is a note. A look
never waits, and holds one line and one piece of the file in memory, however much was written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.checked_toml import may_run_away
from ctp_runbook.strict_json import decode_json

__all__ = [
    "FORMATS",
    "LONGEST_LINE_BYTES",
    "Beside",
    "Fields",
    "Follower",
    "Place",
    "line_parser",
    "names_event",
    "parse_logfmt",
]

FORMATS = ("logfmt", "json", "pattern")
LONGEST_LINE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
# An expression may take a time that grows with the square of the line, and holds the interpreter.
_LONGEST_MATCHED = 4096
# So much of what was read last is looked at again: a file that was cut and has grown since is told by it.
_MARK_BYTES = 64
_ALIKE_BYTES = 4096
# Whoever writes goes on writing to a renamed log until it is told; so long, and two looks, it is read.
_LINGER_SECONDS = 10.0
_MOST_OPEN = 64
_MOST_NOTES = 8
_MOST_TRIES = 10
# A log that bears no name for so long was taken away.
_GONE_SECONDS = 2.0
_PACKED = (".gz", ".xz", ".zst", ".bz2", ".lz4")

Fields = Mapping[str, object]


# --- what a line says -------------------------------------------------------------

# A key, and nothing, a bare value, or a quoted one: what Go's encoders and the engines' write.
_PAIR = re.compile(r'[ \t]*([^\s="\\]+)(?:=(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"]*)(?=\s|$)))?')
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def line_parser(form: str, *, pattern: str = "") -> Callable[[bytes], Fields | None]:
    """Return what reads a line of this form (one of FORMATS): its fields by name, or None for a line
    that is none of the form.

    Values are texts; in JSON what JSON makes of them, those of objects within by ``outer.inner``
    too. Raises ValueError for another form, or a pattern that is none or has no named group.
    """
    if form == "logfmt":
        return lambda line: parse_logfmt(_text(line))
    if form == "json":
        return _parse_json
    if form != "pattern":
        raise ValueError(f"the log format {form!r}; expected one of {', '.join(FORMATS)}")
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern is no expression: {error}") from error
    if not expression.groupindex:
        raise ValueError("the pattern has no named group (?P<name>…)")
    if run_away := may_run_away(pattern):
        raise ValueError(f"the pattern {run_away}")
    return lambda line: _matched(expression, _text(line).removesuffix("\r"))


def names_event(line: bytes, field: str, event: str) -> bool:
    """True where ``line`` gives ``event`` as its ``field``, though it may be no line of its form: two
    that were written into one, or one that was cut."""
    form = rb'(?<![\w.-])"?%b"?\s*[=:]\s*"?%b(?![\w.-])'
    return (
        re.search(form % (re.escape(field.encode()), re.escape(event.encode())), line) is not None
    )


def parse_logfmt(line: str) -> dict[str, str] | None:
    """Return the pairs of a ``key=value key="quoted value"`` line; a key alone has an empty value.

    None for a line that is none: a quote left open (a torn line), a key twice, free text without a
    single pair.
    """
    pairs: dict[str, str] = {}
    at, has_value, line = 0, False, line.rstrip()
    while at < len(line):
        if (match := _PAIR.match(line, at)) is None:
            return None
        key, quoted, bare = match.groups()
        end = match.end()
        if end < len(line) and not line[end].isspace():
            return None
        if key in pairs:
            return None
        has_value = has_value or quoted is not None or bare is not None
        pairs[key] = _unescaped(quoted) if quoted is not None else bare or ""
        at = end
    return pairs if has_value else None


def _unescaped(quoted: str) -> str:
    if "\\" not in quoted:
        return quoted
    return _ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES.get(m[2], m[2]), quoted)


def _parse_json(line: bytes) -> Fields | None:
    # Most of a log's lines are no JSON where a banner or a stack trace is in it: quickly left.
    if line.lstrip()[:1] != b"{":
        return None
    try:
        value, odd = decode_json(line, subject="a line of the log", most_bytes=LONGEST_LINE_BYTES)
    except ProbeError:
        return None
    return _flat(value, "") if isinstance(value, dict) and not odd else None


def _flat(fields: Mapping[str, object], above: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in fields.items():
        flat[above + key] = value
        if isinstance(value, dict):
            flat.update(_flat(value, f"{above}{key}."))
    return flat


def _matched(expression: re.Pattern[str], line: str) -> Fields | None:
    match = expression.search(line[:_LONGEST_MATCHED])
    if match is None:
        return None
    return {name: value for name, value in match.groupdict().items() if value is not None}


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


# --- a file, followed -------------------------------------------------------------


class Place(Struct, frozen=True):
    """How far a file was read, to the end of a line; ``mark`` is what is just before that, as hex."""

    device: int
    inode: int
    offset: int
    mark: str = ""

    @property
    def identity(self) -> tuple[int, int]:
        """Which file it is, while that is there."""
        return self.device, self.inode


class Follower:
    """A log followed by its name, from its end as it is at the first look.

    ``from_start``: from its beginning. ``places``: from where somebody stood, also in files that were
    renamed since; where none is found any more, from the beginning of what is there, with a note.
    ``may_be_missing``: a file that is not there yet is read whole once it is. Nothing is opened
    before ``begin``, or the first ``read``.
    """

    def __init__(
        self,
        path: Path,
        *,
        from_start: bool = False,
        places: Sequence[Place] = (),
        may_be_missing: bool = False,
        longest_line: int = LONGEST_LINE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.is_behind = False
        self._from_start, self._from, self._may_be_missing = from_start, places, may_be_missing
        self._longest, self._clock = longest_line, clock
        self._files: list[_Open] = []  # the oldest first; the last is what bears the name
        self._let_gone: deque[Place] = deque(maxlen=_MOST_OPEN)
        self._beside = Beside(path)
        self._missing_since: float | None = None
        self._notes: list[str] = []
        self._has_begun = False

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the next look begins, a place each file that is still read; none before the first."""
        if not self._has_begun:
            return tuple(self._from)
        return tuple(file.place() for file in self._files)

    def notes(self) -> tuple[str, ...]:
        """Return what is or may be lost since this was last asked, a sentence each."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def close(self) -> None:
        """Let go of every file."""
        while self._files:
            self._files.pop().close()

    def begin(self) -> None:
        """Stand where the first look begins. Raises ProbeError where no plain file can be opened."""
        if self._has_begun:
            return
        self._beside.look()
        file = self._open()
        if file is None and not self._may_be_missing:
            raise ProbeError(f"log {self.path}: there is no such file")
        if self._from:
            self._reach(file)
        elif file is not None:
            self._files.append(file)
            if not self._from_start:
                file.go_to_end(self._longest)
        self._has_begun = True

    def read(self, *, seconds: float = 2.0) -> Iterator[bytes]:
        """Yield the lines that were finished since the last look, in order, without their ends.

        ``is_behind`` where time was up before the end was reached: the next look goes on there.
        Raises ProbeError where it cannot be read, or is not there any more.
        """
        self.begin()
        until, self.is_behind = self._clock() + seconds, False
        self._find_rotated()
        for file in tuple(self._files):
            if file.was_cut() or (file.is_unread and self._beside.has_changed):
                self._begin_anew(file)
        if self._files and self._beside.has_changed:
            # Copies made by hand are no logs that were missed; and whoever bears the name still has
            # not been renamed before these were seen.
            held = self._files[-1].identity
            self._beside.look(unless=lambda: _identity(self.path) != held)
        for file in tuple(self._files):
            yield from self._lines(file, until)
            if self.is_behind:
                return
        yield from self._let_go()
        self._tell_missing()

    def _lines(self, file: _Open, until: float) -> Iterator[bytes]:
        for line in file.lines(self._longest):
            if line is not None:
                yield line
            elif self._clock() > until:  # asked between two pieces, each some milliseconds
                self.is_behind = True
                break
        if file.too_long:
            self._note(f"{file.too_long} lines of more than {self._longest} bytes were left out")
            file.too_long = 0

    def _let_go(self) -> Iterator[bytes]:
        """Close renamed files that nothing comes from any more; their last line is finished by nobody."""
        now = self._clock()
        # Where it is rotated many times a second there must be room for what the next look finds.
        crowd = len(self._files) - _MOST_OPEN // 2
        for place, file in enumerate(self._files[:-1]):
            if file.grew:
                file.grew, file.quiet_since = False, now
            if place < crowd or now - file.quiet_since > _LINGER_SECONDS:
                yield from [file.torn] if file.torn else []
                file.torn = b""
                self._let_gone.append(file.place())
                self._files.remove(file)
                file.close()

    def _tell_missing(self) -> None:
        if self._may_be_missing or _identity(self.path) is not None:
            self._missing_since = None
            return
        # Between the two steps of a rotation there is none for a moment.
        now = self._clock()
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since >= _GONE_SECONDS:
            raise ProbeError(f"log {self.path}: there is no such file any more")

    # --- what became of the file

    def _find_rotated(self) -> None:
        """Open what bears the name now, where that is another file, and what bore it in between."""
        held = self._files[-1] if self._files else None
        if held is not None and _identity(self.path) in (None, held.identity):
            return
        for _ in range(_MOST_TRIES):
            newest = self._open()
            if newest is None:
                return  # gone again: the next look sees what there is then
            missed = self._missed(held, newest.identity)
            if _identity(self.path) in (None, newest.identity):
                break
            # Rotated meanwhile: among what bore the name before may be what came after it.
            for file in (*missed, newest):
                file.close()
        else:
            return  # nothing of it is lost to the next look
        if held is not None and not os.fstat(held.fd).st_nlink:
            self._note("it was removed, with what else bore its name since the last look, if any")
        self._files += [*missed, newest]
        self._beside.look(unless=lambda: _identity(self.path) != newest.identity)

    def _missed(self, held: _Open | None, now: tuple[int, int]) -> list[_Open]:
        """Open what bore the name between ``held`` and who does now, the oldest first."""
        missed = list[_Open]()
        for file in self._strangers(self._beside.newcomers()):
            if file.identity == now or (held is not None and file.begins_like(held)):
                file.close()
            elif len(missed) + len(self._files) >= _MOST_OPEN:
                self._note(f"more than {_MOST_OPEN} files bore its name since the last look")
                file.close()
            else:
                missed.append(file)
        return missed

    def _strangers(self, paths: Iterable[Path]) -> Iterator[_Open]:
        """Open what is neither read now nor was read to its end before."""
        held = {file.identity for file in self._files}
        gone = {place.identity: place for place in self._let_gone}
        for path in paths:
            if (file := _Open.at(path)) is None:
                continue
            place = gone.get(file.identity)
            if file.identity in held or (place is not None and file.has(place)):
                file.close()
            else:
                yield file

    def _begin_anew(self, file: _Open) -> None:
        """Read a file that was cut from its start, and before it what is new in the copy it left."""
        copy = self._copy_of(file)
        if copy is not None:
            copy.go_on_for(file)
            self._files.insert(self._files.index(file), copy)
        elif not file.is_unread:
            self._note("it was cut; what was written between the last look and that is lost")
        file.stand_at(Place(*file.identity, 0))

    def _copy_of(self, file: _Open) -> _Open | None:
        """Open the copy of a file as it was, known by what was read last of it.

        Of one of which little was read, or nothing, it is what came to stand beside it since.
        """
        paths = self._beside.paths() if file.is_marked else self._beside.newcomers()
        copy = None
        for other in self._strangers(paths):
            if copy is None and other.is_copy_of(file) and not other.begins_like(file):
                copy = other
            else:
                other.close()
        if copy is not None and not file.is_marked and _identity(self.path) != file.identity:
            # Renamed meanwhile: what stands beside it came after it, and is no copy of it.
            copy.close()
            return None
        return copy

    def _reach(self, file: _Open | None) -> None:
        """Open the files of the places, and stand there; then what bore the name since."""
        wanted = {place.identity: place for place in self._from}
        opened, younger = list[_Open](), list[_Open]()
        for other in [*map(_Open.at, reversed(list(self._beside.paths()))), file]:
            if other is None:
                continue
            if file is not None and other is not file and other.identity == file.identity:
                other.close()
                continue
            place = wanted.get(other.identity)
            if place is not None and other.has(place):
                del wanted[other.identity]
                other.stand_at(place)
                opened.append(other)
            elif other is file or opened:
                younger.append(other)
            else:
                other.close()
        if wanted:
            self._note("where it was read up to is not there any more: what is there is read")
        self._files = [*opened, *younger]

    def _open(self) -> _Open | None:
        try:
            return _Open(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProbeError(f"log {self.path}: cannot be read: {error.strerror}") from error

    def _note(self, note: str) -> None:
        # Whoever never asks for notes does not pile them up.
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(f"log {self.path}: {note}")


class Beside:
    """The plain files that are named like a log: ``engine.log.1``, ``engine.log-20261126``,
    ``engine.1.log`` beside ``engine.log``, and itself."""

    def __init__(self, log: Path, *, with_packed: bool = False) -> None:
        self._log, self._with_packed = log, with_packed
        stem, suffix = re.escape(log.stem), re.escape(log.suffix)
        self._named = re.compile(rf"{stem}(?:[._-]?[0-9][0-9._T-]*)?{suffix}(?:[._-].*)?")
        self._known: frozenset[tuple[int, int]] = frozenset()
        self._changed = -1

    @property
    def has_changed(self) -> bool:
        """True where the folder has changed since the last look; asked at every look, so cheap."""
        return self._folder_change() != self._changed

    def look(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Note who is there; not where ``unless`` says after the look that it may be too much."""
        changed = self._folder_change()
        known = frozenset((inode, at) for inode, at, _ in self._all())
        if not unless():
            self._known, self._changed = known, changed

    def newcomers(self) -> Iterator[Path]:
        """Yield who was not noted, or has been written to since, the oldest first."""
        yield from (
            path for inode, at, path in reversed(self._all()) if (inode, at) not in self._known
        )

    def paths(self) -> Iterator[Path]:
        """Yield all, the youngest first."""
        yield from (path for _, _, path in self._all())

    def dated(self) -> Iterator[tuple[float, Path]]:
        """Yield all with when each was written last (seconds since the epoch), the youngest first."""
        yield from ((at / 1e9, path) for _, at, path in self._all())

    @staticmethod
    def is_packed(path: Path) -> bool:
        """True where only another program reads it."""
        return path.name.endswith(_PACKED)

    def _folder_change(self) -> int:
        with contextlib.suppress(OSError):
            return self._log.parent.stat().st_mtime_ns
        return -1

    def _all(self) -> list[tuple[int, int, Path]]:
        """Inode, time of the last change, and path; the youngest first."""
        files = []
        with contextlib.suppress(OSError), os.scandir(self._log.parent) as entries:
            for entry in entries:
                if not self._named.fullmatch(entry.name):
                    continue
                if entry.name.endswith(_PACKED) and not self._with_packed:
                    continue
                with contextlib.suppress(OSError):
                    kept = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(kept.st_mode):
                        files.append((kept.st_ino, kept.st_mtime_ns, Path(entry.path)))
        return sorted(files, key=lambda entry: entry[1], reverse=True)


class _Open:
    """A plain file that is read on; ``torn`` is the line that its writer has not finished yet."""

    def __init__(self, path: Path) -> None:
        # Of a pipe without a writer an open would wait for ever.
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        kept = os.fstat(self.fd)
        if not stat.S_ISREG(kept.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "a directory, pipe or device, and no plain file")
        self.identity = (kept.st_dev, kept.st_ino)
        self.torn, self.too_long, self.grew = b"", 0, True
        self.quiet_since = 0.0
        self._offset, self._mark, self._skips = 0, b"", False

    @classmethod
    def at(cls, path: Path) -> _Open | None:
        """Return it opened; None where it cannot be."""
        with contextlib.suppress(OSError):
            return cls(path)
        return None

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def place(self) -> Place:
        """Return how far it was read, to the end of a line; after a piece of one where that is too long."""
        at = self._offset - len(self.torn)
        mark = self._before(at) if self.torn else self._mark
        return Place(*self.identity, at, mark.hex())

    def stand_at(self, place: Place) -> None:
        """Go on reading there."""
        self._offset, self._mark = place.offset, bytes.fromhex(place.mark)
        self.torn, self._skips = b"", bool(self._mark) and not self._mark.endswith(b"\n")

    def go_to_end(self, longest: int) -> None:
        """Stand at its end, before a line that is not finished yet."""
        size = os.fstat(self.fd).st_size
        end = os.pread(self.fd, min(size, longest), max(0, size - longest))
        at = size - len(end) + end.rfind(b"\n") + 1
        self.stand_at(Place(*self.identity, at, self._before(at).hex()))

    def has(self, place: Place) -> bool:
        """True where ``place`` could be in this file: what is before it there is before it here."""
        mark = bytes.fromhex(place.mark)
        return os.fstat(self.fd).st_size >= place.offset and self._before(place.offset) == mark

    @property
    def is_unread(self) -> bool:
        """True where nothing of it was read."""
        return not self._offset

    @property
    def is_marked(self) -> bool:
        """True where what was read last is enough to know a copy by."""
        return len(self._mark) >= _MARK_BYTES // 4

    def is_copy_of(self, other: _Open) -> bool:
        """True where what was read last of ``other``, which was cut since, is here at its place."""
        return self.has(Place(*self.identity, other._offset, other._mark.hex()))

    def go_on_for(self, other: _Open) -> None:
        """Stand where ``other`` stands, in the midst of a line too."""
        self._offset, self._mark = other._offset, other._mark
        self.torn, self._skips = other.torn, other._skips

    def begins_like(self, other: _Open) -> bool:
        """True where one is a copy of the other's beginning: by more than a banner that both have."""
        most = min(_ALIKE_BYTES, *(os.fstat(fd).st_size for fd in (self.fd, other.fd)))
        mine, its = (os.pread(fd, most, 0) for fd in (self.fd, other.fd))
        return most >= _MARK_BYTES and mine == its

    def was_cut(self) -> bool:
        """True where what was read is not there any more, whether it has grown since or not."""
        if os.fstat(self.fd).st_size < self._offset:
            return True
        return self._before(self._offset) != self._mark

    def lines(self, longest: int) -> Iterator[bytes | None]:
        """Yield the lines up to its end, and None after each piece that was read."""
        while piece := os.pread(self.fd, _PIECE_BYTES, self._offset):
            self.grew = True
            if piece[0] == 0 and self._passes_hole():
                continue
            self._offset += len(piece)
            self._mark = (self._mark + piece)[-_MARK_BYTES:]
            yield from self._split(piece, longest)
            yield None

    def _split(self, piece: bytes, longest: int) -> Iterator[bytes]:
        if self._skips:
            _, end, piece = piece.partition(b"\n")
            self._skips = not end
        if not self.torn:
            # Whoever goes on writing where a file was cut leaves zeros before it.
            piece = piece.lstrip(b"\0")
        *lines, torn = (self.torn + piece).split(b"\n")
        self.torn = torn
        for line in lines:
            if len(line) > longest:
                self.too_long += 1
            else:
                yield line
        if len(torn) > longest:
            self.torn, self._skips = b"", True
            self.too_long += 1

    def _passes_hole(self) -> bool:
        """Go on behind zeros that were never written; True where there were any. Ten GiB take no time."""
        try:
            data = os.lseek(self.fd, self._offset, os.SEEK_DATA)
        except OSError:
            data = os.fstat(self.fd).st_size  # zeros to the end
        if data <= self._offset:
            return False
        self._offset = data
        self._mark = self._before(data)
        return True

    def _before(self, offset: int) -> bytes:
        length = min(_MARK_BYTES, offset)
        return os.pread(self.fd, length, offset - length)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        kept = path.stat()
    except OSError:
        return None
    return kept.st_dev, kept.st_ino
