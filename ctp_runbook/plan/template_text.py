"""The syntax of template files: bytes in, entries and problems out (CONTRACT §1).

Values are whole bash command lines and are taken literally: no quote removal, no ``$``
expansion, no inline comments. What a key means is not known here; see template_keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ctp_runbook.env_text import read_env
from ctp_runbook.errors import Problem

__all__ = [
    "Entry",
    "TemplateText",
    "parse_template",
    "placeholders",
    "printable",
    "quoted",
    "read_template",
    "read_variables",
]

_LARGEST_TEMPLATE_BYTES = 1 << 20
_MOST_SYNTAX_PROBLEMS = 200
_LONGEST_QUOTE = 80
_MOST_TOLD = 5  # of an env file's lines, in one sentence
# Other white space, such as a no-break space, is no blank to bash and stays in the value.
_BLANKS = " \t"
_BOM = b"\xef\xbb\xbf"

# C0 and C1 controls, and what reorders or breaks a line on screen without being seen.
_FORBIDDEN = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_OBEYED = rf"(?![\n\t]){_FORBIDDEN}"
_KEY_WORD = r"[A-Z][A-Z0-9_]{0,79}\b"
# Not ``<<EOF>file`` (a here-document); ``<file`` and ``a < b > c`` do not match anyway.
_PLACEHOLDER = r"(?<!<)<\w[\w-]*>"


class Entry(Struct, frozen=True):
    """One ``KEY=VALUE`` of a template; ``line`` counts from 1."""

    key: str
    value: str
    file: str
    line: int

    def problem(self, *, found: str, expected: str, remedy: str, nearest: str = "") -> Problem:
        """Return what is wrong with this line, with the line."""
        return Problem(self.file, self.line, self.key, found, expected, remedy, nearest)


class TemplateText(Struct, frozen=True):
    """A template as it was read."""

    file: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def placeholders(value: str) -> tuple[str, ...]:
    """Return the placeholders ``<name>`` left in a value, each once, in order."""
    return tuple(dict.fromkeys(re.findall(_PLACEHOLDER, value))) if "<" in value else ()


def printable(text: str) -> str:
    """Escape what a terminal or a page would obey and not show, but for line ends and tabs; and what
    is no text at all, as a name of another encoding."""
    if text.isprintable():
        return text
    text = text.encode(errors="backslashreplace").decode()
    return re.sub(_OBEYED, lambda match: f"\\x{ord(match.group()):02x}", text)


def quoted(text: str) -> str:
    """Put ``text`` in quotes for a sentence: control characters escaped, cut when long."""
    shown = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
    if not shown.isprintable():
        shown = re.sub(_FORBIDDEN, lambda match: f"\\x{ord(match.group()):02x}", shown)
    return f"'{shown}'"


def read_template(path: Path, *, flag: str) -> TemplateText:
    """Read and parse ``path``; a file that cannot be read is a problem of its own.

    ``flag`` is the option that named the file, for the sentence an operator reads.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST_TEMPLATE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return _unreadable(file, flag, f"a file that cannot be read ({reason})")
    if len(raw) > _LARGEST_TEMPLATE_BYTES:
        return _unreadable(file, flag, f"more than {_LARGEST_TEMPLATE_BYTES} bytes")
    return parse_template(raw, file=file)


def _unreadable(file: str, flag: str, found: str) -> TemplateText:
    problem = Problem(
        file=file,
        line=0,
        key=flag,
        found=found,
        expected="a template of KEY=VALUE lines",
        remedy=f"name an existing template with {flag}",
    )
    return TemplateText(file=file, entries=(), problems=(problem,))


def parse_template(raw: bytes, *, file: str) -> TemplateText:
    """Split ``raw`` into entries; never raises, whatever the bytes are."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, line in enumerate(raw.removeprefix(_BOM).split(b"\n"), start=1):
        if len(problems) >= _MOST_SYNTAX_PROBLEMS:
            problems.append(_gave_up(file, number))
            break
        for item in _read_line(line.removesuffix(b"\r"), file, number):
            if isinstance(item, Entry):
                entries.append(item)
            else:
                problems.append(item)
    return TemplateText(file=file, entries=tuple(entries), problems=tuple(problems))


def _gave_up(file: str, line: int) -> Problem:
    return Problem(
        file=file,
        line=line,
        key="(file)",
        found=f"{_MOST_SYNTAX_PROBLEMS} lines that cannot be read before this one",
        expected="a template of KEY=VALUE lines",
        remedy="check that this is the file you meant; the rest of it was not read",
    )


def _read_line(line: bytes, file: str, number: int) -> Iterator[Entry | Problem]:
    """The entry of a line, or what is wrong with it; nothing for blanks and comments."""
    if not line.strip(b" \t") or line.startswith(b"#"):
        return
    text = line.decode("utf-8", errors="backslashreplace")
    name, equals, value = text.partition("=")
    key, value = name.strip(_BLANKS), value.strip(_BLANKS)
    problem = _line_problem(line, text, key, equals, value)
    if problem is None:
        yield Entry(key=key, value=value, file=file, line=number)
        return
    found, expected, remedy = problem
    yield Problem(file, number, _shown_key(key), found=found, expected=expected, remedy=remedy)


def _shown_key(key: str) -> str:
    """The key-like word a line begins with; never a whole line, which may hold a secret."""
    word = re.match(_KEY_WORD, key)
    return word.group() if word else "(no key)"


def _line_problem(
    line: bytes, text: str, key: str, equals: str, value: str
) -> tuple[str, str, str] | None:
    """Found, expected and remedy of the first thing wrong with a line's characters."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        found = f"byte 0x{byte:02x} at column {error.start + 1}, which is not UTF-8"
        return found, "UTF-8 text", "save the file as UTF-8"
    if not equals:
        return "a line without '='", "KEY=VALUE, or # for a comment", "mend or delete the line"
    if not key:
        return "no key before '='", "KEY=VALUE", "write the key, or delete the line"
    if text.isprintable():  # none of them is: nothing has to be looked for
        return None
    control = re.search(_FORBIDDEN, key) or re.search(_FORBIDDEN, value)
    if control is not None:
        column = text.find(control.group()) + 1
        found = f"control character U+{ord(control.group()):04X} at column {column}"
        return found, "printable characters only", "delete the character (a tab: use a space)"
    return None


def read_variables(path: Path, *, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an env file as compose and bash read it; raises OSError or ValueError.

    Not a template: see env_text, which says what is refused, by line.
    """
    with path.open("rb") as stream:
        raw = stream.read(_LARGEST_TEMPLATE_BYTES + 1)
    if len(raw) > _LARGEST_TEMPLATE_BYTES:
        raise ValueError(f"more than {_LARGEST_TEMPLATE_BYTES} bytes, expected NAME=value lines")
    read = read_env(raw, environ=environ)
    if read.problems:
        more = len(read.problems) - _MOST_TOLD
        sentences = [*read.problems[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else ())]
        raise ValueError("; ".join(sentences))
    return read.values
