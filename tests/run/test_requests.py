"""Facts about run/requests.py: every request arrives once, in order, whoever is being restarted."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.kinds import RequestTaken
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.requests import REQUESTS, STOPS, Inbox, answer_to, send_request
from tests.props.example_records import like

GOOD = {"request": "hold", "by": "ops", "reason": "", "requested_utc": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run directory."""
    made = RunDir(tmp_path / "r1")
    made.make()
    return made


def test_what_is_asked_of_a_run_that_undoes_another_is_answered_as_what_it_is(
    run: RunDir,
) -> None:
    """It has no gates to go on with and no old stack that was not touched, from its first record on."""
    journal = Journal(run.journal)
    journal.append(like("parent"))
    undoing = History.of(journal.records)
    journal.close()
    for request in REQUESTS:
        answer = answer_to(request, undoing)
        assert answer.obeyed is (request in STOPS)
        assert not re.search("gates|switch|untouched|not touched|old stack", answer.sentence), (
            request
        )
        assert "the rollback" in answer.sentence


def names(requests: list[RequestTaken]) -> list[str]:
    """What was asked for."""
    return [one.request for one in requests]


def test_requests_arrive_once_in_the_order_made(run: RunDir) -> None:
    """The second look finds only what came since the first."""
    inbox = Inbox(run, taken=())
    assert inbox.poll() == []
    for request in REQUESTS:
        send_request(run, request, by="ops")
    assert names(inbox.poll()) == list(REQUESTS)
    send_request(run, "abort", by="ops")
    assert names(inbox.poll()) == ["abort"]
    assert inbox.poll() == []


def test_a_request_says_who_when_and_why(run: RunDir) -> None:
    """As it was left, with the name of its file."""
    send_request(run, "rollback", by="ops", reason="spreads look wrong\nvery")
    (request,) = Inbox(run, taken=()).poll()
    assert (request.by, request.reason) == ("ops", "spreads look wrong\nvery")
    assert datetime.fromisoformat(request.requested_utc).utcoffset() is not None
    assert (run.control / request.file).is_file()
    assert request.sentence == "rollback asked for by ops: spreads look wrong\nvery"


def test_a_request_without_a_reason_has_a_short_sentence(run: RunDir) -> None:
    """No colon with nothing after it."""
    send_request(run, "go", by="ops")
    assert Inbox(run, taken=()).poll()[0].sentence == "go asked for by ops"


def test_what_is_in_the_journal_is_not_taken_again(run: RunDir) -> None:
    """An orchestrator started again takes only the requests the one before it did not."""
    send_request(run, "hold", by="ops")
    first = Inbox(run, taken=())
    (taken,) = first.poll()
    send_request(run, "resume", by="ops")
    journal = Journal(run.journal, durable=False)
    journal.append(taken)
    assert names(Inbox(run, taken=journal.records).poll()) == ["resume"]
    journal.close()


@pytest.mark.parametrize("request_", ["", "GO", "stop", "go "])
def test_an_unknown_request_is_refused(request_: str, run: RunDir) -> None:
    """The refusal lists what can be asked for, and leaves nothing behind."""
    with pytest.raises(RunRefused, match="expected one of go, abort, hold, resume, rollback"):
        send_request(run, request_, by="ops")
    assert list(run.control.iterdir()) == []


RUBBISH = {
    "empty": b"",
    "half": b'{"request": "go"',
    "a list": b"[]",
    "a text": b'"go"',
    "nothing": b"null",
    "no keys": b"{}",
    "a key missing": json.dumps({"request": "go", "by": "x"}).encode(),
    "a key too many": json.dumps({**GOOD, "file": "x"}).encode(),
    "an unknown request": json.dumps({**GOOD, "request": "halt"}).encode(),
    "not UTF-8": b"\xff\xfe\x00",
    "too deep": b"[" * 100_000,
    "too long a number": b"1" * 5000,
    "too long": json.dumps({**GOOD, "reason": "x" * (64 << 10)}).encode(),
}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_what_is_no_request_is_passed_over(rubbish: bytes, run: RunDir) -> None:
    """Rubbish in the folder neither stops the orchestrator nor hides what comes after it."""
    (run.control / "0001.json").write_bytes(rubbish)
    (run.control / "0002.json").write_text(json.dumps(GOOD))
    inbox = Inbox(run, taken=())
    assert names(inbox.poll()) == ["hold"]
    assert inbox.poll() == []
    (told,) = inbox.passed_over()
    assert told.startswith("control/0001.json is no request and was passed over: ")
    assert len(told) < 400
    assert inbox.passed_over() == []


def test_a_pipe_is_not_waited_at(run: RunDir) -> None:
    """Whoever leaves one in the folder does not stop the orchestrator for ever."""
    os.mkfifo(run.control / "0001.json")
    (run.control / "0002.json").write_text(json.dumps(GOOD))
    before = sorted(os.listdir("/proc/self/fd"))
    inbox = Inbox(run, taken=())
    assert names(inbox.poll()) == ["hold"]
    (told,) = inbox.passed_over()
    assert "no plain file" in told
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_was_taken_away_ends_nothing(run: RunDir) -> None:
    """It is told once; requests reach the run again when it is there again."""
    inbox = Inbox(run, taken=())
    run.control.rmdir()
    assert inbox.poll() + inbox.poll() == []
    (told,) = inbox.passed_over()
    assert told.startswith("control/ cannot be read: No such file or directory; no request")
    send_request(run, "abort", by="ops")
    assert names(inbox.poll()) == ["abort"]
    assert inbox.passed_over() == []


def test_other_files_are_no_requests(run: RunDir) -> None:
    """Drafts, folders, dangling links and strangers are left alone."""
    (run.control / ".0001.json").write_text(json.dumps(GOOD))
    (run.control / "0002.txt").write_text(json.dumps(GOOD))
    (run.control / "0003.json").mkdir()
    (run.control / "0004.json").symlink_to("nowhere")
    assert Inbox(run, taken=()).poll() == []


def test_a_reason_that_is_no_text_can_be_written_down(run: RunDir) -> None:
    """Bytes that a terminal passed on undecoded cost the orchestrator nothing but a mark."""
    send_request(run, "hold", by="ops", reason="caf\udce9")
    (request,) = Inbox(run, taken=()).poll()
    assert request.reason == "caf?"
    journal = Journal(run.journal, durable=False)
    journal.append(request)
    journal.close()
