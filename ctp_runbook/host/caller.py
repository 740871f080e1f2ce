"""Who calls, and from where: the user, the host, the folder, the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["environ", "folder", "host_name", "token", "user_name"]


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
    """Return the environment as it is now, a copy."""
    return dict(os.environ)


def token() -> str:
    """Return four random hexadecimal digits, which tell two things of one instant apart."""
    return os.urandom(2).hex()
