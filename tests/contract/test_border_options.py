"""Options at the border: an odd word is refused in a sentence, exit code 2, before anything is done."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.cli import gates, twin
from ctp_runbook.cli.options import HOMES, Command, Option, load_command
from ctp_runbook.plan.gate_table import GATES
from tests.props.command_line import typed

FOLDER = Path(__file__).parent / "border/options"
EXPECT: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "expect.toml").read_text("utf-8"))
STANDS_FOR = {"{long}": "x" * 300, "{nul}": "\0", "{surrogate}": "caf\udce9"}


def rows() -> Iterator[tuple[str, Option]]:
    """Each option with a value of each command, with the words that lead to it."""
    for name in HOMES:
        if isinstance(row := load_command(name), Command):
            yield from ((name, option) for option in row.options)
    for name in GATES:
        options = (*gates._FLAGS, gates._deadline(1.0), *gates._MORE_FLAGS.get(name, ()))
        yield from ((f"infra {name}", option) for option in options)
    yield from (("infra canary", option) for option in gates.canary.options)
    for name, row in (("up", twin._up), ("down", twin._down), ("status", twin._status)):
        yield from ((f"stack {name}", option) for option in row.options)


def kind_of(option: Option) -> str:
    """The table of ``expect.toml`` that holds for it."""
    if option.metavar == "PATH":
        again = "paths_to_read_again" if option.again else "paths_to_read"
        return {"file": "paths_to_write", "folder": "folders_to_write"}.get(option.writes, again)
    if option.metavar.startswith(("FLOAT", "INTEGER")):
        return "numbers" if option.metavar.startswith("FLOAT") else "integers"
    return "addresses" if "URL" in option.metavar or option.flag.endswith("-url") else "texts"


OPTIONS = [
    (words, option)
    for words, option in rows()
    if option.metavar and option.flag != "WORDS" and not option.metavar.endswith("=...")
]


@pytest.fixture
def odd_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: what ``expect.toml`` says it holds."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").touch()
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("stdout").symlink_to("/proc/self/fd/1")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        yield tmp_path


@pytest.mark.parametrize(
    ("words", "option"), OPTIONS, ids=[f"{words} {option.flag}" for words, option in OPTIONS]
)
def test_an_odd_word_is_refused(
    words: str, option: Option, odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the option's name and what is wrong with the word; nothing is made for it."""
    before = sorted(os.listdir(odd_folder))
    for word, says in EXPECT[kind_of(option)].items():
        for sign, character in STANDS_FOR.items():
            word = word.replace(sign, character)
        code = typed(*words.split(), option.flag, word)
        told = " ".join(capsys.readouterr().err.split())
        assert (code, says in told, option.flag in told) == (2, True, True), (word, told)
    assert sorted(os.listdir(odd_folder)) == before


def test_there_are_options_of_every_kind() -> None:
    """Each table is asked of somebody."""
    assert {kind_of(option) for _, option in OPTIONS} == set(EXPECT)


def test_a_folder_that_may_not_be_written_to_is_refused(
    odd_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a run is made, by its name; the system says so here, as root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert typed("orchestrate", "--outputs", "folder/outputs") == 2
    assert "lets you make no file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/below", "fifo"])
def test_evidence_that_cannot_be_written_is_told(
    place: str,
    odd_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The place that a step's environment names is tried when the gate is over."""
    monkeypatch.setenv("CTP_EVIDENCE_DIR", place)
    assert typed("infra", "kafka-topics") == 2
    assert "no evidence" in capsys.readouterr().err
