"""Which partitions must be there: today's, and the next trading day's."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from ctp_runbook.gates.migrations import trading_days

DAYS = {
    "a Monday": (datetime(2026, 11, 23, 2, tzinfo=UTC), ["2026-11-23", "2026-11-24"]),
    "Friday's night is Monday's": (
        datetime(2026, 11, 27, 14, tzinfo=UTC),
        ["2026-11-27", "2026-11-30"],
    ),
    "a Saturday": (datetime(2026, 11, 28, 2, tzinfo=UTC), ["2026-11-30"]),
    "tomorrow in Shanghai": (datetime(2026, 11, 23, 17, tzinfo=UTC), ["2026-11-24", "2026-11-25"]),
}


@pytest.mark.parametrize(("now", "days"), DAYS.values(), ids=DAYS)
def test_days_are_those_of_the_exchange(now: datetime, days: list[str]) -> None:
    """By the exchanges' clock; no weekend is a trading day."""
    assert trading_days(now) == tuple(map(date.fromisoformat, days))
