"""By how much the clocks of a run may be apart: as far as its journal says they were set, no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import PlanFacts, WatchDisturbed, WatchGap
from ctp_runbook.record.samples import Sample

__all__ = ["ClockShifts", "disturbance_findings", "schedule_findings"]

# A sample may be begun right before a pause and be complete right after it.
_EDGE_SECONDS = 0.5
# What is rounded in a sample: how long it took, and when it was due.
_EARLY_MS, _TURN_SLACK = 1.0, 0.01


class ClockShifts:
    """The shifts that a journal tells; whoever claims one that was not is apart ever after."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._first: dict[str, Record] = {}
        for record in records:
            self._first.setdefault(record.boot_id, record)
        # A process that stood still moves no clock; a host that was suspended moves one of two.
        self._shifts = [
            (record, shift)
            for record in records
            if isinstance(shift := record.payload, WatchDisturbed) and shift.what != "paused"
        ]

    def shift_of(self, *, boot_id: str, mono: float, apart: float) -> float:
        """How much of ``apart`` (seconds that wall gained on mono since the boot's first record)
        the journal explains at ``mono``.

        Between the two looks that met a shift, it may have happened already or not yet.
        """
        if not self._shifts:
            return 0.0
        mine = [(record, shift) for record, shift in self._shifts if record.boot_id == boot_id]
        sure = sum(shift.seconds for record, shift in mine if record.mono <= mono)
        perhaps = [shift.seconds for record, shift in mine if shift.from_mono <= mono < record.mono]
        likely = [sum(perhaps[:count]) for count in range(len(perhaps) + 1)]
        return sure + min(likely, key=lambda part: abs(apart - sure - part))

    def unshifted(self, wall: float, *, mono: float, since: Record) -> float:
        """What the wall clock would have said at ``mono`` had nobody set it since the record."""
        # What was set before the record is in its own time already.
        by_then = self._shift_at(since.wall.timestamp(), mono=since.mono, boot=since)
        return wall - (self._shift_at(wall, mono=mono, boot=since) - by_then)

    def _shift_at(self, wall: float, *, mono: float, boot: Record) -> float:
        first = self._first.get(boot.boot_id, boot)
        apart = wall - first.wall.timestamp() - (mono - first.mono)
        return self.shift_of(boot_id=boot.boot_id, mono=mono, apart=apart)


def disturbance_findings(history: History, samples: Sequence[Sample]) -> Iterator[str]:
    """Did what the journal says of a pause, a suspend or a step happen between two moments before
    it was written, and was nothing sampled while nothing ran?"""
    for record in history.of_kind(WatchDisturbed):
        where, disturbed = f"journal record {record.seq}", record.payload
        begun, ended = disturbed.from_mono, disturbed.to_mono
        if not begun <= ended <= record.mono:
            yield f"{where}: a disturbance from {begun} to {ended}, told at {record.mono}"
        if disturbed.what != "paused":
            continue
        if abs(disturbed.seconds - (ended - begun)) > 0.01:
            yield f"{where}: a pause of {disturbed.seconds} s that lasted {ended - begun:.3f} s"
        inside = begun + _EDGE_SECONDS, ended - _EDGE_SECONDS
        taken = [sample.seq for sample in samples if inside[0] < sample.mono < inside[1]]
        if taken:
            yield f"{where}: sample {taken[0]} was taken while nothing is said to have run"


def schedule_findings(samples: Sequence[Sample], history: History) -> Iterator[str]:
    """Was each sample begun after it was due, and is every turn between two of them told as missed?

    A file of before the schedule was kept says nothing of it anywhere, and in another boot the
    monotonic clock begins anew.
    """
    one_boot = len({record.boot_id for record in history.records}) == 1
    if not one_boot or not any(sample.due for sample in samples):
        return
    intervals, breaks = _intervals(history.plan), _breaks(history)
    before: dict[tuple[str, str], Sample] = {}
    for number, sample in enumerate(samples, start=1):
        if not sample.due:
            yield f"{number}: not said when it was due, as the others do"
            continue
        if sample.late_ms < -_EARLY_MS:
            yield f"{number}: begun {-sample.late_ms:.0f} ms before it was due"
            continue
        page = sample.source, sample.target
        last, before[page] = before.get(page), sample
        if page not in intervals or last is None:
            continue
        turns = (sample.due - last.due) / intervals[page]
        broken = any(last.mono < moment < sample.mono for moment in breaks)
        if not broken and abs(turns - (sample.missed + 1)) > _TURN_SLACK:
            yield f"{number}: due {turns:.2f} turns after the one before, {sample.missed} missed"


def _breaks(history: History) -> list[float]:
    """When a schedule begins anew (a resumed run), or a sample may be left out (the window is over,
    and nobody holds it yet, or no more)."""
    breaks = [record.mono for record in history.of_kind(WatchGap)]
    if started := history.watch_started:
        ends = started.mono + started.payload.minutes * 60
        entered = (entry.mono_ns / 1e9 for entry in history.transitions)
        breaks += [ends, *(moment for moment in entered if moment >= ends)]
    return breaks


def _intervals(plan: PlanFacts) -> dict[tuple[str, str], float]:
    """Seconds between two turns of each target: of a page, that of its most frequent metric."""
    intervals: dict[tuple[str, str], float] = {}
    for key in plan.monitor_keys:
        rule = plan.watch.metrics[key]
        name = rule.url or rule.source if rule.source in PAGES else key
        known = intervals.get((rule.source, name), rule.interval_seconds)
        intervals[rule.source, name] = min(rule.interval_seconds, known)
    return intervals
