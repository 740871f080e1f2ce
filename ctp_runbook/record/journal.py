"""The journal: one append-only file that says all a run did, in order, and cannot be edited unseen.

A record is one line of JSON, written by one write and fsynced before the act it announces.
Each carries the digest of the line before it. A line torn by a crash is never repaired: whoever
takes over starts a new line and quotes the torn one by its digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic

import msgspec
from msgspec import Raw, Struct

from ctp_runbook.decoding import convert, decoder
from ctp_runbook.errors import JournalError
from ctp_runbook.host.files import KeptFile, keep_open, open_plain, path_of, write_atomic
from ctp_runbook.host.process import boot_id, own_identity
from ctp_runbook.record.formats import FormatOf, check_format
from ctp_runbook.record.kinds import KINDS, Count, Instant, Name, Payload, RunCreated

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # Bare, ``Record`` is one of any kind.
    _P = TypeVar("_P", bound=Payload, covariant=True, default=Payload)
    _K = TypeVar("_K", bound=Payload)
else:
    from typing import TypeVar

    _P = TypeVar("_P")
_B = TypeVar("_B")

__all__ = [
    "FIRST_PREV",
    "LONGEST_LINE",
    "Journal",
    "JournalFile",
    "Line",
    "Record",
    "Writer",
    "begun_at",
    "digest_of",
    "header_text",
    "keep_elsewhere",
    "open_journal",
    "read_journal",
    "read_known",
    "records_behind",
    "reserved_files",
    "utc_text",
]

FIRST_PREV = "0" * 64
# As many as the logs of all steps, the evidence, and a draft of each at its time.
_RESERVED_FILES = 48
# A record holds a plan at most, a sample a page of metrics: none comes near it.
LONGEST_LINE = 64 * 1024 * 1024


def utc_text(seconds: float | None = None) -> str:
    """ISO 8601 UTC with microseconds for ``seconds`` since the epoch (now when None)."""
    moment = time.time() if seconds is None else seconds
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def reserved_files(path: Path) -> Path:
    """The folder beside a journal that holds empty files, for a disk that has room and no inodes."""
    return path.with_suffix(".inodes")


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


class Writer(Struct, frozen=True, forbid_unknown_fields=True):
    """The process that wrote a record."""

    pid: Count
    start_ticks: Count


class Line(Struct, Generic[_B], frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record as it stands in the file, in the order of its keys."""

    seq: Count
    wall_utc: str
    mono_ns: Count
    boot_id: Name
    writer: Writer
    kind: str
    payload: _B
    prev: str
    # Digest of the torn line before this one, by whoever took over after a crash.
    torn_line_sha256: str = ""


_RAW_LINE: Final = Line[Raw]


class Record(Struct, Generic[_P], frozen=True):
    """One line of the journal."""

    seq: int
    wall_utc: str
    mono_ns: int
    boot_id: str
    writer: Writer
    payload: _P
    prev: str
    torn_line_sha256: str = ""

    @property
    def line(self) -> bytes:
        """The bytes as they stand in the file, no newline; none is read that is not written so."""
        return _encode(self)

    @property
    def kind(self) -> str:
        """Which kind of record it is: the payload's type, as the file names it."""
        return self.payload.kind

    @property
    def digest(self) -> str:
        """What the next record must carry as its ``prev``."""
        return digest_of(self.line)

    @property
    def wall(self) -> datetime:
        """Wall clock, UTC-aware."""
        return datetime.fromisoformat(self.wall_utc)

    @property
    def mono(self) -> float:
        """Monotonic clock, in seconds."""
        return self.mono_ns / 1e9


class JournalFile(Struct, frozen=True):
    """A journal as read: its records, and the bytes of a torn last line if there is one."""

    records: tuple[Record, ...]
    torn: bytes = b""


def read_journal(path: Path, *, fd: int = -1) -> JournalFile:
    """Read and check a journal whole; by ``fd``, where it is open, whatever its name leads to now.

    Raises JournalError naming the first line that is not what the chain, or the form of its kind,
    demands.
    """
    records: list[Record] = []
    quoted: bytes | None = None
    name, number, prev, torn = str(path), 0, FIRST_PREV, b""
    for number, written in enumerate(_lines(path, fd), start=1):
        line = written.removesuffix(b"\n")
        if line is written:  # whatever stands behind it by now, it was no whole line
            number, torn = number - 1, line
            break
        envelope = _envelope(line)
        if envelope is None:
            if quoted is not None:
                raise JournalError(f"{path}:{number}: two torn lines in a row; one was edited")
            quoted = line
            continue
        where = f"{name}:{number}"
        record = _record(envelope, line, where=where, last=records[-1] if records else None)
        _check_chain(record, seq=len(records), prev=prev, where=where)
        prev = digest_of(line)
        if quoted is not None and record.torn_line_sha256 != digest_of(quoted):
            raise JournalError(
                f"{path}:{number - 1}: not a record, and the record after it does not quote it "
                "as torn; the journal was edited or damaged"
            )
        quoted = None
        records.append(record)
    if quoted is not None:
        raise JournalError(f"{path}:{number}: the last whole line is not a record")
    return JournalFile(records=tuple(records), torn=torn)


def _lines(path: Path, fd: int) -> Iterator[bytes]:
    """The lines of a file, one at a time: whole it may be larger than its records. One that does not
    end is torn: what a file of nothing but zeros holds is not to be held in memory."""
    try:
        with open_plain(path if fd < 0 else path_of(fd)) as lines:
            yield from iter(partial(lines.readline, LONGEST_LINE), b"")
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from error


def open_journal(path: Path) -> int:
    """Hold a journal open, for whoever must read it when its name leads nowhere. Raises JournalError."""
    try:
        return keep_open(path)
    except OSError as error:
        raise JournalError(f"{path}: cannot be opened: {error.strerror}") from error


def keep_elsewhere(fd: int, path: Path) -> str:
    """Where a journal that is open here can be read when this process ends: at its ``path``, else in a
    file in /tmp; blank where there is no place for one."""
    journal = KeptFile(path, fd=fd)
    with contextlib.suppress(OSError):
        journal.put_back()
        return str(path)
    place = Path("/tmp", f"ctp-runbook.{path.parent.name}.{path.name}")
    with contextlib.suppress(OSError):
        write_atomic(place, journal.read(), mode=0o600)
        return str(place)
    return ""


def read_known(path: Path, behind: Path | None, *, fd: int = -1) -> tuple[Record, ...]:
    """The records of a journal, and those kept ``behind`` it. Raises JournalError as ``read_journal``."""
    known = read_journal(path, fd=fd).records
    return (*known, *records_behind(behind, known))


def records_behind(path: Path | None, known: Sequence[Record]) -> list[Record]:
    """What was kept in ``path`` for want of room in the journal, where it continues what is ``known``."""
    kept: list[Record] = []
    lines: list[bytes] = []
    with contextlib.suppress(OSError):
        if path is not None:
            with open_plain(path) as source:
                lines = source.read().splitlines()
    with contextlib.suppress(JournalError):
        for line in lines:
            envelope = _envelope(line)
            last = kept[-1] if kept else known[-1] if known else None
            if envelope is None or last is None:
                break
            record = _record(envelope, line, where=str(path), last=last)
            _check_chain(record, seq=len(known) + len(kept), prev=last.digest, where=str(path))
            kept.append(record)
    return kept


class _Begun(Struct):
    """No more of a first record than its instant."""

    wall_utc: Instant


def begun_at(path: Path) -> datetime | None:
    """Return when the first record was written, of whichever format and whatever follows it.

    None where even that cannot be read. It proves nothing: a journal is checked by being read.
    """
    try:
        with open_plain(path) as lines:
            first = decoder(_Begun).decode(lines.readline())
        return datetime.fromisoformat(first.wall_utc)
    except (OSError, ValueError, RecursionError):
        return None


def _envelope(line: bytes) -> Line[Raw] | None:
    """The keys around a payload; None for what is no record, as a torn line is none."""
    try:
        return decoder(_RAW_LINE).decode(line)
    except (ValueError, RecursionError):
        return None


def _record(envelope: Line[Raw], line: bytes, *, where: str, last: Record | None) -> Record:
    """The record a line says, its payload of the type of its kind. Raises JournalError.

    What it has in common with the ``last`` one is kept once: there may be many.
    """
    where = f"{where}: journal record {envelope.seq} ({envelope.kind})"
    payload_type = KINDS.get(envelope.kind)
    if payload_type is None:
        raise JournalError(f"{where}: unknown kind; this version knows {', '.join(sorted(KINDS))}")
    try:
        if payload_type is RunCreated:
            check_format(decoder(FormatOf).decode(envelope.payload).format, "journal")
        payload = decoder(payload_type).decode(envelope.payload)
        _check_instant(envelope.wall_utc)
    except (ValueError, JournalError) as error:
        raise JournalError(f"{where}: {error}") from error
    record = _joined(envelope, payload, last)
    if _encode(record) != line:
        raise JournalError(f"{where}: not as this version writes it; the line was edited")
    return record


def _check_instant(text: str) -> None:
    """Raise ValueError for what is no instant; a pattern takes longer than all else of a record."""
    moment = datetime.fromisoformat(text) if text.endswith("+00:00") else None
    if moment is None or moment.isoformat(timespec="microseconds") != text:
        datetime.fromisoformat(convert(text, Instant))


def _joined(envelope: Line[Raw], payload: Payload, last: Record | None) -> Record:
    boot_id, writer = envelope.boot_id, envelope.writer
    if last is not None:
        boot_id = last.boot_id if last.boot_id == boot_id else boot_id
        writer = last.writer if last.writer == writer else writer
    return Record(
        seq=envelope.seq,
        wall_utc=envelope.wall_utc,
        mono_ns=envelope.mono_ns,
        boot_id=boot_id,
        writer=writer,
        payload=payload,
        prev=envelope.prev,
        torn_line_sha256=envelope.torn_line_sha256,
    )


def _encode(record: Record) -> bytes:
    """The line of a record."""
    return msgspec.json.encode(
        Line(
            record.seq,
            record.wall_utc,
            record.mono_ns,
            record.boot_id,
            record.writer,
            record.kind,
            Raw(msgspec.json.encode(record.payload)),
            record.prev,
            record.torn_line_sha256,
        )
    )


def header_text(header: RunCreated) -> bytes:
    """run.json: the header, for people."""
    return msgspec.json.format(msgspec.json.encode(_as_read(header)), indent=2) + b"\n"


def _as_read(payload: _K) -> _K:
    """The payload as whoever reads the journal will have it: a whole number where a fraction may
    stand is 3.0, NaN is nothing, half a surrogate pair its escape."""
    try:
        data = msgspec.json.encode(payload)
    except ValueError:
        payload = _sayable(payload)
        data = msgspec.json.encode(payload)
    try:
        return decoder(type(payload)).decode(data)
    except ValueError as error:
        from ctp_runbook.host.outcry import cry_out

        # What happened is written all the same. Said now, while the process lives that can act.
        cry_out(f"a record of kind {payload.kind} cannot be read back: {error}")
        return payload


def _sayable(value: Any) -> Any:
    if isinstance(value, Struct):
        names = value.__struct_fields__
        return type(value)(**{name: _sayable(getattr(value, name)) for name in names})
    if isinstance(value, dict):
        return {_sayable(key): _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_sayable, value))
    if isinstance(value, str) and not isinstance(value, Enum):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _check_chain(record: Record, *, seq: int, prev: str, where: str) -> None:
    if record.seq != seq:
        raise JournalError(f"{where}: record {record.seq} stands where {seq} is due")
    if record.prev != prev:
        raise JournalError(
            f"{where}: record {record.seq} does not continue the record before it "
            f"(prev {str(record.prev)[:12]}…, expected {prev[:12]}…)"
        )


class Journal:
    """The one writer of a journal file. ``durable=False`` (dry runs) leaves out the fsyncs.

    ``tolerant`` is set once a rollback began: from then on an append that fails is told to
    the terminal and to syslog, and restoring trading goes on. What it could not write is kept in the
    file ``behind``, and written before what comes next, by this process or whoever comes after it.
    ``fd`` is the file where somebody else has it open: it is the journal then, whatever its name
    leads to.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, fd: int = -1, behind: Path | None = None
    ) -> None:
        self.path = path
        self._durable = durable
        self.tolerant = False
        self.gap = ""  # why a record is missing from the file, where one is
        self._ballast, self._ballasts = path.with_suffix(".reserve"), reserved_files(path)
        is_there = fd >= 0 or path.is_file()
        known = read_journal(path, fd=fd) if is_there else JournalFile(())
        self._records = list(known.records)
        self._torn = known.torn
        identity = own_identity()
        self._writer = Writer(identity.pid, identity.start_ticks)
        self._file = KeptFile(path, fd=fd)
        self.fd = self._file.fd
        self._complete_last()
        self._behind, self._lines_behind = behind, b""
        self._take_up_behind()
        # Of the file, and what is kept behind it: a record that is lost is in ``_records`` alone.
        self._seq = len(self._records)
        self._prev = self._records[-1].digest if self._records else FIRST_PREV

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, those of earlier writers included."""
        return tuple(self._records)

    @property
    def torn_line_sha256(self) -> str:
        """Digest of the torn last line found on opening; the first record appended must quote it."""
        return digest_of(self._torn) if self._torn else ""

    def append(self, payload: _K) -> Record[_K]:
        """Write one record; it is on disk when this returns. Raises JournalError."""
        record = self._made(payload)
        line = record.line
        self._records.append(record)
        try:
            self._write((b"\n" if self._torn else b"") + self._lines_behind + line + b"\n")
        except JournalError as error:
            if not self.tolerant:
                self._records.pop()
                raise
            from ctp_runbook.host.outcry import cry_out  # who acts has it loaded (run/world)

            cry_out(f"{error}; going on without it: {line.decode()}")
            self.gap = str(error)
            if not self._keep_behind(line + b"\n"):
                return record
        else:
            self._forget_behind()
        self._torn, self._seq, self._prev = b"", self._seq + 1, digest_of(line)
        return record

    def _keep_behind(self, line: bytes) -> bool:
        """Keep a record that the file has no room for; False where that cannot be done either."""
        if self._behind is None or self._torn:
            return False
        try:
            write_atomic(self._behind, self._lines_behind + line, mode=0o600, durable=False)
        except OSError:
            return False
        self._lines_behind += line
        return True

    def _forget_behind(self) -> None:
        if self._lines_behind and self._behind is not None:
            self._lines_behind = b""
            with contextlib.suppress(OSError):
                self._behind.unlink()

    def _take_up_behind(self) -> None:
        """Go on from what a writer before could not write into the file, and write it where that can
        be done by now."""
        if self._torn or self._behind is None:
            return
        kept = records_behind(self._behind, self._records)
        if not kept:
            return
        self._records += kept
        self._lines_behind = b"".join(record.line + b"\n" for record in kept)
        with contextlib.suppress(JournalError):
            self._write(self._lines_behind)
            self._forget_behind()

    def _made(self, payload: _K) -> Record[_K]:
        """The record that ``payload`` becomes: as it will be read."""
        return Record(
            seq=self._seq,
            wall_utc=utc_text(),
            mono_ns=time.monotonic_ns(),
            boot_id=boot_id(),
            writer=self._writer,
            payload=_as_read(payload),
            prev=self._prev,
            torn_line_sha256=self.torn_line_sha256,
        )

    def reserve(self, size: int) -> None:
        """Set ``size`` bytes of disk aside, and files for what else a run writes; given back when
        something meets a full disk. Raises JournalError."""
        try:
            self._ballasts.mkdir(mode=0o700, exist_ok=True)
            for number in range(_RESERVED_FILES):
                (self._ballasts / str(number)).touch()
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, max(1, size))  # of no bytes at all it is refused
            finally:
                os.close(fd)
        except OSError as error:
            raise JournalError(
                f"{self._ballast}: cannot reserve {size} bytes and {_RESERVED_FILES} files "
                f"({error.strerror}); free disk space in outputs/ before the switch"
            ) from error

    def give_back(self) -> None:
        """Let the reserve go: its space and its files, for what is to be written now."""
        with contextlib.suppress(OSError):
            self._ballast.unlink()
        if not os.path.lexists(self._ballasts):
            return  # a dry run sets none aside
        for number in range(_RESERVED_FILES):
            with contextlib.suppress(OSError):
                (self._ballasts / str(number)).unlink()
        with contextlib.suppress(OSError):
            self._ballasts.rmdir()

    def put_back(self) -> str:
        """See that the file is where its name says; what had become of it, in words, or nothing.

        Raises JournalError where it cannot be put there. It is written to all the same.
        """
        try:
            return self._file.put_back()
        except OSError as error:
            raise JournalError(
                f"{self.path} is gone and cannot be written again ({error.strerror or error}): the "
                "run goes on by the journal that it has open, which nobody else can read"
            ) from error

    def close(self) -> None:
        """Close the file and give the reserve back."""
        self._file.close()
        self.give_back()

    def _complete_last(self) -> None:
        """A record torn right before its newline is whole: end its line, and it counts."""
        envelope = _envelope(self._torn) if self._torn else None
        if envelope is None:
            return
        with contextlib.suppress(OSError, JournalError):
            where, last = str(self.path), self._records[-1] if self._records else None
            record = _record(envelope, self._torn, where=where, last=last)
            prev = last.digest if last else FIRST_PREV
            _check_chain(record, seq=len(self._records), prev=prev, where=where)
            self._write_once(b"\n")
            self._records.append(record)
            self._torn = b""

    def _write(self, data: bytes) -> None:
        try:
            self._write_once(data)
        except OSError as error:
            try:
                self.give_back()
                self._write_once(data)
            except OSError:
                raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _write_once(self, data: bytes) -> None:
        """Write whole and durable, or leave the file as it was and raise OSError."""
        size = os.fstat(self.fd).st_size
        try:
            if os.write(self.fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
            if self._durable:
                os.fdatasync(self.fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, size)
            raise
        self._file.add_to_copy(data, durable=self._durable)
