"""Facts about run/steer.py: what a request came to, in words and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import steer as steering
from ctp_runbook.run.attend import read_history, unwritten_sentence
from tests.props.example_records import like
from tests.props.synthetic_runs import keep_end_behind, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A real run, cut off while it watches."""
    run = make_run("completed", tmp_path)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    watching = next(n for n, line in enumerate(lines) if b'"to":"WATCHING"' in line)
    run.journal.write_bytes(b"".join(lines[: watching + 1]))
    return run


def asked(
    run: RunDir, request: str, monkeypatch: pytest.MonkeyPatch, *, lost: bool, **answer: Any
) -> tuple[str, int]:
    """What steer says where the orchestrator answers so; without an answer it is silent."""

    def orchestrator(run: RunDir, request: str, **_: object) -> str:
        if answer:
            journal = Journal(run.journal, durable=False)
            journal.append(like("answer", request=request, file="f", **answer))
            journal.close()
        return "f"

    monkeypatch.setattr(steering, "_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(steering, "is_attended", lambda *_, **__: not lost)
    monkeypatch.setattr(steering, "start", lambda *_, **__: None)
    monkeypatch.setattr("ctp_runbook.run.launch.request", orchestrator)
    told = steering.steer(run, request, by="ops")
    return told.sentence.partition(": ")[2], told.exit_code


def test_what_was_obeyed_says_what_happens_now(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit 0."""
    answer = {"obeyed": True, "sentence": "the watch holds"}
    assert asked(run, "hold", monkeypatch, lost=False, **answer) == ("the watch holds", 0)


def test_what_was_not_obeyed_is_no_success(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a first stop it is 7 and not 2, which says that nothing was touched."""
    answer = {"obeyed": False, "sentence": "it rolls back"}
    said = asked(run, "hold", monkeypatch, lost=False, **answer)
    assert said == ("not obeyed: it rolls back", 7)


def test_no_answer_is_no_success(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited is told for how long, and where to look."""
    sentence, code = asked(run, "hold", monkeypatch, lost=False)
    assert code == 7
    assert sentence == f"no answer within 0.1 s; see `ctp-runbook status --run {run.path}`"


def test_a_resume_that_takes_a_run_up_was_obeyed(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing was held besides is no refusal of what was asked."""
    answer = {"obeyed": False, "sentence": "nothing is held; the run is WATCHING"}
    said = asked(run, "resume", monkeypatch, lost=True, **answer)
    assert said == ("the run is taken up again", 0)


@pytest.mark.parametrize("lost", [False, True])
def test_a_secret_in_a_reason_reaches_neither_the_inbox_nor_a_command_line(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Somebody types a password into --reason, or into --by: it is masked before it is kept."""
    started: list[str] = []
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    monkeypatch.setattr(steering, "_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(steering, "is_attended", lambda *_, **__: not lost)
    monkeypatch.setattr("ctp_runbook.run.starting.is_attended", lambda *_, **__: False)
    monkeypatch.setattr(
        "ctp_runbook.run.starting._guard", lambda *_, resume, **__: started.append(resume)
    )
    monkeypatch.setattr("ctp_runbook.run.starting._await_record", lambda *_, **__: None)
    # It is of another host.
    monkeypatch.setattr(
        "ctp_runbook.run.starting._refuse_what_cannot_be_taken_up", lambda *_, **__: None
    )
    steering.steer(run, "resume", by="ann, token=abc", reason="as hunter22 curl -u ann:pw12 says")
    (letter,) = [path.read_text() for path in run.control.iterdir()]
    assert json.loads(letter) | {"requested_utc": ""} == {
        "request": "resume",
        "by": "ann, token=***",
        "reason": "as *** curl -u *** says",
        "requested_utc": "",
        "start": json.loads(letter)["start"],
    }
    assert started == (["taken up again by ann, token=***"] if lost else [])


def test_what_a_journal_had_no_room_for_is_written_by_resume(tmp_path: Path) -> None:
    """Of a run that is over: its end is known before, and on record and sealed afterwards."""
    run = make_run("rolled_back", tmp_path)
    whole = run.journal.read_bytes()
    behind = keep_end_behind(run)
    last = behind.read_bytes()
    history = read_history(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert "its journal lacks its last records" in unwritten_sentence(run, history)
    steered = steering.steer(run, "resume")
    assert "its evidence is written now" in steered.sentence
    assert run.journal.read_bytes() == whole
    assert not behind.exists()
    # Of who was killed between the two: it is on record, and nothing lacks.
    behind.write_bytes(last)
    with pytest.raises(RunRefused, match="there is nothing to resume"):
        steering.steer(run, "resume")
    behind.unlink()
