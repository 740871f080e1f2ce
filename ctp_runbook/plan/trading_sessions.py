"""Trading sessions of the products traded: whether a moment is in one, and when it closes.

Sessions come from ``[sessions]`` of limits.toml, for they differ by product and no calendar
package knows the Chinese futures exchanges. Weekends are known here; holidays are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

from msgspec import Struct

__all__ = ["Span", "TradingSessions", "parse_span"]

_SPAN = r"([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])"
_DAY_MINUTES = 24 * 60
_SATURDAY = 5


class Span(Struct, frozen=True):
    """Minutes after midnight; ``ends`` is beyond 1440 where a night session passes midnight."""

    begins: int
    ends: int


def parse_span(text: str) -> Span | None:
    """Read ``21:00-02:30`` as a Span; None for what is no span."""
    match = re.fullmatch(_SPAN, text)
    if match is None:
        return None
    first_hour, first_minute, last_hour, last_minute = map(int, match.groups())
    if max(first_hour, last_hour) > 23:
        return None
    begins, ends = first_hour * 60 + first_minute, last_hour * 60 + last_minute
    return Span(begins, ends if ends > begins else ends + _DAY_MINUTES)


class TradingSessions(Struct, frozen=True):
    """The spans of a trading day: ``day`` from Monday to Friday, ``night`` from each evening of
    these. Friday's night is in, for it belongs to Monday's trading day."""

    day: tuple[Span, ...] = ()
    night: tuple[Span, ...] = ()
    utc_offset_hours: float = 8.0

    @property
    def are_known(self) -> bool:
        """False where limits.toml names no session."""
        return bool(self.day or self.night)

    def close_after(self, moment: datetime) -> datetime | None:
        """Return when the day or night in which ``moment`` trades closes; None outside sessions.

        Breaks within a day are outside sessions; the close is that of the day, not of a part.
        """
        local = moment.astimezone(timezone(timedelta(hours=self.utc_offset_hours)))
        for midnight, spans in self._days_around(local):
            minutes = (local - midnight).total_seconds() / 60
            if any(span.begins <= minutes < span.ends for span in spans):
                return midnight + timedelta(minutes=max(span.ends for span in spans))
        return None

    def _days_around(self, local: datetime) -> Iterator[tuple[datetime, Iterable[Span]]]:
        """Today's day and night, and the night of yesterday, which may not be over."""
        today = local.replace(hour=0, minute=0, second=0, microsecond=0)
        for midnight in (today, today - timedelta(days=1)):
            if midnight.weekday() < _SATURDAY:
                yield midnight, self.day
                yield midnight, self.night
