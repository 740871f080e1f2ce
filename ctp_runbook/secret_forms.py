"""Every form in which a known secret is printed, and how it is masked in them.

Escaped for a shell, in JSON, XML, a URL; in base64 or hex; and with the end of a line through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

__all__ = ["MASK", "Span", "plain_spans", "without", "without_values"]

MASK = "***"
Span = tuple[int, int]
# Fewer signs between quotes are no secret of their own.
_LEAST_CORE = 4


def without(spans: Iterable[Span], text: str) -> str:
    """The text with each span masked; those that touch are one."""
    parts, done = list[str](), 0
    for begun, ended in sorted(spans):
        if ended < done or (begun < done and ended == done):
            continue
        if begun > done or not parts:
            parts += [text[done:begun], MASK]
        done = ended
    return "".join([*parts, text[done:]]) if parts else text


@lru_cache(maxsize=8)  # one redactor masks a whole run; most that are made mask nothing
def _masking(secrets: frozenset[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """The pattern of these secrets in all their spellings, and of those that stand in base64 or hex."""
    # The longest first: a secret that begins with another must not be left half masked.
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    plain = "|".join(map(_spellings, longest_first))
    encoded = _alternatives(
        form for secret in longest_first for form in (*_base64(secret), *_hex(secret))
    )
    return re.compile(plain) if plain else None, re.compile(encoded) if encoded else None


def _alternatives(patterns: Iterable[str]) -> str:
    """Any of these, grouped by the letter they begin with: most letters of a text begin none."""
    groups: dict[str, list[str]] = {}
    for pattern in dict.fromkeys(patterns):
        first = pattern[: pattern.index("]") + 1] if pattern[0] == "[" else pattern[0]
        groups.setdefault(first, []).append(pattern[len(first) :])
    return "|".join(f"{first}(?:{'|'.join(rests)})" for first, rests in groups.items())


def _spellings(secret: str) -> str:
    """A pattern of every way the secret is printed: letters and digits stay, any other character
    may be escaped, for a shell, in JSON (in JSON, …), XML, a URL, by ``repr``; each by itself.

    Quotes and backslashes inside it are a run of those in any number: ``'"'"'`` is one for a shell.
    At its ends they are asked for as far as they are there, and those around it are left alone.
    """
    ends = re.fullmatch(r"(?s)([\\'\"]*)(.*?)([\\'\"]*)", secret)
    before, core, after = ends.groups() if ends else ("", secret, "")
    if len(core) < _LEAST_CORE:
        before, core, after = "", secret, ""
    inner = "".join(map(_spelling, re.findall(r"[A-Za-z0-9]+|[\\'\"]+|(?s:.)", core)))
    return "".join((_optional(before), inner, _optional(after)))


def _optional(signs: str) -> str:
    return f"(?:{''.join(map(_sign, signs))})?" if signs else ""


def _spelling(part: str) -> str:
    if part.isascii() and part.isalnum():
        return part
    if part[0] in "\\'\"":
        quotes = "|".join(map(_printed, "\\'\""))
        return rf"(?:{quotes}){{{len(part)},{64 * len(part)}}}+"
    return _sign(part)


# A backslash, itself encoded or not, and what stands behind one.
_BACKSLASH = r"(?:\\|%(?:25){0,4}+5[cC]|&(?:amp;){0,4}+\#(?:92|x5[cC]);)"
_ESCAPED = r"(?:(?<=\\)|(?<=5[cC])|(?<=5[cC];)|(?<=92;))"
_SEMICOLON = "(?:;|%3b)"
_AMPERSAND = f"(?:&|%26)(?:amp{_SEMICOLON}){{0,4}}"
_NAMED = {"'": "apos", '"': "quot", "&": "amp", "<": "lt", ">": "gt"}
# What bash and SQL write for a quote in quotes, JSON and repr for white space.
_DOUBLED = {"'": r"""'\\{1,16}''|'\\{0,16}"'\\{0,16}"'|''|""", '"': '""|'}
_LETTERS = {"\t": "t", "\n": "n", "\r": "r", "\v": "v", "\f": "f"}


def _sign(char: str) -> str:
    """A pattern of every way one character is printed."""
    return f"{_BACKSLASH}{{0,16}}+(?:{_DOUBLED.get(char, '')}{_printed(char)})"


def _printed(char: str) -> str:
    """The same, without what may stand before it for a shell or in JSON."""
    code, octets = ord(char), char.encode("utf-8", "surrogatepass")
    wide = char.encode("utf-16-be", "surrogatepass").hex()
    again = rf"{_BACKSLASH}{{1,16}}+"
    escaped = [
        f"{again}u".join(wide[at : at + 4] for at in range(0, len(wide), 4)).join(("(?:u", ")")),
        f"U{code:08x}",
        f"{again}x".join(f"{octet:02x}" for octet in octets).join(("(?:x", ")")),
        again.join(f"{octet:03o}" for octet in octets),
        *([f"x{code:02x}"] if 0x80 <= code < 0x100 else ()),
        *([_LETTERS[char]] if char in _LETTERS else ()),
    ]
    encoded = [
        "".join(f"%(?:25){{0,4}}{octet:02x}" for octet in octets),
        rf"{_AMPERSAND}(?:\#|%23)(?:0*{code}|x0*{code:x}){_SEMICOLON}",
        *([f"{_AMPERSAND}{_NAMED[char]}{_SEMICOLON}"] if char in _NAMED else ()),
        *([r"\+"] if char == " " else ()),
    ]
    return f"{re.escape(char)}|{_ESCAPED}(?i:{'|'.join(escaped)})|(?i:{'|'.join(encoded)})"


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_LEAST_BASE64 = 6  # fewer characters stand in too many words


def _base64(secret: str) -> Iterator[str]:
    """Patterns of what a secret makes of base64, wherever in the encoded text it begins.

    Of a short one with the colon that stands before it in ``user:password``.
    """
    from binascii import b2a_base64

    octets = secret.encode("utf-8", "surrogatepass")
    for begun in range(3):
        padded = octets if len(octets) >= _LEAST_BASE64 else b":" + octets
        digits = b2a_base64(bytes(begun) + padded, newline=False).decode()
        # The first and the last digit may have bits of the neighbours.
        own = digits[-(-begun * 8 // 6) : (begun + len(padded)) * 8 // 6]
        if len(own) >= _LEAST_BASE64:
            yield re.sub("[+/]", lambda sign: "[+-]" if sign[0] == "+" else "[/_]", own)


def _hex(secret: str) -> tuple[str, str]:
    """A secret's octets as hexadecimal digits, small and large."""
    digits = secret.encode("utf-8", "surrogatepass").hex()
    return digits, digits.upper()


# Octets as dumps print them, apart: by a colon, a blank, ``\\x``, …, one by one or in pairs; a date
# or a time has fewer. It begins with a digit that none stands before: asked so, and not the other
# way round, it is found in a third of the time.
_DIGIT = "[0-9A-Fa-f]"
_GAP = r"(?:[ :%-]|\\x|, ?0x|0x)"
_DUMP = (
    rf"{_DIGIT}(?<!{_DIGIT}{{2}}){_DIGIT}"
    rf"(?:(?:{_GAP}{_DIGIT}{{2}}(?!{_DIGIT})){{3,}}+"
    rf"|{_DIGIT}{{2}}(?:{_GAP}{_DIGIT}{{4}}(?!{_DIGIT}))++(?:{_GAP}{_DIGIT}{{2}}(?!{_DIGIT}))?+)"
)


def _dumped_spans(text: str, secrets: Iterable[str]) -> Iterator[Span]:
    """Each dump of octets that has a secret in it."""
    forms: list[str] = []
    for match in re.finditer(_DUMP, text):
        forms = forms or [_hex(secret)[0] for secret in secrets]
        digits = re.sub(r"0x|[^0-9a-f]", "", match[0].lower())
        if any(form in digits for form in forms):
            yield match.span()


def without_values(text: str, secrets: frozenset[str]) -> str:
    """Mask the secrets however they are spelt, also where a line's end goes through one."""
    plain, encoded = _masking(secrets)
    text = plain.sub(MASK, text) if plain else text
    text = without(_encoded_spans(text, encoded), text) if encoded else text
    text = without(_dumped_spans(text, secrets), text)
    if "\n" not in text and "\\n" not in text:
        return text
    flat, breaks = _unwrapped(text)
    if not breaks:
        return text
    spans = [*(match.span() for match in plain.finditer(flat))] if plain else []
    spans += _encoded_spans(flat, encoded) if encoded else ()
    return without([(_place(a, breaks), _place(b - 1, breaks) + 1) for a, b in spans], text)


def _encoded_spans(text: str, encoded: re.Pattern[str]) -> Iterator[Span]:
    """Each whole word of base64 that has a secret in it, with the user beside the password."""
    done = 0
    for match in encoded.finditer(text):
        if match.start() < done:
            continue
        begun = len(text[done : match.start()].rstrip(_BASE64)) + done
        rest = re.compile(rf"[{_BASE64}]*+={{0,2}}").match(text, match.end())
        done = rest.end() if rest else match.end()
        yield begun, done


# The end of a line, also as JSON writes it.
_BREAK = r"(?:\n|\r\n|\\n|\\r\\n)[ \t]*+"
# Nobody wraps lines of fewer columns, and short lines are words that belong to nobody else.
_LEAST_COLUMNS = 40


def _unwrapped(text: str) -> tuple[str, list[Span]]:
    """The text with its long lines joined; and for each join, where it is and how far it shifts."""
    parts, breaks, begun, shift, last = [], list[Span](), 0, 0, 0
    for match in re.finditer(_BREAK, text):
        ended, columns, last = match.start(), match.start() - last, match.end()
        if columns < _LEAST_COLUMNS:
            continue
        # A sign that a shell, or quoted-printable, puts before it.
        ended -= text[ended - 1] in "\\="
        parts.append(text[begun:ended])
        shift += last - ended
        breaks.append((last - shift, shift))
        begun = last
    return "".join([*parts, text[begun:]]), breaks


def _place(at: int, breaks: list[Span]) -> int:
    """Where a place in the joined text is in the text itself."""
    from bisect import bisect_right

    index = bisect_right(breaks, at, key=lambda each: each[0])
    return at + breaks[index - 1][1] if index else at


def plain_spans(text: str, secrets: frozenset[str]) -> Iterator[Span]:
    """Yield where one stands that is neither encoded nor wrapped."""
    plain, _ = _masking(secrets)
    if plain is not None:
        yield from (match.span() for match in plain.finditer(text))
