"""The journal: one append-only file that says all a run did, in order, and cannot be edited unseen.

A record is one line of JSON, written by one write and fsynced before the act it announces.
Each carries the digest of the line before it. A line torn by a crash is never repaired: whoever
takes over starts a new line and quotes the torn one by its digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import JournalError
from ctp_runbook.host.process import boot_id, own_identity

__all__ = [
    "FIRST_PREV",
    "Journal",
    "JournalFile",
    "Record",
    "digest_of",
    "read_journal",
    "utc_text",
]

FIRST_PREV = "0" * 64
_KEYS = ("seq", "wall_utc", "mono_ns", "boot_id", "writer", "kind", "payload", "prev")


def utc_text(seconds: float | None = None) -> str:
    """ISO 8601 UTC with microseconds for ``seconds`` since the epoch (now when None)."""
    moment = time.time() if seconds is None else seconds
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Record:
    """One line of the journal. ``line`` is the bytes as they stand in the file, no newline."""

    seq: int
    wall_utc: str
    mono_ns: int
    boot_id: str
    writer: Mapping[str, int]
    kind: str
    payload: Mapping[str, Any]
    prev: str
    line: bytes

    @property
    def digest(self) -> str:
        """What the next record must carry as its ``prev``."""
        return digest_of(self.line)

    @property
    def wall(self) -> datetime:
        """Wall clock, UTC-aware."""
        return datetime.fromisoformat(self.wall_utc)


@dataclass(frozen=True)
class JournalFile:
    """A journal as read: its records, and the bytes of a torn last line if there is one."""

    records: tuple[Record, ...]
    torn: bytes = b""


def read_journal(path: Path) -> JournalFile:
    """Read and check a journal whole.

    Raises JournalError naming the first line that is not what the chain demands.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
    *lines, torn = data.split(b"\n")
    records: list[Record] = []
    quoted: bytes | None = None
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None or record.line != line:
            if quoted is not None:
                raise JournalError(f"{path}:{number}: two torn lines in a row; one was edited")
            quoted = line
            continue
        _check_chain(record, records, where=f"{path}:{number}")
        if quoted is not None and record.payload.get("torn_line_sha256") != digest_of(quoted):
            raise JournalError(
                f"{path}:{number - 1}: not a record, and the record after it does not quote it "
                "as torn; the journal was edited or damaged"
            )
        quoted = None
        records.append(record)
    if quoted is not None:
        raise JournalError(f"{path}:{len(lines)}: the last whole line is not a record")
    return JournalFile(records=tuple(records), torn=torn)


def _parse(line: bytes) -> Record | None:
    try:
        raw = json.loads(line)
        if tuple(raw) != _KEYS or not isinstance(raw["payload"], dict):
            return None
        return Record(**raw, line=_encode(raw))
    except (ValueError, TypeError, RecursionError):
        return None


def _encode(raw: Mapping[str, Any]) -> bytes:
    return json.dumps(raw, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _encode_anything(raw: Mapping[str, Any]) -> bytes:
    """As ``_encode``; what JSON or UTF-8 cannot say (NaN, half a surrogate pair) as text."""
    try:
        return _encode(raw)
    except ValueError:
        return _encode(_sayable(raw))


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_sayable(key): _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _check_chain(record: Record, before: list[Record], *, where: str) -> None:
    expected_seq = len(before)
    if record.seq != expected_seq:
        raise JournalError(f"{where}: record {record.seq} stands where {expected_seq} is due")
    expected_prev = before[-1].digest if before else FIRST_PREV
    if record.prev != expected_prev:
        raise JournalError(
            f"{where}: record {record.seq} does not continue the record before it "
            f"(prev {str(record.prev)[:12]}…, expected {expected_prev[:12]}…)"
        )


class Journal:
    """The one writer of a journal file. ``durable=False`` (dry runs) leaves out the fsyncs.

    ``tolerant`` is set once a rollback began: from then on an append that fails is told to
    the terminal and to syslog, and restoring trading goes on.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self.tolerant = False
        self._ballast = path.with_suffix(".reserve")
        known = read_journal(path) if path.exists() else JournalFile(())
        self._records = list(known.records)
        self._torn = known.torn
        identity = own_identity()
        self._writer = {"pid": identity.pid, "start_ticks": identity.start_ticks}
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._complete_last()
        # What is in the file: a record lost on a full disk is in ``_records`` alone.
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

    def append(self, kind: str, payload: Mapping[str, Any]) -> Record:
        """Write one record; it is on disk when this returns. Raises JournalError."""
        raw = {
            "seq": self._seq,
            "wall_utc": utc_text(),
            "mono_ns": time.monotonic_ns(),
            "boot_id": boot_id(),
            "writer": self._writer,
            "kind": kind,
            "payload": dict(payload),
            "prev": self._prev,
        }
        if self._torn:
            raw["payload"] = {**raw["payload"], "torn_line_sha256": self.torn_line_sha256}  # type: ignore[dict-item]
        line = _encode_anything(raw)
        record = Record(**json.loads(line), line=line)
        self._records.append(record)
        try:
            self._write((b"\n" if self._torn else b"") + line + b"\n")
        except JournalError as error:
            if not self.tolerant:
                self._records.pop()
                raise
            _cry_out(f"{error}; going on without it: {line.decode()}")
        else:
            self._torn, self._seq, self._prev = b"", self._seq + 1, record.digest
        return record

    def reserve(self, size: int) -> None:
        """Set ``size`` bytes of disk aside, given back when an append meets a full disk."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, max(1, size))  # of no bytes at all it is refused
        except OSError as error:
            raise JournalError(
                f"{self._ballast}: cannot reserve {size} bytes ({error.strerror}); free disk space "
                "in outputs/ before the switch"
            ) from error
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the file and give the reserve back."""
        os.close(self._fd)
        with contextlib.suppress(FileNotFoundError):
            self._ballast.unlink()

    def _complete_last(self) -> None:
        """A record torn right before its newline is whole: end its line, and it counts."""
        record = _parse(self._torn) if self._torn else None
        if record is None or record.line != self._torn:
            return
        with contextlib.suppress(OSError, JournalError):
            _check_chain(record, self._records, where=str(self.path))
            self._write_once(b"\n")
            self._records.append(record)
            self._torn = b""

    def _write(self, data: bytes) -> None:
        try:
            self._write_once(data)
        except OSError as error:
            try:
                self._ballast.unlink()
                self._write_once(data)
            except OSError:
                raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _write_once(self, data: bytes) -> None:
        """Write whole and durable, or leave the file as it was and raise OSError."""
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
            if self._durable:
                os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            raise


def _cry_out(sentence: str) -> None:
    import sys
    import syslog

    syslog.syslog(syslog.LOG_CRIT, f"ctp-runbook: {sentence}")
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
