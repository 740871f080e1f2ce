"""Blocks of a page: safe to paste, the same facts as HTML and as text, never by colour alone."""

from __future__ import annotations

import re

import pytest

from ctp_runbook.show.blocks import (
    Banner,
    Block,
    Facts,
    Link,
    Notes,
    Page,
    Picture,
    Table,
    mark,
    symbol_of,
)

HOSTILE = "<script>alert('x')</script>"
BLOCKS: list[Block] = [
    Banner("bad", HOSTILE, HOSTILE),
    Facts([(HOSTILE, HOSTILE)]),
    Table((HOSTILE,), [(HOSTILE,)], HOSTILE, code=(HOSTILE,)),
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


# --- tables -----------------------------------------------------------------------


def test_a_table_in_a_terminal_has_straight_columns() -> None:
    """Each column as wide as its widest cell, two blanks between, none at the end of a line."""
    table = Table(("step", "took"), [("precheck", "1.2 s"), ("a", "")], "Steps")
    assert table.text.splitlines() == ["Steps", "step      took", "precheck  1.2 s", "a"]


def test_a_table_without_rows_still_has_its_head() -> None:
    """What would stand there can be seen."""
    assert Table(("a", "b"), []).text == "a  b"
    assert Table(("a", "b"), []).html.count("<th") == 3  # thead and two cells


def test_a_row_of_another_length_is_a_mistake() -> None:
    """A cell that nobody sees would be a fact left out."""
    with pytest.raises(ValueError, match="zip"):
        _ = Table(("a", "b"), [("only one",)]).html


@pytest.mark.parametrize(
    ("table", "style"),
    [
        (Table(("n",), [("1",)], numbers=("n",)), "text-align:right"),
        (Table(("n",), [("1",)]), "text-align:left"),
        (Table(("n",), [("1",)]), "white-space:nowrap"),
        (Table(("why",), [("1",)]), "white-space:normal"),
        (Table(("n",), [("1",)], code=("n",)), "white-space:normal"),
    ],
    ids=["numbers", "words", "short", "prose", "code"],
)
def test_a_cell_is_set_by_what_its_column_is(table: Table, style: str) -> None:
    """Numbers to the right; commands and reasons may take several lines, all else stays whole."""
    assert style in table.html


def test_a_command_is_set_as_code_and_its_heading_is_not() -> None:
    """An empty command leaves no empty box."""
    html = Table(("command",), [("run --all",), ("",)], code=("command",)).html
    assert html.count("<code") == 1
    assert "run --all</code>" in html


def test_a_table_says_of_what_each_cell_is() -> None:
    """A reader who cannot see it hears its title, and with each cell its column and its row."""
    html = Table(("step", "took"), [("precheck", "1.2 s")], "Steps").html
    assert re.findall(r"<caption.*?>(.*?)</caption>", html) == ["Steps"]
    scopes = re.findall(r"<(?:th|td)(?: scope='(\w+)')? .*?>(.*?)</t[hd]>", html)
    assert scopes == [("col", "step"), ("col", "took"), ("row", "precheck"), ("", "1.2 s")]
    assert "<caption" not in Table(("step",), []).html
    assert "<th scope='row'" in Facts([("run", "1")]).html


HOSTILE_CELLS = {
    "a tag": "<img src=x onerror=alert(1)>",
    "an attribute's end": "' onmouseover='alert(1)",
    "an escape sequence": "\x1b]0;owned\x07\x1b[2J",
    "the end of a text": "a\x00b",
    "no text": b"\xff\xfe".decode(errors="surrogateescape"),
    "turned round": "\u202egnp.exe",
    "long": "x" * 100_000,
}


@pytest.mark.parametrize("cell", HOSTILE_CELLS.values(), ids=HOSTILE_CELLS)
def test_a_cell_holds_any_text(cell: str) -> None:
    """It is shown and not obeyed, whole, by whatever block; the page can be written to a file."""
    blocks: list[Block] = [
        Table((cell, "why"), [(cell, cell)], cell, code=(cell,)),
        Table((cell,), [(cell,)], cell, folded=True),
        Facts([(cell, cell)]),
        Notes("warn", [cell], cell),
        Banner("bad", cell, cell),
    ]
    html = "".join(block.html for block in blocks)
    assert html.encode()
    assert "<img" not in html
    assert "onmouseover='" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\udc80-\udcff]", html)
    assert html.count("x" * 100_000) == (13 if len(cell) == 100_000 else 0)


def test_a_folded_table_shows_its_title_until_it_is_opened() -> None:
    """Long lists are there for those who want them; in print they are all there."""
    html = Table(("a",), [("1",)], "All of them", folded=True).html
    assert html.startswith("<details><summary>All of them</summary><table")
    assert "<strong>" not in html


# --- the others -------------------------------------------------------------------


def test_a_banner_without_a_sentence_is_its_title() -> None:
    """No colon that leads nowhere, no empty line below."""
    assert Banner("good", "Passed").text == "✓ Passed"
    assert Banner("good", "Passed", "all of it").text == "✓ Passed: all of it"
    assert "margin-top:2px" not in Banner("good", "Passed").html


@pytest.mark.parametrize(
    ("word", "symbol"), [("lost", "!"), ("running", "…"), ("not_run", "–"), ("nothing", "")]
)
def test_a_symbol_can_stand_alone(word: str, symbol: str) -> None:
    """For a line that has its words elsewhere; a word that is no status has none."""
    assert symbol_of(word) == symbol


def test_a_page_without_a_run_carries_no_metadata() -> None:
    """A notebook that shows no run is stamped with none."""
    assert Page([Banner("info", "x")])._repr_mimebundle_()[1] == {}


def test_a_page_is_its_text_where_nothing_else_can_be_shown() -> None:
    """Blocks apart by a blank line, those that say nothing left out."""
    page = Page([Banner("info", "a"), Notes("warn", []), Facts([("b", 1)])])
    assert repr(page) == page.text == "ℹ a\n\nb: 1"
    assert page._repr_html_() == page.html


def test_a_picture_for_one_theme_is_turned_over_on_a_dark_notebook() -> None:
    """JupyterLab's theme is its own, not the system's: a filter does what a media query cannot."""
    html = Picture(b"light", "alt").html
    assert "data-jp-theme-light='false'" in html
    assert "class='ctp-light'" in html
    assert "<picture" not in html


def test_notes_have_a_title_only_with_something_below_it() -> None:
    """Of many warnings the title is said once."""
    notes = Notes("warn", ["a", "b"], "Warnings")
    assert notes.text.splitlines() == ["Warnings", "! a", "! b"]
    assert notes.html.count("<li") == 2
    assert Notes("warn", [], "Warnings").text == ""


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("05_watch.ipynb", "./05_watch.ipynb"),
        ("//elsewhere/x", "./elsewhere/x"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ("a'><script>", "./a%27%3E%3Cscript%3E"),
    ],
)
def test_a_link_leads_to_a_file_beside_the_page(path: str, href: str) -> None:
    """Whatever stands in it; for a terminal it is its word."""
    facts = Facts([("next", Link("<05>", path))])
    assert f"<a href='{href}' " in facts.html
    assert "&lt;05&gt;</a>" in facts.html
    assert facts.text == "next: <05>"
    assert href in Table(("a", "b"), [("x", Link("05", path))]).html
