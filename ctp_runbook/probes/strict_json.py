"""One JSON object from a command, strictly: what two readers could read in two ways is refused.

`json` alone takes the last of two equal keys, NaN for a number, 1e999 for infinity, and ends the
caller with another error for each odd thing. Here all of it is a ProbeError. And short words for
a value that is not what it should be.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from ctp_runbook.errors import ProbeError

__all__ = ["LARGEST_WHOLE", "LONGEST_SHOWN", "Document", "decode_object", "keys_of", "shown"]

LARGEST_WHOLE = 2**63
LONGEST_SHOWN = 80
_SHOWN_KEYS = 6
# Ten thousand orders take less; more is no answer but a command gone wrong.
_OUTPUT_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class Document:
    """One object, and the numbers in it that JSON does not have, as they were written."""

    fields: dict[str, Any]
    not_numbers: tuple[str, ...]


def decode_object(output: bytes, *, subject: str) -> Document:
    """Return the one object in ``output``; ``subject`` says whose output it is, in the error.

    Raises ProbeError, and nothing else.
    """
    if len(output) > _OUTPUT_LIMIT_BYTES:
        raise ProbeError(
            f"{subject}: more than {_OUTPUT_LIMIT_BYTES >> 20} MiB of output, expected one object"
        )
    odd: list[str] = []
    number = partial(_number, odd=odd)
    try:
        # A byte order mark is not the object's; UTF-16, which `json` would guess, is refused.
        value = json.loads(
            output.decode("utf-8-sig"),
            object_pairs_hook=_without_duplicates,
            parse_constant=number,
            parse_float=number,
        )
    except RecursionError as error:
        raise ProbeError(f"{subject}: not JSON that can be read: nested too deeply") from error
    except (ValueError, MemoryError) as error:
        raise ProbeError(f"{subject}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProbeError(f"{subject}: not a JSON object: found {shown(value)}")
    return Document(value, tuple(odd))


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
