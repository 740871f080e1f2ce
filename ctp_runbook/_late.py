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

__all__ = [
    "LateModule",
    "import_msgspec",
    "import_pathlib",
    "late",
    "standing_in",
    "uncollected",
]


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
    of this system. What describes types, and makes schemas of them, is imported when it is asked.
    """
    schemas = "msgspec._json_schema"
    with (
        standing_in(
            {
                "typing_extensions": None,  # "there is none"
                "platform": SimpleNamespace(system=lambda: os.uname().sysname),
                "msgspec.inspect": LateModule("msgspec.inspect"),
                schemas: _late_functions(schemas, "schema", "schema_components"),
            }
        ),
        uncollected(),
    ):
        import msgspec  # noqa: F401


def import_pathlib() -> None:
    """Import pathlib without urllib.parse and ipaddress, of which it wants one function, for URIs."""
    parse = "urllib.parse"
    with standing_in({parse: _late_functions(parse, "quote_from_bytes")}):
        import pathlib  # noqa: F401


@contextmanager
def standing_in(stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """Put these in the place of modules that are not loaded yet, for as long as something is imported;
    None says of a module that there is none."""
    absent = stand_ins.keys() - sys.modules.keys()
    sys.modules.update({name: stand_ins[name] for name in absent})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _late_functions(module: str, *names: str) -> SimpleNamespace:
    """Stand for a module of which these functions are taken and called later."""

    def function(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(LateModule(module), name)(*args, **kwargs)

    return SimpleNamespace(**{name: function(name) for name in names})


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

    # The import system asks whether it is still being imported; it would be, for the answer.
    __spec__ = None

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
