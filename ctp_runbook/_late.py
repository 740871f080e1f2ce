"""What is imported when it is first asked for, so that starting costs what the start needs.

A command needs few of the names a room offers, and ``--help`` none: importing a room costs nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

__all__ = ["LateModule", "import_msgspec", "late", "uncollected"]


def late(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` (PEP 562) for ``homes``: each name, and its module in ``room``."""

    def find(name: str) -> Any:
        if name not in homes:  # the import system asks for submodules by this error
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{room}.{homes[name]}"), name)

    return find


def import_msgspec() -> None:
    """Import msgspec without what it never asks here: to a start that is a third of its time.

    It is content with typing where there is no typing_extensions. Of platform, uuid wants the name
    of this system; of textwrap, only the making of schemas wants something, later.
    """
    stand_ins: dict[str, Any] = {
        "typing_extensions": None,  # "there is none"
        "platform": SimpleNamespace(system=lambda: os.uname().sysname),
        "textwrap": LateModule("textwrap"),
    }
    absent = stand_ins.keys() - sys.modules.keys()
    sys.modules.update({name: stand_ins[name] for name in absent})
    try:
        with uncollected():
            import msgspec  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """Import and read without looking for garbage: what a start makes stays until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class LateModule:
    """Stands for a module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def import_now(self) -> None:
        """Import it, before it is needed and can no longer be had."""
        import importlib

        importlib.import_module(self._name)

    def __getattr__(self, name: str) -> Any:
        """Whatever the module has by that name."""
        import importlib

        return getattr(importlib.import_module(self._name), name)
