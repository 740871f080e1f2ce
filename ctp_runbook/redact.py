"""Keeping secrets out of everything that is written or shown (CONTRACT §1, "Secrets").

A secret is found by the *name* it is stored under, and then masked by *value* wherever it
turns up: in a command, in a program's output, in an error sentence. What is written as
``NAME_PASSWORD=value`` or as user info in a URL is masked by its shape as well, so that a
secret nobody announced is masked at least where its name stands beside it. So is what stands behind
``curl -u`` and the like (secret_words), in a header that logs in, and as the signature of an address.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook import secret_forms
from ctp_runbook.decoding import decoder
from ctp_runbook.secret_forms import Span, without, without_values

__all__ = ["MASK", "Redactor", "is_secret_name", "literal_secrets"]

MASK = secret_forms.MASK

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
# Of a scheme that is not known the word after it too, where that has a digit as tokens have.
_AUTHORIZATION = (
    rf"(?i)\bauthorization(?:{_QUOTE})?+\s*+[:=]\s*+(?:{_QUOTE})?+"
    r"(?:(?:digest|aws4-hmac-sha256)\s++(?P<all>[^\r\n]++)"
    r"|(?:(?:basic|bearer|negotiate|ntlm|token)\s++)?+"
    r"(?P<one>[\w.-]++[ \t]++(?=[^\s\"'\\]{0,4096}\d)[^\s\"'\\]{8,}+|[^\s\"'\\]++))"
)
_COOKIE = (
    rf"(?i)\b(?:set-)?cookie(?:{_QUOTE})?+\s*+:\s*+(?:{_QUOTE})?+"
    r"([^\s\"'\\;=]{1,256}+=[^\r\n\"'\\]*+)"
)
# What signs an address, or logs in by it, and whose name alone would be too common a word.
_SIGNED = (
    r"(?i)(?:[?&;](?:amp;)?(?:x-[\w-]{1,40}-)?(?:sig|signature|key|auth|pass|pwd|passphrase|credential"
    r"|jwt|sid|session_?id)=|(?<![\w-])sig(?:nature)?=(?=[\w%+/=-]{16}))([^\s&\"'<>#\\;]++)"
)
_SIGNED_MARKS = (
    *("sig=", "Sig=", "signature=", "Signature=", "key=", "Key=", "auth=", "pass=", "pwd=", "jwt="),
    *("passphrase=", "redential=", "sid=", "sessionid=", "session_id=", "sessionId="),
)
# Also with a slash in the password, where what stands before it can be no port.
_USER_INFO = (
    r"(?<=[A-Za-z0-9+.-]):(?:\\{0,16}+/){2}(?:([^\s/?#\"'<>]*)@"
    r"|([^\s/?#\"'<>@:]{0,256}+:(?!\d{1,5}(?:[/?#\s]|\Z))[^\s\"'<>]{1,256})@)"
)
_PEM = r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"

# Shorter values, and these words, stand in too many innocent places to be masked by value.
_SHORTEST_SECRET = 4
_SHORTEST_NUMBER = 6  # MAX_TOKENS=1000 must not turn a limit of 1000 ms into stars
_NOT_SECRET = frozenset({"true", "false", "none", "null", MASK})
# Passwords that some are given, and the words of our own names and sentences: masked by value they
# would blank the names of environments, services and people, and half of what an operator reads; so
# they are masked where their name stands alone.
_ORDINARY = frozenset(
    str.split(
        """
    abort aborted accept access across active admin administrator after again alert alive allows
    another answer answered answers anybody anything asked back backlog banner before begin
    begins begun being between beyond binaries bootstrap both bridge broken broker brought
    budget came cancel cannot cdc chain check classified clickhouse clock closed cmd code come
    command compared compares compat compatibility completed compose condition conducted
    conducts config confirmed connect connector connectors control copy core could crash ctp
    cutover dead debezium decide decided decides decision default demo died directory discarded
    discards disconnect does done drained drill dry earlier effect elsewhere ended ends engine
    engines env environment error events every evidence execute executed exist exit expected
    expiry failed file fired first flow force forced from gate gates gating gave generation give
    given gives goes gone good grafana group guest halfway hand handover have headline health
    healthy held here hft hits hold holding holds host http identity inconclusive infra ingest
    init instrument instruments integrity interrupted itself journal json judge judged jupyter
    just kafka keep keys known lag last late latency later lead left less lets limit limits line
    live lives local localhost logged login logs long look make making manager margin market max
    measured mend metric metrics middle minutes monitor more most much must name needs never new
    nobody none not notebook nothing nowhere numbers old once operator orchestrate orchestrator
    order orders out output outputs over partitions passed password path phases pid pinned place
    plan planned policy port positions post postgres postgresql precheck previous private probes
    proc process processes prod prodlike production project prometheus proved publish quant
    query rate ratio reached readiness readonly ready real reason reasons rebooted record
    recorded recovery redis refuse refused rehearsal reject replace report reports request
    restore resume resumed roll rollback rolled rolling rolls root run runbook runner running
    runs safe said says schema seconds secret seen sent service session settlement shell short
    signal simulated since single skipped slots somebody soon sources spool stack stage staging
    stand standby stands start started starting starts state status stays steer step steps still
    stop stopped stopping stops storage strategy stream success such switch switching system
    systemd tables take taken takes tasks temp templates terminal test testing than that their
    them then there this tick ticks time timed timeout timescale today token topic topics touch
    touched trade trader trades trading trigger true undecided under unit unknown unless
    unmeasured until untouched unvalidated url user username validate validated validating
    valkey verdict verified version views wait waits wanted warm warming warmup watch watched
    watches watching webhook what where whether which while will window with words working worst
    would writes written
        """
    )
)
_MOST_ORDINARY = 3
# Who or what is meant, and never how it is proved: a word that stands there stands in the open.
_OPEN_NAMES = ("USER", "NAME", "DB", "DATABASE", "HOST", "ENV", "PROFILE", "PROJECT")
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
    if any(match[1] for match in _named_signs(text)):
        return True
    return "--" in text and any(_has_secret_name(word) for word in re.findall(_OPTION, text))


# In each name stands one of these, and looking for them is quicker than the pattern is.
_MARKS = ("PASSW", "SECRET", "TOKEN", "AUTH", "API", "PRIVATE")
# What a pattern takes for a letter of theirs, and upper() does not turn into one.
_FOLDED = ("\u0130", "\u212a")


def _may_have_secret_name(text: str) -> bool:
    upper = text.upper()
    return (
        "PASSW" in upper
        or "SECRET" in upper
        or "TOKEN" in upper
        or "AUTH" in upper
        or "API" in upper
        or "PRIVATE" in upper
        or not text.isascii()
    )


def _named_signs(text: str) -> Iterator[re.Match[str]]:
    """Yield matches of ``_NAMED_SIGN``, tried only where a name may begin: in long pages, few places.

    One that begins within another ends as that does: it has the same sign, or none as well.
    """
    upper = text.upper()
    if len(upper) != len(text) or any(letter in text for letter in _FOLDED):
        yield from re.finditer(_NAMED_SIGN, text, re.IGNORECASE)
        return
    pattern = re.compile(_NAMED_SIGN, re.IGNORECASE)
    for mark in _MARKS:
        at = upper.find(mark)
        while at >= 0:
            if match := pattern.match(text, at):
                yield match
            at = upper.find(mark, at + 1)


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
        config: str = "",
    ) -> Redactor:
        """Collect secrets from where they live.

        ``extra`` is ``redact`` of limits.toml: names of variables, or secret values themselves.
        ``texts`` are commands, in which assignments, options and URLs are looked for; ``config`` is
        what a configuration of whatever syntax says.
        """
        listed = tuple(extra)
        variables = [*_env_file_variables(env_files, environ), *environ.items()]
        secrets = set[str]()
        for name, value in variables:
            if is_secret_name(name):
                secrets.add(value)
            secrets.update(_user_info_secrets(value))
        for text in texts:
            secrets.update(_secrets_in(text))
        secrets.update(_config_secrets(config, environ) if config else ())
        secrets = {secret for secret in secrets if not _is_ordinary(secret)}
        secrets -= {
            value
            for name, value in variables
            if value in secrets and _is_word(value) and name.upper().endswith(_OPEN_NAMES)
        }
        # What somebody lists by hand is masked, whatever word it is.
        named = {value for name, value in variables if name in listed}
        secrets |= named | set(listed).difference(name for name, _ in variables)
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
            text = without_values(text, self.secrets)
        # Each shape has one of these, most strings of a plan none.
        if "=" not in text and ":" not in text and "-" not in text:
            return text
        return without(_shape_spans(text), text)

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


def _is_word(value: str) -> bool:
    """Return True for letters alone, and for names such as ``quant_hft``."""
    return value.replace("_", "").replace("-", "").isalpha()


def _is_ordinary(secret: str) -> bool:
    """Return True for an ordinary word, and for a name made of such (``core_engine``).

    Four words and more are a pass phrase.
    """
    words = secret.strip().lower().replace("-", "_").split("_")
    return len(words) <= _MOST_ORDINARY and _ORDINARY.issuperset(words)


def _maskable(secret: str) -> Iterator[str]:
    """A secret and its lines, but for what is too short or too common to be masked by value."""
    for part in {secret, *secret.splitlines()}:
        stripped = part.strip()
        shortest = _SHORTEST_NUMBER if stripped.isdigit() else _SHORTEST_SECRET
        if len(stripped) >= shortest and stripped.lower() not in _NOT_SECRET:
            yield stripped


# Of which one stands in each option that secret_words knows, long or short.
_LONG_MARKS = ("-pass", "-user", "-pwd", "-cookie", "-storepass", "-keypass")
_SHORT_MARKS = (
    *(
        "sshpass",
        "mysql",
        "mariadb",
        "mongosh",
        "docker",
        "podman",
        "ldap",
        "lftp",
        "ipmi",
        "zip",
        "7z",
    ),
    # With what may stand behind a command: they stand in addresses, and in other names.
    *(
        name + sign
        for name in ("curl", "http", "https", "redis-cli", "valkey-cli")
        for sign in " '\""
    ),
)


def _has_short_option(line: str) -> bool:
    """Return False where no command of secret_words has an option of one letter."""
    is_short = " -" in line.replace(" --", "") or "'-" in line or '"-' in line
    return is_short and any(mark in line for mark in _SHORT_MARKS)


def _option_spans(text: str) -> Iterator[Span]:
    """Where the value of an option stands that is a secret to its command."""
    if not (" -" in text or "'-" in text or '"-' in text):
        return
    if any(mark in text for mark in _LONG_MARKS) or any(map(_has_short_option, text.split("\n"))):
        # Late: most texts have none, and a start pays for no pattern.
        from ctp_runbook.secret_words import option_spans

        yield from option_spans(text)


def _shape_spans(text: str) -> Iterator[Span]:
    """Where something stands that is a secret by the words around it."""
    if "-----BEGIN" in text:
        yield from (match.span() for match in re.finditer(_PEM, text))
    if "@" in text and ":" in text:
        for match in re.finditer(_USER_INFO, text):
            yield match.span(1 if match[1] is not None else 2)
    if "uthorization" in text or "UTHORIZATION" in text:
        for match in re.finditer(_AUTHORIZATION, text):
            yield match.span("one" if match["all"] is None else "all")
    if "ookie" in text or "OOKIE" in text:
        yield from (match.span(1) for match in re.finditer(_COOKIE, text))
    is_address = "?" in text or "&" in text or ";" in text or "sig" in text
    if is_address and any(mark in text for mark in _SIGNED_MARKS):
        yield from (match.span(1) for match in re.finditer(_SIGNED, text))
    yield from _option_spans(text)
    if _may_assign(text):
        yield from (match.span(2) for match in re.finditer(_ASSIGNMENT, text))


def _secrets_in(text: str) -> Iterator[str]:
    """Secrets that stand in a command line: ``PGPASSWORD=…``, ``--token …``, URL user info."""
    for match in re.finditer(_ASSIGNMENT, text) if _may_assign(text) else ():
        value = match.group(2).strip("\"'")
        if not _is_reference(value):
            yield value
    yield from _user_info_secrets(text)
    for begun, ended in _option_spans(text):
        value = text[begun:ended].strip("\"'")
        user, colon, password = value.partition(":")
        if not _is_reference(password or user):
            yield from (value, *([password] if colon else ()))


def _is_reference(value: str) -> bool:
    """Return True for what says where a secret is, or that somebody is to fill one in."""
    return value.startswith(("$", "<", "-", "`", MASK)) or not value


def literal_secrets(command: str, known: Redactor) -> Iterator[str]:
    """Yield the word before each secret that stands in a command itself, for all who list processes.

    One that is only named there (``$NAME``, a placeholder) does not. The word may be another.
    """
    spans = set(_shape_spans(command))
    if known.secrets:
        spans |= set(secret_forms.plain_spans(command, known.secrets))
    done = 0
    for begun, ended in sorted(spans):
        value = command[begun:ended].strip("\\\"'")
        password = value.partition(":")[2]
        # ``ssh://git@host`` names a user; a token there is no plain word.
        is_user = value.isalpha() and command[:begun].endswith("//")
        if begun >= done and not is_user and not _is_reference(password or value):
            done = ended
            before = re.search(r"[\w./:-]*\Z", command[:begun].rstrip(" =:\"'\\"))
            yield before[0] if before else ""


# In a configuration, beside the names of CONTRACT §1.
_CONFIG_NAMES = frozenset({"pass", "pwd", "passphrase", "credential", "credentials"})
_CONFIG_LINE = r"(?m)^([ \t]*)(?:-[ \t]++)?[\"']?([\w.-]{1,80})[\"']?[ \t]*+[:=][ \t]*+(.*)$"
_CONFIG_ELEMENT = r"<([\w.:-]{1,80})(?:\s[^<>]{0,200})?>([^<>]{1,4096})</"


def _config_secrets(text: str, environ: Mapping[str, str]) -> Iterator[str]:
    """What a configuration holds under secret names, whether it is YAML, JSON, TOML, INI or XML.

    Each reading that one of them may give a line is a possible value: no parser of ours decides.
    """
    yield from _secrets_in(text)
    for match in re.finditer(_CONFIG_ELEMENT, text):
        if _names_secret(match[1]):
            yield match[2]
    for match in re.finditer(_CONFIG_LINE, text):
        indent, name, rest = match.groups()
        if not _names_secret(name):
            # ``password_env: NAME`` says whose value is one.
            if _has_secret_name(name) and name.lower().endswith("env"):
                yield from filter(None, map(environ.get, _readings(rest)))
        elif rest.strip()[:1] in ("|", ">"):
            yield _block_below(text[match.end() :], indent)
        else:
            yield from (value for value in _readings(rest) if not _is_reference(value))


def _names_secret(name: str) -> bool:
    return is_secret_name(name) or name.lower() in _CONFIG_NAMES


def _readings(rest: str) -> Iterator[str]:
    """What the rest of a line may mean: whole, without a comment, without its quotes."""
    rest = rest.strip()
    for value in dict.fromkeys((rest, rest.rstrip(","), re.split(r"\s[#;]|\s//", rest)[0].strip())):
        if quoted := re.match(r"([\"'])(.*)\1", value):
            inner = quoted[2]
            yield from (inner, re.sub(r"\\(.)", r"\1", inner), inner.replace("''", "'"))
            with contextlib.suppress(ValueError):
                yield decoder(str).decode(f'"{inner}"')
        elif value[:1] not in "\"'{[":
            yield value


def _block_below(text: str, indent: str) -> str:
    """The lines of a YAML block: those that are further in."""
    lines = text.splitlines()[1:]
    ends = (
        at for at, line in enumerate(lines) if line.strip() and not line.startswith(indent + " ")
    )
    return "\n".join(line.strip() for line in lines[: next(ends, len(lines))])


def _user_info_secrets(text: str) -> Iterator[str]:
    """The password of each URL, or the whole user info where it is a bare token."""
    if "://" not in text or "@" not in text:
        return
    for match in re.finditer(_USER_INFO, text):
        user, colon, password = (match[1] or match[2] or "").partition(":")
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
