"""Facts about probes/liveness.py: alive and gone are both proved, and between them is undecided."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.process import boot_id, identity_of, is_stopped
from ctp_runbook.model import Generation, Identity, Member, Role
from ctp_runbook.probes.liveness import (
    Liveness,
    observe_member,
    processes_of_step,
    recorded_identity,
    shows_by_name_or_port,
)
from tests.props.plan_fixtures import dead_pid, processes_with, wait_for

ENGINE = Identity(42, 7)
TOO_LARGE = 2**22 + 1  # above every pid there can be
ENVIRON = {"PATH": os.environ["PATH"]}


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A runner without a pid file, whose alive command says gone."""
    return Member(
        Generation.NEW,
        Role.STRATEGY_RUNNER,
        alive_command="exit 1",
        pid_file=str(tmp_path / "runner.pid"),
    )


def look(
    member: Member, folder: Path, *, known: Identity | None = None, seconds: float = 5
) -> Liveness:
    """Ask every witness."""
    return observe_member(member, known=known, cwd=folder, env=ENVIRON, seconds=seconds)


# --- what the witnesses say together ----------------------------------------------


@pytest.mark.parametrize("command", [0, 1, 2, 127, 137, None])
@pytest.mark.parametrize("identity", [ENGINE, None])
@pytest.mark.parametrize("port", [True, False, None])
@pytest.mark.parametrize("leftovers", [(), (43,)])
@pytest.mark.parametrize("by_pid", [None, Identity(44, 8)])
@pytest.mark.parametrize("unasked", [(), ("metrics port (timed out)",)])
def test_every_verdict_needs_every_witness(
    command: int | None,
    identity: Identity | None,
    port: bool | None,
    leftovers: tuple[int, ...],
    by_pid: Identity | None,
    unasked: tuple[str, ...],
) -> None:
    """Alive: the command says so and the process runs. Gone: the command says so, and neither
    process nor port nor leftover speaks against it. Anything else is undecided, and so is
    everything while a witness could not be asked."""
    seen = Liveness("m", command, identity, True, port, leftovers, by_pid, unasked)
    runs = identity is not None or by_pid is not None
    assert seen.is_alive == (command == 0 and runs and not unasked)
    assert seen.is_gone == (
        command == 1 and not runs and port is not True and not leftovers and not unasked
    )
    word = "alive" if seen.is_alive else "gone" if seen.is_gone else "undecided"
    assert seen.sentence.startswith(f"m {word}: alive command says ")


def test_nothing_is_alive_and_gone() -> None:
    """Whatever was seen, at most one of the two is proved."""
    for command, identity, port, left in itertools.product(
        (0, 1, 2, None), (ENGINE, None), (True, False, None), ((), (1,))
    ):
        seen = Liveness("m", command, identity, True, port, left)
        assert not (seen.is_alive and seen.is_gone)


SENTENCES = {
    "alive": (
        Liveness("m", 0, ENGINE, True, True),
        "m alive: alive command says alive, pid 42 (started at tick 7) runs, its metrics port answers",
    ),
    "gone": (
        Liveness("m", 1, None, True, False),
        "m gone: alive command says gone, no process of its identity runs, its metrics port is closed",
    ),
    "no answer": (
        Liveness("m", None, None, False, None),
        "m undecided: alive command says no answer, no process is known as it",
    ),
    "could not tell": (
        Liveness("m", 3, None, True, None, (8, 9)),
        "m undecided: alive command says could not tell (exit 3), no process of its identity runs, "
        "started processes still run: (8, 9)",
    ),
    "by its pid alone": (
        Liveness("m", 0, None, False, None, by_pid=ENGINE),
        "m alive: alive command says alive, pid 42 runs (its pid file has no start time)",
    ),
    "not asked": (
        Liveness("m", 1, None, True, None, unasked=("pid file x (it holds no pid)", "y (z)")),
        "m undecided: alive command says gone, no process of its identity runs; "
        "could not be asked: pid file x (it holds no pid), y (z)",
    ),
}


@pytest.mark.parametrize(("seen", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_what_was_seen_is_told_witness_by_witness(seen: Liveness, sentence: str) -> None:
    """An operator sees which of them said what."""
    assert seen.sentence == sentence


# --- asking them ------------------------------------------------------------------


def test_a_member_that_never_was_is_gone(member: Member, tmp_path: Path) -> None:
    """No pid file, and the command says gone."""
    assert look(member, tmp_path).is_gone


def test_a_member_that_runs_is_alive(member: Member, tmp_path: Path, process: Identity) -> None:
    """The pid file names a process that runs, and the command says so too."""
    Path(member.pid_file).write_text(f"{process.pid}\n{process.start_ticks}\n")
    seen = look(member._replace(alive_command="exit 0"), tmp_path)
    assert seen.is_alive
    assert seen.identity == process


def test_a_process_outweighs_the_command(member: Member, tmp_path: Path, process: Identity) -> None:
    """Said to be gone while its process runs is undecided; also known from the journal alone."""
    assert not look(member, tmp_path, known=process).is_gone
    Path(member.pid_file).write_text(f"{process.pid}\n{process.start_ticks}\n")
    assert not look(member, tmp_path).is_gone


def test_who_runs_now_is_told_and_not_who_ran_then(
    member: Member, tmp_path: Path, process: Identity
) -> None:
    """A member restarted by somebody is found by its pid file, though the journal knows another."""
    Path(member.pid_file).write_text(f"{process.pid}\n{process.start_ticks}\n")
    assert look(member, tmp_path, known=Identity(process.pid, 1)).identity == process


def test_a_reused_pid_is_nobody(member: Member, tmp_path: Path, process: Identity) -> None:
    """Pid file and journal name a process that had this pid before."""
    before = Identity(process.pid, process.start_ticks - 1, boot_id())
    Path(member.pid_file).write_text(f"{before.pid}\n{before.start_ticks}\n")
    os.utime(member.pid_file, (1e9, 1e9))  # long before whoever has the pid now began
    assert look(member, tmp_path, known=before).is_gone


def test_one_that_cannot_be_seen_any_more_is_not_gone(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user took the run over, from whom /proc hides who has the pid (hidepid)."""
    monkeypatch.setattr("ctp_runbook.probes.liveness.is_hidden", lambda pid: pid == 77)
    seen = look(member, tmp_path, known=Identity(77, 1))
    assert not seen.is_gone
    assert seen.sentence.endswith(
        "; could not be asked: pid 77 (started at tick 1) (/proc hides who has its pid from this user)"
    )


def test_a_zombie_is_gone(member: Member, tmp_path: Path) -> None:
    """An engine that ended and was not reaped cannot trade."""
    with subprocess.Popen(["sleep", "60"]) as child:
        was = identity_of(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert look(member, tmp_path, known=was).is_gone


def test_a_blank_alive_command_says_nothing(
    member: Member, tmp_path: Path, process: Identity
) -> None:
    """No command, no word of it: neither alive nor gone."""
    blank = member._replace(alive_command="")
    assert look(blank, tmp_path).command is None
    seen = look(blank, tmp_path, known=process)
    assert not seen.is_alive
    assert not seen.is_gone


def test_an_alive_command_that_hangs_could_not_tell(member: Member, tmp_path: Path) -> None:
    """It is ended after its time, with all it started."""
    began = time.monotonic()
    hanging = member._replace(alive_command="trap '' TERM; sleep 600 & sleep 600")
    seen = observe_member(
        hanging, known=None, cwd=tmp_path, env={**ENVIRON, "MARK": str(tmp_path)}, seconds=0.2
    )
    assert (seen.command, seen.is_gone) == (None, False)
    assert time.monotonic() - began < 60
    assert processes_with(f"MARK={tmp_path}") == ()


# --- pid files and units ----------------------------------------------------------

PID_FILES = {
    "empty": "",
    "no number": "engine",
    "half": "12 x",
    "not text": "\N{GREEK SMALL LETTER ALPHA}",
    "more than a pid can be": str(TOO_LARGE),
    "init": "1",
    "init, with a start time": "1\n7\n",
    "no pid at all": "0",
    "a start time that is none": "42 0",
    "three numbers": "42 7 1",
    "more digits than a number has": "9" * 5000,
}


@pytest.mark.parametrize("text", PID_FILES.values(), ids=PID_FILES)
def test_a_pid_file_that_names_nobody(text: str, member: Member) -> None:
    """Rubbish is no process."""
    Path(member.pid_file).write_text(text)
    assert recorded_identity(member) is None


def test_a_pid_alone_is_a_witness_and_no_identity(
    member: Member, tmp_path: Path, process: Identity
) -> None:
    """Whoever runs under it may be a stranger: nobody to end, yet reason enough not to say gone."""
    Path(member.pid_file).write_text(f"{process.pid}\n")
    assert recorded_identity(member) is None
    seen = look(member, tmp_path)
    assert (seen.identity, seen.by_pid, seen.is_gone) == (None, process, False)
    assert look(member._replace(alive_command="exit 0"), tmp_path).is_alive
    Path(member.pid_file).write_text(f"{dead_pid()}\n")
    assert look(member, tmp_path).is_gone


def test_a_relative_pid_file_lies_where_the_commands_run(member: Member, tmp_path: Path) -> None:
    """And not where this process happens to be: a file not found would say gone."""
    gone = dead_pid()
    Path(member.pid_file).write_text(f"{gone}\n7\n")
    relative = member._replace(pid_file="runner.pid")
    assert recorded_identity(relative, cwd=tmp_path) == Identity(gone, 7, boot_id())
    assert recorded_identity(relative) is None
    assert look(relative, tmp_path).identity_known


def test_a_recorded_identity_need_not_run(member: Member) -> None:
    """Two numbers are taken as they stand: who it was."""
    gone = dead_pid()
    Path(member.pid_file).write_text(f"{gone}\n7\n")
    assert recorded_identity(member) == Identity(gone, 7, boot_id())


@pytest.mark.parametrize("text", [*sorted(set(PID_FILES.values()) - {str(TOO_LARGE)}), "\0\0\0"])
def test_a_garbled_pid_file_is_no_proof_of_gone(text: str, member: Member, tmp_path: Path) -> None:
    """A witness that could not be asked is not one that says gone."""
    Path(member.pid_file).write_text(text)
    seen = look(member, tmp_path)
    assert not seen.is_gone
    assert f"could not be asked: pid file {member.pid_file} (it holds " in seen.sentence


def test_a_pid_file_that_cannot_be_read_is_no_proof_of_gone(member: Member, tmp_path: Path) -> None:
    """A folder in its place, say; only that there is no file says that there is no process."""
    Path(member.pid_file).mkdir()
    seen = look(member, tmp_path)
    assert not seen.is_gone
    assert "(Is a directory)" in seen.sentence


def test_a_garbled_pid_file_is_no_proof_of_alive(
    member: Member, tmp_path: Path, process: Identity
) -> None:
    """The journal's process runs and the command says alive; who runs now is still not known."""
    Path(member.pid_file).write_text("?")
    seen = look(member._replace(alive_command="exit 0"), tmp_path, known=process)
    assert (seen.identity, seen.is_alive, seen.is_gone) == (process, False, False)


def test_an_alive_command_that_cannot_be_run_was_not_asked(member: Member, tmp_path: Path) -> None:
    """Its folder is gone: undecided, in words, and no error."""
    seen = look(member, tmp_path / "gone")
    assert (seen.command, seen.is_alive, seen.is_gone) == (None, False, False)
    assert "could not be asked: alive command (cannot be run in" in seen.sentence


# What systemctl prints, its exit code; whether a process is named, and what could not be asked.
UNITS = {
    "down": ("LoadState=loaded\nActiveState=inactive\nMainPID=0", 0, False, ""),
    "failed": ("LoadState=loaded\nActiveState=failed\nMainPID=0", 0, False, ""),
    "up": ("LoadState=loaded\nActiveState=active\nMainPID={pid}", 0, True, ""),
    "going up": (
        "LoadState=loaded\nActiveState=activating\nMainPID=0",
        0,
        False,
        "it is activating, neither up nor down",
    ),
    "no bus": ("", 1, False, "systemctl ended with exit 1, expected 0"),
    "half an answer": ("MainPID=0", 0, False, "systemctl told no LoadState, ActiveState"),
    "mistyped": (
        "LoadState=not-found\nActiveState=inactive\nMainPID=0",
        0,
        False,
        "is its name right?",
    ),
    "masked": (
        "LoadState=masked\nActiveState=inactive\nMainPID=0",
        0,
        False,
        "its LoadState is masked, expected loaded",
    ),
    "in another namespace": (
        f"LoadState=loaded\nActiveState=active\nMainPID={TOO_LARGE}",
        0,
        False,
        "cannot be seen from here",
    ),
    "nonsense": (
        "LoadState=loaded\nActiveState=active\nMainPID=x",
        0,
        False,
        "its main process is no number",
    ),
}


@pytest.mark.parametrize(("says", "code", "runs", "unasked"), UNITS.values(), ids=UNITS)
def test_a_unit_names_its_main_process(
    says: str,
    code: int,
    runs: bool,
    unasked: str,
    member: Member,
    process: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its start time. A systemctl that fails, or a unit half up, proves nothing."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f"#!/bin/sh\nprintf '{says.format(pid=process.pid)}\\n'\nexit {code}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    unit = member._replace(pid_file="", unit="engine.service")
    seen = look(unit, tmp_path)
    assert recorded_identity(unit) == seen.identity == (process if runs else None)
    assert seen.is_gone == (not runs and not unasked)
    assert bool(seen.unasked) == bool(unasked)
    assert unasked in seen.sentence


def test_without_systemd_a_unit_says_nothing(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither alive nor gone; the sentence says why."""
    unit = member._replace(pid_file="", unit="engine.service")
    monkeypatch.setenv("PATH", "/nowhere")
    assert recorded_identity(unit) is None
    seen = observe_member(unit, known=None, cwd=tmp_path, env=ENVIRON, seconds=5)
    assert "unit engine.service (NEW_STRATEGY_RUNNER_UNIT: cannot be run" in seen.sentence
    assert not seen.is_gone


# --- what a step left ------------------------------------------------------------


def test_a_step_is_known_by_what_it_left(tmp_path: Path) -> None:
    """Of this run and of these steps, and of no other."""
    variables = {"CTP_RUN_ID": f"probe-{os.getpid()}", "CTP_STEP": "start_new_core_engine"}
    with subprocess.Popen(["setsid", "sleep", "60"], env={**ENVIRON, **variables}) as daemon:
        run_id = variables["CTP_RUN_ID"]
        both = ("start_new_core_engine", "start_new_strategy_runner")
        wait_for(lambda: processes_of_step(run_id, both) == (daemon.pid,))
        assert processes_of_step(run_id, ("start_new_strategy_runner",)) == ()
        assert processes_of_step(f"{run_id}0", both) == ()
        assert processes_of_step(run_id, ()) == ()
        daemon.kill()
        os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
        assert processes_of_step(run_id, both) == ()


# --- ports ------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Member, socket.socket]]:
    """An engine whose alive command says gone, and its metrics port, which listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        yield (
            Member(Generation.NEW, Role.CORE_ENGINE, alive_command="exit 1", metrics_url=url),
            server,
        )


@pytest.mark.twin
def test_a_port_that_answers_speaks_against_gone(
    engine: tuple[Member, socket.socket], tmp_path: Path
) -> None:
    """An engine still listening is not gone, whatever its command says."""
    member, server = engine
    seen = look(member, tmp_path)
    assert (seen.port_open, seen.is_gone) == (True, False)
    server.close()
    seen = look(member, tmp_path)
    assert (seen.port_open, seen.is_gone) == (False, True)


@pytest.mark.twin
def test_a_port_that_hangs_is_not_closed(
    engine: tuple[Member, socket.socket], tmp_path: Path
) -> None:
    """An engine too stuck to accept still holds its port; only a refusal proves it closed."""
    member, server = engine
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(server.getsockname())
    seen = look(member, tmp_path)
    for one in waiting:
        one.close()
    assert not seen.is_gone
    assert f"could not be asked: metrics port ({member.metrics_url}: timed out)" in seen.sentence


# --- what ran below it, and what looks like it ------------------------------------

# Alive command, process, survivors, lookalikes; gone, torn.
TORN: dict[str, tuple[Liveness, bool, bool]] = {
    "gone": (Liveness("m", 1, None, True, None), True, False),
    "its process runs": (Liveness("m", 1, ENGINE, True, None), False, True),
    "somebody runs under its pid": (
        Liveness("m", 1, None, False, None, by_pid=ENGINE),
        False,
        True,
    ),
    "a child of it runs": (Liveness("m", 1, None, True, None, survivors=(43,)), False, True),
    "its like runs": (Liveness("m", 1, None, True, None, lookalikes=(44,)), False, True),
    "nothing is like it": (Liveness("m", 1, None, True, None, lookalikes=()), True, False),
    "a start left something": (Liveness("m", 1, None, True, None, leftovers=(45,)), False, False),
    "its port answers": (Liveness("m", 1, None, True, True), False, False),
    "a witness is silent": (Liveness("m", 1, None, True, None, unasked=("x",)), False, False),
    "said to be alive": (Liveness("m", 0, ENGINE, True, None, survivors=(43,)), False, False),
}


@pytest.mark.parametrize(("seen", "is_gone", "is_torn"), TORN.values(), ids=TORN)
def test_torn_is_what_no_later_look_will_mend(seen: Liveness, is_gone: bool, is_torn: bool) -> None:
    """The command says gone while a process of it runs; a port may yet close, a child end."""
    assert (seen.is_gone, seen.is_torn) == (is_gone, is_torn)


LIKENESS = {
    "a survivor": (
        Liveness("m", 1, None, True, None, survivors=(43, 44)),
        "no process of its identity runs, processes below it still run: (43, 44)",
    ),
    "its like": (
        Liveness("m", 1, None, True, None, lookalikes=(45,)),
        "runs, its command line runs again, or still, as (45,)",
    ),
    "no like": (
        Liveness("m", 1, None, True, None, lookalikes=()),
        "no process of its identity runs, nor its command line elsewhere",
    ),
    "no like beside itself": (
        Liveness("m", 0, ENGINE, True, None, lookalikes=()),
        "m alive: alive command says alive, pid 42 (started at tick 7) runs",
    ),
}


@pytest.mark.parametrize(("seen", "said"), LIKENESS.values(), ids=LIKENESS)
def test_what_outlived_it_is_named(seen: Liveness, said: str) -> None:
    """By pid, so that an operator can look at it."""
    assert said in seen.sentence
    assert ("elsewhere" in seen.sentence) == ("elsewhere" in said)


EMPTIED = {": > F": "", "echo > F": "\n", "echo 0 > F": "0\n", "echo stopped > F": "stopped\n"}


@pytest.mark.parametrize("text", EMPTIED.values(), ids=EMPTIED)
def test_a_pid_file_that_its_stop_emptied_names_nobody(
    text: str, member: Member, tmp_path: Path
) -> None:
    """As one that is removed: who was pinned is sought all the same. Beside a living process it stays
    a witness that could not be asked, and so it does where another number was left."""
    Path(member.pid_file).write_text(text)
    ended = Identity(dead_pid(), 7, boot_id())
    assert look(member, tmp_path, known=ended).is_gone
    assert not look(member, tmp_path).is_gone
    then = time.time() - 3
    os.utime(member.pid_file, (then, then))  # nobody is writing it any more
    assert look(member, tmp_path).is_gone
    Path(member.pid_file).write_text("12 x")
    os.utime(member.pid_file, (then, then))
    assert not look(member, tmp_path, known=ended).is_gone


def test_one_that_is_stopped_is_not_alive(
    member: Member, tmp_path: Path, process: Identity
) -> None:
    """SIGSTOP: `kill -0` finds it, and it sends no order."""
    Path(member.pid_file).write_text(f"{process.pid}\n{process.start_ticks}\n")
    living = member._replace(alive_command="exit 0")
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(process.pid))
    seen = look(living, tmp_path)
    assert (seen.is_alive, seen.is_gone) == (False, False)
    assert f"{process} is stopped (SIGSTOP) and does nothing until it gets CONT" in seen.sentence
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: not is_stopped(process.pid))
    assert look(living, tmp_path).is_alive


PINNED = {
    "could not tell": (Liveness("m", 2, None, True, None, lookalikes=()), True),
    "was never pinned": (Liveness("m", 2, None, True, None), False),
    "gave no answer": (Liveness("m", None, None, True, None, lookalikes=()), False),
    "says alive": (Liveness("m", 0, None, True, None, lookalikes=()), False),
    "its like runs": (Liveness("m", 2, None, True, None, lookalikes=(3,)), False),
    "its port answers": (Liveness("m", 2, None, True, True, lookalikes=()), False),
    "a witness is silent": (
        Liveness("m", 2, None, True, None, lookalikes=(), unasked=("x",)),
        False,
    ),
}


@pytest.mark.parametrize(("seen", "is_so"), PINNED.values(), ids=PINNED)
def test_what_our_own_witnesses_say_alone(seen: Liveness, is_so: bool) -> None:
    """No proof of gone, and enough to start the very same again."""
    assert seen.is_gone_as_pinned is is_so
    assert not seen.is_gone


def test_what_others_saw_is_kept(member: Member, tmp_path: Path) -> None:
    """What ran below it, what is like it and what a start left behind are witnesses, too."""
    seen = observe_member(
        member,
        known=None,
        leftovers=(1,),
        survivors=(2,),
        lookalikes=(3,),
        cwd=tmp_path,
        env=ENVIRON,
        seconds=5,
    )
    assert (seen.leftovers, seen.survivors, seen.lookalikes) == ((1,), (2,), (3,))
    assert not seen.is_gone


def test_a_look_ends_at_a_word(member: Member, tmp_path: Path) -> None:
    """An abort does not wait for an alive command that hangs: it could not tell."""
    began = time.monotonic()
    hanging = member._replace(alive_command="sleep 600")
    seen = observe_member(
        hanging, known=None, cwd=tmp_path, env=ENVIRON, seconds=60, interrupt=lambda: "abort"
    )
    assert (seen.command, seen.is_gone) == (None, False)
    assert time.monotonic() - began < 50


# --- a glance ---------------------------------------------------------------------


def test_a_glance_sees_who_runs(member: Member, tmp_path: Path, process: Identity) -> None:
    """By what the journal knows, by the pid file, and by a bare pid; the command is not asked."""
    deaf = member._replace(alive_command="touch asked; exit 0")

    def shows(known: Identity | None = None) -> bool:
        return shows_by_name_or_port(deaf, known=known, cwd=tmp_path)

    assert not shows()
    assert shows(process)
    assert not shows(Identity(process.pid, process.start_ticks - 1, boot_id()))
    for text in (f"{process.pid}\n{process.start_ticks}\n", f"{process.pid}\n"):
        Path(member.pid_file).write_text(text)
        assert shows()
    Path(member.pid_file).write_text("?")
    assert not shows()
    assert not (tmp_path / "asked").exists()


@pytest.mark.twin
def test_a_glance_sees_a_port_that_answers_or_hangs(
    engine: tuple[Member, socket.socket], tmp_path: Path
) -> None:
    """A suspicion, to be followed by a look: only a refused port is no sign of life."""
    member, server = engine

    def shows() -> bool:
        return shows_by_name_or_port(member, known=None, cwd=tmp_path)

    assert shows()
    waiting = [socket.socket() for _ in range(4)]
    for link in waiting:
        link.setblocking(False)
        link.connect_ex(server.getsockname())
    assert shows()
    for link in waiting:
        link.close()
    server.close()
    assert not shows()
