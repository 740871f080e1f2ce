"""Facts about run/vanished.py, and about a disk that refuses whatever only the record needs."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.host import files
from ctp_runbook.model import Outcome
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.orchestrator import Orchestrator
from ctp_runbook.run.vanished import FolderWatch
from ctp_runbook.run.world import World
from tests.props.example_records import like
from tests.props.plan_fixtures import make_run
from tests.run.test_orchestrator import OLD_TRADES, Conducted, conducted

__all__ = ["conducted"]


# --- what is put back -----------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run's folder, whole."""
    return make_run(tmp_path)


@pytest.fixture
def journal(run: RunDir) -> Iterator[Journal]:
    """Its journal, of one record."""
    opened = Journal(run.journal, durable=False)
    opened.append(like("state"))
    yield opened
    opened.close()


def looks(run: RunDir, journal: Journal, times: int = 1) -> tuple[list[str], str]:
    """What is told by so many looks, and what is lacking since."""
    told: list[str] = []
    watch = FolderWatch(run, journal)
    for _ in range(times):
        watch.look(told.append, at_once=True)
    return told, watch.lack


def test_nothing_is_said_of_what_is_there(run: RunDir, journal: Journal) -> None:
    """And nothing is lacking."""
    assert looks(run, journal) == ([], "")


@pytest.mark.parametrize(
    ("room", "lacks"), [("control", False), ("notebooks", False), ("evidence", True)]
)
def test_a_room_is_made_again(run: RunDir, journal: Journal, room: str, lacks: bool) -> None:
    """Once told; what no record is in is not missed by one."""
    (run.path / room).rmdir()
    (told,), lack = looks(run, journal, times=2)
    assert told.startswith(f"{run.path / room} was removed while the run is under way")
    assert (run.path / room).is_dir()
    assert lack == (told if lacks else "")


def test_what_stands_in_its_place_is_kept(run: RunDir, journal: Journal) -> None:
    """It is somebody's."""
    run.control.rmdir()
    run.control.write_text("a file")
    assert len(looks(run, journal)[0]) == 1
    (aside,) = run.path.glob("control.found-*")
    assert (aside.read_text(), run.control.is_dir()) == ("a file", True)


def test_of_a_folder_its_rooms_are_not_told(run: RunDir, journal: Journal) -> None:
    """The folder, and that its journal is in it again."""
    shutil.rmtree(run.path)
    (folder, record), lack = looks(run, journal, times=2)
    assert folder.startswith(f"{run.path} was removed")
    assert record.startswith(f"{run.journal} was removed while it was written")
    assert lack == folder
    journal.append(like("state"))
    assert read_journal(run.journal).records == journal.records


def test_what_cannot_be_put_back_is_told_once(run: RunDir, journal: Journal) -> None:
    """The record goes on by what is open, and is there when there is a place again."""
    outputs = run.path.parent
    outputs.rename(outputs.with_name("moved"))
    outputs.write_text("a file")
    told, _ = looks(run, journal, times=3)
    assert len(told) == 2
    assert all("(Not a directory)" in sentence for sentence in told)
    journal.append(like("state"))
    outputs.unlink()
    looks(run, journal)
    assert len(read_journal(run.journal).records) == 2


# --- a disk that refuses --------------------------------------------------------------


def refusing(world: World, number: int, when: Callable[[], bool]) -> World:
    """The world, its files refusing all that is written once ``when`` holds."""

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

        def write_atomic(self, path: Path, data: bytes, **options: Any) -> None:
            if when():
                raise OSError(number, os.strerror(number), str(path))
            files.write_atomic(path, data, **options)

        def appending(self, path: Path) -> AbstractContextManager[files.KeptFile]:
            if when():
                raise OSError(number, os.strerror(number), str(path))
            return files.appending(path)

        def read(self, path: Path, *, start: int = 0, most: int = -1) -> bytes:
            if when() and "/proc/" not in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return files.read(path, start=start, most=most)

    return structs.replace(world, files=Refusing())


REFUSALS = [
    (errno.EIO, "old_strategy_runner"),
    (errno.ESTALE, "old_core_engine"),
    *((number, "new_core_engine") for number in (errno.EMFILE, errno.ENOSPC, errno.EROFS)),
]


@pytest.mark.parametrize(("number", "since"), REFUSALS)
def test_a_disk_that_refuses_stops_nothing_that_restores_trading(
    conducted: Conducted, number: int, since: str
) -> None:
    """From some act of the switch on nothing can be written beside the journal: the old generation
    trades again, and what could not be written is told."""
    was = conducted.host.lives.get(since, "gone")
    world = refusing(
        conducted.host.world, number, lambda: conducted.host.lives.get(since, "gone") != was
    )
    first = conducted.orchestrator
    first.journal.close()
    conducted.orchestrator = Orchestrator(
        first.run,
        first.context.plan,
        cwd=first.context.cwd,
        guardian_pid=0,
        lock_fd=-1,
        world=world,
    )
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    assert {name for name, word in conducted.host.lives.items() if word == "alive"} == {*OLD_TRADES}
    trigger = conducted.history.trigger
    assert trigger is not None
    assert os.strerror(number) in trigger.payload.sentence


def test_a_folder_that_goes_in_the_middle_of_the_switch(conducted: Conducted) -> None:
    """The run goes on by the journal it has open, and is undone for what went wrong later alone."""
    run, act = conducted.orchestrator.run, conducted.host.acts["cat new_core_engine.conf"]

    def then_remove() -> None:
        act()
        shutil.rmtree(run.path)

    conducted.host.acts["cat new_core_engine.conf"] = then_remove
    conducted.host.exits["cat instruments"] = 1
    assert conducted.conduct() is Outcome.ROLLED_BACK_IN_BUDGET, conducted.sentence()
    assert read_journal(run.journal).records == conducted.orchestrator.journal.records
    trigger = conducted.history.trigger
    assert trigger is not None
    assert trigger.payload.sentence.startswith("step warmup_query failed")
    findings = [one.payload.sentence for one in conducted.history.of_kind(Finding)]
    assert any(f"{run.path} was removed while" in sentence for sentence in findings)


@pytest.mark.parametrize("gate", ["cat bootstrap", "cat connectors"])
def test_a_folder_that_goes_before_the_switch_ends_the_run(conducted: Conducted, gate: str) -> None:
    """Nothing was touched, and a run without its record is not begun."""
    conducted.host.acts[gate] = lambda: shutil.rmtree(conducted.orchestrator.run.path)
    assert conducted.conduct() is Outcome.ABORTED_BEFORE_SWITCH
    assert "was removed while the run is under way" in conducted.sentence()
    assert conducted.sentence().endswith("the old stack still trades, untouched")
    assert conducted.host.lives == OLD_TRADES
