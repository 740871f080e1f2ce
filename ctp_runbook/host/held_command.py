"""A command that is held until it is released, waited for, and ended with all it started."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.host.process import GroupEnd, boot_id, end_group, identity_of
from ctp_runbook.model import Identity

__all__ = ["CommandEnd", "HeldCommand", "hold"]

# A held command blocks on this descriptor until it is released; if its starter dies first,
# the read meets end of file and nothing of the command has run.
_HOLD = 'read -r _ <&{fd} || exit 125; exec {fd}<&-; exec bash -c "$1"'


@dataclass(frozen=True)
class CommandEnd:
    """How waiting for a command ended. ``exit_code`` is None unless the shell exited itself.

    A shell ended by a signal has the exit code 128 + signal, as in bash.
    """

    exit_code: int | None
    timed_out: bool = False
    interrupted: str = ""


class HeldCommand:
    """A bash command in a session of its own that runs nothing before ``release``.

    Holding it gives the caller time to write down who it is *before* it acts; when the caller
    dies in between, the command ends with nothing done. Output goes to ``output`` (a file), so
    that a child which keeps stdout open keeps nobody waiting.

    Parameters: ``command`` is run by ``bash -c`` in ``cwd`` with exactly ``env``.
    """

    def __init__(self, command: str, *, cwd: Path, env: Mapping[str, str], output: Path) -> None:
        gate_read, self._gate_write = os.pipe()
        try:
            with output.open("ab") as sink:
                self._child = subprocess.Popen(
                    # -p: no BASH_ENV and no inherited function runs before the hold
                    ["bash", "-p", "-c", _HOLD.format(fd=gate_read), "step", command],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    pass_fds=(gate_read,),
                    start_new_session=True,
                )
            self._pidfd = os.pidfd_open(self._child.pid)
        except BaseException:
            # Where the command is there already, with this it ends and has run nothing.
            os.close(self._gate_write)
            raise
        finally:
            os.close(gate_read)
        pid = self._child.pid
        self.identity = identity_of(pid) or Identity(pid, 0, boot_id())

    @property
    def pgid(self) -> int:
        """The process group, which is the shell's own pid."""
        return self.identity.pid

    def release(self) -> None:
        """Let the command run."""
        with contextlib.suppress(BrokenPipeError):  # killed while held: wait() tells
            os.write(self._gate_write, b"\n")
        os.close(self._gate_write)
        self._gate_write = -1

    def wait(self, *, deadline: float, interrupt: Callable[[], str]) -> CommandEnd:
        """Wait for the shell alone, until ``deadline`` (monotonic seconds) or an interrupt.

        ``interrupt`` is asked ten times a second; a sentence from it ends the wait.
        """
        while True:
            left = deadline - time.monotonic()
            if select.select([self._pidfd], [], [], min(0.1, max(0.0, left)))[0]:
                code = self._child.wait()
                return CommandEnd(exit_code=code if code >= 0 else 128 - code)
            if left <= 0:
                return CommandEnd(exit_code=None, timed_out=True)
            if reason := interrupt():
                return CommandEnd(exit_code=None, interrupted=reason)

    def end(
        self,
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> GroupEnd:
        """End the whole group, reap the shell, and say what is left (nothing, it is hoped)."""
        result = end_group(
            self.pgid, term_grace=term_grace, kill_grace=kill_grace, meanwhile=meanwhile
        )
        self._child.poll()
        return result

    def close(self) -> None:
        """Give the descriptors back; a command never released ends without running."""
        if self._gate_write >= 0:
            os.close(self._gate_write)
            self._gate_write = -1
            self._child.wait()
        os.close(self._pidfd)


# By this name the seam knows it.
hold = HeldCommand
