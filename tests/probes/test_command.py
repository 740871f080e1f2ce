"""Facts about probes/command.py: a command answers in time and leaves nothing, or is no answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes.command import run_probe, run_probe_apart, spoken_value
from tests.props.plan_fixtures import processes_with
from tests.props.rules import rule_of

ROOT = Path(__file__).parents[2]
ENVIRON = {"PATH": os.environ["PATH"]}


# --- how it runs ------------------------------------------------------------------


def test_a_probe_is_its_exit_code_and_output(tmp_path: Path) -> None:
    """Both streams, as they came, in the folder and environment given."""
    command = "pwd; echo $WORD >&2; exit 3"
    code, output = run_probe(command, cwd=tmp_path, env={**ENVIRON, "WORD": "x"}, seconds=5)
    assert (code, output) == (3, f"{tmp_path}\nx\n".encode())


APART: dict[str, tuple[str, tuple[int | None, bytes, str]]] = {
    "both streams": ("echo 1; echo why >&2; exit 3", (3, b"1\n", "why")),
    "only the last line of stderr": ("echo a >&2; echo ' b ' >&2; echo >&2", (0, b"", "b")),
    "a line as long as may be quoted": ("printf '%0400d' 7 >&2", (0, b"", "7".zfill(400))),
    "a line that is longer": ("printf '%0401d' 7 >&2", (0, b"", "")),
    "bytes that are no text": (r"printf '\xff' >&2", (0, b"", "\ufffd")),
    "what moves a cursor": (r"printf '\033[2Ja\0b' >&2", (0, b"", "\ufffd[2Ja\ufffdb")),
    "silence": ("true", (0, b"", "")),
    "its stderr sent elsewhere": ("exec 2>/dev/null; echo why >&2; echo 1", (0, b"1\n", "")),
    "no bash": ("if", (2, b"", "bash: -c: line 3: syntax error: unexpected end of file")),
}


@pytest.mark.parametrize(("command", "answer"), APART.values(), ids=APART)
def test_what_is_said_to_people_is_apart(
    command: str, answer: tuple[int | None, bytes, str], tmp_path: Path
) -> None:
    """Stdout alone is the answer; of stderr the last line, whole or not at all."""
    code, output, said = run_probe_apart(command, cwd=tmp_path, env=ENVIRON, seconds=5)
    if said.startswith("bash: "):  # its number of lines and words differ between versions
        said = answer[2]
    assert (code, output, said) == answer


@pytest.mark.parametrize("run", [run_probe, run_probe_apart])
def test_what_still_has_a_placeholder_is_not_asked(run: Any, tmp_path: Path) -> None:
    """To bash it is a redirection: the answer would mean nothing, and a file would be emptied."""
    kept = tmp_path / "kept"
    kept.write_text("precious")
    said = "^not asked: the placeholder <state> is still in TRADING_STATE_CMD$"
    with pytest.raises(ProbeError, match=said):
        run("cat <state> kept", cwd=tmp_path, env=ENVIRON, seconds=5, key="TRADING_STATE_CMD")
    assert kept.read_text() == "precious"


@pytest.mark.parametrize("command", ["sleep 600 & true", "sleep 600 & exit 1", "sleep 600"])
def test_a_probe_leaves_nothing_behind(command: str, tmp_path: Path) -> None:
    """Five looks a second for half an hour must not fill the process table."""
    before = sorted(os.listdir("/proc/self/fd"))
    run_probe(command, cwd=tmp_path, env={**ENVIRON, "MARK": str(tmp_path)}, seconds=0.3)
    assert processes_with(f"MARK={tmp_path}") == ()
    assert sorted(os.listdir("/proc/self/fd")) == before


ENDED = {
    "at its time": ("sleep 600", 0.2, ""),
    "deaf to TERM": ("trap '' TERM; sleep 600 & sleep 600", 0.2, ""),
    "by a word": ("sleep 600", 60.0, "abort"),
    "for its output": ("yes", 60.0, ""),
}


@pytest.mark.parametrize(("command", "seconds", "word"), ENDED.values(), ids=ENDED)
def test_a_command_that_does_not_end_is_ended(
    command: str, seconds: float, word: str, tmp_path: Path
) -> None:
    """Late, interrupted, or filling the memory: there is no exit code, and nobody waits for it."""
    began = time.monotonic()
    code, output = run_probe(
        command, cwd=tmp_path, env=ENVIRON, seconds=seconds, interrupt=lambda: word
    )
    assert code is None
    assert len(output) <= 8 << 20
    assert time.monotonic() - began < 20


def test_a_command_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    """Its folder is gone: said with the folder, and no exit code is made up."""
    with pytest.raises(ProbeError, match=f"cannot be run in {tmp_path}/gone"):
        run_probe("true", cwd=tmp_path / "gone", env=ENVIRON, seconds=5)


# --- the metric it says -----------------------------------------------------------

SPOKEN = {
    "printf 12.5": 12.5,
    "echo '  -3 '": -3.0,
    "echo 1e3": 1000.0,
    """echo '{"value": 4, "events": 9}'""": 4.0,
    """echo '{"value": 4.5}'""": 4.5,
    """echo '{"value": null}'""": None,
    """echo '{"value": null, "events": 3}'""": None,
    """echo '{"value": 4, "events": 0}'""": None,
    """echo '{"value": 4, "events": 0, "more": 1}'""": None,
    "echo noise >&2; echo 1": 1.0,
}


@pytest.mark.parametrize(("command", "value"), SPOKEN.items())
def test_a_command_says_a_number(command: str, value: float | None, tmp_path: Path) -> None:
    """Bare, or as the value of one JSON object; what it says on stderr is no part of it."""
    assert spoken_value(command, cwd=tmp_path, env=ENVIRON, seconds=5) == value


def test_nan_is_kept(tmp_path: Path) -> None:
    """The judge is to see that there is no number; here it is none of ours to hide."""
    value = spoken_value("echo NaN", cwd=tmp_path, env=ENVIRON, seconds=5)
    assert value is not None
    assert value != value


UNSPOKEN = {
    "exit 3": "ended with exit 3, expected 0$",
    "echo why >&2; exit 1": "exit 1, expected 0; it said: why",
    "sleep 60 & sleep 60": "did not end within 0.5 s",
    "echo slow >&2; sleep 60": "did not end within 0.5 s; it said: slow",
    "echo true": "printed 'true'",
    "echo 1 2": "printed '1 2'",
    "true": "printed ''",
    "head -c 200 /dev/zero | tr '\\0' x": "printed 200 characters; expected",
    """echo '{"events": 1}'""": "expected a number",
    """echo '{"value": "x"}'""": "expected a number",
    """echo '{"value": true}'""": "expected a number",
    """echo '{"value": [1]}'""": "expected a number",
    "echo '[1]'": "expected a number",
    "printf '1%0400d' 0": "printed 401 characters",
    f"echo '{'[' * 20000}'": "expected a number",
    """echo '{"value": 1, "value": 5}'""": "expected a number",
    """echo '{"value": {"value": 5}}'""": "expected a number",
    r"""printf '{"value": 5, "of": "\xff"}'""": "expected a number",
    "echo 1e999": "printed '1e999'",
    "echo -Infinity": "printed '-Infinity'",
}


@pytest.mark.parametrize(
    ("command", "said"), UNSPOKEN.items(), ids=[name[:30] for name in UNSPOKEN]
)
def test_a_command_that_says_none_is_an_error(command: str, said: str, tmp_path: Path) -> None:
    """With its exit code, its own words, or what it printed; never zero."""
    with pytest.raises(ProbeError, match=said):
        spoken_value(command, cwd=tmp_path, env=ENVIRON, seconds=0.5)


def test_the_source_runs_in_its_surroundings(tmp_path: Path) -> None:
    """The row's own reader: the rule's query, in the folder and with the variables of the run."""
    (tmp_path / "depth").write_text(json.dumps({"value": 7}))
    rule = rule_of("command", 'cat "$NAME"', unit="count", kind="state")
    around = Surroundings({}, tmp_path, {**ENVIRON, "NAME": "depth"})
    measure = SOURCES["command"].measure(rule, around)
    assert measure() == 7.0
    (tmp_path / "depth").write_text("8")
    assert measure() == 8.0


# --- no room for what it says -------------------------------------------------------

# Once before there is no room: what is asked with may itself lie in such a place.
FULL_MEMORY = """
import subprocess, sys
from pathlib import Path
from ctp_runbook.probes.command import run_probe, run_probe_apart
def say():
    env = {"PATH": "/bin:/usr/bin"}
    for ask in (run_probe, run_probe_apart):
        print(ask("echo alive; echo why >&2", cwd=Path("/"), env=env, seconds=9))
say()
subprocess.run(["bash", "-c", sys.argv[1]], check=True, stderr=subprocess.DEVNULL)
say()
"""


@pytest.mark.parametrize("full", ["size=4k,nr_inodes=8", "size=4k,nr_inodes=1", "ro"])
def test_an_answer_needs_no_room_in_any_folder(full: str) -> None:
    """/dev/shm and /tmp are full, without inodes, or read-only: an alive command whose words find no
    room ends with 1, which would say that a member is gone."""
    places = " && ".join(
        f"mount -t tmpfs -o {full} none {place} && (head -c 9999 /dev/zero > {place}/x || true)"
        for place in ("/dev/shm", "/tmp")
    )
    inside = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here, and so no small disk")
    words = [*inside, f'exec {sys.executable} -c "$0" "$1"', FULL_MEMORY, places]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    said = [str((0, b"alive\nwhy\n")), str((0, b"alive\n", "why"))]
    assert done.stdout.splitlines() == [*said, *said], done.stderr
