"""What is asked of a figure; a script with a figure over its bar ends with 1."""

from __future__ import annotations

import sys

__all__ = ["exit_code", "judged", "print_judged"]

_over: list[str] = []


def judged(value: float, bar: float, unit: str) -> str:
    """Return ``within 16 MiB`` or ``OVER 16 MiB``, and keep which."""
    said = f"{'within' if value <= bar else 'OVER'} {bar:g} {unit}"
    if value > bar:
        _over.append(said)
    return said


def print_judged(name: str, told: str, value: float, bar: float, unit: str) -> None:
    """Print a row: what was measured, and whether it is within its bar."""
    print(f"{name:10} {told} ({judged(value, bar, unit)})")


def exit_code() -> int:
    """Return what to end with: 1 where a figure was over its bar; ``--quick`` judges nothing."""
    return int(bool(_over) and "--quick" not in sys.argv)
