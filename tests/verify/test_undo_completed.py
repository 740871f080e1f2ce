"""Facts about verify/undo_completed.py: a rollback carries the very run it undoes, a row a sentence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest

from ctp_runbook.errors import JournalError
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.run import verify_run
from tests.props.forged_runs import (
    Edit,
    Raws,
    changed,
    edit_file,
    findings_of,
    forge,
    inserted,
    nth,
    removed,
    together,
)
from tests.props.run_mutants import rewrite_journal

COPY = "plan/parent_journal.jsonl"
PARENT = "20260202T023000Z-completed"


def replace_parent(run: RunDir, edit: Edit) -> None:
    """Forge the parent's journal and carry it as if it were the one adopted."""
    path = run.path / COPY
    raws = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(raws)
    beside = RunDir(run.path.parent / "another")
    beside.make()
    with contextlib.suppress(JournalError):  # what is no journal has no evidence
        rewrite_journal(beside, raws)
    data = beside.journal.read_bytes()
    path.write_bytes(data)
    forge(run, _carries(digest_of(data)))


def _carries(sha256: str) -> Edit:
    def edit(raws: Raws) -> None:
        nth(raws, "parent")["payload"]["journal_sha256"] = sha256
        raws[0]["payload"]["plan_files"]["parent_journal.jsonl"] = sha256

    return edit


def test_a_rollback_of_a_completed_run_verifies(run_of: Callable[[str], RunDir]) -> None:
    """Also where the parent is no longer beside it: it carries that run's journal."""
    assert findings_of(run_of("undone")) == ""


def test_the_parent_beside_it_is_the_one_carried(true_run: Callable[[str], RunDir]) -> None:
    """As the orchestrator leaves them: two folders side by side."""
    run = true_run("undone")
    assert (run.path.parent / PARENT / "journal.jsonl").is_file()
    assert verify_run(run, allow_cutover_rollback=True).ok


HEADERS: dict[str, tuple[Edit, str]] = {
    "a parent that nothing adopts": (
        removed("parent"),
        f"the header names the parent '{PARENT}'; the record after it adopts none, or another",
    ),
    "a parent adopted without being named": (
        changed("run_created", parent_run=""),
        "the header names the parent ''; the record after it adopts none, or another",
    ),
    "a parent adopted late": (
        lambda raws: raws.insert(3, raws.pop(1)),
        "the record after it adopts none, or another",
    ),
    "another journal adopted": (
        changed("parent", journal_sha256="0" * 64),
        f"{COPY}: not the journal that was adopted (journal_sha256)",
    ),
    "another journal planned": (
        changed("run_created", plan_files={"parent_journal.jsonl": "0" * 64}),
        "run_created.plan_files names another parent_journal.jsonl than was adopted",
    ),
    "another run named": (
        together(changed("run_created", parent_run="other"), changed("parent", run_id="other")),
        f"the parent's journal is that of run {PARENT}, not of other",
    ),
    "another run adopted": (
        changed("parent", run_id="other"),
        f"the parent's journal is that of run {PARENT}, not of {PARENT}",
    ),
    "on another host": (
        changed("run_created", host="elsewhere"),
        "host of the header is not that of the parent",
    ),
    "of another plan": (
        changed("run_created", plan_sha256="6" * 64),
        "plan_sha256 of the header is not that of the parent",
    ),
    "in another boot": (
        lambda raws: raws[0].update(boot_id="another-boot"),
        "the parent ran in another boot: its processes cannot be told",
    ),
    "begun before the parent ended": (
        lambda raws: raws[0].update(mono_ns=1),
        "the parent ended after its rollback began",
    ),
    "with another process": (
        changed("identity", number=2, pid=7),
        "the members adopted are [",
    ),
    "with a member less": (
        removed("identity", number=3),
        "), OrchestratorStarted(resumed=False, ",
    ),
    "with a look between": (
        inserted("parent", "finding", severity="info", sentence="hm"),
        "the members adopted are [Finding(severity='info', sentence='hm'), ",
    ),
}


@pytest.mark.parametrize(("edit", "said"), HEADERS.values(), ids=HEADERS)
def test_a_rollback_undoes_the_run_it_names(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Header, adoption and members are those of the journal it carries."""
    run = run_of("undone")
    forge(run, edit)
    assert said in findings_of(run)


def _rolled_back(raws: Raws) -> None:
    nth(raws, "closed")["payload"].update(outcome="ROLLED_BACK_IN_BUDGET", exit_code=4)


PARENTS: dict[str, tuple[Edit, str]] = {
    "that did not complete": (
        together(_rolled_back, removed("watch_ended")),
        f"{COPY}: journal record 44 (closed): no run ends ROLLED_BACK_IN_BUDGET out of WATCHING",
    ),
    "that is a rollback itself": (
        changed("run_created", parent_run="grandparent"),
        f"{COPY}: journal record 2 (state): no run goes from PLANNED to GATING",
    ),
    "that is malformed": (
        changed("closed", exit_code="none"),
        "journal record 45 (closed): Expected `int`, got `str` - at `$.exit_code`",
    ),
    "that has no header": (
        removed("run_created"),
        f"{COPY}: no whole journal",
    ),
    "that ran another plan": (
        lambda raws: raws[0]["payload"]["plan"]["steps"].pop(),
        f"{COPY}: run.json plan.steps: 16 steps; the runbook has 17",
    ),
    "with clocks apart": (
        lambda raws: [raw.update(mono_ns=raw["mono_ns"] + 10**11) for raw in raws[20:]],
        f"{COPY}: journal record 20: wall and monotonic clock are 100.0 s apart",
    ),
}


@pytest.mark.parametrize(("edit", "said"), PARENTS.values(), ids=PARENTS)
def test_what_is_carried_is_a_whole_journal_of_its_own(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """It is held to all that a journal alone can be held to, and its faults are told as its own."""
    run = run_of("undone")
    replace_parent(run, edit)
    assert said in findings_of(run)


def test_only_a_completed_run_is_undone_by_another(run_of: Callable[[str], RunDir]) -> None:
    """A parent sound in itself that ended otherwise is refused with its ending."""
    run, aborted = run_of("undone"), run_of("aborted")
    data = aborted.journal.read_bytes()
    (run.path / COPY).write_bytes(data)
    forge(run, _carries(digest_of(data)))
    said = findings_of(run)
    assert "the parent ended " in said
    assert "; only a COMPLETED run is rolled back by another" in said


def test_a_rollback_is_not_rolled_back_by_another(run_of: Callable[[str], RunDir]) -> None:
    """A parent that itself names a parent is refused; to go forward is a new cutover."""
    run = run_of("undone")
    data = run.journal.read_bytes()
    (run.path / COPY).write_bytes(data)
    forge(run, _carries(digest_of(data)))
    assert "the parent is itself a rollback of another run" in findings_of(run)


def test_the_copy_is_there_and_that_of_the_parent(run_of: Callable[[str], RunDir]) -> None:
    """Gone, damaged or not that of the folder beside it: each is said of the copy."""
    run, parent = run_of("undone"), run_of("completed")
    forge(parent, changed("run_created", created_by="somebody else"))
    assert f"{COPY} is not the journal of run {PARENT} beside this one" in findings_of(run)
    edit_file(run, COPY, (run.path / COPY).read_bytes().replace(b"operator", b"somebody", 1))
    assert f"{COPY}: " in findings_of(run)
    assert "does not continue the record before it" in findings_of(run)
    (run.path / COPY).unlink()
    write_manifest(run, sealed=True)
    assert f"{COPY}: " in findings_of(run)
    assert "No such file or directory" in findings_of(run)
