"""`ctp-runbook run --execute` in tmux, 80 by 24: every screen is whole lines, from the question to the
end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import newest_run
from ctp_runbook.rehearsal import faults, stack
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import read_history

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
]
ROOT = Path(__file__).parents[2]
_SECONDS = 150.0
STATES = "PLANNED|GATING|READY|SWITCHING|WATCHING|HOLDING|ROLLING_BACK|CLOSED"
HEADING = re.compile(rf"(starting|({STATES}) for \d+:\d\d.*|[A-Z_]+; what is left .*) ─+")
STEP = re.compile(r" [✓✗…?–] ? ?\w+ .*|    \w+( +usually [\d.]+ s)?")
METRIC = re.compile(
    r" [✓✗?!]  \w+ +(no data|[> ]*[\d.e+-]+( ms| s)?) +[≤≥] [\d.]+( ms| s)? +[▁-█·]{16}"
)
COUNTDOWN = re.compile(r"ROLLBACK: .* s (of|OVER) .*|rollback trigger: .*|HOLDING.*")
TRADES = re.compile(
    r"The (old|new) stack trades(; .*)?|Nothing (trades|is proved to trade) since .*"
)
# A line of the log, or what of its sentence goes on below it, or stands above the run.
LOGGED = re.compile(r"\d\d:\d\d:\d\dZ .*| {10,}\S.*")


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    """The light twin, whose new generation will answer orders late."""
    made = stack.up(tmp_path / "twin", watch_minutes=0.5, plane=False)
    try:
        faults.apply(made, "order-latency", after_seconds=6.0)
        yield made
    finally:
        stack.down(made.dir)


class Tmux:
    """A terminal of 80 by 24 in which a command runs."""

    def __init__(self, folder: Path, command: str) -> None:
        self._name = f"ctp-{folder.name}"
        words = f"{command}; echo exit $?; sleep 60"
        size = ("-x", "80", "-y", "24")
        self._do("-f", "/dev/null", "new-session", "-d", *size, "-c", str(ROOT), words)

    def _do(self, *words: str) -> str:
        argv = ["tmux", "-L", self._name, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def type(self, text: str) -> None:
        """Type a line."""
        self._do("send-keys", "-l", text)
        self._do("send-keys", "Enter")

    def screens(self, until: str) -> Iterator[str]:
        """Each screen that is another, up to one that has ``until`` on it."""
        end, last = time.monotonic() + _SECONDS, ""
        while until not in last:
            assert time.monotonic() < end, last
            screen = self._do("capture-pane", "-p")
            if screen != last:
                yield screen
            last = screen
            time.sleep(0.1)

    def close(self) -> None:
        """End it, and what runs in it."""
        self._do("kill-server")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_run_in_a_terminal_is_whole_lines_from_question_to_end(
    twin: Twin, tmp_path: Path
) -> None:
    """Gates, switch, watch, trigger, rollback and end were all on the screen, no line of it torn."""
    terminal = Tmux(tmp_path, shlex.join(command(twin, tmp_path)))
    try:
        asked = list(terminal.screens(until="to run it:"))[-1]
        assert "rolls back by itself within 60 s" in " ".join(asked.split())
        terminal.type(twin.environment)
        seen = [
            s
            for s in terminal.screens(until="\nexit ")
            if "GATING" in s or "CLOSED" in s or HEADING.search(s)
        ]
        last = list(terminal.screens(until="\nexit "))[-1]
    finally:
        terminal.close()
    headings = {match[2] for screen in seen for match in HEADING.finditer(screen) if match[2]}
    assert headings >= {"GATING", "SWITCHING", "WATCHING", "ROLLING_BACK"}
    assert [torn for screen in seen for torn in torn_lines(screen)] == []
    assert any("» ROLLING_BACK: rollback trigger: order_latency_p99_ms" in s for s in seen)
    assert any(METRIC.search(screen) for screen in seen)
    assert any("The old stack trades\n" in screen for screen in seen)
    assert any(re.search(r"\nNothing trades since \d+\.\d s\n", screen) for screen in seen)
    assert any(re.search(r"\nThe new stack trades; 0:\d\d left to watch", s) for s in seen)
    assert f"exit {Outcome.ROLLED_BACK_IN_BUDGET.exit_code}" in last
    run = newest_run(tmp_path / "outputs")
    history = read_history(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    told = " ".join(last.split())
    assert "ROLLED_BACK_IN_BUDGET: the previous stack trades again" in told
    assert "trading downtime: " in told
    assert "report.html" in told
    # Nothing of what moved is left on the screen.
    assert not HEADING.search(last)


def test_a_real_run_as_json_is_as_described(twin: Twin, tmp_path: Path) -> None:
    """Each line of standard output is valid by itself, from the run to its end."""
    words = [*command(twin, tmp_path), "--json"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS)
    assert said.returncode == Outcome.ROLLED_BACK_IN_BUDGET.exit_code, said.stderr
    schema = json.loads((ROOT / "infra" / "schemas" / "told.json").read_bytes())
    validator = jsonschema.Draft202012Validator(schema)
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    for line in lines:
        validator.validate(line)
    assert {line["event"] for line in lines} == {"run", "record", "note", "watch", "end"}
    records = [line["seq"] for line in lines if line["event"] == "record"]
    assert records == list(range(len(records)))
    run, end = newest_run(tmp_path / "outputs"), lines[-1]
    assert (end["outcome"], end["exit_code"]) == ("ROLLED_BACK_IN_BUDGET", said.returncode)
    assert (end["report"], end["verdict"]) == (str(run.report), "FAILED")
    assert end["downtime_seconds"] > 0


def command(twin: Twin, folder: Path) -> list[str]:
    """`ctp-runbook run --execute` on the twin."""
    files = {
        "--cutover-template": twin.cutover_template,
        "--rollback-template": twin.rollback_template,
        "--limits": twin.limits_file,
        "--watch": twin.watch_file,
        "--outputs": folder / "outputs",
        "--accept-unmeasured": "a test",
    }
    words = [str(word) for pair in files.items() for word in pair]
    return [sys.executable, "-m", "ctp_runbook", "run", "--execute", *words]


def torn_lines(screen: str) -> Iterator[str]:
    """Lines below the heading that are none of those that move, or a heading that stands there twice."""
    lines = screen.rstrip("\n").split("\n")
    places = [place for place, line in enumerate(lines) if HEADING.fullmatch(line)]
    if len(places) > 1:
        yield screen
    for place in places:
        below = [line for line in lines[place + 1 :] if line]
        known = (
            STEP,
            METRIC,
            COUNTDOWN,
            TRADES,
            re.compile(r"(decide: .*; )?Ctrl-C leaves the run going"),
        )
        yield from (line for line in below if not any(form.fullmatch(line) for form in known))
    logged = [line for line in lines[: places[0] if places else None] if line]
    began = next((n for n, line in enumerate(logged) if re.match(r"\d\d:", line)), len(logged))
    yield from (
        line for line in logged[began:] if not LOGGED.fullmatch(line) and "exit " not in line
    )
