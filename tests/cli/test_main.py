"""Facts about cli/main.py: sentences and an exit code, whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ctp_runbook.cli import main as command_line
from ctp_runbook.cli import options
from ctp_runbook.cli.main import _exit_code as exit_code
from ctp_runbook.cli.options import Command
from ctp_runbook.errors import PlanRefused, RunRefused
from ctp_runbook.host import proc as daemons
from ctp_runbook.notebook import runner
from ctp_runbook.record.rundir import RunDir, newest_run
from ctp_runbook.run import launch, steer
from ctp_runbook.run.launch import RunOptions, read_history
from tests.props.command_line import StandIn, typed
from tests.props.plan_fixtures import make_plan
from tests.props.synthetic_runs import (
    completed_run,
    dry_run,
    rolled_back_run,
    seal,
    telling,
    up_to_switch,
)


def test_a_dry_run_tells_where_it_is_and_how_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run, what --execute would refuse, what else is to be known, its end, its evidence."""
    assert typed("orchestrate", "--outputs", tmp_path) == 0
    run = newest_run(tmp_path)
    first, *found, end, evidence = capsys.readouterr().out.splitlines()
    refusals = read_history(run).would_refuse
    assert first == f"run {run.run_id}: {run.path}"
    assert found[: len(refusals)] == [f"DRY RUN ✗ {refusal}" for refusal in refusals]
    assert all(line.startswith("DRY RUN ! ") for line in found[len(refusals) :])
    assert end == (
        "DRY RUN DRY_RUN_OK: dry run: nothing was done; --execute would refuse this plan, for "
        f"{len(refusals)} reasons"
    )
    assert evidence == f"DRY RUN evidence: {run.evidence}"


def test_a_drill_is_a_forced_rollback(tmp_path: Path) -> None:
    """What `orchestrate --force-rollback` does, under its own name."""
    assert typed("drill", "--outputs", tmp_path) == 0
    assert read_history(newest_run(tmp_path)).created.force_rollback is True


def test_a_copy_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    """--cutover-output is the run's own result file, byte by byte."""
    copy = tmp_path / "copy.env"
    assert typed("orchestrate", "--outputs", tmp_path / "o", "--cutover-output", copy) == 0
    evidence = newest_run(tmp_path / "o").evidence
    assert copy.read_bytes() == (evidence / "ctp_cutover_result.env").read_bytes()


def test_every_problem_of_a_template_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and nothing on the stream that is read by programs."""
    template = tmp_path / "cutover.env"
    template.write_text("NO_SUCH_KEY=1\nno line\n")
    assert typed("plan", "--cutover-template", template) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"error: {template}:1: NO_SUCH_KEY: found an unknown key" in said.err
    assert f"error: {template}:2: (no key): found a line without '='" in said.err
    assert all(line.startswith("error: ") for line in said.err.splitlines())


def test_a_plan_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written where files are named; the digest is told either way, warnings to the other stream."""
    assert typed("plan", "--outputs", tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("# One-shot cutover checklist: single-host-ubuntu\n")
    assert printed.err.startswith("warning: ")
    markdown, data = tmp_path / "plan.md", tmp_path / "plan.json"
    assert typed("plan", "--outputs", tmp_path, "--output-md", markdown, "--output-json", data) == 0
    told = capsys.readouterr().out
    digest = re.search(r"17 steps, sha256 ([0-9a-f]{64})\n$", told)
    assert digest is not None
    assert digest.group(1) in markdown.read_text()
    assert digest.group(1) in data.read_text()
    assert "# One-shot" not in told


def test_a_wrong_word_is_explained_by_click(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest option, how the command is used, exit 2."""
    assert typed("orchestrate", "--exekute") == 2
    said = capsys.readouterr().err
    assert "orchestrate [OPTIONS]\n" in said
    assert "No such option '--exekute'" in said.replace(":", "")
    assert "--execute" in said


def test_a_command_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2."""
    assert typed("cutover") == 2
    assert "No such command 'cutover'." in capsys.readouterr().err


def test_help_names_every_command_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    """From plan to lab, each with its first sentence."""
    assert typed("--help") == 0
    _, _, listed = capsys.readouterr().out.partition("Commands:\n")
    names = [line.split()[0] for line in listed.splitlines()]
    assert names[:6] == ["plan", "calibrate", "orchestrate", "drill", "run", "verify"]
    assert names[-1] == "lab"
    assert len(names) == 21


def fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `orchestrate` raise ``error``."""

    def perform(**values: Any) -> int:
        raise error

    monkeypatch.setattr(command_line, "load_command", lambda name: Command(perform))


def test_what_is_refused_ends_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sentence is all that is said."""
    fails_with(PlanRefused(["too early"]), monkeypatch)
    assert typed("orchestrate") == 2
    assert capsys.readouterr().err == "error: too early\n"


def test_a_fault_of_ours_is_kept_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator reads no traceback, a developer finds it."""
    fails_with(ZeroDivisionError("of nothing"), monkeypatch)
    assert typed("orchestrate") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: an error that nobody foresaw, ZeroDivisionError: of nothing (")
    details = re.search(r"\(details: (\S+)\); please report it$", said, re.MULTILINE)
    assert details is not None
    kept = Path(details.group(1))
    assert "ZeroDivisionError: of nothing" in kept.read_text()
    kept.unlink()


def test_ctrl_c_stops_nothing_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so; exit 130."""
    fails_with(KeyboardInterrupt(), monkeypatch)
    assert typed("orchestrate") == 130
    assert capsys.readouterr().err == "\ninterrupted; nothing of a running run was stopped\n"


def test_verify_wants_a_run_or_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is a wrong use, explained as such."""
    assert typed("verify") == 2
    said = capsys.readouterr().err
    assert "verify [OPTIONS]\n" in said
    assert (
        "give --run DIR or id, or both --cutover-evidence-file and --rollback-evidence-file" in said
    )


def test_verify_tells_each_check_and_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for a run that holds; 2 for one whose evidence was edited."""
    run = completed_run(tmp_path)
    seal(run)
    assert typed("verify", "--run", run.path) == 0
    assert typed("verify", "--run", run.run_id, "--outputs", run.path.parent) == 0
    assert "✓ journal" in capsys.readouterr().out
    result = run.evidence / "ctp_cutover_result.env"
    result.write_text(result.read_text().replace("CUTOVER_SUCCESS=true", "CUTOVER_SUCCESS=false"))
    assert typed("verify", "--run", run.path) == 2
    assert "✗ " in capsys.readouterr().out


def test_a_bare_pair_is_verified_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the two result files alone; those of a dry run are no proof of a cutover."""
    run = dry_run(tmp_path)
    seal(run)
    evidence = run.evidence
    pair = ("cutover", "rollback")
    words = [
        word
        for side in pair
        for word in (f"--{side}-evidence-file", evidence / f"ctp_{side}_result.env")
    ]
    assert typed("verify", *words) == 2
    assert "dry run" in capsys.readouterr().out


def test_the_notebooks_get_the_files_and_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` passes on what `orchestrate` takes, and where the notebooks are."""
    run_all = StandIn(4)
    monkeypatch.setattr(runner, "run_all", run_all)
    words = ("--notebooks", "mine", "--limits", "l.toml", "--short-watch", "a drill")
    assert typed("run", *words) == 4
    ((_, values),) = run_all.calls
    assert values["notebooks_dir"] == Path("mine")
    assert values["limits"] == Path("l.toml")
    assert values["watch"] is None
    assert values["options"] == RunOptions(short_watch_reason="a drill")


@pytest.mark.parametrize(
    "words", [("alive", "--pid-file", "p"), ("start", "--pid-file", "p", "--", "a")]
)
def test_proc_gets_its_words_as_they_are(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--`` included, and without click: an alive command is asked again and again."""
    proc = StandIn(1)
    monkeypatch.setattr(daemons, "main", proc)
    assert typed("proc", *words) == 1
    assert proc.calls == [((list(words),), {})]


def test_what_was_raised_is_said_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever raised it may not have known them; nor has the file of details one."""
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    for error in (RunRefused("not as hunter22"), ValueError("no http://a:pw12@h, hunter22")):
        try:
            raise error
        except (RunRefused, ValueError) as caught:
            exit_code(caught, [])
    said = capsys.readouterr().err
    (details,) = re.findall(r"details: (\S+)\);", said)
    kept = Path(details)
    said += kept.read_text()
    kept.unlink()
    assert "not as ***" in said
    assert "hunter22" not in said
    assert "pw12" not in said


class Terminal(io.StringIO):
    """A person who has typed this."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Terminal]:
    """What a person types; the returned stream has what they were shown."""
    monkeypatch.setattr(launch, "execute_refusals", lambda *_, **__: ())

    def types(text: str) -> Terminal:
        shown = Terminal()
        monkeypatch.setattr("sys.stdin", Terminal(text))
        monkeypatch.setattr("sys.stderr", shown)
        return shown

    return types


def test_a_person_types_the_environment_before_anything_is_done(
    tmp_path: Path, person: Callable[[str], Terminal]
) -> None:
    """They see what they agree to, and the run is bound to it."""
    plan = make_plan(tmp_path)
    shown = person(f"{plan.environment}\n")
    options = command_line._confirmed(plan, RunOptions(execute=True))
    assert options == RunOptions(execute=True, plan_sha256=plan.sha256)
    assert f"plan sha256 {plan.sha256}" in shown.getvalue()
    told = " ".join(shown.getvalue().split())
    assert "rolls back by itself within 180 s when order_latency_p99_ms" in told
    assert shown.getvalue().endswith(f"Type {plan.environment} to run it: ")


@pytest.mark.parametrize("text", ["", "\n", "yes\n"])
def test_another_word_runs_nothing(
    text: str, tmp_path: Path, person: Callable[[str], Terminal]
) -> None:
    """Nor does the end of what is typed."""
    plan = make_plan(tmp_path)
    person(text)
    with pytest.raises(RunRefused, match=r"typed .* expected '.*': nothing was touched.*--yes"):
        command_line._confirmed(plan, RunOptions(execute=True))


def test_what_would_be_refused_is_not_asked_for(
    tmp_path: Path, person: Callable[[str], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reason at once, as ever, before a person types anything."""
    plan = make_plan(tmp_path)
    shown = person(f"{plan.environment}\n")
    monkeypatch.setattr(launch, "execute_refusals", lambda *_, **__: ("one", "two"))
    with pytest.raises(PlanRefused) as refused:
        command_line._confirmed(plan, RunOptions(execute=True))
    assert refused.value.reasons == ("one", "two")
    assert "Type" not in shown.getvalue()


def test_nobody_is_asked_for_a_dry_run_or_where_nobody_sits(
    tmp_path: Path, person: Callable[[str], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script goes on as ever: --execute is all it says."""
    plan = make_plan(tmp_path)
    person("")
    assert command_line._confirmed(plan, RunOptions()) == RunOptions()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert command_line._confirmed(plan, RunOptions(execute=True)) == RunOptions(execute=True)


def test_a_dry_run_is_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of the committed schema and nothing else, each saying that it is a dry run."""
    assert typed("orchestrate", "--json", "--outputs", tmp_path) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        jsonschema.validate(line, json.loads(Path("infra/schemas/told.json").read_bytes()))
    assert all(line["dry_run"] is True for line in lines)
    assert [line["event"] for line in lines] == ["run", *["record"] * (len(lines) - 2), "end"]
    assert (lines[-1]["outcome"], lines[-1]["exit_code"]) == ("DRY_RUN_OK", 0)
    assert lines[0]["path"] == str(newest_run(tmp_path).path)


@pytest.mark.parametrize("execute", [(), ("--execute", "--yes")], ids=["dry", "real"])
@pytest.mark.parametrize("make", [completed_run, rolled_back_run], ids=["completed", "rolled back"])
def test_once_begins_no_second_run_of_a_plan(
    make: Callable[..., RunDir],
    execute: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It tells how the one ended that there is, by its exit code too, and what begins another."""
    schema = json.loads(Path("infra/schemas/told.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    plan = make_plan(tmp_path)
    outputs = tmp_path / "outputs"
    names = {"environment": plan.environment, "host": os.uname().nodename}
    run = make(outputs, plan_sha256=plan.sha256, **names)
    files: list[object] = ["--cutover-template", tmp_path / "cutover.env", "--outputs", outputs]
    files += ["--rollback-template", tmp_path / "rollback.env"]
    outcome = read_history(run).outcome
    assert outcome is not None
    assert typed("orchestrate", "--once", *execute, *files) == outcome.exit_code
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith(f"run {run.run_id} of this plan is {outcome.value}: no other is beg")
    assert (f"`--again {run.run_id}` begins one" in told[-1]) == bool(outcome.exit_code)
    assert typed("orchestrate", "--once", "--json", *execute, *files) == outcome.exit_code
    said = capsys.readouterr()
    (line,) = map(json.loads, said.out.splitlines())
    jsonschema.validate(line, schema)
    assert (line["event"], line["outcome"]) == ("end", outcome.value)
    assert "no other is begun" in said.err
    assert [path.name for path in outputs.iterdir()] == [run.run_id]


@pytest.mark.parametrize("execute", [False, True], ids=["dry", "real"])
def test_once_follows_a_run_that_goes_on(
    execute: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Taken up where nobody conducts it; a dry run only tells of it."""
    taken_up, followed = StandIn(True), StandIn(4)
    monkeypatch.setattr(steer, "take_up", taken_up)
    monkeypatch.setattr(options, "follow_to_end", followed)
    with telling(tmp_path, "unfinished") as story:
        up_to_switch(story)
    asked = RunOptions(execute=execute, by="fleet")
    code = options.tell_of_standing(story.run, asked, as_json=False)
    told = capsys.readouterr().out
    if execute:
        assert code == 4
        assert taken_up.calls == [((story.run,), {"by": "fleet"})]
        assert "nobody conducted it; taken up again" in told
    else:
        assert code == 0
        assert told == f"run {story.run.run_id} of this plan is SWITCHING: no other is begun\n"
        assert taken_up.calls == followed.calls == []


def test_again_is_for_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it says nothing: a run is begun anyhow."""
    assert typed("orchestrate", "--again", "a-run") == 2
    assert "--again is for --once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("orchestrat",), "orchestrate"),
        (("infra", "kafka-topic"), "kafka-topics"),
        (("stack", "upp"), "up"),
        (("orchestrate", "--exeucte"), "--execute"),
    ],
)
def test_a_typing_error_is_told_what_was_meant(
    words: tuple[str, ...], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a command, of one below it, of a flag."""
    assert typed(*words) == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "completed"),
    [("ctp-runbook orch", "orchestrate"), ("ctp-runbook run --js", "--json")],
)
def test_a_shell_completes_commands_and_flags(
    words: str,
    completed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As --help says how to ask for."""
    assert typed("--help") == 0
    assert '"$(_CTP_RUNBOOK_COMPLETE=bash_source ctp-runbook)"' in capsys.readouterr().out
    monkeypatch.setenv("_CTP_RUNBOOK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert typed() == 0
    assert capsys.readouterr().out == f"plain,{completed}\n"
