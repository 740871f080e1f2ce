"""The owner's side of a forked kernel: what it is told, and what it makes of hearing nothing."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from ctp_runbook.notebook.forked_kernel import ForkedKernel, ForkServer, ForkServerLost, fork_server

pytestmark = pytest.mark.twin

GONE = 2**22 + 1  # more than the largest pid: nobody's


class Server:
    """The other end of a kernel's socket, in the test's hand."""

    def __init__(self) -> None:
        self.theirs, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def say(self, **fact: int) -> None:
        """Report a fact, as the fork server does."""
        self.ours.send(json.dumps(fact).encode())

    def kernel(self) -> ForkedKernel:
        """The kernel that was reported."""
        return ForkedKernel(self.theirs)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that closes its end at last."""
    made = Server()
    yield made
    made.ours.close()
    made.theirs.close()


def test_a_kernel_is_known_by_the_pid_that_was_reported(server: Server) -> None:
    """It runs until something else is said of it."""
    server.say(pid=GONE)
    kernel = server.kernel()
    assert (kernel.pid, kernel.poll(), kernel.returncode) == (GONE, None, None)


@pytest.mark.parametrize("code", [0, 3, -signal.SIGTERM])
def test_its_exit_code_is_the_one_reported(server: Server, code: int) -> None:
    """Signals are negative, as Popen has them; asked again it says the same."""
    server.say(pid=GONE)
    kernel = server.kernel()
    server.say(returncode=code)
    assert kernel.wait(timeout=60) == kernel.poll() == kernel.wait() == code


def test_two_reports_that_came_together_are_read_apart(server: Server) -> None:
    """A kernel that died at once was there first."""
    server.say(pid=GONE)
    server.say(returncode=1)
    kernel = server.kernel()
    assert (kernel.pid, kernel.poll()) == (GONE, 1)


def test_a_server_that_goes_takes_its_kernels_along(server: Server) -> None:
    """No report will come any more: the kernel counts as killed, which it was."""
    server.say(pid=GONE)
    kernel = server.kernel()
    server.ours.close()
    assert kernel.poll() == -signal.SIGKILL


def test_a_server_that_goes_before_it_forked_is_lost(server: Server) -> None:
    """The kernel is then started in the ordinary way."""
    server.ours.close()
    with pytest.raises(ForkServerLost, match="ended before it forked the kernel"):
        server.kernel()


def test_waiting_ends_when_its_time_is_over(server: Server) -> None:
    """Raises what Popen raises, about when it was to."""
    server.say(pid=GONE)
    kernel, began = server.kernel(), time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        kernel.wait(timeout=0.05)
    assert 0.04 < time.monotonic() - began < 5
    assert kernel.poll() is None


def test_a_signal_to_a_group_that_is_gone_is_no_error(server: Server) -> None:
    """It may have ended between the look and the signal."""
    server.say(pid=GONE)
    server.kernel().send_signal(signal.SIGINT)


def test_a_kernel_that_ended_gets_no_signal(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may be somebody else's by now."""
    server.say(pid=os.getpid())
    kernel = server.kernel()
    server.say(returncode=0)
    sent: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, signum: sent.append(signum))
    kernel.send_signal(signal.SIGKILL)
    assert sent == []


def test_a_kernel_nobody_holds_closes_its_socket(server: Server) -> None:
    """The server sees that its reports are wanted no more; no descriptor is left."""
    server.say(pid=GONE)
    kernel = server.kernel()
    server.ours.settimeout(5)
    del kernel
    gc.collect()
    assert server.ours.recv(1) == b""


# --- the server's owner -----------------------------------------------------------


def test_one_process_has_one_server() -> None:
    """Every kernel of a runner is forked from the same imports."""
    first = fork_server()
    try:
        assert fork_server() is first
        assert first.is_alive
    finally:
        first.close()
    assert not first.is_alive


def test_a_server_that_was_closed_is_replaced() -> None:
    """Another comes in its place, with a directory of its own."""
    first = fork_server()
    first.close()
    second = fork_server()
    try:
        assert second is not first
        assert second.scratch.is_dir()
        assert not first.scratch.exists()
    finally:
        second.close()


def test_the_directory_of_the_sockets_is_private() -> None:
    """Whoever can open a kernel's socket can run code as this user."""
    server = ForkServer()
    try:
        assert server.scratch.stat().st_mode & 0o777 == 0o700
        assert len(str(server.scratch)) < 60  # a socket's path has at most 107 bytes
    finally:
        server.close()


def test_an_order_that_is_too_long_is_refused_before_it_is_sent() -> None:
    """One message holds it whole, or it is not taken."""
    server = ForkServer()
    try:
        with pytest.raises(ForkServerLost, match=r"order of \d+ bytes > 200000 bytes"):
            server.fork([], env={"BIG": "x" * 200_000}, cwd="/")
        assert server.is_alive
    finally:
        server.close()
