"""Facts about probes/session.py: a session is usable when all four parts of it are seen."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Member, Role
from ctp_runbook.probes.session import SessionState, read_session, read_trading_state
from tests.props.plan_fixtures import CLOSED_PORT_URL
from tests.props.small_stack import WHOLE_STATE

ENGINE = Member(Generation.NEW, Role.CORE_ENGINE, metrics_url=CLOSED_PORT_URL)
READY = {
    "td_session": "ready",
    "md_session": "logged_in",
    "settlement_confirmed": True,
    "stream_drained": True,
}
ENVIRON = {"PATH": os.environ["PATH"]}


def by_command(folder: Path, command: str, *, seconds: float = 5) -> SessionState:
    """The session as TRADING_STATE_CMD tells it."""
    return read_session(ENGINE, command=command, cwd=folder, env=ENVIRON, seconds=seconds)


def printing(folder: Path, **changes: object) -> str:
    """A command that prints the ready state with some changes; ``...`` leaves a key out."""
    state = {key: value for key, value in {**READY, **changes}.items() if value is not ...}
    (folder / "state.json").write_text(json.dumps(state))
    return "cat state.json"


def test_a_session_is_verified_only_when_all_of_it_is() -> None:
    """Each missing part is enough to say no, and the sentence shows which."""
    whole = SessionState(True, True, True, True, "x")
    assert whole.is_verified
    for part in ("td_logged_in", "md_logged_in", "settlement_confirmed", "stream_drained"):
        assert not replace(whole, **{part: False}).is_verified  # type: ignore[arg-type]
    assert replace(whole, md_logged_in=False).sentence == (
        "TD logged in: yes, MD logged in: no, settlement confirmed: yes, "
        "private stream drained: yes (x)"
    )


# --- by TRADING_STATE_CMD ---------------------------------------------------------

WORDS = {"ready": True, "logged_in": True, "connected": False, "disconnected": False, "": False}


@pytest.mark.parametrize(("word", "logged_in"), WORDS.items())
def test_a_login_has_its_words(word: str, logged_in: bool, tmp_path: Path) -> None:
    """Connected is not logged in."""
    state = by_command(tmp_path, printing(tmp_path, td_session=word, md_session=word))
    assert (state.td_logged_in, state.md_logged_in) == (logged_in, logged_in)


@pytest.mark.parametrize("key", READY)
@pytest.mark.parametrize("value", [..., None, False, 0, 1, 1.0, "yes", "true", [], {}])
def test_only_the_right_value_proves_a_part(key: str, value: object, tmp_path: Path) -> None:
    """A key that is missing, or 1 where true is meant, proves nothing."""
    assert by_command(tmp_path, printing(tmp_path)).is_verified
    assert not by_command(tmp_path, printing(tmp_path, **{key: value})).is_verified


def test_a_login_may_be_told_as_true(tmp_path: Path) -> None:
    """For engines without words for their states."""
    assert by_command(tmp_path, printing(tmp_path, td_session=True, md_session=True)).is_verified


def test_the_command_is_told_which_engine_is_meant(tmp_path: Path) -> None:
    """One command serves both generations."""
    (tmp_path / "state.json").write_text(json.dumps(WHOLE_STATE))
    command = 'printf "%s %s" "$CTP_GENERATION" "$CTP_METRICS_URL" > told; cat state.json'
    state = read_trading_state(command, member=ENGINE, cwd=tmp_path, env=ENVIRON, seconds=5)
    assert state.trading_day == "20260302"
    assert (tmp_path / "told").read_text() == f"new {CLOSED_PORT_URL}"


def test_the_session_does_not_hang_on_the_funds(tmp_path: Path) -> None:
    """A rollback may give orders to an engine whose account cannot be compared."""
    funds = {"PreBalance": float("nan")}
    assert by_command(tmp_path, printing(tmp_path, funds=funds, working_orders=3)).is_verified


def test_what_is_not_understood_is_named(tmp_path: Path) -> None:
    """Beside no there is why: what was read and what is expected."""
    state = by_command(tmp_path, printing(tmp_path, td_session=1, stream_drained=...))
    assert "TD logged in: no" in state.sentence
    assert "td_session: found 1, expected a word" in state.sentence
    assert "stream_drained: missing, expected true or false" in state.sentence


def test_a_session_says_when_it_was_so(tmp_path: Path) -> None:
    """Whoever asked has the clock to compare it with; one that cannot be read is a problem."""
    assert by_command(tmp_path, printing(tmp_path)).as_of is None
    state = by_command(tmp_path, printing(tmp_path, as_of="2026-03-02T01:02:03Z"))
    assert (state.as_of, state.is_verified) == (1772413323.0, True)
    state = by_command(tmp_path, printing(tmp_path, as_of="just now"))
    assert not state.is_verified
    assert 'as_of: found "just now", expected a time stamp' in state.sentence


FAILING = {
    "failed": ("echo '{}'; exit 2", "exit 2, expected 0"),
    "failed with words": ("echo no front >&2; exit 2", "exit 2, expected 0; it said: no front"),
    "JSON on stderr": (f"echo '{json.dumps(READY)}' >&2", "not JSON"),
    "hanging": ("sleep 600", "exit None, expected 0"),
    "nothing": ("true", "not JSON"),
    "no JSON": ("echo ready", "not JSON"),
    "no object": ("echo '[1]'", "not a JSON object"),
    "two objects": ("echo '{} {}'", "not JSON"),
    "not text": (r"printf '\xff'", "not JSON"),
    "an error of CTP": (
        """echo '{"ErrorID": 90, "ErrorMsg": "CTP: query not ready"}'""",
        'an error of CTP and no trading state: ErrorID 90, ErrorMsg "CTP: query not ready"',
    ),
    "five megabytes": ("head -c 5000000 /dev/zero", "more than 4 MiB of output"),
    "no end of output": ("yes", "MiB of output"),
    "no end of complaints": ("yes >&2", "exit None, expected 0 within 0.5 s"),
}


@pytest.mark.parametrize(("command", "words"), FAILING.values(), ids=FAILING)
def test_a_state_that_cannot_be_read_is_not_measured(
    command: str, words: str, tmp_path: Path
) -> None:
    """Anything but one object and exit 0 in time is a probe error with the member's name."""
    with pytest.raises(ProbeError) as caught:
        by_command(tmp_path, command, seconds=0.5)
    assert str(caught.value).startswith("TRADING_STATE_CMD for new_core_engine: ")
    assert words in str(caught.value)


def test_a_command_that_cannot_be_run_is_not_measured(tmp_path: Path) -> None:
    """Its folder is gone: a probe error, not the end of the run."""
    with pytest.raises(ProbeError, match="cannot be run in"):
        by_command(tmp_path / "gone", "true")


def test_a_long_last_word_is_not_quoted(tmp_path: Path) -> None:
    """Cut anywhere, it could show half a secret."""
    with pytest.raises(ProbeError, match=r"exit 3, expected 0$"):
        by_command(tmp_path, "printf '%01000d' 7 >&2; exit 3")


def test_a_warning_on_stderr_does_not_spoil_the_state(tmp_path: Path) -> None:
    """What is said to people is not part of the JSON."""
    command = f"echo 'warning: deprecated' >&2; {printing(tmp_path)}"
    assert by_command(tmp_path, command).is_verified


# --- by the metrics page ----------------------------------------------------------


@pytest.fixture
def states() -> Iterator[dict[str, str]]:
    """Label sets and values of the state family; ``url`` is where they are served."""
    shown: dict[str, str] = {}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(
                f"quant_hft_ctp_session_state{labels} {value}\n"
                for labels, value in shown.items()
                if labels != "url"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        shown["url"] = f"http://127.0.0.1:{server.server_port}/metrics"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield shown
        server.shutdown()
        thread.join()


def by_metrics(states: dict[str, str]) -> SessionState:
    """The session as the metrics page tells it."""
    member = ENGINE._replace(metrics_url=states["url"])
    return read_session(member, command="", cwd=Path(), env={}, seconds=5)


# td, md, and what of (TD, MD, settlement, stream) is seen.
PAGES = {
    ("4", "2"): (True, True, True, True),
    ("4", "1"): (True, False, True, True),
    ("3", "2"): (True, True, True, False),
    ("2", "2"): (True, True, False, False),
    ("1", "2"): (False, True, False, False),
    ("0", "0"): (False, False, False, False),
    ("4.0", "2.0"): (True, True, True, True),
    ("NaN", "2"): (False, True, False, False),
    ("-1", "2"): (False, True, False, False),
}


@pytest.mark.twin
@pytest.mark.parametrize(("page", "seen"), PAGES.items())
def test_each_state_of_each_channel(
    page: tuple[str, str], seen: tuple[bool, ...], states: dict[str, str]
) -> None:
    """0 disconnected, 1 connected, 2 logged in, 3 settlement confirmed, 4 drained."""
    states['{channel="td"}'], states['{channel="md"}'] = page
    found = by_metrics(states)
    assert (
        found.td_logged_in,
        found.md_logged_in,
        found.settlement_confirmed,
        found.stream_drained,
    ) == seen
    assert found.source == states["url"]


@pytest.mark.twin
@pytest.mark.parametrize("channels", [(), ("td",), ("md",)])
def test_a_page_without_both_channels_proves_nothing(
    channels: tuple[str, ...], states: dict[str, str]
) -> None:
    """Market data up says nothing about trading; the error says what to set instead."""
    states.update({f'{{channel="{one}"}}': "4" for one in channels})
    with pytest.raises(ProbeError, match="set TRADING_STATE_CMD in the template"):
        by_metrics(states)


@pytest.mark.twin
def test_an_engine_that_does_not_answer_is_not_measured() -> None:
    """Neither verified nor not."""
    with pytest.raises(ProbeError, match="Connection refused"):
        read_session(ENGINE, command="", cwd=Path(), env={}, seconds=1)
