"""Facts about run/orchestrator.py: where a run goes on from, how it ends, and what is told of that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest
from msgspec import UNSET, structs

import ctp_runbook.run.orchestrator as ending
from ctp_runbook.gates.readiness import SLIS, Readiness, SliReading
from ctp_runbook.host.clocks import Clocks, ClockWatch
from ctp_runbook.host.heartbeat import Beat
from ctp_runbook.model import Outcome, State, StepStatus
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plan import PLAN_FILES
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.kinds import (
    Finding,
    MetricEnd,
    OrchestratorStarted,
    Payload,
    RequestAnswered,
    StateEntered,
    Triggered,
    VerdictName,
    WatchDisturbed,
    WatchEnded,
)
from ctp_runbook.record.private_plan import clear_private
from ctp_runbook.run.old_engine import OldEngineSampling
from ctp_runbook.run.orchestrator import Orchestrator, _before_untold_step
from ctp_runbook.run.requests import Asked, send_request
from ctp_runbook.run.rollback import trouble_now
from ctp_runbook.run.window import Watch
from tests.props.example_records import header_like, like
from tests.props.plan_fixtures import make_plan, make_run
from tests.props.simulated_host import IDENTITIES, SimulatedClock, SimulatedHost
from tests.props.small_stack import SmallStack
from tests.run.test_guardian import Lines
from tests.run.test_rollback import stop_old
from tests.verify.test_clocks import HOUR, disturbed, record

# What each member's commands do to it.
COMMANDS = {
    "cat old_core_engine.stop": ("old_core_engine", "gone"),
    "cat old_strategy_runner.stop": ("old_strategy_runner", "gone"),
    "cat new_core_engine.conf": ("new_core_engine", "alive"),
    "cat new_strategy_runner.conf": ("new_strategy_runner", "alive"),
    "cat new_core_engine.stop": ("new_core_engine", "gone"),
    "cat new_strategy_runner.stop": ("new_strategy_runner", "gone"),
    "cat old_core_engine.conf": ("old_core_engine", "alive"),
    "cat old_strategy_runner.conf": ("old_strategy_runner", "alive"),
}
OLD_TRADES = {"old_core_engine": "alive", "old_strategy_runner": "alive"}
GATES = ["cat bootstrap", "cat topics", "cat schema", "cat connectors", "cat precheck"]
STOPS = ["cat old_strategy_runner.stop", "cat old_core_engine.stop"]
WAY_BACK = [
    "cat new_strategy_runner.stop",
    "cat new_core_engine.stop",
    "cat previous_binaries",
    "cat redis_bridge",
    "cat old_core_engine.conf",
    "cat old_strategy_runner.conf",
    "cat validate",
]


@dataclass
class Conducted:
    """A run on a simulated host, and the orchestrator that has it."""

    host: SimulatedHost
    orchestrator: Orchestrator

    @property
    def history(self) -> History:
        """The journal so far."""
        return self.orchestrator.context.history

    def conduct(self, *, go: bool = True) -> Outcome:
        """From its start to its end."""
        asked = Asked.now("go", by="ops", reason="", world=self.host.world) if go else None
        self.orchestrator.begin(resumed="", asked=asked)
        return self.orchestrator.conduct(resumed="", must_roll_back=False)

    def sentence(self) -> str:
        """How the end is told."""
        assert self.history.closed is not None
        return self.history.closed.payload.sentence


@pytest.fixture
def conducted(tmp_path: Path) -> Iterator[Conducted]:
    """A run that was planned, the old generation trading; every command does what it is for."""
    host = SimulatedHost(lives=dict(OLD_TRADES))
    plan = make_plan(tmp_path, OLD_CORE_ENGINE_METRICS_URL="")
    run = make_run(tmp_path)
    journal = Journal(run.journal, durable=False)
    files = {name: str(getattr(plan, name)) for name in PLAN_FILES}
    journal.append(
        header_like(
            run_id=run.run_id,
            plan_sha256=plan.sha256,
            files=files,
            overrides={"accept_unmeasured": "simulated"},
        )
    )
    journal.close()
    for command, (member, word) in COMMANDS.items():
        host.acts[command] = lambda member=member, word=word: host.lives.update({member: word})  # type: ignore[misc]
    for command, name in (("cat precheck", "precheck"), ("cat validate", "rollback")):
        report = run.evidence / f"ctp_readiness_{name}.json"
        host.acts[command] = lambda report=report: report.write_bytes(healthy())  # type: ignore[misc]
    orchestrator = Orchestrator(
        run, plan, cwd=tmp_path, guardian_pid=0, lock_fd=-1, world=host.world
    )
    yield Conducted(host, orchestrator)
    orchestrator.journal.close()
    clear_private(run)


def healthy() -> bytes:
    """A readiness file of this moment."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    core = [spec for spec in SLIS.values() if spec.core]
    readings = (SliReading(s.name, s.target, "measured", "seen", "probe", now) for s in core)
    return Readiness(tuple(readings), "simulated", "single-host").to_bytes()


@pytest.mark.parametrize("command", ["cat topics", STOPS[1], WAY_BACK[2]])
def test_a_step_of_the_wall_clock_is_on_record_wherever_it_happens(
    conducted: Conducted, command: str
) -> None:
    """In the gates, the switch and the rollback too, once, with how far it was set."""
    host, ahead = conducted.host, [0.0]
    # The simulated wall is the real one and its mono its own: here they go together.
    mono = host.clock.mono
    conducted.orchestrator._clocks = ClockWatch(
        Clocks(wall=lambda: mono() + ahead[0], mono=mono, boot=mono)
    )
    acts = host.acts.get(command, lambda: None)

    def set_clock() -> None:
        ahead[0] += 600.0
        acts()

    host.acts[command] = set_clock
    host.exits["cat instruments"] = 1
    conducted.conduct()
    told = [record.payload for record in conducted.history.of_kind(WatchDisturbed)]
    assert [(each.what, round(each.seconds)) for each in told] == [("clock_stepped", 600)]


def test_a_step_right_after_the_watch_is_on_record(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look of the watch and the first of the rollback nobody looked anew."""
    mono, ahead = conducted.host.clock.mono, [0.0]
    conducted.orchestrator._clocks = ClockWatch(
        Clocks(wall=lambda: mono() + ahead[0], mono=mono, boot=mono)
    )

    def watched(self: Watch) -> Triggered:
        conducted.orchestrator.interrupt()
        ahead[0] += 40.0
        return trouble_now("operator", "enough", clock=conducted.host.clock)

    monkeypatch.setattr(Watch, "run", watched)
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    told = [record.payload for record in conducted.history.of_kind(WatchDisturbed)]
    assert [(each.what, round(each.seconds)) for each in told] == [("clock_stepped", 40)]


def test_a_step_that_the_one_before_did_not_live_to_see_is_on_record(conducted: Conducted) -> None:
    """The clock was set after the last record; whoever takes the run up tells by that record."""
    first = conducted.orchestrator
    last = first.journal.append(STARTED)

    @dataclass
    class Set(SimulatedClock):
        """A wall clock that goes with the monotonic one, an hour behind that of the record."""

        def wall(self) -> float:
            return last.wall.timestamp() - 3600.0 + self.now - last.mono

    again = Orchestrator(
        first.run,
        first.context.plan,
        cwd=first.context.cwd,
        guardian_pid=0,
        lock_fd=-1,
        world=structs.replace(conducted.host.world, clock=Set(now=last.mono + 5.0)),
    )
    again.begin(resumed="it died", asked=None)
    told = [record.payload for record in again.context.history.of_kind(WatchDisturbed)]
    again.journal.close()
    assert [(each.what, round(each.seconds)) for each in told] == [("clock_stepped", -3600)]


def test_a_step_that_somebody_wrote_over_is_found_again() -> None:
    """The one before wrote on by the clock that was set, and died before it looked."""
    at_first = [record(0), record(9), record(10, ahead=-HOUR), record(11, ahead=-HOUR)]
    told = disturbed(12, "clock_stepped", -HOUR, begun=9.5, ahead=-HOUR)
    for records, last in (
        (at_first, at_first[1]),
        ([*at_first, told], told),
        ([*at_first, told, record(13, ahead=-HOUR), record(14)], 13),
        ([record(0), record(1)], 1),
    ):
        found = _before_untold_step(History(tuple(records)), "boot")
        assert found is not None
        assert found.seq == (last if isinstance(last, int) else last.seq)
    assert _before_untold_step(History(tuple(at_first)), "another boot") is None


def test_no_stretch_of_a_run_is_without_a_sign_of_life(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its start to its end, on the way back too: whoever is silent is replaced."""
    # Its threads would let the time of this host pass by themselves.
    sampling = mock.create_autospec(OldEngineSampling)
    monkeypatch.setattr("ctp_runbook.run.orchestrator.OldEngineSampling", sampling)
    lines, beats = Lines(), list[Beat]()

    def keep(lock: int, who: str, beat: Beat) -> bool:
        beats.append(beat)
        return True

    lines.write_beat = keep  # type: ignore[method-assign]
    pulse = conducted.orchestrator._pulse
    pulse._lock_fd, pulse._world = 3, structs.replace(conducted.host.world, hearts=lines)
    conducted.host.exits["cat instruments"] = 1
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET
    beats.append(beats[-1]._replace(mono=conducted.host.clock.now))
    # A command of this host is over in half a second, whatever it does, and asks nobody meanwhile.
    gaps = [b.mono - a.mono - a.busy for a, b in itertools.pairwise(beats)]
    assert max(gaps) < 0.8
    assert len(beats) > 100


# --- before the switch ------------------------------------------------------------


@pytest.mark.parametrize(("word", "says_so"), [("alive", True), ("undecided", False)])
def test_who_trades_is_said_where_it_was_seen(word: str, says_so: bool) -> None:
    """A watch that passed is no look at who runs at the end."""
    seen = {**dict.fromkeys(OLD_TRADES, "gone"), "new_core_engine": "alive"}
    running = {**seen, "new_strategy_runner": word}
    parts = (ending._beginning, ending._ending)
    said = "…".join(part(Outcome.COMPLETED, running) for part in parts)
    assert ("the new generation trades" in said) is says_so
    assert ("new_strategy_runner undecided" in said) is not says_so


def test_who_runs_beside_the_new_generation_is_said() -> None:
    """That the new one trades is half of it where the old one was not seen gone at the last look."""
    running = {"old_core_engine": "alive", "new_core_engine": "alive"}
    said = ending._ending(Outcome.COMPLETED, running)
    assert said == "; what runs by the last look: old_core_engine alive, new_core_engine alive"
    running["old_core_engine"] = "gone"
    assert ending._ending(Outcome.COMPLETED, running) == ""


def test_what_nothing_proves_is_not_said_of_the_new_generation() -> None:
    """What is known of it stands there instead."""
    running = {**dict.fromkeys(OLD_TRADES, "gone"), "new_core_engine": "alive"}
    running["new_strategy_runner"] = "alive"
    known = "logged in, CloseOnly for 28 s more"
    said = ending._beginning(Outcome.COMPLETED, running, known)
    assert said == "the new generation is logged in, CloseOnly for 28 s more; "


LATENCY = MetricRule(
    name="order_latency_p99_ms", label="", unit="ms", kind="latency_quantile", source="engine",
    query="quant_hft_order_latency_seconds", limit=5.0, direction="max", still_seconds=60.0,
)  # fmt: skip
MOVED = {
    "orders were timed": (LATENCY, "PASSED", True),
    "too few of them": (LATENCY, "INCONCLUSIVE", False),
    "they may be of long ago": (
        structs.replace(LATENCY, still_seconds=UNSET),
        "PASSED",
        False,
    ),
    "a recorder is no order": (
        structs.replace(LATENCY, name="recorder_ms", query="recorder_seconds"),
        "PASSED",
        False,
    ),
    "none is enough": (structs.replace(LATENCY, zero_events="pass"), "PASSED", False),
    "queries were timed": (
        structs.replace(LATENCY, name="q", query="query_seconds"),
        "PASSED",
        False,
    ),
    "rejects are counted": (
        structs.replace(LATENCY, kind="counter", still_seconds=UNSET),
        "PASSED",
        False,
    ),
    "at least one": (
        structs.replace(LATENCY, kind="counter", direction="min", limit=1.0),
        "PASSED",
        True,
    ),
}


@pytest.mark.parametrize(("rule", "verdict", "moved"), MOVED.values(), ids=MOVED)
def test_orders_move_where_a_metric_that_needs_them_passed(
    rule: MetricRule, verdict: VerdictName, moved: bool
) -> None:
    """An engine that is deadlocked is as quiet as one that is well: no error proves nothing."""
    end = MetricEnd(
        verdict=verdict, sentence="", value=1.0, limit=5.0, margin=4.0, worst=1.0, coverage=1.0
    )
    ended = like("watch_ended", metrics={rule.name: end})
    assert isinstance(ended, WatchEnded)
    assert ending._orders_moved([rule], ended) is moved


def test_nothing_is_begun_beside_a_new_engine_that_runs(conducted: Conducted) -> None:
    """Refused before the first gate, with what was seen."""
    conducted.host.lives["new_core_engine"] = "alive"
    assert conducted.conduct() is Outcome.REFUSED
    assert conducted.host.ran == []
    assert "nothing was begun: expected gone: new_core_engine alive" in conducted.sentence()


@pytest.mark.parametrize("number", range(len(GATES)))
def test_a_gate_that_fails_is_the_last_act(conducted: Conducted, number: int) -> None:
    """The gates after it and every stop are on record as not run; the old stack trades."""
    conducted.host.exits[GATES[number]] = 1
    assert conducted.conduct() is Outcome.ABORTED_BEFORE_SWITCH
    assert conducted.host.ran == GATES[: number + 1]
    assert conducted.host.lives == OLD_TRADES
    assert conducted.sentence().endswith("the old stack still trades, untouched")
    steps = conducted.orchestrator.context.plan.gates + conducted.orchestrator.context.plan.switch
    words = [conducted.history.step(step.name).status for step in steps]
    assert words.count(StepStatus.OK) == number
    assert words.count(StepStatus.NOT_RUN) == len(steps) - number - 1


def test_an_old_engine_that_died_meanwhile_is_not_said_to_trade(conducted: Conducted) -> None:
    """This run did not touch it, and says what runs now."""
    conducted.host.exits["cat schema"] = 1
    conducted.host.acts["cat schema"] = lambda: conducted.host.lives.update(old_core_engine="gone")
    assert conducted.conduct() is Outcome.ABORTED_BEFORE_SWITCH
    assert "this run did not touch the old stack, but what runs now is" in conducted.sentence()
    assert "old_core_engine gone" in conducted.sentence()


def test_an_abort_in_ready_ends_the_run(conducted: Conducted) -> None:
    """Whoever says it is answered, and no go is waited for any more."""
    run = conducted.orchestrator.run
    conducted.host.acts["cat connectors"] = lambda: send_request(run, "abort", by="ops")
    assert conducted.conduct(go=False) is Outcome.ABORTED_BEFORE_SWITCH
    (answer,) = conducted.history.of_kind(RequestAnswered)
    assert answer.payload.sentence == "the run ends now; the old stack is not touched"
    assert STOPS[0] not in conducted.host.ran


def test_an_abort_in_the_first_look_is_no_gap_of_the_old_engine(
    conducted: Conducted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cuts the alive command short, which then could tell nothing: exit 3 by who asked for it."""
    run = conducted.orchestrator.run

    def cut_short(_: object) -> list[str]:
        send_request(run, "abort", by="ops")
        return ["expected alive: old_core_engine undecided: alive command says no answer"]

    monkeypatch.setattr("ctp_runbook.run.orchestrator.ready_gaps", cut_short)
    assert conducted.conduct(go=False) is Outcome.ABORTED_BEFORE_SWITCH
    assert "abort asked for by ops" in conducted.sentence()
    assert "no answer" not in conducted.sentence()


def test_a_plan_that_changed_after_its_review_stops_nothing(conducted: Conducted) -> None:
    """Right before the first stop its digest is taken once more."""
    template = conducted.orchestrator.context.plan.cutover_template
    conducted.host.acts["cat topics"] = lambda: template.write_bytes(b"# edited\n")
    assert conducted.conduct() is Outcome.ABORTED_BEFORE_SWITCH
    assert "changed since the plan" in conducted.sentence()
    assert conducted.host.ran == GATES


# --- the switch and the way back --------------------------------------------------


def test_a_switch_that_fails_is_undone_in_order(conducted: Conducted) -> None:
    """The new engine's start fails: both new parts are stopped before any old one is started."""
    conducted.host.exits["cat new_core_engine.conf"] = 1
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    acts = [command for command in conducted.host.ran if command not in GATES]
    assert acts == [*STOPS, "cat new_core_engine.conf", *WAY_BACK[1:]]
    assert {name for name, word in conducted.host.lives.items() if word == "alive"} == set(
        OLD_TRADES
    )
    assert conducted.history.trigger is not None
    assert conducted.history.trigger.payload.cause == "step_failed"


def test_an_old_engine_that_will_not_stop_trades_on(conducted: Conducted) -> None:
    """Exit 0 over a living engine is no proof: nothing new is started, and where it ignores TERM it
    is kept and its runner comes back."""
    conducted.host.acts["cat old_core_engine.stop"] = lambda: None
    conducted.host.deaf = {"old_core_engine"}
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    assert "cat new_core_engine.conf" not in conducted.host.ran
    assert "cat old_core_engine.conf" not in conducted.host.ran
    assert conducted.history.step("restore_previous_binaries").status is StepStatus.SKIPPED
    assert "cat old_strategy_runner.conf" in conducted.host.ran


def test_an_old_engine_that_may_be_ending_is_started_anew(conducted: Conducted) -> None:
    """One that hears TERM may end when everybody has looked away: it is ended and comes back."""
    conducted.host.acts["cat old_core_engine.stop"] = lambda: None
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    ran = conducted.host.ran
    assert "cat new_core_engine.conf" not in ran
    assert ran.index("cat old_core_engine.conf") > ran.index("cat old_core_engine.stop")


def test_what_cannot_be_undone_says_what_runs(
    conducted: Conducted, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new engine that outlives its stop: nothing old is started, and an operator is called, by
    syslog too."""
    host = conducted.host
    host.exits["cat new_core_engine.conf"] = 1
    host.acts["cat new_core_engine.stop"] = lambda: None
    host.stubborn = {IDENTITIES["new_core_engine"]}
    assert conducted.conduct() is Outcome.ROLLBACK_FAILED
    assert "the new generation is not proved gone, so nothing was started" in conducted.sentence()
    assert "new_core_engine alive" in conducted.sentence()
    assert conducted.sentence().endswith("An operator must act now.")
    assert f"ROLLBACK_FAILED: {conducted.sentence()}\n" in capsys.readouterr().err
    assert "cat old_core_engine.conf" not in host.ran
    assert any(
        finding.payload.sentence.endswith("still running")
        for finding in conducted.history.of_kind(Finding)
    )


# --- coming back ------------------------------------------------------------------

STARTED = OrchestratorStarted(resumed=False, reason="")
STOPPED = like("step_started", step="stop_old_strategy_runner", phase="switch")
WATCHING = StateEntered(to=State.WATCHING, reason="")
WATCHED = (STARTED, STOPPED, WATCHING, like("watch_started"))
NEW_TRADES = {"new_core_engine": "alive", "new_strategy_runner": "alive"}
RESUMED: dict[str, tuple[tuple[Payload, ...], dict[str, str], bool, str]] = {
    "gates": ((STARTED,), OLD_TRADES, False, ""),
    "gates, too often": ((STARTED,), OLD_TRADES, True, ""),
    "switch": ((STARTED, STOPPED), OLD_TRADES, False, "resume: interrupted in the middle"),
    "watch": (WATCHED, NEW_TRADES, False, ""),
    "watch, too often": (WATCHED, NEW_TRADES, True, "resume: interrupted too often"),
    "watch, a death": (
        WATCHED,
        {"new_core_engine": "alive"},
        False,
        "member_died: new_strategy_runner gone",
    ),
    "watch, a stop asked for": (
        (*WATCHED, like("control", request="rollback", by="ops", reason="")),
        NEW_TRADES,
        False,
        "operator: rollback asked for by ops",
    ),
    "rollback": (
        (*WATCHED, like("trigger"), StateEntered(to=State.ROLLING_BACK, reason="")),
        NEW_TRADES,
        False,
        "resume: the rollback goes on",
    ),
}


@pytest.mark.parametrize(
    ("records", "lives", "too_often", "expected"), RESUMED.values(), ids=RESUMED
)
def test_where_a_run_goes_on_from(
    conducted: Conducted,
    records: tuple[Payload, ...],
    lives: dict[str, str],
    too_often: bool,
    expected: str,
) -> None:
    """The journal says how far it came, the probes what is there; a half switch is always undone."""
    first = conducted.orchestrator
    for written in records:
        first.journal.append(written)
    conducted.host.lives = dict(lives)
    again = Orchestrator(
        first.run,
        first.context.plan,
        cwd=first.context.cwd,
        guardian_pid=0,
        lock_fd=-1,
        world=conducted.host.world,
    )
    trouble = again._trouble_of_resuming("the orchestrator died", too_often)
    again.journal.close()
    assert (f"{trouble.cause}: {trouble.sentence}" if trouble else "").startswith(expected)
    assert bool(trouble) is bool(expected)


# --- the last look ----------------------------------------------------------------


@pytest.mark.twin
def test_an_old_engine_that_is_not_gone_is_never_beside_a_completed_run(stack: SmallStack) -> None:
    """Its alive command alone says that it lives, which no glance of the watch asks: the last look
    does, and the run is undone."""
    plan = stack.plan()
    orchestrator = Orchestrator(
        stack.create(plan), plan, cwd=stack.folder, guardian_pid=0, lock_fd=-1
    )
    stop_old(stack)
    assert orchestrator._trouble_of_old_generation() is None
    (stack.folder / "old_core_engine.up").touch()
    trouble = orchestrator._trouble_of_old_generation()
    assert trouble is not None
    assert trouble.cause == "judge"
    assert "old_core_engine undecided: alive command says alive" in trouble.sentence


# --- what nobody foresaw ------------------------------------------------------------


@pytest.mark.parametrize("command", [*STOPS, "cat new_core_engine.conf"])
def test_an_error_that_nobody_foresaw_is_undone(conducted: Conducted, command: str) -> None:
    """Whatever a look raises after the first stop was begun, the old generation comes back."""
    act = conducted.host.acts[command]
    times = iter([True])

    def raise_once() -> None:
        if next(times, False):
            conducted.host.after_look = lambda: None
            raise RecursionError("maximum recursion depth exceeded")

    def then_raise() -> None:
        act()
        conducted.host.after_look = raise_once

    conducted.host.acts[command] = then_raise
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    assert conducted.history.trigger is not None
    assert "an error that nobody foresaw, RecursionError: maximum" in (
        conducted.history.trigger.payload.sentence
    )
    assert {name for name, word in conducted.host.lives.items() if word == "alive"} == {*OLD_TRADES}


def test_an_error_that_nobody_foresaw_is_raised_before_the_first_stop(
    conducted: Conducted,
) -> None:
    """Nothing was touched: the guardian tries again, and at last with the order to end it."""

    def raise_it() -> None:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    conducted.host.after_look = raise_it
    with pytest.raises(UnicodeEncodeError):
        conducted.conduct()
    conducted.host.after_look = lambda: None
    end = conducted.orchestrator.conduct(resumed="it died", must_roll_back=True)
    assert end is Outcome.ABORTED_BEFORE_SWITCH
    assert conducted.sentence().startswith("interrupted too often before the switch: it died")
    assert conducted.sentence().endswith("the old stack still trades, untouched")


@pytest.mark.parametrize("error", [RecursionError("deep"), OSError(28, "No space left on device")])
def test_a_watch_is_not_rolled_back_for_an_error_of_ours(
    conducted: Conducted, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next orchestrator goes on with it; but what cannot be recorded is undone."""

    def raise_it(self: Watch) -> None:
        raise error

    monkeypatch.setattr(Watch, "run", raise_it)
    if isinstance(error, OSError):
        assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
        return
    with pytest.raises(RecursionError):
        conducted.conduct()
    assert conducted.history.state is State.WATCHING


def test_what_is_no_request_is_told(conducted: Conducted) -> None:
    """Rubbish in control/ changes nothing, and the run says that it was passed over."""
    (conducted.orchestrator.run.control / "stop.json").write_bytes(b"\xff")
    assert conducted.orchestrator.interrupt() == ""
    findings = [finding.payload.sentence for finding in conducted.history.of_kind(Finding)]
    (told,) = [each for each in findings if each.startswith("control/stop.json is no request")]
    assert "ask with `ctp-runbook hold`" in told
