"""JSON and plain data into typed records, from any thread.

msgspec (0.22) learns what a type is made of when it is first met, and another thread that decodes
the same type meanwhile ends the process with SIGSEGV. So types are learned here alone, one at a time.
"""

from __future__ import annotations

from _thread import allocate_lock  # `threading` brings much that a dry run does not need
from typing import Any, TypeVar

import msgspec

__all__ = ["convert", "decoder"]

_T = TypeVar("_T")
_learned: dict[Any, msgspec.json.Decoder[Any]] = {}
_learning = allocate_lock()


def decoder(kind: type[_T]) -> msgspec.json.Decoder[_T]:
    """Return what decodes JSON into ``kind``; made when it is first asked for."""
    if (learned := _learned.get(kind)) is None:
        with _learning:
            learned = _learned[kind] = msgspec.json.Decoder(kind)
    return learned


def convert(value: object, kind: type[_T], *, strict: bool = True) -> _T:
    """Return ``value``, of plain types or with their attributes, as a ``kind``.

    Raises msgspec.ValidationError for what is none.
    """
    decoder(kind)
    return msgspec.convert(value, kind, strict=strict)
