"""TOML whose keys are all known: values by type and range, problems by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.errors import ConfigError
from ctp_runbook.plan.checked_toml import Field, TomlText

TEXT = """\
a = 1
# b = 2

[x]
a = 3
"b" = 4
x.deep = 5

[x.y]
a = 6
"""

LINES = {
    ("a",): 1,
    ("x", "a"): 5,
    ("x", "b"): 6,
    ("x", "x", "deep"): 7,
    ("x",): 4,
    ("x", "y"): 9,
    ("x", "y", "a"): 10,
    ("x", "y", "missing"): 9,
    ("missing",): 0,
}


@pytest.mark.parametrize(("path", "line"), LINES.items(), ids=map(".".join, LINES))
def test_lines_of_keys(path: tuple[str, ...], line: int) -> None:
    """A key has its own line, a missing one that of its table, and comments count for nothing."""
    assert TomlText("x.toml", "--x", TEXT).line(path) == line


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Field("number"), [0, 1.5, 86400], [-1, 86401, True, "1", float("nan"), float("inf")]),
        (Field("number", low_allowed=False), [0.001], [0, -0.0]),
        (Field("integer", high=9), [0, 9], [10, 1.0, False, 10**400]),
        (Field("boolean"), [True, False], [0, 1, "true"]),
        (Field("text"), ["a"], ["", " ", 1, None]),
        (Field("text", choices=("a", "b")), ["a"], ["c", "A", ["a"]]),
        (Field("texts"), [[], ["a"]], ["a", [1]]),
        (Field("spans"), [[], ["09:00-10:15"]], [["9-10"], "09:00-10:15", [1]]),
        (Field("strings"), [{}, {"a": "b"}], [{"a": 1}, []]),
    ],
)
def test_fields_accept_their_type_and_range(
    field: Field, good: list[object], bad: list[object]
) -> None:
    """What is accepted is of the type and in the range that ``words`` promise."""
    assert [field.accepts(value) for value in good] == [True] * len(good)
    assert [field.accepts(value) for value in bad] == [False] * len(bad)
    assert field.words


@given(text=st.text(max_size=200) | st.text(alphabet="ab=[]{}\"'.,1\n# ", max_size=200))
def test_any_text_is_a_table_or_a_refusal(text: str) -> None:
    """No text raises anything but ConfigError, and a line is found for whatever was read."""
    source = TomlText("x.toml", "--x", text)
    try:
        table = source.table()
        problems, expected = tuple(source.check((), table, {})), len(table)
    except ConfigError as error:
        problems, expected = error.problems, 1
    assert len(problems) == expected
    assert all(0 <= problem.line <= text.count("\n") + 2 for problem in problems)
