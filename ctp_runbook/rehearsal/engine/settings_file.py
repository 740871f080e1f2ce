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
    values: dict[str, Any] = {}
    try:
        for file in files:
            if file is files[0] or file.exists():
                values |= json.loads(file.read_bytes())
        return kind(**values)
    except (OSError, ValueError, TypeError) as error:
        names = sorted(each.name for each in fields(kind))  # type: ignore[arg-type]  # a dataclass
        where = ", ".join(map(str, files))
        raise RunbookError(f"{where}: {error}; expected an object of {names}") from error
