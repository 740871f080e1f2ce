"""What engines tell in files: values of a log, of journald and of a JSON file, and when they prove nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ConfigError, ProbeError
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.sources import SOURCES, Counted, Measure, Surroundings
from ctp_runbook.probes import engine_files
from ctp_runbook.probes.engine_files import read_field
from ctp_runbook.record.samples import Sample
from tests.props.rules import rule_of

Said = Callable[..., None]


class Clock:
    """Both clocks, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds since somewhen."""
        return self.now

    def time(self) -> float:
        """Seconds since the epoch."""
        return 1.7e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the sources."""
    clock = Clock()
    monkeypatch.setattr(engine_files, "time", clock)
    return clock


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Said]:
    """An engine's log: called, it says an event."""
    with (tmp_path / "engine.log").open("ab", buffering=0) as out:

        def say(event: str, **fields: object) -> None:
            pairs = "".join(f' {key}="{value}"' for key, value in fields.items())
            out.write(f"ts_ns=1 level=info app=core event={event}{pairs}\n".encode())

        yield say


def measure(tmp_path: Path, query: str, *, environ: Mapping[str, str] = {}, **more: Any) -> Measure:
    """The measure of a log rule; what is no key of every rule is read by the source."""
    own = {key: str(more.pop(key)) for key in [*more] if key in SOURCES["log"].reads}
    read = {"path": "engine.log", **own}
    rule = rule_of("log", query, reads=read, **more)
    return SOURCES["log"].measure(rule, Surroundings({}, tmp_path, environ))


def told(look: Measure) -> tuple[float | None, float]:
    """Value and number of events of one look."""
    counted = look()
    assert isinstance(counted, Counted)
    return counted.value, counted.events


def test_events_are_counted_from_the_start_of_the_watch(
    tmp_path: Path, log: Said, clock: Clock
) -> None:
    """Those of before are not its own; those that left the window are over."""
    log("order_rejected")
    look = measure(tmp_path, "order_rejected", kind="counter", window_seconds=60.0)
    assert told(look) == (0.0, 0)
    log("order_rejected")
    log("order_submitted", text="event=order_rejected")
    log("order_rejected")
    assert told(look) == (2.0, 2)
    clock.now += 61
    log("order_rejected")
    assert told(look) == (1.0, 1)


def test_a_field_is_added_up_taken_as_it_stands_or_by_its_quantile(
    tmp_path: Path, log: Said, clock: Clock
) -> None:
    """As the kind of the metric says."""
    event, field = "ctp_recovery_report", "elapsed_ms"
    kinds = ("counter", "state", "latency_quantile")
    looks = [measure(tmp_path, event, kind=kind, field=field, quantile=0.5) for kind in kinds]
    assert [told(look)[0] for look in looks] == [0.0, None, None]
    for value in (30, 10, 20):
        log(event, elapsed_ms=value)
    assert [told(look) for look in looks] == [(60.0, 3), (20.0, 1), (20.0, 3)]
    clock.now += 3600
    assert [told(look)[0] for look in looks] == [0.0, 20.0, None]  # what was said last stands


def test_words_stand_for_numbers(tmp_path: Path, log: Said, clock: Clock) -> None:
    """And another word is no value: nothing is known then."""
    look = measure(
        *(tmp_path, "trading_permission_changed"),
        kind="state",
        field="mode",
        words="Ready=0 CloseOnly=1 Blocked=2",
    )
    look()
    log("trading_permission_changed", mode="CloseOnly")
    assert told(look) == (1.0, 1)
    log("trading_permission_changed", mode="Strange")
    with pytest.raises(ProbeError, match=r'mode is "Strange", no number, nor one of Ready'):
        look()


def test_the_time_between_two_events(tmp_path: Path, clock: Clock) -> None:
    """By their own times and a key; one that has not ended counts once it is beyond the limit."""
    with (tmp_path / "engine.log").open("ab", buffering=0) as out:
        look = measure(
            tmp_path,
            "order_submitted",
            kind="latency_quantile",
            until="order_accepted",
            key="ref",
            time_field="ts_ns",
            time_unit="ns",
            limit=5.0,
        )
        assert told(look) == (None, 0)
        for event, ref, at in (
            ("order_submitted", 1, 10),
            ("order_submitted", 2, 11),
            ("order_accepted", 2, 13),
            ("order_accepted", 1, 11),
            ("order_accepted", 9, 99),
            ("order_submitted", 3, 20),
        ):
            out.write(f"ts_ns={at}000000000 event={event} ref={ref}\n".encode())
        assert told(look) == (2.0, 2)
        clock.now += 7
        assert told(look) == (7.0, 3)
        out.write(b"ts_ns=29000000000 event=order_accepted ref=3\n")
        assert told(look) == (9.0, 3)


def test_lines_by_an_expression(tmp_path: Path, clock: Clock) -> None:
    """Free text of an old engine: a match is an event."""
    with (tmp_path / "engine.log").open("ab", buffering=0) as out:
        asked = r"redis client unhealthy: (?P<why>.*)"
        look = measure(tmp_path, asked, kind="counter", format="pattern")
        look()
        out.write(b"redis client unhealthy: timed out\nall well\n")
        assert told(look) == (1.0, 1)


def test_what_is_lost_is_told_for_a_window(tmp_path: Path, log: Said, clock: Clock) -> None:
    """A log that was cut proves nothing good; what is beyond the limit already is none the better."""
    look = measure(tmp_path, "order_rejected", kind="counter", limit=1.0, window_seconds=60.0)
    log("started")
    look()
    log("order_rejected")
    os.truncate(tmp_path / "engine.log", 0)
    with pytest.raises(ProbeError, match=r"it was cut; .* is lost; .* proves nothing for 60 s"):
        look()
    log("order_rejected")
    log("order_rejected")
    assert told(look) == (2.0, 2)
    clock.now += 61
    assert told(look) == (0.0, 0)


def test_a_burst_is_counted_whole(tmp_path: Path, log: Said) -> None:
    """A hundred thousand lines between two looks, some of them the events that are asked for."""
    look = measure(tmp_path, "order_rejected", kind="counter", interval_seconds=60.0)
    look()
    line = b"ts_ns=1 level=info app=core event=%s key=1\n"
    some = (line % b"order_submitted") * 99 + line % b"order_rejected"
    with (tmp_path / "engine.log").open("ab") as out:
        out.write(some * 1000)
    assert told(look) == (1000.0, 1000)


def test_a_resumed_watch_goes_on_where_the_last_sample_stood(
    tmp_path: Path, log: Said, clock: Clock
) -> None:
    """What was said while nobody looked is read, rotated or not; a torn last sample is passed over."""
    first = measure(tmp_path, "order_rejected", kind="counter")()
    assert isinstance(first, Counted)
    series = {"x": 0.0, "x_events": 0.0, **first.places}
    sample = Sample(0, 1.7e9, 1.0, "log", "x", True, "", 1.0, series)
    samples = tmp_path / "run" / "samples" / "samples.jsonl"
    samples.parent.mkdir(parents=True)
    samples.write_bytes(sample.to_line() + b'{"format":1,"target":"x","to')
    log("order_rejected")
    (tmp_path / "engine.log").rename(tmp_path / "engine.log.1")
    (tmp_path / "engine.log").write_text("event=order_rejected\n")
    environ = {"CTP_RUN_DIR": str(tmp_path / "run")}
    assert told(measure(tmp_path, "order_rejected", kind="counter", environ=environ)) == (2.0, 2)


# --- journald ---------------------------------------------------------------------

# Prints what stands in the file journal behind the line that has the cursor it is asked for.
_STAND_IN = """#!/usr/bin/env python3
import pathlib, sys
lines = pathlib.Path(__file__).with_name("journal").read_text().splitlines()
pathlib.Path(__file__).with_name("asked").write_text(" ".join(sys.argv[1:]))
if "--lines=1" in sys.argv:
    lines = lines[-1:]
for argument in sys.argv:
    if argument.startswith("--after-cursor="):
        cursor = argument.partition("=")[2]
        lines = lines[[f'"{cursor}"' in line for line in lines].index(True) + 1:]
print("".join(f"{line}\\n" for line in lines), end="")
"""


def entry(number: int, message: object) -> str:
    """A line of ``journalctl --output=json``."""
    stamp = str(1_700_000_000_000_000 + number * 1_500_000)
    return json.dumps(
        {"__CURSOR": f"s={number}", "__REALTIME_TIMESTAMP": stamp, "MESSAGE": message}
    )


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a stand-in for journalctl."""
    tool = tmp_path / "journalctl"
    tool.write_text(_STAND_IN)
    tool.chmod(0o755)
    path = tmp_path / "journal"
    path.write_text(entry(0, "event=order_rejected") + "\n")
    return path


@pytest.mark.twin
def test_messages_of_a_unit(tmp_path: Path, journal: Path) -> None:
    """From the cursor on; a message of bytes is read too, and journald's time is the line's."""
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    rule = rule_of(
        "log",
        "ctp_trader_reconnect_scheduled",
        kind="latency_quantile",
        reads={"journal_user_unit": "core.service", "until": "ctp_trader_reconnect_ready"},
    )
    look = SOURCES["log"].measure(rule, Surroundings({}, tmp_path, environ))
    assert told(look) == (None, 0)
    asked = (tmp_path / "asked").read_text()
    assert "--output=json --output-fields=MESSAGE --user --user-unit=core.service" in asked
    with journal.open("a") as out:
        print(entry(1, "event=ctp_trader_reconnect_scheduled"), file=out)
        print(entry(2, [*b"event=ctp_trader_reconnect_ready \xff"]), file=out)
    assert told(look) == (1.5, 1)
    assert told(look) == (1.5, 1)  # not read twice
    with journal.open("a") as out:
        print(entry(3, None), file=out)
    with pytest.raises(ProbeError, match="too long for journalctl"):
        look()


@pytest.mark.twin
def test_a_host_without_journald_is_told(tmp_path: Path) -> None:
    """Not taken for a quiet log."""
    rule = rule_of("log", "x", kind="counter", reads={"journal_unit": "core.service"})
    for tool in ("bash", "head"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    look = SOURCES["log"].measure(rule, Surroundings({}, tmp_path, {"PATH": str(tmp_path)}))
    with pytest.raises(ProbeError, match=r"journalctl of core\.service ended with exit 127"):
        look()


# --- a JSON file ------------------------------------------------------------------


def readiness(path: Path, **fields: object) -> None:
    """Write an engine's readiness file."""
    path.write_text(json.dumps({"mode": "Ready", "at": {"queue": 7}, **fields}))


def test_a_value_of_a_fresh_file(tmp_path: Path) -> None:
    """A word by what it stands for, a number within by its path."""
    readiness(tmp_path / "r.json", heartbeat_ts_ns=time.time_ns())
    read = {"path": "r.json", "heartbeat_field": "heartbeat_ts_ns", "heartbeat_unit": "ns"}
    around = Surroundings({}, tmp_path, {})
    mode = rule_of("file", "mode", kind="state", reads={**read, "words": "Ready=0 CloseOnly=1"})
    assert SOURCES["file"].measure(mode, around)() == 0.0
    queue = rule_of("file", "at.queue", kind="state", reads=read)
    assert SOURCES["file"].measure(queue, around)() == 7.0


OLD = {
    "heartbeat": ({"beat": 1.0}, "beat is 1[0-9]+ s old, more than fresh_seconds 5"),
    "ahead": ({"beat": 1e10}, "s ahead of this host's clock"),
    "no heartbeat": ({}, "it has no field beat"),
    "no number": ({"beat": "x"}, 'beat is "x", no number'),
}


@pytest.mark.parametrize(("fields", "said"), OLD.values(), ids=OLD)
def test_a_dead_engine_leaves_its_file_behind(
    fields: dict[str, object], said: str, tmp_path: Path
) -> None:
    """The heartbeat tells, whatever the file's own time is."""
    readiness(tmp_path / "r.json", **fields)
    with pytest.raises(ProbeError, match=said):
        read_field(tmp_path / "r.json", "mode", fresh_seconds=5.0, heartbeat_field="beat")


def test_a_file_without_heartbeat_is_as_old_as_its_last_change(tmp_path: Path) -> None:
    """And what cannot be read, or lacks the field, is no value."""
    path = tmp_path / "r.json"
    readiness(path)
    assert read_field(path, "mode", fresh_seconds=60.0) == "Ready"
    with pytest.raises(ProbeError, match=r"has no field at\.none"):
        read_field(path, "at.none", fresh_seconds=60.0)
    os.utime(path, (1.0, 1.0))
    with pytest.raises(ProbeError, match="its last change is"):
        read_field(path, "mode", fresh_seconds=60.0)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ProbeError, match="cannot be read"):
        read_field(path, "mode", fresh_seconds=60.0)


# --- rules ------------------------------------------------------------------------

_HEAD = """
tolerance_inconclusive_seconds = 1
tolerance_error_seconds = 1
recovery_seconds = 1
[metrics.m]
label = "M"
unit = "s"
limit = 1
direction = "max"
"""
WRONG = {
    "log without a place": (
        'source="log"\nkind="counter"\nquery="a"',
        "path (a file), journal_unit",
    ),
    "two places": (
        'source="log"\nkind="counter"\nquery="a"\npath="x"\njournal_unit="y"',
        "found path and journal_unit",
    ),
    "format": ('source="log"\nkind="counter"\nquery="a"\npath="x"\nformat="xml"', "one of logfmt"),
    "expression": (
        'source="log"\nkind="counter"\nquery="("\npath="x"\nformat="pattern"',
        "an expression with named groups",
    ),
    "no value": ('source="log"\nkind="state"\nquery="a"\npath="x"', "field with the value"),
    "no time": (
        'source="log"\nkind="latency_quantile"\nquery="a"\npath="x"\nuntil="b"',
        "the field with the time of a line",
    ),
    "words": (
        'source="file"\nkind="state"\nquery="a"\npath="x"\nwords="Ready"',
        "with a number each",
    ),
    "a word twice": (
        'source="file"\nkind="state"\nquery="a"\npath="x"\nwords="Ready=0 Ready=2"',
        "each once",
    ),
    "a word for no number": (
        'source="file"\nkind="state"\nquery="a"\npath="x"\nwords="Ready=nan"',
        "with a number each",
    ),
    "a field that is no group": (
        'source="log"\nkind="state"\nquery="(?P<x>a)"\npath="x"\nformat="pattern"\nfield="y"',
        "a group of query: x",
    ),
    "an expression that runs away": (
        'source="log"\nkind="counter"\nquery="(?P<x>(a+)+)"\npath="x"\nformat="pattern"',
        "a repeat within a repeat",
    ),
    "an end that is a beginning": (
        'source="log"\nkind="latency_quantile"\nquery="a"\npath="x"\nuntil="a"\ntime_field="t"',
        "another event than query",
    ),
    "a family with labels": (
        'source="engine"\nkind="counter"\nquery="a{x=1}"\nabsent="zero"',
        "the name of a family",
    ),
    "a fact that is none": (
        'source="file"\nkind="state"\nquery="a"\npath="x"\npath_of="ready"',
        "one of logged_in",
    ),
    "unit of time": (
        'source="file"\nkind="state"\nquery="a"\npath="x"\nheartbeat_unit="min"',
        "one of s, ms, us, ns, iso",
    ),
    "file without path": ('source="file"\nkind="state"\nquery="a"', "JSON file that the engine"),
    "kind": ('source="file"\nkind="counter"\nquery="a"\npath="x"', "one of state, lag"),
    "outage of a log": ('source="log"\nkind="outage"\nquery="a"\npath="x"', "outage for source"),
    "key of another source": ('source="engine"\nkind="state"\nquery="a"\npath="x"', "unknown key"),
    "absent of a state": (
        'source="engine"\nkind="state"\nquery="a"\nabsent="zero"',
        "but for what a page counts",
    ),
}


@pytest.mark.parametrize(("rule", "said"), WRONG.values(), ids=WRONG)
def test_a_rule_that_cannot_be_asked_is_refused(rule: str, said: str, tmp_path: Path) -> None:
    """With what is expected, when the plan is made."""
    file = tmp_path / "watch.toml"
    file.write_text(_HEAD + rule + "\n")
    with pytest.raises(ConfigError) as refused:
        load_watch(file)
    assert said in str(refused.value)


def test_keys_of_a_source_stand_beside_the_others(tmp_path: Path) -> None:
    """They are kept together, so that a record has one field for them."""
    file = tmp_path / "watch.toml"
    file.write_text(_HEAD + 'source="log"\nkind="counter"\nquery="a"\npath="x"\nfield="y"\n')
    rule = load_watch(file).metrics["m"]
    assert rule.read == {"path": "x", "field": "y"}


def test_an_event_in_a_line_that_cannot_be_read_is_told(
    tmp_path: Path, log: Said, clock: Clock
) -> None:
    """Two lines written into one by two threads: how many events there are in it nobody can say."""
    look = measure(tmp_path, "order_rejected", kind="counter", window_seconds=60.0)
    assert told(look) == (0.0, 0)
    with (tmp_path / "engine.log").open("ab") as out:
        out.write(b"ts_ns=1 event=order_rejected ts_ns=1 event=order_rejected\n")
    with pytest.raises(
        ProbeError, match="a line with order_rejected in it is not of the log's form"
    ):
        told(look)
    clock.now += 61
    log("order_submitted")
    with (tmp_path / "engine.log").open("ab") as out:
        out.write(b"redis client unhealthy: order_rejected was last; terminate called\n")
    assert told(look) == (0.0, 0)
