"""Facts about probes/strict_json.py: one object, or a ProbeError, whatever the bytes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.strict_json import decode_json, decode_object, keys_of, shown

REFUSED = {
    "nothing": (b"", "not JSON"),
    "blank": (b" \n", "not JSON"),
    "words": (b"curl: (7) Failed to connect", "not JSON"),
    "two objects": (b"{} {}", "Extra data"),
    "two lines": (b'{"a": 1}\n{"a": 2}\n', "Extra data"),
    "cut": (b'{"a": [1, 2', "not JSON"),
    "a comma too many": (b'{"a": 1,}', "not JSON"),
    "Latin-1": ('{"a": "\u00e9"}'.encode("latin-1"), "not JSON"),
    "GBK": ('{"a": "\u672a\u5c31\u7eea"}'.encode("gbk"), "not JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not JSON"),
    "zeros": (b"\0" * 4096, "not JSON"),
    "one key twice": (b'{"a": 1, "a": 2}', 'key "a" stands more than once'),
    "one key twice, inside": (b'{"b": [{"a": 1, "a": 1}]}', 'key "a" stands more than once'),
    "a level too many": (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 levels"),
    "a level too many, behind a quote": (b'{"a\\"": ' + b"[" * 64, "more than 64 levels"),
    "deep lists": (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    "deep and whole": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "a number of five thousand digits": (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    "too much": (b'{"a": "' + b"x" * (4 << 20) + b'"}', "more than 4 MiB of output"),
    "a list": (b"[1, 2]", "not a JSON object: found a list of 2"),
    "a text": (b'"{}"', 'not a JSON object: found "{}"'),
    "null": (b"null", "not a JSON object: found null"),
    "a number": (b"3", "not a JSON object: found 3"),
    "NaN": (b"NaN", "not a JSON object: found NaN"),
}


@pytest.mark.parametrize(("output", "words"), REFUSED.values(), ids=REFUSED)
def test_anything_but_one_object_is_refused(output: bytes, words: str) -> None:
    """With whose output it is, and what is wrong with it."""
    with pytest.raises(ProbeError) as caught:
        decode_object(output, subject="cmd")
    assert str(caught.value).startswith("cmd: ")
    assert words in str(caught.value)


def test_numbers_that_json_does_not_have_are_told() -> None:
    """Who reads the fields decides what they spoil."""
    document = decode_object(b'{"a": NaN, "b": [1e999, -Infinity, 1.5]}', subject="cmd")
    assert document.not_numbers == ("NaN", "1e999", "-Infinity")


def test_what_is_just_deep_enough_is_read() -> None:
    """Brackets in a text are none, nor do many side by side make it deep."""
    inner = b"[" * 63 + b"]" * 63
    output = b'{"a": ' + inner + b', "[[[[{{{{\\"": "' + b"[" * 200 + b'", "b": [' + inner + b"]}"
    with pytest.raises(ProbeError, match="nested too deeply"):
        decode_object(output, subject="cmd")
    output = output.replace(b'"b": [' + inner + b"]", b'"b": ' + b"[{}," * 62 + b"1" + b"]" * 62)
    assert set(decode_object(output, subject="cmd").fields) == {"a", "b", '[[[[{{{{"'}


WORDS = {
    b"curl: (7) refused": 'it printed "curl: (7) refused"',
    b"": "it printed nothing",
    b"\xff\n": r'it printed "\\xff"',
    b"x" * 81: "it printed a text of 81 characters",
}


@pytest.mark.parametrize(("output", "words"), WORDS.items())
def test_what_is_no_json_is_quoted(output: bytes, words: str) -> None:
    """Whole where it is short, for a part could show half a secret."""
    with pytest.raises(ProbeError) as caught:
        decode_object(output, subject="cmd")
    assert str(caught.value).endswith(f"; {words}")


def test_another_limit_of_size_is_told() -> None:
    """Pages and answers have limits of their own."""
    with pytest.raises(ProbeError, match="cmd: more than 10 bytes of output"):
        decode_json(b"[1, 2, 3, 4]", subject="cmd", most_bytes=10)
    assert decode_json(b"[1, NaN]", subject="cmd", most_bytes=10)[1] == ("NaN",)


def test_a_byte_order_mark_is_passed_over() -> None:
    """Windows editors and some loggers write it, and it changes no value."""
    assert decode_object(b'\xef\xbb\xbf{"a": 1}', subject="cmd").fields == {"a": 1}


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_else(output: bytes) -> None:
    """An object or a ProbeError."""
    with contextlib.suppress(ProbeError):
        assert isinstance(decode_object(output, subject="cmd").fields, dict)


SHOWN = {
    "a short text": ("a b", '"a b"'),
    "Chinese": ("\u672a\u5c31\u7eea", '"\u672a\u5c31\u7eea"'),
    "half a surrogate pair": ("\ud800", r'"\ud800"'),
    "an escape": ("\x1b[2J", r'"\u001b[2J"'),
    "a long text": ("x" * 81, "a text of 81 characters"),
    "null": (None, "null"),
    "true": (True, "true"),
    "a big number": (10**5000, "a whole number beyond 64 bits"),
    "a fraction": (7.5, "7.5"),
    "a list": ([1, 2], "a list of 2"),
    "an object": ({"a": 1}, "an object of 1 keys"),
}


@pytest.mark.parametrize(("value", "words"), SHOWN.values(), ids=SHOWN)
def test_a_value_is_shown_whole_or_by_its_size(value: object, words: str) -> None:
    """Never a part of it, and always as text that can be written."""
    assert shown(value) == words
    assert json.dumps(shown(value), ensure_ascii=False).encode()


def test_keys_are_shown_in_part() -> None:
    """The first six say what kind of object it is."""
    assert keys_of({}) == "no keys"
    assert keys_of(dict.fromkeys("ab")) == 'the keys "a", "b"'
    assert keys_of(dict.fromkeys("abcdefgh")).endswith('"f", …')
