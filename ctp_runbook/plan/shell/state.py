"""What is known of a shell, and of where a command stands in it, as its reading goes on."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from ctp_runbook.plan.shell.files import joined
from ctp_runbook.plan.shell.syntax import Word

__all__ = ["At", "Shell"]

# More folders that a shell may be in than anybody writes.
_MOST_PLACES = 16


class Shell(Struct):
    """What is known of a shell where its reading has come to.

    ``places``: it is in the first of them that is there, if all went well so far; None where nobody
    can tell. ``is_there``: it surely is. ``goes_on``: nothing before may have ended it; ``has_ended``:
    something surely has. ``is_strict``: what fails ends it. ``sets_path``: another PATH was set in it.
    ``files`` are the names of files that were written; ``knows_files``: none but these were.
    """

    places: tuple[str, ...] | None = ("",)
    is_there: bool = True
    is_strict: bool = False
    knows_path: bool = True
    sets_path: bool = False
    knows_files: bool = True
    files: frozenset[str] = frozenset()
    goes_on: bool = True
    has_ended: bool = False
    is_foreign: bool = False

    def child(self) -> Shell:
        """A process of its own, that begins with what this one has."""
        return replace(self, goes_on=True, has_ended=False)

    def absorb(self, child: Shell) -> None:
        """Files are what a child leaves behind."""
        self.knows_files &= child.knows_files
        self.files |= child.files

    def move(self, word: Word | None) -> None:
        """Change the folder; None where only bash knows where that leads."""
        if word is None or word.is_live or word.text[:1] in ("", "-", "+"):
            self.places = None
        elif word.text.startswith("/"):
            self.places = (word.text,) * len(self.places or ("",))
        elif self.places is not None:
            # Through a link, bash and the system disagree about what is above.
            is_upward = ".." in word.text.split("/")
            is_lost = is_upward and any(self.places)
            self.places = None if is_lost else tuple(joined(p, word.text) for p in self.places)

    def may_stay(self, trail: list[tuple[str, ...] | None]) -> None:
        """Where a ``cd`` fails and nobody minds, the shell is where it was before."""
        places = [
            each
            for steps in zip(*reversed(list(filter(None, trail))), strict=True)
            for each in steps
        ]
        fits = None not in trail and len(places) <= _MOST_PLACES
        self.places = tuple(dict.fromkeys(places)) if fits else None


class At(Struct, frozen=True):
    """Where a command stands. ``sure``: it is reached; ``here``: reached where its list is begun.

    ``decides``: where it fails the whole fails. ``is_told``: its programs are named.
    """

    sure: bool = True
    here: bool = True
    decides: bool = True
    is_told: bool = True
    in_bash: bool = True

    def inside(self, *, decides: bool = True) -> At:
        """What a list begins with that stands there."""
        return replace(self, here=True, decides=self.decides and decides, in_bash=True)
