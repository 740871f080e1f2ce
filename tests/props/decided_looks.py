"""The sequential test over columns of looks, for tests that make them up."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, structs

from ctp_runbook.watch.sequential import ShareState, ShareTest, begin, take_look

__all__ = ["Decided", "decide"]


class Decided(Struct, frozen=True):
    """``evidence`` after each look (natural logarithm of the wealth), the look that rejects the claim,
    as a place in the columns, and what the next look needs; None before the first."""

    state: ShareState | None
    evidence: tuple[float, ...]
    rejected_row: int | None

    @property
    def rejected(self) -> bool:
        """True once a look, of these or before, has rejected the claim."""
        return self.state is not None and self.state.rejected_at is not None


def decide(
    test: ShareTest,
    seconds: Iterable[float],
    events: Iterable[int],
    over: Iterable[int],
    state: ShareState | None = None,
) -> Decided:
    """Take looks in: when (seconds, monotonic), how many orders came since the look before, and how
    many of them were over the limit.

    Looks one by one, each with the state after the last, give what all of them at once give.
    """
    now = None if state is None else structs.replace(state)
    evidence: list[float] = []
    rejected_row = None
    for row, (at, came, slow) in enumerate(zip(seconds, events, over, strict=True)):
        now = now or begin(test, float(at))
        was_rejected = now.rejected_at is not None
        evidence.append(take_look(test, now, float(at), int(came), int(slow)))
        if now.rejected_at is not None and not was_rejected:
            rejected_row = row
    return Decided(now, tuple(evidence), rejected_row)
