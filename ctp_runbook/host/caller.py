"""Who calls, and from where: the user, the host, the folder, the environment, the code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ctp_runbook.host import checkout

__all__ = ["changed_since", "commit_of", "environ", "folder", "host_name", "token", "user_name"]

changed_since = checkout.changed_since
commit_of = checkout.commit_of

# Beside the interpreter, as every installer puts it: the name by which it was called may be a link.
_OWN = Path(sys.executable).parent / "ctp-runbook"


def user_name() -> str:
    """Return the user's name, or the number of one that has no name here."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def host_name() -> str:
    """Return what the host calls itself (uname(2))."""
    return os.uname().nodename


def folder() -> Path:
    """Return the working directory, absolute."""
    return Path.cwd()


def environ() -> Mapping[str, str]:
    """Return the environment as it is now, a copy, in which ``ctp-runbook`` is the one that runs."""
    return {**os.environ, "PATH": _path_with(_OWN, os.environ.get("PATH", os.defpath))}


def _path_with(own: Path, path: str) -> str:
    """``PATH`` with what finds ``own`` by its name: a command of a template begins with it.

    Last where nothing else has that name: the virtual environment has a python too, which is not the
    one that other commands mean. First where an installation of another version is found.
    """
    if not own.is_file():
        return path  # run as a module, from a source tree
    for place in path.split(os.pathsep):
        executable = Path(place, own.name)
        if os.access(executable, os.X_OK):
            return path if executable.samefile(own) else os.pathsep.join((str(own.parent), path))
    return os.pathsep.join(filter(None, (path, str(own.parent))))


def token() -> str:
    """Return four random hexadecimal digits, which tell two things of one instant apart."""
    return os.urandom(2).hex()
