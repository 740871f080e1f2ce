"""The names a room offers, each imported when it is first asked for.

A command needs few of them, and ``--help`` none: importing a room costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LateModule", "late"]


def late(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562) for ``homes``: each name, and its module in ``room``."""

    def find(name: str) -> Any:
        if name not in homes:  # the import system asks for submodules by this error
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{room}.{homes[name]}"), name)

    return find


class LateModule:
    """Stands for a module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Whatever the module has by that name."""
        import importlib

        return getattr(importlib.import_module(self._name), name)
