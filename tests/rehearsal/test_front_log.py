"""Facts about front/log.py: overlaps and who can trade, from logs as a front leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.host.process import own_identity
from ctp_runbook.rehearsal.front.log import (
    FrontLog,
    overlaps,
    read_front_log,
    trading_generations,
    trading_intervals,
)


def log_of(path: Path, *lines: str) -> Path:
    """A front's log of ``event generation session [channel]`` lines, a second apart each."""
    with path.open("w") as sink:
        for number, line in enumerate(lines, start=1):
            words = line.split()
            event, generation, session, channel = words + ["", "", "0", "td"][len(words) :]
            record: dict[str, Any] = {"seq": number, "wall_utc": f"T{number}"}
            record |= {"mono_ns": number * 1_000_000_000, "event": event, "channel": channel}
            record |= {"generation": generation, "role": "core_engine", "session_id": int(session)}
            if event == "front_started":
                me = own_identity()
                record |= {"pid": me.pid, "start_ticks": me.start_ticks}
            sink.write(json.dumps(record) + "\n")
    return path


# name: lines, seconds of each overlap (None: still going on)
OVERLAPS: dict[str, tuple[tuple[str, ...], list[float | None]]] = {
    "one after the other": (("login old 1", "logout old 1", "login new 2"), []),
    "a killed one before": (("login old 1", "session_lost old 1", "login new 2"), []),
    "expiry does not count": (
        ("login old 1", "session_lost old 1", "login new 2", "session_expired old 1"),
        [],
    ),
    "new too early": (("login old 1", "login new 2", "logout old 1"), [1.0]),
    "both still there": (("login old 1", "login new 2"), [None]),
    "inside the other": (
        ("login old 1", "login new 2", "session_lost new 2", "order old 1"),
        [1.0],
    ),
    "same generation twice": (("login new 1", "login new 2"), []),
    "market data is no trading": (("login old 1 md", "login new 2"), []),
    "two sessions of one, one of the other": (
        ("login old 1", "login old 2", "login new 3", "logout old 1", "logout old 2"),
        [1.0, 2.0],
    ),
    "back again": (
        ("login old 1", "logout old 1", "login new 2", "logout new 2", "login old 3"),
        [],
    ),
    "the front stopped between": (
        ("login old 1", "front_stopped", "front_started", "login new 2"),
        [],
    ),
    "the front was killed between": (
        ("login old 1", "order old 1", "front_started", "login new 2"),
        [],
    ),
    "empty": ((), []),
}


@pytest.mark.parametrize(("lines", "seconds"), OVERLAPS.values(), ids=OVERLAPS)
def test_overlaps(lines: tuple[str, ...], seconds: list[float | None], tmp_path: Path) -> None:
    """Every time two generations held TD sessions at once, with its length, and no other."""
    log = log_of(tmp_path / "log", "front_started", *lines)
    found = [
        None if each.until_ns is None else (each.until_ns - each.from_ns) / 1e9
        for each in overlaps(log)
    ]
    assert found == seconds


def test_an_overlap_reads_as_a_sentence(tmp_path: Path) -> None:
    """Who, which session, when, and for how long."""
    log = log_of(tmp_path / "log", "login old 1", "login new 2", "logout old 1")
    (overlap,) = overlaps(log)
    assert str(overlap) == (
        "old core_engine session 1 T1..T3 overlaps new core_engine session 2 T2..now for 1.000 s"
    )


def test_who_can_trade_now(tmp_path: Path) -> None:
    """Open logins of a front that runs (this test's own process stands for it)."""
    log = log_of(tmp_path / "log", "front_started", "login old 1", "login new 2", "logout old 1")
    assert trading_generations(log) == {"new"}


def test_nobody_can_trade_on_a_front_that_does_not_run(tmp_path: Path) -> None:
    """No front_started, or a process that is gone: open logins prove nothing."""
    assert trading_generations(log_of(tmp_path / "log", "login old 1")) == frozenset()
    assert trading_generations(tmp_path / "missing") == frozenset()
    gone = {"seq": 1, "event": "front_started", "pid": own_identity().pid, "start_ticks": 1}
    (tmp_path / "gone").write_text(json.dumps(gone) + "\n")
    assert trading_generations(tmp_path / "gone") == frozenset()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """A front that was killed in the middle of a line leaves the lines before it readable."""
    log = log_of(tmp_path / "log", "login old 1")
    with log.open("a") as sink:
        sink.write('{"seq": 2, "event": "log')
    assert [record["seq"] for record in read_front_log(log)] == [1]


def test_a_front_that_comes_back_goes_on_counting(tmp_path: Path) -> None:
    """Append-only: sequence and OrderRefs go on where the front before left them."""
    path = tmp_path / "log"
    first = FrontLog(path)
    first.append("order", order_ref=41)
    first.close()
    second = FrontLog(path)
    assert second.max_order_ref == 41
    second.close()
    assert [record["seq"] for record in read_front_log(path)] == [1, 2, 3, 4, 5]
    assert trading_intervals(read_front_log(path)) == []
