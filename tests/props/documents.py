"""What README.md and infra/runbook/ say: their tables, their links, and the commands to be typed.

A block of commands is marked ``sh`` or ``bash``. As it stands it can be typed in any checkout, and a
test does that. ``sh host`` needs a host with engines, Docker or systemd, ``sh root`` an empty one:
of these every command and flag must be there. Blocks of other marks hold no commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "PAGES",
    "ROOT",
    "RUNBOOK",
    "Block",
    "blocks",
    "first_cells",
    "headings",
    "links",
    "our_commands",
    "prose",
    "sections",
]

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "infra" / "runbook"
# The user's own document, word for word: its commands are those of before this project.
_NOT_OURS = ("RUNBOOK.md",)
PAGES = (
    ROOT / "README.md",
    *sorted(page for page in RUNBOOK.glob("*.md") if page.name not in _NOT_OURS),
)
_SHELLS = ("sh", "bash")
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Commands to be typed one after the other; ``mark`` says where (blank: anywhere)."""

    page: str
    line: int
    mark: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


@cache
def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(*, page: Path | None = None) -> Iterator[Block]:
    """Yield the blocks of commands of a page, or of all."""
    for each in (page,) if page else PAGES:
        for match in _FENCE.finditer(_text(each)):
            language, _, mark = match[1].strip().partition(" ")
            if language in _SHELLS:
                line = _text(each).count("\n", 0, match.start()) + 2
                yield Block(each.name, line, mark, match[2])


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", _text(page))


def links(page: Path) -> Iterator[str]:
    """Yield where the links of a page lead, but for those to other machines."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            yield target


def headings(page: Path) -> dict[str, str]:
    """Return the headings of a page by the name that a link gives them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"): title for title in titles}


def sections(page: Path) -> dict[str, str]:
    """Return what stands below each heading of a page."""
    parts = re.split(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def first_cells(text: str) -> list[str]:
    """Return what is in backticks in the first cell of each row of the tables of a text, in order."""
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def our_commands(script: str) -> Iterator[list[str]]:
    """Yield the words behind each ``ctp-runbook`` of a script, whatever it is called through."""
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split = " \t", True
    command: list[str] = []
    for word in [*lexer, "\n"]:
        if word.strip(";&|\n"):
            command.append(word)
        else:
            yield from _ours(command)
            command = []


def _ours(words: list[str]) -> Iterator[list[str]]:
    # What only moves files about names ours as one of them.
    for n, word in enumerate(words if words[:1] not in (["ln"], ["install"]) else ()):
        if re.fullmatch(r"(\S*/bin/)?ctp-runbook", word):
            yield [word for word in words[n + 1 :] if not re.fullmatch(r"\d*[<>].*", word)]
            return
        if re.search(r"\bctp-runbook\s", word):  # bash -c '…'
            yield from our_commands(word)
