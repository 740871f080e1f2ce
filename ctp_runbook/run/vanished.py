"""What is taken away from a run's folder while the run is under way: put back, and told.

Nothing that serves only the record stops what restores trading. Before the first stop it is different:
there nothing is lost by ending the run, and a run whose record was taken away is not begun.
"""

from __future__ import annotations

from collections.abc import Callable

from ctp_runbook.errors import JournalError
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.world import HERE, World

__all__ = ["FolderWatch"]

# What cannot be put back is not tried ten times a second: it may be a long journal.
_AGAIN_SECONDS = 2.0


class FolderWatch:
    """The orchestrator's eye on its run's folder. ``lack`` is what was first lost of the record, in
    words, and stays so: what a room held does not come back with it."""

    def __init__(self, run: RunDir, journal: Journal, *, world: World = HERE) -> None:
        self._run, self._journal, self._clock = run, journal, world.clock
        self._next_look = 0.0
        self._told: set[str] = set()
        self.lack = ""

    def look(self, tell: Callable[[str], None], *, at_once: bool = False) -> None:
        """See what vanished, put it back, and ``tell`` each such thing; once what cannot be put back."""
        if self._clock.mono() < self._next_look and not at_once:
            return
        sentences = self._put_rooms_back()
        try:
            # After its folder: what is told of both is told in this order.
            if what := self._journal.put_back():
                sentences.append(
                    f"{self._run.journal} {what}: it was written again from the file that the run "
                    "has open"
                )
        except JournalError as error:
            sentences += self._once(str(error))
        if sentences and not self.lack:
            self.lack = next(filter(self._is_of_record, sentences), "")
        for sentence in sentences:
            tell(sentence)

    def _put_rooms_back(self) -> list[str]:
        gone, sentences = [], []
        for path, error in self._run.make_again():
            if error is None:
                gone.append(path)
            else:
                why = error.strerror or str(error)
                sentences += self._once(
                    f"{path} is gone or takes nothing, and cannot be made again ({why}): what "
                    "belongs there is not written"
                )
        # Of a whole folder its rooms are not told one by one.
        tops = [path for path in gone if path.parent not in gone]
        sentences += [
            f"{path} was removed while the run is under way: it was made again, and what it held is "
            "lost"
            for path in tops
        ]
        return sentences

    def _once(self, sentence: str) -> list[str]:
        self._next_look = self._clock.mono() + _AGAIN_SECONDS
        is_new = sentence not in self._told
        self._told.add(sentence)
        return [sentence] if is_new else []

    def _is_of_record(self, sentence: str) -> bool:
        """False for the rooms that hold nothing of it: requests in flight, and what viewers write."""
        spare = (self._run.control, self._run.notebooks)
        return not any(sentence.startswith(f"{path} ") for path in spare)
