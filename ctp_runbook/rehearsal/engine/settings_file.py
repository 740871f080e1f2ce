"""Settings of a twin process: a JSON file into a frozen record, unknown names refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ctp_runbook.errors import RunbookError

__all__ = ["load_settings"]

_Settings = TypeVar("_Settings", bound=msgspec.Struct)


def load_settings(kind: type[_Settings], *files: Path) -> _Settings:
    """One ``kind`` out of ``files``, later ones winning; a file that is not there adds nothing.

    The first file must be there. Raises RunbookError for anything that does not fit.
    """
    values: dict[str, Any] = {}
    try:
        for file in files:
            if file is files[0] or file.exists():
                values |= msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        return msgspec.convert(values, kind)
    except (OSError, msgspec.MsgspecError) as error:
        names = f"expected the names {sorted(kind.__struct_fields__)}"
        raise RunbookError(f"{', '.join(map(str, files))}: {error}; {names}") from error
