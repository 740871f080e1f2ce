"""Where this package lies on the machine, and what lies beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.errors import RunRefused

__all__ = ["CHECKOUT", "find_config", "find_here", "get_here"]

# The folder that holds the package: what PYTHONPATH must name for another process to import it.
CHECKOUT = Path(__file__).resolve().parents[2]


def find_here(part: str | Path) -> Path | None:
    """``part`` of the working directory, as a relative path, else of the checkout; else None."""
    return next((base / part for base in (Path(), CHECKOUT) if (base / part).exists()), None)


def get_here(part: Path) -> Path:
    """Return what ``find_here`` finds. Raises RunRefused where that is nothing."""
    if place := find_here(part):
        return place
    raise RunRefused(f"{part} is neither here nor in {CHECKOUT}; run in a checkout, or name it")


def find_config(name: str, *, template: Path) -> Path:
    """Return the file beside the template, else ``configs/NAME`` here, else that of the checkout.

    A rehearsal's templates bring their own limits.toml and watch.toml along.
    """
    beside = template.parent / name
    return beside if beside.is_file() else get_here(Path("configs") / name)
