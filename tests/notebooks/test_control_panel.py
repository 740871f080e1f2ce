"""The panel of a notebook that follows a run, in a real browser: a person steers it by buttons.

One walk on a light twin: the page one begins at; a watch whose tab is closed and opened again, whose kernel
is started again, and that a second person looks at; a word that is wrong, a hold, a resume, a rollback; then
another run, ended in the middle of its switch. Then facts about what the page said and what the journal has.
``CTP_TEST_ARTEFACTS`` names a directory that keeps the pictures.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from ctp_runbook.model import Outcome, State
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import RequestAnswered, RequestTaken
from ctp_runbook.record.rundir import RunDir, newest_run
from ctp_runbook.rehearsal import stack
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import read_history
from ctp_runbook.show.report import write_report
from tests.notebooks.jupyterlab_page import Lab, address, browse, patient, processes_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WATCH_SECONDS = 240
SLOW_MS = 60_000.0
LAB = """
import sys
from pathlib import Path
from ctp_runbook.notebook.lab import open_lab, rehearsal_parameters
outputs, *templates = map(Path, sys.argv[1:])
sys.exit(open_lab(outputs=outputs, parameters=rehearsal_parameters(*templates), arguments=()))
"""


@dataclass
class Walk:
    """What was seen on the way."""

    outputs: Path
    twin: Twin
    runs: list[RunDir] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    after_a_wrong_word: list[str] = field(default_factory=list)
    saved: dict[str, Any] = field(default_factory=dict)

    def history(self, number: int) -> History:
        """The journal of a run, by its number."""
        return read_history(self.runs[number])

    def asked(self, number: int) -> list[tuple[str, str]]:
        """What was asked of a run, and for which reason."""
        taken = self.history(number).of_kind(RequestTaken)
        return [(record.payload.request, record.payload.reason) for record in taken]

    def notebook(self, name: str) -> Any:
        """A notebook as JupyterLab saved it."""
        (path,) = self.outputs.glob(f"lab-*/{name}.ipynb")
        return json.loads(path.read_text())


# --- the walk ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Two runs steered by buttons; everything down again."""
    room = tmp_path_factory.mktemp("panel")
    pictures = Path(os.environ.get("CTP_TEST_ARTEFACTS") or room / "pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    browser = patient(browser_path, folder=room)
    twin = stack.up(room / "twin", watch_minutes=WATCH_SECONDS / 60, plane=False, hold_seconds=300)
    try:
        bear_with_a_busy_machine(twin)
        walk = Walk(room / "outputs", twin)
        with (
            jupyterlab(walk) as url,
            browse(url, browser=browser, pictures=pictures, size=(1280, 800)) as lab,
        ):
            keep(lab, walk, "00_before")
            steer_the_watch(lab, walk)
            look_back(lab, walk)
            abort_the_switch(lab, walk)
        yield walk
    finally:
        stack.down(twin.dir)


def bear_with_a_busy_machine(twin: Twin) -> None:
    """No latency is too long: a browser and JupyterLab want both cores."""
    text = twin.rollback_template.read_text()
    fired = re.sub(r"order_latency_p99_ms > \d+ ", "order_latency_p99_ms > 5000 ", text)
    assert fired != text
    twin.rollback_template.write_text(fired)
    twin.watch_file.write_text(twin.watch_file.read_text().replace("limit = 50\n", "limit = 900\n"))


@contextmanager
def jupyterlab(walk: Walk) -> Iterator[str]:
    """The lab on the twin's templates; its address. At the end it is told to go."""
    own = walk.outputs.parent
    log = own / "lab.log"
    templates = (walk.twin.cutover_template, walk.twin.rollback_template)
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [sys.executable, "-c", LAB, str(walk.outputs), *map(str, templates)],
            cwd=ROOT,
            env={**os.environ, "JUPYTER_CONFIG_DIR": str(own / "jupyter")},
            stdout=sink,
            stderr=sink,
        )
    try:
        yield address(log, server)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        for pid in processes_of(walk.outputs):  # of a walk that stopped in the middle of a run
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def begin(lab: Lab, walk: Walk, *, again: bool = False) -> str:
    """01 to 03, and 04 with the environment typed in; the environment."""
    for name in ("01_plan", "02_infra_gate", "03_readiness_gate"):
        run_all(lab, name, again=again)
        lab.wait_until_run()
    walk.runs.append(newest_run(walk.outputs))
    environment = str(walk.history(-1).plan.environment)
    run_all(lab, "04_switch", again=again)
    lab.question.wait_for()
    lab.answer(environment)
    return environment


def run_all(lab: Lab, name: str, *, again: bool) -> None:
    """Open a notebook, or come back to it, and run all of it anew."""
    lab.open(name)
    if again:
        run_again(lab)
    else:
        lab.run_all()


def run_again(lab: Lab) -> None:
    """Start the kernel again and run all; what the cells put out before is gone on return."""
    lab.restart_and_run_all()
    expect(lab.notebook.locator(".jp-InputArea-prompt", has_text="[*]").first).to_be_visible()


def keep(lab: Lab, walk: Walk, what: str) -> None:
    """Remember and photograph what the page says now."""
    walk.said[what] = lab.output
    lab.photograph(what)


def wait_for(lab: Lab, words: str) -> None:
    """Until the page says so."""
    said = lab.notebook.locator(".jp-OutputArea-output", has_text=re.compile(words))
    expect(said.first).to_be_visible(timeout=SLOW_MS)


def steer_the_watch(lab: Lab, walk: Walk) -> None:
    """05: a wrong word, a hold, a resume, in the dark as well; then a rollback, seen to its end."""
    environment = begin(lab, walk)
    lab.wait_until_run()
    keep(lab, walk, "04_switched")
    lab.open("05_watch")
    lab.run_all()
    come_back(lab, walk)
    lab.press("Hold", reason="spreads are wide", confirm=environment)
    wait_for(lab, "HOLDING: rolls back in")
    wait_for(lab, "Hold: asked")
    expect(lab.button("Resume")).to_be_enabled(timeout=SLOW_MS)
    keep(lab, walk, "05_holding")
    lab.theme("JupyterLab Dark")
    lab.photograph("05_holding-dark")
    beside_another(lab, walk, environment)
    lab.photograph("05_resumed-dark")
    lab.theme("JupyterLab Light")
    run_again(lab)
    wait_for(lab, "left to watch")
    lab.press("Roll back", reason="fills look wrong", confirm=environment)
    wait_for(lab, r"ROLLBACK: [\d.]+ s of ")
    keep(lab, walk, "05_rolling_back")
    wait_until_over(lab)
    keep(lab, walk, "05_rolled_back")
    lab.save()
    walk.saved["05_watch"] = walk.notebook("05_watch")


def come_back(lab: Lab, walk: Walk) -> None:
    """The tab is closed in the watch and opened again, and then the whole page: each time the panel is
    there again by itself, moves on, and hears its buttons."""
    wait_for(lab, "nobody else")
    lab.close_tab()
    lab.open("05_watch")
    wait_for(lab, "last minutes")
    keep(lab, walk, "05_reopened")
    lab.reload()
    first = panel_time(lab)
    expect(lab.panel).not_to_contain_text(first, timeout=SLOW_MS)
    lab.press("Hold", reason="spreads are wide", confirm="yes")
    wait_for(lab, "Hold: not asked")
    walk.after_a_wrong_word = [request for request, _ in walk.asked(0)]
    keep(lab, walk, "05_watching")


def panel_time(lab: Lab) -> str:
    """The instant that the panel gives for what it shows."""
    expect(lab.panel).to_contain_text(re.compile(r"WATCHING at [\d:]+Z"), timeout=SLOW_MS)
    at = re.search(r"at ([\d:]+Z)", lab.panel.inner_text())
    assert at is not None
    return at[1]


def beside_another(lab: Lab, walk: Walk, environment: str) -> None:
    """A second person finds the run, looks at it in a view of their own, and lets it go on."""
    with lab.another() as other:
        other.run_all()
        wait_for(other, "with a view of your own")
        keep(other, walk, "00_beside")
        other.follow("05_watch-2")
        other.run_all()
        wait_for(other, "also looking.*05_watch since")
        wait_for(lab, "also looking.*05_watch-2 since")
        walk.said["05_beside"] = lab.output
        other.press("Resume", reason="spreads are back", confirm=environment)
        wait_for(lab, "left to watch")
        wait_for(other, "left to watch")
        keep(other, walk, "05_of_another")


def look_back(lab: Lab, walk: Walk) -> None:
    """The page one begins at, once a run is over, and from there its report."""
    write_report(walk.runs[0])
    lab.open("00_start")
    lab.close_tab()  # somebody else has run it meanwhile: as it is on disk now
    lab.open("00_start")
    lab.run_all()
    wait_for(lab, "Rolled back in time")
    keep(lab, walk, "00_after")
    lab.photograph_output("00_after-output")
    lab.notebook.locator("a", has_text=walk.runs[0].run_id).click()
    report = lab.page.frame_locator(".jp-HTMLViewer iframe").locator("h1").first
    report.wait_for()
    walk.said["report"] = report.inner_text()
    lab.photograph("report")


def wait_until_over(lab: Lab) -> None:
    """Until the notebook stops at what went wrong."""
    lab.notebook.get_by_text("RunEnded").first.wait_for(timeout=SLOW_MS)


def abort_the_switch(lab: Lab, walk: Walk) -> None:
    """Another run, whose warm-up takes a while: aborted in the middle of it."""
    path = walk.twin.cutover_template
    path.write_text(path.read_text().replace("WARMUP_QUERY_CMD=", "WARMUP_QUERY_CMD=sleep 25; "))
    environment = begin(lab, walk, again=True)
    wait_for(lab, r"… warmup_query")
    keep(lab, walk, "04_switching")
    lab.press("Abort", reason="wrong release", confirm=environment)
    wait_for(lab, r"ROLLBACK: [\d.]+ s of ")
    keep(lab, walk, "04_rolling_back")
    wait_until_over(lab)
    keep(lab, walk, "04_rolled_back")


# --- what it left -----------------------------------------------------------------


def test_a_wrong_word_asks_nothing(walk: Walk) -> None:
    """The page says what was typed and what was expected; the journal has the go alone."""
    assert "typed 'yes'; expected 'rehearsal-" in walk.said["05_watching"]
    assert walk.after_a_wrong_word == ["go"]


def test_the_panel_says_who_trades_and_what_is_measured(walk: Walk) -> None:
    """In plain words, with the time left; each metric beside its limit."""
    said = walk.said["05_watching"]
    assert re.search(r"The new stack trades; \d:\d\d left to watch", said)
    assert re.search(r"order_latency_p99_ms\s+(no data|> ?)?[\d.]* ?(ms)?\s*≤ 900 ms", said)


def test_buttons_are_requests_in_the_journal(walk: Walk) -> None:
    """Each once, with the reason typed, obeyed; nothing else was asked."""
    assert walk.asked(0)[1:] == [
        ("hold", "spreads are wide"),
        ("resume", "spreads are back"),
        ("rollback", "fills look wrong"),
    ]
    answers = [record.payload for record in walk.history(0).of_kind(RequestAnswered)]
    assert all(answer.obeyed for answer in answers)
    states = [transition.state for transition in walk.history(0).transitions]
    assert states[-4:] == [State.WATCHING, State.HOLDING, State.WATCHING, State.ROLLING_BACK]


def test_a_lab_opens_where_one_begins(walk: Walk) -> None:
    """Before any run it says how to begin; after one what it came to, with its report a click away."""
    assert "No run yet" in walk.said["00_before"]
    assert re.search(r"begin in\s+01_plan", walk.said["00_before"])
    said = walk.said["00_after"]
    assert "No run is under way" in said
    assert re.search(r"! ROLLED_BACK_IN_BUDGET", said)
    assert re.search(rf"last run\s+{walk.runs[0].run_id}", said)
    assert "olled back" in walk.said["report"]


def test_a_run_notices_nothing_of_those_who_look(walk: Walk) -> None:
    """A tab closed and opened, a kernel started again, a second browser: one orchestrator, no gap, and
    each page came back to the one run by itself."""
    records = walk.history(0).records
    assert [record.kind for record in records].count("orchestrator_started") == 1
    assert "watch_gap" not in {record.kind for record in records}
    assert walk.history(0).restarts == 0
    run_id = walk.runs[0].run_id
    for page in ("05_reopened", "05_watching", "00_beside", "05_of_another", "05_rolled_back"):
        assert run_id in walk.said[page], page
    assert "to which the notebooks of this lab belong" in walk.said["05_rolled_back"]


def test_people_see_each_other(walk: Walk) -> None:
    """By name and notebook, in either browser; a viewer whose kernel was ended is there no more."""
    assert re.search(r"also looking\s+nobody else", walk.said["05_watching"])
    assert re.search(r"REHEARSAL HOLDING", walk.said["00_beside"])
    assert re.search(r"who looks\s+\S+ in 05_watch since \S+Z\n", walk.said["00_beside"])
    assert re.search(r"also looking\s+\S+ in 05_watch-2 since \S+Z\n", walk.said["05_beside"])
    assert re.search(r"also looking\s+\S+ in 05_watch since", walk.said["05_of_another"])


def test_a_hold_counts_down_on_the_page(walk: Walk) -> None:
    """What runs out, and what was answered."""
    said = walk.said["05_holding"]
    assert re.search(r"HOLDING: rolls back in \d+:\d\d unless resumed", said)
    assert "the watch holds until resume, rollback, or expiry" in said
    assert "The new stack trades" in said


@pytest.mark.parametrize("notebook", ["04", "05"])
def test_a_rollback_is_on_the_page_while_it_runs_and_after(notebook: str, walk: Walk) -> None:
    """Its budget and its steps; then what it came to, in the notebook in which it began."""
    now, then = walk.said[f"{notebook}_rolling_back"], walk.said[f"{notebook}_rolled_back"]
    assert "stop_new_strategy_runner" in now
    assert "start_previous_core_engine" in now
    assert "budget" in then
    assert "start_previous_strategy_runner" in then
    assert "ROLLBACK: " not in then


def test_an_abort_in_the_middle_of_the_switch_rolls_back(walk: Walk) -> None:
    """The panel shows the steps of the switch; the journal has the abort, and the old stack again."""
    assert re.search(r"✓ start_new_core_engine\s+[\d.]+ s", walk.said["04_switching"])
    assert re.search(r"usually [\d.]+ s", walk.said["04_switching"])
    assert walk.asked(1)[1:] == [("abort", "wrong release")]
    assert State.WATCHING not in [each.state for each in walk.history(1).transitions]


def test_both_runs_end_with_the_old_stack_in_time(walk: Walk) -> None:
    """And no two generations ever traded."""
    outcomes = [walk.history(number).outcome for number in (0, 1)]
    assert outcomes == [Outcome.ROLLED_BACK_IN_BUDGET] * 2
    assert overlaps(walk.twin.front_log) == []


def test_the_saved_file_is_a_page_without_widgets(walk: Walk) -> None:
    """Whoever opens it reads the end of the run, and no empty panel."""
    cells = walk.saved["05_watch"]["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds == {"text/html", "text/plain"}
