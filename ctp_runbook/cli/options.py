"""What the commands share: their table of options, and how values become a plan or a run.

A command and its options are rows, which click is told of only where there is something to explain:
help, or words that are not plainly right. Importing click costs as much as a whole interpreter.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctp_runbook.record.history import History
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.run.launch import RunOptions
    from ctp_runbook.show.live import Viewer

__all__ = [
    "BY",
    "HOMES",
    "NEW_OUTPUTS",
    "OUTPUTS",
    "Command",
    "Option",
    "command",
    "find_run",
    "follow_to_end",
    "load_command",
    "plain_values",
    "run_at_hand",
    "say",
    "say_end",
    "take_in_hand",
    "tell_of_standing",
    "viewer_of",
]

# The commands of each module, imported when one is asked for; the order is that of --help, which is
# the order of use.
_COMMANDS = {
    "main": ("plan", "calibrate", "orchestrate", "drill", "run", "verify", "proc"),
    "gates": ("readiness", "infra"),
    "runs": (
        *("status", "hold", "resume", "abort", "rollback", "report", "rejudge"),
        *("runs", "compare"),
    ),
    "twin": ("rehearse", "stack", "lab"),
}
HOMES = {name: module for module, names in _COMMANDS.items() for name in names}
_BLANKS = {"": False, "PATH": None, "FLOAT": None}
_LEFT = 7  # this viewer left a run that is not over
# The run that this command is about, once it is known: what an error leaves of it, its exit code says.
_AT_HAND: list[RunDir] = []
_Performer = Callable[..., "int | None"]


class Option:
    """A row: ``--flag METAVAR`` as help shows it, what it means, and what else click takes.

    A flag has no METAVAR, a path's is PATH; ``...`` after it lets the option come again. ``name``
    is the parameter it fills, where that is not the flag's own name. ``writes`` is what a path is
    made or replaced as, ``file`` or ``folder``; blank for what is read. ``again``: what is read is
    read more than once.
    """

    def __init__(
        self,
        spec: str,
        help: str = "",
        *,
        name: str = "",
        writes: str = "",
        again: bool = False,
        **settings: Any,
    ) -> None:
        self.flag, _, self.metavar = spec.partition(" ")
        self.name = name or self.flag.partition("/")[0].removeprefix("--").replace("-", "_")
        self.help = help
        self.writes = writes
        self.again = again
        blank = None if self.metavar.endswith("...") else ""
        self.settings = {"default": _BLANKS.get(self.metavar, blank), **settings}

    def problem(self, word: str) -> str:
        """Say what is wrong with a word, before anything is done; blank for nothing that is seen."""
        if "\0" in word:
            return "a NUL character; leave it out"
        if not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word):
            return "bytes that are not UTF-8; write it in UTF-8"
        if self.metavar == "PATH":
            return self._path_problem(word)
        if "URL" in self.metavar or self.flag.endswith("-url"):
            return _url_problem(word)
        return ""

    def _path_problem(self, word: str) -> str:
        from ctp_runbook.host.files import why_not_written

        if not word:
            return "blank; name a path, or leave the option out"
        path = Path(word)
        if self.writes:
            return why_not_written(path, folder=self.writes == "folder")
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return ""  # who reads it says what it should have been
        except OSError as error:
            return f"not to be read ({error.strerror}); name another path"
        if not os.access(path, os.R_OK):
            return "not readable; let this user read it, or name another path"
        if self.again and not stat.S_ISREG(mode):
            return "no file; name one: it is read again, and its digest is part of the plan"
        return ""


def _url_problem(word: str) -> str:
    if "[" not in word and "]" not in word and word.isascii() and ":" not in word[6:]:
        return ""  # no port and no brackets: nothing that could not be taken apart
    from ctp_runbook.host.addresses import split_url

    address = word.partition("=")[2] if word.partition("=")[2].find("://") > 0 else word
    try:
        split_url(address)
    except ValueError as error:
        return f"no address ({error}); expected http://HOST:PORT or the like"
    return ""


class Command:
    """What performs a command, whose docstring is the help; its options; and what click takes."""

    def __init__(self, perform: _Performer, *options: Option, **settings: Any) -> None:
        self.perform = perform
        self.options = options
        self.settings = settings


def command(*options: Option, **settings: Any) -> Callable[[_Performer], Command]:
    """Make a function a command with these options, in the order of its help."""
    return lambda perform: Command(perform, *options, **settings)


def load_command(name: str) -> Any:
    """Return the row of a command, or what click calls a group; its module is imported now."""
    return getattr(importlib.import_module(f"ctp_runbook.cli.{HOMES[name]}"), name)


BY = Option("--by TEXT", "Who asks, for the record.")
OUTPUTS = Option("--outputs PATH", default=Path("outputs"))
# Of commands that make a run there.
NEW_OUTPUTS = Option("--outputs PATH", writes="folder", default=Path("outputs"))


def plain_values(words: Iterable[str], options: Iterable[Option]) -> dict[str, Any] | None:
    """Return each option's value by its name; None where only click can tell, or say what is wrong."""
    known = {option.flag: option for option in options}
    if not all(option.metavar in _PLAIN for option in known.values()):
        return None
    values = {option.name: option.settings["default"] for option in known.values()}
    rest = iter(words)
    for word in rest:
        flag, joint, text = word.partition("=")
        option = known.get(flag)
        if option is None or (joint and not option.metavar):
            return None
        value = text if joint or not option.metavar else next(rest, None)
        if value is None or (option.metavar and option.problem(value)):
            return None
        values[option.name] = _PLAIN[option.metavar](value)
    return values


# What the word of an option becomes, by its METAVAR; a flag has none.
_PLAIN: dict[str, Callable[[str], Any]] = {
    "": lambda none: True,
    "PATH": Path,
    "TEXT": str,
    "HEX": str,
    "REASON": str,
}


def say(text: str, *, err: bool = False, **style: Any) -> None:
    """Print a line as click does: colours for a terminal alone, UTF-8 where a stream says ASCII."""
    stream = sys.stderr if err else sys.stdout
    if not text.isprintable():
        from ctp_runbook.plan.template_text import printable

        text = printable(text)
    if os.environ.get("NO_COLOR"):
        style = {}
    if style or stream is None or (stream.encoding or "").lower() != "utf-8":
        import click

        click.secho(text, err=err, **style)
    else:
        print(text, file=stream, flush=True)


def find_run(run_dir: Path | None, outputs: Path, *, newest: bool = False) -> RunDir:
    """Return the run named by ``--run``, a directory or an id in ``--outputs``, else the one in charge.

    With ``newest``, for what only reads, it is the newest instead. Raises RunRefused when there is
    none, or none of that name, and RunLost when its folder is gone and it held its environment last.
    """
    from ctp_runbook.errors import RunRefused
    from ctp_runbook.record.charge import await_its_folder, refuse_lost, run_in_charge
    from ctp_runbook.record.rundir import RunDir, newest_run

    if run_dir is None:
        return (newest_run if newest else run_in_charge)(outputs.absolute())
    places = (run_dir, outputs / run_dir)
    await_its_folder(places)
    for place in places:
        if place.is_dir():
            return RunDir(place.absolute())
    refuse_lost(places)
    raise RunRefused(
        f"--run {run_dir}: neither a directory nor the id of a run in {outputs.absolute()}; name "
        "one that is, or another folder of runs by --outputs"
    )


def take_in_hand(run: RunDir | None) -> None:
    """Say which run the command is about; None for a command that begins."""
    # What never was a run may be gone, and nothing is lost.
    is_run = run is not None and (os.path.lexists(run.journal) or os.path.lexists(run.run_json))
    _AT_HAND[:] = [run] if run is not None and is_run else []


def run_at_hand() -> RunDir | None:
    """Return the run that the command is about, where it has come to one."""
    return _AT_HAND[-1] if _AT_HAND else None


def _say_findings(history: History) -> None:
    """Print what a reader of the journal is to know, of a run that is not followed line by line."""
    from ctp_runbook.record.kinds import Finding

    for record in history.of_kind(Finding):
        is_grave = record.payload.severity == "critical"
        say(f"DRY RUN {'✗' if is_grave else '!'} {record.payload.sentence}")


def viewer_of(run: RunDir, *, dry_run: bool = False, as_json: bool = False) -> Viewer:
    """What tells a run as it goes on: as JSON, moving where there is a terminal, or line by line."""
    from ctp_runbook.show import live
    from ctp_runbook.show.terminal import Narrator

    if as_json:
        return live.Viewer(run, live.JsonLines(run, dry_run=dry_run))
    return live.Viewer(run, live.Screen() if live.is_screen() else Narrator())


def follow_to_end(run: RunDir, *, quiet: bool, as_json: bool = False) -> int:
    """Follow a run to its end; Ctrl-C leaves it going. ``quiet``, for a dry run: not line by line."""
    from ctp_runbook.run import launch

    take_in_hand(run)
    is_followed = as_json or not quiet
    viewer = viewer_of(run, dry_run=quiet, as_json=as_json) if is_followed else nullcontext()
    try:
        with viewer:
            history = launch.follow(run, until=lambda _: False)
    except KeyboardInterrupt:
        return _leave(run, as_json=as_json)
    assert history.closed is not None  # follow returned, so it is over
    assert history.outcome is not None
    dry = "DRY RUN " if history.is_dry_run else ""
    unwritten = launch.unwritten_sentence(run, history)
    if as_json:
        say_end(run, history, history.outcome.exit_code)
    else:
        _say_how_it_ended(run, history, is_written=not unwritten, quiet=quiet)
    if unwritten:
        say(f"{dry}{unwritten}", err=True, fg="red")
    return history.outcome.exit_code


def tell_of_standing(run: RunDir, options: RunOptions, *, as_json: bool) -> int:
    """Follow a run of the plan that is there already, to its end; of one that is over tell how it ended.

    One that nobody conducts is taken up. In a dry run it is told of alone; 0 where it goes on.
    """
    from ctp_runbook.run import launch
    from ctp_runbook.run.steer import take_up

    take_in_hand(run)
    history = launch.read_whole(run)
    if history.outcome is None and options.execute:
        if take_up(run, by=options.by or launch.operator_name()) and not as_json:
            say(f"run {run.run_id}: nobody conducted it; taken up again")
        return follow_to_end(run, quiet=False, as_json=as_json)
    code = history.outcome.exit_code if history.outcome else 0
    stands = history.outcome.value if history.outcome else history.state.value
    sentence = f"run {run.run_id} of this plan is {stands}: no other is begun"
    if code:
        sentence += f"; once what it tells of is mended, `--again {run.run_id}` begins one"
    if as_json:
        say_end(run, history, code, sentence=sentence)
    elif history.outcome is not None:
        _say_how_it_ended(run, history, is_written=True, quiet=False)
    say(sentence, err=as_json)
    return code


def _say_how_it_ended(run: RunDir, history: History, *, is_written: bool, quiet: bool) -> None:
    dry = "DRY RUN " if history.is_dry_run else ""
    if quiet:
        assert history.closed is not None
        assert history.outcome is not None
        _say_findings(history)
        say(f"{dry}{history.outcome.value}: {history.closed.payload.sentence}")
    else:
        from ctp_runbook.show.terminal import ending_lines

        *lines, report, outcome = ending_lines(history, run)
        for line in (*lines, report):
            say(line)
        say(outcome, bold=True)
    if is_written:
        say(f"{dry}evidence: {run.evidence}")


def say_end(run: RunDir, history: History, code: int, *, sentence: str = "") -> None:
    """Print the last line of ``--json``."""
    from ctp_runbook.show.live import JsonLines

    JsonLines(run, dry_run=history.is_dry_run).end(history, code, sentence=sentence)


def _leave(run: RunDir, *, as_json: bool) -> int:
    """Say how to come back to a run that goes on: nobody knows how it will end, and that is no success."""
    from ctp_runbook.run import launch

    history = launch.read_whole(run)
    code = history.outcome.exit_code if history.outcome is not None else _LEFT
    left = launch.left_sentence(run, history)
    if as_json:
        say_end(run, history, code, sentence=left)
    else:
        say(left)
    return code
