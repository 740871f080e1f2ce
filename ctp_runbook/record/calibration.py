"""What the old engine itself would have done to the watch: a calibration, as it is kept and found.

``calibration.json`` stands in a folder of its own under outputs/, beside the samples it was made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError
from ctp_runbook.host import files
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.formats import FORMAT, FormatOf, check_format
from ctp_runbook.record.kinds import (
    Count,
    Duration,
    Facts,
    Instant,
    Name,
    OwnName,
    OwnNames,
    Sha256,
    VerdictName,
    WatchFacts,
)

__all__ = [
    "AlarmRate",
    "Calibration",
    "CalibrationDir",
    "JudgedWindow",
    "MetricCalibration",
    "calibration_warnings",
    "calibrations_under",
    "file_digest",
    "lasting",
    "limits_digest",
    "newest_calibration",
    "read_calibration",
]

_PREFIX = "calibration-"
_LONGEST_BYTES = 64 << 20


class AlarmRate(Facts, frozen=True, kw_only=True):
    """In how many windows there was an alarm; ``low`` and ``high`` hold the rate at 95 %.

    ``windows`` do not overlap, so they count as trials of their own (Clopper and Pearson);
    ``sliding_windows`` are all of them, at every step.
    """

    alarms: Count
    windows: Count
    low: float
    high: float
    sliding_alarms: Count
    sliding_windows: Count

    @property
    def sentence(self) -> str:
        """``4 of 16 windows (7 to 52 %)``."""
        if not self.windows:
            return "no window that measured it"
        if self.sliding_alarms and not self.alarms:
            return f"{self.sliding_alarms} of {self.sliding_windows} windows that overlap"
        low, high = _percent(self.low), _percent(self.high)
        return f"{self.alarms} of {self.windows} windows ({low} to {high} %)"


def lasting(minutes: float) -> str:
    """``30 min``; of less than one in seconds, ``15 s``."""
    return f"{minutes:.4g} min" if minutes >= 1 else f"{minutes * 60:.4g} s"


def _percent(share: float) -> str:
    return f"{share * 100:.0f}" if share >= 0.1 else f"{share * 100:.2g}"


class JudgedWindow(Facts, frozen=True, kw_only=True):
    """One window as the judge would have ended it; ``rolled_back_by`` is the metric that the trigger
    fired by, blank where it did not."""

    started_utc: Instant
    verdict: VerdictName
    rolled_back_by: str = ""
    failed: OwnNames = ()
    not_proved: OwnNames = ()


class MetricCalibration(Facts, frozen=True, kw_only=True):
    """One metric over the whole recording; values and limits are in its rule's unit.

    ``quantiles`` are of what the judge looks at: a value a sample. ``trigger_limits`` are what the
    rollback trigger compares it with. ``would_hold`` is the strictest limit within the wanted rate of
    alarms, ``suggested`` the one to take: None where none can be told from what was measured;
    ``sentence`` says why, and what is proved.
    """

    name: OwnName
    trigger_limits: tuple[float, ...] = ()
    samples: Count
    quantiles: dict[str, float]
    alarms: AlarmRate
    would_hold: float | None = None
    suggested: float | None = None
    suggested_alarms: AlarmRate | None = None
    sentence: str


class Calibration(Facts, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The old engine held against the limits: every window of ``window_minutes`` in a recording.

    Where ``piece_seconds`` is not 0 the recording is shorter than one window: they were put together
    from pieces of it, so long, and there is no ``windows`` to tell when one began.
    ``limits_sha256`` is ``limits_digest`` of the rules and the trigger that it was held against.
    ``holds`` counts windows with a limit broken and no rollback.
    """

    environment: Name
    made_utc: Instant
    source: str
    samples: Count
    samples_sha256: Sha256
    begins_utc: Instant
    minutes: Duration
    window_minutes: Duration
    step_minutes: Duration
    false_alarm_rate: float
    limits_sha256: Sha256
    trigger_text: OwnName
    watch: WatchFacts
    rollbacks: AlarmRate
    holds: AlarmRate
    metrics: tuple[MetricCalibration, ...]
    windows: tuple[JudgedWindow, ...]
    piece_seconds: Duration = 0.0

    @property
    def assumed(self) -> str:
        """What windows that were put together rest on; blank for windows of the recording itself."""
        if not self.piece_seconds:
            return ""
        many = int(self.minutes * 60 / self.piece_seconds + 1e-9)
        return (
            f"put together from {many} pieces of {self.piece_seconds:g} s, drawn by chance, for the "
            f"recording is shorter than one. That holds if the pieces are like the day and independent "
            f"of each other; what comes less often than once in {self.minutes:.3g} min may not be in them"
        )

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The metrics of which no window has a value: nobody knows what their limits would have done."""
        return tuple(metric.name for metric in self.metrics if not metric.alarms.windows)

    @property
    def headline(self) -> str:
        """What it comes to in a few words, for a banner and a picture."""
        if self.rollbacks.sliding_alarms:
            return "The old engine itself breaks these limits"
        if self.holds.sliding_alarms:
            return "No rollback, but limits that the old engine breaks"
        if len(self.unmeasured) == len(self.metrics):
            return "Nothing was measured"
        if self.unmeasured:
            known = len(self.metrics) - len(self.unmeasured)
            return f"The old engine keeps the limits that were measured, {known} of {len(self.metrics)}"
        return "The old engine keeps these limits"

    @property
    def json(self) -> bytes:
        """As it stands in the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def sentence(self) -> str:
        """What it comes to: how often the old engine itself would have been rolled back."""
        return (
            f"with these limits the old engine itself would have been rolled back in "
            f"{self.rollbacks.sentence} of {lasting(self.window_minutes)}"
            f"{', put together from pieces of the recording' if self.piece_seconds else ''}"
        )


class CalibrationDir(Struct, frozen=True):
    """The folder of a calibration, ``outputs/calibration-…``."""

    path: Path

    @property
    def json(self) -> Path:
        """The record."""
        return self.path / "calibration.json"

    @property
    def samples(self) -> Path:
        """What it was made of."""
        return self.path / "samples.jsonl"

    @property
    def watch(self) -> Path:
        """The suggested limits, to be taken over into watch.toml by a person."""
        return self.path / "watch.toml"

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return self.path / "00_calibrate.ipynb"

    @classmethod
    def named(cls, outputs: Path, *, made_utc: str) -> CalibrationDir:
        """Return the folder for a calibration of this moment."""
        stamp = made_utc[:26].replace("-", "").replace(":", "").replace(".", "-")
        return cls(outputs / f"{_PREFIX}{stamp}Z")


def limits_digest(rules: Iterable[MetricRule], trigger_text: str) -> str:
    """Return the digest of all that decides an alarm: the rules that are watched, and the trigger.

    Comments of watch.toml are none of it: a limit explained better is the same limit.
    """
    ordered = sorted(rules, key=lambda rule: rule.name)
    data = msgspec.json.encode((ordered, trigger_text), order="sorted")
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file of any length."""
    digest = hashlib.sha256()
    with files.open_plain(path) as source:
        while piece := source.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_calibration(path: Path) -> Calibration:
    """Return what a calibration.json says. Raises JournalError where it is none."""
    try:
        data = files.read_small(path, most=_LONGEST_BYTES)
        check_format(decoder(FormatOf).decode(data).format, "calibration")
        return decoder(Calibration).decode(data)
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, JournalError) as error:
        raise JournalError(f"{path}: not a calibration: {error}") from error


def calibrations_under(outputs: Path) -> Iterator[CalibrationDir]:
    """Every whole calibration in a folder, the newest first: its name says when it was made."""
    try:
        names = files.names_in(outputs)
    except OSError:
        return  # no folder, and so no calibration
    for name in sorted((name for name in names if name.startswith(_PREFIX)), reverse=True):
        if files.exists((kept := CalibrationDir(outputs / name)).json):
            yield kept


def newest_calibration(outputs: Path) -> CalibrationDir:
    """Return the calibration made last. Raises JournalError when there is none."""
    if (kept := next(calibrations_under(outputs), None)) is None:
        raise JournalError(
            f"no calibration under {outputs}/; make one with `ctp-runbook calibrate --minutes 240`"
        )
    return kept


def calibration_warnings(plan: Plan, outputs: Iterable[Path]) -> Iterator[str]:
    """Yield what the newest calibration of this environment and these limits warns of.

    One that cannot be read is said to be so; none at all is no warning.
    """
    for root in dict.fromkeys(path.resolve() for path in outputs):
        digest = ""
        for kept in calibrations_under(root):
            try:
                calibration = read_calibration(kept.json)
            except JournalError as error:
                yield f"what the old engine would have done to the watch is not known: {error}"
                break
            digest = digest or limits_digest(plan.watched, plan.trigger.text)
            if (calibration.environment, calibration.limits_sha256) != (plan.environment, digest):
                continue
            if calibration.rollbacks.sliding_alarms:
                yield (
                    f"{calibration.sentence}: it is the limits that are to be looked at before the new "
                    f"engine is; {kept.watch} suggests others"
                )
            break
