"""Trading sessions: spans, midnight, weekends, and when the day closes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from ctp_runbook.plan.config import load_limits
from ctp_runbook.plan.trading_sessions import Span, TradingSessions, parse_span

SESSIONS = load_limits(Path(__file__).parents[2] / "configs" / "limits.toml").sessions

# 2026-03-02 is a Monday.
MOMENTS = {
    "before the open": ("2026-03-02T08:59:59+08:00", None),
    "at the open": ("2026-03-02T09:00:00+08:00", "2026-03-02T15:00:00+08:00"),
    "in the break": ("2026-03-02T10:20:00+08:00", None),
    "afternoon": ("2026-03-02T14:59:59+08:00", "2026-03-02T15:00:00+08:00"),
    "at the close": ("2026-03-02T15:00:00+08:00", None),
    "another offset": ("2026-03-02T01:30:00+00:00", "2026-03-02T15:00:00+08:00"),
    "night": ("2026-03-02T22:00:00+08:00", "2026-03-03T02:30:00+08:00"),
    "night, after midnight": ("2026-03-03T02:29:00+08:00", "2026-03-03T02:30:00+08:00"),
    "night of Friday, on Saturday": ("2026-03-07T01:00:00+08:00", "2026-03-07T02:30:00+08:00"),
    "Saturday morning": ("2026-03-07T09:30:00+08:00", None),
    "Sunday evening": ("2026-03-08T22:00:00+08:00", None),
    "Monday, after midnight": ("2026-03-02T01:00:00+08:00", None),
}


@pytest.mark.parametrize(("moment", "close"), MOMENTS.values(), ids=MOMENTS)
def test_close_of_the_session(moment: str, close: str | None) -> None:
    """A moment in a session has the close of its day or night; any other has none."""
    expected = datetime.fromisoformat(close) if close else None
    assert SESSIONS.close_after(datetime.fromisoformat(moment)) == expected


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("09:00-10:15", Span(540, 615)),
        ("21:00-02:30", Span(1260, 1590)),
        ("00:00-00:00", Span(0, 1440)),
        ("24:00-25:00", None),
        ("9:00-10:15", None),
        ("09:00", None),
        ("", None),
    ],
)
def test_spans_parse(text: str, span: Span | None) -> None:
    """A span that ends no later than it begins passes midnight."""
    assert parse_span(text) == span


def test_no_sessions_are_not_known() -> None:
    """Without a table nothing is in session, and that is told apart from a quiet hour."""
    assert not TradingSessions().are_known
    assert TradingSessions().close_after(datetime.fromisoformat("2026-03-02T09:30+08:00")) is None
