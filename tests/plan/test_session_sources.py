"""Facts about plan/session_sources.py: which table tells which fact, and what nobody tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ConfigError, RunbookError
from ctp_runbook.plan.plan import Plan, plan_digest
from tests.props.plan_fixtures import make_plan

FILE = 'source = "file"\npath = "a.json"\n'
WHOLE = {
    "logged_in": f'{FILE}field = "trader_ready"\nequals = true',
    "settlement_confirmed": 'source = "log"\npath = "a.log"\nevent = "confirmed"',
    "recovered": 'source = "session_state"',
    "may_trade": f'{FILE}field = "mode"\nclose_only_seconds = 30',
}


def text_of(**tables: str) -> str:
    """A file of tables; those of WHOLE with some changed, and none of a blank one."""
    given = {**WHOLE, **tables}
    return "\n".join(f"[{name}]\n{body}\n" for name, body in given.items() if body)


def planned(folder: Path, text: str, **values: Any) -> Plan:
    """The plan whose new engine is asked by a file of this text."""
    (folder / "sources.toml").write_text(text)
    return make_plan(folder, NEW_SESSION_SOURCES="sources.toml", **values)


def test_a_whole_file_needs_nothing_else(tmp_path: Path) -> None:
    """Neither a state command nor a reason; the old engine is asked as ever."""
    plan = planned(tmp_path, text_of())
    assert [source.fact for source in plan.sessions["new"].sources] == list(WHOLE)
    assert plan.sessions["new"].close_only_seconds == 30
    assert not plan.sessions["old"].is_declared
    assert not [said for said in plan.execute_refusals if "SESSION" in said]


def test_a_start_proves_what_is_told_and_no_more(tmp_path: Path) -> None:
    """In the step's line as well; an engine that is asked as ever drains its stream."""
    why = {"SESSION_NOT_PROVED": "recovered: it says so nowhere"}
    starts = {"start_new_core_engine", "start_previous_core_engine"}
    effects = {
        said: {
            step.name: step.effect.partition(" alive, ")[2].partition(", positions")[0]
            for step in planned(tmp_path, text_of(**tables), **why).steps
            if step.name in starts
        }
        for said, tables in {"all": {}, "not all": {"recovered": ""}}.items()
    }
    told = "TD and MD logged in, settlement confirmed"
    assert effects["all"]["start_new_core_engine"] == f"{told}, recovered, not Blocked"
    assert effects["not all"]["start_new_core_engine"] == (
        f"{told}, not Blocked (NOT PROVED: recovered)"
    )
    assert {each["start_previous_core_engine"] for each in effects.values()} == {
        f"{told}, private stream drained"
    }


WRONG = {
    "an unknown fact": (text_of(loged_in=FILE), "an unknown fact"),
    "an unknown key": (text_of(recovered='source = "session_state"\nx = 1'), "an unknown key"),
    "no source": (text_of(recovered="x = 1"), "no such key"),
    "an unknown source": (text_of(recovered='source = "ear"'), "expected one of file, log, metric"),
    "orders by the session's state": (
        text_of(may_trade='source = "session_state"'),
        "a source that tells of orders",
    ),
    "no value that says yes": (text_of(logged_in=f'{FILE}field = "x"'), "no key equals"),
    "half a login": (
        text_of(logged_in="", td_logged_in='source = "session_state"'),
        "no table [md_logged_in] beside it",
    ),
    "two logins": (
        text_of(
            td_logged_in='source = "session_state"', md_logged_in='source = "session_state"'
        ),
        "[td_logged_in] beside it",
    ),
    "a metric of no value": (
        text_of(recovered='source = "metric"\nquery = "a"'),
        "not one of equals and min",
    ),
    "a metric that is a text": (
        text_of(recovered='source = "metric"\nquery = "a"\nequals = "1"'),
        "a metric has no other value",
    ),
    "a query of another language": (
        text_of(recovered='source = "metric"\nquery = "sum(a)"\nmin = 1'),
        "NAME or NAME{label=",
    ),
    "a log without an event": (
        text_of(recovered='source = "log"\npath = "a.log"'),
        "no key event",
    ),
    "an expression that is none": (
        text_of(recovered='source = "log"\npath = "a"\nformat = "pattern"\npattern = "("'),
        "a regular expression",
    ),
    "an expression without a group": (
        text_of(recovered='source = "log"\npath = "a"\nformat = "pattern"\npattern = "x"'),
        "no named group",
    ),
    "an expression without a time": (
        text_of(recovered='source = "log"\npath = "a"\nformat = "pattern"\npattern = "(?P<x>y)"'),
        "the time of a line",
    ),
    "an expression that runs away": (
        text_of(recovered='source = "log"\npath = "a"\nformat = "pattern"\npattern = "(?P<ts>(a+)+)"'),
        "a repeat within a repeat",
    ),
    "a field that nothing is expected of": (
        text_of(recovered='source = "log"\npath = "a"\nevent = "e"\nfield = "f"'),
        "the value of the field that says yes",
    ),
    "a permission that nothing takes back": (
        text_of(may_trade='source = "log"\npath = "a"\nevent = "e"'),
        "the lost_event that takes the permission back",
    ),
    "taken back without an event": (
        text_of(recovered='source = "log"\npath = "a"\nlost_event = "e"'),
        "no key event",
    ),
    "a path with a NUL": (
        text_of(recovered='source = "file"\npath = "a\\u0000b"\nfield = "x"\nequals = 1'),
        "has no NUL",
    ),
    "infinite patience": (text_of(may_trade=f'{FILE}field = "x"\nfresh_seconds = inf'), "finite"),
    "nothing": ("", "a table for each fact"),
    "no TOML": ("[", "a TOML file in UTF-8"),
}  # fmt: skip


def test_an_event_may_take_back_what_another_told(tmp_path: Path) -> None:
    """An engine that lost its front is not logged in, whatever it said before."""
    login = 'source = "log"\npath = "a.log"\nevent = "ready"\nlost_event = "gone"'
    (source,) = [
        each
        for each in planned(tmp_path, text_of(logged_in=login)).sessions["new"].sources
        if each.fact == "logged_in"
    ]
    assert (source.event, source.lost_event) == ("ready", "gone")


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_meant_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """With the file, the line and what is expected."""
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, text)
    assert said in str(caught.value)
    assert "sources.toml" in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None])
def test_what_is_no_file_is_not_waited_at(make: object, tmp_path: Path) -> None:
    """A pipe, a folder, nothing at all."""
    assert callable(make)
    make(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="NEW_SESSION_SOURCES"):
        make_plan(tmp_path, NEW_SESSION_SOURCES="pipe")


def test_what_no_source_tells_refuses_the_plan(tmp_path: Path) -> None:
    """Until it is named with its reason; that is a declared exception then, and stays one."""
    text = text_of(recovered="", may_trade="")
    plan = planned(tmp_path, text)
    (said,) = [each for each in plan.execute_refusals if "SESSION" in each]
    assert "has no table for recovered ([recovered]), may trade ([may_trade])" in said
    reasons = "recovered: silent; may_trade: the release has no such state"
    plan = planned(tmp_path, text, SESSION_NOT_PROVED=reasons)
    assert not [each for each in plan.execute_refusals if "SESSION" in each]
    assert [each for each in plan.declared if "NOT PROVED" in each and "(silent)" in each]
    assert dict(plan.sessions["new"].not_proved)["recovered"] == "silent"


def test_a_command_may_tell_what_the_file_does_not(tmp_path: Path) -> None:
    """Which facts it tells, it says itself."""
    plan = planned(tmp_path, text_of(may_trade=""), NEW_SESSION_CMD="cat session.json")
    assert not [each for each in plan.execute_refusals if "SESSION" in each]
    assert plan.sessions["new"].untold == ("may_trade",)


MISTYPED = (
    "recovered",
    "recovered:",
    "recoverd: x",
    "recovered: a; recovered: b",
    "recovered: a; mode",
)


@pytest.mark.parametrize("value", MISTYPED)
def test_a_reason_belongs_to_a_fact(value: str, tmp_path: Path) -> None:
    """Each once, none without why."""
    with pytest.raises(RunbookError, match="SESSION_NOT_PROVED"):
        planned(tmp_path, text_of(), SESSION_NOT_PROVED=value)


def test_reasons_alone_are_refused(tmp_path: Path) -> None:
    """They would prove nothing of an engine that is asked as ever."""
    with pytest.raises(RunbookError, match="and no session source"):
        make_plan(tmp_path, SESSION_NOT_PROVED="may_trade: x")


def test_the_file_and_the_command_are_part_of_what_was_reviewed(tmp_path: Path) -> None:
    """A byte of the file, or of the script that is asked, is another plan."""
    (tmp_path / "ask.sh").write_text("#!/bin/sh\n")
    (tmp_path / "ask.sh").chmod(0o755)
    plan = planned(tmp_path, text_of(), OLD_SESSION_CMD="./ask.sh")
    for name in ("sources.toml", "ask.sh"):
        before = plan_digest(plan, base=tmp_path, environ=os.environ)
        with (tmp_path / name).open("a") as file:
            file.write("# more\n")
        assert plan_digest(plan, base=tmp_path, environ=os.environ) != before


# --- engines without any source ---------------------------------------------------

NO_SOURCE: dict[str, Any] = {"TRADING_STATE_CMD": "", "OLD_CORE_ENGINE_METRICS_URL": ""}


def test_an_old_engine_that_could_not_be_proved_again_is_refused(tmp_path: Path) -> None:
    """No page and no state command; that READINESS commands measure it does not help."""
    measured: dict[str, Any] = {"READINESS_CORE_PROCESS_ALIVE_CMD": "cat alive"}
    for more in ({}, measured):
        plan = make_plan(tmp_path, **NO_SOURCE, **more)
        (said,) = [each for each in plan.execute_refusals if "could not be verified" in each]
        assert "the session of old_core_engine could not be verified after a rollback" in said
        assert "OLD_SESSION_CMD" in said
    plan = make_plan(tmp_path, **NO_SOURCE, OLD_SESSION_CMD="cat session.json")
    assert not [each for each in plan.execute_refusals if "could not be verified" in each]


def test_a_new_engine_without_a_page_must_not_be_watched_by_it(tmp_path: Path) -> None:
    """Its session may be told elsewhere, and its metrics then too."""
    plan = make_plan(tmp_path, NEW_CORE_ENGINE_METRICS_URL="", NEW_SESSION_CMD="cat session.json")
    (said,) = [each for each in plan.execute_refusals if "METRICS_URL" in each]
    assert "order_latency_p99_ms, breaker_state, reconnect_p99_s of MONITOR_KEYS are read" in said


def test_a_page_that_is_not_named_tells_nothing(tmp_path: Path) -> None:
    """Neither a metric nor the state of the session."""
    given: dict[str, Any] = {"NEW_CORE_ENGINE_METRICS_URL": "", "MONITOR_KEYS": "kafka_lag_ms"}
    given["ROLLBACK_TRIGGER_CONDITION"] = "kafka_lag_ms > 5"
    plan = planned(tmp_path, text_of(), **given)
    (said,) = [each for each in plan.execute_refusals if "METRICS_URL" in each]
    assert "NEW_SESSION_SOURCES reads recovered of new_core_engine there" in said
