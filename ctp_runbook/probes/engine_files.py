"""What engines tell in files: a log (a file's, or journald's) and a JSON value with its age."""

from __future__ import annotations

import math
import re
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ctp_runbook._late import LateModule
from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError, ProbeError
from ctp_runbook.host.files import read, read_small, size_of
from ctp_runbook.plan.sources import TIME_UNITS, Counted, words_of, wrong_words

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings
    from ctp_runbook.probes.log import Fields, Place

__all__ = ["Journal", "file_value", "log_problems", "log_value", "read_field"]

# A plan has its rules checked here, and follows nothing.
_command = LateModule("ctp_runbook.probes.command")
_log = LateModule("ctp_runbook.probes.log")
_samples = LateModule("ctp_runbook.record.samples")
_strict_json = LateModule("ctp_runbook.strict_json")

_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # in a second
_LARGEST_FILE_BYTES = 1 << 20
# An event that ten thousand others came after without its end has none, or has no key of its own.
_MOST_OPEN_EVENTS = 10_000
# More in one window are no latency of anything here; their number is still told.
_MOST_VALUES = 1_000_000
_FUTURE_SECONDS = 1.0
# What is kept of a probe's output; and how journalctl ends when nobody reads on.
_JOURNAL_BYTES, _BROKEN_PIPE = 8 << 20, 141


# --- a value in a JSON file -------------------------------------------------------


def file_value(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``file``: the field that the rule's query names, while the file is fresh."""
    path, words = around.cwd / rule.read["path"], words_of(rule.read.get("words", ""))

    def look() -> float:
        value = read_field(
            path,
            rule.query,
            heartbeat_field=rule.read.get("heartbeat_field", ""),
            heartbeat_unit=rule.read.get("heartbeat_unit", "s"),
            fresh_seconds=rule.fresh_seconds,
        )
        return _number(value, words, subject=f"{path}: {rule.query}")

    return look


def read_field(
    path: Path,
    field: str,
    *,
    fresh_seconds: float,
    heartbeat_field: str = "",
    heartbeat_unit: str = "s",
) -> object:
    """Return a field of a JSON file (``outer.inner`` for one within), if the file is of now.

    It is as old as its heartbeat says, without one as its last change. Raises ProbeError for a file
    that cannot be read, is no JSON object, lacks the field, or is older than ``fresh_seconds``.
    """
    try:
        data = read_small(path, most=_LARGEST_FILE_BYTES)
        changed = path.stat().st_mtime
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read: {error.strerror or error}") from error
    fields = _strict_json.decode_object(data, subject=str(path)).fields
    what = "its last change"
    if heartbeat_field:
        what = heartbeat_field
        changed = _seconds(_field(fields, what, path), heartbeat_unit, subject=f"{path}: {what}")
    age = time.time() - changed
    if age > fresh_seconds or age < -max(_FUTURE_SECONDS, fresh_seconds):
        when = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s ahead of this host's clock"
        raise ProbeError(
            f"{path}: {what} is {when}, more than fresh_seconds {fresh_seconds:g}: whoever wrote it "
            "may be gone"
        )
    return _field(fields, field, path)


def _field(fields: Mapping[str, Any], name: str, path: Path) -> object:
    value: object = fields
    for part in [name] if name in fields else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ProbeError(f"{path}: it has no field {name}")
        value = value[part]
    return value


# --- a log ------------------------------------------------------------------------


class _Lines(Protocol):
    """What is read on from look to look: a file's lines, or a journal's."""

    is_behind: bool

    def read(self, *, seconds: float) -> Iterator[bytes]: ...
    def notes(self) -> tuple[str, ...]: ...


def log_value(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``log``: what lines say that came since the watch began."""
    return _LogValue(rule, around)


def log_problems(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key, what was found and what is expected, of a rule for the source ``log``."""
    named = [key for key in ("path", "journal_unit", "journal_user_unit") if key in rule]
    if len(named) != 1:
        found = " and ".join(named) or "no such key"
        yield "path", found, "one of path (a file), journal_unit and journal_user_unit"
    form = rule.get("format", "logfmt")
    if form not in _log.FORMATS:
        yield "format", f"'{form}'", f"one of {', '.join(_log.FORMATS)}"
    else:
        yield from _unread_lines(form, rule)
    yield from wrong_words(rule)
    if rule.get("time_unit", "s") not in TIME_UNITS:
        yield "time_unit", f"'{rule['time_unit']}'", f"one of {', '.join(TIME_UNITS)}"
    if "until" in rule and "time_field" not in rule and "path" in rule:
        yield (
            "time_field",
            "no such key",
            "the field with the time of a line, for there is an until",
        )
    if "until" in rule and ("field" in rule or rule.get("kind") != "latency_quantile"):
        yield "until", "an end of an event", "no field beside it, and kind latency_quantile"
    if rule.get("kind") != "counter" and not {"until", "field"} & rule.keys():
        yield "field", "no such key", "the field with the value, but for a counter of events"


def _unread_lines(form: str, rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what no line could be read by: an expression that is none, or lacks a field that is asked for."""
    if "until" in rule and rule["until"] == rule.get("query"):
        yield (
            "until",
            f"'{rule['until']}'",
            "another event than query: it would begin anew, and never end",
        )
    if form != "pattern":
        return
    for key in (each for each in ("query", "until") if each in rule):
        try:
            _log.line_parser(form, pattern=str(rule[key]))
        except ValueError as error:
            yield key, f"'{rule[key]}', and {error}", "an expression with named groups"
            continue
        groups = re.compile(str(rule[key])).groupindex
        for field in ("field", "time_field", "key"):
            if field in rule and rule[field] not in groups:
                yield field, f"'{rule[field]}'", f"a group of {key}: {', '.join(groups)}"


class _Heard:
    """What one look at a log brought: how many events, their sum, and each where that is needed."""

    def __init__(self, read: float) -> None:
        self.read, self.count, self.total = read, 0, 0.0
        self.values = array("d")


class _LogValue:
    """The look at a log: lines are taken in as they come, and told for the rule's window."""

    def __init__(self, rule: MetricRule, around: Surroundings) -> None:
        self._rule, self._read = rule, rule.read
        self._words = words_of(self._read.get("words", ""))
        self._lines = _lines_of(rule, around)
        form, until = self._read.get("format", "logfmt"), self._read.get("until")
        self._event_field = "" if form == "pattern" else self._read.get("event_field", "event")
        self._begins = _log.line_parser(form, pattern=rule.query)
        self._ends = _log.line_parser(form, pattern=until) if until is not None else None
        self._until = until
        self._needles = () if form == "pattern" else _needles(rule.query, until)
        self._heard: deque[_Heard] = deque()
        self._kept = 0
        self._stands: float | None = None
        self._open: dict[str, tuple[float, float]] = {}
        self._lost: tuple[float, str] | None = None
        self._unread = ""

    def __call__(self) -> Counted:
        """Read on, and return what the window's lines come to. Raises ProbeError."""
        now = time.monotonic()
        self._heard.append(_Heard(now))
        for line in self._lines.read(seconds=self._rule.patience_seconds):
            if not self._needles or any(needle in line for needle in self._needles):
                self._take(line, now)
        if not self._heard[-1].count:
            self._heard.pop()
        while self._heard and self._heard[0].read < now - self._rule.window_seconds:
            self._kept -= len(self._heard.popleft().values)
        counted = self._told(now)
        self._tell_unknown(now, counted)
        return counted

    def _take(self, line: bytes, now: float) -> None:
        fields = self._begins(line)
        if fields is not None and self._is_of(fields, self._rule.query):
            if self._ends is not None:
                self._begin(fields, now)
            else:
                self._note(fields)
        elif self._ends is not None:
            ended = self._ends(line)
            if ended is not None and self._is_of(ended, self._until):
                self._end(ended)
        if fields is None and self._event_field:
            self._miss(line)

    def _miss(self, line: bytes) -> None:
        """Note an event that stands in a line which is none of the form: two that were written into one,
        or half of one. How many there are in it nobody can say."""
        for event in filter(None, (self._rule.query, self._until)):
            if _log.names_event(line, self._event_field, event):
                self._unread = f"a line with {event} in it is not of the log's form"

    def _begin(self, fields: Fields, now: float) -> None:
        if (began := self._time(fields)) is None:
            return
        # Tried again before it ended, it has lasted since the first try.
        self._open.setdefault(self._key(fields), (began, now))
        if len(self._open) > _MOST_OPEN_EVENTS:
            self._open.pop(next(iter(self._open)))
            self._unread = f"more than {_MOST_OPEN_EVENTS} events have not ended"

    def _end(self, fields: Fields) -> None:
        began = self._open.pop(self._key(fields), None)
        if began is not None and (ended := self._time(fields)) is not None:
            self._hear(max(0.0, ended - began[0]))

    def _note(self, fields: Fields) -> None:
        field = self._read.get("field")
        if field is None:
            self._hear(1.0)
        elif field in fields:
            try:
                self._hear(_number(fields[field], self._words, subject=field))
            except ProbeError as error:
                self._unread = str(error)
        else:
            self._unread = f"an event {self._rule.query} has no field {field}"

    def _hear(self, value: float) -> None:
        heard, self._stands = self._heard[-1], value
        heard.count, heard.total = heard.count + 1, heard.total + value
        if self._rule.kind != "latency_quantile":
            return
        if self._kept >= _MOST_VALUES:
            self._unread = f"more than {_MOST_VALUES} events in {self._rule.window_seconds:g} s"
            return
        heard.values.append(value)
        self._kept += 1

    def _is_of(self, fields: Fields, event: str | None) -> bool:
        return not self._event_field or fields.get(self._event_field) == event

    def _key(self, fields: Fields) -> str:
        return str(fields.get(self._read["key"])) if "key" in self._read else ""

    def _time(self, fields: Fields) -> float | None:
        name, unit = self._read.get("time_field", ""), self._read.get("time_unit", "s")
        if not name and isinstance(self._lines, Journal):
            return self._lines.stamp
        if name not in fields:
            self._unread = f"a line of the log has no field {name}"
            return None
        try:
            return _seconds(fields[name], unit, subject=name)
        except ProbeError as error:
            self._unread = str(error)
            return None

    def _told(self, now: float) -> Counted:
        rule, places = self._rule, _places_of(self._lines, self._rule.name)
        count = sum(heard.count for heard in self._heard)
        if rule.kind == "counter":
            return Counted(math.fsum(heard.total for heard in self._heard), count, places)
        if rule.kind != "latency_quantile":
            # What was said last stands until something else is said, however long ago.
            return Counted(self._stands, float(self._stands is not None), places)
        # What has not ended yet counts once it has lasted beyond the limit.
        lasting = (now - began for _, began in self._open.values())
        beyond = [seconds for seconds in lasting if seconds * rule.scale > rule.limit]
        values = sorted([*chain.from_iterable(heard.values for heard in self._heard), *beyond])
        if not values:
            return Counted(None, 0.0, places)
        rank = max(1, math.ceil(rule.quantile * len(values)))
        return Counted(values[rank - 1], float(len(values)), places)

    def _tell_unknown(self, now: float, counted: Counted) -> None:
        """Raise ProbeError where lines may be missing from what is told, and it is within its limit."""
        rule = self._rule
        if what := "; ".join(filter(None, (*self._lines.notes(), self._unread))):
            self._lost, self._unread = (now, what), ""
        if self._lost is not None and now - self._lost[0] > rule.window_seconds:
            self._lost = None
        if rule.direction == "max" and (counted.value or 0.0) * rule.scale > rule.limit:
            return  # more of them would not make it better
        if self._lines.is_behind:
            raise ProbeError(
                f"the log grows faster than it is read: {rule.patience_seconds:g} s did not bring its "
                "end"
            )
        if self._lost is not None:
            raise ProbeError(
                f"{self._lost[1]}; what is told of it proves nothing for {rule.window_seconds:g} s"
            )


def _needles(*events: str | None) -> tuple[bytes, ...]:
    """What must be in a line for one of these events to be in it: most lines are not parsed for it."""
    # In JSON and in quotes any letter may be written as an escape.
    return (*(event.encode() for event in events if event is not None), b"\\u")


def _lines_of(rule: MetricRule, around: Surroundings) -> _Lines:
    if "path" in rule.read:
        places = _noted_places(rule.name, around)
        follower: _Lines = _log.Follower(around.cwd / rule.read["path"], places=places)
        return follower
    user = "journal_user_unit" in rule.read
    unit = rule.read["journal_user_unit" if user else "journal_unit"]
    return Journal(unit, user=user, around=around)


# --- where a log was read up to, across a restart of the orchestrator


def _places_of(lines: _Lines, name: str) -> dict[str, float]:
    if not isinstance(lines, _log.Follower):
        return {}
    return {
        _samples.series_key(
            f"{name}_place",
            {"device": str(place.device), "inode": str(place.inode), "mark": place.mark},
        ): float(place.offset)
        for place in lines.places
    }


def _noted_places(name: str, around: Surroundings) -> list[Place]:
    """Return the places in the last sample of the run that goes on, none for a watch that begins."""
    run = around.environ.get("CTP_RUN_DIR", "")
    path = Path(run) / "samples" / "samples.jsonl"
    try:
        start = max(0, size_of(path) - _LARGEST_FILE_BYTES) if run else 0
        lines = read(path, start=start).splitlines() if run else []
    except OSError:
        return []
    for line in reversed(lines):  # the first and the last may be torn
        if f'"target":"{name}"'.encode() not in line:
            continue
        try:
            series = _samples.sample_of(line, path=path, number=0).series
        except (JournalError, ValueError):
            continue
        keys = [(_samples.split_series(key), value) for key, value in series.items()]
        places = [
            _log.Place(int(labels["device"]), int(labels["inode"]), int(value), labels["mark"])
            for (family, labels), value in keys
            if family == f"{name}_place"
        ]
        if places:
            return places
    return []


# --- journald


class Journal:
    """The messages of a unit, read on from a cursor by ``journalctl``, a process a look.

    Nothing stays behind between two looks, and a cursor survives every rotation. ``stamp`` is when
    journald took the message that was yielded last, in seconds since the epoch.
    """

    def __init__(self, unit: str, *, user: bool, around: Surroundings) -> None:
        self.is_behind = False
        scope = ["--user", f"--user-unit={unit}"] if user else [f"--unit={unit}"]
        self._command = ["journalctl", "--no-pager", "--quiet", "--output=json"]
        self._command += ["--output-fields=MESSAGE", *scope]
        self._around, self._unit = around, unit
        self._cursor = ""
        self._begun: float | None = None
        self.stamp = 0.0
        self._notes: list[str] = []

    def notes(self) -> tuple[str, ...]:
        """Return what is or may be lost since this was last asked."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def begin(self) -> None:
        """Stand behind the last message there is. Raises ProbeError."""
        if self._begun is None:
            began = time.time()
            for message in self._messages("--lines=1", seconds=2.0):
                self._cursor = message.cursor
            self._begun = began

    def read(self, *, seconds: float) -> Iterator[bytes]:
        """Yield the messages since the last look; ``stamp`` is then the time of each (s)."""
        self.begin()
        after = f"--after-cursor={self._cursor}" if self._cursor else f"--since=@{self._begun:.6f}"
        for message in self._messages(after, seconds=seconds):
            self._cursor, self.stamp = message.cursor, int(message.stamp) / 1e6
            if isinstance(message.text, str):
                yield message.text.encode()
            elif message.text is not None:
                yield bytes(message.text)
            else:
                self._notes.append(f"a message of {self._unit} is too long for journalctl")

    def _messages(self, since: str, *, seconds: float) -> Iterator[_Message]:
        # What is more than one look's is left in the journal: the next goes on behind the cursor.
        import shlex  # no plan needs it

        asked = f"set -o pipefail; {shlex.join([*self._command, since])} | head -c {_JOURNAL_BYTES}"
        around = self._around
        code, output, said = _command.run_probe_apart(
            asked, cwd=around.cwd, env=around.environ, seconds=seconds
        )
        self.is_behind = len(output) >= _JOURNAL_BYTES
        if code is None:
            raise ProbeError(f"journalctl of {self._unit} did not end within {seconds:g} s")
        if code not in (0, _BROKEN_PIPE if self.is_behind else 0):
            words = f"; it said: {said}" if said else ""
            raise ProbeError(
                f"journalctl of {self._unit} ended with exit {code}, expected 0{words}"
            )
        whole = output[: output.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                yield _message(line)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise ProbeError(f"journalctl of {self._unit} said no message: {error}") from error


class _Message(msgspec.Struct):
    """What is asked of a message; its text is a list of bytes where it is no UTF-8."""

    cursor: str = msgspec.field(name="__CURSOR")
    stamp: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    text: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)


_message = decoder(_Message).decode


# --- numbers ----------------------------------------------------------------------


def _number(value: object, words: Mapping[str, float], *, subject: str) -> float:
    """Return a number, what true, false and the words of a rule stand for. Raises ProbeError."""
    if isinstance(value, str) and value in words:
        return words[value]
    if isinstance(value, bool) or value in ("true", "false"):
        return float(value in (True, "true"))
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        known = f", nor one of {', '.join(words)}" if words else ""
        raise ProbeError(f"{subject} is {_strict_json.shown(value)}, no number{known}")
    return number


def _seconds(value: object, unit: str, *, subject: str) -> float:
    """Return an instant as seconds since the epoch. Raises ProbeError."""
    if unit != "iso":
        return _number(value, {}, subject=subject) / _UNITS[unit]
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ProbeError(
            f"{subject} is {_strict_json.shown(value)}, no time of ISO 8601"
        ) from error
    if instant.tzinfo is None:
        raise ProbeError(
            f"{subject} is {_strict_json.shown(value)}, a time without its offset from UTC"
        )
    return instant.timestamp()
