"""JSON from outside, strictly: what two readers could read in two ways is refused.

`json` alone takes the last of two equal keys, NaN for a number, 1e999 for infinity, and ends the
caller with another error for each odd thing. Here all of it is a ProbeError. What is read is
bounded in size and in depth, so that whoever walks it, or writes it down, needs no guard of its
own. And short words for a value that is not what it should be.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from ctp_runbook.errors import ProbeError

__all__ = [
    "LARGEST_WHOLE",
    "LONGEST_ANSWER_BYTES",
    "LONGEST_SHOWN",
    "Document",
    "decode_answer",
    "decode_json",
    "decode_object",
    "keys_of",
    "shown",
]

LARGEST_WHOLE = 2**63
LONGEST_SHOWN = 80
_SHOWN_KEYS = 6
# Ten thousand orders take less; more is no answer but a command gone wrong.
_OUTPUT_LIMIT_BYTES = 4 << 20
# What a service is asked here is answered in some KiB. Small objects take fifty times their text.
LONGEST_ANSWER_BYTES = 2 << 20
_MOST_PARTS = 100_000
# A trading state has 4 levels, and no answer that is asked for here 10. The limit is far below
# what `json` stops at, which depends on how deep the caller stands itself.
_DEEPEST = 64
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True)
class Document:
    """One object, and the numbers in it that JSON does not have, as they were written."""

    fields: dict[str, Any]
    not_numbers: tuple[str, ...]


def decode_object(
    output: bytes, *, subject: str, most_bytes: int = _OUTPUT_LIMIT_BYTES
) -> Document:
    """Return the one object in ``output``; ``subject`` says whose output it is, in the error.

    Raises ProbeError, and nothing else.
    """
    value, odd = decode_json(output, subject=subject, most_bytes=most_bytes)
    if not isinstance(value, dict):
        raise ProbeError(f"{subject}: not a JSON object: found {shown(value)}")
    return Document(value, odd)


def decode_json(
    output: bytes, *, subject: str, most_bytes: int = _OUTPUT_LIMIT_BYTES
) -> tuple[Any, tuple[str, ...]]:
    """Return the one value in ``output``, and the numbers in it that JSON does not have.

    Raises ProbeError, and nothing else.
    """
    if len(output) > most_bytes:
        raise ProbeError(
            f"{subject}: more than {_size(most_bytes)} of output, expected one JSON value"
        )
    if _is_deep(output):
        raise ProbeError(
            f"{subject}: not JSON that can be read: nested too deeply, more than {_DEEPEST} levels"
        )
    odd: list[str] = []
    number = partial(_number, odd=odd)
    try:
        # A byte order mark is not the value's; UTF-16, which `json` would guess, is refused.
        value = json.loads(
            output.decode("utf-8-sig"),
            object_pairs_hook=_without_duplicates,
            parse_constant=number,
            parse_float=number,
        )
    # RecursionError: the caller stands so deep itself that not even this much is left.
    except (ValueError, MemoryError, RecursionError) as error:
        raise ProbeError(f"{subject}: not JSON: {error}{_as_printed(output)}") from error
    return value, tuple(odd)


def decode_answer(body: bytes, *, subject: str) -> Any:
    """Return the one value a peer answered; what cannot be shown or counted with is refused.

    Raises ProbeError, and nothing else.
    """
    if body.count(b"{") + body.count(b"[") > _MOST_PARTS:
        raise ProbeError(f"{subject}: not JSON that was asked for: more than {_MOST_PARTS} parts")
    value, odd = decode_json(body, subject=subject, most_bytes=LONGEST_ANSWER_BYTES)
    if odd:
        raise ProbeError(f"{subject}: not JSON: {odd[0]} is no number of it")
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            # No file and no terminal could show it.
            raise ProbeError(f"{subject}: not JSON: half a character in a text") from error
    return value


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


def _is_deep(output: bytes) -> bool:
    """Return True where brackets outside strings stand more than ``_DEEPEST`` deep."""
    if output.count(b"[") + output.count(b"{") <= _DEEPEST:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(output):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _as_printed(output: bytes) -> str:
    """What was printed instead, whole where it is short: a part of it could show half a secret."""
    text = output.decode(errors="backslashreplace").strip()
    return f"; it printed {shown(text)}" if text else "; it printed nothing"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        # Which of the two is meant, nobody can say; `json` alone would take the last.
        raise ValueError(f"key {shown(twice)} stands more than once in one object")
    return fields


def _number(text: str, *, odd: list[str]) -> float:
    """Return a number as written; NaN, an infinity and 1e999 go to ``odd``, too."""
    value = float(text)
    if not math.isfinite(value):
        odd.append(text[:LONGEST_SHOWN])
    return value


def keys_of(fields: Mapping[str, Any]) -> str:
    """Return the first keys of an object, in words."""
    if not fields:
        return "no keys"
    names = ", ".join(shown(name) for name in islice(fields, _SHOWN_KEYS))
    return f"the keys {names}{', …' if len(fields) > _SHOWN_KEYS else ''}"


def shown(value: object) -> str:
    """Return a short value as JSON has it; a long one by its size.

    Never a part of it: cut anywhere, it could show half a secret, which nobody masks.
    """
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"a text of {len(value)} characters"
    if isinstance(value, int) and not -LARGEST_WHOLE < value < LARGEST_WHOLE:
        return "a whole number beyond 64 bits"
    # Escaped where it cannot be shown, so that the sentence itself can always be written.
    is_plain = isinstance(value, str) and value.isprintable()
    return json.dumps(value, ensure_ascii=not is_plain)
