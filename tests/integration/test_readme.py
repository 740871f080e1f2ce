"""The README's commands, typed by somebody who has just run ``make rehearsal``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    block
    for block in re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    if not block.startswith("make ")
]
# In prose, with what stands for a word of the reader's own.
NAMED = sorted(set(re.findall(r"`ctp-runbook ((?:[a-z]+[ |]+)*[a-z]+)", README)))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout after ``make install``: what was installed, and what is committed."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("configs", "infra", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def typed(command: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Type it into a shell that has nothing of ours on its PATH."""
    path = os.pathsep.join(
        place
        for place in os.environ["PATH"].split(os.pathsep)
        if not (Path(place) / "ctp-runbook").exists()
    )
    return subprocess.run(
        ["bash", "-c", f"set -e\n{command}"],
        cwd=checkout,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_can_be_typed_as_it_stands(block: str, checkout: Path) -> None:
    """From top to bottom, in one shell; exit code 0."""
    done = typed(block, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'ctp-runbook' is not on PATH" not in done.stdout + done.stderr


def test_there_are_commands_to_type() -> None:
    """The README shows at least one block and names the commands of a second terminal."""
    assert BLOCKS
    assert any("status" in words for words in NAMED)


@pytest.mark.parametrize("words", NAMED)
def test_a_named_command_is_there(words: str, checkout: Path) -> None:
    """Each that prose names, with what it says of itself."""
    for word in words.split("|") if not words.startswith("proc ") else ("proc",):
        done = typed(f". .venv/bin/activate; ctp-runbook {word} --help", checkout)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "infra/scripts").iterdir()))
def test_a_script_finds_the_command_of_its_checkout(script: str, checkout: Path) -> None:
    """The wrappers of RUNBOOK §4.1, by hand, in a shell that has nothing on its PATH."""
    (checkout / "infra").unlink()
    (checkout / "infra/scripts").mkdir(parents=True)
    (checkout / "infra/scripts" / script).write_bytes(
        (ROOT / "infra/scripts" / script).read_bytes()
    )
    done = typed(f"bash infra/scripts/{script} --help", checkout)
    assert done.returncode == 0, done.stderr
    assert "Usage: ctp-runbook infra" in done.stdout


def test_a_template_finds_the_command_that_runs_it(checkout: Path) -> None:
    """Called by its path: no warning that it is not there, in the shipped templates."""
    done = typed(".venv/bin/ctp-runbook plan --output-md plan.md", checkout)
    assert done.returncode == 0, done.stderr
    assert "'ctp-runbook'" not in done.stderr
