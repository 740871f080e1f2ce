"""The process kernels are forked from: imports once, forks at once, outlives nobody.

``forked_kernel`` starts it with one end of a socket pair. Each message there is one order for
a kernel: JSON ``{"argv", "env", "cwd", "task"}`` with a socket of its own. There the server answers
``{"pid": N}`` when the kernel exists and ``{"returncode": N}`` when it is gone, each as one message;
the socket is closed then. End of file on the socket means that the owner is gone, however it went: the server
ends every kernel with its process group and itself.

It stays single-threaded, so that a fork copies no held lock, and creates no ZeroMQ context.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook._late import standing_in

__all__ = ["MAX_ORDER_BYTES", "NO_URI_GRAMMAR", "PICTURES", "PRELOAD", "Order", "main", "serve"]

MAX_ORDER_BYTES = 200_000
# In the order in which the runbook's notebooks need them. The first kernel waits for as many as it
# would import itself, at the same time as the server.
_FIRST = 7
PRELOAD = (
    "ipykernel.kernelapp",
    # What ipykernel imports only when it starts.
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "ipykernel.debugger",
    "ctp_runbook.phases",
    "psutil",
    "sqlite3",
    "ctp_runbook.run.launch",
    "ctp_runbook.plan.plan",
    "ctp_runbook.show.watch_figure",
    "ctp_runbook.show.step_figures",
    "ctp_runbook.verify.run",
)
# Of pictures, which no kernel of a dry run draws: loaded when nobody has ordered anything for so long.
PICTURES = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.dates",
)
_IDLE_SECONDS = 3.0
# jsonschema checks URI formats by a grammar that takes 1 s to compile, where there is one, and does
# without otherwise; notebooks are checked by fastjsonschema.
NO_URI_GRAMMAR = {"rfc3987_syntax": None}
# Nobody steps through a notebook that runs by itself: ipykernel does without a debugger too.
_LEFT_OUT = {"debugpy": None, **NO_URI_GRAMMAR}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Order:
    """What a kernel is started with: arguments of ipykernel, whole environment, directory.

    With a ``task``, ``module:function``, it is no kernel: the function is called with the arguments,
    by a process that has all loaded.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    task: str = ""


class _Kernels:
    """The kernels alive, each known by its pidfd, with the socket that its end is reported on."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._alive: dict[int, tuple[int, socket.socket]] = {}

    def add(self, pid: int, status: socket.socket) -> None:
        """Watch ``pid`` and report it on ``status``."""
        pidfd = os.pidfd_open(pid)
        self._alive[pidfd] = (pid, status)
        self._selector.register(pidfd, selectors.EVENT_READ, self)
        _report(status, pid=pid)

    def reap(self, pidfd: int) -> None:
        """Take a dead kernel away: first what is left of its group, then itself.

        While it is a zombie nobody else can get its pid, so the group is still its own.
        """
        pid, status = self._alive.pop(pidfd)
        _kill(pid)
        _, wait_status = os.waitpid(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _report(status, returncode=os.waitstatus_to_exitcode(wait_status))
        status.close()

    def end(self) -> None:
        """KILL every kernel with its group and take it away."""
        for pidfd, (pid, _) in tuple(self._alive.items()):
            _kill(pid)
            self.reap(pidfd)

    def forget(self) -> None:
        """Close what belongs to the server; called in a fresh kernel."""
        for pidfd, (_, status) in self._alive.items():
            os.close(pidfd)
            status.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _report(status: socket.socket, **fact: int) -> None:
    # The owner may have closed its end: it does not want to know any more.
    with contextlib.suppress(ConnectionError):
        status.send(json.dumps(fact).encode())


def _receive(control: socket.socket) -> tuple[Order, socket.socket] | None:
    """The next order with its status pipe; None when the owner is gone."""
    message, fds, _, _ = socket.recv_fds(control, MAX_ORDER_BYTES, 1)
    if not message:
        return None
    return Order(**json.loads(message)), socket.socket(fileno=fds[0])


def _preload_one(names: list[str]) -> None:
    """Import the next of ``names``; one that is missing costs speed only."""
    with contextlib.suppress(ImportError):
        importlib.import_module(names.pop(0))
    if not names:
        gc.freeze()


def serve(
    control: socket.socket, *, preload: Sequence[str] = PRELOAD, later: Sequence[str] = PICTURES
) -> Order | None:
    """Serve orders until the owner is gone (None). In a fresh kernel it returns its Order."""
    names = [*preload, *later]
    for _ in preload[:_FIRST]:
        _preload_one(names)
    gc.freeze()
    with selectors.DefaultSelector() as selector, control:
        selector.register(control, selectors.EVENT_READ)
        kernels = _Kernels(selector)
        while True:
            soon = 0 if len(names) > len(later) else _IDLE_SECONDS
            events = selector.select(timeout=soon if names else None)
            if not events:
                _preload_one(names)
            for key, _ in events:
                if key.data is kernels:
                    kernels.reap(key.fd)
                    continue
                received = _receive(control)
                if received is None:
                    kernels.end()
                    return None
                order, status = received
                pid = _fork()
                if pid == 0:
                    kernels.forget()
                    status.close()
                    return order
                kernels.add(pid, status)


def _fork() -> int:
    """Fork: 0 in the kernel; its pid in the server, once it leads a process group to be killed by."""
    server = os.getpid()
    leads, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        _tie_to(server)
    # The kernel's end of the pipe closes when it is tied, or dead.
    os.close(says)
    if pid:
        os.read(leads, 1)
    os.close(leads)
    return pid


def _tie_to(server: int) -> None:
    """Make this process die with ``server``, also when that is killed with -9."""
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _carry_out(order: Order) -> None:
    """Run ipykernel with ``order`` until it is shut down, or do its task."""
    os.environ.clear()
    os.environ.update(order.env)
    os.chdir(order.cwd)
    if order.task:
        module, _, name = order.task.partition(":")
        getattr(importlib.import_module(module), name)(*order.argv)
        os._exit(0)  # all that was loaded goes with it, and is not taken apart
    # Looked up after the fork: the server itself needs none of it.
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *order.argv]
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"
    IPKernelApp.launch_instance(argv=[*order.argv, parent])


def main(control_fd: int, scratch: str) -> None:
    """Serve on ``control_fd``; remove the directory ``scratch`` when the owner is gone."""
    # A backend named before matplotlib is imported is the one ipykernel would name itself.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    with standing_in(_LEFT_OUT):
        order = serve(socket.socket(fileno=control_fd))
    if order is None:
        shutil.rmtree(Path(scratch), ignore_errors=True)
    else:
        _carry_out(order)
