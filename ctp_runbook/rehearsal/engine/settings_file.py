"""Settings of a twin process: a JSON file into a frozen dataclass, unknown names refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ctp_runbook.errors import RunbookError

__all__ = ["load_settings"]

_Settings = TypeVar("_Settings")


def load_settings(kind: type[_Settings], *files: Path) -> _Settings:
    """One ``kind`` out of ``files``, later ones winning; a file that is not there adds nothing.

    The first file must be there. Raises RunbookError for anything that does not fit.
    """
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    values: dict[str, Any] = {}
    for file in files:
        if file is files[0] or file.exists():
            values.update(_read(file, names))
    try:
        return kind(**values)
    except TypeError as error:
        raise RunbookError(f"{files[0]}: {error}; expected the names {sorted(names)}") from error


def _read(file: Path, names: set[str]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunbookError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict) or set(found) - names:
        raise RunbookError(f"{file}: found {found!r}; expected an object of {sorted(names)}")
    return found
