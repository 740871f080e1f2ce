"""What a command line would execute, told without running it, and never guessed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.plan import shell_words
from ctp_runbook.plan.shell_words import (
    Executable,
    executables,
    is_idle,
    never_ran,
    resolve,
    swallows_failure,
)

NAMED: dict[str, list[str]] = {
    "cat file": ["cat"],
    "LANG=C A=1 cat file": ["cat"],
    "a && b; c | d": ["a", "b", "c", "d"],
    "a || b": ["a"],
    "a & b": ["a", "b"],
    "(a; b) | c": ["a", "b", "c"],
    "{ a; b; }": ["a", "b"],
    "! a": ["a"],
    "time a": ["a"],
    "echo x; exit 1": [],
    "bin/a --x >out 2>&1": ["bin/a"],
    ">out a": ["a"],
    "2>&1 a": ["a"],
    "bash infra/x.sh --execute": ["bash", "infra/x.sh"],
    "bash -c 'a b'": ["bash"],
    "bash -x infra/x.sh": ["bash"],
    "python3.11 run.py --x": ["python3.11", "run.py"],
    "python3 -m module": ["python3"],
    "nohup env A=1 a": ["nohup", "env", "a"],
    "sudo -u x a": ["sudo"],
    "exec a": ["a"],
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
        Executable("./b", "x/y"),
    )
    assert executables("cd $y && ./a") == ()
    assert executables("(cd x && ./a); ./b") == ()
    assert executables("cd /opt && ./a") == (Executable("./a", "/opt"),)


@given(command=st.text(max_size=60) | st.text(alphabet="ab '\"\\;&|<>(){}$`#=!-/\n", max_size=60))
def test_no_command_crashes(command: str) -> None:
    """Whatever stands in a template is answered."""
    assert isinstance(executables(command), tuple)
    assert isinstance(is_idle(command), bool)
    assert isinstance(swallows_failure(command), bool)


@pytest.mark.parametrize(
    "command", ["echo ok", "true", ":", "echo a; sleep 1 && true", "/bin/true"]
)
def test_idle_commands_are_told(command: str) -> None:
    """A command that only prints, sleeps or succeeds does no step."""
    assert is_idle(command)


@pytest.mark.parametrize("command", ["echo a; b", "a", "echo $(a) | b", "", "if true; then a; fi"])
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
        ("kill 1 || exit 1", False),
        ("true; kill 1", False),
        ("kill 1 && true", False),
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
    environ = {"PATH": os.environ["PATH"], "HERE": str(tmp_path)}
    assert never_ran(command, code, base=tmp_path, environ=environ) == never


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "300")), deadline=None)
@given(pieces=st.lists(st.sampled_from([*"ab=$ \"'\n", '"a b"', "'c \"d'", '""', "é", "&&"])))
def test_words_in_quotes_are_those_of_shlex(pieces: list[str]) -> None:
    """What is split by a pattern, for speed, is what shlex makes of it, or left to shlex."""
    command = "".join(pieces)
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            shell_words._tokens(command)
    else:
        assert shell_words._tokens(command) == words
