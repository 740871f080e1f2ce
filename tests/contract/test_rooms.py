"""The floor plan holds: who may import whom stands in pyproject.toml, and the README's map shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "ctp_runbook"
MOST_MODULES = 20


def test_the_rooms_keep_their_floors() -> None:
    """Every contract on imports is kept."""
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout


def test_no_folder_holds_more_than_twenty_modules() -> None:
    """More than that nobody holds in the head; each room's own page is not counted."""
    modules = (path for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "__init__.py")
    counts = Counter(path.parent.relative_to(ROOT) for path in modules)
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


# A line too many in a module, and what is said of it.
BROKEN = {
    "upwards": ("host/lock.py", "from ctp_runbook.probes import metrics", "host.lock -> ctp_"),
    "to the right": ("plan/config.py", "import ctp_runbook.record.samples", "plan.config -> ctp_"),
    "late in a function": (
        "model.py",
        "def f():\n    from ctp_runbook.plan import plan",
        "model -> ctp_runbook.plan.plan",
    ),
    "for types alone": (
        "errors.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ctp_runbook.model import Step",
        "errors -> ctp_runbook.model",
    ),
    "relative": ("host/lock.py", "from ..plan import config", "host.lock -> ctp_"),
    "an act knows another": (
        "show/report.py",
        "from ctp_runbook.verify import clocks",
        "show.report -> ctp_runbook.verify.clocks",
    ),
    "the twin from above": (
        "notebook/lab.py",
        "from ctp_runbook.rehearsal import twin",
        "notebook.lab -> ctp_runbook.rehearsal.twin",
    ),
    "policy in the twin": (
        "rehearsal/seams.py",
        "import ctp_runbook.show.blocks",
        "rehearsal.seams -> ctp_runbook.show.blocks",
    ),
    "past the seam": ("run/steps.py", "import time", "run.steps -> time"),
    "past the seam, late": (
        "watch/judge.py",
        "def f():\n    from os import getpid",
        "watch.judge -> os",
    ),
    "pandas where it acts, late": (
        "run/rollback.py",
        "def f():\n    from pandas import DataFrame",
        "run.rollback -> pandas",
    ),
    "cycle in a room": (
        "host/process.py",
        "from ctp_runbook.host import daemon",
        "No cycles are allowed",
    ),
    "a room nobody planned": ("surprise.py", "", "surprise"),
    "the root imports ours": (
        "__init__.py",
        "from ctp_runbook import errors",
        "ctp_runbook.errors",
    ),
}


@pytest.mark.parametrize(("module", "line", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_house_is_found(module: str, line: str, said: str, tmp_path: Path) -> None:
    """Each way to import what is not below is told, by module and import."""
    house = tmp_path / PACKAGE
    shutil.copytree(ROOT / PACKAGE, house, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (house / module).open("a") as file:
        file.write(f"\n{line}\n")
    linted = lint_imports(tmp_path)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert said in linted.stdout


def test_the_readme_shows_every_room() -> None:
    """The README's map names the rooms of the contract, and each floor's, in their order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    wanted = re.findall(r"\w+", " ".join(floors))
    drawn = (
        (ROOT / "README.md").read_text().partition(f"\n{PACKAGE}/\n")[2].partition("\ninfra/")[0]
    )
    rooms = re.findall(r"^ {2,}(?:\d \w+ +)?(\w+)/", drawn, flags=re.MULTILINE)
    assert rooms == [name for name in wanted if (ROOT / PACKAGE / name).is_dir()]
    assert [name for name in wanted if name not in re.findall(r"\w+", drawn)] == []


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Ask for the contracts of ``root``'s pyproject.toml on the package beside it."""
    program = str(Path(sys.executable).with_name("lint-imports"))
    command = [program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
