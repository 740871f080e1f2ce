"""What a page is made of: banners, facts, tables, pictures; each knows its HTML and its text.

Meaning never rests on colour: a symbol and a word say the same. Colours are JupyterLab's own
variables with fallbacks, so that a page reads on light and dark; the report defines them too.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from ctp_runbook.plan.template_text import printable

__all__ = [
    "Banner",
    "Block",
    "Facts",
    "Link",
    "Notes",
    "Page",
    "Picture",
    "Table",
    "escaped",
    "mark",
    "symbol_of",
]

_INK = "var(--jp-ui-font-color1, inherit)"
_FAINT = "var(--jp-ui-font-color2, inherit)"
_LINE = "var(--jp-border-color2, rgba(127,127,127,.4))"
_TINT = "var(--jp-layout-color2, rgba(127,127,127,.1))"
_CAPTION = "caption-side:top;text-align:left;font-weight:bold;padding:10px 0 2px"
# Okabe–Ito: told apart by people with any colour vision, and dark enough beside either theme.
_EDGES = {"good": "#009E73", "bad": "#D55E00", "warn": "#E69F00", "info": "#0072B2"}
_SYMBOLS = {"good": "✓", "bad": "✗", "warn": "!", "info": "ℹ"}
_MARKS: Mapping[str, str] = {
    "ok": "✓",
    "simulated_ok": "○",
    "failed": "✗",
    "timed_out": "✗",
    "unknown": "?",
    "skipped": "–",
    "not_run": "–",
    "PASSED": "✓",
    "INCONCLUSIVE": "?",
    "ERROR": "!",
    "FAILED": "✗",
    "alive": "✓",
    "gone": "–",
    "True": "✓",
    "False": "✗",
    "completed": "✓",
    "lost": "!",
    "running": "…",
}
# JupyterLab's theme is its own affair, not the system's. Turned inside out with its hues kept, a
# light plot is a dark one.
_DARK_JUPYTERLAB = (
    "<style>[data-jp-theme-light='false'] .ctp-light"
    "{filter:invert(.93) hue-rotate(180deg) brightness(1.15)}</style>"
)
# Columns whose cells may take several lines; every other cell stays in one piece.
_PROSE = frozenset({"why", "what", "answer", "detail", "seen", "source", "done when", "undone by"})


def mark(word: object) -> str:
    """Return a status or verdict behind its symbol: ``✓ ok``, ``✗ FAILED``, ``○ simulated_ok``."""
    symbol = symbol_of(word)
    return f"{symbol} {word}".strip() if not isinstance(word, bool) else symbol


def symbol_of(word: object) -> str:
    """Return the symbol of a status or verdict alone; blank for a word that is none."""
    return _MARKS.get(str(word), "")


def escaped(value: object) -> str:
    """Return a value as a page shows it, whatever it is; nothing else may stand between its tags."""
    return html.escape(printable(str(value)))


@dataclass(frozen=True)
class Link:
    """A word among facts or in a table that leads to a file; ``path`` is as seen from the page."""

    word: str
    path: str

    def __str__(self) -> str:
        return self.word

    @property
    def html(self) -> str:
        """An anchor; whatever stands in the path, it is a path and leads to no other host."""
        style = "color:var(--jp-content-link-color, inherit);text-decoration:underline"
        href = f"./{quote(self.path.lstrip('/'))}"
        return f"<a href='{href}' style='{style}'>{escaped(self.word)}</a>"


def _shown(value: object) -> str:
    return value.html if isinstance(value, Link) else escaped(value)


class Block(Protocol):
    """A part of a page."""

    @property
    def html(self) -> str:
        """For a notebook or the report; safe to paste anywhere."""
        ...

    @property
    def text(self) -> str:
        """The same for a terminal."""
        ...


@dataclass(frozen=True)
class Banner:
    """The one thing to know. ``kind`` is good, bad, warn or info."""

    kind: str
    title: str
    sentence: str = ""

    @property
    def html(self) -> str:
        """A box with a coloured edge."""
        more = f"<div style='margin-top:2px'>{escaped(self.sentence)}</div>"
        return (
            f"<div class='ctp-banner' style='border-left:6px solid {_EDGES[self.kind]};"
            f"background:{_TINT};color:{_INK};padding:8px 12px;margin:6px 0'>"
            f"<strong>{_SYMBOLS[self.kind]} {escaped(self.title)}</strong>"
            f"{more if self.sentence else ''}</div>"
        )

    @property
    def text(self) -> str:
        """Symbol, title, sentence."""
        return ": ".join(filter(None, (f"{_SYMBOLS[self.kind]} {self.title}", self.sentence)))


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    pairs: Sequence[tuple[str, object]]
    title: str = ""

    @property
    def html(self) -> str:
        """A table of two columns, with its title above where it has one."""
        rows = "".join(
            f"<tr><th scope='row' style='text-align:left;color:{_FAINT};font-weight:normal;padding:2px 14px 2px 0;"
            f"vertical-align:top;white-space:nowrap'>{escaped(name)}</th>"
            f"<td style='text-align:left;padding:2px 0'>{_shown(value)}</td></tr>"
            for name, value in self.pairs
        )
        caption = _caption(self.title)
        return f"<table class='ctp-facts' style='color:{_INK};border:none'>{caption}{rows}</table>"

    @property
    def text(self) -> str:
        """``name: value`` lines."""
        lines = [f"{name}: {value}" for name, value in self.pairs]
        return "\n".join([self.title, *lines] if self.title else lines)


@dataclass(frozen=True)
class Table:
    """A table; ``code`` names columns that hold commands, ``numbers`` those set to the right; ``links``
    has where a cell leads that says this."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    code: Collection[str] = ()
    numbers: Collection[str] = ()
    folded: bool = False
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def html(self) -> str:
        """A table with rules and its title above; ``folded`` shows that alone until it is opened."""
        title, rows = escaped(self.title), "".join(map(self._row, self.rows))
        head = self._row(self.columns, first="col", others="col")
        # A folded table has its title where it is unfolded.
        caption = "" if self.folded else _caption(self.title)
        table = (
            f"<table class='ctp-table' style='color:{_INK};border-collapse:collapse;margin:4px 0'>"
            f"{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>"
        )
        return f"<details><summary>{title}</summary>{table}</details>" if self.folded else table

    def _row(self, row: Sequence[object], *, first: str = "row", others: str = "") -> str:
        """A row of cells, of which the first says what the others are of; ``scope`` of each."""
        scopes = (first, *[others] * (len(self.columns) - 1))
        cells = zip(self.columns, row, scopes, strict=True)
        return f"<tr>{''.join(self._cell(*cell) for cell in cells)}</tr>"

    def _cell(self, column: str, value: object, scope: str) -> str:
        align = "right" if column in self.numbers else "left"
        may_wrap = column in self.code or column in _PROSE
        wrap = "normal;overflow-wrap:anywhere" if may_wrap else "nowrap"
        style = (
            f"text-align:{align};padding:3px 14px 3px 0;border-bottom:1px solid {_LINE};"
            f"vertical-align:top;white-space:{wrap}"
        )
        shown = _shown(value)
        if scope != "col" and column in self.code and shown:
            shown = f"<code style='white-space:pre-wrap;word-break:break-word'>{shown}</code>"
        if scope != "col" and str(value) in self.links:
            shown = f"<a href='{escaped(self.links[str(value)])}'>{shown}</a>"
        if not scope:
            return f"<td style='{style}'>{shown}</td>"
        weight = "" if scope == "col" else ";font-weight:normal"
        return f"<th scope='{scope}' style='{style}{weight}'>{shown}</th>"

    @property
    def text(self) -> str:
        """Columns set apart by two blanks."""
        cells = [list(map(str, row)) for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([self.title, *lines] if self.title else lines)


@dataclass(frozen=True)
class Notes:
    """Sentences one below the other, each with its symbol; nothing at all when there are none."""

    kind: str
    sentences: Sequence[str]
    title: str = ""

    @property
    def html(self) -> str:
        """A list."""
        if not self.sentences:
            return ""
        items = "".join(
            f"<li style='list-style:none'>{_SYMBOLS[self.kind]} {escaped(sentence)}</li>"
            for sentence in self.sentences
        )
        title = f"<strong>{escaped(self.title)}</strong>" if self.title else ""
        return (
            f"<div class='ctp-notes' style='color:{_INK};margin:6px 0'>{title}"
            f"<ul style='margin:2px 0;padding-left:4px'>{items}</ul></div>"
        )

    @property
    def text(self) -> str:
        """A line each."""
        lines = [f"{_SYMBOLS[self.kind]} {sentence}" for sentence in self.sentences]
        return "\n".join([self.title, *lines] if self.title and lines else lines)


@dataclass(frozen=True)
class Picture:
    """A plot as PNG, ``alt`` what it shows in words; ``dark`` the same for a dark page."""

    png: bytes = field(repr=False)
    alt: str
    dark: bytes = field(default=b"", repr=False)

    @property
    def html(self) -> str:
        """The picture in place; a page that follows the reader's theme takes ``dark`` there."""
        look = f"alt='{escaped(self.alt)}' style='max-width:100%' src='{_data(self.png)}'"
        if not self.dark:
            return f"{_DARK_JUPYTERLAB}<img class='ctp-light' {look}>"
        dark = f"media='screen and (prefers-color-scheme: dark)' srcset='{_data(self.dark)}'"
        return f"<picture class='ctp-picture'><source {dark}><img {look}></picture>"

    @property
    def text(self) -> str:
        """What it shows."""
        return f"[picture: {self.alt}]"


def _caption(title: str) -> str:
    return f"<caption style='{_CAPTION}'>{escaped(title)}</caption>" if title else ""


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass(frozen=True)
class Page:
    """Blocks below each other; a notebook shows it as HTML, a terminal as text.

    ``run_dir`` tells the runner which run an output shows.
    """

    blocks: Sequence[Block]
    run_dir: str = ""

    @property
    def html(self) -> str:
        """The page as a fragment."""
        return "".join(block.html for block in self.blocks)

    @property
    def text(self) -> str:
        """The page for a terminal."""
        return printable("\n\n".join(text for block in self.blocks if (text := block.text)))

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """IPython's hook: the data, and as metadata which run it shows."""
        metadata = {"ctp_runbook": {"run_dir": self.run_dir}} if self.run_dir else {}
        return {"text/html": self.html, "text/plain": self.text}, metadata
