"""The number of the format that journal, run.json, samples and manifest of a run are written in."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ctp_runbook.errors import JournalError

__all__ = ["FORMAT", "FormatOf", "check_format"]

FORMAT = 1


class FormatOf(Struct):
    """No more of a document than the format it names."""

    format: Any = None


def check_format(number: Any, what: str) -> None:
    """Refuse another format than this version's. Raises JournalError naming both."""
    if number is None:
        raise JournalError(
            f"{what} without a format number: it is of a version before format {FORMAT}; read it "
            "with the version that wrote it, or name another run by --run"
        )
    if number != FORMAT or isinstance(number, bool):
        raise JournalError(
            f"{what} of format {number!r}; this version of ctp_runbook reads format {FORMAT}: read "
            "it with the version that wrote it, or a later one"
        )
