"""Requests to a running orchestrator: one small file each, left in ``control/``.

Files outlive both sides: a request made while the orchestrator is being restarted is found by
the next one. What was taken is in the journal, under the file's name.

What a run is started with (a go, or the rollback it is for) is no such file: it is handed to the
orchestrator by those who start it, so that nothing on disk can start or arm a run. A go that comes
as a file is for one start alone, which it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from msgspec import Struct, structs

from ctp_runbook.decoding import convert
from ctp_runbook.errors import RunRefused
from ctp_runbook.model import State
from ctp_runbook.record.history import WITH_START, History
from ctp_runbook.record.journal import Record, utc_text
from ctp_runbook.record.kinds import RequestName, RequestTaken
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.world import HERE, World

__all__ = [
    "REQUESTS",
    "STOPS",
    "Answer",
    "Asked",
    "Inbox",
    "answer_to",
    "send_request",
]

STOPS = ("abort", "rollback")
REQUESTS: tuple[RequestName, ...] = get_args(RequestName)
_NO_START = -1
_LONGEST_WHY = 200


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asks of a run, as it goes from process to process: who, and why.

    ``start`` is the number of the ``orchestrator_started`` record that the asker saw last.
    """

    request: RequestName
    by: str
    reason: str
    requested_utc: str
    start: int = _NO_START

    @classmethod
    def now(
        cls,
        request: RequestName,
        *,
        by: str,
        reason: str,
        start: int = _NO_START,
        world: World = HERE,
    ) -> Asked:
        """What is asked at this moment."""
        return cls(request, by, reason, utc_text(world.clock.wall()), start)

    @classmethod
    def of(cls, text: str | bytes) -> Asked:
        """What ``text`` says. Raises ValueError, RecursionError for anything else."""
        return convert(json.loads(text), cls, strict=False)

    @property
    def text(self) -> str:
        """As it is handed on; JSON says in plain letters what a terminal passed on undecoded."""
        return json.dumps(structs.asdict(self))

    def taken(self, *, file: str, start: int) -> RequestTaken:
        """What the journal says of it, without what no UTF-8 can say."""
        by, reason, requested_utc = (
            text.encode(errors="replace").decode()
            for text in (self.by, self.reason, self.requested_utc)
        )
        return RequestTaken(
            request=self.request,
            by=by,
            reason=reason,
            requested_utc=requested_utc,
            file=file,
            start=start,
        )

    def taken_with_start(self, history: History) -> RequestTaken | None:
        """The request to a start that was just recorded; None where it was taken in before."""
        # Handed to every orchestrator of the run, for the first may die before it writes it down.
        known = any(taken.payload.file == WITH_START for taken in history.of_kind(RequestTaken))
        if history.conducted is None or known:
            return None
        return self.taken(file=WITH_START, start=history.conducted.seq)


@dataclass(frozen=True)
class Answer:
    """What the orchestrator says to a request: whether it obeys, and what happens now."""

    obeyed: bool
    sentence: str


def answer_to(request: str, history: History, *, start: int | None = None) -> Answer:
    """What a request comes to where the run stands; ``history`` is that of before it. Pure.

    ``start`` is the start that a go names.
    """
    if history.state is State.ROLLING_BACK:
        return _while_rolling_back(request, history)
    if history.parent is not None and request not in STOPS:
        # A run that undoes a COMPLETED one has no gates, no switch and no watch to speak of.
        return _while_rolling_back(request, history)
    if request in STOPS:
        if history.parent is not None:
            return Answer(True, _ROLLBACK_BEGINS)
        return Answer(True, _TO_A_STOP.get(history.state, _ROLLBACK_BEGINS))
    if request == "go":
        return _to_a_go(history, start)
    if request == "hold":
        return Answer(True, _TO_A_HOLD.get(history.state, _HELD_BEFORE_SWITCH))
    if history.state is State.HOLDING:
        return Answer(True, "the watch goes on")
    if history.held is None:
        return Answer(False, f"nothing is held; the run is {history.state.value}")
    return Answer(True, "nothing is held any more")


_ROLLBACK_BEGINS = "the rollback begins"
_UNTOUCHED = "the run ends now; the old stack is not touched"
_TO_A_STOP = {
    State.PLANNED: _UNTOUCHED,
    State.GATING: _UNTOUCHED,
    State.READY: _UNTOUCHED,
    State.SWITCHING: "the step under way is ended, and the switch is undone",
}
_HELD_BEFORE_SWITCH = "the gates go on, but the switch does not begin before a resume"
_TO_A_HOLD = {
    State.HOLDING: "it holds already, and no recovery ends that now: resume or rollback",
    State.WATCHING: "the watch holds until resume, rollback, or expiry",
    State.SWITCHING: "the switch is not stopped half way, for nothing trades meanwhile; the watch "
    "begins HOLDING. To undo it now: abort",
}


def _to_a_go(history: History, start: int | None) -> Answer:
    if not history.state.is_before_switch:
        return Answer(False, "the switch was begun already")
    # Between the look of whoever said go and now the orchestrator may have died and come back, with
    # the gates to be passed again: what was confirmed is not what stands there.
    if history.conducted is None or start != history.conducted.seq:
        return Answer(
            False,
            "the go was not given to this start of the run, and starts nothing: look at the run as "
            "it stands now, and confirm the switch in 04_switch",
        )
    waits = "once nobody holds it and " if history.held else "as soon as "
    return Answer(True, f"the switch begins {waits}every gate passed")


def _while_rolling_back(request: str, history: History) -> Answer:
    begun = history.rollback_started
    budget = f" of {begun.payload.budget_seconds:g} s" if begun else ""
    if request == "rollback":
        return Answer(True, f"the rollback is under way, within its budget{budget}")
    # Half a rollback trades nothing: the new generation is gone and the old one not yet back.
    return Answer(
        False,
        f"the rollback is under way and is not stopped half way: it ends by itself within its "
        f"budget{budget}, with the previous stack trading or saying what runs",
    )


def send_request(
    run: RunDir,
    request: str,
    *,
    by: str,
    reason: str = "",
    start: int = _NO_START,
    world: World = HERE,
) -> str:
    """Leave a request for the run's orchestrator; its name. Raises RunRefused for an unknown one.

    A go that names no ``start`` is for none.
    """
    if request not in REQUESTS:
        raise RunRefused(f"request {request!r}: expected one of {', '.join(REQUESTS)}")
    asked = Asked.now(request, by=by, reason=reason, start=start, world=world)
    # Sorted by name, requests are in the order made, whoever made them.
    name = (
        f"{int(world.clock.wall() * 1e9):020d}-{world.processes.own_identity().pid}-{request}.json"
    )
    world.mailbox(run.control).put(name, asked.text.encode())
    return name


class Inbox:
    """The orchestrator's side: each request once, in the order made."""

    def __init__(self, run: RunDir, *, taken: Iterable[Record], world: World = HERE) -> None:
        self._letters = world.mailbox(run.control)
        self._passed_over: list[str] = []
        self._is_lost = False
        payloads = (record.payload for record in taken)
        self._taken = {each.file for each in payloads if isinstance(each, RequestTaken)}

    def poll(self) -> list[RequestTaken]:
        """Requests that came since the last look; a file that is not one is passed over."""
        requests = []
        for name in self._names():
            if name in self._taken or not name.endswith(".json"):
                continue
            self._taken.add(name)
            # Anybody can leave a file here: rubbish neither ends the orchestrator nor hides the
            # abort that comes after it.
            try:
                asked = Asked.of(self._letters.read(name))
            except (OSError, ValueError, RecursionError) as error:
                self._passed_over.append(_no_request(name, error))
                continue
            requests.append(asked.taken(file=name, start=asked.start))
        return requests

    def passed_over(self) -> list[str]:
        """What was found and is no request, since this was last asked: a sentence each."""
        sentences, self._passed_over = self._passed_over, []
        return sentences

    def _names(self) -> list[str]:
        # Whoever takes the folder away takes the requests away, and not the run: between the stops
        # it must go on to its end all the same.
        try:
            names = self._letters.names()
        except OSError as error:
            if not self._is_lost:
                self._passed_over.append(
                    f"control/ cannot be read: {error.strerror}; no request reaches this run until "
                    "it can: make it again, owned by who runs this"
                )
            self._is_lost = True
            return []
        self._is_lost = False
        return names

    def discard(self, request: RequestTaken) -> None:
        """Take away the letter of a request that was answered and counts for nothing."""
        self._letters.remove(request.file)

    def wait(self) -> None:
        """Return when a request may have come, a moment later at the latest."""
        self._letters.wait()


def _no_request(name: str, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else str(error)
    # What a stranger wrote may be as long as a letter; cut, it could show half a secret.
    words = why if why and len(why) <= _LONGEST_WHY else type(error).__name__
    return (
        f"control/{name} is no request and was passed over: {words}; ask with `ctp-runbook hold`, "
        "`resume`, `abort` or `rollback`"
    )
