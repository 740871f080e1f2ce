"""Facts about record/rundir.py: where a run keeps what, and that a file is there whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import files
from ctp_runbook.host.mailbox import FolderMailbox
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir, newest_run, private_dir, private_path, write_atomic

ROOMS = {
    "journal": "journal.jsonl",
    "run_json": "run.json",
    "plan": "plan",
    "evidence": "evidence",
    "samples": "samples/samples.jsonl",
    "logs": "logs",
    "control": "control",
    "notebooks": "notebooks",
    "report": "report.html",
    "manifest": "manifest.json",
}


@pytest.mark.parametrize(("name", "place"), ROOMS.items())
def test_everything_has_its_place(name: str, place: str, tmp_path: Path) -> None:
    """The names that people and verifiers know."""
    run = RunDir(tmp_path / "r1")
    assert getattr(run, name) == tmp_path / "r1" / place
    assert run.run_id == "r1"


def test_a_run_has_its_rooms_and_nothing_in_them(tmp_path: Path) -> None:
    """Made at once, parents included."""
    run = RunDir(tmp_path / "outputs" / "r1")
    run.make()
    found = {str(path.relative_to(run.path)) for path in run.path.rglob("*")}
    assert found == {*("plan", "evidence", "samples", "logs", "logs/steps", "control", "notebooks")}


@pytest.mark.parametrize("kind", ["run", "empty", "file"])
def test_a_run_id_is_never_used_twice(kind: str, tmp_path: Path) -> None:
    """Whatever has the name keeps it, untouched."""
    run = RunDir(tmp_path / "r1")
    if kind == "file":
        run.path.write_text("mine")
    else:
        run.path.mkdir()
    with pytest.raises(RunRefused, match="a run id is never used twice"):
        run.make()
    assert run.path.read_text() == "mine" if kind == "file" else not list(run.path.iterdir())


def test_of_many_who_want_a_run_id_one_gets_it(tmp_path: Path) -> None:
    """The decision is the kernel's, not a look before the leap."""
    gate, won = threading.Barrier(8), []

    def take() -> None:
        gate.wait()
        try:
            RunDir(tmp_path / "r1").make()
            won.append(1)
        except RunRefused:
            won.append(0)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0] * 7 + [1]


# --- atomic writes ----------------------------------------------------------------


def test_a_file_is_written_with_its_parents_and_mode(tmp_path: Path) -> None:
    """Private is private from the first byte on."""
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"one", mode=0o600)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While it is replaced over and over, every look finds one version whole."""
    path = tmp_path / "file"
    versions = [bytes([65 + number]) * 200_000 for number in range(3)]
    write_atomic(path, versions[0])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for version in versions:
                write_atomic(path, version)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {path.read_bytes() for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(versions)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    """Each has a draft of its own; one of the two versions is left, and nothing else."""
    path = tmp_path / "file"

    def write(data: bytes) -> None:
        for _ in range(50):
            write_atomic(path, data)

    versions = (b"a" * 9999, b"b" * 9999)
    threads = [threading.Thread(target=write, args=(data,)) for data in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in versions
    assert list(tmp_path.iterdir()) == [path]


NO_ROOM = """
import resource, sys
from pathlib import Path
from ctp_runbook.record.rundir import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_atomic(Path(sys.argv[1]), bytes(200))
except OSError as error:
    print(error.strerror)
"""


def test_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails half-way changes nothing and leaves no draft."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_cannot_replace_a_folder(tmp_path: Path) -> None:
    """The system's error comes through, and no draft stays."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


# --- the newest run ---------------------------------------------------------------


def test_the_newest_run_is_the_one_made_last(tmp_path: Path) -> None:
    """By the time its header was written, not by name; what is no run does not count."""
    for age, name in enumerate(["b", "c", "a"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        os.utime(tmp_path / name / "run.json", ns=(age, age))
    (tmp_path / "twin").mkdir()
    assert newest_run(tmp_path).run_id == "a"


def test_no_run_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Nothing to follow is a refusal that says how to get a run."""
    with pytest.raises(RunRefused, match="make one with 01_plan or `ctp-runbook run`"):
        newest_run(tmp_path)


def test_what_is_gone_is_made_again(tmp_path: Path) -> None:
    """Each is named, with why it cannot be; what stands in its place is kept beside it."""
    run = RunDir(tmp_path / "r1")
    run.make()
    assert list(run.make_again()) == []
    (run.logs / "steps").rmdir()
    run.evidence.rmdir()
    run.evidence.write_text("a file")
    assert list(run.make_again()) == [(run.evidence, None), (run.logs / "steps", None)]
    assert [one.read_text() for one in run.path.glob("evidence.found-*")] == ["a file"]
    run.path.rename(tmp_path / "moved")
    (first, *others) = list(run.make_again())
    assert first == (run.path, None)
    assert len(others) == 7
    lost = RunDir(tmp_path / "moved" / "journal.jsonl" / "r2")
    (tmp_path / "moved" / "journal.jsonl").touch()
    ((path, error),) = lost.make_again()
    assert path == lost.path
    assert isinstance(error, NotADirectoryError)


# --- the private room -------------------------------------------------------------


def test_the_private_room_is_in_memory_and_ours_alone(tmp_path: Path) -> None:
    """On tmpfs, for this user only, and the same at the second look."""
    run = RunDir(tmp_path / "r1")
    assert not private_path(run).exists()  # asking where makes nothing
    room = private_dir(run)
    try:
        assert room == private_dir(run) == private_path(run)
        for one in (room, room.parent):
            assert stat.S_IMODE(one.stat().st_mode) == 0o700
            assert one.stat().st_uid == os.getuid()
        kinds = {
            line.split()[1]: line.split()[2]
            for line in Path("/proc/mounts").read_text().splitlines()
        }
        assert kinds[str(room.parent.parent)] == "tmpfs"
    finally:
        room.rmdir()


OTHER_USER = 60000 + os.getpid() % 5000  # of this test run alone
TAKE = f"""
import os
from pathlib import Path
from ctp_runbook.record.rundir import RunDir, private_dir
os.setuid({OTHER_USER})
private_dir(RunDir(Path("/r1")))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can set a trap for another user")
@pytest.mark.parametrize(
    "trap", ["a folder of ours", "a link to a folder of theirs", "a link to nothing"]
)
def test_a_room_set_up_by_somebody_else_is_refused(trap: str) -> None:
    """Secrets are not put where another user could have prepared the place."""
    base = Path("/dev/shm") / f"ctp-runbook-{OTHER_USER}"
    target = base.with_suffix(".trap") if "link" in trap else base
    if "nothing" not in trap:
        target.mkdir(mode=0o777)
    if target != base:
        base.symlink_to(target)
    if "theirs" in trap:
        os.chown(target, OTHER_USER, OTHER_USER)
    try:
        done = subprocess.run(
            [sys.executable, "-c", TAKE], capture_output=True, text=True, check=False
        )
        assert f"RunRefused: {base} belongs to somebody else" in done.stderr
        assert "nothing" in trap or list(target.iterdir()) == []
    finally:
        if target != base:
            base.unlink()
        if "nothing" not in trap:
            target.rmdir()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_run_is_its_users_alone(umask: int, tmp_path: Path) -> None:
    """Folders 0700 and files 0600 whatever the umask; the folder of runs keeps its mode."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    outputs.chmod(0o755)
    run = RunDir(outputs / "r1")
    before = os.umask(umask)
    try:
        run.make()
        Journal(run.journal, durable=False).close()
        write_atomic(run.run_json, b"{}")
        files.append(run.plan / "watch.toml", b"")
        with files.appending(run.samples) as write:
            write(b"{}")
        write_atomic(run.notebooks / "deeper" / "01_plan.ipynb", b"{}")
        FolderMailbox(run.control).put("1-abort.json", b"{}")
        # What a template's command leaves has the mode that its umask gives it.
        (run.evidence / "by a step").touch()
        (run.evidence / "tool").touch(mode=0o755)
    finally:
        os.umask(before)
    files.keep_private(run.path)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (run.path, *run.path.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} <= {0o600, 0o700}
    assert modes[run.evidence / "by a step"] == 0o600
    assert stat.S_IMODE(outputs.stat().st_mode) == 0o755


def test_what_leads_elsewhere_keeps_its_mode(tmp_path: Path) -> None:
    """A link in a run's folder: what it names is somebody else's."""
    other = tmp_path / "other"
    other.touch()
    other.chmod(0o644)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(other)
    files.keep_private(tmp_path / "run")
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
