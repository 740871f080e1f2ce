"""Env files as docker compose and bash read them (``infra/env/``), where both read the same.

``--env-file`` of compose and ``set -a; . FILE`` of bash share most of a syntax and differ in the
rest: ``a$$b`` is ``a$b`` to one and a process id to the other. A line is read where both make one
value of it, and refused by its number where they do not: nobody then logs in with another password
than the container has. No library reads so: python-dotenv agrees with neither. Templates are another
file, taken literally (CONTRACT §1, plan/template_text).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

__all__ = ["EnvText", "read_env"]

# Most lines are of this kind, and mean the same to everybody.
_PLAIN = r"([A-Za-z_]\w*)=([\w.,/:@%+-]*)"
_NAME = r"[ \t]*(export[ \t]+)?([A-Za-z_]\w*)="
_DOUBLE_QUOTED = r'"((?:[^"\\]|\\.)*+)"'
_REST_OF_LINE = r"[ \t]*(?:[ \t]#[^\n]*)?(?=\n|\Z)"
# What stands between ordinary characters: an escape, a variable, or what one of the two cannot take.
# A dollar before a blank or one of these signs is a dollar.
_PART = r"\\(.)|\$(\w++)(?![^\x00-\x7f])|\$\{([A-Za-z_]\w*)\}|(\$(?=[ \t%,./:=+^]|\Z))|([$`\\])"
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]"
# Compose makes a control character of these; bash leaves them, or drops the line's end.
_ESCAPES_OF_ONE = "abcfnrtv0`\n"
# Bash sets these itself, or lets nobody set them; every BASH… too.
# fmt: off
_OWN_OF_BASH = frozenset((
    "COMP_WORDBREAKS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "GROUPS",
    "HISTCMD", "IFS", "LINENO", "OLDPWD", "OPTIND", "PIPESTATUS", "POSIXLY_CORRECT", "PPID",
    "PWD", "RANDOM", "SECONDS", "SHELLOPTS", "SHLVL", "SRANDOM", "UID", "_",
))
# fmt: on


class EnvText(Struct, frozen=True):
    """An env file as it was read.

    ``problems`` are sentences, by line, of what compose and bash read differently, or not at all.
    ``guesses`` are names and possible values of such lines, for whoever masks: no value to use.
    """

    values: dict[str, str]
    problems: tuple[str, ...] = ()
    guesses: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<EnvText of {len(self.values)} variables>"  # it holds secrets


class _Refused(Exception):
    """A line that compose and bash read differently; the message says where they part."""


def read_env(data: bytes, *, environ: Mapping[str, str]) -> EnvText:
    """Read an env file; never raises, whatever the bytes are.

    ``environ`` is what ``${NAME}`` may mean beside the lines above it.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    guesses: list[tuple[str, str]] = []
    text = data.decode("utf-8", "surrogateescape")
    if text.startswith("\ufeff"):
        problems.append(
            "line 1: a byte order mark, which bash takes for a part of the first word; save the "
            "file as UTF-8 without it (sed -i '1s/^\\xef\\xbb\\xbf//' FILE)"
        )
        text = text[1:]
    position, number, plain = 0, 1, re.compile(_PLAIN, re.ASCII)
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end]
        if (match := plain.fullmatch(line)) and not _is_own_of_bash(match[1]):
            values[match[1]] = match[2]
        elif line.strip(" \t") and not line.lstrip(" \t").startswith("#"):
            try:
                name, value, end = _statement(text, position, values, environ)
                values[name] = value
            except _Refused as refused:
                key, _, rest = line.partition("=")
                name = key.strip().removeprefix("export").strip()
                # Anything else may be a line of a secret.
                shown = f"{name}: " if re.fullmatch("[A-Z_][A-Z0-9_]{0,79}", name) else ""
                reason = _strange("\r") if line.endswith("\r") else refused
                problems.append(f"line {number}: {shown}{reason}")
                guesses += [(name, guess) for guess in _guesses(rest)]
        elif "\0" in line:
            problems.append(f"line {number}: a NUL character; delete it")
        number += text.count("\n", position, end + 1)
        position = end + 1
    return EnvText(values, tuple(problems), tuple(guesses))


def _statement(
    text: str, start: int, values: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[str, str, int]:
    """Return name, value and the end of the line it ends on. Raises _Refused."""
    head = re.compile(_NAME, re.ASCII).match(text, start)
    if head is None:
        raise _Refused("no NAME=value; a comment begins with #")
    if _is_own_of_bash(head[2]):
        raise _Refused("a variable that bash sets itself; take another name")
    begin = head.end()
    if text.startswith(("'", '"'), begin):
        raw, end = _quoted(text, begin)
        value = raw if text[begin] == "'" else _expanded(raw, values, environ)
    else:
        end = _line_end(text, begin)
        raw = _bare(text[begin:end], exported=bool(head[1]))
        value = _expanded(raw, values, environ)
    # Of what can be printed nothing is one.
    if not raw.isprintable() and (control := re.search(_CONTROL, raw)):
        raise _Refused(_strange(control[0]))
    return head[2], value, end


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _strange(char: str) -> str:
    if "\ud800" <= char <= "\udfff":
        return f"byte 0x{ord(char) - 0xDC00:02x}, which is not UTF-8; save the file as UTF-8"
    if char == "\r":
        return "a carriage return (CRLF), which is part of the line to bash; sed -i 's/\\r$//' FILE"
    return f"control character U+{ord(char):04X}; delete it"


def _quoted(text: str, begin: int) -> tuple[str, int]:
    """Return what stands in the quotes that begin here, and the end of their last line."""
    if text[begin] == "'":
        match = re.compile(r"'([^']*+)'").match(text, begin)
        if match and match[1].endswith("\\"):
            raise _Refused(
                "a backslash before the closing ', which compose takes for \\': use double quotes"
            )
    else:
        match = re.compile(_DOUBLE_QUOTED, re.DOTALL).match(text, begin)
    if match is None:
        raise _Refused(f"a quote {text[begin]} that does not end")
    rest = re.compile(_REST_OF_LINE).match(text, match.end())
    if rest is None:
        raise _Refused(
            "something behind the closing quote; put the whole value in quotes, and a blank "
            "before #"
        )
    return match[1], rest.end()


def _bare(rest: str, *, exported: bool) -> str:
    """Return a value without quotes, without the comment behind it."""
    value, comment, _ = rest.partition(" #")
    value = value.rstrip(" \t")
    if comment and not value:
        raise _Refused("nothing but a comment, which compose takes for the value: write ''")
    # In the words of `export` bash expands braces too.
    taken = re.search(
        r"""[\s;&|<>()'"\\]""" + ("|[{}]" if exported else ""), re.sub(r"\$\{\w+\}", "$", value)
    )
    if taken:
        raise _Refused(f"{taken[0]!r} without quotes around the value: put it in '…'")
    if re.search("(?:^|[:=])~", value):
        raise _Refused("'~', which is a home folder to bash alone: put the value in '…'")
    return value


def _expanded(raw: str, values: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return a value, in double quotes or none, with its escapes and variables replaced."""

    def part(match: re.Match[str]) -> str:
        escaped, named, braced, dollar, taken = match.groups()
        if escaped:
            if escaped in _ESCAPES_OF_ONE:
                raise _Refused(f"a backslash before {escaped!r}, which one alone replaces: use '…'")
            return str(escaped if escaped in '"\\$' else match[0])
        if dollar:
            return "$"
        if taken or (named and named[0].isdigit()):
            sign = {"`": "'`'", "\\": "a backslash at the end"}.get(taken, "'$'")
            raise _Refused(
                f"{'$$' if '$$' in raw else sign}, which compose and bash read differently (to bash "
                "a process id, an argument, a command): put the value in '…', or write \\$ in "
                "double quotes"
            )
        return _variable(named or braced, values, environ)

    if not any(sign in raw for sign in "\\$`"):
        return raw
    return re.sub(_PART, part, raw, flags=re.ASCII | re.DOTALL)


def _variable(name: str, values: Mapping[str, str], environ: Mapping[str, str]) -> str:
    # The environment's goes before the file's for compose, the last one set for bash.
    known = {where[name] for where in (values, environ) if name in where}
    # The name stays untold: in pa$word it is half a password.
    if _is_own_of_bash(name):
        raise _Refused("a variable that bash sets itself is asked for: write the value out")
    if not known:
        raise _Refused(
            "a variable is asked for that is set neither above nor in the environment; where the $ "
            "is part of the value, put it in '…'"
        )
    if len(known) > 1:
        raise _Refused(
            "a variable is asked for that is another in the environment, which compose takes, than "
            "above, which bash takes: unset it there, or write the value out"
        )
    return known.pop()


def _is_own_of_bash(name: str) -> bool:
    return name in _OWN_OF_BASH or name.startswith("BASH")


def _guesses(rest: str) -> Iterator[str]:
    """What either may have made of it: with and without quotes, comment, escapes, doubled dollars."""
    whole = rest.strip()
    for value in {whole, whole.partition(" #")[0].strip()}:
        bare = value.strip("\"'")
        yield from {value, bare, bare.replace("$$", "$"), re.sub(r"\\(.)", r"\1", bare)}
