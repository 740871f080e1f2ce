"""Where the configuration and the notebooks are: in the working directory, else the checkout."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.checkout import CHECKOUT, find_here

__all__ = ["find_config", "find_notebooks"]


def find_config(name: str, *, template: Path) -> Path:
    """The file beside the template, else ``configs/NAME`` here, else that of the checkout.

    A rehearsal's templates bring their own limits.toml and watch.toml along.
    """
    beside = template.parent / name
    return beside if beside.is_file() else _find(Path("configs") / name)


def find_notebooks() -> Path:
    """The directory of the seven notebooks."""
    return _find(Path("notebooks"))


def _find(path: Path) -> Path:
    if found := find_here(path):
        return found
    raise RunRefused(f"{path} is neither here nor in {CHECKOUT}; run in a checkout, or name it")
