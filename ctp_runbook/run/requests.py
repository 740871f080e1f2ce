"""Requests to a running orchestrator: one small file each, left in ``control/``.

Files outlive both sides: a request made while the orchestrator is being restarted is found by
the next one. What was taken is in the journal, under the file's name.

What a run is started with (a go, or the rollback it is for) is no such file: it is handed to the
orchestrator by those who start it, so that nothing on disk can start or arm a run. A go that comes
as a file is for one start alone, which it names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from ctp_runbook.errors import RunRefused
from ctp_runbook.model import State
from ctp_runbook.record.history import WITH_START, History
from ctp_runbook.record.journal import Record, utc_text
from ctp_runbook.record.rundir import RunDir, write_atomic

__all__ = [
    "REQUESTS",
    "STOPS",
    "Answer",
    "Asked",
    "Inbox",
    "Request",
    "answer_to",
    "send_request",
]

STOPS = ("abort", "rollback")
REQUESTS = ("go", "abort", "hold", "resume", "rollback")
_NO_START = -1


@dataclass(frozen=True)
class Request:
    """What somebody asked for, who, and why.

    ``start`` is the number of the ``orchestrator_started`` record that the asker saw last.
    """

    request: str
    by: str
    reason: str
    requested_utc: str
    file: str
    start: int = _NO_START

    @property
    def sentence(self) -> str:
        """``rollback asked for by ops: spreads look wrong``."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.request} asked for by {self.by}{why}"


@dataclass(frozen=True)
class Asked:
    """What a run is started for: the go, or the rollback, of whoever starts it."""

    request: str
    by: str
    reason: str
    requested_utc: str = field(default_factory=utc_text)

    @property
    def text(self) -> str:
        """As it is handed from process to process."""
        return json.dumps(vars(self))

    @classmethod
    def of(cls, text: str) -> Asked | None:
        """What ``text`` says; None for an empty one."""
        return cls(**json.loads(text)) if text else None

    def request_to(self, history: History) -> Request | None:
        """The request to a start that was just recorded; None where it was taken in before."""
        if history.conducted is None or any(map(_came_with_start, history.records)):
            return None
        texts = {key: value.encode(errors="replace").decode() for key, value in vars(self).items()}
        return Request(**texts, file=WITH_START, start=history.conducted.seq)


def _came_with_start(record: Record) -> bool:
    return record.kind == "control" and record.payload.get("file") == WITH_START


@dataclass(frozen=True)
class Answer:
    """What the orchestrator says to a request: whether it obeys, and what happens now."""

    obeyed: bool
    sentence: str


def answer_to(request: str, history: History, *, start: int | None = None) -> Answer:
    """What a request comes to where the run stands; ``history`` is that of before it. Pure.

    ``start`` is the start that a go names.
    """
    state = history.state
    if state is State.ROLLING_BACK:
        return _while_rolling_back(request, history)
    if request in STOPS:
        return _to_a_stop(history)
    if request == "go":
        if not state.is_before_switch:
            return Answer(False, "the switch was begun already")
        if history.conducted is None or start != history.conducted.seq:
            return Answer(
                False,
                "the go was not given to this start of the run, and starts nothing: look at the "
                "run as it stands now, and confirm the switch in 04_switch",
            )
        waits = "once nobody holds it and " if history.held else "as soon as "
        return Answer(True, f"the switch begins {waits}every gate passed")
    if request == "hold":
        return _to_a_hold(state, history)
    if state is not State.HOLDING and history.held is None:
        return Answer(False, f"nothing is held; the run is {state.value}")
    then = "the watch goes on" if state is State.HOLDING else "nothing is held any more"
    return Answer(True, then)


def _while_rolling_back(request: str, history: History) -> Answer:
    begun = history.rollback_started
    budget = f" of {begun.payload['budget_seconds']:g} s" if begun else ""
    if request == "rollback":
        return Answer(True, f"the rollback is under way, within its budget{budget}")
    return Answer(
        False,
        f"the rollback is under way and is not stopped half way: it ends by itself within its "
        f"budget{budget}, with the previous stack trading or saying what runs",
    )


def _to_a_stop(history: History) -> Answer:
    state = history.state
    if history.parent is not None:
        return Answer(True, "the rollback begins")
    if state.is_before_switch:
        return Answer(True, "the run ends now; the old stack is not touched")
    if state is State.SWITCHING:
        return Answer(True, "the step under way is ended, and the switch is undone")
    return Answer(True, "the rollback begins")


def _to_a_hold(state: State, history: History) -> Answer:
    if state is State.HOLDING:
        return Answer(True, "it holds already, and no recovery ends that now: resume or rollback")
    if state is State.WATCHING:
        return Answer(True, "the watch holds until resume, rollback, or expiry")
    if state is State.SWITCHING:
        return Answer(
            True,
            "the switch is not stopped half way, for nothing trades meanwhile; the watch begins "
            "HOLDING. To undo it now: abort",
        )
    return Answer(True, "the gates go on, but the switch does not begin before a resume")


def send_request(
    run: RunDir, request: str, *, by: str, reason: str = "", start: int = _NO_START
) -> str:
    """Leave a request for the run's orchestrator; its name. Raises RunRefused for an unknown one.

    A go that names no ``start`` is for none.
    """
    if request not in REQUESTS:
        raise RunRefused(f"request {request!r}: expected one of {', '.join(REQUESTS)}")
    name = f"{time.time_ns():020d}-{os.getpid()}-{request}.json"
    body: dict[str, str | int] = {"request": request, "by": by, "reason": reason}
    body |= {"requested_utc": utc_text(), "start": start}
    write_atomic(run.control / name, json.dumps(body).encode())
    return name


class Inbox:
    """The orchestrator's side: each request once, in the order made."""

    def __init__(self, run: RunDir, *, taken: Iterable[Record]) -> None:
        self._run = run
        self._taken = {str(r.payload.get("file")) for r in taken if r.kind == "control"}

    def poll(self) -> list[Request]:
        """Requests that came since the last look; a file that is not one is passed over."""
        found = []
        for name in sorted(os.listdir(self._run.control)):
            if name in self._taken or not name.endswith(".json") or name.startswith("."):
                continue
            self._taken.add(name)
            try:
                raw = json.loads((self._run.control / name).read_bytes())
                start = int(raw.pop("start", _NO_START))
                # What no UTF-8 can say would never get into the journal.
                texts = {k: str(v).encode(errors="replace").decode() for k, v in raw.items()}
                request = Request(**texts, file=name, start=start)
            except (OSError, ValueError, TypeError, AttributeError, RecursionError):
                continue
            if request.request in REQUESTS:
                found.append(request)
        return found
