"""Facts about run/window.py: how a watch window ends, and that coming back to it forgets nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import State
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.session_file import FactSource
from ctp_runbook.record.history import pinned
from ctp_runbook.record.kinds import (
    RequestName,
    RequestTaken,
    StateEntered,
    Triggered,
    WatchStarted,
)
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.run import window
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.window import Watch
from tests.props.example_records import header_like
from tests.props.plan_fixtures import make_plan, open_context
from tests.props.small_servers import http_page

pytestmark = pytest.mark.twin
# Nobody listens at the engine's port: every sample taken here is an error.
FAMILY = "quant_hft_query_rate_violation_total"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Six seconds of watch over one counter, which fires beyond 3."""
    return make_plan(
        tmp_path,
        POST_SWITCH_MONITOR_MINUTES="0.1",
        MONITOR_KEYS="query_rate_violation",
        ROLLBACK_TRIGGER_CONDITION="query_rate_violation > 3",
    )


@contextlib.contextmanager
def switched(folder: Path, plan: Plan) -> Iterator[RunContext]:
    """A run whose switch is done, to a process whose command line no other has: this one's is that of
    its neighbours, who would be taken for a second engine."""
    with (
        open_context(folder, plan=plan) as made,
        subprocess.Popen(["sleep", f"{600 + os.getpid() / 1e6}"]) as process,
    ):
        found = identity_of(process.pid)
        assert found is not None
        made.record(header_like(run_id=made.run.run_id, dry_run=False))
        for member in ("new_core_engine", "new_strategy_runner"):
            made.record(pinned(member, "", Pin(found)))
        yield made
        process.kill()


@pytest.fixture
def context(tmp_path: Path, plan: Plan) -> Iterator[RunContext]:
    """A run whose switch is done."""
    with switched(tmp_path, plan) as made:
        yield made


def asking(request: RequestName, *, after: float) -> Callable[[], Iterable[RequestTaken]]:
    """Somebody who asks for this, once, after so many seconds."""
    due = [time.monotonic() + after]

    def ask() -> Iterable[RequestTaken]:
        if due and time.monotonic() >= due[0]:
            due.clear()
            return [
                RequestTaken(request=request, by="ops", reason="", requested_utc="", file="file")
            ]
        return []

    return ask


def cause(trouble: Triggered | None) -> str:
    """Why the watch ended, blank for a pass."""
    return trouble.cause if trouble else ""


@pytest.mark.parametrize("request_", ["rollback", "abort"])
def test_an_operator_ends_the_watch(context: RunContext, request_: RequestName) -> None:
    """At once; the samples until then are kept, numbered, and the verdict is no pass."""
    trouble = Watch(context, requests=asking(request_, after=0.3)).run()
    assert cause(trouble) == "operator"
    ended = context.history.watch_ended
    assert ended is not None
    assert ended.payload.verdict != "PASSED"
    assert ended.payload.stopped_early
    kept = read_samples(context.run.samples)
    assert [sample.seq for sample in kept] == list(range(ended.payload.samples))


def test_a_hold_is_a_state_and_sampling_goes_on(context: RunContext) -> None:
    """HOLDING by request, with its sentence as the reason."""
    ask_hold, ask_end = asking("hold", after=0), asking("rollback", after=0.6)
    Watch(context, requests=lambda: [*ask_hold(), *ask_end()]).run()
    held = context.history.entered(State.HOLDING)
    assert held is not None
    assert held.reason == "hold asked for by ops"
    assert read_samples(context.run.samples)[-1].mono > held.mono_ns / 1e9 - 0.5


def seen_before(context: RunContext, *values: float) -> None:
    """The window began and these values of the counter were sampled, before a crash."""
    context.record(StateEntered(to=State.WATCHING, reason=""))
    context.record(WatchStarted(minutes=0.1, metrics=("query_rate_violation",)))
    now = time.monotonic()
    lines = [
        Sample(n, time.time(), now + n / 100, "engine", "url", True, "", 1.0, {FAMILY: value})
        for n, value in enumerate(values)
    ]
    context.run.samples.write_bytes(b"".join(line.to_line() for line in lines))


def test_coming_back_continues_the_samples(context: RunContext) -> None:
    """The gap is told, a torn sample is cut and told, and numbers go on where they stopped."""
    seen_before(context, 0.0, 0.0)
    with context.run.samples.open("ab") as file:
        file.write(b'{"seq":2')
    Watch(context, requests=asking("rollback", after=0.3)).run()
    kinds = [record.kind for record in context.journal.records]
    assert kinds.count("watch_started") == 1
    assert kinds.index("finding") < kinds.index("watch_gap")
    kept = read_samples(context.run.samples)
    assert [sample.seq for sample in kept] == list(range(len(kept)))
    assert len(kept) > 2


def test_a_trigger_that_fired_right_before_a_crash_still_counts(context: RunContext) -> None:
    """The sample is on disk, the trigger's record is not: the next orchestrator rolls back."""
    seen_before(context, 0.0, 5.0)
    assert cause(Watch(context, requests=asking("rollback", after=0.5)).run()) == "metric"


# --- whether it may trade ---------------------------------------------------------

TOLD = {"logged_in": True, "settlement_confirmed": True, "recovered": True}
WELL = f"# TYPE {FAMILY} counter\n{FAMILY} 0\n"


@contextlib.contextmanager
def permitted(folder: Path, mode: str, **changes: object) -> Iterator[RunContext]:
    """A watch of three seconds over a counter that stays at 0, of an engine in this mode."""
    told = {**TOLD, "trading_mode": mode, **changes}
    (folder / "session.json").write_text(json.dumps(told))
    with http_page(WELL) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "_SESSION_SECONDS", 0.2)
        plan = make_plan(
            folder,
            POST_SWITCH_MONITOR_MINUTES="0.05",
            MONITOR_KEYS="query_rate_violation",
            ROLLBACK_TRIGGER_CONDITION="query_rate_violation > 3",
            NEW_CORE_ENGINE_METRICS_URL=url,
            NEW_SESSION_CMD="cat session.json",
        )
        rules = structs.replace(plan.watch, tolerance_inconclusive_seconds=0.5)
        with switched(folder, structs.replace(plan, watch=rules)) as made:
            yield made


def once_held(context: RunContext) -> Callable[[], Iterable[RequestTaken]]:
    """Somebody who ends it once it holds."""
    ask = asking("rollback", after=0)
    return lambda: ask() if context.history.state is State.HOLDING else []


def held_for(context: RunContext) -> list[str]:
    """Why it held, each time."""
    return [t.reason for t in context.history.transitions if t.state is State.HOLDING]


def test_an_engine_that_may_trade_passes(tmp_path: Path) -> None:
    """The window begins with what is known of it."""
    with permitted(tmp_path, "Ready") as context:
        assert Watch(context, requests=asking("rollback", after=20)).run() is None
        assert held_for(context) == []
        begun = context.history.transitions[0].reason
        assert begun == "the switch is verified; the new engine is logged in, may trade: Ready"


def test_an_engine_that_only_closes_is_no_pass(tmp_path: Path) -> None:
    """Nothing it sends is late or refused: the window's end is held for a person, who may go on."""
    with permitted(tmp_path, "CloseOnly") as context:
        resume, end = asking("resume", after=5), asking("rollback", after=20)
        assert Watch(context, requests=lambda: [*resume(), *end()]).run() is None
        assert held_for(context) == [
            "the window ended without proof: the new engine is logged in, CloseOnly"
        ]


def test_a_login_that_nothing_proves_is_not_said(tmp_path: Path) -> None:
    """SESSION_NOT_PROVED names it: whoever reads the state in the journal reads that, and no login."""
    with permitted(tmp_path, "Ready") as made:
        asked = structs.replace(made.plan.sessions["new"], not_proved={"logged_in": "untold"})
        sessions = {**made.plan.sessions, "new": asked}
        context = structs.replace(made, plan=structs.replace(made.plan, sessions=sessions))
        assert Watch(context, requests=asking("rollback", after=20)).run() is None
        begun = context.history.transitions[0].reason
        assert begun.endswith("the new engine is alive, login NOT PROVED, may trade: Ready")


def closing(context: RunContext, *, seconds: float) -> RunContext:
    """The same, with the engine's mode told by the file itself, and for how long it closes only."""
    source = FactSource(
        fact="may_trade", source="file", path="session.json", field="trading_mode",
        fresh_seconds=600, close_only_seconds=seconds,
    )  # fmt: skip
    session = structs.replace(context.plan.sessions["new"], sources=(source,))
    os.utime(context.cwd / "session.json", None)
    sessions = {**context.plan.sessions, "new": session}
    return structs.replace(context, plan=structs.replace(context.plan, sessions=sessions))


def test_an_engine_that_closes_for_too_long_is_held(tmp_path: Path) -> None:
    """By its own close_only_seconds, which the plan names; until then it is waited for."""
    with permitted(tmp_path, "CloseOnly") as made:
        context = closing(made, seconds=1)
        assert cause(Watch(context, requests=once_held(context)).run()) == "operator"
        (why,) = held_for(context)
        assert "new_core_engine may only close: CloseOnly for " in why
        assert context.history.transitions[0].reason.endswith("logged in, CloseOnly for 1 s more")


def test_the_end_of_the_window_waits_while_an_engine_closes_only_at_first(tmp_path: Path) -> None:
    """Nobody is called for it: the watch passes once it may trade."""
    with permitted(tmp_path, "CloseOnly") as made:
        context = closing(made, seconds=600)
        begun = time.monotonic()

        def ready() -> Iterable[RequestTaken]:
            if time.monotonic() > begun + 6:
                told = json.dumps({**TOLD, "trading_mode": "Ready"})
                (tmp_path / "draft").write_text(told)
                (tmp_path / "draft").replace(tmp_path / "session.json")
            return []

        assert Watch(context, requests=ready).run() is None
        assert held_for(context) == []
        assert time.monotonic() > begun + 6


def test_a_session_that_is_lost_in_the_watch_holds(tmp_path: Path) -> None:
    """Not at the first look: one that found a file half written is no loss."""
    with permitted(tmp_path, "Ready", logged_in=False) as context:
        assert cause(Watch(context, requests=once_held(context)).run()) == "operator"
        (why,) = held_for(context)
        assert "TD and MD logged in: no (NEW_SESSION_CMD)" in why


def test_an_old_member_that_only_its_own_command_finds_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody started it with other arguments and no pid file: the command is asked now and then, not
    at the end of half an hour alone; one that gives no answer in time is nothing to undo a switch for."""
    monkeypatch.setattr(window, "_QUESTION_SECONDS", 0.5)
    monkeypatch.setattr(window, "_GLANCE_SECONDS", 0.1)
    for command, told in ((f"test -e {tmp_path}/again", True), ("sleep 60", False)):
        folder = tmp_path / str(told)
        folder.mkdir()
        plan = make_plan(
            folder,
            POST_SWITCH_MONITOR_MINUTES="0.1",
            MONITOR_KEYS="query_rate_violation",
            ROLLBACK_TRIGGER_CONDITION="query_rate_violation > 3",
            OLD_STRATEGY_RUNNER_ALIVE_CMD=command,
        )
        with switched(folder, plan) as context:
            (tmp_path / "again").touch()
            trouble = Watch(context, requests=asking("rollback", after=3)).run()
        assert trouble is not None
        sentence = "the old generation lives again: old_strategy_runner undecided: alive command"
        assert (cause(trouble) == "judge") is told, trouble.sentence
        assert (sentence in trouble.sentence) is told
