"""Commands for runs from any terminal: status, hold, resume, abort, rollback, report, rejudge, runs,
compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.cli.options import (
    BY,
    OUTPUTS,
    Command,
    Option,
    command,
    find_run,
    follow_to_end,
    say,
    take_in_hand,
)

if TYPE_CHECKING:
    from ctp_runbook.record.history import History
    from ctp_runbook.record.past_runs import Comparison, PastRuns
    from ctp_runbook.record.rundir import RunDir

__all__ = [
    "abort",
    "compare",
    "hold",
    "rejudge",
    "report",
    "resume",
    "rollback",
    "runs",
    "status",
]

_LOST = 7  # CONTRACT §5: unknown, act
_LINES = 8
_UNDER_WAY = "Directory or id  [default: the one under way, else the last that was]"
_WHICH_RUN = (Option("--run PATH", _UNDER_WAY, name="run_dir"), OUTPUTS)
_WHICH_RECORD = (
    Option("--run PATH", "Directory or id  [default: the newest]", name="run_dir"),
    OUTPUTS,
)
_JSON = Option("--json", "The same for a program.", name="as_json")
_WHY = (Option("--reason TEXT", "Why, for the record."), BY)


@command(*_WHICH_RUN)
def status(run_dir: Path | None, outputs: Path) -> int:
    """Where a run stands."""
    from ctp_runbook.run import launch
    from ctp_runbook.run.attend import (
        lost_sentence,
        silence_of,
        silent_sentence,
        unstarted_sentence,
        unwritten_sentence,
        waiting_sentence,
    )
    from ctp_runbook.show.terminal import countdown, recent_lines

    take_in_hand(run := find_run(run_dir, outputs))
    silence = silence_of(run, launch.read_whole(run))
    # After it: who was looked for twice may have ended the run meanwhile, and gone.
    history = launch.read_whole(run)
    ended = history.outcome.value if history.outcome else history.state.value
    silent = silence.seconds("orchestrator")
    attended = "conducted" if launch.is_attended(run) else "not conducted by anybody"
    attended = f"no answer since {silent:.0f} s" if silent else attended
    say(f"run {run.run_id}: {ended}; {_over_since(history) or attended}; {run.path}")
    for line in recent_lines(history, most=_LINES):
        say(line)
    if history.closed is None and not history.has_begun and not history.is_dry_run:
        say(unstarted_sentence(run))
    if unwritten := unwritten_sentence(run, history):
        say(unwritten, fg="red")
    if lost := lost_sentence(run, history, silence):
        # No countdown: nobody would do what it counts down to.
        say(lost, fg="red", bold=True)
        return _LOST
    if silent_words := silent_sentence(run, history, silence):
        say(silent_words, fg="red", bold=True)
    if silent and history.outcome is None:
        return _LOST
    if runs_out := countdown(history, mono=time.monotonic()):
        # Why it holds stands above, in the line of the state.
        say(runs_out.words, fg="red", bold=True)
    if waits := waiting_sentence(run, history):
        say(waits, fg="yellow", bold=True)
    return history.outcome.exit_code if history.outcome else 0


def _over_since(history: History) -> str:
    """When a run ended, which nobody need conduct any more; blank for one that did not."""
    closed = history.closed
    return f"over since {closed.wall:%Y-%m-%d %H:%M:%S} UTC" if closed else ""


def _steer(name: str, text: str) -> Command:
    def ask(run_dir: Path | None, outputs: Path, reason: str, by: str) -> int:
        return _ask(name, find_run(run_dir, outputs), reason=reason, by=by)

    return Command(ask, *_WHICH_RUN, *_WHY, help=text)


def _ask(name: str, run: RunDir, *, reason: str, by: str) -> int:
    from ctp_runbook.run.steer import steer

    take_in_hand(run)
    steered = steer(run, name, by=by, reason=reason)
    say(steered.sentence)
    return follow_to_end(steered.run, quiet=False) if steered.is_new else steered.exit_code


hold = _steer("hold", "Hold the watch for a decision.")


@command(
    *_WHICH_RUN,
    *_WHY,
    Option("--unattended", "Take up every run that nobody conducts; ask nothing of any other."),
)
def resume(run_dir: Path | None, outputs: Path, reason: str, by: str, unattended: bool) -> int:
    """Go on watching; or take up a run that nobody conducts."""
    if not unattended:
        return _ask("resume", find_run(run_dir, outputs), reason=reason, by=by)
    if run_dir is not None or reason:
        import click

        raise click.UsageError(
            "--unattended takes neither --run nor --reason: it asks no single run"
        )
    return _take_up_all(outputs, by)


def _take_up_all(outputs: Path, by: str) -> int:
    """What a timer asks after a crash or a reboot: each to its end, and the worst of their codes."""
    from ctp_runbook.run.steer import take_up_unattended

    taken = list(take_up_unattended(outputs.absolute(), by=by))
    if not taken:
        say(f"no run under {outputs.absolute()} waits for somebody to conduct it")
    codes = []
    for run, refused in taken:
        take_in_hand(run)
        say(f"run {run.run_id}: {refused or 'nobody conducted it; taken up again'}")
        codes.append(_LOST if refused else follow_to_end(run, quiet=False))
    return max(codes, default=0)


abort = _steer(
    "abort", "Before the switch: end the run, or discard a planned one. After it: roll back."
)
rollback = _steer("rollback", "Roll back now; a COMPLETED run by a new run, which is followed.")


@command(*_WHICH_RECORD)
def report(run_dir: Path | None, outputs: Path) -> None:
    """Write report.html from the journal and the samples."""
    from ctp_runbook.show.report import write_report

    say(str(write_report(find_run(run_dir, outputs, newest=True))))


@command(
    *_WHICH_RECORD,
    Option("--watch PATH", "Other rules: what would they have changed?"),
    Option("--output-json PATH", "The same for a program.", writes="file"),
)
def rejudge(
    run_dir: Path | None, outputs: Path, watch: Path | None, output_json: Path | None
) -> None:
    """Judge a finished watch again from its raw samples, offline."""
    from ctp_runbook.record.rundir import write_atomic
    from ctp_runbook.verify.rejudge import rejudge_run

    rejudged = rejudge_run(find_run(run_dir, outputs, newest=True), watch=watch)
    if output_json:
        write_atomic(output_json, rejudged.json)
    say(rejudged.text.removesuffix("\n"))


@command(
    OUTPUTS,
    _JSON,
    Option("--plan-sha256 HEX", "Only the runs of this plan."),
    Option("--hosts PATH", "For --html: a folder with what `runs --json` printed, as HOST.json."),
    Option("--html PATH", "Write a page of those hosts' last runs.", writes="file"),
)
def runs(
    outputs: Path, as_json: bool, plan_sha256: str, hosts: Path | None, html: Path | None
) -> None:
    """List the runs of a folder, oldest first: outcome, downtime, what was left to the limits."""
    from ctp_runbook._late import uncollected
    from ctp_runbook.record.past_runs import past_runs

    if (hosts is None) is not (html is None):
        import click

        raise click.UsageError("--hosts and --html go together: of these hosts, to that page")
    if hosts is not None and html is not None:
        _write_fleet_page(hosts, html)
        return
    with uncollected():
        past = past_runs(outputs.absolute(), plan_sha256=plan_sha256)
    if as_json:
        _say_json(past)
        return
    from ctp_runbook.show.blocks import Page
    from ctp_runbook.show.past_runs import runs_table, skipped_notes

    if past.runs:
        say(Page([runs_table(past)]).text)
    else:
        say(f"no run under {past.outputs}")
    if past.skipped:
        say(skipped_notes(past).text, err=True, fg="yellow")


def _write_fleet_page(hosts: Path, html: Path) -> None:
    import os
    from datetime import UTC, datetime
    from urllib.parse import quote

    from ctp_runbook.record.past_runs import runs_of_hosts
    from ctp_runbook.record.rundir import write_atomic
    from ctp_runbook.show.past_runs import fleet_page

    answers = runs_of_hosts(hosts)
    # A report that was fetched lies beside its host's answer; only then is there something to link to.
    reports = {
        host.run.run_id: quote(os.path.relpath(report, html.parent))
        for host in answers
        if host.run is not None
        and (report := hosts / host.host / f"{host.run.run_id}.html").is_file()
    }
    now = datetime.now(UTC).isoformat(" ", "seconds")
    write_atomic(html, fleet_page(answers, told_utc=now, reports=reports).encode())
    say(str(html))


@command(Option("WORDS ...", "A B", name="named"), _JSON, OUTPUTS)
def compare(named: tuple[str, ...], outputs: Path, as_json: bool) -> None:
    """What differs between two runs, each a directory or id: end, plan, steps, metrics."""
    from ctp_runbook.record import past_runs

    if wrong := _why_no_pair(named):
        import click

        raise click.UsageError(wrong)
    a, b = (find_run(Path(word), outputs) for word in named)
    compared = past_runs.compare(a, b)
    if as_json:
        _say_json(compared)
        return
    from ctp_runbook.show.blocks import Page
    from ctp_runbook.show.past_runs import comparison_blocks

    say(Page([*comparison_blocks(compared)]).text)


def _why_no_pair(named: tuple[str, ...]) -> str:
    if len(named) != 2:
        return f"name two runs, A and B; {len(named)} were named"
    as_path = Option("--run PATH")
    problems = ((word, as_path.problem(word)) for word in named)
    return next((f"{word!r} is {problem}" for word, problem in problems if problem), "")


def _say_json(known: PastRuns | Comparison) -> None:
    import msgspec

    say(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
