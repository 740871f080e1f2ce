"""What a gate must keep, ours or another distribution's: a test of theirs asks ``check_gate``."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
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
# Column of a row, its form, and the form in words.
_FORMS = (
    ("name", r"[a-z][a-z0-9-]*", "a-z, 0-9 and -"),
    ("prefix", r"[A-Z][A-Z0-9_]*", "A-Z, 0-9 and _"),
    ("file", r"[a-z0-9_]+_result\.env", "NAME_result.env"),
)


def check_gate(row: Gate) -> tuple[str, ...]:
    """Return what is wrong with a gate, a sentence each; empty where it conforms.

    Its row is looked at; then its tasks are made and done where nobody answers: the gate must
    fail, in time, with evidence that says so. Opens sockets towards port 1 of this host.
    """
    findings = [*_row_findings(row), *_clashes(row)]
    # What is wrong later would only follow from that.
    return tuple(findings or _performer_findings(row)) or tuple(_task_findings(row))


def _row_findings(row: Gate) -> Iterator[str]:
    for column, form, words in _FORMS:
        if not re.fullmatch(form, value := getattr(row, column)):
            yield f"the {column} {value!r}; expected {words}"
    steps = [step.name for step in STEP_TABLE if step.phase is Phase.GATE]
    if row.step not in steps:
        yield f"the step {row.step!r}; expected one of {', '.join(steps)}"
    for _, part in row.parts:
        if part not in PARTS:
            yield f"the part {part!r}; expected some of {', '.join(PARTS)}"


def _clashes(row: Gate) -> Iterator[str]:
    """Yield what another gate has already, and what only ours may say."""
    if GATES.get(row.name) is row:
        return
    for own in GATES.values():
        for column, _, _ in _FORMS:
            if (value := getattr(row, column)) == getattr(own, column):
                yield f"the {column} {value} is that of ctp_runbook's own gate {own.name}"
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


def _task_findings(row: Gate) -> Iterator[str]:
    """Yield what is wrong with its tasks: without an address, in a dry run, where nobody answers."""
    bare = GateOptions(execute=True, profile=REHEARSAL, deadline_seconds=_DEADLINE_SECONDS)
    tasks, findings = _tasks(row, bare, where="without an address", expected="no tasks")
    yield from findings
    if tasks:
        yield f"without an address it has {len(tasks)} tasks; expected none"
    where = f"with {row.address or f'--endpoint {row.component}=URL'}"
    tasks, findings = _tasks(row, _options(row, execute=False), where=where, expected="tasks")
    yield from findings
    if not tasks and not findings:
        yield f"{where} it has no tasks"
    yield from _name_findings(tasks)
    if any(step.status is not StepStatus.SIMULATED_OK for step in perform(tasks, execute=False)):
        yield "a dry run does something"
    tasks, _ = _tasks(row, _options(row, execute=True), where=where, expected="tasks")
    if tasks:
        yield from _silence_findings(row, tasks)


def _name_findings(tasks: tuple[Task, ...]) -> Iterator[str]:
    counts = Counter(task.name for task in tasks)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        yield f"two tasks are named {', '.join(twice)}"
    for name in counts:
        if not re.fullmatch(r"[A-Za-z0-9][\w.:-]*", name):
            yield f"the task name {name!r}; expected a word"


def _silence_findings(row: Gate, tasks: tuple[Task, ...]) -> Iterator[str]:
    """Yield where it does not fail in time, with evidence that verifies as failed."""
    began = time.monotonic()
    try:
        steps = perform(tasks, execute=True)
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        yield f"where nobody answers it raises {type(error).__name__}: {error}; expected ProbeError"
        return
    if (took := time.monotonic() - began) > _DEADLINE_SECONDS + _SLACK_SECONDS:
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


def _tasks(
    row: Gate, options: GateOptions, *, where: str, expected: str
) -> tuple[tuple[Task, ...], list[str]]:
    """Return the gate's tasks, and what is wrong with how they are made."""
    context = GateContext.of(options, environ={}, tell=lambda line: None)
    try:
        tasks = load_named(row.performer)(context)
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        return (), [f"{where} it raises {type(error).__name__}: {error}; expected {expected}"]
    if not isinstance(tasks, tuple) or not all(isinstance(task, Task) for task in tasks):
        return (), [f"{where} it gives something else; expected a tuple of {Task.__name__}"]
    return tasks, []


def _options(row: Gate, *, execute: bool) -> GateOptions:
    """Return options with every address, and nobody at any."""
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
