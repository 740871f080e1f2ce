"""Every sentence a run can be told in, beside the state it belongs to: no text says more than is so.

The journals are those of the recorded and the simulated runs, cut off wherever the state changed:
what `status`, a notebook's banner, the report's headline and the end of a command say of each.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ctp_runbook.cli.options import follow_to_end
from ctp_runbook.model import Outcome, Phase, StepKind
from ctp_runbook.notebook.progress import progress_sentence
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import RunOptions, create_run, start
from ctp_runbook.show.run_blocks import outcome_banner, rollback_blocks
from tests.props.command_line import typed
from tests.props.example_records import like
from tests.props.plan_fixtures import make_plan
from tests.props.run_states import simulated
from tests.props.synthetic_runs import KINDS, make_run
from tests.props.told_texts import faults, no_pictures, said_of

__all__ = ["no_pictures"]

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
RECORDED = sorted(path.name for path in GOLDEN.iterdir() if (path / "journal.jsonl").is_file())
STOPS = {s.name for s in STEP_TABLE if s.phase is Phase.SWITCH and s.kind is StepKind.STOP}


class Told(NamedTuple):
    """Where a run stands, who says it, what, and the exit code of who does."""

    story: str
    state: str
    who: str
    text: str
    code: int | None
    history: History


def refused_dry_run(outputs: Path) -> RunDir:
    """A dry run of a plan that --execute would refuse."""
    plan = make_plan(outputs, WARMUP_QUERY_CMD="cat <instruments>")
    run = create_run(plan, RunOptions(outputs=outputs))
    start(run, plan=plan)
    return run


def holding_run(outputs: Path) -> RunDir:
    """A run that holds, for nobody could tell how the new engine does."""
    run = make_run("completed", outputs)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    ended = next(n for n, line in enumerate(lines) if b'"kind":"watch_ended"' in line)
    run.journal.write_bytes(b"".join(lines[:ended]))
    journal = Journal(run.journal, durable=False)
    journal.append(like("judgement", overall="INCONCLUSIVE"))
    journal.append(like("state", to="HOLDING", reason="the watch is INCONCLUSIVE"))
    journal.close()
    return run


def stories(folder: Path) -> Iterator[tuple[str, RunDir]]:
    """Each run there is, in a place of its own."""
    for name in RECORDED:
        run = RunDir(folder / "recorded" / name / read_id(GOLDEN / name))
        shutil.copytree(GOLDEN / name, run.path)
        yield f"recorded {name}", run
    for kind in KINDS:
        (folder / kind).mkdir()
        yield kind, make_run(kind, folder / kind)
    (folder / "holding").mkdir()
    yield "holding", holding_run(folder / "holding")
    (folder / "doubtful").mkdir()
    yield "dry, refused", refused_dry_run(folder / "doubtful")


def read_id(run: Path) -> str:
    """The id that a recorded run had, whatever it is kept as."""
    return History.of(read_journal(run / "journal.jsonl").records).run_id


def moments(run: RunDir) -> Iterator[History]:
    """The run whole, and before that each time its state was another, longest journal first."""
    lines = run.journal.read_bytes().splitlines(keepends=True)
    records = read_journal(run.journal).records
    states = [History.of(records[: n + 1]).state for n in range(len(records))]
    for n in range(len(records), 0, -1):
        if n == len(records) or states[n] is not states[n - 1]:
            run.journal.write_bytes(b"".join(lines[:n]))
            yield History.of(records[:n])


def tell(story: str, run: RunDir, said: Callable[[], str]) -> Iterator[Told]:
    """All that is said of each moment of a run."""
    for history in moments(run):
        state = history.outcome.value if history.outcome else history.state.value
        last = history.records[-1].mono

        def told(
            who: str,
            text: str,
            code: int | None = None,
            *,
            state: str = state,
            history: History = history,
        ) -> Told:
            return Told(story, state, who, text, code, history)

        code = typed("status", "--run", run.path)
        yield told("status", said(), code)
        yield told("headline", outcome_banner(history).text)
        yield told("rollback", next(rollback_blocks(history)).text.splitlines()[0])
        if history.closed is None:
            yield told("banner", progress_sentence(history, mono=last))
        elif run.manifest.exists():
            code = follow_to_end(run, quiet=history.is_dry_run)
            lines = said().splitlines()  # of a real run those before were told as it went
            yield told("end", "\n".join(lines if history.is_dry_run else lines[-2:]), code)


@pytest.mark.usefixtures("no_pictures")
def test_every_text_is_so_in_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a simulated journal of every state: who trades and who conducts, what was touched, the exit
    code, the numbers, what to do; in every place the same, and once."""
    monkeypatch.chdir(tmp_path)
    wrong = [
        f"{made.name}, {said.who}: {why}"
        for made in simulated(tmp_path)
        for said in said_of(made, lambda: "".join(capsys.readouterr()))
        for why in faults(made, said)
    ]
    assert wrong == []


@pytest.mark.table
def test_no_text_says_more_than_is_so(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_table: Callable[[str, list[str]], None],
) -> None:
    """In no state of any run: about what trades, what was touched, what passed, what would be."""
    every = [
        told
        for story, run in stories(tmp_path)
        for told in tell(story, run, lambda: capsys.readouterr().out)
    ]
    assert {told.history.outcome for told in every} >= set(Outcome)
    wrong = [
        f"{told.story}, {told.state}, {told.who}: {why}"
        for told in every
        for why in faults_of(told)
    ]
    assert wrong == []
    rows = {row(told, line, tmp_path) for told in every for line in told.text.splitlines()}
    record_table("texts", sorted(rows))


def faults_of(told: Told) -> Iterator[str]:
    """What a text says that its state does not bear out."""
    history, outcome = told.history, told.history.outcome
    closed = history.closed.payload if history.closed else None
    seen = closed.running if closed else {}
    text = without_parent(told.text)
    if told.story.startswith("recorded") and closed:
        text = text.replace(closed.sentence, "")  # the words of the version that recorded it
    stopped = any(history.step(name).attempt for name in STOPS)
    judged = history.judgement.payload.overall if history.judgement else ""
    rolled_back = outcome is not None and outcome.value.startswith("ROLLED_BACK")
    may_say = {
        r"\bCOMPLETED\b": outcome is Outcome.COMPLETED,
        "nothing stands in the way": not history.would_refuse,
        "PASSED": judged in ("", "PASSED") or told.who not in ("banner", "headline"),
        "old stack still trades|old stack trades": all_alive(seen, "old"),
        "previous stack trades": all_alive(seen, "old"),
        "new stack trades": all_alive(seen, "new"),
        "nothing was touched": not stopped or history.parent is not None,
        "Rolled back": rolled_back,
    }
    yield from (
        f"{words}: {seen}" for words, may in may_say.items() if not may and re.search(words, text)
    )
    yield from code_faults(told, stopped=stopped)
    if outcome is Outcome.ROLLBACK_FAILED and told.who == "headline" and "operator" not in text:
        yield "nobody is called for"


def code_faults(told: Told, *, stopped: bool) -> Iterator[str]:
    """What an exit code says that its state does not bear out."""
    outcome = told.history.outcome
    if told.code == 2 and stopped:
        yield "exit 2 after a first stop"
    if told.code == 70:
        yield "exit 70"
    if told.code is not None and outcome and told.code != outcome.exit_code:
        yield f"exit {told.code} of a run that ended {outcome.value}"


def without_parent(text: str) -> str:
    """A rollback by a run of its own names how the other one ended."""
    return re.sub(r"rolls back run \S+ \(COMPLETED\)", "", text)


def all_alive(seen: object, generation: str) -> bool:
    """Whether every part of it was seen alive at the end."""
    assert isinstance(seen, dict)
    states = {state for name, state in seen.items() if name.startswith(generation)}
    return states == {"alive"}


def row(told: Told, line: str, folder: Path) -> str:
    """A line of the table, without what differs from one day to the next."""
    run = told.history.run_id
    text = re.sub(rf"(\S*/|\b(?<=run )){re.escape(run)}\b", "RUN", line)
    text = text.replace(str(folder), "…")
    for pattern, word in MOVING.items():
        text = re.sub(pattern, word, text)
    code = "" if told.code is None else f" (exit {told.code})"
    return f"{told.state:<24} {told.who:<9}{code:<9} {text.strip()}".rstrip()


MOVING = {
    r"\S*/evidence\b": "RUN/evidence",
    r"\d{4}-\d\d-\d\dT[\d:.+Z-]+": "TIME",
    r"\b\d\d:\d\d:\d\dZ": "TIME",
    r"\b\d{8}T\d{6}Z-\S+": "RUN",
    r"\bpids? \d+": "pid N",
    r"\btick \d+": "tick N",
    r"\b\d+(\.\d+)?(e-?\d+)?": "N",
    r"\btest-N-N\b": "ENVIRONMENT",
    r"/tmp/\S+": "…",
}
