"""Keeping secrets out of everything that is written or shown (CONTRACT §1, "Secrets").

A secret is found by the *name* it is stored under, and then masked by *value* wherever it
turns up: in a command, in a program's output, in an error sentence. What is written as
``NAME_PASSWORD=value`` or as user info in a URL is masked by its shape as well, so that a
secret nobody announced is masked at least where its name stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

__all__ = ["MASK", "Redactor", "is_secret_name"]

MASK = "***"

_NAMES = r"PASSWORD|PASSWD|SECRET|TOKEN|AUTH[_-]?CODE|API[_-]?KEY|PRIVATE[_-]?KEY"
# ``password_env`` and ``TOKEN_FILE`` say where a secret is; they hold none.
_POINTER = r"[_-](?:ENV|FILE)\Z"
# Compiled where they are first needed, which in most texts they are not: a start pays for none.
# Nothing in them tries one stretch of text twice (atomic groups, possessive counts, upper bounds):
# a program may print a megabyte of anything. A quote may have backslashes: JSON in JSON, a log in a
# log. The bound of their number is four such levels.
_QUOTE = r"""\\{0,16}+["']"""
_VALUE = (
    r"""(?:"(?:[^"\\]|\\.){0,4096}+"|'[^']{0,4096}+'"""
    r"""|(?P<q>\\{1,16}+["'])(?:(?!(?<!\\)(?P=q)).){0,4096}+(?P=q)|[^\s"'&;|,)}\]]+)"""
)
# Anchored where a word begins: without that, long lines cost the square of their words. Two blanks
# and more after a bare ``NAME=`` are a list of names with remarks.
_WORD = rf"(?>[\w-]*?(?:{_NAMES}))[\w-]*+(?<![_-]ENV)(?<![_-]FILE)"
_SIGN = rf"(?:{_QUOTE})?+(?:\s*+:\s*+|[ \t]++=[ \t]*+|=[ \t]?+(?![ \t]))"
_ASSIGNMENT = rf"(?i)(?<![\w-])({_WORD}{_SIGN}|--{_WORD}\s++)({_VALUE})"
# Of which one of these is always a part, and found in a tenth of the time.
_NAMED_SIGN = rf"(?:{_NAMES})[\w-]*+((?:{_QUOTE})?+\s*+[:=])?+"
_OPTION = r"--([\w-]+)"
_AUTHORIZATION = (
    rf"(?i)(\bauthorization(?:{_QUOTE})?+\s*+[:=]\s*+(?:{_QUOTE})?+(?:(?:basic|bearer|digest)\s++)?+)"
    r"([^\s\"'\\]+)"
)
_USER_INFO = r"((?<=[A-Za-z0-9+.-]):(?:\\{0,16}+/){2})([^\s/?#\"'<>]*)@"
_PEM = r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"

# Shorter values, and these words, stand in too many innocent places to be masked by value.
_SHORTEST_SECRET = 4
_SHORTEST_NUMBER = 6  # MAX_TOKENS=1000 must not turn a limit of 1000 ms into stars
_NOT_SECRET = frozenset({"true", "false", "none", "null", MASK})
_LONGEST_ENV_FILE_BYTES = 1 << 20


@lru_cache(maxsize=1024)  # the keys of records are few, and asked again and again
def is_secret_name(name: str) -> bool:
    """Return True where the value stored under ``name`` is a secret (``CTP_AUTH_CODE`` and the like)."""
    return _has_secret_name(name) and re.search(_POINTER, name, re.IGNORECASE) is None


def _has_secret_name(text: str) -> bool:
    return _may_have_secret_name(text) and re.search(_NAMES, text, re.IGNORECASE) is not None


def _may_assign(text: str) -> bool:
    """Return False where ``_ASSIGNMENT`` cannot match, as in a page that only speaks of passwords."""
    if not _may_have_secret_name(text):
        return False
    if any(match[1] for match in re.finditer(_NAMED_SIGN, text, re.IGNORECASE)):
        return True
    return "--" in text and any(_has_secret_name(word) for word in re.findall(_OPTION, text))


def _may_have_secret_name(text: str) -> bool:
    upper = text.upper()
    # In each name stands one of these, and looking for them is quicker than the pattern is. Letters
    # beyond ASCII may fold into theirs; how, the pattern knows.
    return (
        "PASSW" in upper
        or "SECRET" in upper
        or "TOKEN" in upper
        or "AUTH" in upper
        or "API" in upper
        or "PRIVATE" in upper
        or not text.isascii()
    )


@lru_cache(maxsize=8)  # one redactor masks a whole run; most that are made mask nothing
def _masking(secrets: frozenset[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """The pattern of these secrets in all their spellings, and of those that stand in base64."""
    # The longest first: a secret that begins with another must not be left half masked.
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    plain = "|".join(map(_spellings, longest_first))
    encoded = "|".join(dict.fromkeys(form for secret in longest_first for form in _base64(secret)))
    return re.compile(plain) if plain else None, re.compile(encoded) if encoded else None


class Redactor(Struct, frozen=True):
    """Masks the secrets known when it was gathered; its ``repr`` does not show them."""

    secrets: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def gather(
        cls,
        *,
        environ: Mapping[str, str],
        extra: Iterable[str] = (),
        env_files: Iterable[Path] = (),
        texts: Iterable[str] = (),
    ) -> Redactor:
        """Collect secrets from where they live.

        ``extra`` is ``redact`` of limits.toml: names of variables, or secret values themselves.
        ``texts`` are commands, in which assignments and URLs are looked for.
        """
        listed = tuple(extra)
        variables = [*_env_file_variables(env_files, environ), *environ.items()]
        secrets = set(listed).difference(name for name, _ in variables)
        for name, value in variables:
            if is_secret_name(name) or name in listed:
                secrets.add(value)
            secrets.update(_user_info_secrets(value))
        for text in texts:
            secrets.update(_secrets_in(text))
        return cls.of(secrets, names=listed)

    @classmethod
    def of(cls, secrets: Iterable[str], *, names: Iterable[str] = ()) -> Redactor:
        """Make a redactor for these values; those too short or too common to mask are left out."""
        kept = frozenset(part for secret in secrets for part in _maskable(secret))
        return cls(secrets=kept, names=frozenset(names))

    def __repr__(self) -> str:
        return f"<Redactor of {len(self.secrets)} secrets>"

    def __call__(self, text: str) -> str:
        """``text`` with every secret replaced by ``***``; masking twice changes nothing more."""
        if self.secrets:
            plain, encoded = _masking(self.secrets)
            text = plain.sub(MASK, text) if plain else text
            text = _without_base64(text, encoded) if encoded else text
        if "-----BEGIN" in text:
            text = re.sub(_PEM, MASK, text)
        if "@" in text and ":" in text:
            text = re.sub(_USER_INFO, rf"\g<1>{MASK}@", text)
        if "uthorization" in text or "UTHORIZATION" in text:
            text = re.sub(_AUTHORIZATION, rf"\g<1>{MASK}", text)
        return re.sub(_ASSIGNMENT, rf"\g<1>{MASK}", text) if _may_assign(text) else text

    def data(self, value: Any) -> Any:
        """Mask JSON-like data; a value under a secret name is masked whole."""
        if type(value) is str:  # most are, and a plan has a thousand
            return self(value)
        if value is None or isinstance(value, (int, float, Enum)):
            return value  # our own words are no secrets, whatever somebody's secret is
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Struct):
            return self._struct(value)
        if isinstance(value, Mapping):
            return {self._key(key): self._under(key, held) for key, held in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value

    def _struct(self, value: Struct) -> Struct:
        """A record without secrets. Which fields hold words of ours alone, its type says: masked,
        they would name another step, or nothing."""
        held = {name: getattr(value, name) for name in value.__struct_fields__}
        ours: Collection[str] = getattr(value, "own_words", tuple)()
        keyed: Collection[str] = getattr(value, "own_keys", tuple)()
        for name, part in held.items():
            if name in keyed and name not in ours:
                held[name] = {key: self._under(key, each) for key, each in part.items()}
            elif name not in ours:
                held[name] = self._under(name, part)
        return type(value)(**held)

    def _key(self, key: Any) -> Any:
        return self(key) if isinstance(key, str) else key

    def _under(self, key: Any, value: Any) -> Any:
        secret = isinstance(key, str) and (is_secret_name(key) or key in self.names)
        return MASK if secret and isinstance(value, str) and value else self.data(value)


def _maskable(secret: str) -> Iterator[str]:
    """A secret and its lines, but for what is too short or too common to be masked by value."""
    for part in {secret, *secret.splitlines()}:
        stripped = part.strip()
        shortest = _SHORTEST_NUMBER if stripped.isdigit() else _SHORTEST_SECRET
        if len(stripped) >= shortest and stripped.lower() not in _NOT_SECRET:
            yield stripped


def _spellings(secret: str) -> str:
    """A pattern of every way the secret is printed: letters and digits stay, any other character
    may be escaped, for a shell, in JSON (in JSON, …), XML, a URL, by ``repr``; each by itself.

    Quotes and backslashes inside it are a run of those in any number: ``'"'"'`` is one for a shell.
    At its ends they are asked for as far as they are there, and those around it are left alone.
    """
    ends = re.fullmatch(r"(?s)([\\'\"]*)(.*?)([\\'\"]*)", secret)
    before, core, after = ends.groups() if ends else ("", secret, "")
    if len(core) < _SHORTEST_SECRET:
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
        told = octets if len(octets) >= _LEAST_BASE64 else b":" + octets
        digits = b2a_base64(bytes(begun) + told, newline=False).decode()
        # The first and the last digit may have bits of the neighbours.
        own = digits[-(-begun * 8 // 6) : (begun + len(told)) * 8 // 6]
        if len(own) >= _LEAST_BASE64:
            yield re.sub("[+/]", lambda sign: "[+-]" if sign[0] == "+" else "[/_]", own)


def _without_base64(text: str, encoded: re.Pattern[str]) -> str:
    """Mask each whole word of base64 that has a secret in it, with the user beside the password."""
    parts, done = [], 0
    for match in encoded.finditer(text):
        if match.start() < done:
            continue
        parts += [text[done : match.start()].rstrip(_BASE64), MASK]
        rest = re.compile(rf"[{_BASE64}]*+={{0,2}}").match(text, match.end())
        done = rest.end() if rest else match.end()
    return "".join([*parts, text[done:]])


def _secrets_in(text: str) -> Iterator[str]:
    """Secrets that stand in a command line: ``PGPASSWORD=…``, ``--token …``, URL user info."""
    for match in re.finditer(_ASSIGNMENT, text) if _may_assign(text) else ():
        value = match.group(2).strip("\"'")
        if not value.startswith(("$", "<", "-")):  # a reference or a placeholder, not a secret
            yield value
    yield from _user_info_secrets(text)


def _user_info_secrets(text: str) -> Iterator[str]:
    """The password of each URL, or the whole user info where it is a bare token."""
    if "://" not in text:
        return
    for match in re.finditer(_USER_INFO, text):
        user, colon, password = match.group(2).partition(":")
        yield password if colon else user


def _env_file_variables(
    files: Iterable[Path], environ: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What the files that can be read say, or may say where compose and bash read it differently."""
    from ctp_runbook.env_text import read_env

    for path in files:
        try:
            if path.stat().st_size > _LONGEST_ENV_FILE_BYTES:
                continue
            read = read_env(path.read_bytes(), environ=environ)
        except OSError:
            continue
        yield from read.values.items()
        yield from read.guesses
