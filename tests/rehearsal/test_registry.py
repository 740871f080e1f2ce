"""Facts about rehearsal/registry.py: the twins of this user, and no others, are found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ctp_runbook.host.process import own_identity
from ctp_runbook.model import Identity
from ctp_runbook.rehearsal import registry, stack
from ctp_runbook.rehearsal.plane import postgres
from ctp_runbook.rehearsal.twin import Twin
from tests.props.command_line import typed
from tests.props.plan_fixtures import command_line, wait_for


@pytest.fixture(autouse=True)
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's runtime folder, and where temporary files go; the twins are noted in the first."""
    runtime, temporary = tmp_path / "runtime", tmp_path / "tmp"
    for folder in (runtime, temporary):
        folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return runtime / "ctp-runbook", temporary / f"ctp-runbook-{os.geteuid()}"


def folders() -> list[Path]:
    """The twins found."""
    return [entry.twin.dir for entry in registry.entries()]


def test_a_twin_is_found_until_it_is_struck(tmp_path: Path, rooms: tuple[Path, Path]) -> None:
    """Wherever who asks would note its own: with that user's runtime folder, or without one."""
    twin = Twin(tmp_path / "a twin")
    registry.enter(twin)
    registry.enter(twin)
    assert folders() == [twin.dir]
    assert oct(next(rooms[0].iterdir()).stat().st_mode & 0o777) == "0o600"
    registry.strike(twin)
    registry.strike(twin)
    assert folders() == []


def test_without_a_runtime_folder_it_is_noted_among_temporary_files(
    tmp_path: Path, rooms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, or from cron; who has one finds it there too."""
    runtime = os.environ["XDG_RUNTIME_DIR"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    registry.enter(Twin(tmp_path / "t"))
    assert [file.parent for file in rooms[1].iterdir()] == [rooms[1]]
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert folders() == [tmp_path / "t"]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_others_may_write_to_is_not_believed(
    mode: int, tmp_path: Path, rooms: tuple[Path, Path]
) -> None:
    """Somebody else could have noted any folder there, for us to end what is in it."""
    registry.enter(Twin(tmp_path / "t"))
    rooms[0].chmod(mode)
    assert folders() == []


def test_a_link_is_not_followed(tmp_path: Path, rooms: tuple[Path, Path]) -> None:
    """Whoever made it chose where it leads."""
    registry.enter(Twin(tmp_path / "t"))
    moved = rooms[0].rename(tmp_path / "elsewhere")
    rooms[0].symlink_to(moved)
    assert folders() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"folder": 1}'])
def test_what_cannot_be_read_is_no_twin(
    text: str, tmp_path: Path, rooms: tuple[Path, Path]
) -> None:
    """The others are found."""
    registry.enter(Twin(tmp_path / "t"))
    (rooms[0] / "rehearsal-00000000.json").write_text(text)
    assert folders() == [tmp_path / "t"]


def test_no_place_at_all_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that cannot be noted is brought up all the same; its folder is known by who did."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    registry.enter(Twin(tmp_path / "t"))
    assert folders() == []


def test_a_twin_is_kept_by_who_brought_it_up_while_that_lives(
    process: Identity, tmp_path: Path
) -> None:
    """Nobody's by a pid that was used again."""
    twin = Twin(tmp_path / "t")
    assert registry.Entry(twin, process).is_kept
    assert not registry.Entry(twin, process._replace(start_ticks=1)).is_kept
    assert not registry.Entry(twin, process._replace(boot_id="another")).is_kept


def test_all_takes_down_what_nobody_uses(
    process: Identity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is gone is forgotten, with whatever was at work in it; one in use is left up."""
    gone, kept = Twin(tmp_path / "gone"), Twin(tmp_path / "kept")
    for twin in (gone, kept):
        registry.enter(twin)
    file = registry._file(next(filter(registry._is_ours, registry._rooms())), kept)
    text = file.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{process.pid}')
    ticks = own_identity().start_ticks
    file.write_text(text.replace(f":{ticks}", f":{process.start_ticks}"))
    assert typed("stack", "down", "--all") == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{gone.dir}: its folder is gone; twin down")
    assert told[1].startswith(f"{kept.dir}: left up: pid {process.pid} ")
    assert folders() == [kept.dir]


def test_a_cluster_that_lay_elsewhere_goes_too(tmp_path: Path, rooms: tuple[Path, Path]) -> None:
    """The folder that named it is gone; that of another twin stays."""
    home, other = (Twin(tmp_path / name).plane.home("postgres") for name in ("gone", "other"))
    for cluster in (home, other):
        (rooms[1].parent / f"{postgres._prefix(cluster)}x" / "data").mkdir(parents=True)
    assert stack.down(tmp_path / "gone").left == ()
    assert [path.name for path in rooms[1].parent.iterdir()] == [f"{postgres._prefix(other)}x"]


@pytest.mark.twin
def test_in_a_folder_that_is_gone_only_a_twins_own_are_ended(tmp_path: Path) -> None:
    """By the paths of their command line: not an editor's, nor those of the folder beside it."""
    wait = ["bash", "-c", "sleep 60; :"]
    lines = {
        "part": (*wait, "ctp_runbook.rehearsal.x", f"{tmp_path}/t/front"),
        "beside": (*wait, "ctp_runbook.rehearsal.x", f"{tmp_path}/t2/front"),
        "editor": (*wait, "vi", f"{tmp_path}/t/front"),
    }
    begun = {name: subprocess.Popen(line, start_new_session=True) for name, line in lines.items()}
    valkey, stands = tmp_path / "bin" / "valkey-server", tmp_path / "t" / "valkey"
    for folder in (valkey.parent, stands):
        folder.mkdir(parents=True)
    shutil.copy(shutil.which("sleep") or "", valkey)
    begun["valkey"] = subprocess.Popen([valkey, "60"], cwd=stands, start_new_session=True)
    shutil.rmtree(tmp_path / "t")
    try:
        # A process is there a moment before its command line is.
        wait_for(lambda: all(command_line(each.pid) for each in begun.values()))
        found = stack._remains(Twin(tmp_path / "t"))
        assert {each.pid for each in found} == {begun["part"].pid, begun["valkey"].pid}
    finally:
        for process in begun.values():
            os.killpg(process.pid, 9)
            process.wait()
