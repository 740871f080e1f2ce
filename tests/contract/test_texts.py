"""Every sentence a run can be told in, beside the state it belongs to: no text says more than is so.

The journals are those of the recorded and the simulated runs, cut off wherever the state changed:
what `status`, a notebook's banner, the report's headline and the end of a command say of each.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ctp_runbook.cli import runs
from ctp_runbook.cli.options import follow_to_end
from ctp_runbook.model import Outcome, Phase, StepKind
from ctp_runbook.notebook import progress
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import attend
from ctp_runbook.run.launch import RunOptions, create_run, start
from ctp_runbook.show import report, run_blocks, standing, terminal
from ctp_runbook.show.run_blocks import outcome_banner, rollback_blocks
from tests.props.command_line import typed
from tests.props.plan_fixtures import make_plan
from tests.props.run_states import Simulated, simulated
from tests.props.told_texts import Said, faults, leave_pictures_out, said_of

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
RECORDED = sorted(path.name for path in GOLDEN.iterdir() if (path / "journal.jsonl").is_file())
STOPS = {s.name for s in STEP_TABLE if s.phase is Phase.SWITCH and s.kind is StepKind.STOP}


# All that makes a sentence of these five places.
SPEAKERS: tuple[Callable[..., object], ...] = (
    *(terminal._of_steps, terminal._of_watch, terminal._of_people),
    *(terminal._hold, terminal._rollback, terminal._step),
    *(standing.who_trades, standing._since, standing._what_is_left),
    *(progress.progress_sentence, progress._judged, progress.LiveView._banner),
    *(attend._unattended_sentence, attend.left_sentence, attend.lost_sentence, attend._what_runs),
    *(attend._word_of, attend.waiting_sentence, attend.unwritten_sentence),
    attend.unstarted_sentence,
    *(run_blocks.headline, run_blocks._as_seen, run_blocks._reason, run_blocks._standing),
    *(run_blocks.below_headline, run_blocks.outcome_banner, run_blocks.budget_figure),
    *(run_blocks.downtime_figure, run_blocks.mode_banner),
    *(report._watch, report._key_figures, follow_to_end, runs.status.perform),
)
# What none of the simulated journals brings out, by why not.
UNREACHED = {
    "the orders of simulated engines are timed": r"The watch window PASSED; that .* is not proved",
    "a run of this version is not COMPLETED without a watch": r"not made",
    "a run of this version whose previous stack is not seen alive has failed to roll back": (
        r"Rolled back, and not all of the previous stack was seen alive: .*"
    ),
    "who gives no sign of life is simulated in tests/run/test_attend.py, on a host with hearts": (
        r"no answer since|s from its|stopped or held up in a call.*|ends that and takes the run up"
    ),
    "a journal is taken from under its reader in tests/scenarios/test_things_vanish.py": (
        r"is lost:|was taken away.*|It was|; syslog and ALERT_CMD.*"
    ),
}


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


def stories(folder: Path) -> Iterator[tuple[str, RunDir]]:
    """Each run there is, in a place of its own."""
    for name in RECORDED:
        run = RunDir(folder / "recorded" / name / read_id(GOLDEN / name))
        shutil.copytree(GOLDEN / name, run.path)
        yield f"recorded {name}", run
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
            yield told("banner", progress.LiveView(run)._banner(history, last).text)
        elif run.manifest.exists():
            code = follow_to_end(run, quiet=history.is_dry_run)
            lines = said().splitlines()  # of a real run those before were told as it went
            yield told("end", "\n".join(lines if history.is_dry_run else lines[-2:]), code)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Simulated, Said]]:
    """All that is said of a simulated journal of every state."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("states")
        patch.chdir(folder)
        leave_pictures_out(patch)
        return [(made, said) for made in simulated(folder) for said in said_of(made)]


def test_every_text_is_so_in_its_state(every: list[tuple[Simulated, Said]]) -> None:
    """Who trades and who conducts, what was touched, the exit code, the numbers, what to do; in every
    place the same, and once."""
    assert {made.truth.outcome for made, _ in every} == {None, *Outcome}
    wrong = [
        f"{made.name}, {said.who}: {why}" for made, said in every for why in faults(made, said)
    ]
    assert wrong == []


def test_every_sentence_of_the_code_is_reached(every: list[tuple[Simulated, Said]]) -> None:
    """A text that no simulated journal brings out is checked by nobody; it stands in UNREACHED."""
    said = " ".join(text.text for _, text in every)
    missing = {
        f"{function.__qualname__}: {words}"
        for function in SPEAKERS
        for words in sentences_in(function)
        if words not in said and not any(re.fullmatch(why, words) for why in UNREACHED.values())
    }
    assert missing == set()


def sentences_in(function: Callable[..., object]) -> Iterator[str]:
    """The pieces of sentences that stand in a function, two words at least; its docstring is none."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.strip()
            is_prose = (
                len(re.findall(r"[A-Za-z]{2,}", words)) > 1 and " " in words and "<" not in words
            )
            if node.value not in docstrings and is_prose:
                yield words


@pytest.mark.table
def test_no_text_says_more_than_is_so(
    every: list[tuple[Simulated, Said]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_table: Callable[[str, list[str]], None],
) -> None:
    """In no state of any recorded run: about what trades, what was touched, what passed, what would
    be. And what is said of them is said of a simulated journal of that state as well, where it can
    be checked against what is so; or there is a reason why not."""
    recorded = [
        told
        for story, run in stories(tmp_path)
        for told in tell(story, run, lambda: capsys.readouterr().out)
    ]
    assert {told.history.outcome for told in recorded} >= set(Outcome)
    wrong = [
        f"{told.story}, {told.state}, {told.who}: {why}"
        for told in recorded
        for why in faults_of(told)
    ]
    assert wrong == []
    states: dict[str, set[str]] = {}
    for made, said in every:
        if (lines := told_lines(made, said)) is not None:
            for line in lines:
                found = row(made.history, said, line)
                states.setdefault(found, set()).add(made.name)
    for told in recorded:
        said = Said(told.who, told.text, told.code)
        for line in told.text.splitlines():
            found = row(told.history, said, line)
            if found not in states:
                states[found] = {f"recorded: {why_recorded(line, told.history)}"}
    unreached = [found for found, names in states.items() if "recorded: " in names]
    assert unreached == [], "\n".join(unreached)
    record_table(
        "texts", [f"{found} [{shortened(names)}]" for found, names in sorted(states.items())]
    )


def told_lines(made: Simulated, said: Said) -> list[str] | None:
    """The lines of a text that the table has; None for a whole page."""
    lines = [line for line in said.text.splitlines() if line.strip()]
    if said.who in ("report", "notebook"):
        return None if said.who == "report" else lines[-1:]
    # Those before were told as it went.
    return lines[-2:] if said.who == "end" and not made.truth.dry else lines


def why_recorded(line: str, history: History) -> str:
    """Why a line is said of a recorded run alone; blank for no reason."""
    closed = history.closed.payload.sentence if history.closed else ""
    if history.is_dry_run or re.search(r"^(\d\d:\d\d:\d\dZ )?\s*[!✗] ", line):
        return "what its own templates, host or engines gave reason for"
    if closed and closed[:40] in line:
        return "how it ended, in the words of the version that recorded it"
    reasons = [transition.reason for transition in history.transitions]
    if any(reason in line for reason in reasons) or "ROLLING_BACK" in line or "watch" in line:
        return "its own reason or numbers"
    if history.closed or re.search(r"[✓…–»] ", line) or "steps)" in line:
        return "a step, a request or a seal of its own making"
    return ""


def shortened(names: set[str]) -> str:
    """The first of the states, and how many more there are."""
    first, *others = sorted(names)
    return f"{first}, and {len(others)} more" if others else first


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


def row(history: History, said: Said, line: str) -> str:
    """A line of the table, without what differs from one day to the next."""
    text = re.sub(rf"(\S*/|\b(?<=run )){re.escape(history.run_id)}\b", "RUN", line)
    for pattern, word in MOVING.items():
        text = re.sub(pattern, word, text)
    code = "" if said.code is None else f" (exit {said.code})"
    state = history.outcome.value if history.outcome else history.state.value
    return f"{state:<24} {said.who:<9}{code:<9} {text.strip()}".rstrip()


MOVING = {
    r"\S*/evidence\b": "RUN/evidence",
    r"\d{4}-\d\d-\d\dT[\d:.+Z-]+": "TIME",
    r"\b(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(Z| UTC)": "TIME",
    r"sha256 `\w+`": "sha256 …",
    r"\b\d{8}T\d{6}Z-\S+": "RUN",
    r"\bpids? \d+": "pid N",
    r"\btick \d+": "tick N",
    r"\b\d+(\.\d+)?(e-?\d+)?": "N",
    r"\btest-N-N\b": "ENVIRONMENT",
    r"/tmp/\S+": "…",
}
