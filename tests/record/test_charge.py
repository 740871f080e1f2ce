"""Facts about record/charge.py: without --run it is the run that holds the environment, or last held it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.cli.options import find_run
from ctp_runbook.errors import RunLost, RunRefused
from ctp_runbook.host.lock import give_back, holder_of, take_environment_lock
from ctp_runbook.record import charge
from ctp_runbook.record.charge import run_in_charge, unfinished_runs
from ctp_runbook.record.journal import Journal, header_text
from ctp_runbook.record.kinds import Payload
from ctp_runbook.record.rundir import RunDir, glance_at
from ctp_runbook.run.attend import read_whole
from tests.props.example_records import header_like, like

BEGUN = like("orchestrator_started")
REFUSED = like("closed", outcome="REFUSED")
ABORTED = like("closed", outcome="ABORTED_BEFORE_SWITCH")
COMPLETED = like("closed", outcome="COMPLETED")


def beside(folder: Path, name: str, *records: Payload) -> RunDir:
    """A run of an environment of this test, newer than those before it."""
    run = RunDir(folder / name)
    run.make()
    header = header_like(run_id=name, environment=f"charge-{os.getpid()}-{folder.name}")
    journal = Journal(run.journal, durable=False)
    for payload in (header, *records):
        journal.append(payload)
    journal.close()
    run.run_json.write_bytes(header_text(header))
    return run


def test_the_one_that_began_wins_over_newer_folders(tmp_path: Path) -> None:
    """Planned, refused before or after it began, unreadable: none of them trades."""
    run = beside(tmp_path, "began", BEGUN)
    beside(tmp_path, "planned")
    beside(tmp_path, "refused", REFUSED)
    beside(tmp_path, "refused-by-its-gates", BEGUN, REFUSED)
    beside(tmp_path, "empty").journal.write_bytes(b"")
    beside(tmp_path, "gone").journal.unlink()
    beside(tmp_path, "broken").run_json.write_text("[1")
    assert run_in_charge(tmp_path) == run


@pytest.mark.parametrize("over", [(), (COMPLETED,)], ids=["under way", "completed"])
def test_a_later_run_that_switched_nothing_is_not_meant(
    over: tuple[Payload, ...], tmp_path: Path
) -> None:
    """Its gates failed, or somebody aborted it: ``rollback`` is asked of the run that trades."""
    run = beside(tmp_path, "trades", BEGUN, *over)
    beside(tmp_path, "aborted", BEGUN, ABORTED)
    assert run_in_charge(tmp_path) == run


def test_a_later_run_that_rolled_back_is_meant(tmp_path: Path) -> None:
    """Whatever was before it: since then it says what trades."""
    beside(tmp_path, "completed", BEGUN, COMPLETED)
    later = beside(tmp_path, "later", BEGUN, like("closed", outcome="ROLLED_BACK_IN_BUDGET"))
    assert run_in_charge(tmp_path) == later


def test_a_torn_journal_has_begun_all_the_same(tmp_path: Path) -> None:
    """Its writer died: what it wrote before counts, and what cannot be read counts for nothing."""
    run = beside(tmp_path, "torn", BEGUN)
    with run.journal.open("ab") as sink:
        sink.write(b'{"seq":2,"kind":"clo')
    beside(tmp_path, "planned")
    assert run_in_charge(tmp_path) == run


def test_of_two_that_began_it_is_the_later_start(tmp_path: Path) -> None:
    """A run planned first and started last is the one that acts."""
    first = beside(tmp_path, "planned-first")
    beside(tmp_path, "planned-last", BEGUN)
    journal = Journal(first.journal, durable=False)
    journal.append(BEGUN)
    journal.close()
    assert run_in_charge(tmp_path) == first


def test_where_none_began_it_is_the_newest(tmp_path: Path) -> None:
    """A dry run, or the one that was just planned; no run at all is refused."""
    with pytest.raises(RunRefused, match="no run under"):
        run_in_charge(tmp_path)
    beside(tmp_path, "b")
    newest = beside(tmp_path, "a")
    os.utime(newest.run_json, ns=(2**62, 2**62))
    assert run_in_charge(tmp_path) == newest


def test_the_holder_of_the_lock_wins_over_all(tmp_path: Path) -> None:
    """While it holds it; a name in a lock that nobody holds is history, and a place elsewhere is
    nowhere to be led to."""
    run = beside(tmp_path, "starting")
    later = beside(tmp_path, "later", BEGUN)
    environment = json.loads(run.run_json.read_text())["environment"]
    lock = take_environment_lock(environment, run_id=run.run_id, path=run.path)
    try:
        assert holder_of(environment) == str(run.path)
        assert run_in_charge(tmp_path) == run
    finally:
        os.close(lock)
    assert holder_of(environment) == ""
    assert run_in_charge(tmp_path) == later
    lock = take_environment_lock(environment, run_id="x", path=tmp_path.parent / "elsewhere")
    assert run_in_charge(tmp_path) == later
    os.close(lock)
    for room in (Path("/run/lock"), Path("/tmp")):
        (room / f"ctp-runbook.{environment}.lock").unlink(missing_ok=True)


def test_of_two_under_way_one_is_to_be_named(tmp_path: Path) -> None:
    """Two environments in one folder: guessing would hold or roll back the wrong one."""
    locks = []
    for name in ("one", "two"):
        run = beside(tmp_path, name, BEGUN)
        header = {"environment": f"charge-{os.getpid()}-{name}"}
        run.run_json.write_text(json.dumps(header))
        locks.append(take_environment_lock(header["environment"], run_id=name, path=run.path))
    with pytest.raises(RunRefused, match=r"2 runs under .* are under way; name one: --run .*one"):
        run_in_charge(tmp_path)
    for lock in locks:
        os.close(lock)
    for path in Path("/run/lock").glob(f"ctp-runbook.charge-{os.getpid()}-*.lock"):
        path.unlink()


def test_unfinished_are_those_that_began_and_never_ended(tmp_path: Path) -> None:
    """Of this environment, of this host, for real; a torn last line hides nothing."""
    begun = beside(tmp_path, "begun", BEGUN)
    torn = beside(tmp_path, "torn", BEGUN)
    with torn.journal.open("ab") as sink:
        sink.write(b'{"seq":2,"kind":"clo')
    again = beside(tmp_path, "again", BEGUN, like("finding", severity="info", sentence="x"), BEGUN)
    beside(tmp_path, "planned")
    beside(tmp_path, "over", BEGUN, COMPLETED)
    beside(tmp_path, "refused", REFUSED)
    header = json.loads(begun.run_json.read_text())
    for name, change in (
        ("elsewhere", {"host": "another"}),
        ("other", {"environment": "another"}),
        ("dry", {"dry_run": True}),
    ):
        run = beside(tmp_path, name, BEGUN)
        run.run_json.write_text(json.dumps({**header, **change}))
    found = unfinished_runs(
        [tmp_path, tmp_path], environment=header["environment"], host=header["host"]
    )
    assert found == [again, begun, torn]


# --- its folder was removed, and its lock alone knows of it ------------------------


@pytest.fixture
def removed(tmp_path: Path) -> Iterator[RunDir]:
    """A run that is under way, and somebody removed its folder."""
    run = beside(tmp_path, "under-way", BEGUN)
    lock = take_environment_lock(glance_at(run).environment, run_id=run.run_id, path=run.path)
    shutil.rmtree(run.path)
    yield run
    give_back(lock)


def test_a_removed_folder_is_waited_for(removed: RunDir) -> None:
    """Whoever conducts it puts it back; an older run is not taken for it meanwhile."""
    older = beside(removed.path.parent, "older", BEGUN, COMPLETED)
    putting_back = threading.Timer(0.3, beside, (removed.path.parent, "under-way", BEGUN))
    putting_back.start()
    assert run_in_charge(older.path.parent) == removed
    putting_back.join()


def test_a_journal_removed_while_a_command_looks_is_waited_for(removed: RunDir) -> None:
    """Found a moment ago, and read again and again: by no answer of ``status`` is that the end of it."""
    putting_back = threading.Timer(0.3, beside, (removed.path.parent, "under-way", BEGUN))
    putting_back.start()
    assert read_whole(removed).has_begun
    putting_back.join()
    with pytest.raises(RunRefused, match=r"holds no run"):
        read_whole(RunDir(removed.path.parent / "never"))


def test_a_folder_that_stays_away_is_a_lost_run(
    removed: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 7, for it may have acted; by name, by id and where none is named."""
    monkeypatch.setattr(charge, "_PUT_BACK_SECONDS", 0.2)
    outputs = removed.path.parent
    for run_dir in (removed.path, Path(removed.run_id), None):
        with pytest.raises(RunLost, match=r"is under way, .* look at the engines now") as lost:
            find_run(run_dir, outputs)
        assert lost.value.exit_code == 7


def test_a_folder_removed_after_the_end_is_a_lost_run(tmp_path: Path) -> None:
    """Nobody holds its lock any more, so nothing is waited for; yet it acted, and an older run must
    not be taken for it. One that began later is meant, whatever became of those before."""
    beside(tmp_path, "older", BEGUN, COMPLETED)
    gone = tmp_path / "removed"
    give_back(take_environment_lock(f"charge-{os.getpid()}-over", run_id="removed", path=gone))
    for run_dir in (gone, Path("removed"), None):
        with pytest.raises(RunLost, match=r"run removed was the last .* is gone: .* look at the"):
            find_run(run_dir, tmp_path)
    later = beside(tmp_path, "later", BEGUN)
    os.utime(later.journal, (2**33, 2**33))
    assert find_run(None, tmp_path) == later


def test_a_lock_that_names_another_folder_is_not_meant(tmp_path: Path) -> None:
    """A word that no lock knows is a slip of the keyboard: nothing was touched."""
    run = beside(tmp_path, "over", BEGUN, COMPLETED)
    other = tmp_path / "elsewhere" / "removed"
    give_back(take_environment_lock(f"charge-{os.getpid()}-other", run_id="removed", path=other))
    assert run_in_charge(tmp_path) == run
    with pytest.raises(RunRefused, match="neither a directory nor the id of a run"):
        find_run(Path("removde"), tmp_path)
