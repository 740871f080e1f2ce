"""Kernels are forked ready, and end with whoever started them, however that one ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.host.process import identity_of
from ctp_runbook.notebook.fork_server import MAX_ORDER_BYTES, PRELOAD
from ctp_runbook.notebook.forked_kernel import ForkServer, ForkServerLost, fork_server
from ctp_runbook.notebook.kernels import EventLoopThread, ReadyKernel, living_kernel, start_kernel
from tests.props.notebook_tools import wait_until

pytestmark = pytest.mark.twin

OWNER = """
import asyncio, sys, time
from ctp_runbook.notebook.forked_kernel import fork_server
from ctp_runbook.notebook.kernels import start_kernel

async def main():
    kernel = await start_kernel()
    kernel.client.execute("import subprocess; child = subprocess.Popen(['sleep', '300'])")
    reply = await kernel.client.get_shell_msg(timeout=60)
    print(fork_server().pid, kernel.pid, fork_server().scratch, flush=True)
    time.sleep(300)

asyncio.run(main())
"""


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[ForkServer]:
    """One fork server for the file; closed, with its kernels, at the end."""
    made = fork_server()
    yield made
    fork_server().close()


def run(work: Callable[[ReadyKernel], Awaitable[Any]], **options: Any) -> Any:
    """Start a kernel, do ``work`` with it, end it."""

    async def started() -> Any:
        kernel = await start_kernel(**options)
        try:
            return await work(kernel)
        finally:
            await kernel.end()

    return asyncio.run(started())


async def said(kernel: ReadyKernel, expression: str) -> str:
    """What an expression gives in the kernel, as text."""
    for _ in range(20):
        reply = await kernel.client.execute(
            "", user_expressions={"found": expression}, reply=True, timeout=20
        )
        # What comes right after an interrupt may be aborted along with what was interrupted.
        if reply["content"]["status"] != "aborted":
            break
        await asyncio.sleep(0.1)
    return str(reply["content"]["user_expressions"]["found"]["data"]["text/plain"])


def test_a_kernel_is_forked_from_the_server_with_its_imports() -> None:
    """The kernel's parent is the fork server, and what takes long to import is imported."""
    fork_server()

    async def look(kernel: ReadyKernel) -> tuple[str, str]:
        return await said(kernel, "__import__('os').getppid()"), await said(
            kernel, "'ipykernel' in __import__('sys').modules"
        )

    assert run(look) == (str(fork_server().pid), "True")


def test_a_kernel_has_its_own_environment_and_directory(tmp_path: Path) -> None:
    """Environment and working directory are those asked for, not the server's."""
    env = {**os.environ, "CTP_TEST": "here"}

    async def look(kernel: ReadyKernel) -> tuple[str, str]:
        return await said(kernel, "__import__('os').environ['CTP_TEST']"), await said(
            kernel, "__import__('os').getcwd()"
        )

    assert run(look, env=env, cwd=str(tmp_path)) == ("'here'", f"'{tmp_path}'")
    assert "CTP_TEST" not in os.environ


def test_a_kernel_speaks_through_private_sockets() -> None:
    """IPC in a directory that only this user can enter; no TCP port."""

    async def look(kernel: ReadyKernel) -> tuple[str, int]:
        return kernel.manager.transport, Path(kernel.manager.ip).parent.stat().st_mode & 0o777

    assert run(look) == ("ipc", 0o700)


def test_a_kernel_that_was_killed_is_reported_and_gone() -> None:
    """A kernel ended by SIGKILL is reaped, its exit code is the signal, its children end too."""

    async def kill(kernel: ReadyKernel) -> tuple[int, bool, bool]:
        code = "subprocess = __import__('subprocess'); child = subprocess.Popen(['sleep', '300'])"
        await kernel.client.execute(code, reply=True, timeout=60)
        child = int(await said(kernel, "child.pid"))
        os.kill(kernel.pid, signal.SIGKILL)
        process: Any = kernel.manager.provisioner
        status = process.process.wait(timeout=60)
        wait_until(lambda: identity_of(child) is None)
        return status, identity_of(kernel.pid) is None, identity_of(child) is None

    assert run(kill) == (-signal.SIGKILL, True, True)


def test_a_kernel_can_be_interrupted() -> None:
    """SIGINT reaches the cell that runs, and the kernel lives on."""

    async def interrupt(kernel: ReadyKernel) -> str:
        kernel.client.execute("import time; print('on', flush=True); time.sleep(60)")
        while (await kernel.client.get_iopub_msg(timeout=60))["msg_type"] != "stream":
            pass
        await kernel.manager.interrupt_kernel()
        await kernel.client.get_shell_msg(timeout=60)
        return await said(kernel, "1 + 1")

    assert run(interrupt) == "2"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_nothing_is_left_when_the_owner_is_killed(sign: signal.Signals) -> None:
    """Fork server, kernel, its child and the sockets' directory go with the process that had them."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        server_pid, kernel_pid, scratch = owner.stdout.readline().split()
        assert identity_of(int(kernel_pid)) is not None
        owner.send_signal(sign)
        owner.wait(timeout=60)
        for pid in (int(server_pid), int(kernel_pid)):
            wait_until(lambda pid=pid: identity_of(pid) is None)
        wait_until(lambda: not Path(scratch).exists())


def test_kernels_end_with_a_killed_fork_server_and_another_takes_over() -> None:
    """A fork server ended by SIGKILL takes its kernels along; the next kernel gets a new one."""
    first = fork_server()

    async def kill_server(kernel: ReadyKernel) -> int:
        os.kill(first.pid, signal.SIGKILL)
        process: Any = kernel.manager.provisioner
        return int(process.process.wait(timeout=60))

    assert run(kill_server) == -signal.SIGKILL

    async def look(kernel: ReadyKernel) -> str:
        return await said(kernel, "__import__('os').getppid()")

    assert run(look) == str(fork_server().pid)
    assert fork_server() is not first


def test_an_order_too_large_is_served_in_the_ordinary_way() -> None:
    """Where the fork server cannot help, the kernel starts as any other, and still ends."""
    env = {**os.environ, **{f"BIG_{n}": "x" * 90_000 for n in range(3)}}
    assert sum(map(len, env.values())) > MAX_ORDER_BYTES

    async def look(kernel: ReadyKernel) -> tuple[str, bool]:
        parent = await said(kernel, "__import__('os').getppid()")
        return parent, await said(kernel, "len(__import__('os').environ['BIG_2'])") == "90000"

    assert run(look, env=env) == (str(os.getpid()), True)


def test_a_closed_server_refuses_orders() -> None:
    """An order to a server that is gone is ForkServerLost, which the provisioner knows."""
    server = ForkServer()
    server.close()
    with pytest.raises(ForkServerLost):
        server.fork(["-f", "/nowhere"], env={}, cwd="/")
    assert not server.scratch.exists()


def test_the_server_stays_single_threaded() -> None:
    """A fork copies no lock that another thread holds: there is no other thread."""

    async def look(kernel: ReadyKernel) -> str:
        return await said(kernel, f"{PRELOAD[-1]!r} in __import__('sys').modules")

    wait_until(lambda: run(look) == "True", seconds=60)
    assert len(os.listdir(f"/proc/{fork_server().pid}/task")) == 1


def test_the_loop_finishes_what_it_was_given_before_it_closes() -> None:
    """Closing the loop thread waits for kernels that are being ended."""
    loop, done = EventLoopThread(), []

    async def slow() -> None:
        await asyncio.sleep(0.3)
        done.append("ended")

    loop.submit(slow())
    loop.close()
    assert done == ["ended"]


def test_a_fork_server_that_is_being_killed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no orders some time before it counts as ended: the kernel comes from another."""
    first = fork_server()
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    polled, looks = first._process.poll, iter([None] * 2)
    monkeypatch.setattr(first._process, "poll", lambda: next(looks, polled()))

    async def look(kernel: ReadyKernel) -> str:
        return await said(kernel, "__import__('os').getppid()")

    assert run(look) == str(fork_server().pid)
    assert fork_server() is not first


async def _fails() -> ReadyKernel:
    raise RuntimeError("Kernel died before replying")


async def _dies() -> ReadyKernel:
    kernel = await start_kernel()
    os.kill(kernel.pid, signal.SIGKILL)
    await asyncio.to_thread(kernel.manager.provisioner.process.wait, 10)  # type: ignore[union-attr]
    return kernel


ORDERED = {"it lives": (start_kernel, 0), "it failed": (_fails, 1), "it died": (_dies, 1)}


@pytest.mark.parametrize(("order", "starts"), ORDERED.values(), ids=ORDERED)
def test_a_kernel_is_started_anew_only_where_the_ordered_one_is_none(
    order: Callable[[], Coroutine[Any, Any, ReadyKernel]], starts: int
) -> None:
    """Whatever became of it while it waited, also before it came up, a living one is had."""
    started: list[ReadyKernel] = []

    async def start() -> ReadyKernel:
        started.append(await start_kernel())
        return started[-1]

    with closing(EventLoopThread()) as loop:
        ordered = loop.submit(order())
        kernel = loop.submit(living_kernel(ordered, start=start)).result(timeout=60)
        try:
            assert loop.submit(said(kernel, "1 + 1")).result(timeout=60) == "2"
            assert len(started) == starts
        finally:
            loop.submit(kernel.end()).result(timeout=60)
