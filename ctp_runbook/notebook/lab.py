"""JupyterLab on a copy of the notebooks, so that the committed ones stay without outputs.

The server listens on 127.0.0.1, on a port the system gives, asks for a token, opens no browser and
asks nobody on the network for anything: no news, no updates, no extension catalogue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.interruption import handled
from ctp_runbook.notebook.checkout import ROOM_VARIABLE, find_notebooks
from ctp_runbook.notebook.lab_kernel import KERNEL_CLASS
from ctp_runbook.notebook.phases import HOME_VARIABLE, OUTPUTS_VARIABLE
from ctp_runbook.record.rundir import RunDir, runs_under
from ctp_runbook.run.launch import is_attended, read_history
from ctp_runbook.show.blocks import Page

__all__ = ["lab_copy", "open_lab", "rehearsal_parameters", "run_going_on"]

_OWN = ".lab"  # a dotted directory: the file browser does not show it
_SERVER = {
    "ServerApp.ip": "127.0.0.1",
    "ServerApp.port": "0",
    "ServerApp.open_browser": "False",
    "ServerApp.allow_root": "True",  # whoever started the command is root already
    "ServerApp.answer_yes": "True",  # Ctrl-C ends it; it stops nothing of a run
    "LabApp.news_url": "None",
    "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    "LabApp.extension_manager": "readonly",
    "KernelManager.transport": "ipc",  # no port for a kernel
    "Application.log_level": "ERROR",  # the address to open is told at a level above
}
# What is opened: who keeps notebooks of their own to run may have no page to begin at.
_FIRST = ("00_start.ipynb", "01_plan.ipynb")
_LOOK_SECONDS = 5.0
# The same in a word, as JupyterLab takes it.
_SHORT = {"ServerApp.ip": "ip", "ServerApp.port": "port", "Application.log_level": "log-level"}
_NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
_PLAIN_INPUT = {"showInputPlaceholder": False, "inputHistoryScope": "session"}
_SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "page_config": {
        "disabledExtensions": {
            "@jupyterlab/apputils-extension:announcements": True,
            "@jupyterlab/extensionmanager-extension": True,
        }
    },
    # Defaults only: what the operator set up as their own JupyterLab goes before them.
    "default_setting_overrides": {
        "@jupyterlab/apputils-extension:notification": _NO_NEWS,
        # Outputs of a page that is reloaded are those last saved.
        "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": 5},
        # Beside a question that stops a trading system stand no hints and no earlier answers.
        "@jupyterlab/notebook-extension:tracker": _PLAIN_INPUT,
    },
}


def rehearsal_parameters(cutover_template: Path, rollback_template: Path) -> dict[str, str]:
    """Return 01's defaults for a real run of a twin's templates; paths below here are told short."""

    def short(path: Path) -> str:
        here = Path.cwd()
        return json.dumps(str(path.relative_to(here) if path.is_relative_to(here) else path))

    return {
        "cutover_template": short(cutover_template),
        "rollback_template": short(rollback_template),
        "execute": "True",
    }


def lab_copy(outputs: Path, *, parameters: Mapping[str, str]) -> Path:
    """Copy the notebooks to ``outputs/lab-<time>/``, with these defaults in 01's parameters."""
    target = outputs.absolute() / f"lab-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    ignored = shutil.ignore_patterns(".*")
    shutil.copytree(find_notebooks(), target, ignore=ignored, copy_function=shutil.copyfile)
    if parameters:
        _set_defaults(target / "01_plan.ipynb", parameters)
    _write_settings(target / _OWN / "config" / "labconfig")
    _write_kernel(target / _OWN / "share" / "kernels" / "python3")
    return target


def _set_defaults(path: Path, parameters: Mapping[str, str]) -> None:
    """Replace ``name: type = default`` lines of the tagged parameters cell."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(_line(line, parameters) for line in cell.source.splitlines())
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def _line(line: str, parameters: Mapping[str, str]) -> str:
    name = line.partition(":")[0].strip()
    if name not in parameters:
        return line
    head, _, rest = line.partition("=")
    comment = f"  #{rest.partition('#')[2]}" if "#" in rest else ""
    return f"{head}= {parameters[name]}{comment}"


def _write_settings(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, settings in _SETTINGS.items():
        (folder / f"{name}.json").write_text(json.dumps(settings, indent=2) + "\n")


def _write_kernel(folder: Path) -> None:
    """The kernel that notebooks ask for by ipykernel's own name."""
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {
        "argv": [*argv, f"--IPKernelApp.kernel_class={KERNEL_CLASS}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(kernel, indent=2) + "\n")


def open_lab(*, outputs: Path, parameters: Mapping[str, str], arguments: tuple[str, ...]) -> int:
    """Run JupyterLab on a fresh copy until it is stopped; its exit code.

    The notebooks work in the current directory and keep their runs in ``outputs``. SIGTERM and
    Ctrl-C end the server and its kernels, never a run.
    """
    room = lab_copy(outputs, parameters=parameters)
    argv = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={room}"]
    # Told twice, JupyterLab refuses it: what the operator says goes before.
    options = {argument.lstrip("-").partition("=")[0] for argument in arguments}
    first = next((name for name in _FIRST if (room / name).exists()), "")
    settings = {**_SERVER, "LabApp.default_url": f"/lab/tree/{first}"}
    argv += [
        f"--{name}={value}"
        for name, value in settings.items()
        if not options & {name, _SHORT.get(name, name)}
    ]
    if first == _FIRST[0]:
        _fill(room / first, outputs, room)
    server = subprocess.Popen([*argv, *arguments], env=_environment(room, outputs))
    with _ending(server):
        return server.wait()


def _fill(path: Path, outputs: Path, room: Path) -> None:
    """Put the page that the first notebook makes into its copy, so that it is there on opening.

    Where the folder of runs is slow or worse the notebook stays as it is: running it says why.
    """
    pages: list[Page] = []

    def look() -> None:
        from ctp_runbook.notebook.landing import landing_page

        with contextlib.suppress(Exception):
            pages.append(landing_page(outputs.absolute(), room=room))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_LOOK_SECONDS)
    if not pages:
        return
    import nbformat
    from nbformat.sign import NotebookNotary

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    *_, shown = (cell for cell in notebook.cells if cell.cell_type == "code")
    data = {"text/html": pages[0].html, "text/plain": pages[0].text}
    shown.outputs = [nbformat.v4.new_output("display_data", data)]  # type: ignore[no-untyped-call]
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    with contextlib.suppress(Exception):  # where it is not signed, colours are left out
        NotebookNotary().sign(notebook)  # type: ignore[no-untyped-call]


def _environment(room: Path, outputs: Path) -> dict[str, str]:
    own = room / _OWN
    return {
        **os.environ,
        "PATH": _before("PATH", Path(sys.executable).parent),
        "JUPYTER_CONFIG_PATH": _before("JUPYTER_CONFIG_PATH", own / "config"),
        "JUPYTER_PATH": _before("JUPYTER_PATH", own / "share"),
        # Tabs of another room, restored, would be notebooks that are not here.
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        HOME_VARIABLE: str(Path.cwd()),
        OUTPUTS_VARIABLE: str(outputs.absolute()),
        ROOM_VARIABLE: str(room),
    }


def _before(name: str, path: Path) -> str:
    return os.pathsep.join(filter(None, (str(path), os.environ.get(name))))


@contextlib.contextmanager
def _ending(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Meanwhile TERM, INT and HUP to this process end the server, which ends its kernels."""

    with handled(lambda number: server.terminate()):
        yield


def run_going_on(outputs: Path, *, environment: str) -> RunDir | None:
    """Return a run of ``environment`` in ``outputs`` that is attended now, if there is one."""
    for run in runs_under(outputs.absolute()):
        with contextlib.suppress(RunbookError):  # a record nobody can read is nobody's run
            history = read_history(run)
            ours = history.created.environment == environment
            if ours and history.closed is None and is_attended(run):
                return run
    return None
