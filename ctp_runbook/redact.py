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
# Compiled where they are first needed, which in most texts they are not: a start pays for none.
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'&;|,)}\]]+)"""
# Anchored where a word begins: without that, long lines cost the square of their words.
_ASSIGNMENT = rf"""(?i)(?<![\w-])([\w-]*(?:{_NAMES})[\w-]*["']?\s*[=:]\s*|--[\w-]*(?:{_NAMES})[\w-]*\s+)({_VALUE})"""
_AUTHORIZATION = (
    r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|digest)?\s*)([^\s\"']+)"
)
_USER_INFO = r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#\"'<>]*)@"
_PEM = r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"

# Shorter values, and these words, stand in too many innocent places to be masked by value.
_SHORTEST_SECRET = 4
_SHORTEST_NUMBER = 6  # MAX_TOKENS=1000 must not turn a limit of 1000 ms into stars
_NOT_SECRET = frozenset({"true", "false", "none", "null", MASK})
_LONGEST_ENV_FILE_BYTES = 1 << 20


@lru_cache(maxsize=1024)  # the keys of records are few, and asked again and again
def is_secret_name(name: str) -> bool:
    """Return True where the value stored under ``name`` is a secret (``CTP_AUTH_CODE`` and the like)."""
    return _has_secret_name(name)


def _has_secret_name(text: str) -> bool:
    upper = text.upper()
    # In each name stands one of these, and looking for them is quicker than the pattern is. Letters
    # beyond ASCII may fold into theirs; how, the pattern knows.
    may_have = (
        "PASSW" in upper
        or "SECRET" in upper
        or "TOKEN" in upper
        or "AUTH" in upper
        or "API" in upper
        or "PRIVATE" in upper
        or not text.isascii()
    )
    return may_have and re.search(_NAMES, text, re.IGNORECASE) is not None


class Redactor(Struct, frozen=True):
    """Masks the secrets known when it was gathered; its ``repr`` does not show them."""

    secrets: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    _pattern: re.Pattern[str] | None = None

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
        variables = dict(_env_file_variables(env_files))
        variables.update(environ)
        secrets = set(listed).difference(variables)
        for name, value in variables.items():
            if is_secret_name(name) or name in listed:
                secrets.add(value)
            secrets.update(_user_info_secrets(value))
        for text in texts:
            secrets.update(_secrets_in(text))
        return cls.of(secrets, names=listed)

    @classmethod
    def of(cls, secrets: Iterable[str], *, names: Iterable[str] = ()) -> Redactor:
        """Make a redactor for these values; those too short or too common to mask are left out."""
        kept = frozenset(form for secret in secrets for form in _written_forms(secret))
        # The longest first: a secret that begins with another must not be left half masked.
        longest_first = sorted(kept, key=lambda secret: (-len(secret), secret))
        pattern = re.compile("|".join(map(re.escape, longest_first))) if kept else None
        return cls(secrets=kept, names=frozenset(names), _pattern=pattern)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self.secrets)} spellings>"

    def __call__(self, text: str) -> str:
        """``text`` with every secret replaced by ``***``; masking twice changes nothing more."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        if "-----BEGIN" in text:
            text = re.sub(_PEM, MASK, text)
        if "://" in text:
            text = re.sub(_USER_INFO, rf"\g<1>{MASK}@", text)
        if "uthorization" in text or "UTHORIZATION" in text:
            text = re.sub(_AUTHORIZATION, rf"\g<1>{MASK}", text)
        return re.sub(_ASSIGNMENT, rf"\g<1>{MASK}", text) if _has_secret_name(text) else text

    def data(self, value: Any) -> Any:
        """Mask JSON-like data; a value under a secret name is masked whole."""
        if type(value) is str:  # most are, and a plan has a thousand
            return self(value)
        if value is None or isinstance(value, int | float | Enum):
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


def _written_forms(secret: str) -> Iterator[str]:
    """The spellings a secret turns up in: as it is, line by line, in JSON, in a URL."""
    for part in {secret, *secret.splitlines()}:
        stripped = part.strip()
        shortest = _SHORTEST_NUMBER if stripped.isdigit() else _SHORTEST_SECRET
        if len(stripped) >= shortest and stripped.lower() not in _NOT_SECRET:
            yield stripped
            if not (stripped.isascii() and stripped.isalnum()):
                import json  # what most secrets are made of is spelled one way everywhere

                yield json.dumps(stripped)[1:-1]
                yield json.dumps(stripped, ensure_ascii=False)[1:-1]
                yield _percent_encoded(stripped)


def _percent_encoded(text: str) -> str:
    # Not urllib.parse.quote: importing it costs more than the whole of this module.
    return "".join(
        char if char.isascii() and (char.isalnum() or char in "-._~") else _percents(char)
        for char in text
    )


def _percents(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _secrets_in(text: str) -> Iterator[str]:
    """Secrets that stand in a command line: ``PGPASSWORD=…``, ``--token …``, URL user info."""
    for match in re.finditer(_ASSIGNMENT, text) if _has_secret_name(text) else ():
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


def _env_file_variables(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """``KEY=VALUE`` of the files that can be read; quotes go, as docker compose drops them."""
    for path in files:
        try:
            if path.stat().st_size > _LONGEST_ENV_FILE_BYTES:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                yield key.removeprefix("export ").strip(), value.strip().strip("\"'")
