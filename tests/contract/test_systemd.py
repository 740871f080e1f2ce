"""Facts about infra/systemd/: systemd takes the units, and they ask what takes up a lost run."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctp_runbook.cli.options import load_command
from ctp_runbook.host import daemon

UNITS = Path(__file__).parents[2] / "infra" / "systemd"
SERVICE, TIMER = "ctp-runbook-resume.service", "ctp-runbook-resume.timer"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (package systemd) is missing"
)


def on_this_host(folder: Path) -> list[Path]:
    """The units, with the user and the paths of this host where an operator puts his."""
    command = Path(sys.executable).with_name("ctp-runbook")
    changed = []
    for name in (SERVICE, TIMER):
        text = (UNITS / name).read_text()
        text = text.replace("/opt/ctp-runbook/.venv/bin/ctp-runbook", str(command))
        text = text.replace("User=quant-hft", f"User={getpass.getuser()}")
        text = text.replace("WorkingDirectory=/opt/ctp-runbook", f"WorkingDirectory={folder}")
        changed.append(folder / name)
        changed[-1].write_text(text)
    return changed


@needs_systemd
def test_systemd_takes_them(tmp_path: Path) -> None:
    """Without a word, once the paths are this host's."""
    units = on_this_host(tmp_path)
    argv = ["systemd-analyze", "--man=no", "verify", *map(str, units)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout) == (0, "")
    # Other units of the host may be at odds with it; of ours there is no word.
    assert "ctp-runbook" not in done.stderr


@needs_systemd
def test_a_wrong_unit_is_told(tmp_path: Path) -> None:
    """The check above can fail."""
    service = on_this_host(tmp_path)[0]
    service.write_text(service.read_text().replace("Type=oneshot", "Typo=oneshot"))
    argv = ["systemd-analyze", "--man=no", "verify", str(service)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert "Typo" in done.stderr


def test_what_they_ask_is_a_command() -> None:
    """The words of ExecStart, as the command line knows them; and stopping the unit stops no run."""
    lines = (UNITS / SERVICE).read_text().splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    name, *words = start.split()[1:]
    flags = {option.flag for option in load_command(name).options}
    assert (name, words[0]) == ("resume", "--unattended")
    assert flags >= {word for word in words if word.startswith("--")}
    assert "KillMode=process" in lines


@pytest.mark.parametrize(
    ("script", "lack"),
    [("exit 0", ""), ("exit 3", f"{TIMER} (infra/systemd/) is not active")],
    ids=["active", "not active"],
)
def test_a_host_without_the_timer_is_told_of(
    script: str, lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a real run writes down before it begins."""
    asked = tmp_path / "systemctl"
    asked.write_text(f'#!/bin/sh\ntest "$*" = "is-active --quiet {TIMER}" || exit 9\n{script}\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(daemon, "_SYSTEMD_MARK", tmp_path)
    assert daemon.take_up_lack() == lack
    asked.unlink()
    assert daemon.take_up_lack() == "systemctl does not answer"
    monkeypatch.setattr(daemon, "_SYSTEMD_MARK", tmp_path / "none")
    assert daemon.take_up_lack() == "systemd does not run here"
