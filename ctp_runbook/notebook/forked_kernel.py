"""The owner's side of ``fork_server``: start it, have kernels forked, end it with all of them.

Cheap to import: a runner starts the server before it imports anything heavy, and both import at
the same time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.notebook.fork_server import MAX_ORDER_BYTES

__all__ = ["ForkServer", "ForkServerLost", "ForkedKernel", "fork_server"]

_START = (
    "import sys; sys.path.append({root!r}); "
    "from ctp_runbook.notebook.fork_server import main; main({fd}, {scratch!r})"
)
_END_SECONDS = 5.0
_MAX_FACT_BYTES = 4096
# Threads that numpy (BLAS) would start on import: a fork copies what they hold, and not them.
_NO_THREADS = {"OPENBLAS_NUM_THREADS": "1"}


class ForkServerLost(OSError):
    """The fork server could not be started, or is gone; kernels start in the ordinary way."""


class ForkedKernel:
    """A kernel that is not our child, with as much of Popen's face as LocalProvisioner looks at."""

    stdin = stdout = stderr = None

    def __init__(self, status: socket.socket) -> None:
        """Wait until the kernel exists. ``status`` is where the fork server reports: ours now."""
        self._status = status.detach()
        self.returncode: int | None = None
        first = self._next_fact(timeout=None) or {}
        if "pid" not in first:
            self._close()
            raise ForkServerLost("the fork server ended before it forked the kernel")
        self.pid: int = first["pid"]

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal), or None while it runs."""
        return self._poll(timeout=0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired like Popen."""
        code = self._poll(timeout=timeout)
        if code is None:
            raise subprocess.TimeoutExpired("kernel", timeout or 0.0)
        return code

    def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group, as long as it is there."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def _poll(self, *, timeout: float | None) -> int | None:
        if self.returncode is None:
            fact = self._next_fact(timeout=timeout)
            if fact is not None:
                # Without a report the server is gone, and its kernels went with it.
                self.returncode = fact.get("returncode", -signal.SIGKILL)
                self._close()
        return self.returncode

    def _next_fact(self, *, timeout: float | None) -> dict[str, int] | None:
        """The next report; ``{}`` when none will come; None when none came in time."""
        if not select.select([self._status], [], [], timeout)[0]:
            return None
        fact: dict[str, int] = json.loads(os.read(self._status, _MAX_FACT_BYTES) or b"{}")
        return fact

    def _close(self) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def __del__(self) -> None:
        # A descriptor, not a socket: that would complain if it were collected before this.
        self._close()


class ForkServer:
    """Owner's side of ``fork_server``: starts it, orders kernels, ends it with all of them."""

    def __init__(self) -> None:
        """Start the server; it imports while the caller goes on."""
        self.scratch = Path(tempfile.mkdtemp(prefix="ctp-kernels-"))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = _START.format(root=str(CHECKOUT), fd=theirs.fileno(), scratch=str(self.scratch))
        with theirs:
            # A session of its own: Ctrl-C in the terminal is for the runner to handle.
            self._process = subprocess.Popen(
                # debugpy, which ipykernel imports, warns on stderr about frozen modules.
                [sys.executable, "-P", "-Xfrozen_modules=off", "-c", code],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **_NO_THREADS},
            )

    @property
    def pid(self) -> int:
        """The server's pid."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Return False once the server has ended."""
        return self._process.poll() is None

    def has_ended(self, *, seconds: float) -> bool:
        """Return whether the server ends within ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        return not self.is_alive

    def fork(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, task: str = ""
    ) -> ForkedKernel:
        """Have a kernel forked, or what does a task; returns when it exists. Raises ForkServerLost."""
        fields = {"argv": list(argv), "env": dict(env), "cwd": cwd, "task": task}
        order = json.dumps(fields).encode()
        if len(order) > MAX_ORDER_BYTES:
            raise ForkServerLost(f"order of {len(order)} bytes > {MAX_ORDER_BYTES} bytes")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [order], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ForkServerLost(f"the fork server does not take orders: {error}") from error
        return ForkedKernel(ours)

    def close(self, *, keeps_scratch: bool = False) -> None:
        """End the server and every kernel it forked, and wait until they are gone."""
        self._control.close()
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            # Its kernels go with it (PR_SET_PDEATHSIG).
            self._process.kill()
            self._process.wait()
        if not keeps_scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


_shared: ForkServer | None = None
_shared_lock = threading.Lock()


def fork_server() -> ForkServer:
    """This process's fork server, started when there is none; raises ForkServerLost."""
    global _shared
    with _shared_lock:
        if _shared is not None and not _shared.is_alive:
            # A kernel that is starting has its connection file there; at exit it goes.
            _shared.close(keeps_scratch=True)
            _shared = None
        if _shared is None:
            try:
                _shared = ForkServer()
            except OSError as error:
                raise ForkServerLost(f"cannot start the fork server: {error}") from error
            atexit.register(_shared.close)
        return _shared
