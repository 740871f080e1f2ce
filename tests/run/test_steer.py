"""Facts about run/steer.py: what a request came to, in words and as an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import steer as steering
from tests.props.example_records import like
from tests.props.synthetic_runs import make_run


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
