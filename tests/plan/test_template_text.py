"""The syntax of templates: what a value is, what a line may be, where a placeholder stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.plan.template_text import (
    parse_template,
    placeholders,
    printable,
    quoted,
    read_template,
)

LITERAL = {
    "quotes stay": (b"K=\"a b\" 'c'", "\"a b\" 'c'"),
    "nothing is expanded": (b"K=$HOME ${X:-1} `id` $(id)", "$HOME ${X:-1} `id` $(id)"),
    "no inline comment": (b"K=echo a # b", "echo a # b"),
    "after the first equals sign": (b"K=A=1 cmd --x=2", "A=1 cmd --x=2"),
    "trimmed": (b"K =  \t a b \t ", "a b"),
    "backslashes stay": (rb"K=a\nb\\", r"a\nb\\"),
    "not ASCII": ("K=上期所".encode(), "上期所"),
    "no-break space is no blank": ("K=\u00a0a".encode(), "\u00a0a"),
    "byte order mark": (b"\xef\xbb\xbfK=a", "a"),
    "carriage return": (b"K=a\r\n", "a"),
    "blank": (b"K=", ""),
}


@pytest.mark.parametrize(("raw", "value"), LITERAL.values(), ids=LITERAL)
def test_values_are_literal(raw: bytes, value: str) -> None:
    """A value is everything after the first ``=``, trimmed, and nothing is done to it."""
    text = parse_template(raw, file="x.env")
    assert [(entry.key, entry.value) for entry in text.entries] == [("K", value)]
    assert text.problems == ()


def test_lines_are_counted_from_one_through_comments_and_blanks() -> None:
    """The line a problem names is the line an editor shows."""
    text = parse_template(b"# comment = no\n\n  \t\nA=1\n#B=2\nC=3", file="x.env")
    assert [(entry.key, entry.line) for entry in text.entries] == [("A", 4), ("C", 6)]


@pytest.mark.parametrize(
    ("raw", "found", "key"),
    [
        (b"JUST_A_KEY", "a line without '='", "JUST_A_KEY"),
        (b"a secret pasted here", "a line without '='", "(no key)"),
        (b"= value", "no key before '='", "(no key)"),
        (b"K=a\0b", "control character U+0000 at column 4", "K"),
        (b"K=a\tb", "control character U+0009 at column 4", "K"),
        (b"K=a\rb", "control character U+000D at column 4", "K"),
        (b"K=a\x7f", "control character U+007F at column 4", "K"),
        (b"K=a\x0b", "control character U+000B at column 4", "K"),
        ("K=a\u2028b".encode(), "control character U+2028 at column 4", "K"),
        (b"K=\xc3(", "byte 0xc3 at column 3, which is not UTF-8", "K"),
        (b"K=\xed\xa0\x80", "byte 0xed at column 3, which is not UTF-8", "K"),
    ],
)
def test_broken_line_is_a_problem_of_that_line(raw: bytes, found: str, key: str) -> None:
    """A line that cannot be taken is refused with its place, and the others are still read."""
    text = parse_template(b"A=1\n" + raw + b"\nZ=2", file="x.env")
    assert [entry.key for entry in text.entries] == ["A", "Z"]
    (problem,) = text.problems
    assert (problem.line, problem.found, problem.key) == (2, found, key)


def test_reading_gives_up_on_what_is_no_template() -> None:
    """A binary file is not answered with a page for each of its lines."""
    text = parse_template(b"no template\n" * 10_000, file="x.env")
    assert len(text.problems) == 201
    assert "200 lines" in text.problems[-1].found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("cmd <name>", ("<name>",)),
        ("a/<new-release>/b <x_1> <new-release>", ("<new-release>", "<x_1>")),
        ("<券商>", ("<券商>",)),
        ("cat <file", ()),
        ("a < b > c", ()),
        ("cat <<EOF", ()),
        ("cat <<EOF>out", ()),
        ("cat <<<word >x", ()),
        ("diff <(a) <(b)", ()),
        ("2>&1 <&3 >out", ()),
        ("test 1 -lt 2 && echo <>", ()),
        ("x <->y", ()),
    ],
)
def test_placeholders_are_told_from_redirections(value: str, found: tuple[str, ...]) -> None:
    """``<name>`` without blanks is a placeholder; what bash reads as a redirection is none."""
    assert placeholders(value) == found


def test_quotes_show_what_cannot_be_seen() -> None:
    """A sentence stays on its line, and stays readable, whatever was found."""
    assert printable("a\x1b[2Jb\tc\u202ed\n") == "a\\x1b[2Jb\tc\\x202ed\n"
    assert printable("of another encoding: \udcff\x1b") == "of another encoding: \\udcff\\x1b"
    assert quoted("a\x1b[2Jb\n") == "'a\\x1b[2Jb\\x0a'"
    assert len(quoted("x" * 500)) == 82


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"#" * ((1 << 20) + 1)), "more than 1048576 bytes"),
    ],
    ids=["missing", "directory", "large"],
)
def test_unreadable_file_is_one_problem(make: object, found: str, tmp_path: Path) -> None:
    """A file that is not there, or is none, is told with the option that named it."""
    assert callable(make)
    make(tmp_path / "x.env")
    (problem,) = read_template(tmp_path / "x.env", flag="--cutover-template").problems
    assert found in problem.found
    assert (problem.line, problem.key) == (0, "--cutover-template")
