"""The seven notebooks in JupyterLab, in a real browser: a person cuts the twin over by hand.

One walk through all of them, then facts about what it left. ``CTP_TEST_ARTEFACTS`` names a
directory that keeps the pictures.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.model import Outcome, State
from ctp_runbook.notebook.runner import NOTEBOOKS
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import RequestTaken
from ctp_runbook.record.rundir import RunDir, newest_run
from ctp_runbook.record.samples import read_samples
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import read_history
from ctp_runbook.verify.run import verify_run
from tests.notebooks.jupyterlab_page import Lab, address, browse, patient, processes_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WATCH_SECONDS = 60
HEADLESS_WATCH_SECONDS = 8


@dataclass
class Walk:
    """What was seen on the way: each notebook's output, and answers to the questions asked."""

    outputs: Path
    said: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    refused_in: State | None = None
    watched: list[int] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    exit_code: int | None = None
    left: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        """The only run that was made."""
        return newest_run(self.outputs)

    @property
    def twin(self) -> Twin:
        """What it ran on."""
        (found,) = (self.outputs / "twins").iterdir()
        return Twin(found)

    @property
    def history(self) -> History:
        """Its journal, read now."""
        return read_history(self.run)

    def notebook(self, name: str) -> Any:
        """A notebook as JupyterLab saved it."""
        (path,) = self.outputs.glob(f"lab-*/{name}.ipynb")
        return json.loads(path.read_text())


# --- the walk ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """All seven notebooks, in order, as an operator goes through them; everything down again."""
    outputs = tmp_path_factory.mktemp("lab") / "outputs"
    pictures = Path(os.environ.get("CTP_TEST_ARTEFACTS") or outputs.parent / "pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    walk = Walk(outputs)
    browser = patient(browser_path, folder=outputs.parent)
    with jupyterlab(walk) as url, browse(url, browser=browser, pictures=pictures) as lab:
        bear_with_a_busy_machine(walk.twin)
        look_on(lab, walk)
        confirm(lab, walk)
        watch(lab, walk)
        for name in ("06_rollback", "07_verify"):
            run_through(lab, walk, name)
        lab.photograph_output("07_verify-output")
        walk.elsewhere = lab.elsewhere
    return walk


@contextmanager
def jupyterlab(walk: Walk) -> Iterator[str]:
    """`ctp-runbook lab --twin`; its address. At the end it is told to go, and must take all along."""
    own = walk.outputs.parent
    argv = ["lab", "--twin", "--watch-seconds", str(WATCH_SECONDS), "--outputs", str(walk.outputs)]
    log = own / "lab.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [sys.executable, "-m", "ctp_runbook", *argv],
            cwd=ROOT,
            # Neither reads nor writes what the person who runs the tests has set up.
            env={**os.environ, "JUPYTER_CONFIG_DIR": str(own / "jupyter")},
            stdout=sink,
            stderr=sink,
        )
    try:
        yield address(log, server)
    finally:
        server.send_signal(signal.SIGTERM)
        walk.exit_code = server.wait(timeout=30)
        left = processes_of(walk.outputs)
        walk.left = list(left.values())
        # A lab that is told to go takes no twin from under a live run: where the walk stopped in the
        # middle of one, nobody else would.
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def bear_with_a_busy_machine(twin: Twin) -> None:
    """Latencies ten times those of a rehearsal: a browser and JupyterLab want both cores."""
    for path, was, now in (
        (twin.watch_file, "limit = 50\n", "limit = 500\n"),
        (twin.watch_file, "limit = 3000\n", "limit = 30000\n"),
        (twin.rollback_template, "order_latency_p99_ms > 100 ", "order_latency_p99_ms > 1000 "),
    ):
        text = path.read_text()
        assert was in text
        path.write_text(text.replace(was, now))


def run_through(lab: Lab, walk: Walk, name: str) -> None:
    """Open a notebook, run all of it, keep what it says."""
    lab.open(name)
    lab.run_all()
    lab.wait_until_run()
    keep(lab, walk, name)


def keep(lab: Lab, walk: Walk, name: str) -> None:
    """Remember, photograph and save the notebook in front."""
    walk.said[name] = lab.output
    lab.photograph(name)
    lab.save()
    end = time.monotonic() + 20
    while not is_saved(walk, name) and time.monotonic() < end:
        lab.page.wait_for_timeout(100)


def is_saved(walk: Walk, name: str) -> bool:
    """The file is whole, which JupyterLab does not write at once, and has a number at each cell."""
    try:
        saved = walk.notebook(name)
    except json.JSONDecodeError:
        return False
    cells = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    return all(cell["execution_count"] for cell in cells)


def look_on(lab: Lab, walk: Walk) -> None:
    """01 to 03: plan and gates."""
    for name in ("01_plan", "02_infra_gate", "03_readiness_gate"):
        run_through(lab, walk, name)


def confirm(lab: Lab, walk: Walk) -> None:
    """04: a wrong word first, then the environment's name."""
    lab.open("04_switch")
    lab.run_all()
    lab.question.wait_for()
    lab.photograph("04_switch-asks")
    lab.answer("yes")
    lab.notebook.get_by_text("RunRefused").wait_for()
    lab.photograph("04_switch-refuses")
    walk.refused, walk.refused_in = lab.output, walk.history.state
    lab.run_all()
    lab.answer(str(walk.history.plan.environment))
    lab.wait_until_run()
    keep(lab, walk, "04_switch")
    lab.photograph_output("04_switch-output")


def watch(lab: Lab, walk: Walk) -> None:
    """05: live; the page reloaded, live again; reloaded again, and run to its end."""
    lab.open("05_watch")
    lab.run_all()
    see_live(lab, walk, "05_watch-live")
    lab.reload()
    lab.photograph("05_watch-reloaded")
    lab.restart_and_run_all()
    see_live(lab, walk, "05_watch-live-again")
    lab.reload()
    lab.run_all()
    lab.wait_until_run(seconds=WATCH_SECONDS)
    keep(lab, walk, "05_watch")
    lab.photograph_output("05_watch-output")


def see_live(lab: Lab, walk: Walk, picture: str) -> None:
    """Until the watch is drawn and has gone on; note how far it is."""
    seen = re.compile(rf"(\d+) s of {WATCH_SECONDS} s watched; so far PASSED")
    lab.notebook.locator(".jp-OutputArea-output img").wait_for()
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        found = seen.search(lab.output)
        if found and int(found[1]) > max(walk.watched, default=0):
            walk.watched.append(int(found[1]))
            lab.photograph(picture)
            return
        lab.page.wait_for_timeout(200)
    pytest.fail(f"not live after {walk.watched} s: {lab.output}")


# --- what it left -----------------------------------------------------------------


@pytest.fixture(scope="module")
def headless(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same seven notebooks on a twin of their own, without a browser; a shorter watch."""
    outputs = tmp_path_factory.mktemp("headless") / "outputs"
    argv = ["rehearse", "--watch-seconds", str(HEADLESS_WATCH_SECONDS), "--outputs", str(outputs)]
    done = subprocess.run(
        [sys.executable, "-m", "ctp_runbook", *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return newest_run(outputs)


def shape(history: History) -> dict[str, Any]:
    """A run without its times: how it ended, what it did, in which order, and what was found."""
    ended = history.watch_ended
    return {
        "outcome": history.outcome,
        "states": [transition.state for transition in history.transitions],
        "steps": [(step.name, step.status, step.exit_code) for step in history.steps.values()],
        "verdicts": {name: one.verdict for name, one in ended.payload.metrics.items()}
        if ended
        else {},
        "members": sorted(history.identities),
        "at the end": history.closed.payload.running if history.closed else {},
        "kinds": {record.kind for record in history.records},
    }


def test_it_ends_as_a_headless_run_does(walk: Walk, headless: RunDir) -> None:
    """Outcome, steps, states and verdicts are those of the same notebooks without a browser."""
    assert shape(walk.history) == shape(read_history(headless))
    assert walk.history.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_what_it_says_headless(name: str, walk: Walk, headless: RunDir) -> None:
    """Page by page the same titles, whoever runs the notebook."""
    executed = json.loads((headless.notebooks / f"{name}.ipynb").read_text())
    titles = titles_of(walk.notebook(name))
    assert titles
    assert titles == titles_of(executed)


def titles_of(notebook: Any) -> list[str]:
    """The banners' titles on the result's page, without what differs between two runs."""
    (page,) = (
        "".join(output["data"]["text/plain"])
        for cell in notebook["cells"]
        if "".join(cell["source"]) == "result"
        for output in cell["outputs"]
    )
    marked = [line for line in page.splitlines() if line[:2] in ("✓ ", "✗ ", "! ", "ℹ ")]
    return [re.sub(r"run \S+;", "run …;", line.partition(": ")[0]) for line in marked]


def test_the_run_verifies(walk: Walk) -> None:
    """Journal, samples and evidence recompute to a real, completed cutover."""
    report = verify_run(walk.run)
    assert report.ok, report.findings


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_ran(name: str, walk: Walk) -> None:
    """The saved notebook has a number at each cell, and no error among its outputs."""
    assert is_saved(walk, name)
    cells = [cell for cell in walk.notebook(name)["cells"] if cell["cell_type"] == "code"]
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert "Traceback" not in walk.said[name]


def test_a_wrong_word_switches_nothing(walk: Walk) -> None:
    """04 answers with one sentence, the run stays READY, and asking again is running it again."""
    assert walk.refused_in is State.READY
    assert "typed 'yes'" in walk.refused
    assert "nothing was touched" in walk.refused
    assert "Traceback" not in walk.refused
    asked = [record.payload for record in walk.history.of_kind(RequestTaken)]
    assert [(request.request, request.reason) for request in asked] == [
        ("go", "typed confirmation in 04_switch")
    ]


def test_a_reloaded_page_loses_nothing(walk: Walk) -> None:
    """The watch was live before and after, and neither journal nor samples show a gap."""
    before, after = walk.watched
    assert 0 < before < after < WATCH_SECONDS
    records = walk.history.records
    assert [r.kind for r in records].count("orchestrator_started") == 1
    assert "watch_gap" not in {r.kind for r in records}
    assert walk.history.restarts == 0
    taken = [sample.mono for sample in read_samples(walk.run.samples)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert max(gaps) < 2.0
    assert "Watch PASSED" in walk.said["05_watch"]
    assert "✓ PASSED" in walk.said["05_watch"]


def test_the_browser_asks_this_host_only(walk: Walk) -> None:
    """No news, no updates, no catalogue: a trading host has no way out, and needs none."""
    assert walk.elsewhere == []


def test_leaving_takes_everything_along(walk: Walk) -> None:
    """SIGTERM ends server, kernels and twin; no two generations ever traded."""
    assert walk.exit_code == 0
    assert walk.left == []
    assert overlaps(walk.twin.front_log) == []
