"""Rows that another distribution brings: found by entry point, only when their name is asked for.

Reading what is installed takes tens of milliseconds; no command pays for it whose inputs name
nothing but our own rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ctp_runbook.errors import PlanRefused

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Row", "find_row", "installed_names", "load_named"]


class Row(Protocol):
    """A row of a table that others may add to."""

    @property
    def name(self) -> str:
        """How the row is named by those who use it; an entry point's name, too."""
        ...

    @property
    def performer(self) -> str:
        """``module:function`` of what does the row's work, imported when it is used."""
        ...


_RowT = TypeVar("_RowT", bound=Row)


def installed_names(group: str) -> tuple[str, ...]:
    """Return what installed distributions offer under ``group``, sorted."""
    return tuple(sorted({entry.name for entry in _entries(group)}))


def find_row(group: str, name: str, *, kind: type[_RowT]) -> _RowT | None:
    """Return the row of this name, from whichever distribution brings it; None where nobody does.

    Raises PlanRefused, naming the distribution, for one that is offered twice, does not load, is
    of another type, goes by another name, or whose performer cannot be imported: a plan is the
    last moment to find that out.
    """
    entries = [entry for entry in _entries(group) if entry.name == name]
    if not entries:
        return None
    if len(entries) > 1:
        owners = " and ".join(sorted(map(_owner, entries)))
        raise PlanRefused([f"{name} ({group}) is brought by {owners}; uninstall all but one"])
    row = _loaded(entries[0], entries[0].load)
    if not isinstance(row, kind):
        raise _broken(entries[0], f"it is a {type(row).__name__}, expected a {kind.__name__}")
    if row.name != name:
        raise _broken(entries[0], f"its row is named {row.name!r}, expected {name!r}")
    performer = row.performer
    _loaded(entries[0], lambda: load_named(performer))
    return row


def load_named(dotted: str) -> Any:
    """Import what ``module:name`` names. Raises ImportError, AttributeError or ValueError for nothing."""
    module, joint, name = dotted.partition(":")
    if not (module and joint and name):
        raise ValueError(f"{dotted!r} is no module:name")
    return getattr(importlib.import_module(module), name)


def _entries(group: str) -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return list(entry_points(group=group))


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _loaded(entry: EntryPoint, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        raise _broken(entry, f"{type(error).__name__}: {error}") from error


def _broken(entry: EntryPoint, why: str) -> PlanRefused:
    return PlanRefused(
        [
            f"{entry.name} ({entry.group}) of {_owner(entry)} cannot be used: {entry.value}: {why};"
            " mend that distribution, or uninstall it"
        ]
    )
