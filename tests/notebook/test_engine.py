"""One notebook through CutoverEngine: refusals before, the truth after, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ctp_runbook.errors import NotebookError
from ctp_runbook.host.process import identity_of
from ctp_runbook.notebook.engine import execute_notebook
from ctp_runbook.notebook.forked_kernel import fork_server
from ctp_runbook.notebook.setting import KernelLost, NotebookFailed
from tests.props.notebook_tools import cell_states, outputs_text, read, wait_until, write
from tests.props.synthetic_runs import completed_run

pytestmark = pytest.mark.twin

# SIGINT as a terminal gives it: what a script starts in its background is born ignoring it.
RUNNER = """
import signal, sys
from pathlib import Path
from ctp_runbook.notebook.engine import execute_notebook

signal.signal(signal.SIGINT, signal.default_int_handler)
execute_notebook(Path(sys.argv[1]), Path(sys.argv[2]), parameters={})
"""
SLEEPER = "import os, time; print('kernel', os.getpid(), flush=True); time.sleep(300)"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Close the fork server that the first notebook starts."""
    yield
    fork_server().close()


def execute(
    room: Path, *cells: str, parameters: Mapping[str, Any] | None = None, **options: Any
) -> Path:
    """Execute a notebook of these cells; the output's path."""
    execute_notebook(
        write(room / "in.ipynb", *cells),
        room / "out.ipynb",
        parameters=parameters or {},
        **options,
    )
    return room / "out.ipynb"


def test_a_notebook_that_ends_well_is_completed(tmp_path: Path) -> None:
    """Every cell completed, parameters injected, the file a valid notebook."""
    out = execute(tmp_path, "print('count is', count)", parameters={"count": 3})
    assert set(cell_states(out)) == {"completed"}
    assert "count is 3" in outputs_text(out)
    nbformat.validate(nbformat.read(out, as_version=4))  # type: ignore[no-untyped-call]
    assert read(out)["metadata"]["ctp_runbook"]["status"] == "completed"


def test_a_cell_that_raises_stops_the_notebook(tmp_path: Path) -> None:
    """The error is in the file before it is raised; later cells are NOT RUN."""
    with pytest.raises(NotebookFailed, match="cell 2: gate closed"):
        execute(tmp_path, "raise ValueError('gate closed')", "print('after')")
    out = tmp_path / "out.ipynb"
    assert cell_states(out) == ["completed", "failed", "not_run"]
    assert "NOT RUN: before it, cell 2: gate closed" in outputs_text(out)


def test_sys_exit_is_a_failure(tmp_path: Path) -> None:
    """papermill takes sys.exit(0) for a good end; here the cells after it would be missing."""
    with pytest.raises(NotebookFailed, match=r"called sys\.exit\(0\)"):
        execute(tmp_path, "import sys; sys.exit(0)", "print('after')")
    assert cell_states(tmp_path / "out.ipynb") == ["completed", "failed", "not_run"]


def test_a_tag_that_allows_errors_allows_none(tmp_path: Path) -> None:
    """raises-exception does not let the cell after a failed gate run."""
    path = write(tmp_path / "in.ipynb", "1 / 0", "print('after')")
    nb = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nb.cells[2].metadata["tags"] = ["raises-exception"]
    nbformat.write(nb, path)  # type: ignore[no-untyped-call]
    with pytest.raises(NotebookFailed):
        execute_notebook(path, tmp_path / "out.ipynb", parameters={})
    assert cell_states(tmp_path / "out.ipynb")[-1] == "not_run"


def test_a_dead_kernel_is_lost(tmp_path: Path) -> None:
    """The cell says LOST with what it had shown, the rest NOT RUN, and an error is raised."""
    with pytest.raises(KernelLost, match="its kernel died while cell 2 ran"):
        execute(
            tmp_path,
            "import os, time; print('halfway', flush=True); time.sleep(0.3); os.kill(os.getpid(), 9)",
            "print('after')",
        )
    out = tmp_path / "out.ipynb"
    assert cell_states(out) == ["completed", "lost", "not_run"]
    assert "halfway" in outputs_text(out)
    assert "LOST: its kernel died" in outputs_text(out)


def test_a_cell_that_takes_too_long_is_lost_and_its_kernel_ended(tmp_path: Path) -> None:
    """After a timeout nothing goes on running unseen."""
    with pytest.raises(KernelLost, match="cell 2 ran longer than 1 s"):
        execute(tmp_path, SLEEPER, "print('after')", cell_timeout=1)
    out = tmp_path / "out.ipynb"
    assert cell_states(out) == ["completed", "lost", "not_run"]
    assert identity_of(_kernel_pid(out)) is None


def _kernel_pid(out: Path) -> int:
    line = next(line for line in outputs_text(out).splitlines() if line.startswith("kernel "))
    return int(line.split()[1])


def test_an_unknown_parameter_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A misspelt name never runs the default, and leaves no output file."""
    with pytest.raises(NotebookError, match=r"parameter cout: not declared; .*did you mean count"):
        execute(tmp_path, "pass", parameters={"cout": 3})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_notebook_without_parameters_tag_is_refused(tmp_path: Path) -> None:
    """papermill would warn, inject nothing where it belongs, and run."""
    path = write(tmp_path / "in.ipynb", "pass", parameters=None)
    with pytest.raises(NotebookError, match="found 0 cells tagged"):
        execute_notebook(path, tmp_path / "out.ipynb", parameters={"count": 3})


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    """Evidence is never written over."""
    (tmp_path / "out.ipynb").write_text("evidence")
    with pytest.raises(NotebookError, match="executed notebooks are never written over"):
        execute(tmp_path, "pass")
    assert (tmp_path / "out.ipynb").read_text() == "evidence"


def test_the_notebook_is_stamped_with_its_run(tmp_path: Path) -> None:
    """Run id and journal digest stand in metadata and footer, for a failed notebook too."""
    run = completed_run(tmp_path / "outputs")
    with pytest.raises(NotebookFailed):
        execute(tmp_path, "1 / 0", parameters={"run_dir": str(run.path)})
    meta = read(tmp_path / "out.ipynb")["metadata"]["ctp_runbook"]
    assert meta["run_id"] == run.run_id
    assert len(meta["journal_sha256"]) == 64


def test_no_secret_of_the_environment_reaches_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed, printed in two halves, displayed as HTML, raised: it is masked everywhere."""
    monkeypatch.setenv("CTP_PASSWORD", "s3cr3t-0f-the-desk")
    with pytest.raises(NotebookFailed, match=r"\*\*\*"):
        execute(
            tmp_path,
            "import os, sys; secret = os.environ['CTP_PASSWORD']; print(secret)",
            "print(secret[:9], end='', flush=True); print(secret[9:], flush=True)",
            "from IPython.display import HTML, display; display(HTML(f'<b>{secret}</b>'))",
            "raise ValueError(f'no login with {secret}')",
        )
    assert "s3cr3t-0f-the-desk" not in (tmp_path / "out.ipynb").read_text()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=lambda sign: sign.name)
def test_a_runner_told_to_end_says_so_in_the_notebook(tmp_path: Path, sign: signal.Signals) -> None:
    """Its kernel ends with it; the cell that ran is LOST, the rest NOT RUN."""
    runner, out = _runner_at_work(tmp_path)
    runner.send_signal(sign)
    assert runner.wait(timeout=60) != 0
    assert cell_states(out) == ["completed", "lost", "not_run"]
    assert "the runner was told to end" in outputs_text(out)
    assert identity_of(int((tmp_path / "at").read_text())) is None


def test_a_killed_runner_leaves_a_true_file_and_no_kernel(tmp_path: Path) -> None:
    """SIGKILL gives no time to write: what the file said before is what is true now."""
    runner, out = _runner_at_work(tmp_path)
    children = _descendants(runner.pid)
    assert children
    runner.kill()
    runner.wait(timeout=60)
    for pid in children:
        wait_until(lambda pid=pid: identity_of(pid) is None)
    assert cell_states(out) == ["completed", "running", "not_run"]
    assert "LOST: started" in outputs_text(out)
    nbformat.validate(nbformat.read(out, as_version=4))  # type: ignore[no-untyped-call]


def _runner_at_work(room: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A runner in the middle of a cell that sleeps."""
    source, out, started = (
        write(room / "in.ipynb", _noted(room), "1"),
        room / "out.ipynb",
        room / "at",
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(source), str(out)],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    wait_until(started.exists)
    return runner, out


def _noted(room: Path) -> str:
    at, made = str(room / "at"), str(room / "at.tmp")
    return f"import os; open({made!r}, 'w').write(str(os.getpid())); os.rename({made!r}, {at!r}); {SLEEPER}"


def _descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


# --- as papermill's own users call it ---------------------------------------------


def papermill(room: Path, *cells: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """``papermill --engine ctp_runbook``: exit code and what it said."""
    source = write(room / "in.ipynb", *cells)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--engine", "ctp_runbook"),
            *("--no-progress-bar", str(source), str(room / "out.ipynb"), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


def test_papermill_finds_the_engine(tmp_path: Path) -> None:
    """The entry point makes it available on papermill's command line."""
    code, _ = papermill(tmp_path, "print('count is', count)", arguments=("-p", "count", "5"))
    assert code == 0
    assert "count is 5" in outputs_text(tmp_path / "out.ipynb")
    assert read(tmp_path / "out.ipynb")["metadata"]["ctp_runbook"]["status"] == "completed"


def test_papermill_with_the_engine_refuses_what_papermill_warns_of(tmp_path: Path) -> None:
    """An unknown parameter ends the command with an error and no output."""
    code, told = papermill(tmp_path, "pass", arguments=("-p", "cout", "5"))
    assert code != 0
    assert "did you mean count" in told
    assert not (tmp_path / "out.ipynb").exists()


def test_papermill_with_the_engine_tells_the_truth_about_a_dead_kernel(tmp_path: Path) -> None:
    """papermill alone marks the cells after it completed."""
    code, _ = papermill(tmp_path, "import os; os.kill(os.getpid(), 9)", "print('after')")
    assert code != 0
    assert cell_states(tmp_path / "out.ipynb") == ["completed", "lost", "not_run"]
