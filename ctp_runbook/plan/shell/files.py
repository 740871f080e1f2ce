"""Where bash would find an executable, and whether it surely finds none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

__all__ = ["Executable", "is_missing", "joined", "name_of", "resolve"]

# Where bash looks when nobody has set PATH.
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Executable(Struct, frozen=True):
    """A word that bash would look up and run, or a script an interpreter is given.

    ``folder`` is where a ``cd`` before it leads, relative to where the command starts; where there
    is no such folder and nobody minds, the shell stays in the first of ``otherwise`` that is there.
    ``is_foreign``: somebody else runs it, who may see what this user does not.
    """

    word: str
    folder: str = ""
    is_script: bool = False
    is_foreign: bool = False
    otherwise: tuple[str, ...] = ()


def is_missing(executable: Executable, *, base: Path, environ: Mapping[str, str]) -> bool:
    """Return True where it is certain that whoever runs the command finds no such program."""
    if resolve(executable, base=base, environ=environ) is not None:
        return False
    if "/" not in executable.word and _is_shadowed(executable.word, environ):
        return False
    if not executable.is_foreign:
        return True
    try:
        Path(joined(joined(str(base), executable.folder), executable.word)).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # hidden from this user alone
        return False
    return False


def _is_shadowed(word: str, environ: Mapping[str, str]) -> bool:
    """True where a function of the environment, or a file bash reads first, may stand for it."""
    return bool(environ.get("BASH_ENV")) or f"BASH_FUNC_{word}%%" in environ


def resolve(executable: Executable, *, base: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the file bash would run, or None where there is none.

    A script need not be executable: its interpreter only reads it.
    """
    return next(_found(executable, base, environ), None)


def _found(executable: Executable, base: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    # Strings, not Paths: this looks at some hundred places before a dry run may begin.
    places = [joined(str(base), each) for each in (executable.folder, *executable.otherwise)]
    folder = places[0]
    if executable.otherwise:
        folder = next((place for place in places if _is_folder(place)), folder)
    places = [folder]
    if "/" not in executable.word:
        path = environ.get("PATH", _USUAL_PATH)
        on_path = [joined(folder, place) for place in path.split(os.pathsep)]
        # bash looks for a script here, then there.
        places = [folder, *on_path] if executable.is_script else on_path
    wanted = os.R_OK if executable.is_script else os.X_OK
    for place in places:
        candidate = joined(place, executable.word)
        if _is_runnable(candidate, wanted):
            yield Path(candidate)


def joined(folder: str, name: str) -> str:
    """Return the path of ``name`` as seen from ``folder``."""
    return name if name.startswith("/") or not folder else f"{folder}/{name}"


def name_of(word: str) -> str:
    """Return the last part of a path."""
    return word.rpartition("/")[2]


def _is_folder(path: str) -> bool:
    try:
        return os.access(path, os.X_OK) and Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _is_runnable(path: str, wanted: int) -> bool:
    try:
        return os.access(path, wanted) and Path(path).is_file()
    except (OSError, ValueError):  # not a path at all
        return False
