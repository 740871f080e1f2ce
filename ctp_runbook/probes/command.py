"""Commands that answer a question: how they end, what they print, and the metric they say.

Each runs in a group of its own that ends with it. What it prints goes to a file in memory, so a
child that keeps its stdout open keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack

from ctp_runbook.errors import ProbeError
from ctp_runbook.host import files
from ctp_runbook.host.held_command import HeldCommand
from ctp_runbook.plan.template_text import placeholders
from ctp_runbook.strict_json import decode_json

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["Running", "command_value", "run_probe", "run_probe_apart", "spoken_value"]

_SHOWN = 80
_QUOTED_CHARACTERS = 400
# What is kept of a probe's output; the rest is never read, and past the second the probe is ended.
_KEPT_BYTES, _MOST_BYTES = 8 << 20, 64 << 20


class Running(TypedDict):
    """Where a probe's command runs, with what, how long; words of ``interrupt`` end it early.

    ``key`` is where the command is set, for the sentence of one that is not fit to be run.
    """

    cwd: Path
    env: Mapping[str, str]
    seconds: float
    interrupt: NotRequired[Callable[[], str]]
    key: NotRequired[str]


def run_probe(command: str, **running: Unpack[Running]) -> tuple[int | None, bytes]:
    """Return exit code and output of a read-only command; None when it did not end in time.

    Raises ProbeError when it cannot be run at all, and for a placeholder that is still in it.
    """
    with _room() as output:
        return _run(command, output, **running)


def run_probe_apart(command: str, **running: Unpack[Running]) -> tuple[int | None, bytes, str]:
    """Return the same, but of the output stdout alone; third is the last line of stderr.

    A longer line is left out: cut, it could show half a secret, which nobody masks. Not for alive
    commands: where stderr cannot be opened bash ends with 1, which would say that a member is gone.
    """
    with _room() as output_file, _room() as errors:
        apart = f"exec 2>{shlex.quote(str(errors))}\n{command}"
        code, output = _run(apart, output_file, errors, **running)
        lines = _end_of(errors).decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        said = said if len(said) <= _QUOTED_CHARACTERS else ""
        # A sentence is shown on terminals and handed on in variables: no escapes, no NUL.
        return code, output, "".join(c if c.isprintable() else "\ufffd" for c in said)


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    """Yield a file for what a command prints, in memory and in no folder: an alive command whose words
    find a full disk may end with 1, which would say that a member is gone."""
    with contextlib.ExitStack() as held:
        try:
            output = held.enter_context(files.scratch("probe"))
        except OSError as error:
            raise ProbeError(f"no room for the output of a probe: {error}") from error
        yield output


def _run(
    command: str,
    output: Path,
    *others: Path,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
    key: str = "its command",
) -> tuple[int | None, bytes]:
    # To bash it would be two redirections, the second of which empties a file.
    if left := placeholders(command):
        raise ProbeError(f"not asked: the placeholder {', '.join(left)} is still in {key}")
    try:
        held = HeldCommand(command, cwd=cwd, env=env, output=output)
    except OSError as error:
        raise ProbeError(f"cannot be run in {cwd}: {error}") from error
    with contextlib.closing(held):
        held.release()
        end = held.wait(
            deadline=time.monotonic() + seconds,
            interrupt=lambda: _excess(output, *others) or interrupt(),
        )
        held.end(term_grace=0.2, kill_grace=1.0)  # also what it left behind
        with output.open("rb") as source:
            return end.exit_code, source.read(_KEPT_BYTES)


def _excess(*outputs: Path) -> str:
    """Return why a command is to be ended: one that never stops printing would fill the memory."""
    if sum(files.size_of(path) for path in outputs) <= _MOST_BYTES:
        return ""
    return f"more than {_MOST_BYTES >> 20} MiB of output"


def _end_of(path: Path) -> bytes:
    with path.open("rb") as source:
        source.seek(max(0, path.stat().st_size - _KEPT_BYTES))
        return source.read(_KEPT_BYTES)


# --- the metric a command says ----------------------------------------------------


def command_value(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``command``: what the rule's command line prints."""
    cwd, env, seconds = around.cwd, around.environ, rule.patience_seconds
    return lambda: spoken_value(rule.query, cwd=cwd, env=env, seconds=seconds)


def spoken_value(command: str, **running: Unpack[Running]) -> float | None:
    """Return what ``command`` prints: ``12.5``, or ``{"value": 12.5, "events": 40}``.

    NaN is kept. None where it says that there was nothing to measure: ``"value": null``, or no
    events. Raises ProbeError for another exit code than 0, for anything else on its output, and
    when it does not end in time.
    """
    code, output, said = run_probe_apart(command, **running)
    words = f"; it said: {said}" if said else ""
    if code is None:
        raise ProbeError(f"the command did not end within {running['seconds']:g} s{words}")
    if code != 0:
        raise ProbeError(f"the command ended with exit {code}, expected 0{words}")
    try:
        return _value(decode_json(output, subject="the command")[0])
    except (ProbeError, KeyError, TypeError, OverflowError) as error:
        text = output.decode(errors="replace").strip()
        # Cut, it could show half a secret, which nobody masks.
        shown = repr(text) if len(text) <= _SHOWN else f"{len(text)} characters"
        raise ProbeError(
            f"the command printed {shown}; expected a number, or a JSON object with a number as "
            "its value"
        ) from error


def _value(answer: Any) -> float | None:
    if isinstance(answer, dict):
        events, value = answer.get("events"), answer["value"]
        if value is None or (events == 0 and not isinstance(events, bool)):
            return None
        answer = value
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise TypeError(type(answer).__name__)
    if math.isinf(answer):
        # NaN says that there is no number; 1e999 is none that anything measures.
        raise OverflowError
    return float(answer)
