"""The floor plan holds: who may import whom stands in pyproject.toml and is asked here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_rooms_keep_their_floors() -> None:
    """Every contract on imports is kept."""
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Ask for the contracts of ``root``'s pyproject.toml on the package beside it."""
    program = str(Path(sys.executable).with_name("lint-imports"))
    command = [program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
