"""Facts about watch/sampler.py: it keeps time, and nobody waits for anybody."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.clocks import Clocks
from ctp_runbook.record.samples import Sample, sample_of
from ctp_runbook.watch.sampler import Sampler, Target, read_once


@pytest.fixture
def begin() -> Iterator[Callable[..., Sampler]]:
    """Starts a sampler, which is stopped at the end."""
    made: list[Sampler] = []

    def start(*targets: Target) -> Sampler:
        made.append(Sampler(targets, clocks=Clocks()))
        made[-1].start()
        return made[-1]

    yield start
    for sampler in made:
        sampler.stop()


def steady(name: str, *, interval: float, takes: float = 0.0) -> Target:
    """A target that answers after ``takes`` seconds."""

    def read() -> Mapping[str, float]:
        time.sleep(takes)
        return {name: 1.0}

    return Target("engine", name, read, interval)


def failing() -> Mapping[str, float]:
    """A source that answers nothing."""
    raise ProbeError("http://x: connection refused")


def taken(sampler: Sampler, *, seconds: float) -> list[Sample]:
    """What comes within this time."""
    found, until = [], time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if (sample := sampler.take(seconds=left)) is not None:
            found.append(sample)
    return found


def first(count: int, sampler: Sampler) -> list[Sample]:
    """So many, however long a busy machine needs for them."""
    found: list[Sample] = []
    until = time.monotonic() + 30
    while len(found) < count and (left := until - time.monotonic()) > 0:
        if (sample := sampler.take(seconds=left)) is not None:
            found.append(sample)
    return found


def test_a_sample_is_what_the_source_said_and_when() -> None:
    """Both clocks are read when the answer is complete."""
    before = time.time(), time.monotonic()
    sample = read_once(steady("up", interval=1, takes=0.05), clocks=Clocks())
    assert (sample.source, sample.target, sample.series) == ("engine", "up", {"up": 1.0})
    assert (sample.ok, sample.error, sample.seq) == (True, "", 0)
    assert before[0] + 0.05 <= sample.wall <= time.time()
    assert before[1] + 0.05 <= sample.mono <= time.monotonic()
    assert 50 <= sample.took_ms < 5000


def test_a_source_that_fails_makes_a_sample_too() -> None:
    """It says that nothing was measured, and why."""
    sample = read_once(Target("engine", "url", failing, 1.0), clocks=Clocks())
    assert (sample.ok, sample.error) == (False, "http://x: connection refused")
    assert sample.series == {}


def test_sampling_keeps_time(begin: Callable[..., Sampler]) -> None:
    """The first sample is taken at once, the others on a schedule that does not drift."""
    found = taken(begin(steady("a", interval=0.1, takes=0.04)), seconds=0.97)
    assert found[0].late_ms < 500
    # However late one sample came, the next ones are due when they always were.
    turns = [(sample.due - found[0].due) / 0.1 for sample in found]
    assert turns == pytest.approx([round(turn) for turn in turns], abs=1e-3)
    assert len(found) + sum(sample.missed for sample in found) >= 8


def test_a_dead_target_delays_nobody(begin: Callable[..., Sampler]) -> None:
    """One that hangs and one that fails leave the good one its own time."""
    release = threading.Event()

    def hanging() -> Mapping[str, float]:
        release.wait(60)
        return {}

    sampler = begin(
        Target("kafka", "hangs", hanging, 0.05),
        Target("engine", "fails", failing, 0.05),
        steady("good", interval=0.05),
    )
    found = [sample.target for sample in first(24, sampler)]
    release.set()
    assert found.count("good") >= 6
    assert found.count("fails") >= 6
    assert "hangs" not in found


def test_a_slow_target_misses_turns_and_piles_up_none(begin: Callable[..., Sampler]) -> None:
    """Slower than its interval, it is sampled when it can, never twice in a row to catch up."""
    found = taken(begin(steady("slow", interval=0.05, takes=0.12)), seconds=0.8)
    assert 2 <= len(found) <= 6
    gaps = [b.mono - a.mono for a, b in itertools.pairwise(found)]
    assert min(gaps) > 0.1


def test_nothing_is_sampled_after_the_stop(begin: Callable[..., Sampler]) -> None:
    """What was under way may still come, and then no more."""
    sampler = begin(steady("a", interval=0.02))
    assert len(first(3, sampler)) == 3
    sampler.stop()
    taken(sampler, seconds=0.05)
    assert sampler.take(seconds=0.1) is None


def test_taking_waits_no_longer_than_asked(begin: Callable[..., Sampler]) -> None:
    """No target, no sample, and the loop goes on."""
    began = time.monotonic()
    assert begin().take(seconds=0.05) is None
    assert 0.05 <= time.monotonic() - began < 20


def test_a_sample_says_when_it_was_due(begin: Callable[..., Sampler]) -> None:
    """By the schedule, to the nanosecond; it is begun then or a little later."""
    found = first(8, begin(steady("a", interval=0.05)))
    due = [sample.due for sample in found]
    assert len(due) == 8
    turns = [(b - a) / 0.05 for a, b in itertools.pairwise(due)]
    assert turns == pytest.approx([one.missed + 1 for one in found[1:]], abs=1e-3)
    assert all(sample.late_ms > -0.01 for sample in found)


def test_missed_turns_are_counted(begin: Callable[..., Sampler]) -> None:
    """Every turn is a sample or is told as missed by the one after it."""
    found = taken(begin(steady("slow", interval=0.05, takes=0.12)), seconds=0.8)
    turns = round((found[-1].due - found[0].due) / 0.05)
    assert sum(sample.missed for sample in found) == turns - (len(found) - 1) > 0


def test_what_no_probe_foresaw_is_an_error_and_the_next_turn_comes(
    begin: Callable[..., Sampler],
) -> None:
    """The thread of a target lives on, and the sample says what happened."""

    def odd() -> Mapping[str, float]:
        raise ValueError("no such thing")

    found = first(3, begin(Target("command", "odd", odd, 0.05)))
    assert len(found) == 3
    assert {sample.error for sample in found} == {"odd: ValueError: no such thing"}


class Unspeakable(Exception):
    """An error that has no words."""

    def __str__(self) -> str:
        return str(json.loads("[" * 100_000))


def answering(series: Any) -> Callable[[], Mapping[str, float]]:
    """A source that says this, whatever it is."""
    return lambda: series


def raising(error: BaseException) -> Callable[[], Mapping[str, float]]:
    """A source that ends so."""

    def read() -> Mapping[str, float]:
        raise error

    return read


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "nested without end": (lambda: json.loads("[" * 100_000), "RecursionError"),
    "an error without words": (raising(Unspeakable()), "cannot be put into words"),
    "an error of a MiB": (raising(ValueError("x" * (1 << 20))), "xxx…"),
    "no memory": (raising(MemoryError()), "MemoryError"),
    "its own end": (raising(SystemExit(3)), "SystemExit: 3"),
    "a list": (answering([1]), "AttributeError"),
    "nothing": (answering(None), "AttributeError"),
    "a number of five hundred digits": (answering({"a": 10**500}), "OverflowError"),
    "a text for a number": (answering({"a": "b"}), "ValueError"),
    "null for a number": (answering({"a": None}), "TypeError"),
    "half a character for a name": (answering({"a\ud800": 1.0}), "UnicodeEncodeError"),
    "a number for a name": (answering({1: 1.0}), "AttributeError"),
}


@pytest.mark.parametrize(("read", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_thread_survives_whatever_it_reads(
    read: Callable[[], Any], said: str, begin: Callable[..., Sampler]
) -> None:
    """Each turn is a sample, which can be written down and read again, and the next turn comes."""
    sampler = begin(Target("command", "odd", read, 0.02))
    for _ in range(2):
        sample = sampler.take(seconds=20)
        assert sample is not None
        assert not sample.ok
        assert said in sample.error
        assert len(sample.error) < 5000
        assert sample_of(sample.to_line(), path=Path("x"), number=1).error == sample.error


def test_what_is_measured_by_a_wall_clock_that_was_set_proves_nothing() -> None:
    """For as long as an answer speaks of; an engine's page has no part of it."""
    ahead = [0.0]
    clocks = Clocks(wall=lambda: time.time() + ahead[0])
    sampler = Sampler(
        [
            Target("kafka", "lag", lambda: {"lag": 0.0}, 0.05, by_wall_seconds=0.5),
            steady("page", interval=0.05),
        ],
        clocks=clocks,
    )
    sampler.start()
    before = taken(sampler, seconds=0.2)
    ahead[0] = -3600.0
    after = taken(sampler, seconds=0.3)
    later = taken(sampler, seconds=0.8)
    sampler.stop()
    assert all(sample.ok for sample in before)
    assert [one.what for one in sampler.disturbances()] == ["clock_stepped"]
    lag = [one for one in after if one.target == "lag" and one.wall < time.time() - 3000]
    assert lag
    assert not any(one.ok or one.series for one in lag)
    assert "the wall clock was set -3600.0 s" in lag[0].error
    assert all(one.ok for one in after if one.target == "page")
    assert later[-1].ok


class StoppedClock:
    """A host's clock that moves by what is waited, and by nothing else."""

    def __init__(self, mono: float = 100.0) -> None:
        self.now, self.waits = mono, list[float]()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return 1.7e9 + self.now

    def mono(self) -> float:
        """Seconds since some start."""
        return self.now

    def boot(self) -> float:
        """The same: it is never suspended."""
        return self.now

    def boot_id(self) -> str:
        """Only one boot."""
        return "boot"

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def wait(self, event: threading.Event, *, seconds: float) -> bool:
        """Let time pass, unless the event is there."""
        self.waits.append(seconds)
        if not event.is_set():
            self.now += max(0.0, seconds)
        return event.is_set()


def test_instants_are_the_clocks_that_was_passed_in() -> None:
    """A simulated host's samples are of its time, to the millisecond."""
    clock = StoppedClock()

    def read() -> Mapping[str, float]:
        clock.sleep(0.25)
        return {"up": 1.0}

    sample = read_once(Target("engine", "up", read, 1.0), clocks=clock)
    assert (sample.mono, sample.wall, sample.took_ms) == (100.25, 1.7e9 + 100.25, 250.0)


def test_waiting_is_the_clocks_that_was_passed_in() -> None:
    """A simulated host waits for a sample no moment of ours, and for as long as was asked of its
    own."""
    clock, began = StoppedClock(), time.monotonic()
    assert Sampler([], clocks=clock).take(seconds=3600.0) is None
    assert (clock.now, clock.waits) == (3700.0, [3600.0])
    assert time.monotonic() - began < 60


def test_what_no_utf_8_can_say_is_said_all_the_same() -> None:
    """Half a surrogate pair in a stranger's error ends nobody who writes the sample down."""

    def read() -> Mapping[str, float]:
        raise ProbeError("prometheus: \ud83d")

    sample = read_once(Target("prometheus", "q", read, 1.0), clocks=Clocks())
    assert sample.error == "prometheus: \\ud83d"
    assert b"ud83d" in sample.to_line()
