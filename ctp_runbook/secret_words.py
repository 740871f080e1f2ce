"""Secrets by the words before them: ``curl -u``, ``mysql -p``, ``sshpass -p``, ``--pass``.

What an option's value is, only its command says: behind ``-p`` stands a password, a port or a
folder. So each short option is asked of the commands that mean a secret by it, on a command line as
a shell reads it or as a list of words in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["option_spans"]

_Span = tuple[int, int]

# By command, the short options whose value is a secret: its own word, or attached to the letter.
# In capitals behind a sign: ``:`` only where it has a colon, ``=`` an equals sign (else it names a
# user, a file), ``+`` only attached (else it asks at the terminal).
_OPTIONS = {
    "curl": ("u:", "U:", "b="),
    "sshpass": ("p",),
    "mysql": ("p+",),
    "mysqldump": ("p+",),
    "mysqladmin": ("p+",),
    "mariadb": ("p+",),
    "redis-cli": ("a",),
    "valkey-cli": ("a",),
    "mongosh": ("p",),
    "docker": ("p",),
    "podman": ("p",),
    "ldapsearch": ("w",),
    "ldapmodify": ("w",),
    "lftp": ("u",),
    "ipmitool": ("P",),
    "zip": ("P",),
    "7z": ("p+",),
    "http": ("a:",),
    "https": ("a:",),
}
# ``docker run -p 80:80`` is a port.
_ONLY_BEFORE = {"docker": "login", "podman": "login"}
_COMMAND = rf"(?<![\w.-])({'|'.join(_OPTIONS)})(?=[\s\"'])"
# curl's short options may share a word: ``-sSfu ops:…``.
_CLUSTER = {"curl": r"-[a-zA-Z#0-9]*?"}
# Long options of any command; by a name of CONTRACT §1 they are found elsewhere.
_LONG = (
    r"(?<![\w-])--?(?:(?:proxy-)?(?:pass|pwd|passphrase|passin|passout|storepass|keypass|userpwd)"
    r"|((?:proxy-)?user)|(cookie))(?:[ \t]++|=|[\"'],\s?[\"'])"
)
_WORD = (
    r"""(?:\\.|'[^']{0,4096}+'|"(?:[^"\\]|\\.){0,4096}+"|\$\([^()]{0,4096}\)"""
    r"""|>&|[^\s|;&()"'\\])++"""
)
_LISTED = r"[^\"',\]]++"
_MOST_WORDS = 200


def option_spans(text: str) -> Iterator[_Span]:
    """Yield where the value of such an option stands in ``text``."""
    yield from _long_spans(text)
    for match in re.finditer(_COMMAND, text):
        yield from _short_spans(text, match)


def _long_spans(text: str) -> Iterator[_Span]:
    for match in re.finditer(_LONG, text):
        is_listed = text[match.end() - 1] in "\"'"
        value = re.compile(_LISTED if is_listed else _WORD).match(text, match.end())
        if value is None or value[0].startswith("-"):
            continue
        if (match[1] and ":" not in value[0]) or (match[2] and "=" not in value[0]):
            continue  # a user's name, a file of cookies
        yield value.span()


def _short_spans(text: str, command: re.Match[str]) -> Iterator[_Span]:
    """The values behind one command, as far as its words go."""
    needs, awaited = _ONLY_BEFORE.get(command[1], ""), ""
    for begun, ended in _words(text, command.end()):
        word = text[begun:ended]
        if awaited:
            if _is_value(awaited, word):
                yield begun, ended
            if command[1] == "sshpass":
                return  # what follows is another command
            awaited = ""
        elif needs:
            needs = "" if word == needs else needs
        elif option := _option(command[1], word):
            name, length = option
            if length < len(word) and _is_value(name, word[length:]):
                yield begun + length, ended
            awaited = name if length == len(word) and "+" not in name else ""


def _words(text: str, at: int) -> Iterator[_Span]:
    """Where the words of a command line stand, from behind its first one on."""
    is_listed = text[at] in "\"'"
    gap, word = (r"[\"'],\s?[\"']", _LISTED) if is_listed else (r"[ \t]++|\\\r?\n", _WORD)
    words = re.compile(rf"(?:{gap})++({word})")
    for _ in range(_MOST_WORDS):
        # Another of these commands has its own turn: each word is read once.
        if (match := words.match(text, at)) is None or match[1] in _OPTIONS:
            return
        yield match.span(1)
        at = match.end()


def _option(command: str, word: str) -> tuple[str, int] | None:
    """The option of a command that a word is, and how much of the word it is."""
    for option in _OPTIONS[command]:
        if begun := re.match(_CLUSTER.get(command, "-") + option[0], word):
            return option, begun.end()
    return None


def _is_value(option: str, word: str) -> bool:
    """Return True where ``word`` is what the option says that its secret looks like."""
    if word.startswith("-") and "+" not in option:
        return False
    return all(sign in word for sign in option[1:] if sign in ":=")
