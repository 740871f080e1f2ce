"""Facts about probes/clickhouse.py: rows, or whose fault it is that there are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms, quoted
from tests.props.rules import rule_of
from tests.props.small_servers import Asked, free_port, scripted_http

pytestmark = pytest.mark.twin
RULE = rule_of("clickhouse", "SELECT 1, 2")


@contextmanager
def door_to(
    answer: str | Callable[[Asked], tuple[int, str]], status: int = 200
) -> Iterator[ClickHouseDoor]:
    """A way into a ClickHouse that answers so."""
    serve = answer if callable(answer) else lambda asked: (status, answer)
    with scripted_http(serve) as url:
        yield ClickHouseDoor(url, "me", "geheim")


def rows(*data: object) -> str:
    """A result as ClickHouse writes it in the format asked for."""
    return json.dumps({"meta": [], "data": data, "rows": len(data)})


def test_the_login_goes_in_headers_and_the_query_in_the_body() -> None:
    """Nothing of it is in the URL, which a server may log; and the server has a deadline, too."""
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[int, str]:
        seen.append(asked)
        return 200, rows(["a", 2**63])

    with door_to(answer) as door:
        assert door.rows("SELECT 'ä'", seconds=7.9) == [["a", 2**63]]
        door.run("CREATE TABLE t", seconds=0.5)
        assert "geheim" not in repr(door)
    (method, path, headers, body), (_, second, _, statement) = seen
    assert (method, body.decode(), statement) == ("POST", "SELECT 'ä'", b"CREATE TABLE t")
    assert (headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"]) == ("me", "geheim")
    assert urlsplit(path).path == "/"
    settings = parse_qs(urlsplit(path).query)
    assert settings["default_format"] == ["JSONCompact"]
    assert settings["max_execution_time"] == ["7"]
    assert parse_qs(urlsplit(second).query)["max_execution_time"] == ["1"]


NO_ROWS = {
    "a page": ("<html>", 200, "answered '<html>', expected rows in JSON; is this its HTTP"),
    "another JSON": ("[1]", 200, "expected rows in JSON"),
    "no data": ("{}", 200, "expected rows in JSON"),
    "nested without end": ("[" * 100_000, 200, "expected rows in JSON"),
    "a syntax error": ("Code: 62. DB::Exception:\n Syntax\terror", 400, "HTTP 400: Code: 62. DB::"),
    "a wrong password": (
        "Code: 516. DB::Exception",
        403,
        "user me and its password are taken from",
    ),
    "no such user": ("Code: 193. DB::Exception", 403, "CLICKHOUSE_PASSWORD of the environment or"),
    "no right": ("Code: 497. ACCESS_DENIED", 403, "an administrator grants user me what is named"),
    "a full disk": ("Code: 243. NOT_ENOUGH_SPACE", 500, "make room on the disk of its data"),
    "a full disk, told otherwise": ("No space left on device", 500, "make room on the disk"),
}


IN_A_HEADER = {
    "rows of before": (rows([1]), "Code: 395. {"),
    "nothing": ("", "Code: 395. "),
    "the exception itself": (
        "1\nCode: 395. DB::Exception: thrown",
        "Code: 395. DB::Exception: thrown",
    ),
}


@pytest.mark.parametrize(("body", "said"), IN_A_HEADER.values(), ids=IN_A_HEADER)
def test_an_exception_told_in_a_header_alone_is_one(body: str, said: str) -> None:
    """Behind HTTP 200, whatever a proxy made of the body: nothing of that is believed."""
    answer = 200, body, {"X-ClickHouse-Exception-Code": "395"}
    with scripted_http(lambda asked: answer) as url:
        door = ClickHouseDoor(url, "me", "geheim")
        for ask in (door.rows, door.run):
            with pytest.raises(ProbeError) as caught:
                ask("SELECT 1", seconds=5)
            assert f"HTTP 200: {said}".rstrip() in str(caught.value)


@pytest.mark.parametrize(("answer", "status", "said"), NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_no_answer_is_told_with_what_to_do(answer: str, status: int, said: str) -> None:
    """By its address, without the login; a long text is cut."""
    with door_to(answer, status) as door, pytest.raises(ProbeError) as caught:
        door.rows("SELECT 1", seconds=5)
    assert str(caught.value).startswith(f"ClickHouse at {door.shown}: ")
    assert said in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_nobody_there_is_told_with_how_to_look() -> None:
    """Its port refused: is the service up, and is the flag right?"""
    door = ClickHouseDoor(f"http://me:geheim@127.0.0.1:{free_port()}/x?y=z", "me", "geheim")
    with pytest.raises(
        ProbeError, match=r"refused; is the service up .*--clickhouse-url"
    ) as caught:
        door.rows("SELECT 1", seconds=2)
    assert "geheim" not in str(caught.value)


SHOWN = {
    "http://h": "http://h:8123",
    "http://me:pw@h:1/x?password=pw": "http://h:1",
}


@pytest.mark.parametrize(("url", "shown"), SHOWN.items())
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    """With ClickHouse's own port where none is named."""
    assert ClickHouseDoor(url, "", "").shown == shown


DELAYS: dict[str, tuple[str, float | None]] = {
    "a delay": (rows([12.5, 3]), 12.5),
    "a whole number": (rows([12, 3]), 12.0),
    "of no event": (rows([0, 0]), None),
    "nothing": (rows([None, 3]), None),
}


@pytest.mark.parametrize(("answer", "delay"), DELAYS.values(), ids=DELAYS)
def test_a_delay_of_no_event_is_none(answer: str, delay: float | None) -> None:
    """What came in long ago says nothing about now."""
    with door_to(answer) as door:
        assert ingest_delay_ms(door, "q", seconds=5) == delay


@pytest.mark.parametrize("answer", [rows(), rows([1]), rows([1, 2, 3]), rows([1, 2], [3, 4])])
def test_another_shape_is_an_error_of_the_query(answer: str) -> None:
    """One row of value and events, or the query is to be corrected."""
    with door_to(answer) as door, pytest.raises(ProbeError, match="correct the query in watch"):
        ingest_delay_ms(door, "q", seconds=5)


def test_the_source_takes_a_password_anew_at_each_look(tmp_path: Path) -> None:
    """From the variable that clickhouse_key_env names, of the env file: it may be changed."""
    seen: list[tuple[str, str]] = []

    def answer(asked: Asked) -> tuple[int, str]:
        seen.append((asked[2]["X-ClickHouse-User"], asked[2]["X-ClickHouse-Key"]))
        return 200, rows([3, 1])

    env_file = tmp_path / "x.env"
    with scripted_http(answer) as url:
        settings = {"clickhouse_url": url, "clickhouse_key_env": "KEY", "env_file": str(env_file)}
        measure = SOURCES["clickhouse"].measure(RULE, Surroundings(settings, tmp_path, {}))
        for secret in ("one", "two"):
            env_file.write_text(f"KEY={secret}\n")
            assert measure() == 3.0
    assert seen == [("default", "one"), ("default", "two")]


LITERALS = {"a": "'a'", "it's": r"'it\'s'", "a\\": r"'a\\'", r"\'": r"'\\\''", "": "''"}


@pytest.mark.parametrize(("text", "literal"), LITERALS.items())
def test_a_literal_ends_where_its_text_does(text: str, literal: str) -> None:
    """Quotes and backslashes are escaped."""
    assert quoted(text) == literal
