"""Every file of border/commands/ is a command line of a template, with the words it is answered with."""

from __future__ import annotations

import os
import resource
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Member, Role
from ctp_runbook.probes.command import spoken_value
from ctp_runbook.probes.liveness import observe_member
from ctp_runbook.probes.session import read_session, read_trading_state
from tests.props.plan_fixtures import processes_with

FOLDER = Path(__file__).parent / "border" / "commands"
EXPECT: Mapping[str, Mapping[str, str]] = tomllib.loads((FOLDER / "expect.toml").read_text())
ENGINE = Member(Generation.OLD, Role.CORE_ENGINE)
SECONDS = 0.4
# Its time, TERM and KILL to what it left, and a machine that has other things to do.
MOST_SECONDS = 15.0
MOST_BYTES = 100 << 20


def test_every_command_has_its_answer() -> None:
    """And every answer its command."""
    assert {path.stem for path in FOLDER.glob("*.sh")} == EXPECT.keys()


@pytest.mark.parametrize("name", EXPECT)
def test_a_command_is_answered_in_these_words(name: str, tmp_path: Path) -> None:
    """In time, bounded, with nothing left of it, and no error but the probes' own."""
    command = (FOLDER / f"{name}.sh").read_text()
    env = {"PATH": os.environ["PATH"], "MARK": str(tmp_path)}
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    told = {
        "state": state_of(command, cwd=tmp_path, env=env),
        "alive": alive_of(command, cwd=tmp_path, env=env),
        "metric": metric_of(command, cwd=tmp_path, env=env),
    }
    took = time.monotonic() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert {kind: words for kind, words in EXPECT[name].items() if words not in told[kind]} == {}, (
        told
    )
    assert "".join(told.values()).isprintable()
    assert took < MOST_SECONDS
    assert grown < MOST_BYTES
    assert processes_with(f"MARK={tmp_path}") == ()


def state_of(command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
    """Why there is no state of it; its session is never verified either."""
    try:
        session = read_session(ENGINE, command=command, cwd=cwd, env=env, seconds=SECONDS)
    except ProbeError:
        pass
    else:
        assert not session.is_verified
    with pytest.raises(ProbeError) as caught:
        read_trading_state(command, member=ENGINE, cwd=cwd, env=env, seconds=SECONDS)
    return str(caught.value)


def alive_of(command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
    """What is seen of a member with this alive command: never proved alive, nor gone."""
    member = ENGINE._replace(alive_command=command)
    seen = observe_member(member, known=None, cwd=cwd, env=env, seconds=SECONDS)
    assert not seen.is_alive
    assert not seen.is_gone
    return seen.sentence


def metric_of(command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
    """Why it says no number."""
    with pytest.raises(ProbeError) as caught:
        spoken_value(command, cwd=cwd, env=env, seconds=SECONDS)
    return str(caught.value)
