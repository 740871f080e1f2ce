"""`rehearse --engine as-found`: a cutover between engines that prove little, whole and with each fault.

Each is the command an operator types, on a light twin of its own, several at once: they mostly wait.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.model import Generation, State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import Finding, ProbeAnswered, TradingStateRead
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin

pytestmark = [pytest.mark.twin, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WHOLE = "none"
IN_CI = ("deadlock", "supervisor", "close-only", "stale-intents", WHOLE)
AT_ONCE = 5
SHORT = ("--no-plane", "--no-notebooks", "--close-only-seconds", "1", "--stop-seconds", "1")


@dataclass(frozen=True)
class Rehearsed:
    """One rehearsal, over: what it ended with and said, its run and its twin's folder."""

    code: int
    said: str
    run: RunDir
    twin: Twin

    @property
    def history(self) -> History:
        """Its journal."""
        return History.of(read_journal(self.run.journal).records)

    @property
    def findings(self) -> str:
        """All that a reviewer should read, a line each."""
        return "\n".join(each.payload.sentence for each in self.history.of_kind(Finding))

    def check(self, *, code: int, outcome: str, trades: str) -> None:
        """It ended so, verified, and that generation alone can trade."""
        assert self.code == code, self.said
        assert outcome in self.said, self.said
        assert f"now able to trade: {trades}\n" in self.said, self.said
        assert "twin down: every process proved gone" in self.said, self.said


def rehearsed(outputs: Path, fault: str, *more: str) -> Rehearsed:
    """Rehearse with a fault, or with none."""
    words = [] if fault == WHOLE else ["--fault", fault]
    argv = [sys.executable, "-m", "ctp_runbook", "rehearse", "--engine", "as-found", *SHORT]
    done = subprocess.run(
        [*argv, "--watch-seconds", "20", "--outputs", str(outputs), *words, *more],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    said = done.stdout + done.stderr
    (run,) = (path.parent for path in outputs.glob("*/journal.jsonl")) if outputs.exists() else [""]
    assert run, said
    (twin,) = (outputs / "twins").iterdir()
    return Rehearsed(done.returncode, said, RunDir(Path(run)), Twin(twin.resolve()))


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Rehearsed]:
    """Every rehearsal of this module, by its fault."""
    room = tmp_path_factory.mktemp("as found")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda fault: rehearsed(room / fault, fault), IN_CI)
        return dict(zip(IN_CI, done, strict=True))


def test_it_completes_and_lists_what_was_not_proved(
    all_of_them: Mapping[str, Rehearsed],
) -> None:
    """No value is made up: what no engine tells is in the report, and in no trading state."""
    whole = all_of_them[WHOLE]
    whole.check(code=0, outcome="COMPLETED", trades="new")
    assert overlaps(whole.twin.front_log) == []
    assert f"`ctp-runbook report --run {whole.run.path}`" in whole.said
    argv = [sys.executable, "-m", "ctp_runbook", "report", "--run", str(whole.run.path)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=240)
    report = whole.run.report.read_text()
    assert "NOT PROVED" in report
    assert "the old engine tells nowhere" in report
    for read in whole.history.of_kind(TradingStateRead):
        assert not {"funds", "max_order_ref", "next_order_ref", "td_session"} & {
            *read.payload.state
        }
    asked = [each.payload for each in whole.history.of_kind(ProbeAnswered)]
    sessions = [each.observed for each in asked if each.question == "session" and each.ok]
    assert any("NOT PROVED" in said for said in sessions)


def test_a_deadlocked_engine_is_rolled_back(all_of_them: Mapping[str, Rehearsed]) -> None:
    """Alive, connected, its heartbeat fresh: what finds it is that no order moves. It needs KILL."""
    dead = all_of_them["deadlock"]
    dead.check(code=4, outcome="ROLLED_BACK_IN_BUDGET", trades="old")
    assert overlaps(dead.twin.front_log) == []
    assert "no event for" in dead.said  # still_seconds
    assert "after KILL" in dead.said + dead.findings


def test_one_that_only_closes_is_held_and_told(all_of_them: Mapping[str, Rehearsed]) -> None:
    """It is up, and nobody says that it trades; nobody decides, so the hold expires."""
    held = all_of_them["close-only"]
    held.check(code=4, outcome="ROLLED_BACK_IN_BUDGET", trades="old")
    assert "trading_mode FAILED: 1 > " in held.said
    assert held.history.entered(State.HOLDING) is not None
    assert "the new engine is logged in, CloseOnly for" in held.said


def test_a_supervisor_does_not_leave_two(all_of_them: Mapping[str, Rehearsed]) -> None:
    """It starts the old engine beside the new one, which is seen: one generation is left."""
    two = all_of_them["supervisor"]
    two.check(code=4, outcome="ROLLED_BACK_IN_BUDGET", trades="old")
    assert "the old generation lives again" in two.said
    assert all(each.until_ns for each in overlaps(two.twin.front_log))


def test_stale_intents_are_named(all_of_them: Mapping[str, Rehearsed]) -> None:
    """The new engine dies of SIGSEGV; the old one places its last batch again, which is told."""
    stale = all_of_them["stale-intents"]
    stale.check(code=4, outcome="ROLLED_BACK_IN_BUDGET", trades="old")
    assert "new_core_engine gone" in stale.said
    assert "orders that nobody asked for work at old_core_engine" in stale.said
    ended = stale.history.closed
    assert ended is not None
    assert "nobody asked for" in ended.payload.sentence
    assert {name for name, word in ended.payload.running.items() if word == "alive"} == {
        f"{Generation.OLD}_core_engine",
        f"{Generation.OLD}_strategy_runner",
    }


@pytest.mark.slow
def test_one_that_dies_of_a_segmentation_fault_is_rolled_back(tmp_path: Path) -> None:
    """As any that dies."""
    died = rehearsed(tmp_path / "o", "segfault")
    died.check(code=4, outcome="ROLLED_BACK_IN_BUDGET", trades="old")
    assert overlaps(died.twin.front_log) == []


@pytest.mark.slow
def test_it_completes_with_its_own_delays(tmp_path: Path) -> None:
    """CloseOnly for 30 s after recovery; TERM takes 40 s, which nobody waits for in the drill."""
    delays = ("--close-only-seconds", "30", "--stop-seconds", "40", "--watch-seconds", "30")
    rehearsed(tmp_path / "o", WHOLE, *delays).check(code=0, outcome="COMPLETED", trades="new")
