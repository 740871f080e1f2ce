"""The interlock of tests/conftest.py holds, and lets through what it should."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

REFUSED = pytest.fail.Exception


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("act", ["bind", "connect", "connect_ex"])
def test_an_unmarked_test_opens_no_internet_socket(family: int, act: str) -> None:
    """Neither a client nor a server socket gets as far as the kernel."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as sock, pytest.raises(REFUSED, match="interlock: socket"):
        getattr(sock, act)((host, 0))


def test_an_unmarked_test_sends_no_datagram() -> None:
    """A datagram needs no connection, and is refused all the same."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(REFUSED, match=r"socket\.sendto"),
    ):
        sock.sendto(b"", ("127.0.0.1", 9))


@pytest.mark.parametrize("server", ["valkey-server", "chromium", "jupyter"])
def test_an_unmarked_test_starts_no_server(server: str) -> None:
    """The refusal names the command and comes before the process exists."""
    with pytest.raises(REFUSED, match=f"starting '{server} --version'"):
        subprocess.run([server, "--version"], check=False)


def test_the_refusal_passes_a_broad_except() -> None:
    """Code under test that swallows every Exception cannot swallow the interlock."""
    assert not issubclass(REFUSED, Exception)


def test_an_unmarked_test_may_run_a_short_command() -> None:
    """Commands that are no servers are what much of this project is about."""
    shown = subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True, check=True)
    assert shown.stdout == b"7\n"


def test_an_unmarked_test_may_use_a_socket_pair() -> None:
    """Event loops wake themselves up through one; it leaves no process."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


@pytest.mark.twin
def test_a_marked_test_may_open_sockets() -> None:
    """The mark opens the interlock for the test that carries it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
