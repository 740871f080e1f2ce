"""What a command line would execute, told without running it, and never guessed."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctp_runbook.plan.shell.commands import (
    executables,
    is_idle,
    needed,
    never_ran,
    swallows_failure,
    untold,
)
from ctp_runbook.plan.shell.files import Executable, is_missing, resolve

NAMED: dict[str, list[str]] = {
    "cat file": ["cat"],
    "LANG=C A=1 cat file": ["cat"],
    "a && b; c | d": ["a", "b", "c", "d"],
    "a || b": ["a", "b"],
    "pgrep x || ./a": ["pgrep", "./a"],
    "a & b": ["a", "b"],
    "(a; b) | c": ["a", "b", "c"],
    "{ a; b; }": ["a", "b"],
    "! a": ["a"],
    "time a": ["a"],
    "echo x; exit 1": [],
    "a $((1+2)) && b": ["a", "b"],
    "a $(((1+2)*3))": [],
    "a $(($(b)+1))": [],
    "bin/a --x >out 2>&1": ["bin/a"],
    ">out a": ["a"],
    "2>&1 a": ["a"],
    "bash infra/x.sh --execute": ["bash", "infra/x.sh"],
    "bash -c 'a b'": ["bash", "a"],
    "bash -x infra/x.sh": ["bash", "infra/x.sh"],
    "python3.11 run.py --x": ["python3.11", "run.py"],
    "python3 -m module": ["python3"],
    "nohup env A=1 a": ["nohup", "env", "a"],
    "sudo -u x a": ["sudo", "a"],
    "exec a": ["a"],
    "bash -lc 'cd /opt/x && exec ./a --y'": ["bash", "./a"],
    "bash -euo pipefail -c 'a'": ["bash", "a"],
    'sh -c "a && b"': ["sh", "a", "b"],
    "bash -c -l 'a'": ["bash", "a"],
    "bash --norc -x x.sh": ["bash", "x.sh"],
    "bash -n x.sh": ["bash"],
    "env -C /opt -u B -i A=1 a": ["env", "a"],
    "env --chdir=/opt --unset B a": ["env", "a"],
    "env -S 'a b'": ["env"],
    "nohup ./a >log 2>&1 & echo $! >F": ["nohup", "./a"],
    "timeout -k 5 --signal=INT 30 a": ["timeout", "a"],
    "timeout --sig INT 30 a": ["timeout", "a"],
    "timeout --no-such 30 a": ["timeout"],
    "setsid -f a": ["setsid", "a"],
    "exec -a name a": ["a"],
    "nice -n 5 a": ["nice", "a"],
    "nice -10 a": ["nice", "a"],
    "stdbuf -oL -e 0 a": ["stdbuf", "a"],
    "sudo -n -u trader A=1 /x/a": ["sudo", "/x/a"],
    "sudo -l a": ["sudo"],
    "systemd-run --user --unit x -p A=1 /x/a": ["systemd-run", "/x/a"],
    "setarch -R a": ["setarch", "a"],
    "setarch x86_64 -R a": ["setarch", "a"],
    "setarch x86_64 linux32 a": ["setarch", "linux32", "a"],
    "taskset -c 2,3 a": ["taskset", "a"],
    "taskset -p 1": ["taskset"],
    "chrt -f 50 numactl -m 0 a": ["chrt", "numactl", "a"],
    "flock -n F a": ["flock", "a"],
    "flock F -c 'a; b'": ["flock", "a", "b"],
    "command a": ["a"],
    "command -v a": [],
    "eval 'a b'": ["a"],
    ". ./env.sh && a": ["./env.sh", "a"],
    "python3 -u -W ignore run.py": ["python3", "run.py"],
    "env A=1 nohup timeout 5 bash -c 'nice sh -c \"a\"'": [
        "env",
        "nohup",
        "timeout",
        "bash",
        "nice",
        "sh",
        "a",
    ],
    "find . -exec a {} ';'": ["find"],
    "echo '&&' b": [],
    "kill $(cat F)": ["cat"],
    "exit 0; a": [],
    "exec a; b": ["a"],
    "bash -c 'exit 0; a'; b": ["bash", "b"],
    "f() { a; }; f": [],
    "x=(1 2); a": [],
    "ctp-runbook proc start --pid-file F -- bin/engine --x": ["ctp-runbook", "bin/engine"],
    "ctp-runbook proc start --pid-file F -- python3 run.py": ["ctp-runbook", "python3", "run.py"],
    "ctp-runbook proc stop --pid-file F": ["ctp-runbook"],
    "cat a # b; c": ["cat"],
    "'a b'/c x": ["a b/c"],
    "$HOME/bin/a": [],
    "`which a` x": [],
    "~/a": [],
    "/opt/<release>/bin/a --x": [],
    "a --x=<name> && b": ["a", "b"],
    "for x in a b; do c; done": [],
    "if a; then b; fi": [],
    "case x in a) b;; esac": [],
    "cat <<EOF": [],
    "a 'unbalanced": [],
    "a && [[ -f x ]]": [],
    "": [],
    ";;": [],
}


@pytest.mark.parametrize(("command", "words"), NAMED.items(), ids=NAMED)
def test_executables_of_a_command(command: str, words: list[str]) -> None:
    """Every simple command's own word and the script of an interpreter; silence where unsure."""
    assert [executable.word for executable in executables(command)] == words


def test_cd_moves_relative_names() -> None:
    """After ``cd x`` a relative name is looked up in x; after ``cd $y`` nothing is claimed."""
    assert executables("cd x && ./a && cd y; ./b") == (
        Executable("./a", "x"),
        Executable("./b", "x/y", otherwise=("x", "")),
    )
    assert executables("cd $y && ./a") == ()
    assert executables("(cd x && ./a); ./b") == (Executable("./a", "x"), Executable("./b"))
    assert executables("cd /opt && ./a") == (Executable("./a", "/opt"),)


STAYS = {
    "cd no; ./there": "there",
    "cd no 2>/dev/null; ./there": "there",
    "cd no || true; ./there": "there",
    "cd no || ./there": "there",
    "cd no && echo x; ./there": "there",
    "cd no; cd sub; ./there": "sub/there",
    "cd sub; cd no; ./there": "sub/there",
    "cd sub; ./there": "sub/there",
    "pushd no; ./there": "there",
    "bash -c 'cd no; ./there'": "there",
    "set -e; cd no; ./there": "",
    "set -euo pipefail; cd no; ./there": "",
    "set -o errexit; cd no; ./there": "",
    "set -e; set +e; cd no; ./there": "there",
    "bash -ec 'cd no; ./there'": "",
    "cd no || exit 1; ./there": "",
    "cd no || { echo gone; exit 1; }; ./there": "",
    "cd no && ./there": "",
}


@pytest.mark.parametrize(("command", "name"), STAYS.items(), ids=STAYS)
def test_a_cd_that_fails_stays_where_it_is(command: str, name: str, tmp_path: Path) -> None:
    """Where there is no such folder and nobody minds, bash runs what stands where it is."""
    (tmp_path / "sub").mkdir()
    for program in ("there", "sub/there"):
        (tmp_path / program).touch(mode=0o755)
    (executable,) = (each for each in executables(command) if each.word == "./there")
    found = resolve(executable, base=tmp_path, environ={})
    assert found == (tmp_path / name if name else None)
    assert is_missing(executable, base=tmp_path, environ={}) is (not name)


@given(command=st.text(max_size=60) | st.text(alphabet="ab '\"\\;&|<>(){}$`#=!-/\n", max_size=60))
def test_no_command_crashes(command: str) -> None:
    """Whatever stands in a template is answered."""
    assert isinstance(executables(command), tuple)
    assert isinstance(is_idle(command), bool)
    assert isinstance(swallows_failure(command), bool)


@pytest.mark.parametrize(
    "many", ["env ", "! ", "exec ", "eval ", "( ", "{ ", "$(", "a && ", "a'b'"]
)
def test_no_length_of_a_command_is_too_much(many: str) -> None:
    """Nested or repeated ten thousand times it is read, or not, in no time."""
    command = many * 10_000 + "a"
    assert needed(command) or untold(command) or not is_idle(command)


@pytest.mark.parametrize(
    "command",
    [
        "echo ok", "true", ":", "echo a; sleep 1 && true", "/bin/true",
        "bash -lc 'echo skip'", 'bash -c "true"', "sh -c :", "bash -c 'exit 0'", "bash -c ''",
        "env -C / A=1 echo skip", "nohup true", "timeout 5 bash -lc 'echo skip; exit 0'",
        "setsid echo", "exec true", "nice -n 5 true", "stdbuf -oL echo x", "sudo -u x true",
        "cd /opt && echo skip", "(echo a)", "{ true; }", "echo a >/dev/null 2>&1", "eval echo a",
        "exit 0; kill 1", "echo skip # kill 1", "command true", "! true", "# kill 1",
        "su trader -c 'echo skip'", "su - trader -c true", "ssh host 'echo skip'", "ssh host true", "ssh h -- echo a",
        "docker exec -it c echo skip", "docker compose -f F exec c sh -c 'echo skip'",
        "if true; then echo skip; fi", "while true; do sleep 1; done", "echo $(echo 0)",
        "echo $((1 - 1))",
        "echo skip | cat", "sudo -i echo skip", "sudo -s -u x bash -c 'echo skip'",
    ],
)  # fmt: skip
def test_idle_commands_are_told(command: str) -> None:
    """A command that only prints, sleeps or succeeds does no step."""
    assert is_idle(command)


@pytest.mark.parametrize(
    "command",
    [
        "echo a; b", "a", "echo $(a) | b", "", "if true; then a; fi",
        "echo stop >/run/engine.fifo", ": >F", "echo $(a)", "echo `a`", "echo <(a)",
        "bash -lc 'echo skip; a'", "bash -c \"$X\"", "bash -s", "$X", "true || a", "false && a",
        "env A=1 a", "exec >F; echo a", "A=$(a) true", ". ./x", "trap a EXIT", "eval $X",
        "ctp-runbook proc start --pid-file F -- sleep 9",
        "su trader -c 'a'", "su trader", "ssh host a", "ssh host", "ssh -N host", "ssh host $X",
        "docker exec c a", "docker exec $X echo a", "docker stop c", "docker run i echo a",
        "if true; then echo a >F; fi", "if echo $(a); then echo b; fi", "for x in a; do b; done",
        "f() { a; }; f", "cat F", "cat <F", "echo $(<F)", "cat F | cat", "echo a | cat >F",
        "false && eval 'exit 0'; a", "false && { exit 0; }; a", "(exit 0); a", "exit 0 | a",
    ],
)  # fmt: skip
def test_other_commands_are_not_idle(command: str) -> None:
    """One real word among them is enough; what cannot be read is not accused."""
    assert not is_idle(command)


@pytest.mark.parametrize(
    ("command", "swallows"),
    [
        ("kill $(cat pid) || true", True),
        ("kill 1 ||true", True),
        ("kill 1; true", True),
        ("kill 1 || :", True),
        ("kill 1 || exit 0", True),
        ("(kill 1 || true); wait", True),
        ("kill 1 || trueish", False),
        ("kill 1 || echo 'gone already'", True),
        ("bash -c 'kill 1 || printf gone'", True),
        ("kill 1 || /bin/true", True),
        ("kill 1 || { echo gone; exit 1; }", False),
        ("kill 1 || echo gone; exit 1", False),
        ("kill 1 || echo $(kill -9 1)", False),
        ("kill 1 || exit 1", False),
        ("true; kill 1", False),
        ("kill 1 && true", False),
        ("bash -lc 'kill 1 || true'", True),
        ("timeout 5 sh -c 'kill 1; exit 0'", True),
        ("bash -lc 'kill 1'", False),
    ],
)
def test_swallowed_failures_are_told(command: str, swallows: bool) -> None:
    """``|| true`` and its like make an exit code say nothing."""
    assert swallows_failure(command) is swallows


def test_files_are_found_as_bash_finds_them(tmp_path: Path) -> None:
    """PATH for bare names, the folder for the others; a script only has to be readable."""
    tool, script = tmp_path / "bin" / "tool", tmp_path / "run.sh"
    tool.parent.mkdir()
    for path, mode in ((tool, 0o755), (script, 0o644)):
        path.touch()
        path.chmod(mode)
    environ = {"PATH": "/nowhere:bin"}

    def found(executable: Executable) -> Path | None:
        return resolve(executable, base=tmp_path, environ=environ)

    assert found(Executable("tool")) == tool
    assert found(Executable("./tool", "bin")) == tmp_path / "bin/./tool"
    assert found(Executable("run.sh", is_script=True)) == script
    assert found(Executable("./bin")) is None
    assert found(Executable("no-such-tool")) is None
    assert found(Executable("a\0b")) is None
    assert found(Executable("x" * 5000)) is None
    assert found(Executable(str(tool), "elsewhere")) == tool


# A command, what it ended with; whether it is certain that it did nothing.
NEVER_RAN = {
    "not found": ("no-such-stop --now", 127, True),
    "not found, with its output": ("no-such-stop >> log 2>&1", 127, True),
    "no such file": ("/no/such/stop.sh", 127, True),
    "not executable": ("./plain.sh", 126, True),
    "by an unset variable": ("$NOT_SET/stop.sh", 127, True),
    "by a variable": ("${HERE}/no-such-stop", 127, True),
    "no such script": ("bash no-such-script.sh", 127, True),
    "below a wrapper": ("nohup no-such-stop", 127, True),
    "below bash": ("bash -lc '/no/such/stop.sh --now'", 127, True),
    "below many": ("env -C / A=1 timeout 5 bash -c 'exec /no/such/stop'", 127, True),
    "behind a cd": ("bash -lc 'cd / && ./no-such-stop'", 127, True),
    "on the PATH of a login": ("bash -lc no-such-stop", 127, False),
    "the second below bash": ("bash -c './stop.sh; /no/such/stop'", 127, False),
    "a script below bash": ("bash -c ./stop.sh", 127, False),
    "by a variable set here": ("X=$HERE; $X/stop.sh", 127, False),
    "by a variable alone": ("$GONE", 127, True),
    "by a variable that is read": ("read HERE; $HERE/no-such-stop", 127, False),
    "by a number of bash's": ("$UID/stop.sh", 127, False),
    "a script that ended so": ("./stop.sh", 127, False),
    "a script by a variable": ("$HERE/stop.sh", 127, False),
    "the second of two": ("kill 1; no-such-stop", 127, False),
    "behind another": ("kill 1 && no-such-stop", 127, False),
    "around another": ("no-such-stop $(kill 1)", 127, False),
    "around another, as of old": ("no-such-stop `kill 1`", 127, False),
    "a word of bash": ("kill 1", 127, False),
    "it failed": ("no-such-stop", 1, False),
    "it did not fail": ("no-such-stop", 0, False),
    "its end was not seen": ("no-such-stop", -1, False),
    "too complex": ("if no-such-stop; then true; fi", 127, False),
    "nothing": ("", 127, False),
    "proc that could not tell": ("ctp-runbook proc stop --pid-file f", 3, True),
    "proc that refused": ("/opt/bin/ctp-runbook proc stop", 2, True),
    "proc as a module": ("python -m ctp_runbook proc stop --pid-file f", 3, True),
    "proc that did not end it": ("ctp-runbook proc stop --pid-file f", 1, False),
    "proc below bash": ("bash -lc 'ctp-runbook proc stop --pid-file f'", 3, True),
    "proc below bash, then another": ("bash -c 'ctp-runbook proc stop; ./stop.sh'", 3, False),
    "another part of proc": ("ctp-runbook proc alive --pid-file f", 3, False),
    "proc, then another": ("ctp-runbook proc stop --pid-file f; ./stop.sh", 3, False),
    "another's refusal": ("./stop.sh proc stop", 3, False),
}


@pytest.mark.parametrize(("command", "code", "never"), NEVER_RAN.values(), ids=NEVER_RAN)
def test_what_never_ran_is_told_for_certain(
    command: str, code: int, never: bool, tmp_path: Path
) -> None:
    """Where the least of it may have run, it ran."""
    (tmp_path / "plain.sh").write_text("")
    (tmp_path / "stop.sh").write_text("kill 1\nno-such-stop\n")
    (tmp_path / "stop.sh").chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "HERE": str(tmp_path), "GONE": "/no/stop"}
    assert never_ran(command, code, base=tmp_path, environ=environ) == never


# A command; what of it is needed.
NEEDED = {
    "env -C /opt ./a": ["env", "./a"],
    "bash -lc '/no/a'": ["bash", "/no/a"],
    "bash -lc a": ["bash"],  # the login's PATH is not known
    "cd /opt && nohup ./a & echo $! >F": ["nohup", "./a"],
    "a || b": ["a"],
    "a && b": ["a"],  # a may make b
    "test -x b && b": ["b"],
    "test -x b && b; true": [],
    "test -x b && b || true": [],
    "bash -c 'test -x b && b'; true": ["bash"],
    "export PATH=/x:$PATH && a": [],
    "PATH=/x a && b": [],
    "PATH=/x a": [],
    "env PATH=/x a": ["env"],
    "env -i a": ["env"],
    ". ./env.sh && a": ["./env.sh"],
    "cp x ./a && ./a": ["cp"],
    "chmod +x a && ./a": ["chmod"],
    "echo x >a.sh; bash a.sh": ["bash"],
    "mkdir -p run; ./a": ["mkdir", "./a"],
    "sudo -u x a": ["sudo"],
    "sudo -u x /x/a": ["sudo", "/x/a"],
    "timeout $T a": ["timeout"],
    "echo $(a)": [],
    "test -f x || exit 0; a": [],
    "cd /x || exit 1; ./a": ["./a"],
    "false && cd /x; ./a": [],
    "bash -ec 'grep x F; b' & wait": ["bash", "grep"],
    "bash -ec 'grep x F; b'": ["bash", "grep", "b"],
    "bash -ec 'cd /; a' & wait": ["bash", "a"],
    "su x -c /x/a": ["su", "/x/a"],
    "su x -c a": ["su"],
    "ssh host a": ["ssh"],
    "docker exec c a": ["docker"],
    "(cd /x; exit 0); ./a": ["./a"],
    "ctp-runbook proc start --pid-file F -- bin/a": ["ctp-runbook", "bin/a"],
}


@pytest.mark.parametrize(("command", "words"), NEEDED.items(), ids=NEEDED)
def test_what_a_command_needs(command: str, words: list[str]) -> None:
    """What it surely comes to, and what nothing before it can have brought."""
    assert [executable.word for executable in needed(command)] == words


UNTOLD = {
    "a --x && b": "",
    "kill $(cat F); rm -f F": "",
    "$HOME/bin/a --x": "what $HOME/bin/a stands for",
    "bash -lc '$HOME/bin/a'": "what $HOME/bin/a stands for",
    'bash -lc "$START"': "what bash -c is given",
    "bash <x.sh": "what bash is given to run",
    "cd $X && ./a": "where ./a is",
    "if a; then b; fi": "`if`",
    "bash -c 'for x in 1 2; do a; done'": "`for`",
    "cat <<EOF": "a here-document",
    "f() { a; }; f": "a function",
    "eval $X": "what eval is given",
    "env -S 'a b'": "what env runs with these options",
    "timeout $T a": "what timeout runs with these options",
    "nice -n $N a": "what nice runs with these options",
    "timeout --no-such 5 a": "what timeout runs with these options",
    "a 'b": "a quote that is not closed",
    "a ${X:-$(b)}": "an expansion with another in it",
    "pushd /opt && popd && ./a": "where ./a is",
    "pushd +1 && ./a": "where ./a is",
    "PATH=/x:$PATH a": "where a is",
    "export PATH=/x && a": "where a is",
    "env PATH=/x a": "where a is",
    "a; PATH=/x true; b": "",
    "test -d x && cd x; ./a": "where ./a is",
    "sudo -iu x ./a": "where ./a is",
    "sudo -iu x /x/a": "",
    "su - x -c ./a": "where ./a is",
    "su x -c /x/a": "",
    "su x ./a": "what su is given to run",
    "su x": "what su is given to run",
    "runuser -l x -c ./a": "where ./a is",
    "ssh -p 22 host ./a --x": "what ssh runs there",
    "ssh host": "what ssh runs there",
    "ssh -N -L 1:h:1 host": "",
    "ssh host -- ./a": "what ssh runs there",
    "docker exec c a": "what docker exec runs there",
    "docker compose -f F run c a": "what docker run runs there",
    "docker compose up -d": "",
    "echo a | xargs b": "what xargs runs",
    "tmux new -d a": "what tmux runs",
    "tmux kill-session -t a": "",
    "find . -exec a {} ';'": "what find runs",
    "systemd-run -M x /a": "what systemd-run runs with these options",
}


@pytest.mark.parametrize(("command", "gap"), UNTOLD.items(), ids=UNTOLD)
def test_what_only_bash_knows_is_told(command: str, gap: str) -> None:
    """Where the reading ends it says so, in words, and guesses nothing."""
    assert ", ".join(untold(command)) == gap


# --- bash itself as the judge -----------------------------------------------------

PROGRAMS = ["there", "./there", "sub/there", "gone", "./gone", "/no/such/gone", "true", "false"]
COMMANDS: st.SearchStrategy[str] = st.deferred(lambda: any_command())
SIMPLE = st.sampled_from(
    [
        *PROGRAMS, "echo a", "cd sub", "cd sub; ./there", "cd no 2>/dev/null", "X=1", "X=gone $X",
        "test -x ./gone", "./there >out", "./makes", "exit 0", "exit 3", "export PATH=$PWD/sub",
        "bash ./there", "bash gone.sh", "sh there", "python3 -c pass", ": $(./there)", "echo \';\'",
        ". ./env.sh", "wait", "mkdir -p new", "! ./gone", "command -v gone", "gone() { true; }",
        "PATH=$PWD/sub there", "if true; then ./there; fi", "exec 2>/dev/null",
    ]
)  # fmt: skip
WRAPPERS = [
    "env {}", "env -C sub {}", "env -i {}", "env A=1 PATH=sub {}", "nohup {}", "timeout 9 {}",
    "timeout -k 1 9 {}", "setsid -w {}", "exec {}", "nice {}", "nice -n 1 {}", "stdbuf -oL {}",
    "command {}", "time {}", "! {}", "setarch -R {}", "setarch x86_64 {}", "flock -n lock {}",
    "taskset -c 0 {}", "chrt -o 0 {}", "ionice -c 3 {}",
]  # fmt: skip
WRAPPED = st.builds(str.format, st.sampled_from(WRAPPERS), st.sampled_from(PROGRAMS) | COMMANDS)
QUOTED = ["bash -c {}", "sh -c {}", "bash -lc {}", "bash -ec {}", "timeout 9 bash -c {}", "eval {}"]
JOINED = st.one_of(
    st.builds("{}{}{}".format, COMMANDS, st.sampled_from([" && ", "; ", " | ", " || "]), COMMANDS),
    st.builds("({})".format, COMMANDS),
    st.builds("{{ {}; }}".format, COMMANDS),
    st.builds("{} & wait".format, COMMANDS),
    st.builds(
        lambda shell, text: shell.format(shlex.quote(text)), st.sampled_from(QUOTED), COMMANDS
    ),
)


def any_command() -> st.SearchStrategy[str]:
    """A command, by itself, behind wrappers, or joined with others."""
    return SIMPLE | WRAPPED | JOINED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with programs that only note that they ran."""
    base = tmp_path_factory.mktemp("shell")
    (base / "sub").mkdir()
    (base / "bin").mkdir()
    for name in ("there", "sub/there", "bin/there", "makes"):
        (base / name).write_text(f'#!/bin/sh\necho {base / name} >>"{base}/ran"\n')
        (base / name).chmod(0o755)
    with (base / "makes").open("a") as file:
        file.write(f"cp {base}/there ./gone\n")
    (base / "env.sh").write_text("gone() { true; }\n")
    return base


@settings(
    max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(command=COMMANDS.filter(lambda command: len(command) < 200))
def test_bash_agrees(command: str, folder: Path) -> None:
    """Of a command that bash runs without a word nothing needed is missing; what ran was named, an
    idle command ran nothing, and what never ran did not."""
    environ = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C"}
    for trace in ("ran", "gone", "out", "sub/gone", "sub/out"):
        (folder / trace).unlink(missing_ok=True)
    absent = [each for each in needed(command) if is_missing(each, base=folder, environ=environ)]
    files = {resolve(each, base=folder, environ=environ) for each in executables(command)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    ran = (folder / "ran").read_text().split() if (folder / "ran").exists() else []
    if done.returncode == 0 and not done.stderr and "2>" not in command:
        assert not absent
    if is_idle(command):
        assert not ran
    if never_ran(command, done.returncode, base=folder, environ=environ):
        assert not ran
    if not (untold(command) or {"PATH", "env.sh", "()", "env -i"} & set(_marks(command))):
        # What a shell finds by another PATH is not named.
        assert {os.path.realpath(path) for path in ran} <= {
            os.path.realpath(path) for path in files if path
        }


def _marks(command: str) -> list[str]:
    return [mark for mark in ("PATH", "env.sh", "()", "env -i") if mark in command]
