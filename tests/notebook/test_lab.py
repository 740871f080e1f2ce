"""The room JupyterLab is given: a copy of the notebooks with settings of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ctp_runbook.notebook import lab, phases
from ctp_runbook.notebook.checkout import ROOM_VARIABLE, find_notebooks
from ctp_runbook.notebook.lab import lab_copy, rehearsal_parameters, run_going_on
from ctp_runbook.notebook.runner import NOTEBOOKS
from ctp_runbook.show.blocks import Page
from tests.props.synthetic_runs import completed_run


def parameters_of(room: Path) -> dict[str, Any]:
    """What 01's parameters cell sets."""
    notebook = nbformat.read(room / "01_plan.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    (source,) = (c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    found: dict[str, Any] = {}
    exec(source, found)
    return found


def test_the_copy_may_be_executed_and_the_original_stays(tmp_path: Path) -> None:
    """Seven notebooks, 01 filled in, the committed ones byte for byte as they were."""
    before = {path.name: path.read_bytes() for path in find_notebooks().glob("*.ipynb")}
    room = lab_copy(
        tmp_path, parameters={"cutover_template": "\"a 'b' # c.env\"", "execute": "True"}
    )
    assert sorted(path.stem for path in room.glob("*.ipynb")) == [
        "00_calibrate",
        "00_start",
        *NOTEBOOKS,
        "08_history",
    ]
    given = parameters_of(room)
    assert (given["cutover_template"], given["execute"], given["run_dir"]) == (
        "a 'b' # c.env",
        True,
        "",
    )
    assert {path.name: path.read_bytes() for path in find_notebooks().glob("*.ipynb")} == before


def test_without_parameters_the_copy_is_a_dry_run(tmp_path: Path) -> None:
    """Nothing is executed unless it is asked for in so many words."""
    assert parameters_of(lab_copy(tmp_path, parameters={}))["execute"] is False


def test_each_room_is_a_new_one(tmp_path: Path) -> None:
    """What somebody executed is never written over."""
    assert lab_copy(tmp_path, parameters={}) != lab_copy(tmp_path, parameters={})


def test_the_room_asks_nobody_for_news(tmp_path: Path) -> None:
    """Announcements and the extension catalogue are off, out of the file browser's sight."""
    (settings,) = lab_copy(tmp_path, parameters={}).glob(".*/config/labconfig")
    page = json.loads((settings / "page_config.json").read_text())
    assert page["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"] is True
    defaults = json.loads((settings / "default_setting_overrides.json").read_text())
    assert defaults["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_templates_below_here_are_told_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path an operator can read, and that leads there from where the lab was started."""
    monkeypatch.chdir(tmp_path)
    given = rehearsal_parameters(tmp_path / "twin" / "a.env", Path("/elsewhere/b.env"))
    assert given == {
        "cutover_template": '"twin/a.env"',
        "rollback_template": '"/elsewhere/b.env"',
        "execute": "True",
    }


def test_a_run_that_is_over_keeps_no_twin_up(tmp_path: Path) -> None:
    """Only a run somebody conducts goes on; a finished one, or another's, does not."""
    run = completed_run(tmp_path)
    environment = json.loads(run.run_json.read_text())["environment"]
    assert run_going_on(tmp_path, environment=environment) is None
    assert run_going_on(tmp_path / "none", environment=environment) is None


def test_a_journal_that_cannot_be_read_hides_no_other_run(tmp_path: Path) -> None:
    """Leaving the lab does not stumble over what somebody else left in outputs/."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("not a journal\n")
    assert run_going_on(tmp_path, environment="any") is None


# --- what the copy's defaults become ----------------------------------------------


@pytest.mark.parametrize(
    ("line", "filled"),
    [
        ('name: str = ""  # which', 'name: str = "x"  # which'),
        ("name: str", 'name: str= "x"'),
        ('other: str = ""  # which', 'other: str = ""  # which'),
        ("", ""),
        ("# name: a comment", "# name: a comment"),
    ],
    ids=["default", "none", "another", "blank", "comment"],
)
def test_a_default_is_replaced_and_its_meaning_stays(line: str, filled: str) -> None:
    """Only the value of the line that declares the name; what it means stands beside it still."""
    assert lab._line(line, {"name": '"x"'}) == filled


def test_every_name_that_01_declares_can_be_filled(tmp_path: Path) -> None:
    """What a rehearsal fills in is declared there: no default is set for nothing."""
    declared = parameters_of(lab_copy(tmp_path, parameters={}))
    assert rehearsal_parameters(Path("a"), Path("b")).keys() <= declared.keys()


def test_other_notebooks_keep_their_defaults(tmp_path: Path) -> None:
    """01 alone is told of templates; the rest look at the run that it made."""
    room = lab_copy(tmp_path, parameters={"run_dir": '"/elsewhere"'})
    for path in find_notebooks().glob("*.ipynb"):
        if path.stem != "01_plan":
            assert (room / path.name).read_bytes() == path.read_bytes()


# --- the server -------------------------------------------------------------------


class Server:
    """Stands in for JupyterLab: it is asked to end, and then it has ended."""

    asked = ""

    def __init__(self, argv: list[str], *, env: dict[str, str]) -> None:
        self.argv, self.env = argv, env

    def terminate(self) -> None:
        """What SIGTERM would do."""
        self.asked = "to end"

    def wait(self) -> int:
        """Wait for an end that comes by signal."""
        signal.raise_signal(signal.SIGTERM)
        return 0 if self.asked else 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The server that was started on a room in ``tmp_path``."""
    started: list[Server] = []

    def start(argv: list[str], *, env: dict[str, str]) -> Server:
        started.append(Server(argv, env=env))
        return started[0]

    monkeypatch.setattr("ctp_runbook.notebook.lab.subprocess.Popen", start)
    before = signal.getsignal(signal.SIGTERM)
    code = lab.open_lab(outputs=tmp_path, parameters={}, arguments=("--debug",))
    assert code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    return started[0]


def test_a_signal_ends_the_server_and_not_this_process(server: Server) -> None:
    """JupyterLab ends its kernels; whoever started it then takes the twin down."""
    assert server.asked == "to end"


def test_the_server_listens_to_this_machine_alone(server: Server) -> None:
    """On a port the system gives, with its token, and without a browser."""
    assert "--ServerApp.ip=127.0.0.1" in server.argv
    assert "--ServerApp.port=0" in server.argv
    assert "--ServerApp.open_browser=False" in server.argv
    assert not any("token" in word or "password" in word for word in server.argv)


def test_what_the_operator_adds_comes_last(server: Server) -> None:
    """So that it goes before ours."""
    assert server.argv[-1] == "--debug"


@pytest.mark.parametrize(
    "words", [("--port=8899",), ("--port", "8899"), ("--ServerApp.port=8899",)]
)
def test_what_the_operator_says_is_not_said_by_us(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """JupyterLab refuses a port that is named twice; the rest stays as it was."""
    started: list[list[str]] = []

    def start(argv: list[str], *, env: dict[str, str]) -> Server:
        started.append(argv)
        return Server(argv, env=env)

    monkeypatch.setattr("ctp_runbook.notebook.lab.subprocess.Popen", start)
    lab.open_lab(outputs=tmp_path, parameters={}, arguments=words)
    (argv,) = started
    assert "--ServerApp.port=0" not in argv
    assert "--ServerApp.ip=127.0.0.1" in argv
    assert tuple(argv[-len(words) :]) == words


def test_the_notebooks_know_where_they_were_opened(server: Server, tmp_path: Path) -> None:
    """Commands run in the directory of whoever opened the lab; runs are kept where it said."""
    assert server.env[phases.HOME_VARIABLE] == str(Path.cwd())
    assert server.env[phases.OUTPUTS_VARIABLE] == str(tmp_path)


def test_kernels_run_this_interpreter(server: Server) -> None:
    """Its folder comes first on the path, what was there stays."""
    first, *rest = server.env["PATH"].split(os.pathsep)
    assert first == str(Path(sys.executable).parent)
    assert os.environ["PATH"] == os.pathsep.join(rest)


def test_a_path_that_is_empty_leaves_no_empty_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry would mean the current directory."""
    monkeypatch.delenv("NOTHING_THERE", raising=False)
    assert lab._before("NOTHING_THERE", Path("/a")) == "/a"
    monkeypatch.setenv("NOTHING_THERE", "/b:/c")
    assert lab._before("NOTHING_THERE", Path("/a")) == "/a:/b:/c"


# --- what it opens with -----------------------------------------------------------


def test_the_page_one_begins_at_is_there_on_opening(server: Server, tmp_path: Path) -> None:
    """Nothing need be run to read it; and each notebook is told which lab it is in."""
    assert "--LabApp.default_url=/lab/tree/00_start.ipynb" in server.argv
    (room,) = tmp_path.glob("lab-*")
    assert server.env[ROOM_VARIABLE] == str(room)
    notebook = json.loads((room / "00_start.ipynb").read_text())
    (output,) = (out for cell in notebook["cells"] for out in cell.get("outputs", []))
    assert "No run yet" in "".join(output["data"]["text/plain"])
    assert (room / "01_plan.ipynb").read_bytes() == (
        find_notebooks() / "01_plan.ipynb"
    ).read_bytes()


@pytest.mark.parametrize("kind", ["slow", "broken"])
def test_a_page_that_cannot_be_made_keeps_no_lab_from_opening(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook is left as it is: whoever runs it is told why."""
    done = threading.Event()

    def landing_page(outputs: Path, *, room: Path) -> Page:
        if kind == "slow":
            done.wait(30)
        raise OSError("a disk that is gone")

    monkeypatch.setattr("ctp_runbook.notebook.landing.landing_page", landing_page)
    monkeypatch.setattr(lab, "_LOOK_SECONDS", 0.05)
    first = lab_copy(tmp_path, parameters={}) / "00_start.ipynb"
    before = first.read_bytes()
    lab._fill(first, tmp_path, first.parent)
    done.set()
    assert first.read_bytes() == before


def test_whoever_keeps_notebooks_of_their_own_begins_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without the page one begins at opens as it ever did."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_plan.ipynb").write_bytes(
        (find_notebooks() / "01_plan.ipynb").read_bytes()
    )
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []

    def start(argv: list[str], *, env: dict[str, str]) -> Server:
        started.append(argv)
        return Server(argv, env=env)

    monkeypatch.setattr("ctp_runbook.notebook.lab.subprocess.Popen", start)
    lab.open_lab(outputs=tmp_path / "outputs", parameters={}, arguments=())
    assert "--LabApp.default_url=/lab/tree/01_plan.ipynb" in started[0]
