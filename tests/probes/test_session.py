"""Facts about probes/session.py: a session is usable when all four parts of it are seen."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Generation, Identity, Member, Role
from ctp_runbook.plan.session_file import FactSource
from ctp_runbook.plan.session_sources import SessionPlan
from ctp_runbook.probes.session import (
    SessionFacts,
    SessionState,
    read_facts,
    read_session,
    read_trading_state,
)
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


# --- by declared sources ----------------------------------------------------------

NOW = 1_764_000_000.0
NOT_PROVED = {"recovered": "silent"}


def by_file(fact: str = "logged_in", **values: object) -> FactSource:
    """A field of ``engine.json``, whose heartbeat is in nanoseconds."""
    given = {"field": "ready", "equals": True, "heartbeat_field": "beat", **values}
    return FactSource(fact=fact, source="file", path="engine.json", **given)  # type: ignore[arg-type]


def facts(
    folder: Path,
    *sources: FactSource,
    command: str = "",
    not_proved: Mapping[str, str] = NOT_PROVED,
    known: Identity | None = None,
    wall: float = NOW,
) -> SessionFacts:
    """What these sources tell at NOW."""
    asked = SessionPlan(
        command=command, key="NEW_SESSION_CMD", sources=sources, not_proved=not_proved
    )
    running = {"cwd": folder, "env": ENVIRON, "seconds": 5.0}
    return read_facts(ENGINE, asked=asked, known=known, wall=wall, **running)  # type: ignore[arg-type]


def written(folder: Path, **changes: object) -> None:
    """The file of an engine that is well, with some changes; ``...`` leaves a field out."""
    state = {"beat": int((NOW - 1) * 1e9), "ready": True, "mode": "Ready", "deep": {"a": 1}}
    state |= changes
    text = json.dumps({key: value for key, value in state.items() if value is not ...})
    (folder / "engine.json").write_text(text)


def test_a_field_with_a_fresh_heartbeat_tells_a_fact(tmp_path: Path) -> None:
    """And nothing else does: it is the value that says yes, of its own type."""
    written(tmp_path)
    (fact, *others) = facts(tmp_path, by_file()).facts
    assert (fact.value, fact.source) == (True, "engine.json: ready true")
    assert all(other.value is None for other in others)
    for value in (False, 1, "true", None):
        written(tmp_path, ready=value)
        assert facts(tmp_path, by_file()).facts[0].value is False
    written(tmp_path)
    assert facts(tmp_path, by_file(field="deep.a", equals=1.0)).facts[0].value


UNTOLD = {
    "a dead engine's": (
        {"beat": int((NOW - 9) * 1e9)},
        "its beat is 9.0 s old, more than fresh_se",
    ),
    "from the future": ({"beat": int((NOW + 9) * 1e9)}, "its beat is 9.0 s from now"),
    "another unit": ({"beat": NOW}, "s old, more than"),
    "no number": ({"beat": "now"}, 'its beat is "now", expected a time in ns'),
    "a bool": ({"beat": True}, "its beat is true, expected"),
    "no heartbeat": ({"beat": ...}, 'no field beat; it has the keys "ready"'),
    "no field": ({"ready": ...}, 'no field ready; it has the keys "beat"'),
    "no JSON number": ({"deep": float("nan")}, "not JSON: found NaN"),
}


@pytest.mark.parametrize(("changes", "said"), UNTOLD.values(), ids=UNTOLD)
def test_a_file_that_is_not_of_now_tells_nothing(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    """Nor does one that is not whole; why stands in the sentence, and no reason makes up for it."""
    written(tmp_path, **changes)
    seen = facts(tmp_path, by_file(), not_proved={"logged_in": "x", **NOT_PROVED, "may_trade": "x"})
    assert seen.facts[0].value is None
    assert said in seen.sentence
    assert not seen.is_verified


def test_what_is_no_file_is_told_and_not_waited_at(tmp_path: Path) -> None:
    """Nothing, a pipe, a folder, a megabyte, half a file."""
    path = tmp_path / "engine.json"
    assert "it cannot be read: No such file" in facts(tmp_path, by_file()).sentence
    os.mkfifo(path)
    assert "it cannot be read" in facts(tmp_path, by_file()).sentence
    path.unlink()
    path.mkdir()
    assert "it cannot be read" in facts(tmp_path, by_file()).sentence
    path.rmdir()
    path.write_bytes(b" " * (2 << 20))
    assert "more than 1048576 bytes" in facts(tmp_path, by_file()).sentence or (
        "it cannot be read" in facts(tmp_path, by_file()).sentence
    )
    path.write_text('{"ready": tr')
    assert "not JSON" in facts(tmp_path, by_file()).sentence


def test_what_an_engine_before_this_one_wrote_tells_nothing(tmp_path: Path) -> None:
    """A new engine that is quick comes up beside the fresh file of the old one."""
    now = time.time()
    me = identity_of(os.getpid())
    assert me is not None
    written(tmp_path, beat=int(now * 1e9))
    assert facts(tmp_path, by_file(), known=me, wall=now).facts[0].value
    late = me._replace(start_ticks=int((time.clock_gettime(time.CLOCK_BOOTTIME) + 1) * 100))
    seen = facts(tmp_path, by_file(), known=late, wall=now)
    assert seen.facts[0].value is None
    assert "is of before this engine was started" in seen.sentence


def test_a_file_without_a_heartbeat_is_as_old_as_its_last_writing(tmp_path: Path) -> None:
    """So that a file a dead engine left behind never tells."""
    written(tmp_path)
    os.utime(tmp_path / "engine.json", (NOW, NOW))
    plain = by_file(heartbeat_field="")
    assert facts(tmp_path, plain).facts[0].value
    assert "its last writing is 6.0 s old" in facts(tmp_path, plain, wall=NOW + 6).sentence


MODES = {"Ready": True, "CloseOnly": True, "Blocked": False}


@pytest.mark.parametrize(("mode", "is_up"), MODES.items())
@pytest.mark.parametrize("equals", [None, "Ready"])
def test_an_engine_that_closes_only_is_up_and_does_not_trade(
    mode: str, is_up: bool, equals: str | None, tmp_path: Path
) -> None:
    """Blocked is not up; the mode is said as it is."""
    written(tmp_path, mode=mode)
    trades = by_file("may_trade", field="mode", equals=equals)
    command = """echo '{"logged_in": true, "settlement_confirmed": true}'"""
    seen = facts(tmp_path, trades, command=command)
    assert (seen.mode, seen.is_verified) == (mode, is_up)
    assert f"may trade: {mode}" in seen.sentence
    assert (seen.facts[-1].value is True) is (mode == "Ready")


def test_a_mode_that_nobody_knows_is_blocked_or_not_told(tmp_path: Path) -> None:
    """With the word that says yes, any other says no; without it, it must be one of three."""
    written(tmp_path, mode="warming")
    assert facts(tmp_path, by_file("may_trade", field="mode", equals="Go")).mode == "Blocked"
    seen = facts(tmp_path, by_file("may_trade", field="mode", equals=None))
    assert (seen.mode, seen.facts[-1].value) == ("", None)


SAID = {"td_logged_in": True, "md_logged_in": True, "settlement_confirmed": True}
SAID |= {"recovered": True, "trading_mode": "Ready"}  # type: ignore[dict-item]


def by_session_command(folder: Path, **changes: object) -> SessionFacts:
    """What a command says that tells all, with some changes; ``...`` leaves a key out."""
    said = {key: value for key, value in {**SAID, **changes}.items() if value is not ...}
    (folder / "said.json").write_text(json.dumps(said))
    return facts(folder, command="cat said.json", not_proved={})


def test_a_command_may_tell_all(tmp_path: Path) -> None:
    """Each part alone is enough to say no; missing, it is not told."""
    assert by_session_command(tmp_path).is_verified
    for key in SAID:
        for value in (..., None, False, 1, "yes"):
            assert not by_session_command(tmp_path, **{key: value}).is_verified
    both = {"td_logged_in": ..., "md_logged_in": ..., "logged_in": True}
    assert by_session_command(tmp_path, **both).is_verified


def test_a_command_says_as_of_when(tmp_path: Path) -> None:
    """Whoever asks has the clock to compare it with."""
    seen = by_session_command(tmp_path, as_of="2026-03-02T01:02:03Z")
    assert (seen.as_of, seen.is_verified) == (1772413323.0, True)
    assert not by_session_command(tmp_path, as_of="just now").is_verified


def test_a_command_that_fails_tells_nothing(tmp_path: Path) -> None:
    """In words, by its own key."""
    seen = facts(tmp_path, command="exit 3")
    assert not seen.is_told
    assert "NEW_SESSION_CMD for new_core_engine: exit 3" in seen.sentence


def test_what_is_named_is_not_proved(tmp_path: Path) -> None:
    """It is said so, with the reason; told as no all the same, it is no."""
    reasons = {"recovered": "silent", "may_trade": "no such state"}
    written(tmp_path)
    command = """echo '{"logged_in": true, "settlement_confirmed": true%s}'"""
    seen = facts(tmp_path, command=command % "", not_proved=reasons)
    assert seen.is_verified
    assert "recovered: not told, NOT PROVED (silent)" in seen.sentence
    assert not facts(tmp_path, command=command % "", not_proved={}).is_verified
    denied = command % ', "recovered": false'
    assert not facts(tmp_path, command=denied, not_proved=reasons).is_verified


def test_a_log_tells_by_the_events_of_this_engine(tmp_path: Path) -> None:
    """Confirmed once it is told, in the mode that was told last, until it is taken back."""
    log = FactSource(fact="may_trade", source="log", path="a.log", field="mode", event="permission")
    confirmed = FactSource(
        fact="settlement_confirmed", source="log", path="a.log", event="yes", lost_event="lost"
    )
    drained = FactSource(
        fact="recovered", source="log", path="a.log", event="report", field="all", equals=True
    )
    path = tmp_path / "a.log"

    def said(*lines: str) -> dict[str, str]:
        stamped = [
            f"ts_ns={1764000000 + n}000000000 event={line}\n" for n, line in enumerate(lines)
        ]
        path.write_text("".join(stamped))
        return {f.name: f.answer for f in facts(tmp_path, confirmed, drained, log).facts}

    assert said()["settlement_confirmed"] == "no"
    assert said()["may_trade"] == "Blocked"
    told = said("yes", 'report all="true"', 'permission mode="CloseOnly"')
    assert list(told.values()) == ["not told", "yes", "yes", "CloseOnly"]
    told = said("yes", 'report all="false"', "permission mode=CloseOnly", "permission mode=Ready")
    assert list(told.values()) == ["not told", "yes", "no", "Ready"]
    assert said("yes", "lost", "permission x=1") | {"recovered": "no"} == {
        "logged_in": "not told",
        "settlement_confirmed": "no",
        "recovered": "no",
        "may_trade": "not told",
    }
    assert "permission has no field mode" in facts(tmp_path, log).sentence
