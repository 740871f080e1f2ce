"""What `run`, `orchestrate` and `rehearse` print with `--json`: an object a line, told apart by ``event``.

The journal is the record; these lines are for a program that follows a run while it goes on.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["FORMS", "EndLine", "MetricNow", "NoteLine", "RecordLine", "RunLine", "WatchLine"]


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"):
    """``format`` is another number once a reader of this one would go wrong; ``utc`` is when the line
    was printed."""

    format: Literal[1] = 1
    run_id: str
    dry_run: bool
    utc: str


class RunLine(_Line, frozen=True, kw_only=True, tag="run"):
    """The first line of a run: which it is, and where. `rehearse` has notes before it."""

    path: str
    environment: str
    plan_sha256: str


class RecordLine(_Line, frozen=True, kw_only=True, tag="record"):
    """One record of the journal: its number and kind, and as a sentence what it says.

    The record itself stands in ``journal.jsonl`` under ``seq``. Of a step that ended there is how long
    it took, and how long it usually takes here (null where no earlier run says).
    """

    seq: int
    kind: str
    state: str
    sentence: str
    step: str = ""
    status: str = ""
    took_seconds: float | None = None
    usual_seconds: float | None = None


class MetricNow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of the watch as it stands: its value and limit in its own unit, and its verdict so far.

    ``is_over``: the truth is more than ``value``. ``trend`` is how near it came to its limit lately,
    oldest first: 1 is at the limit, more is beyond it, null is a time without a value.
    """

    name: str
    verdict: str
    value: float | None
    is_over: bool
    limit: float
    unit: str
    direction: str
    breaching: bool
    trend: tuple[float | None, ...]


class WatchLine(_Line, frozen=True, kw_only=True, tag="watch"):
    """The watch as it stands, every few seconds: what is left of its window, and each metric."""

    state: str
    seconds_left: float
    verdict: str
    metrics: tuple[MetricNow, ...]


class NoteLine(_Line, frozen=True, kw_only=True, tag="note"):
    """A sentence beside the journal: how a notebook ended, where the report is, what of the twin."""

    sentence: str


class EndLine(_Line, frozen=True, kw_only=True, tag="end"):
    """The last line: how the run ended, and the exit code of this command.

    ``outcome`` is null where this command left a run that goes on. Without such a line it lost the
    run: standard error and the exit code say what is known. ``downtime_seconds`` is null where nothing
    was stopped, ``report`` blank where none is written yet.
    """

    outcome: str | None
    exit_code: int
    sentence: str
    downtime_seconds: float | None
    verdict: str | None
    report: str
    evidence: str


FORMS = RunLine | RecordLine | WatchLine | NoteLine | EndLine
