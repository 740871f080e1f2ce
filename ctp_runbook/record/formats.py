"""The number of the format that journal, run.json, samples and manifest of a run are written in, and
the one way in which JSON is decoded into a type."""

from __future__ import annotations

from _thread import allocate_lock  # a dry run has no time for threading
from functools import cache
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.json import Decoder

from ctp_runbook.errors import JournalError

__all__ = ["FORMAT", "FormatOf", "check_format", "decode"]

FORMAT = 1
_Type = TypeVar("_Type")
# msgspec (0.22) shows what it makes of a Struct to other threads before it is whole, and two that
# decode one for the first time end the process by SIGSEGV: so they are made one after the other.
_MAKING = allocate_lock()


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


def decode(data: bytes | str, kind: type[_Type]) -> _Type:
    """JSON as a value of this type, by any number of threads. Raises msgspec's DecodeError, a ValueError."""
    value: _Type = _decoder(kind).decode(data)  # type: ignore[arg-type]  # a class is hashable
    return value


@cache
def _decoder(kind: type[Any]) -> Decoder[Any]:
    with _MAKING:
        return Decoder(kind)
