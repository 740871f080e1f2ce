"""Logs are read whole: each form of line, and a file through everything that rotates it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.log import Follower, line_parser, parse_logfmt

SETTLED = 'ts_ns=17 level=info app=core event=ctp_settlement_confirmed note="all \\"well\\""'

LOGFMT = {
    "an engine's": (
        SETTLED,
        {
            "ts_ns": "17",
            "level": "info",
            "app": "core",
            "event": "ctp_settlement_confirmed",
            "note": 'all "well"',
        },
    ),
    "empty value": ("event=a reasons= mode=Ready", {"event": "a", "reasons": "", "mode": "Ready"}),
    "empty quotes": ('event=a reasons=""', {"event": "a", "reasons": ""}),
    "key alone": ("event=a urgent", {"event": "a", "urgent": ""}),
    "escapes": (r'event=a text="a\n\t\\ \u4ea4"', {"event": "a", "text": "a\n\t\\ 交"}),
    "equals in a value": ("event=a url=http://h/?b=c", {"event": "a", "url": "http://h/?b=c"}),
    "free text": ("CTP settlement confirm failed", None),
    "free text with a pair is none": (
        "redis client unhealthy: a=b",
        {"redis": "", "client": "", "unhealthy:": "", "a": "b"},
    ),
    "torn in a quote": ('event=a note="all', None),
    "text behind a quote": ('event=a note="all"well', None),
    "twice": ("event=a event=b", None),
    "blank": ("", None),
}


@pytest.mark.parametrize(("line", "fields"), LOGFMT.values(), ids=LOGFMT)
def test_a_logfmt_line(line: str, fields: dict[str, str] | None) -> None:
    """Pairs as engines write them; what is torn or ambiguous is no line."""
    assert parse_logfmt(line) == fields


_KEYS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='="\\'), min_size=1)


@given(st.dictionaries(_KEYS, st.text(), min_size=1))
def test_what_an_encoder_quotes_is_read_back(pairs: dict[str, str]) -> None:
    """Quoted as Go's encoders do it, any text survives but half characters and line ends."""
    line = " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())
    assert parse_logfmt(line) == pairs


def _quoted(value: str) -> str:
    for plain, escaped in (
        ("\\", "\\\\"),
        ('"', '\\"'),
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\t", "\\t"),
    ):
        value = value.replace(plain, escaped)
    return f'"{value}"'


JSON = {
    "nested": (
        b'{"event": "a", "at": {"ms": 1.5}}',
        {"event": "a", "at": {"ms": 1.5}, "at.ms": 1.5},
    ),
    "twice": (b'{"event": "a", "event": "b"}', None),
    "NaN": (b'{"event": NaN}', None),
    "a list": (b'["event"]', None),
    "torn": (b'{"event": "a', None),
    "text": (b"started", None),
}


@pytest.mark.parametrize(("line", "fields"), JSON.values(), ids=JSON)
def test_a_json_line(line: bytes, fields: dict[str, object] | None) -> None:
    """An object a line, read strictly; what is within goes by its path."""
    assert line_parser("json")(line) == fields


def test_a_line_by_an_expression() -> None:
    """Named groups are the fields; those that took no part are not there."""
    parse = line_parser("pattern", pattern=r"reconnect(?:ed in (?P<ms>\d+) ms| (?P<lost>lost))")
    assert parse(b"12:00 gateway reconnected in 350 ms") == {"ms": "350"}
    assert parse(b"12:00 tick") is None


WRONG = {
    "form": ("xml", "", "expected one of logfmt, json, pattern"),
    "no expression": ("pattern", "(", "is no expression"),
    "no group": ("pattern", "event (a)", "no named group"),
    "runs away": ("pattern", "(?P<x>(a+)+)$", "a repeat within a repeat"),
}


@pytest.mark.parametrize(("form", "pattern", "said"), WRONG.values(), ids=WRONG)
def test_what_no_line_can_be_read_by(form: str, pattern: str, said: str) -> None:
    """It is said before anything is followed."""
    with pytest.raises(ValueError, match=said):
        line_parser(form, pattern=pattern)


# --- a file, followed -------------------------------------------------------------


class Log:
    """A log as an engine writes it, with what may happen to it; ``now`` is the follower's clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.log"
        self.out = self.path.open("ab", buffering=0)
        self.now = 0.0

    def follower(self, **how: object) -> Follower:
        """A follower of it, by this clock."""
        return Follower(self.path, clock=lambda: self.now, **how)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        """Add to it, in one piece."""
        self.out.write(data)

    def close(self) -> None:
        """End its writer."""
        self.out.close()

    def rename(self) -> None:
        """As logrotate does, and spdlog: the old ones move up, the engine opens a new one."""
        self.out.close()
        for number in range(20, 0, -1):
            if (old := self._old(number)).exists():
                old.rename(self._old(number + 1))
        self.path.rename(self._old(1))
        self.out = self.path.open("ab", buffering=0)

    def copy_and_cut(self) -> None:
        """As logrotate's copytruncate does."""
        for number in range(20, 0, -1):
            if (old := self._old(number)).exists():
                old.rename(self._old(number + 1))
        shutil.copyfile(self.path, self._old(1))
        os.truncate(self.path, 0)

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"engine.log.{number}")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that is empty yet."""
    made = Log(tmp_path)
    yield made
    made.out.close()


def test_it_begins_at_the_end(log: Log) -> None:
    """What was there is not this watch's; a line that is finished after the start is."""
    log.write(b"old\nhalf")
    with_end = log.follower()
    assert list(with_end.read()) == []
    log.write(b" and whole\nnext\nto")
    assert list(with_end.read()) == [b"half and whole", b"next"]
    log.write(b"rn\n")
    assert list(with_end.read()) == [b"torn"]
    assert with_end.notes() == ()
    with_end.close()


def test_a_renamed_log_is_read_to_its_end(log: Log) -> None:
    """The writer goes on in the old file until it is told; both are read, the old one first."""
    follower = log.follower()
    follower.begin()
    log.write(b"1\n2\nto")
    log.path.rename(log.path.with_name("engine.log.1"))
    assert list(follower.read()) == [b"1", b"2"]
    log.write(b"rn\n3\n")
    new = log.path.open("ab", buffering=0)
    new.write(b"4\n")
    assert list(follower.read()) == [b"torn", b"3", b"4"]
    log.write(b"late")
    log.now = 5.0
    assert list(follower.read()) == []
    log.now = 20.0
    assert list(follower.read()) == [b"late"]  # nobody finishes it any more
    log.now = 40.0
    new.write(b"5\n")
    assert list(follower.read()) == [b"5"]
    assert len(follower.places) == 1
    assert follower.notes() == ()
    new.close()
    follower.close()


def test_a_cut_log_without_its_copy_is_told(log: Log) -> None:
    """What was written between the look and the cut cannot be known; what comes then is read."""
    follower = log.follower(from_start=True)
    log.write(b"1\n")
    assert list(follower.read()) == [b"1"]
    log.write(b"lost\n")
    os.truncate(log.path, 0)
    log.write(b"longer than what was there before\n")
    assert list(follower.read()) == [b"longer than what was there before"]
    (note,) = follower.notes()
    assert "it was cut; what was written between the last look and that is lost" in note
    assert follower.notes() == ()
    follower.close()


def test_a_cut_under_a_writer_that_does_not_append(tmp_path: Path) -> None:
    """It goes on where it was, behind zeros: ten GiB of them are passed over, the line is read."""
    path = tmp_path / "engine.log"
    with path.open("wb", buffering=0) as out:
        out.write(b"1\n")
        out.seek(10 << 30)
        out.write(b"\n2\n")
        follower = Follower(path)
        follower.begin()
        os.truncate(path, 0)
        out.write(b"event=a\n")
        assert list(follower.read()) == [b"event=a"]
        out.write(b"event=b\n")
        assert list(follower.read()) == [b"event=b"]
    follower.close()


def test_a_line_without_end_takes_no_memory(log: Log) -> None:
    """It is passed over and told; the next is read."""
    follower = log.follower(longest_line=100, from_start=True)
    log.write(b"1\n" + b"x" * 5000)
    assert list(follower.read()) == [b"1"]
    log.write(b"y" * 5000 + b"\n2\n" + b"z" * 101 + b"\n3\n")
    assert list(follower.read()) == [b"2", b"3"]
    assert "lines of more than 100 bytes were left out" in " ".join(follower.notes())
    follower.close()


def test_a_fifo_is_no_log(tmp_path: Path) -> None:
    """Nobody waits for its writer."""
    os.mkfifo(tmp_path / "engine.log")
    with pytest.raises(ProbeError, match="no plain file"):
        list(Follower(tmp_path / "engine.log").read())


def test_a_missing_log_is_told_or_waited_for(tmp_path: Path) -> None:
    """A watch wants it there; whoever waits for an engine's start reads all of it once it is."""
    path = tmp_path / "engine.log"
    with pytest.raises(ProbeError, match="there is no such file"):
        Follower(path).begin()
    waiting = Follower(path, may_be_missing=True)
    assert list(waiting.read()) == []
    path.write_bytes(b"1\n")
    assert list(waiting.read()) == [b"1"]
    waiting.close()


def test_a_log_that_was_taken_away_is_told(log: Log) -> None:
    """A rotation has no name in it for a moment; longer it is gone."""
    follower = log.follower()
    follower.begin()
    log.write(b"1\n")
    log.path.unlink()
    assert list(follower.read()) == [b"1"]
    log.now = 3.0
    with pytest.raises(ProbeError, match="no such file any more"):
        list(follower.read())
    follower.close()


def test_a_look_has_its_time(log: Log) -> None:
    """A burst that takes longer is read on at the next look; until then it is behind."""
    follower = log.follower(from_start=True)
    log.write(b"x\n" * (2 << 20))
    lines = follower.read(seconds=-1.0)
    first = sum(1 for _ in lines)
    assert follower.is_behind
    assert 0 < first < 2 << 20
    assert first + sum(1 for _ in follower.read(seconds=60.0)) == 2 << 20
    assert not follower.is_behind
    follower.close()


_STEPS = st.one_of(
    st.integers(1, 5),  # so many lines
    st.sampled_from(["torn", "rename", "copy", "look", "look", "again"]),
)


@settings(deadline=None, max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "100")))
@given(st.lists(_STEPS, max_size=30), st.booleans())
def test_no_line_is_lost_or_read_twice(steps: list[int | str], begins_torn: bool) -> None:
    """Whatever rotates it between two looks, and whoever goes on from where another stood."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as closing:
        log = closing.enter_context(contextlib.closing(Log(Path(folder))))
        log.write(b"a line from before the start\n" + b"to" * begins_torn)
        follower = log.follower()
        follower.begin()
        written = [b"to" if begins_torn else b""]
        read: list[bytes] = []
        for step in steps:
            log.now += 0.5
            if isinstance(step, int):
                for _ in range(step):
                    line = b"line number %d" % len(written)
                    log.write(line + b"\n")
                    written[-1] += line
                    written.append(b"")
            elif step == "torn":
                log.write(b"begun ")
                written[-1] += b"begun "
            elif step == "rename":
                log.write(b"end\n")
                written[-1] += b"end"
                written.append(b"")
                log.rename()
            elif step == "copy":
                # Once a look has seen it: a log that was empty before is known by nothing.
                read += follower.read()
                log.write(b"end, and a line that only the copy has\n")
                written[-1] += b"end, and a line that only the copy has"
                written.append(b"")
                log.copy_and_cut()
                read += follower.read()
            elif step == "look":
                read += follower.read()
            else:
                places = follower.places
                follower.close()
                follower = log.follower(places=places)
        read += follower.read()
        assert read == written[:-1]
        assert follower.notes() == ()
        follower.close()


def test_a_writer_that_rotates_many_times_a_second(log: Log) -> None:
    """Looks fall anywhere between its steps: every line is read once, and in order."""
    follower = log.follower()
    follower.begin()
    chance = random.Random(5)
    written: list[bytes] = []

    def write() -> None:
        for _ in range(80):
            for _ in range(chance.randint(1, 40)):
                written.append(b"line number %d" % len(written))
                log.write(written[-1] + b"\n")
            if chance.random() < 0.5:
                log.rename()
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    read: list[bytes] = []
    while writer.is_alive():
        read += follower.read()
        time.sleep(0.05)
    writer.join()
    read += follower.read()
    assert read == written
    assert follower.notes() == ()
    follower.close()
