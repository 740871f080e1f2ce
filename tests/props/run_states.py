"""A journal of every state that a run can be in, with what is so in it: who trades, who conducts.

The journals are written record by record, in the words of the code that writes them in earnest, on
a clock of ours. What is so (``Truth``) is said by whoever made the journal, and read from none.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from msgspec import structs

from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import boot_id, own_identity
from ctp_runbook.model import Generation, Identity, Outcome, Phase, Role
from ctp_runbook.plan.step_table import STEP_TABLE, budget_shares, step_spec
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import utc_text
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.attend import read_history
from ctp_runbook.run.world import HERE
from ctp_runbook.watch.verdicts import Firing
from tests.props.synthetic_runs import BUDGET_SECONDS, Clock, Story, keep_end_behind, seal, telling

__all__ = ["STATES", "Simulated", "Truth", "simulated", "standing"]

OLD, NEW, NOBODY, UNKNOWN = "old", "new", "nobody", "not known"
MEMBERS = {which: frozenset(f"{which}_{role}" for role in Role) for which in map(str, Generation)}
GUARDIAN = Identity(4000, 400, boot_id())
BREACH = 5  # the sample from which on order latency is beyond its limit
LEFT_SECONDS = 400.0  # how long nobody conducted a run that was left


class Truth(NamedTuple):
    """What is so. ``trades``: old, new, nobody or not known; ``verdict``: what the samples come to,
    blank where there was no watch; ``asks``: the command that takes the reader on, blank for none.
    ``guarded``: it is the guardian that lives, and brings an orchestrator back. ``revived``: who was
    brought back by somebody else.
    """

    trades: str = OLD
    alive: frozenset[str] = MEMBERS[OLD]
    touched: bool = False
    conducted: bool = True
    outcome: Outcome | None = None
    verdict: str = ""
    asks: str = ""
    dry: bool = False
    unwritten: bool = False
    undoes: bool = False
    rebooted: bool = False
    guarded: bool = False
    revived: str = ""


class Simulated(NamedTuple):
    """A journal, when it is looked at, and what is so then."""

    name: str
    run: RunDir
    clock: Clock
    truth: Truth

    @property
    def history(self) -> History:
        """What is on record of it."""
        return read_history(self.run)


class _Teller(NamedTuple):
    """A story that is being told, and what is so by now."""

    story: Story

    def gates(self, upto: str = "") -> None:
        """The gates, all of them or up to the one that is under way."""
        story = self.story
        story.say("orchestrator_started", resumed=False, reason="")
        story.state("GATING", "the gates begin")
        for number, role in enumerate(Role):
            story.probe(f"old_{role}", "alive")
            story.identity(f"old_{role}", 4101 + number)
        self._steps(Phase.GATE, upto)

    def _steps(self, phase: Phase, upto: str) -> None:
        for spec in STEP_TABLE:
            if spec.phase is phase:
                if spec.name == upto:
                    self.story.start_step(spec)
                    return
                self.story.clock.advance(0.5)
                if not self.story.step(spec):
                    return

    def ready(self) -> None:
        """Gates passed."""
        self.gates()
        self.story.state("READY", "all gates passed")

    def ask(self, request: str, *, reason: str = "", answer: str, file: str = "") -> None:
        """Somebody asks for something, and is obeyed."""
        file, start = file or f"{len(self.story.records)}-{request}.json", 1
        self.story.say(
            "control",
            request=request,
            by="ops",
            reason=reason,
            requested_utc=utc_text(self.story.clock.wall),
            file=file,
            start=start,
        )
        self.story.say("answer", request=request, file=file, obeyed=True, sentence=answer)

    def switch(self, upto: str = "") -> None:
        """The switch, all of it or up to the step under way."""
        self.ready()
        self.ask("go", answer="the switch begins as soon as every gate passed")
        self.story.baseline()
        self.story.state("SWITCHING", "go")
        self._steps(Phase.SWITCH, upto)

    def hold(self, reason: str) -> None:
        """The watch holds."""
        self.story.state("HOLDING", reason)
        words = f"{reason}; rolls back in 60 s unless somebody decides"
        self.story.say("alert", occasion="holding", sentence=words, hooks=["ALERT_CMD"])

    def trigger(
        self, cause: str, sentence: str, *, firing: Firing | None = None, mono: float | None = None
    ) -> None:
        """Why it is rolled back."""
        clock = self.story.clock
        wall = firing.wall if firing else clock.wall
        mono = firing.mono if firing else mono or clock.mono
        self.story.say(
            "trigger",
            cause=cause,
            metric=firing.metric if firing else "",
            value=firing.value if firing else None,
            limit=firing.limit if firing else None,
            sample_utc=utc_text(wall),
            sample_mono_ns=int(mono * 1e9),
            sentence=sentence,
        )

    def begin_rollback(self) -> None:
        """The rollback's time runs."""
        history = History.of(self.story.records)
        assert history.trigger is not None
        fired = history.trigger.payload
        self.story.state("ROLLING_BACK", fired.sentence)
        self.story.say(
            "alert", occasion="rolling_back", sentence=fired.sentence, hooks=["ALERT_CMD"]
        )
        self.story.say(
            "rollback_started",
            budget_seconds=BUDGET_SECONDS,
            shares=budget_shares(BUDGET_SECONDS),
            started_utc=fired.sample_utc,
            started_mono_ns=fired.sample_mono_ns,
        )

    def roll_back(self, upto: str = "", *, failing: str = "", took: float = 0.0) -> None:
        """The way back, all of it or up to the step under way."""
        self.begin_rollback()
        self.story.failing = failing
        self.story.clock.advance(took)
        self._steps(Phase.ROLLBACK, upto)

    @property
    def back(self) -> str:
        """How long the way back took, as it is told."""
        begun = History.of(self.story.records).rollback_started
        assert begun is not None
        took = self.story.clock.mono - begun.payload.started_mono_ns / 1e9
        return (
            f"the previous stack trades again {took:.1f} s after the trigger "
            f"(budget {BUDGET_SECONDS:g} s)"
        )

    def close(self, outcome: Outcome, sentence: str, **alive: str) -> None:
        """The last record; who is not named as alive or undecided was seen to be gone."""
        seen = {
            name: alive.get(name, "gone") for which in MEMBERS.values() for name in sorted(which)
        }
        self.story.close(outcome, trades="", sentence=sentence, running=seen)


_Builder = Callable[[_Teller], Truth]
_BUILDERS: dict[str, tuple[_Builder, dict[str, Any]]] = {}


def _state(name: str, **header: Any) -> Callable[[_Builder], _Builder]:
    def keep(build: _Builder) -> _Builder:
        _BUILDERS[name] = (build, header)
        return build

    return keep


def _all(which: str) -> dict[str, str]:
    return dict.fromkeys(sorted(MEMBERS[which]), "alive")


# --- before the first stop ------------------------------------------------------------


@_state("planned")
def _planned(t: _Teller) -> Truth:
    return Truth(conducted=False, asks="abort")


@_state("refused at its start")
def _refused(t: _Teller) -> Truth:
    t.story.close(
        Outcome.REFUSED,
        trades="",
        sentence="not started: run 20260202T013000Z-other of environment synthetic is under way",
    )
    return Truth(conducted=False, outcome=Outcome.REFUSED)


@_state("refused, the old stack is dead")
def _refused_dead(t: _Teller) -> Truth:
    t.story.say("orchestrator_started", resumed=False, reason="")
    t.story.state("GATING", "the gates begin")
    gap = "expected alive: old_strategy_runner gone: alive command says gone"
    t.close(Outcome.REFUSED, f"nothing was begun: {gap}", old_core_engine="alive")
    alive = frozenset({"old_core_engine"})
    return Truth(NOBODY, alive, conducted=False, outcome=Outcome.REFUSED)


@_state("dry run", dry_run=True)
def _dry(t: _Teller) -> Truth:
    t.story.simulate()
    sentence = "dry run: nothing stands in the way; nothing was done"
    t.story.close(Outcome.DRY_RUN_OK, trades="", sentence=sentence)
    return Truth(conducted=False, outcome=Outcome.DRY_RUN_OK, dry=True)


@_state("dry run, interrupted", dry_run=True)
def _dry_interrupted(t: _Teller) -> Truth:
    t.story.state("GATING", "dry run")
    t.story.not_done(step_spec("bootstrap_infra"), "simulated_ok", "dry run: not run")
    return Truth(conducted=False, dry=True)


@_state("dry run that --execute would refuse", dry_run=True)
def _dry_refused(t: _Teller) -> Truth:
    refusal = "cutover.env:9: WARMUP_QUERY_CMD still has <instruments>; replace what is in <…>"
    t.story.say("finding", severity="critical", sentence=f"--execute would refuse: {refusal}")
    t.story.simulate()
    sentence = "dry run: nothing was done; --execute would refuse this plan, for 1 reason"
    t.story.close(Outcome.DRY_RUN_OK, trades="", sentence=sentence)
    return Truth(conducted=False, outcome=Outcome.DRY_RUN_OK, dry=True)


@_state("dry run, refused by its probes", dry_run=True, probe=True)
def _dry_probed(t: _Teller) -> Truth:
    t.story.simulate()
    gap = "expected alive: old_core_engine gone: alive command says gone"
    t.story.close(Outcome.REFUSED, trades="", sentence=f"dry run: {gap}; nothing was done")
    return Truth(conducted=False, outcome=Outcome.REFUSED, dry=True)


@_state("just started")
def _started(t: _Teller) -> Truth:
    t.story.say("orchestrator_started", resumed=False, reason="")
    return Truth()


@_state("gate running")
def _gate(t: _Teller) -> Truth:
    t.gates(upto="init_clickhouse_schema")
    return Truth()


@_state("gate failed, not closed yet")
def _gate_failed(t: _Teller) -> Truth:
    t.story.failing = "init_kafka_topic"
    t.gates()
    return Truth()


@_state("gate failed")
def _aborted(t: _Teller) -> Truth:
    t.story.failing = "init_kafka_topic"
    t.gates()
    why = "step init_kafka_topic failed after 0.3 s: exit 3, expected 0"
    t.close(
        Outcome.ABORTED_BEFORE_SWITCH, f"{why}; the old stack still trades, untouched", **_all(OLD)
    )
    return Truth(conducted=False, outcome=Outcome.ABORTED_BEFORE_SWITCH)


@_state("gate failed, and the old engine died")
def _aborted_dead(t: _Teller) -> Truth:
    t.story.failing = "precheck"
    t.gates()
    runs = "old_core_engine gone, old_strategy_runner alive, new_core_engine gone"
    t.close(
        Outcome.ABORTED_BEFORE_SWITCH,
        "step precheck failed after 0.3 s: exit 3, expected 0; this run did not touch the old "
        f"stack, but what runs now is: {runs}, new_strategy_runner gone",
        old_strategy_runner="alive",
    )
    alive = frozenset({"old_strategy_runner"})
    return Truth(UNKNOWN, alive, conducted=False, outcome=Outcome.ABORTED_BEFORE_SWITCH)


@_state("ready, waits for a go")
def _ready(t: _Teller) -> Truth:
    t.ready()
    return Truth()


@_state("ready, held")
def _ready_held(t: _Teller) -> Truth:
    t.ready()
    t.ask("hold", reason="spreads", answer="it holds once the step under way is over")
    return Truth()


@_state("aborted by an operator")
def _aborted_asked(t: _Teller) -> Truth:
    t.ready()
    t.ask("abort", reason="not today", answer="the run ends before the switch")
    asked = "abort asked for by ops: not today"
    t.close(
        Outcome.ABORTED_BEFORE_SWITCH,
        f"{asked}; the old stack still trades, untouched",
        **_all(OLD),
    )
    return Truth(conducted=False, outcome=Outcome.ABORTED_BEFORE_SWITCH)


@_state("discarded before it was started")
def _discarded(t: _Teller) -> Truth:
    sentence = "abort asked for by ops; the run was never started, and nothing was touched"
    t.story.close(Outcome.ABORTED_BEFORE_SWITCH, trades="", sentence=sentence)
    return Truth(conducted=False, outcome=Outcome.ABORTED_BEFORE_SWITCH)


# --- the switch -----------------------------------------------------------------------


@_state("old runner stopping")
def _stopping(t: _Teller) -> Truth:
    t.switch(upto="stop_old_strategy_runner")
    return Truth(UNKNOWN, touched=True)


@_state("old engine stopping")
def _engine_stopping(t: _Teller) -> Truth:
    t.switch(upto="stop_old_core_engine")
    return Truth(NOBODY, frozenset({"old_core_engine"}), touched=True)


@_state("new engine starting")
def _starting(t: _Teller) -> Truth:
    t.switch(upto="start_new_core_engine")
    return Truth(NOBODY, frozenset(), touched=True)


@_state("session verified, new runner starting")
def _verified(t: _Teller) -> Truth:
    t.switch(upto="start_new_strategy_runner")
    return Truth(UNKNOWN, frozenset({"new_core_engine"}), touched=True)


@_state("warm-up query")
def _warmup(t: _Teller) -> Truth:
    t.switch(upto="warmup_query")
    return Truth(NEW, MEMBERS[NEW], touched=True)


@_state("new engine failed, not rolled back yet")
def _new_engine_failed(t: _Teller) -> Truth:
    t.story.failing = "start_new_core_engine"
    t.switch()
    return Truth(NOBODY, frozenset(), touched=True)


# --- the watch ------------------------------------------------------------------------


def _watching(t: _Teller, seconds: float, **how: Any) -> Truth:
    t.switch()
    t.story.watch_so_far(seconds=seconds, **how)
    judged = History.of(t.story.records).judgement
    verdict = judged.payload.overall if judged else "INCONCLUSIVE"
    return Truth(NEW, MEMBERS[NEW], touched=True, verdict=verdict)


@_state("watch begins")
def _watch_begins(t: _Teller) -> Truth:
    return _watching(t, 0.0)


@_state("watching, good so far")
def _watch_good(t: _Teller) -> Truth:
    return _watching(t, 900.0)


@_state("watching, a limit is broken")
def _watch_bad(t: _Teller) -> Truth:
    return _watching(t, 700.0, slow_after=BREACH)


@_state("watching, the clock was set")
def _stepped(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    _step_clock(t, -600.0)
    return truth


def _step_clock(t: _Teller, seconds: float) -> None:
    clock = t.story.clock
    before, mono = clock.wall, clock.mono
    clock.wall += seconds
    t.story.say(
        "watch_disturbed",
        what="clock_stepped",
        seconds=seconds,
        from_utc=utc_text(before),
        to_utc=utc_text(clock.wall),
        from_mono=mono - 0.25,
        to_mono=mono,
        sentence=f"the wall clock was set by {seconds:+.1f} s",
    )


@_state("watching, much was said")
def _much_said(t: _Teller) -> Truth:
    t.story.say(
        "finding",
        severity="warning",
        sentence="TRADING_STATE_CMD is not given: working orders are not compared",
    )
    truth = _watching(t, 600.0)
    t.ask("hold", reason="spreads", answer="the watch holds for a decision")
    t.hold("hold asked for by ops: spreads")
    for hook, ok, sentence in (
        ("ALERT_CMD", True, "exit 0"),
        ("ALERT_WEBHOOK_URL", False, "HTTP 503"),
    ):
        t.story.say(
            "alert_ended", occasion="holding", hook=hook, ok=ok, sentence=sentence, took_ms=120.0
        )
    t.ask("resume", answer="the watch goes on")
    t.story.state("WATCHING", "resume asked for by ops")
    t.story.say(
        "control",
        request="go",
        by="ops",
        reason="",
        requested_utc=utc_text(t.story.clock.wall),
        file="late.json",
        start=1,
    )
    t.story.say(
        "answer", request="go", file="late.json", obeyed=False, sentence="the switch is over"
    )
    return truth


@_state("watching, taken up again")
def _resumed(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    since = utc_text(t.story.clock.wall)
    t.story.clock.advance(30.0)
    why = "the orchestrator (pid 4242) died"
    t.story.say("orchestrator_started", resumed=True, reason=why)
    t.story.say("watch_gap", from_utc=since, to_utc=utc_text(t.story.clock.wall), reason="resumed")
    return truth


@_state("held for a broken limit")
def _held(t: _Teller) -> Truth:
    truth = _watching(t, 700.0, slow_after=BREACH)
    judged = History.of(t.story.records).judgement
    assert judged is not None
    worst = next(m.sentence for m in judged.payload.metrics.values() if m.verdict == "FAILED")
    t.hold(worst)
    return truth._replace(asks="resume|rollback")


@_state("held by an operator")
def _held_asked(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    t.ask("hold", reason="spreads", answer="the watch holds for a decision")
    t.hold("hold asked for by ops: spreads")
    return truth._replace(asks="resume|rollback")


@_state("held until somebody decides", plan={"hold_expiry": "keep"})
def _held_kept(t: _Teller) -> Truth:
    return _held(t)


@_state("held for a session that is lost")
def _held_session(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    gap = "TD logged in: no (its log), may trade: Blocked (its log)"
    _say_session(t, gap, ok=False)
    t.hold(gap)
    return truth._replace(trades=UNKNOWN, asks="resume|rollback")


@_state("watching, the new engine closes only")
def _closes_only(t: _Teller) -> Truth:
    truth = _watching(t, 30.0)
    _say_session(t, "TD logged in: yes (its log), may trade: CloseOnly (its log)", ok=True)
    return truth._replace(trades=UNKNOWN)


def _say_session(t: _Teller, observed: str, *, ok: bool) -> None:
    t.story.say(
        "probe",
        subject="new_core_engine",
        question="session",
        ok=ok,
        observed=observed,
        expected="what the template declares of its session",
    )


@_state("a new member died, not rolled back yet")
def _died(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    _end_watch(t, truth)
    t.trigger("member_died", "new_strategy_runner gone: alive command says gone (exit 1)")
    alive = MEMBERS[NEW] - {"new_strategy_runner"}
    return truth._replace(trades=NOBODY, alive=alive, verdict="INCONCLUSIVE")


@_state("a new member died, rollback begun")
def _died_begun(t: _Teller) -> Truth:
    truth = _died(t)
    t.begin_rollback()
    return truth


@_state("trigger fired, not rolled back yet")
def _fired(t: _Teller) -> Truth:
    t.switch()
    firing = t.story.watch(slow_after=BREACH, tells=True)
    assert firing is not None
    t.trigger("metric", firing.sentence, firing=firing)
    return Truth(NEW, MEMBERS[NEW], touched=True, verdict="FAILED")


# --- the way back ---------------------------------------------------------------------


def _going_back(t: _Teller, upto: str, *, took: float = 0.0) -> None:
    _fired(t)
    t.roll_back(upto, took=took)


@_state("rollback, new engine stopping")
def _back_stopping(t: _Teller) -> Truth:
    _going_back(t, "stop_new_core_engine")
    return Truth(NOBODY, frozenset({"new_core_engine"}), touched=True, verdict="FAILED")


@_state("rollback, previous engine starting")
def _back_starting(t: _Teller) -> Truth:
    _going_back(t, "start_previous_core_engine")
    return Truth(NOBODY, frozenset(), touched=True, verdict="FAILED")


@_state("rollback begun")
def _back_begun(t: _Teller) -> Truth:
    _fired(t)
    t.begin_rollback()
    return Truth(NEW, MEMBERS[NEW], touched=True, verdict="FAILED")


@_state("rollback over its budget, between two steps")
def _back_between(t: _Teller) -> Truth:
    _fired(t)
    t.begin_rollback()
    t.story.step(step_spec("stop_new_strategy_runner"))
    t.story.clock.advance(200.0)
    return Truth(NOBODY, frozenset({"new_core_engine"}), touched=True, verdict="FAILED")


@_state("rollback over its budget")
def _back_over(t: _Teller) -> Truth:
    _going_back(t, "start_previous_core_engine", took=200.0)
    return Truth(NOBODY, frozenset(), touched=True, verdict="FAILED")


@_state("rollback, validating")
def _back_validating(t: _Teller) -> Truth:
    _going_back(t, "post_rollback_validate")
    return Truth(OLD, MEMBERS[OLD], touched=True, verdict="FAILED")


@_state("rollback of a switch that failed halfway")
def _back_halfway(t: _Teller) -> Truth:
    _switch_failed(t)
    t.roll_back("start_previous_core_engine")
    return Truth(NOBODY, frozenset(), touched=True)


def _switch_failed(t: _Teller) -> None:
    t.story.failing = "start_new_core_engine"
    t.switch()
    why = "step start_new_core_engine failed after 0.3 s: exit 3, expected 0"
    t.trigger("step_failed", why)


# --- over -----------------------------------------------------------------------------


def _old_back(**facts: Any) -> Truth:
    return Truth(OLD, MEMBERS[OLD], touched=True, conducted=False, **facts)


@_state("completed")
def _completed(t: _Teller) -> Truth:
    t.switch()
    t.story.watch(tells=True)
    sentence = "the new generation trades; the watch window passed"
    t.close(Outcome.COMPLETED, sentence, **_all(NEW))
    return Truth(
        NEW,
        MEMBERS[NEW],
        touched=True,
        conducted=False,
        outcome=Outcome.COMPLETED,
        verdict="PASSED",
    )


@_state(
    "completed, its copy cannot be written", plan={"cutover_evidence_output": "/proc/nowhere/x"}
)
def _completed_uncopied(t: _Teller) -> Truth:
    return _completed(t)._replace(asks="resume", unwritten=True)


@_state("rolled back by its trigger")
def _rolled_back(t: _Teller) -> Truth:
    _going_back(t, "")
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="FAILED")


@_state("rolled back, a step of the switch failed")
def _rolled_back_halfway(t: _Teller) -> Truth:
    _switch_failed(t)
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET)


@_state("aborted after the first stop")
def _rolled_back_asked(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    t.ask("abort", reason="spreads", answer="the run rolls back now")
    _end_watch(t, truth)
    t.trigger("operator", "abort asked for by ops: spreads")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="INCONCLUSIVE")


def _end_watch(t: _Teller, truth: Truth) -> None:
    """The watch that was stopped, as its end is written down."""
    t.story.end_watch(stopped=True)


@_state("rolled back, nobody decided")
def _rolled_back_expired(t: _Teller) -> Truth:
    _held(t)
    t.story.clock.advance(60.0)
    held = History.of(t.story.records).transitions[-1].reason
    _end_watch(t, Truth())
    t.trigger("hold_expired", f"held for 60 s (HOLD_SECONDS): {held}")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="FAILED")


@_state("rolled back, the new engine died")
def _rolled_back_died(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    _end_watch(t, truth)
    t.trigger("member_died", "new_core_engine gone: alive command says gone")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="INCONCLUSIVE")


@_state("rolled back, interrupted in the switch")
def _rolled_back_resumed(t: _Teller) -> Truth:
    t.switch(upto="start_new_core_engine")
    t.story.clock.advance(12.0)
    why = "the orchestrator (pid 4242) died"
    t.story.say("orchestrator_started", resumed=True, reason=why)
    t.trigger("resume", f"interrupted in the middle of the switch: {why}")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET)


@_state("rolled back, the old stack came back by itself")
def _rolled_back_judged(t: _Teller) -> Truth:
    truth = _watching(t, 600.0)
    _end_watch(t, truth)
    t.trigger("judge", "the old generation lives again: old_core_engine alive: pid 77")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="INCONCLUSIVE")


@_state("drill", rehearsal=True, force_rollback=True, forced_after_seconds=600.0)
def _drill(t: _Teller) -> Truth:
    t.switch()
    t.story.watch(forced_after=600.0, tells=True)
    t.trigger("forced_drill", "--force-rollback after 600 s of watch")
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, verdict="INCONCLUSIVE")


@_state("rolled back late")
def _late(t: _Teller) -> Truth:
    _going_back(t, "", took=200.0)
    t.close(Outcome.ROLLED_BACK_LATE, f"{t.back}: late", **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_LATE, verdict="FAILED")


@_state("rolled back by a run of its own", parent_run="completed", reason="spreads")
def _undone(t: _Teller) -> Truth:
    _undoing(t)
    t.roll_back()
    t.close(Outcome.ROLLED_BACK_IN_BUDGET, t.back, **_all(OLD))
    return _old_back(outcome=Outcome.ROLLED_BACK_IN_BUDGET, undoes=True)


@_state("rolling back by a run of its own", parent_run="completed", reason="spreads")
def _undoing_now(t: _Teller) -> Truth:
    _undoing(t)
    t.roll_back("stop_new_core_engine")
    alive = frozenset({"new_core_engine"})
    return Truth(NOBODY, alive, touched=True, undoes=True)


@_state("a rollback by a run of its own, just started", parent_run="completed", reason="spreads")
def _undoing_started(t: _Teller) -> Truth:
    _adopt(t)
    return Truth(NEW, MEMBERS[NEW], touched=True, undoes=True)


def _undoing(t: _Teller) -> None:
    _adopt(t)
    t.trigger("operator", "rollback of run completed asked for by ops: spreads")


def _adopt(t: _Teller) -> None:
    t.story.say("parent", run_id="completed", journal_sha256="5" * 64, outcome="COMPLETED")
    for number, name in enumerate(sorted(MEMBERS[OLD] | MEMBERS[NEW])):
        t.story.identity(name, 6001 + number)
    t.story.say("orchestrator_started", resumed=False, reason="")


@_state("completed, and the new runner was not seen at the end")
def _completed_unseen(t: _Teller) -> Truth:
    t.switch()
    t.story.watch(tells=True)
    seen = {"new_core_engine": "alive", "new_strategy_runner": "undecided"}
    runs = "old_core_engine gone, old_strategy_runner gone, new_core_engine alive, "
    runs += "new_strategy_runner undecided"
    sentence = f"the watch window passed; what runs by the last look: {runs}"
    t.close(Outcome.COMPLETED, sentence, **seen)
    return Truth(
        UNKNOWN,
        MEMBERS[NEW],
        touched=True,
        conducted=False,
        outcome=Outcome.COMPLETED,
        verdict="PASSED",
    )


def _unvalidated(t: _Teller, runner: str) -> None:
    _fired(t)
    t.roll_back(failing="post_rollback_validate")
    why = "step post_rollback_validate failed after 0.3 s: exit 3, expected 0"
    sentence = f"{t.back}, but it could not be validated: {why}"
    seen = {**_all(OLD), "old_strategy_runner": runner}
    t.close(Outcome.ROLLED_BACK_UNVALIDATED, sentence, **seen)


@_state("rolled back, not validated")
def _unvalidated_alive(t: _Teller) -> Truth:
    _unvalidated(t, "alive")
    return _old_back(outcome=Outcome.ROLLED_BACK_UNVALIDATED, verdict="FAILED")


@_state("rollback failed, nothing trades")
def _failed(t: _Teller) -> Truth:
    _fired(t)
    t.roll_back(failing="start_previous_core_engine")
    why = "step start_previous_core_engine failed after 0.3 s: exit 3, expected 0"
    for name in ("start_previous_strategy_runner", "post_rollback_validate"):
        t.story.not_done(step_spec(name), "not_run", why)
    runs = ", ".join(f"{name} gone" for which in MEMBERS.values() for name in sorted(which))
    sentence = f"{why}. What runs now: {runs}. An operator must act now."
    t.close(Outcome.ROLLBACK_FAILED, sentence)
    return Truth(
        NOBODY,
        frozenset(),
        touched=True,
        conducted=False,
        outcome=Outcome.ROLLBACK_FAILED,
        verdict="FAILED",
    )


@_state("rollback failed, the new engine will not go")
def _failed_gone(t: _Teller) -> Truth:
    _fired(t)
    t.begin_rollback()
    t.story.failing = "stop_new_core_engine"
    t.story.step(step_spec("stop_new_strategy_runner"))
    t.story.step(step_spec("stop_new_core_engine"))
    gap = "new_core_engine alive: alive command says alive, pid 5101 runs"
    why = f"the new generation is not proved gone, so nothing was started: {gap}"
    for spec in STEP_TABLE:
        if spec.phase is Phase.ROLLBACK and not spec.name.startswith("stop"):
            t.story.not_done(spec, "not_run", why)
    runs = "old_core_engine gone, old_strategy_runner gone, new_core_engine alive, "
    runs += "new_strategy_runner gone"
    sentence = f"{why}. What runs now: {runs}. An operator must act now."
    t.close(Outcome.ROLLBACK_FAILED, sentence, new_core_engine="alive")
    return Truth(
        NOBODY,
        frozenset({"new_core_engine"}),
        touched=True,
        conducted=False,
        outcome=Outcome.ROLLBACK_FAILED,
        verdict="FAILED",
    )


# --- looked at ------------------------------------------------------------------------


def _told(name: str, outputs: Path) -> Simulated:
    build, header = _BUILDERS[name]
    folder = outputs / name.replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True)
    with telling(folder, "state", **header) as story:
        truth = build(_Teller(story))
        story.clock.advance(5.0)
    made = Simulated(name, story.run, story.clock, truth)
    if truth.outcome is not None:
        seal(made.run)
    return made


def _left(made: Simulated) -> Simulated:
    """The same run, whose orchestrator and guardian were killed at one instant a while ago."""
    made.clock.advance(LEFT_SECONDS)
    truth = made.truth._replace(conducted=False, asks="resume")
    return made._replace(name=f"{made.name}; both dead", truth=truth)


def _others(made: Simulated) -> Iterator[Simulated]:
    """The same journal, and other processes: its orchestrator alone died; the host was rebooted."""
    name, truth = made.name, made.truth
    yield made._replace(name=f"{name}; the guardian lives", truth=truth._replace(guarded=True))
    made.clock.advance(LEFT_SECONDS)
    gone: dict[str, Any] = {"trades": NOBODY, "alive": frozenset(), "conducted": False}
    who = "old_strategy_runner"
    revived = truth._replace(
        trades=UNKNOWN, alive=frozenset({who}), conducted=False, revived=who, asks="resume"
    )
    yield made._replace(name=f"{name}; the old runner was brought back", truth=revived)
    rebooted = truth._replace(**gone, rebooted=True, asks="resume")
    yield made._replace(name=f"{name}; the host was rebooted", truth=rebooted)


def _unwritten(made: Simulated, outputs: Path) -> Iterator[Simulated]:
    """The same run while its evidence is written, where nobody lived to write it or to seal it, and
    damaged."""
    folder = outputs / f"unwritten {made.name}".replace(" ", "_") / made.run.run_id
    shutil.copytree(made.run.path, folder)
    run, truth = RunDir(folder), made.truth
    run.samples.write_text("no sample\n")
    yield made._replace(name=f"{made.name}; its samples are damaged", run=run)
    shutil.copy(made.run.samples, run.samples)
    lost = truth._replace(asks="resume", unwritten=True)
    write_manifest(run, sealed=False)
    yield made._replace(name=f"{made.name}; left unsealed", run=run, truth=lost)
    run.manifest.unlink()
    yield made._replace(
        name=f"{made.name}; its evidence is being written",
        run=run,
        truth=truth._replace(conducted=True),
    )
    yield made._replace(name=f"{made.name}; its evidence not written", run=run, truth=lost)
    shutil.copy(made.run.manifest, run.manifest)
    behind = keep_end_behind(run)
    yield made._replace(name=f"{made.name}; its end kept behind its journal", run=run, truth=lost)
    behind.unlink()


_OTHERS = (
    "new engine starting",
    "watching, good so far",
    "a rollback by a run of its own, just started",
)


def simulated(outputs: Path) -> Iterator[Simulated]:
    """Every state there is; each is looked at before the next one is made."""
    for name in _BUILDERS:
        made = _told(name, outputs)
        yield made
        if name in _OTHERS:
            yield from _others(made)
        if made.truth.conducted:
            yield _left(made)
        if name in ("completed", "rolled back late"):
            yield from _unwritten(made, outputs)


STATES = tuple(_BUILDERS)


class _Reader(NamedTuple):
    """The host as whoever looks finds it."""

    boot: str
    clock_: Clock
    alive: frozenset[tuple[int, int]]
    revived: Identity | None

    def is_running(self, identity: Identity) -> bool:
        """True of those who are said to live."""
        return (identity.pid, identity.start_ticks) in self.alive

    def lookalikes(self, pin: Pin, **_: object) -> tuple[Identity, ...]:
        """Who was started beside the run."""
        return (Identity(7777, 1),) if pin.identity == self.revived else ()

    def wall(self) -> float:
        """The time of the state."""
        return self.clock_.wall

    def mono(self) -> float:
        """The time of the state."""
        return self.clock_.mono

    def monotonic(self) -> float:
        """The same, as the time module has it."""
        return self.mono()

    def boot_id(self) -> str:
        """That of the journal, or the one after it."""
        return self.boot

    def sleep(self, seconds: float) -> None:
        """It is later then."""
        self.clock_.advance(max(0.0, seconds))


@contextlib.contextmanager
def standing(made: Simulated) -> Iterator[None]:
    """Let whoever looks find the processes and the clocks of that state."""
    history, truth = made.history, made.truth
    pins = history.pins
    revived = pins[truth.revived].identity if truth.revived else None
    living = [pins[n].identity for n in truth.alive if n in pins and n != truth.revived]
    if truth.conducted:
        living.append(GUARDIAN if truth.guarded else own_identity())
    boot = "another-boot" if truth.rebooted else boot_id()
    living_ids = frozenset((who.pid, who.start_ticks) for who in living)
    reader = _Reader(boot, made.clock, living_ids, revived)
    kept = {name: getattr(HERE, name) for name in ("clock", "processes", "pins")}
    with mock.patch("ctp_runbook.cli.runs.time", reader):
        try:
            for name in kept:
                structs.force_setattr(HERE, name, reader)
            yield
        finally:
            for name, part in kept.items():
                structs.force_setattr(HERE, name, part)
