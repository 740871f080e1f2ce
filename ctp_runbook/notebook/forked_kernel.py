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
import time
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
# Threads that numpy (BLAS) and pandas (pyarrow's allocator) would start on import: a fork copies
# what they hold, and not them.
_NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


class ForkServerLost(OSError):
    """The fork server could not be started, or is gone; kernels start in the ordinary way."""


class ForkedKernel:
    """A kernel that is not our child, with as much of Popen's face as LocalProvisioner looks at."""

    stdin = stdout = stderr = None

    def __init__(self, status: int) -> None:
        """Wait until the kernel exists. ``status`` is the pipe the fork server reports on."""
        self._status = status
        self._unread = b""
        self.returncode: int | None = None
        first = self._next_fact(timeout=None)
        if first is None or "pid" not in first:
            self._close()
            raise ForkServerLost("the fork server ended before it forked the kernel")
        self.pid: int = first["pid"]

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
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

    def terminate(self) -> None:
        """SIGTERM to the group."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group."""
        self.send_signal(signal.SIGKILL)

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
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._unread:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                return None
            chunk = os.read(self._status, 4096)
            if not chunk:
                return {}
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        fact: dict[str, int] = json.loads(line)
        return fact

    def _close(self) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def __del__(self) -> None:
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
        """False once the server has ended."""
        return self._process.poll() is None

    def fork(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str) -> ForkedKernel:
        """Have a kernel forked; returns when it exists. Raises ForkServerLost."""
        order = json.dumps({"argv": list(argv), "env": dict(env), "cwd": cwd}).encode()
        if len(order) > MAX_ORDER_BYTES:
            raise ForkServerLost(f"order of {len(order)} bytes > {MAX_ORDER_BYTES} bytes")
        ours, theirs = os.pipe()
        try:
            socket.send_fds(self._control, [order], [theirs])
        except OSError as error:
            os.close(ours)
            raise ForkServerLost(f"the fork server does not take orders: {error}") from error
        finally:
            os.close(theirs)
        return ForkedKernel(ours)

    def close(self) -> None:
        """End the server and every kernel it forked, and wait until they are gone."""
        self._control.close()
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            # Its kernels go with it (PR_SET_PDEATHSIG).
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


_shared: ForkServer | None = None
_shared_lock = threading.Lock()


def fork_server() -> ForkServer:
    """This process's fork server, started when there is none; raises ForkServerLost."""
    global _shared
    with _shared_lock:
        if _shared is not None and not _shared.is_alive:
            _shared.close()
            _shared = None
        if _shared is None:
            try:
                _shared = ForkServer()
            except OSError as error:
                raise ForkServerLost(f"cannot start the fork server: {error}") from error
            atexit.register(_shared.close)
        return _shared
