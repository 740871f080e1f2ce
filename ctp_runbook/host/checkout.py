"""Where this package lies on the machine, and what lies beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CHECKOUT", "find_here"]

# The folder that holds the package: what PYTHONPATH must name for another process to import it.
CHECKOUT = Path(__file__).resolve().parents[2]


def find_here(part: str | Path) -> Path | None:
    """``part`` of the working directory, as a relative path, else of the checkout; else None."""
    return next((base / part for base in (Path(), CHECKOUT) if (base / part).exists()), None)
