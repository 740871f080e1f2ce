"""What a gate must keep, ours or another distribution's: a test of theirs asks ``check_gate``."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import (
    REHEARSAL,
    GateOptions,
    GateResult,
    Task,
    judge_gate_evidence,
    perform,
)
from ctp_runbook.model import Phase, StepStatus
from ctp_runbook.plan.gate_table import GATES, PARTS, Gate
from ctp_runbook.plan.plugins import load_named
from ctp_runbook.plan.step_table import STEP_TABLE

__all__ = ["check_gate"]

_NOBODY = "127.0.0.1:1"  # nobody listens on the port of tcpmux, and nobody but root may
_DEADLINE_SECONDS, _SLACK_SECONDS = 3.0, 2.0


def check_gate(row: Gate) -> tuple[str, ...]:
    """What is wrong with a gate, a sentence each; empty where it conforms.

    Its row is looked at; then its tasks are made and done where nobody answers: the gate must
    fail, in time, with evidence that says so. Opens sockets towards port 1 of this host.
    """
    found = [*_row_findings(row), *_clashes(row)]
    if not found:
        found += _performer_findings(row)
    if not found:
        found += [*_absence_findings(row), *_dry_run_findings(row), *_silence_findings(row)]
    return tuple(found)


def _row_findings(row: Gate) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", row.name):
        yield f"the name {row.name!r}; expected a-z, 0-9 and -"
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", row.prefix):
        yield f"the prefix {row.prefix!r}; expected A-Z, 0-9 and _"
    if not re.fullmatch(r"[a-z0-9_]+_result\.env", row.file):
        yield f"the file {row.file!r}; expected NAME_result.env"
    steps = [step.name for step in STEP_TABLE if step.phase is Phase.GATE]
    if row.step not in steps:
        yield f"the step {row.step!r}; expected one of {', '.join(steps)}"
    for _, part in row.parts:
        if part not in PARTS:
            yield f"the part {part!r}; expected some of {', '.join(PARTS)}"


def _clashes(row: Gate) -> Iterator[str]:
    """What another gate has already, and what only ours may say."""
    if GATES.get(row.name) is row:
        return
    for own in GATES.values():
        taken = {"name": row.name, "prefix": row.prefix, "file": row.file}
        yield from (
            f"the {what} {value} is that of ctp_runbook's own gate {own.name}"
            for what, value in taken.items()
            if getattr(own, what) == value
        )
    if row.is_due:
        yield "is_due: a record is verified where no plug-in is, which would not miss its evidence"


def _performer_findings(row: Gate) -> Iterator[str]:
    try:
        performer = load_named(row.performer)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"performer {row.performer!r} cannot be imported: {error}"
        return
    if not callable(performer):
        yield f"performer {row.performer} is a {type(performer).__name__}; expected a function"


def _absence_findings(row: Gate) -> Iterator[str]:
    """Where no address is known there is nothing to do, and making tasks asks nobody."""
    options = GateOptions(execute=True, profile=REHEARSAL, deadline_seconds=_DEADLINE_SECONDS)
    tasks = _tasks(row, options)
    if isinstance(tasks, str):
        yield f"without an address it {tasks}; expected no tasks"
    elif tasks:
        yield f"without an address it has {len(tasks)} tasks; expected none"


def _dry_run_findings(row: Gate) -> Iterator[str]:
    """With one it has tasks, and a dry run does none of them."""
    tasks = _tasks(row, _options(row, execute=False))
    if isinstance(tasks, str):
        yield f"with {row.address or '--endpoint'} it {tasks}; expected tasks"
        return
    if not tasks:
        yield f"with {row.address or f'--endpoint {row.component}=URL'} it has no tasks"
    names = [task.name for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"two tasks are named {', '.join(twice)}"
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][\w.:-]*", name):
            yield f"the task name {name!r}; expected a word"
    steps = perform(tasks, execute=False)
    if any(step.status is not StepStatus.SIMULATED_OK for step in steps):
        yield "a dry run does something"


def _silence_findings(row: Gate) -> Iterator[str]:
    """Where nobody answers it fails in time, and its evidence is one that verifies as failed."""
    tasks = _tasks(row, options := _options(row, execute=True))
    if isinstance(tasks, str) or not tasks:
        return
    began = time.monotonic()
    try:
        steps = perform(tasks, execute=True)
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        yield f"where nobody answers it raises {type(error).__name__}: {error}; expected ProbeError"
        return
    took, due = time.monotonic() - began, options.deadline_seconds + _SLACK_SECONDS
    if took > due:
        yield f"where nobody answers it took {took:.1f} s; expected its deadline at most"
    result = GateResult(row, False, steps)
    if result.failed is None:
        yield "where nobody answers it passes"
    elif not result.failed.reason:
        yield f"{result.failed.name} fails without a reason"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / row.file
        file.write_bytes(result.evidence())
        if not list(judge_gate_evidence(file, gate=row, real=True)):
            yield "its evidence verifies although it failed"


def _tasks(row: Gate, options: GateOptions) -> tuple[Task, ...] | str:
    """The gate's tasks, or how making them failed, in words."""
    context = GateContext.of(options, environ={}, tell=lambda line: None)
    wanted = f"gives something else; expected a tuple of {Task.__name__}"
    try:
        tasks = load_named(row.performer)(context)
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        return f"raises {type(error).__name__}: {error}"
    if not isinstance(tasks, tuple) or not all(isinstance(task, Task) for task in tasks):
        return wanted
    return tasks


def _options(row: Gate, *, execute: bool) -> GateOptions:
    """Every address is given, and nobody is there."""
    return GateOptions(
        execute=execute,
        profile=REHEARSAL,
        bootstrap_servers=_NOBODY,
        clickhouse_url=f"http://{_NOBODY}",
        connect_url=f"http://{_NOBODY}",
        postgres_dsn="host=127.0.0.1 port=1 dbname=none user=none",
        endpoints={row.component: f"http://{_NOBODY}"},
        deadline_seconds=_DEADLINE_SECONDS,
    )
