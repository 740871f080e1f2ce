"""The process that kernels are forked from, served by hand: each order is a piece of Python here."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.host.process import identity_of
from ctp_runbook.notebook.fork_server import PICTURES, PRELOAD
from ctp_runbook.notebook.forked_kernel import ForkServer
from tests.props.notebook_tools import wait_until

pytestmark = pytest.mark.twin

# A server whose kernels run the first argument of their order, and end.
SERVER = """
import os, socket, sys
from ctp_runbook.notebook.fork_server import serve
{before}
order = serve(socket.socket(fileno=int(sys.argv[1])), preload=["json", "no_such_module_at_all"])
if order is not None:
    exec(order.argv[0])
"""


class Owner:
    """Who holds the server's control socket, and gives orders."""

    def __init__(self, before: str = "") -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(before=before), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
            )

    def order(self, code: str, **order: Any) -> socket.socket:
        """Have a kernel forked that runs ``code``; where it is reported on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps({"argv": [code], "env": {}, "cwd": "/", **order}).encode()
        with theirs:
            rights = array.array("i", [theirs.fileno()])
            self.control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        ours.settimeout(20)
        return ours

    def close(self) -> None:
        """Let go of the server, and wait until it is gone."""
        self.control.close()
        self.server.wait(timeout=60)


@pytest.fixture
def owner() -> Iterator[Owner]:
    """An owner that lets go at last."""
    made = Owner()
    yield made
    made.close()


def fact(status: socket.socket) -> dict[str, int]:
    """The next report; empty when none will come."""
    said: dict[str, int] = json.loads(status.recv(4096) or b"{}")
    return said


def test_a_kernel_is_reported_when_it_is_there_and_when_it_is_gone(owner: Owner) -> None:
    """First its pid, then its exit code, then nothing more."""
    with owner.order("sys.exit(3)") as status:
        assert fact(status)["pid"] > 0
        assert fact(status) == {"returncode": 3}
        assert fact(status) == {}


def test_a_kernel_that_was_killed_is_reported_with_the_signal(owner: Owner) -> None:
    """As Popen has it: negative."""
    with owner.order("import time; time.sleep(300)") as status:
        os.kill(fact(status)["pid"], signal.SIGKILL)
        assert fact(status) == {"returncode": -signal.SIGKILL}


def test_the_order_comes_whole(owner: Owner, tmp_path: Path) -> None:
    """Environment and directory are the order's; the fork itself changes neither."""
    out = tmp_path / "out"
    code = f"open({str(out)!r}, 'w').write(repr((order.env, order.cwd)))"
    with owner.order(code, env={"A": "1"}, cwd="/tmp") as status:
        fact(status)
        assert fact(status) == {"returncode": 0}
    assert out.read_text() == repr(({"A": "1"}, "/tmp"))


def test_what_a_kernel_started_ends_with_it(owner: Owner, tmp_path: Path) -> None:
    """Its whole group: nothing goes on unseen."""
    at = tmp_path / "at"
    code = (
        "import subprocess; child = subprocess.Popen(['sleep', '300']); "
        f"open({str(at)!r}, 'w').write(str(child.pid))"
    )
    with owner.order(code) as status:
        fact(status)
        assert fact(status) == {"returncode": 0}
    child = int(at.read_text())
    wait_until(lambda: identity_of(child) is None)


def test_kernels_end_when_their_owner_lets_go(owner: Owner) -> None:
    """However it went: end of file is all that it takes."""
    statuses = [owner.order("import time; time.sleep(300)") for _ in range(3)]
    pids = [fact(status)["pid"] for status in statuses]
    owner.close()
    assert owner.server.returncode == 0
    for status, pid in zip(statuses, pids, strict=True):
        with status:
            assert fact(status) == {"returncode": -signal.SIGKILL}
        assert identity_of(pid) is None


def test_a_kernel_that_was_only_just_forked_ends_as_well() -> None:
    """Where the host kept it waiting before it led its group, nobody waited for ever for its end."""
    owner = Owner("import time; lead = os.setsid; os.setsid = lambda: (time.sleep(0.5), lead())")
    with owner.order("import time; time.sleep(300)") as status:
        pid = fact(status)["pid"]
        owner.close()
        assert fact(status) == {"returncode": -signal.SIGKILL}
    assert identity_of(pid) is None


def test_kernels_die_with_a_server_that_is_killed(owner: Owner) -> None:
    """No report comes, and no kernel stays."""
    with owner.order("import time; time.sleep(300)") as status:
        pid = fact(status)["pid"]
        owner.server.kill()
        assert fact(status) == {}
        wait_until(lambda: identity_of(pid) is None)


def test_a_kernel_leads_a_session_of_its_own(owner: Owner, tmp_path: Path) -> None:
    """Ctrl-C in the runner's terminal does not reach it."""
    out = tmp_path / "out"
    code = f"open({str(out)!r}, 'w').write(str(os.getsid(0) == os.getpid()))"
    with owner.order(code) as status:
        fact(status)
        fact(status)
    assert out.read_text() == "True"


def test_a_kernel_holds_nothing_of_its_siblings(owner: Owner) -> None:
    """The end of one is seen though another, forked after it, lives on."""
    with owner.order("import time; time.sleep(300)") as first:
        pid = fact(first)["pid"]
        with owner.order("import time; time.sleep(300)") as second:
            fact(second)
            os.kill(pid, signal.SIGKILL)
            assert fact(first) == {"returncode": -signal.SIGKILL}
            assert fact(first) == {}


def test_a_module_that_is_missing_costs_speed_only(owner: Owner) -> None:
    """The server has one on its list that does not exist, and serves all the same."""
    with owner.order("sys.exit(0 if 'json' in sys.modules else 1)") as status:
        fact(status)
        assert fact(status) == {"returncode": 0}


def test_an_owner_who_does_not_listen_stops_nothing(owner: Owner) -> None:
    """A report that nobody takes is dropped; the next kernel is forked as ever."""
    status = owner.order("import time; time.sleep(0.2)")
    fact(status)
    status.close()
    with owner.order("sys.exit(5)") as other:
        fact(other)
        assert fact(other) == {"returncode": 5}


def test_pictures_are_loaded_only_while_nobody_orders_anything() -> None:
    """A kernel ordered at once has what comes first, and waits for no picture."""
    code = """
import socket
from ctp_runbook.notebook import fork_server
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
loaded = []
fork_server.importlib.import_module = loaded.append
fork_server._IDLE_SECONDS = 30.0
class Selector(fork_server.selectors.DefaultSelector):
    def select(self, timeout=None):
        print(len(loaded), timeout)
        if timeout != 0:
            ours.close()
        return super().select(timeout)
fork_server.selectors.DefaultSelector = Selector
fork_server.serve(theirs, preload=["a"] * 9, later=["b"] * 3)
print(*loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    looks, loaded = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1]
    assert looks == ["7 0", "8 0", "9 30.0"]
    assert loaded == " ".join("a" * 9)


def test_a_task_is_done_with_the_environment_and_directory_of_its_order(tmp_path: Path) -> None:
    """It is no kernel: a function is called with the arguments, and 0 is how it ended."""
    server = ForkServer()
    try:
        env = {**os.environ, "HERE": "there"}
        code = "import os; open('seen', 'w').write(os.environ['HERE'])"
        process = server.fork([code], env=env, cwd=str(tmp_path), task="builtins:exec")
        assert process.wait(timeout=60) == 0
        assert (tmp_path / "seen").read_text() == "there"
        # Neither a debugger nor a grammar of addresses is paid for by any that is forked there.
        code = "import sys; import ipykernel.debugger as d; assert not d._is_debugpy_available"
        process = server.fork([code], env=env, cwd=str(tmp_path), task="builtins:exec")
        assert process.wait(timeout=60) == 0
    finally:
        server.close()


def test_what_is_preloaded_can_be_imported() -> None:
    """A name that no longer exists would cost its time in every notebook, and nobody would see it."""
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", code, *PRELOAD, *PICTURES],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
