"""By how much the clocks of a run may be apart: as far as its journal says they were set, no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import PlanFacts
from ctp_runbook.record.samples import Sample

__all__ = ["ClockShifts", "disturbance_findings", "schedule_findings"]

_PAUSED = "paused"
# A sample may be begun right before a pause and be complete right after it.
_EDGE_SECONDS = 0.5
# What is rounded in a sample: how long it took, and when it was due.
_EARLY_MS, _TURN_SLACK = 1.0, 0.01


@dataclass(frozen=True)
class _Shift:
    """The wall clock went ``seconds`` ahead of the monotonic one between two moments of a boot."""

    boot_id: str
    from_mono: float
    told_mono: float
    seconds: float


class ClockShifts:
    """The shifts that a journal tells; whoever claims one that was not is apart ever after."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._shifts = [
            _Shift(
                record.boot_id,
                float(record.payload["from_mono"]),
                record.mono_ns / 1e9,
                float(record.payload["seconds"]),
            )
            for record in records
            if record.kind == "watch_disturbed" and record.payload["what"] != _PAUSED
        ]

    def shift_of(self, *, boot_id: str, mono: float, apart: float) -> float:
        """How much of ``apart`` (seconds that wall gained on mono since the boot's first record)
        the journal explains at ``mono``.

        Between the two looks that met a shift, it may have happened already or not yet.
        """
        sure = sum(s.seconds for s in self._shifts if s.boot_id == boot_id and s.told_mono <= mono)
        perhaps = [
            s.seconds
            for s in self._shifts
            if s.boot_id == boot_id and s.from_mono <= mono < s.told_mono
        ]
        likely = [sum(perhaps[:count]) for count in range(len(perhaps) + 1)]
        return sure + min(likely, key=lambda part: abs(apart - sure - part))

    def unshifted(self, wall: float, *, mono: float, since: Record) -> float:
        """What the wall clock would have said at ``mono`` had nobody set it since the record."""
        apart = wall - since.wall.timestamp() - (mono - since.mono_ns / 1e9)
        return wall - self.shift_of(boot_id=since.boot_id, mono=mono, apart=apart)


def disturbance_findings(records: Sequence[Record], samples: Sequence[Sample]) -> Iterator[str]:
    """Did what the journal says of a pause, a suspend or a step happen between two moments before
    it was written, and was nothing sampled while nothing ran?"""
    for record in records:
        if record.kind != "watch_disturbed":
            continue
        where, told = f"journal record {record.seq}", record.payload
        begun, ended = float(told["from_mono"]), float(told["to_mono"])
        if not begun <= ended <= record.mono_ns / 1e9:
            yield f"{where}: a disturbance from {begun} to {ended}, told at {record.mono_ns / 1e9}"
        if told["what"] != _PAUSED:
            continue
        if abs(told["seconds"] - (ended - begun)) > 0.01:
            yield f"{where}: a pause of {told['seconds']} s that lasted {ended - begun:.3f} s"
        inside = [
            sample.seq
            for sample in samples
            if begun + _EDGE_SECONDS < sample.mono < ended - _EDGE_SECONDS
        ]
        if inside:
            yield f"{where}: sample {inside[0]} was taken while nothing is said to have run"


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
        if wrong := _turn_finding(sample):
            yield f"{number}: {wrong}"
            continue
        last = before.get((sample.source, sample.target))
        before[sample.source, sample.target] = sample
        interval = intervals.get((sample.source, sample.target))
        if interval is None or last is None:
            continue
        turns = (sample.due - last.due) / interval
        broken = any(last.mono < moment < sample.mono for moment in breaks)
        if not broken and abs(turns - (sample.missed + 1)) > _TURN_SLACK:
            yield f"{number}: due {turns:.2f} turns after the one before, {sample.missed} missed"


def _breaks(history: History) -> list[float]:
    """When a schedule begins anew (a resumed run), or a sample may be left out (the window is over,
    and nobody holds it yet, or no more)."""
    found = [record.mono_ns / 1e9 for record in history.records if record.kind == "watch_gap"]
    if started := history.watch_started:
        ends = started.mono_ns / 1e9 + float(started.payload["minutes"]) * 60
        entered = (entry.mono_ns / 1e9 for entry in history.transitions)
        found += [ends, *(moment for moment in entered if moment >= ends)]
    return found


def _turn_finding(sample: Sample) -> str:
    if not sample.due:
        return "not said when it was due, as the others do"
    if sample.late_ms < -_EARLY_MS:
        return f"begun {-sample.late_ms:.0f} ms before it was due"
    return ""


def _intervals(plan: PlanFacts) -> dict[tuple[str, str], float]:
    """Seconds between two turns of each target: of a page, that of its most frequent metric."""
    found: dict[tuple[str, str], float] = {}
    for key in plan.monitor_keys:
        rule = plan.watch.metrics[key]
        name = rule.url or rule.source if rule.source in PAGES else key
        known = found.get((rule.source, name), rule.interval_seconds)
        found[rule.source, name] = min(rule.interval_seconds, known)
    return found
