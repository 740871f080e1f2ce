"""What a pid file may hold, and whom it names then: border/pidfiles/."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.host.proc import ALIVE, COULD_NOT_TELL, GONE, alive, start, stop
from ctp_runbook.host.process import identity_of, is_running
from ctp_runbook.model import Generation, Identity, Member, Role
from ctp_runbook.probes.liveness import observe_member
from tests.props.plan_fixtures import dead_pid

FOLDER = Path(__file__).parent / "border" / "pidfiles"
CASES: dict[str, dict[str, object]] = tomllib.loads((FOLDER / "expect.toml").read_text())
CODES = {"alive": ALIVE, "gone": GONE, "could not tell": COULD_NOT_TELL}


def test_every_input_is_expected() -> None:
    """An input without a line in the table is never read."""
    assert {path.name for path in FOLDER.glob("*.pid")} == {
        case["file"] for case in CASES.values() if "file" in case
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_whom_a_pid_file_names(
    case: Mapping[str, object], process: Identity, tmp_path: Path
) -> None:
    """Alive, gone, or could not tell: by then nothing is called gone, started or ended, and what
    lies there stays."""
    path = tmp_path / "d.pid"
    lay(path, case, process)
    if "owner" in case and os.geteuid() != 0:
        pytest.skip("only root gives a file away")
    if case.get("kind") == "below a file":
        path = path / "d.pid"
    began = time.monotonic()
    seen = alive(path)
    assert seen.exit_code == CODES[str(case["is"])], seen.sentence
    assert str(case.get("says", "")) in seen.sentence
    member = Member(Generation.OLD, Role.STRATEGY_RUNNER, pid_file=str(path))
    for word, command in (("alive", "exit 0"), ("gone", "exit 1")):
        look = observe_member(
            member._replace(alive_command=command),
            known=None,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            seconds=5,
        )
        assert {"alive": look.is_alive, "gone": look.is_gone}[word] == (case["is"] == word)
    if case["is"] == "could not tell" and case.get("kind") != "below a file":
        refused = start(path, ["sleep", "60"])
        assert refused.exit_code == 1, refused.sentence
        stopped = stop(path)
        assert stopped.exit_code == COULD_NOT_TELL
        assert "already gone" not in stopped.sentence
        assert os.path.lexists(path)
    elif case.get("kind") != "below a file":
        stopped = stop(path, grace_seconds=2)
        assert stopped.exit_code == 0, stopped.sentence
        assert ("already gone" in stopped.sentence) == (case["is"] == "gone")
    assert is_running(process) != bool(case.get("stops")), seen.sentence
    assert time.monotonic() - began < 5


@given(
    content=st.one_of(
        st.binary(max_size=40), st.from_regex(rb"[0-9+. \n\r\t-]{0,30}", fullmatch=True)
    )
)
@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
def test_no_content_is_gone_but_a_pid(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes: no traceback, and what is not one or two whole numbers could not tell."""
    path = tmp_path_factory.getbasetemp() / "any.pid"
    path.write_bytes(content)
    seen = alive(path)
    numbers = content.split()
    is_pid = len(numbers) in (1, 2) and all(word.isdigit() and word[:1] != b"0" for word in numbers)
    assert is_pid or seen.exit_code == COULD_NOT_TELL


def lay(path: Path, case: Mapping[str, object], process: Identity) -> None:
    """Put there what the table names."""
    if "kind" in case:
        lay_no_file(path, str(case["kind"]))
    elif "file" in case:
        shutil.copyfile(FOLDER / str(case["file"]), path)
        if Path(f"/proc/{path.read_text().split()[0]}").exists():
            pytest.skip("somebody has this pid by chance")
    else:
        write(path, str(case["holds"]), process)
        then = time.time() - float(str(case.get("age", 0)))
        os.utime(path, (then, then))
        if "owner" in case and os.geteuid() == 0:
            os.chown(path, int(str(case["owner"])), -1)


def lay_no_file(path: Path, kind: str) -> None:
    """Put there what is no file, or nothing."""
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            folder = os.open(path.parent, os.O_PATH)
            server.bind(f"/proc/self/fd/{folder}/{path.name}")  # its name may be too long for one
            os.close(folder)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind.startswith("/dev/"):
        path.symlink_to(kind)
    elif kind == "below a file":
        path.write_text("")


def write(path: Path, text: str, process: Identity) -> None:
    """Fill in whose pids are meant."""
    parent = identity_of(os.getppid())
    if "{parent}" in text and os.getppid() == 1:
        pytest.skip("init started this test, and is refused for that")
    thread = threading.Thread(target=time.sleep, args=(2,), daemon=True)
    thread.start()
    values = {
        "pid": process.pid,
        "tick": process.start_ticks,
        "dead": dead_pid(),
        "self": os.getpid(),
        "parent": os.getppid(),
        "parent_tick": parent.start_ticks if parent else 1,
        "limit": Path("/proc/sys/kernel/pid_max").read_text().strip(),
        "now": int(time.time()),
        "long_ago": int(time.time()) - 1_000_000_000,
        "blanks": " " * 5000,
        "thread": thread.native_id,
    }
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    path.write_bytes(text.encode())
