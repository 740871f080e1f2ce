"""What systemd says of a unit, as it was printed, and what follows from it: border/units/."""

from __future__ import annotations

import os
import shlex
import tomllib
from pathlib import Path

import pytest

from ctp_runbook.model import Generation, Identity, Member, Role
from ctp_runbook.probes.liveness import Liveness, observe_member, recorded_identity

FOLDER = Path(__file__).parent / "border" / "units"
CASES: dict[str, dict[str, object]] = tomllib.loads((FOLDER / "expect.toml").read_text())


def looks(folder: Path, known: Identity | None) -> dict[str, Liveness]:
    """What all witnesses say beside an alive command that says alive, and beside one that says gone."""
    member = Member(Generation.OLD, Role.STRATEGY_RUNNER, unit="engine.service")
    env = {"PATH": os.environ["PATH"]}
    return {
        word: observe_member(
            member._replace(alive_command=command), known=known, cwd=folder, env=env, seconds=5
        )
        for word, command in (("alive", "exit 0"), ("gone", "exit 1"))
    }


def test_every_answer_is_expected() -> None:
    """A recorded answer without a line in the table is never read."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("is_pinned", [False, True], ids=["unknown", "pinned, and dead"])
@pytest.mark.parametrize("name", CASES)
def test_a_unit_is_believed_only_when_it_is_told_whole(
    name: str,
    is_pinned: bool,
    process: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Undecided is neither alive nor gone, whatever the alive command says and whoever was pinned."""
    case = CASES[name]
    answers(tmp_path, monkeypatch, name, process)
    dead = Identity(process.pid, process.start_ticks - 1) if is_pinned else None
    seen = looks(tmp_path, dead)
    assert [word for word, one in seen.items() if one.is_alive or one.is_gone] == (
        [] if case["is"] == "undecided" else [case["is"]]
    )
    for one in seen.values():
        assert str(case.get("says", "")) in one.sentence
        assert (
            "could not be asked: unit engine.service (OLD_STRATEGY_RUNNER_UNIT: " in one.sentence
        ) == (case["is"] == "undecided")


def test_a_pid_file_beside_a_unit_takes_no_witness_away(
    process: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are asked: the unit runs again while the pid file is gone, or is not known at all."""
    both = Member(
        Generation.OLD,
        Role.STRATEGY_RUNNER,
        alive_command="exit 1",
        pid_file=str(tmp_path / "no.pid"),
        unit="engine.service",
    )

    def look() -> Liveness:
        env = {"PATH": os.environ["PATH"]}
        return observe_member(both, known=None, cwd=tmp_path, env=env, seconds=5)

    answers(tmp_path, monkeypatch, "running", process)
    assert (look().identity, look().is_gone) == (process, False)
    answers(tmp_path, monkeypatch, "mistyped", process)
    assert not look().is_gone
    answers(tmp_path, monkeypatch, "stopped", process)
    assert look().is_gone


def test_whoever_can_be_seen_can_be_ended(
    process: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that is going down names its process; a stranger's number names nobody."""
    unit = Member(Generation.OLD, Role.STRATEGY_RUNNER, unit="engine.service")
    answers(tmp_path, monkeypatch, "deactivating", process)
    assert recorded_identity(unit) == process
    answers(tmp_path, monkeypatch, "a_strangers_number", process)
    assert recorded_identity(unit) is None


def answers(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, process: Identity) -> None:
    """Put a systemctl before all others that prints what was recorded."""
    case = CASES[name]
    text = (FOLDER / f"{name}.txt").read_text()
    text = text.replace("{pid}", str(process.pid)).replace("{group}", control_group(process))
    script = (
        '#!/bin/sh\n[ "$LC_ALL" = C ] && [ "$1" = show ] || exit 99\n'
        f"printf %s {shlex.quote(text)}\n"
        f"echo {shlex.quote(str(case.get('err', '')))} >&2\nexit {case.get('exit', 0)}\n"
    )
    (folder / "bin").mkdir(exist_ok=True)
    fake = folder / "bin" / "systemctl"
    fake.write_text(script)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")


def control_group(process: Identity) -> str:
    """The longest path it has in any hierarchy."""
    lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    return max((line.split(":", 2)[-1] for line in lines), key=len, default="/")
