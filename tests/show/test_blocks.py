"""Blocks of a page: safe to paste, the same facts as HTML and as text, never by colour alone."""

from __future__ import annotations

import re

import pytest

from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Page, Picture, Table, mark

HOSTILE = "<script>alert('x')</script>"
BLOCKS: list[Block] = [
    Banner("bad", HOSTILE, HOSTILE),
    Facts([(HOSTILE, HOSTILE)]),
    Table((HOSTILE,), [(HOSTILE,)], HOSTILE, code=frozenset({HOSTILE})),
    Table((HOSTILE,), [(HOSTILE,)], HOSTILE, folded=True),
    Notes("warn", [HOSTILE], HOSTILE),
    Picture(b"png", HOSTILE),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_nothing_that_is_shown_can_act(block: Block) -> None:
    """A journal, a command or a log is text on the page, whatever it holds."""
    assert "<script" not in block.html
    assert "&lt;script&gt;" in block.html
    assert HOSTILE in block.text


@pytest.mark.parametrize("kind", ["good", "bad", "warn", "info"])
def test_a_banner_has_a_symbol_beside_its_colour(kind: str) -> None:
    """Good and bad are told apart without seeing colour."""
    symbols = {k: Banner(k, "").text for k in ("good", "bad", "warn", "info")}
    assert len(set(symbols.values())) == 4
    assert symbols[kind].strip() in Banner(kind, "title").html


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("ok", "✓ ok"),
        ("FAILED", "✗ FAILED"),
        ("INCONCLUSIVE", "? INCONCLUSIVE"),
        ("simulated_ok", "○ simulated_ok"),
        ("unheard-of", "unheard-of"),
        (True, "✓"),
        (False, "✗"),
    ],
)
def test_a_status_has_its_symbol(word: object, shown: str) -> None:
    """Statuses and verdicts carry a symbol; a flag is one."""
    assert mark(word) == shown


def test_colours_follow_the_reader_s_theme() -> None:
    """Text colour is JupyterLab's own variable with a fallback, so both themes are readable."""
    html = Page(BLOCKS).html
    assert re.search(r"[^-]color:var\(--jp-ui-font-color1, inherit\)", html)
    assert not re.search(r"[^-]color:#", html)


def test_a_page_says_which_run_it_shows() -> None:
    """The runner stamps a notebook with the run its outputs name."""
    data, metadata = Page([Banner("info", "hello")], run_dir="/o/run")._repr_mimebundle_()
    assert set(data) == {"text/html", "text/plain"}
    assert metadata == {"ctp_runbook": {"run_dir": "/o/run"}}


def test_notes_without_sentences_leave_no_trace() -> None:
    """No warnings, no empty box."""
    assert Notes("warn", [], "Warnings").html == ""
    assert Page([Notes("warn", []), Facts([("a", 1)])]).text == "a: 1"


def test_a_picture_for_both_themes_prints_light() -> None:
    """The dark picture is for dark screens only; on paper the light one stands."""
    html = Picture(b"light", "alt", b"dark").html
    assert "media='screen and (prefers-color-scheme: dark)'" in html
    assert html.index("<source") < html.index("<img")
