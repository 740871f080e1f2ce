"""Facts about host/pin.py: a process is found again by what it is, not by who started it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ctp_runbook.host.pin import Pin, below, lookalikes, pin_process, survivors
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity
from tests.props.plan_fixtures import wait_for

Start = Callable[..., Identity]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command in a folder of this test, by default with nothing in its environment."""
    with ExitStack() as ends:

        def begin(*words: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Identity:
            environ = {"PATH": os.environ["PATH"], **(env or {})}
            child = ends.enter_context(subprocess.Popen(words, cwd=cwd, env=environ))
            ends.callback(child.wait)
            ends.callback(child.kill)
            found = identity_of(child.pid)
            assert found is not None
            # Of a program that has only just begun there is no command line yet.
            wait_for(Path(f"/proc/{child.pid}/cmdline").read_bytes)
            return found

        yield begin


def seconds(tmp_path: Path) -> str:
    """How long to sleep, as no other test of this host says it."""
    return f"600.{abs(hash(str(tmp_path))) % 10**12}"


def alike(
    pin: Pin, *, run_ids: tuple[str, ...] = (), others: tuple[Identity, ...] = ()
) -> set[int]:
    """Pids of who is alike and not accounted for."""
    return {one.pid for one in lookalikes(pin, run_ids=run_ids, others=others)}


def test_whoever_starts_the_same_again_is_found(start: Start, tmp_path: Path) -> None:
    """From another folder as well; another command line is somebody else."""
    words = ("sleep", seconds(tmp_path))
    pin = pin_process(start(*words))
    assert alike(pin) == set()
    again = start(*words, cwd=Path("/"))
    start("sleep", f"{words[1]}1")
    assert alike(pin) == {again.pid}


def test_who_stood_beside_it_is_not_it(start: Start, tmp_path: Path) -> None:
    """Also when it is pinned anew, and whoever came in between still is."""
    words = ("sleep", seconds(tmp_path))
    beside, member = start(*words), start(*words)
    pin = pin_process(member)
    assert pin.bystanders == (beside,)
    later = start(*words)
    assert alike(pin_process(member, before=pin)) == {later.pid}


def test_what_our_own_steps_start_is_accounted_for(start: Start, tmp_path: Path) -> None:
    """And what is pinned as another member, with all that is below it: the same binary, replaced."""
    words = ("sleep", seconds(tmp_path))
    pin = pin_process(start(*words))
    ours = start(*words, env={"CTP_RUN_ID": "r1"})
    other = start(*words)
    shell = start("sh", "-c", f"{' '.join(words)}; true")
    wait_for(lambda: len(alike(pin)) == 3)
    assert alike(pin, run_ids=("r1",)) == alike(pin) - {ours.pid}
    assert alike(pin, run_ids=("r1",), others=(other, shell)) == set()


def test_a_name_of_a_file_is_the_file(start: Start, tmp_path: Path) -> None:
    """Named from its own folder or from another, it is one command line."""
    script = tmp_path / "engine.sh"
    script.write_text(f"exec 3<&0; sleep {seconds(tmp_path)}; true\n")
    pin = pin_process(start("sh", "engine.sh"))
    again = start("sh", str(script), cwd=Path("/"))
    wait_for(lambda: alike(pin) == {again.pid})  # its child looks like it until it is `sleep`


def test_what_ran_below_it_is_remembered(start: Start, tmp_path: Path) -> None:
    """A wrapper that ends leaves the engine that it started."""
    wrapper = start("sh", "-c", f"sleep {seconds(tmp_path)}; true")
    wait_for(lambda: pin_process(wrapper).tree)
    pin = pin_process(wrapper)
    os.kill(wrapper.pid, 9)
    assert survivors(pin) == pin.tree
    for one in pin.tree:
        os.kill(one.pid, 9)
    wait_for(lambda: survivors(pin) == ())


def test_a_daemon_of_the_wrapper_is_below_it(start: Start, tmp_path: Path) -> None:
    """It has no parent any more, and the session of the one that was pinned."""
    script = f"(sleep {seconds(tmp_path)} &); exec sleep {seconds(tmp_path)}1"
    wrapper = start("setsid", "sh", "-c", script)
    wait_for(lambda: b"sleep" in Path(f"/proc/{wrapper.pid}/cmdline").read_bytes()[:5])
    pin = pin_process(wrapper)
    assert len(pin.tree) == 1
    os.kill(wrapper.pid, 9)
    assert survivors(pin) == pin.tree
    os.kill(pin.tree[0].pid, 9)


def test_a_pin_that_was_masked_still_finds_its_like(start: Start, tmp_path: Path) -> None:
    """What looked like a secret in its path went into the journal as stars: a second one is found,
    a stranger is not, and whoever came since is no bystander."""
    words = ("sleep", seconds(tmp_path))
    pin = pin_process(start(*words))
    masked = replace(pin, executable=pin.executable.replace("bin", "***"))
    assert masked.executable != pin.executable
    assert alike(masked) == set()
    again = start(*words)
    start("sleep", f"{words[1]}1")
    assert alike(masked) == {again.pid}
    assert alike(replace(masked, executable="/another/***/sleeper")) == set()
    assert pin_process(pin.identity, before=masked).bystanders == ()


Shell = Callable[[str], Identity]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Start a shell that runs a script; it ends with all that it has started."""
    with ExitStack() as ends:

        def end(child: subprocess.Popen[bytes]) -> None:
            found = identity_of(child.pid)
            for each in (*(below(found) if found else ()), found):
                if each:
                    os.kill(each.pid, signal.SIGKILL)
            child.wait()

        def begin(script: str) -> Identity:
            words = ["bash", "-c", f"{script}\nwait; :"]
            child = subprocess.Popen(words, cwd=tmp_path, start_new_session=True)
            ends.callback(end, child)
            found = identity_of(child.pid)
            assert found is not None
            # Of a program that has only just begun there is no command line yet.
            wait_for(Path(f"/proc/{child.pid}/cmdline").read_bytes)
            return found

        yield begin


def engine_of(folder: Path) -> tuple[str, ...]:
    """A program with a command line of its own."""
    return (sys.executable, "-c", "import time; time.sleep(600)", str(folder))


def test_what_a_supervising_shell_had_started_is_sought_too(
    start: Start, shell: Shell, tmp_path: Path
) -> None:
    """Its pid file, or its unit, names the shell; the engine is the one that must not come again."""
    engine = engine_of(tmp_path)
    main = shell(f"timeout 600 {shlex.join(engine)} &\nsleep 600 &")
    wait_for(lambda: len(pin_process(main).kin) == 1)
    pin = pin_process(main)
    assert alike(pin) == set()
    start("sleep", "600")  # what its script calls beside it is everybody's
    again = start(*engine)
    wait_for(lambda: alike(pin) == {again.pid})
    assert alike(pin_process(main, before=pin)) == {again.pid}


def test_what_stood_beside_a_shells_child_is_not_it(
    start: Start, shell: Shell, tmp_path: Path
) -> None:
    """It ran with that command line before the shell was pinned; and the shell may start its own
    again, which is its own."""
    engine = shlex.join(engine_of(tmp_path))
    beside = start(*engine_of(tmp_path))
    main = shell(f"{engine} &\nwhile [ ! -e again ]; do sleep 0.05; done; {engine} &")
    wait_for(lambda: len(pin_process(main).kin) == 1)
    pin = pin_process(main)
    assert [each.pid for each in pin.bystanders] == [beside.pid]
    (tmp_path / "again").touch()
    wait_for(lambda: len(below(main)) >= 2)
    assert alike(pin) == set()


def test_one_that_lies_elsewhere_is_found_by_its_arguments(start: Start, tmp_path: Path) -> None:
    """A supervisor may start another release of it with the same configuration; what only names the
    same file, and what names none, is somebody else."""
    old, new = (copied(tmp_path / name, "engine-1.2", "sleep") for name in ("a", "b"))
    config = tmp_path / "engine.conf"
    config.write_text("")
    words = ("-c", f"sleep {seconds(tmp_path)}; :", str(config))
    pin = pin_process(start(shell_named(tmp_path / "a"), *words))
    again = start(shell_named(tmp_path / "b", "engine-1.3"), *words)
    start("bash", *words)
    wait_for(lambda: alike(pin) == {again.pid})  # what it starts is it until it is something else
    bare = pin_process(start(str(old), seconds(tmp_path)))
    start(str(new), seconds(tmp_path))
    assert alike(bare) == set()


def copied(folder: Path, name: str, program: str) -> Path:
    """A program under another name."""
    folder.mkdir(exist_ok=True)
    found = shutil.which(program)
    assert found is not None
    return Path(shutil.copy(found, folder / name))


def shell_named(folder: Path, name: str = "engine-1.2") -> str:
    """A shell that passes for an engine."""
    return str(copied(folder, f"sh_{name}", "bash"))


def test_who_is_another_users_is_known_by_what_it_calls_itself(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its executable is hidden then from everybody but root, and nobody is to pass for nowhere."""
    words = (sys.executable, "-c", "import time; time.sleep(600)", str(tmp_path))
    usual = Path.readlink

    def hidden(path: Path) -> Path:
        if path.name == "exe":
            raise PermissionError
        return usual(path)

    monkeypatch.setattr(Path, "readlink", hidden)
    pin = pin_process(start(*words))
    again = start(*words)
    assert alike(pin) == {again.pid}


def test_what_a_stop_of_ours_starts_again_was_not_asked_for(start: Start, tmp_path: Path) -> None:
    """Of our own steps only those that may start it are accounted for."""
    words = ("sleep", seconds(tmp_path))
    pin = pin_process(start(*words))
    begun = ("start_new_core_engine", "stop_old_core_engine", "")
    found = {step: start(*words, env={"CTP_RUN_ID": "r", "CTP_STEP": step}) for step in begun}
    seen = lookalikes(pin, run_ids=("r",), others=(), starts=("start_new_core_engine", ""))
    assert seen == (found["stop_old_core_engine"],)


def test_what_it_started_after_it_was_pinned_is_in_its_session(
    shell: Shell, tmp_path: Path
) -> None:
    """A stop may take a while, and a daemon of the last moment is nobody's child."""
    main = shell(f"until [ -e go ]; do sleep 0.05; done; (sleep {seconds(tmp_path)} &)")
    pin = pin_process(main)
    (tmp_path / "go").touch()

    def sleepers() -> list[Identity]:
        return [each for each in survivors(pin) if command_line(each).startswith(b"sleep\x00600.")]

    # Its shell has the same words in its command line, for a moment.
    wait_for(sleepers)
    (late,) = sleepers()
    os.kill(main.pid, signal.SIGKILL)
    wait_for(lambda: identity_of(main.pid) is None)
    assert late in survivors(pin)
    os.kill(late.pid, signal.SIGKILL)


def command_line(process: Identity) -> bytes:
    """Its arguments; nothing once it is gone."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""
