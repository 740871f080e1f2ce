"""All that is said of a run: by `status`, a banner, the report, notebook 07 and the end of a command."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import nbformat
import pytest

from ctp_runbook.cli import main as command_line
from ctp_runbook.cli.options import follow_to_end
from ctp_runbook.errors import RunbookError
from ctp_runbook.model import Outcome
from ctp_runbook.notebook import phases
from ctp_runbook.notebook.document import Document, Ending, NotebookStatus, Stamp
from ctp_runbook.notebook.progress import LiveView
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.redact import Redactor
from ctp_runbook.run import launch
from ctp_runbook.show import report, run_blocks, watch_figure
from ctp_runbook.show.blocks import Picture
from ctp_runbook.show.standing import who_trades
from tests.props.command_line import typed
from tests.props.run_states import Simulated, Truth, standing

__all__ = ["Said", "faults", "leave_pictures_out", "said_of"]

_NO_PICTURE = Picture(b"", "a picture")


class Said(NamedTuple):
    """Who says it, what, and the exit code of who does."""

    who: str
    text: str
    code: int | None = None


def leave_pictures_out(patch: pytest.MonkeyPatch) -> None:
    """Make pages without what is drawn on them, which takes seconds and says nothing in words."""
    patch.setattr(watch_figure, "watch_picture", lambda *_, **__: _NO_PICTURE)
    for page in (report, run_blocks, phases):
        patch.setattr(page, "pictures_of", lambda *_, **__: [])
    patch.setattr(run_blocks, "topology_picture", lambda *_, **__: _NO_PICTURE)


def said_of(made: Simulated) -> Iterator[Said]:
    """All that is said of a run in a state."""
    history = made.history
    with standing(made):
        yield _heard("status", lambda: typed("status", "--run", made.run.path))
        yield Said("headline", run_blocks.outcome_banner(history).text)
        yield Said("rollback", next(run_blocks.rollback_blocks(history)).text.splitlines()[0])
        yield Said("report", _report(made.run))
        if made.truth.conducted and made.truth.outcome is None:
            yield Said("banner", LiveView(made.run)._banner(history, made.clock.mono).text)
            yield Said("panel", who_trades(history, mono=made.clock.mono).words)
        if made.truth.outcome is not None and made.run.manifest.exists():
            yield Said("notebook", f"{phases.verify(made.run.path).page.text}\n{_footer(made.run)}")
        yield _heard("end", lambda: _end(made))


def _heard(who: str, speak: Callable[[], int]) -> Said:
    """What is printed meanwhile, on either stream."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = speak()
    return Said(who, said.getvalue(), code)


def _report(run: RunDir) -> str:
    """The report as text: a line a block, cells of a row apart."""
    page = report.write_report(run).read_text()
    body = page[page.index("<body>") :]
    body = re.sub(r"</(tr|div|h\d|li|section|nav)>", "\n", body)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def _footer(run: RunDir) -> str:
    """The last line of notebook 07, all of whose cells ran."""
    nb = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    document = Document(nb, None, redactor=Redactor(), stamp=Stamp.of(run.path))
    document.finish(Ending(NotebookStatus.COMPLETED, "every cell ran"), Stamp.of(run.path))
    return str(document.nb.cells[-1].source)


def _end(made: Simulated) -> int:
    """End a command that followed the run: with it, or without it."""
    followed = KeyboardInterrupt() if made.truth.conducted else None
    with mock.patch.object(launch, "follow", side_effect=followed, wraps=launch.follow):
        try:
            return follow_to_end(made.run, quiet=made.truth.dry)
        except RunbookError as error:
            return command_line._exit_code(error, [])


# --- what is so -----------------------------------------------------------------------

_OUTCOMES = {outcome.value for outcome in Outcome}
_UNIT_OF = {"order_latency_p99_ms": "ms", "reconnect_p99_s": "s"}


def faults(made: Simulated, said: Said) -> Iterator[str]:
    """What a text says that is not so in that state."""
    truth, text = made.truth, said.text
    for words, may in _may_say(truth).items():
        if not may and (found := re.search(words, text)):
            yield f"{found[0]!r} is not so"
    yield from _outcome_faults(truth, said)
    yield from _number_faults(made.history, said)
    yield from _clock_faults(text)
    for name in re.findall(r"(\w+) never started", text):
        if any(f"start_{name}" == getattr(r.payload, "step", "") for r in made.history.records):
            yield f"{name} never started, and its start was begun"
    if said.code is not None:
        yield from _code_faults(truth, said)
    if said.who in ("status", "headline"):  # the end is below a log of all that came before
        yield from (f"told twice: {twice!r}" for twice in _told_twice(text))
    if said.who == "report":
        head = text[: text.index("Watch window")]
        yield from (f"told twice above all: {twice!r}" for twice in _told_twice(head))
    if said.who in ("status", "end") and truth.touched and not (truth.conducted or truth.outcome):
        yield from _unsaid(truth, text)
    if said.who == "status" and truth.asks and not re.search(f"ctp-runbook {truth.asks}", text):
        yield f"it does not say: ctp-runbook {truth.asks}"


def _may_say(truth: Truth) -> dict[str, bool]:
    """Words, and whether they are so."""
    over = truth.outcome is not None
    return {
        r"(old|previous) (stack|generation)( still)? trades": truth.trades == "old",
        r"new (stack|generation) trades": truth.trades == "new",
        r"(?i)\bnothing trades": truth.trades == "nobody",
        # Where a start failed, nobody can know by the journal alone.
        "whether anything trades is not known": truth.trades in ("not known", "nobody"),
        "orders may be sent": truth.trades != "nobody",
        r"(?i)nothing was (touched|begun)|untouched|not touched|did not touch": not truth.touched,
        "had not begun to stop": not truth.touched,
        "(?i)nothing was done|dry run": truth.dry,
        r"rolls back in \d+:\d\d|s of \d+ s left|s OVER": truth.conducted and not over,
        "(?i)nobody conducts|not conducted": not truth.conducted and not over,
        r"; conducted;|goes on \(": truth.conducted and not over,
        "`ctp-runbook abort": not truth.touched and not over,
        "`ctp-runbook rollback": truth.touched and not over,
        "The run is not over|So far": not over,
        r"writes it|is not written": truth.unwritten,
        "evidence: ": over and not (truth.unwritten or truth.conducted),
        "(?i)window passed|watch PASSED(?! so far)": truth.verdict == "PASSED",
        "an operator must act|An operator must act": truth.outcome is Outcome.ROLLBACK_FAILED,
        r"\bvalidated": truth.outcome
        in (
            Outcome.ROLLED_BACK_IN_BUDGET,
            Outcome.ROLLED_BACK_LATE,
            Outcome.ROLLED_BACK_UNVALIDATED,
        ),
        # Not without what it was.
        "(?m): $|; $|: ;": False,
    }


def _unsaid(truth: Truth, text: str) -> Iterator[str]:
    """What must be said of a run that nobody conducts: what runs, what trades, and what to do."""
    trades = {
        "nobody": "NOTHING TRADES|whether anything trades is not known",
        "not known": "whether anything trades is not known|orders may be sent",
    }.get(truth.trades, "orders may be sent")
    if not re.search(trades, text):
        yield f"it does not say: {trades}"
    if "`ctp-runbook resume --run" not in text:
        yield "it does not say what to do now"
    for name in truth.alive:
        if not re.search(rf"{name} (runs|not known)", text):
            yield f"it does not say that {name} runs"


def _outcome_faults(truth: Truth, said: Said) -> Iterator[str]:
    """Every place names the run's outcome, and no other."""
    text = said.text.replace("expected COMPLETED", "")  # what a verification misses
    text = re.sub(r"rolls back run completed \(COMPLETED\)", "", text)
    named = {word for word in re.findall(r"\b[A-Z_]{7,}\b", text) if word in _OUTCOMES}
    own = {truth.outcome.value} if truth.outcome else set()
    if others := named - own:
        yield f"names {', '.join(sorted(others))}"
    if own and not named and said.who != "rollback":
        yield f"does not name {truth.outcome}"


def _code_faults(truth: Truth, said: Said) -> Iterator[str]:
    """The run's own code once it is over; 7 where nobody conducts it; 2 before the first stop alone."""
    if truth.outcome is not None:
        due: tuple[int, ...] = (truth.outcome.exit_code,)
    elif truth.dry or (not truth.conducted and truth.asks == "abort"):
        due = (0, 2)
    elif not truth.conducted:
        due = (7,)
    else:
        due = (0, 7)
    if said.code not in due:
        yield f"exit {said.code}, expected {' or '.join(map(str, due))}"
    if said.code == 2 and truth.touched:
        yield "exit 2 after a first stop"


def _number_faults(history: History, said: Said) -> Iterator[str]:
    """Values with their units; a headline as the numbers below it."""
    for metric, rest in re.findall(r"(\w+) [A-Z]+: worst (.{1,20})", said.text):
        unit = _UNIT_OF.get(metric, "")
        if unit and not re.match(rf"[\d.]+ {unit}\b", rest):
            yield f"worst {rest!r} of {metric} has no unit"
    if re.search(r"\d (state|count)\b", said.text):
        yield "a unit that is none"
    if counts := re.search(r"(\d+) of (\d+) metrics passed", said.text):
        passed, metrics = map(int, counts.groups())
        rows = re.findall(r"(?m)^ *(?!watch )\w+  ✓ PASSED ", said.text)
        if len(rows) != passed:
            yield f"{passed} of {metrics} passed, and more have a mark"
        if ("✓ PASSED;" in said.text or "✓ PASSED so far" in said.text) != (passed == metrics):
            yield f"the watch and its metrics: {counts[0]}"
    for row in said.text.splitlines():
        if "✓ PASSED" in row and "no data" in row:
            yield "no data, and PASSED"
    if (spent := re.search(r"trading downtime ([\d.]+) s", " ".join(said.text.split()))) and (
        _is_down(history)
    ):
        yield f"a downtime of {spent[1]} s that is not over"


def _is_down(history: History) -> bool:
    """Whether no runner was proved started since the last one was told to stop."""
    runners = [
        (record.kind, getattr(record.payload, "step", ""), getattr(record.payload, "status", ""))
        for record in history.records
        if str(getattr(record.payload, "step", "")).endswith("strategy_runner")
    ]
    down = False
    for kind, step, status in runners:
        if kind == "step_started" and step.startswith("stop"):
            down = True
        if kind == "step_ended" and step.startswith("start") and status == "ok":
            down = False
    return down


def _clock_faults(text: str) -> Iterator[str]:
    """A time of day says in which zone."""
    for found in re.finditer(r"\d\d:\d\d:\d\d(\.\d+)?", text):
        if not re.match(r"Z|\+\d\d:\d\d| UTC", text[found.end() :]):
            yield f"{text[max(0, found.start() - 20) : found.end() + 5]!r} has no zone"


def _told_twice(text: str) -> Iterator[str]:
    """A sentence, of four words at least, that stands on one screen twice."""
    text = re.sub(r"`[^`]*`|/\S+", "", text)  # a command or a place may be named again
    parts = re.split(r"[;:.](?:\s|$)|[()\n]", re.sub(r"(?m)^\d\d:\d\d:\d\dZ ", "", text))
    known: set[str] = set()
    for part in (part.strip(" ·»!✗✓ℹ…–○?").casefold() for part in parts):
        if len(part.split()) < 4:
            continue
        if part in known:
            yield part
        known.add(part)
