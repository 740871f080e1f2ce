"""A folder that others leave small files in, for one reader."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from msgspec import Struct

from ctp_runbook.host import files

__all__ = ["FolderMailbox"]

_POLL_SECONDS = 0.1
# A request has some hundred bytes; its reason is typed by hand.
_LONGEST_LETTER_BYTES = 64 << 10


class FolderMailbox(Struct, frozen=True):
    """Letters in a folder, each whole from the moment it is there."""

    folder: Path

    def put(self, name: str, data: bytes) -> None:
        """Leave a letter; it is on disk when this returns. Raises OSError."""
        files.write_atomic(self.folder / name, data)

    def names(self) -> list[str]:
        """Return the letters there are, in their order; drafts have a dot before their name.

        Raises OSError.
        """
        return [name for name in files.names_in(self.folder) if not name.startswith(".")]

    def read(self, name: str) -> bytes:
        """Return what a letter says. Raises OSError, also for what is none by kind or size."""
        return files.read_small(self.folder / name, most=_LONGEST_LETTER_BYTES)

    def remove(self, name: str) -> None:
        """Take a letter away; one that is gone already is no error. Raises OSError."""
        files.remove(self.folder / name)

    def clear(self) -> None:
        """Take everything away, drafts of letters too; what cannot be removed stays."""
        for name in files.names_in(self.folder):
            with contextlib.suppress(OSError):
                files.remove(self.folder / name)

    def wait(self) -> None:
        """Return when a letter may have come: nobody tells that of a folder, so after a moment."""
        time.sleep(_POLL_SECONDS)
