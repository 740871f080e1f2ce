"""Facts about _late.py: a room offers few names, each is there, and none is paid for unasked."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ctp_runbook

ROOMS = sorted(path.parent.name for path in Path(ctp_runbook.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_offers_few_names_and_all_of_them(room: str) -> None:
    """At most six; each is what its module defines under that name."""
    package = importlib.import_module(f"ctp_runbook.{room}")
    assert len(package.__all__) <= 6
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'surprise'"):
        _ = package.surprise


def test_importing_the_rooms_imports_none_of_their_modules() -> None:
    """All rooms together are rooms, the word for late, and nothing behind it."""
    code = f"import sys, {', '.join(f'ctp_runbook.{room}' for room in ROOMS)}; print(*sys.modules)"
    # By stdin: the interlock reads command lines, and one of the rooms is the twin.
    shown = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True)
    loaded = {name for name in shown.stdout.split() if name.startswith("ctp_runbook.")}
    assert loaded == {"ctp_runbook._late", *(f"ctp_runbook.{room}" for room in ROOMS)}


def test_a_dry_run_loads_nothing_that_acts(tmp_path: Path) -> None:
    """It starts, holds and samples nothing, and does not pay for what would."""
    code = f"""
import sys
from ctp_runbook.cli.main import main
sys.argv[1:] = ["orchestrate", "--outputs", {str(tmp_path)!r}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(*sys.modules)
"""
    root = Path(ctp_runbook.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, check=True, cwd=root
    )
    loaded = set(shown.stdout.splitlines()[-1].split())
    acting = ("guardian", "requests", "rollback", "steps", "switch", "window")
    assert "ctp_runbook.run.dry_run" in loaded
    assert loaded.isdisjoint(f"ctp_runbook.run.{name}" for name in acting)
    assert loaded.isdisjoint({"subprocess", "ctp_runbook.host.pin", "ctp_runbook.host.daemon"})
    assert loaded.isdisjoint({"click", "rich", "typing_extensions"})
