"""What a parameter may be: of its declared type, or refused by name, value and remedy.

papermill makes a bool of ``True`` and ``False`` alone, None of ``None`` and a number of what looks
like one. ``false``, ``no``, ``off`` and ``null`` stay text, and to Python text is true. So nothing
is converted here and no spelling is taken for another: what is not of its type is a problem, and
a word that only answers yes or no is neither a path nor a reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook.errors import Problem
from ctp_runbook.plan.template_keys import nearest_name
from ctp_runbook.redact import Redactor

__all__ = [
    "choice",
    "flag",
    "of_type",
    "path",
    "placed",
    "reason",
    "reasons",
    "text",
    "undeclared",
]

_LONGEST_VALUE = 80
# What Linux takes for a path, and for one name in it; both in bytes.
_LONGEST_PATH, _LONGEST_NAME = 4095, 255
# What people write for yes, no and nothing, in YAML, SQL, Python and by hand.
_YES = ("true", "yes", "on", "y", "t", "1")
_NO = ("false", "no", "off", "n", "f", "0")
_NOTHING = ("null", "none", "nil", "nan", "na", "n/a", "undefined", "~", "-")
_ANSWERS = frozenset(_YES + _NO + _NOTHING)


class _Type(Struct, frozen=True):
    """A type as the ``parameters`` cell of a notebook may declare it."""

    words: str
    fits: Callable[[object], bool]
    remedy: str


_TYPES: Mapping[str, _Type] = {
    "bool": _Type(
        "True or False (bool)",
        lambda value: type(value) is bool,
        "pass `-p {name} False` or `-p {name} True`: papermill leaves false, no, off, 0 and null "
        "as text or numbers, which are neither",
    ),
    "str": _Type(
        "text (str)",
        lambda value: isinstance(value, str),
        "pass `-r {name} VALUE`, which papermill leaves as text, or leave it out",
    ),
    # To Python, True is an int.
    "int": _Type(
        "a whole number (int)",
        lambda value: isinstance(value, int) and not isinstance(value, bool),
        "pass `-p {name} NUMBER`",
    ),
    "float": _Type(
        "a number (float)",
        lambda value: isinstance(value, float | int) and not isinstance(value, bool),
        "pass `-p {name} NUMBER`",
    ),
    "None": _Type("None", lambda value: value is None, "pass `-p {name} None`"),
}


# --- types ------------------------------------------------------------------------


def of_type(name: str, value: object, *, declared: str) -> Iterator[Problem]:
    """Yield the problem with a value that is not of the type ``declared``: ``bool``, ``str | None``.

    A type that is not known here takes anything.
    """
    types = [_TYPES.get(part.strip(" '\"")) for part in declared.split("|")]
    known = [kind for kind in types if kind is not None]
    if len(known) < len(types) or any(kind.fits(value) for kind in known):
        return
    words = " or ".join(kind.words for kind in known)
    yield _problem(name, value, expected=words, remedy=known[0].remedy.format(name=name))


def flag(name: str, value: object) -> Iterator[Problem]:
    """Yield the problem with what is neither True nor False itself."""
    return of_type(name, value, declared="bool")


def text(name: str, value: object) -> Iterator[Problem]:
    """Yield the problem with what is not text; blank is text."""
    return of_type(name, value, declared="str")


# --- meanings ---------------------------------------------------------------------


def path(name: str, value: object, *, blank: str = "") -> Iterator[Problem]:
    """Yield the problem with what names no file or directory; a Path does as well as text.

    ``blank`` says what the empty text means, where it may be left out.
    """
    expected = f"a path (str), or nothing for {blank}" if blank else "the path of a file (str)"
    remedy = f"pass `-p {name} PATH`" + (", or leave it out" if blank else "")
    if not isinstance(value, str | Path):
        remedy += f"; for a name that papermill reads as something else, `-p {name} ./NAME`"
        yield _problem(name, value, expected=expected, remedy=remedy)
        return
    shown = str(value)
    if (not shown.strip() and not (blank and shown == "")) or not _can_be_named(shown):
        yield _problem(name, value, expected=expected, remedy=remedy)
    elif isinstance(value, str) and _is_answer(shown):
        remedy += f"; for a file or directory of that name, `-p {name} ./{shown.strip()}`"
        yield _problem(name, value, expected=expected, remedy=remedy)


def _can_be_named(path: str) -> bool:
    """Return True for what a file can be called, here and in a record, which is UTF-8."""
    try:
        name = path.encode()
    except UnicodeEncodeError:
        return False
    is_short = len(name) <= _LONGEST_PATH and max(map(len, name.split(b"/"))) <= _LONGEST_NAME
    return is_short and b"\0" not in name


def reason(name: str, value: object) -> Iterator[Problem]:
    """Yield the problem with what gives no reason; blank gives none, and that is allowed."""
    wrong = [*text(name, value)]
    yield from wrong
    if isinstance(value, str) and (_is_answer(value) or _is_number(value)):
        yield _problem(
            name,
            value,
            expected="the reason in words, or nothing",
            remedy="leave it out to accept nothing, or say why it is to be accepted",
        )


def reasons(name: str, value: object, *, known: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the problems of a table of reasons by name; None is an empty one."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        table = f"a table of reasons (str) by name: {', '.join(known)}"
        yield _problem(name, value, expected=table, remedy="pass such a table, or leave it out")
        return
    for key, held in value.items():
        yield from reason(key, held) if key in known else [_unknown(name, key, known)]


def _unknown(name: str, key: object, known: tuple[str, ...]) -> Problem:
    expected, remedy = f"one of {', '.join(known)}", "correct its name"
    wrong = _problem(name, key, expected=expected, remedy=remedy)
    return wrong._replace(nearest=nearest_name(key, known) if isinstance(key, str) else "")


def choice(name: str, value: object, *, known: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the problem with what is none of the words in ``known``."""
    if not isinstance(value, str) or value not in known:
        yield _problem(name, value, expected=f"one of {', '.join(known)}", remedy="name one")


def undeclared(names: Iterable[str], *, known: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the problem with each name that was passed and that no notebook declares."""
    for name in names:
        wrong = Problem(
            "",
            0,
            f"parameter {name}",
            "a name that is not declared",
            f"one of {', '.join(known)}",
            "correct its name",
        )
        yield wrong._replace(nearest=nearest_name(name, known))


def _is_answer(word: str) -> bool:
    return word.strip(" \t\r\n'\"").casefold() in _ANSWERS


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# --- sentences --------------------------------------------------------------------


def placed(problems: Iterable[Problem], *, where: str, redactor: Redactor) -> list[Problem]:
    """Return the problems as those of ``where``, a notebook say, with no secret in the values shown."""
    # Cut after masking: half a secret is not recognised any more.
    return [
        problem._replace(file=where, found=_cut(redactor(problem.found))) for problem in problems
    ]


def _cut(shown: str) -> str:
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 1] + "…"


def _problem(name: str, value: object, *, expected: str, remedy: str) -> Problem:
    return Problem("", 0, f"parameter {name}", _found(value), expected, remedy)


def _found(value: Any) -> str:
    """The value as it was read: ``text 'false'``, ``number 0``, ``None``."""
    if value is None or isinstance(value, bool):
        return repr(value)
    for kinds, word in _KINDS:
        if isinstance(value, kinds):
            # A number of five thousand digits and a list that is nested without end have no repr.
            with contextlib.suppress(ValueError, RecursionError):
                return f"{word} {value!r}"
    return f"an object of type {type(value).__name__}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    ((int, float), "number"),
    ((list, tuple, set, frozenset), "list"),
    (Mapping, "table"),
)
