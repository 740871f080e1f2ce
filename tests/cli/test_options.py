"""Facts about cli/options.py: words that are plainly right mean without click what they mean with it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.cli.click_commands import click_command
from ctp_runbook.cli.options import (
    HOMES,
    OUTPUTS,
    Command,
    Option,
    find_run,
    follow_to_end,
    load_command,
    plain_values,
    say,
)
from ctp_runbook.errors import RunRefused
from ctp_runbook.model import State
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from tests.props.synthetic_runs import dry_run

ALL = load_command("orchestrate").options
STEERING = load_command("hold").options
FLAGS = st.sampled_from([option.flag for option in (*ALL, *STEERING)])
VALUES = st.sampled_from(
    ["", "x", "a b", "a=b", "--execute", "-h", "--", "-", "configs", "/nowhere", "ä", "0", "False"]
)
WORDS = st.lists(FLAGS | VALUES | st.builds("{}={}".format, FLAGS, VALUES), max_size=5)


@given(words=WORDS, options=st.sampled_from([ALL, STEERING]))
def test_plain_words_mean_what_click_says(words: list[str], options: tuple[Option, ...]) -> None:
    """Whatever is read without click has the values, types included, that click gives it."""
    values = plain_values(words, options)
    if values is None:
        return
    command = click_command("any", Command(lambda **_: None, *options))
    by_click = command.make_context("any", list(words)).params
    assert {name: (type(value), value) for name, value in by_click.items()} == {
        name: (type(value), value) for name, value in values.items()
    }


def test_the_usual_words_are_plain() -> None:
    """What is typed every day needs no click: flags, values after a blank or ``=``, the last wins."""
    values = plain_values(
        ["--execute", "--outputs", "here", "--by=ops=1", "--by", "", "--run-dir=--probe"], ALL
    )
    assert values is not None
    assert values["execute"] is True
    assert values["probe"] is False
    assert (values["outputs"], values["run_dir"], values["by"]) == (
        Path("here"),
        Path("--probe"),
        "",
    )
    assert values["cutover_template"] == Path("configs/ops/ctp_cutover.template.env")
    assert values["limits"] is None


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["--outputz", "x"],
        ["--outputs"],
        ["--execute=1"],
        ["x"],
        ["--"],
        ["--ex"],
    ],
    ids=" ".join,
)
def test_what_click_must_explain_is_not_plain(words: list[str]) -> None:
    """Help, unknown flags, missing values and words too many are left to click."""
    assert plain_values(words, ALL) is None


@pytest.mark.parametrize(
    "spec", ["--seconds FLOAT", "--name TEXT...", "--key KEY=VALUE...", "WORDS ..."]
)
def test_options_with_more_to_them_are_not_plain(spec: str) -> None:
    """A number, what may come again, pairs and free words are converted by click alone."""
    assert plain_values([], [OUTPUTS, Option(spec)]) is None


def test_an_unreadable_path_is_left_to_click(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which option names it; a path that is not there yet is no such case."""
    assert plain_values(["--outputs", str(tmp_path / "new")], [OUTPUTS]) is not None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert plain_values(["--outputs", str(tmp_path)], [OUTPUTS]) is None


@pytest.mark.parametrize("name", HOMES)
def test_every_command_is_where_the_table_says(name: str) -> None:
    """It is a row, or what click calls a group."""
    assert load_command(name) is not None


def test_saying_survives_a_stream_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that claims to know ASCII alone gets UTF-8, as from click."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("✓ 5 ms")
    assert raw.getvalue().decode() == "✓ 5 ms\n"


def test_nobody_has_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was closed before the start is None to Python, and no reason to fail."""
    monkeypatch.setattr(sys, "stdout", None)
    say("unheard")


def test_what_is_said_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason somebody typed is shown to the next operator, and not obeyed by their terminal."""
    say("held by ops: \x1b[2J\x9b1A\r✓ well\nnext line")
    assert capsys.readouterr().out == "held by ops: \\x1b[2J\\x9b1A\\x0d✓ well\nnext line\n"


def test_colours_are_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What is captured has none, and errors go to the other stream."""
    say("wrong", err=True, fg="red")
    say("right", fg="green")
    assert tuple(capsys.readouterr()) == ("right\n", "wrong\n")


def test_a_run_is_found_by_directory_by_id_or_as_the_newest(tmp_path: Path) -> None:
    """``--run`` takes either; without it, what only reads takes the newest."""
    run = dry_run(tmp_path)
    assert find_run(run.path, tmp_path).path == run.path
    assert find_run(Path(run.run_id), tmp_path).path == run.path
    assert find_run(None, tmp_path, newest=True).path == run.path


def test_no_run_at_all_is_refused(tmp_path: Path) -> None:
    """The sentence says where it was looked for."""
    with pytest.raises(RunRefused, match=r"no run under .*; make one"):
        find_run(None, tmp_path, newest=True)
    with pytest.raises(RunRefused, match="neither a directory nor the id of a run in"):
        find_run(Path("another"), tmp_path)


def test_leaving_says_how_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends the viewer alone, with 7 where the run waits for a decision."""
    run = dry_run(tmp_path)

    def leave(run: RunDir, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "follow", leave)
    assert follow_to_end(run, quiet=True) == 0
    assert f"is over (DRY_RUN_OK); see `ctp-runbook status --run {run.path}`" in (
        capsys.readouterr().out
    )
    holding = type("History", (), {"state": State.HOLDING, "outcome": None, "parent": None})
    monkeypatch.setattr(launch, "read_whole", lambda run: holding)
    assert follow_to_end(run, quiet=True) == 7
    assert f"goes on (HOLDING). Come back with `ctp-runbook status --run {run.path}`" in (
        capsys.readouterr().out
    )
