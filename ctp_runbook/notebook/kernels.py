"""Kernels that are ready in a moment and end with whoever started them.

A jupyter_client kernel provisioner (entry point ``ctp-runbook-fork``) that has kernels forked by a
process which has already imported what they need. Where that cannot be done (another interpreter,
a fork server that fails) the kernel is started in the ordinary way; nothing else changes.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from ctp_runbook.notebook.forked_kernel import ForkedKernel, ForkServerLost, fork_server

__all__ = [
    "PROVISIONER_NAME",
    "EventLoopThread",
    "ForkProvisioner",
    "ReadyKernel",
    "end_kernel",
    "living_kernel",
    "signal_group",
    "start_kernel",
]

PROVISIONER_NAME = "ctp-runbook-fork"
_END_SECONDS = 5.0
_CLOSE_SECONDS = 10.0
# A killed process takes no orders some time before it counts as ended.
_DYING_SECONDS = 5.0
_T = TypeVar("_T")


class ForkProvisioner(LocalProvisioner):
    """LocalProvisioner whose kernels are forked; falls back to an ordinary start."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork the kernel ``cmd`` describes. jupyter_client's signature."""
        argv = _ipykernel_arguments(cmd)
        if argv is None:
            return await super().launch_kernel(cmd, **kwargs)
        cwd = str(kwargs.get("cwd") or Path.cwd())
        env = {**(kwargs.get("env") or os.environ), "JPY_PARENT_PID": str(os.getpid())}
        try:
            kernel = await asyncio.to_thread(_forked, argv, env=env, cwd=cwd)
        except ForkServerLost as error:
            self.log.warning("ordinary kernel start, slower: %s", error)
            return await super().launch_kernel(cmd, **kwargs)
        self.process: Any = kernel
        self.pid = self.pgid = kernel.pid
        self.cwd = cwd
        return self.connection_info


def _forked(argv: list[str], *, env: dict[str, str], cwd: str) -> ForkedKernel:
    """A kernel of the fork server, and of another one where that has just been killed."""
    server = fork_server()
    try:
        return server.fork(argv, env=env, cwd=cwd)
    except ForkServerLost:
        if not server.has_ended(seconds=_DYING_SECONDS):
            raise
        return fork_server().fork(argv, env=env, cwd=cwd)


def _ipykernel_arguments(cmd: Sequence[str]) -> list[str] | None:
    """What follows ``python … -m ipykernel_launcher`` of this interpreter; None for other kernels."""
    if "ipykernel_launcher" not in cmd or os.path.realpath(cmd[0]) != os.path.realpath(
        sys.executable
    ):
        return None
    return list(cmd[cmd.index("ipykernel_launcher") + 1 :])


class ReadyKernel:
    """A kernel with a connected client, ready for its first cell."""

    def __init__(self, *, manager: AsyncKernelManager, client: Any) -> None:
        self.manager = manager
        self.client = client

    @property
    def pid(self) -> int:
        """The kernel's pid."""
        provisioner = self.manager.provisioner
        assert isinstance(provisioner, LocalProvisioner)
        return int(provisioner.pid or 0)

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def _process(self) -> Any:
        return getattr(self.manager.provisioner, "process", None)

    async def end(self) -> None:
        """End the kernel with its process group and wait until it is gone."""
        self.client.stop_channels()
        process = self._process
        try:
            if process is not None:
                signal_group(process.pid)
                await asyncio.to_thread(process.wait, _END_SECONDS)
        finally:
            # Its sockets are ours to close, also where nobody saw it go in time.
            await self.manager.cleanup_resources()


def signal_group(pid: int) -> None:
    """Send SIGKILL to a kernel's process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def start_kernel(
    kernel_name: str = "python3",
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    startup_timeout: float = 60.0,
) -> ReadyKernel:
    """Start ``kernel_name`` through ForkProvisioner over IPC and wait until it answers.

    Raises RuntimeError (jupyter_client's) when it does not answer in time.
    """
    manager = AsyncKernelManager(kernel_name=kernel_name)
    scratch = _scratch()
    manager.transport = "ipc"
    manager.connection_file = str(scratch / f"{uuid.uuid4().hex[:8]}.json")
    spec = manager.kernel_spec
    assert spec is not None
    # Given, not looked up by PROVISIONER_NAME: this also works from a checkout never installed.
    manager.kernel_id = uuid.uuid4().hex
    manager.provisioner = ForkProvisioner(
        kernel_id=manager.kernel_id, kernel_spec=spec, parent=manager
    )
    await manager.start_kernel(
        # A kernel's history is in its notebook; a shared history file is a lock to wait for.
        extra_arguments=["--HistoryManager.hist_file=:memory:"],
        env=dict(os.environ if env is None else env),
        cwd=cwd or str(Path.cwd()),
    )
    client = manager.client()
    kernel = ReadyKernel(manager=manager, client=client)
    try:
        client.start_channels()
        await client.wait_for_ready(timeout=startup_timeout)
    except BaseException:
        await kernel.end()
        raise
    client.allow_stdin = False
    return kernel


async def living_kernel(
    starting: Future[ReadyKernel], *, start: Callable[[], Coroutine[Any, Any, ReadyKernel]]
) -> ReadyKernel:
    """Return a kernel that was ordered before, or ``start`` one where it failed to, or has died since.

    Kernels die together, with their fork server: those that wait for their notebook, and those that
    have not come up yet. Raises what ``start`` raises.
    """
    with contextlib.suppress(RuntimeError, OSError):
        kernel = await asyncio.wrap_future(starting)
        if kernel.is_alive:
            return kernel
        await kernel.end()
    return await start()


async def end_kernel(starting: Future[ReadyKernel]) -> None:
    """End a kernel that may be starting still; one that did not start needs no end."""
    with contextlib.suppress(RuntimeError, OSError):
        # Also while it starts: ended half-way it would be a process that nobody knows.
        kernel = await asyncio.wrap_future(starting)
        await kernel.end()


def _scratch() -> Path:
    """A private directory with a short name (a socket's path has at most 107 bytes)."""
    try:
        return fork_server().scratch
    except ForkServerLost:
        fallback = Path(tempfile.mkdtemp(prefix="ctp-kernels-"))
        atexit.register(shutil.rmtree, fallback, ignore_errors=True)
        return fallback


class EventLoopThread:
    """An asyncio loop in a thread: kernels start and end there while the caller works.

    The main thread stays free to take signals.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._work: list[Future[Any]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start ``work`` in the loop."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._work.append(future)
        return future

    def close(self) -> None:
        """Let the loop finish what it was given (kernels to end), and stop it."""
        wait(self._work, timeout=_CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
