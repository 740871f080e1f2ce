"""The infra gates of RUNBOOK §4.1: what a gate is, what it answers, and its evidence.

A gate is a list of tasks. Each answers with facts and with problems, and the evidence holds the
facts, never what was wanted. A component that the profile does not have is ``skipped`` where the
profile is the rehearsal twin, and a failure everywhere else. What the tasks of each gate are is
said in ``gates/``, which gates there are in plan/gate_table.py.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctp_runbook.errors import InputError, ProbeError
from ctp_runbook.model import StepStatus
from ctp_runbook.plan import parameters
from ctp_runbook.plan.gate_table import Gate
from ctp_runbook.record.result_env import env_lines, parse_env, step_group_findings
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.redact import Redactor

__all__ = [
    "REHEARSAL",
    "GateOptions",
    "GateResult",
    "GateStep",
    "Observation",
    "Task",
    "judge_gate_evidence",
    "output_path",
    "perform",
    "write_gate",
]

REHEARSAL = "rehearsal"
# A sentence that names more steps than this is not read.
_NAMED_STEPS = 4


@dataclass(frozen=True)
class Observation:
    """What was seen: facts for the evidence, and what is wrong with them.

    ``changes`` counts what the task changed: 0 says that all was as wanted before it.
    ``skipped`` says why this profile has no such thing.
    """

    facts: Mapping[str, str]
    problems: tuple[str, ...] = ()
    changes: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class Task:
    """One step of a gate; ``question`` is what it asks, for the evidence, without secrets.

    ``run`` may raise ProbeError, which fails the gate as a problem does. ``acts``: it may change
    something, so ``--probe`` leaves it out. ``is_vital``: where it fails, the tasks after it would
    only fail with it, and are not run.
    """

    name: str
    question: str
    run: Callable[[], Observation]
    acts: bool = False
    is_vital: bool = False


@dataclass(frozen=True)
class GateOptions:
    """The flags of an ``infra`` command; a blank address is looked for in the environment.

    ``endpoints`` maps names to redis, http or tcp URLs. ``probe`` looks without changing anything.
    ``update`` names connectors whose configuration may be replaced by their file's;
    ``connector_set`` are keys to read otherwise than there.
    """

    execute: bool = False
    probe: bool = False
    profile: str = ""
    compose_file: Path | None = None
    project_name: str = ""
    env_file: Path | None = None
    infra: Path | None = None
    bootstrap_servers: str = ""
    clickhouse_url: str = ""
    connect_url: str = ""
    postgres_dsn: str = ""
    redis_url: str = ""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    update: tuple[str, ...] = ()
    connector_set: Mapping[str, str] = field(default_factory=dict)
    max_slot_wal_mib: float = 1024.0
    deadline_seconds: float = 120.0
    output_file: Path | None = None
    evidence_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what is neither True nor False where a gate may act; raises InputError."""
        wrong = [*parameters.flag("execute", self.execute), *parameters.flag("probe", self.probe)]
        if wrong:
            raise InputError(
                parameters.placed(wrong, where="options of the gate", redactor=Redactor())
            )

    @property
    def is_rehearsal(self) -> bool:
        """True for the twin, which has stand-ins for some parts."""
        return self.profile == REHEARSAL


@dataclass(frozen=True)
class GateStep:
    """One question of a gate, and how it went."""

    name: str
    status: StepStatus
    duration_ms: float
    question: str
    facts: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    changes: int = 0

    @property
    def is_bad(self) -> bool:
        """True for a step that fails its gate."""
        return self.status is StepStatus.FAILED

    @property
    def sentence(self) -> str:
        """``✓ create_topics ok: created none`` for the terminal."""
        mark = {StepStatus.OK: "✓", StepStatus.FAILED: "✗"}.get(self.status, "–")
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        words = self.reason or facts or self.question
        return f"{mark} {self.name} {self.status.value}{': ' if words else ''}{words}"

    @property
    def exit_code(self) -> str:
        """0 and 1 for what was asked, blank for what was not."""
        return {StepStatus.OK: "0", StepStatus.FAILED: "1"}.get(self.status, "")


@dataclass(frozen=True)
class GateResult:
    """How a gate went: its evidence, its sentence and its exit code are folds over the steps."""

    gate: Gate
    dry_run: bool
    steps: tuple[GateStep, ...]

    @property
    def failed(self) -> GateStep | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.is_bad), None)

    @property
    def is_ok(self) -> bool:
        """True when something was asked and nothing failed."""
        return bool(self.steps) and self.failed is None

    @property
    def changes(self) -> int:
        """How many things the gate changed; 0 for a second run."""
        return sum(step.changes for step in self.steps)

    @property
    def exit_code(self) -> int:
        """0; 3 for a gate that failed, the old stack still trading; 2 where it was only looked."""
        return 0 if self.is_ok else (2 if self.dry_run else 3)

    @property
    def sentence(self) -> str:
        """``gate bootstrap ok: redis ok`` or the first failure with its reason."""
        if self.failed:
            others = [step.name for step in self.steps if step.is_bad][1:]
            more = f" (and {', '.join(others)})" if others else ""
            return f"gate {self.gate.name} FAILED: {self.failed.name}: {self.failed.reason}{more}"
        words = [f"{step.name} {step.status.value}" for step in self.steps]
        if len(words) > _NAMED_STEPS:
            counts = Counter(step.status.value for step in self.steps)
            words = [f"{count} steps {status}" for status, count in counts.items()]
        return f"gate {self.gate.name} {'dry run' if self.dry_run else 'ok'}: {', '.join(words)}"

    def evidence(self) -> bytes:
        """Return the gate's ``.env``: outcome, step lines, then what was observed."""
        outcome = {
            "DRY_RUN": "1" if self.dry_run else "0",
            "SUCCESS": "true" if self.is_ok else "false",
            "FAILED_STEP": self.failed.name if self.failed else "",
            "TOTAL_STEPS": len(self.steps),
        }
        lines = ((f"{self.gate.prefix}_{key}", value) for key, value in outcome.items())
        return env_lines([*lines, *self._step_lines(), *self._observed_lines()])

    def _step_lines(self) -> Iterator[tuple[str, object]]:
        for number, step in enumerate(self.steps, start=1):
            yield f"STEP_{number}_NAME", step.name
            yield f"STEP_{number}_STATUS", step.status.value
            yield f"STEP_{number}_DURATION_MS", round(step.duration_ms)
            yield f"STEP_{number}_EXIT_CODE", step.exit_code
            yield f"STEP_{number}_COMMAND", step.question

    def _observed_lines(self) -> Iterator[tuple[str, object]]:
        start, lines = f"{self.gate.prefix}_OBSERVED", dict[str, object]()
        for step in self.steps:
            facts = {**step.facts, **({"reason": step.reason} if step.reason else {})}
            for name, value in facts.items():
                key = re.sub(r"[^A-Z0-9]+", "_", f"{step.name}_{name}".upper()).strip("_")
                # Names of others may come out alike: a key twice in a file is refused.
                while f"{start}_{key}" in lines:
                    key += "_AGAIN"
                lines[f"{start}_{key}"] = value
        yield from lines.items()
        if not self.dry_run:
            yield f"{start}_CHANGES", self.changes


def perform(
    tasks: Iterable[Task],
    *,
    execute: bool,
    probe: bool = False,
    reason_of: Callable[[ProbeError], str] = str,
) -> tuple[GateStep, ...]:
    """Do the tasks in order: all with ``execute``, those that only look with ``probe``.

    ``reason_of`` is what is said of one that could not be done.
    """
    steps: list[GateStep] = []
    stopped_by = ""
    for task in tasks:
        if stopped_by:
            reason = f"not run: {stopped_by} failed before it"
            step = GateStep(task.name, StepStatus.NOT_RUN, 0.0, task.question, reason=reason)
        # ``is True``: a flag of another type must not act, whatever it is to Python.
        elif execute is True or (probe is True and not task.acts):
            step = _do(task, reason_of)
        else:
            step = GateStep(task.name, StepStatus.SIMULATED_OK, 0.0, task.question)
        steps.append(step)
        stopped_by = stopped_by or (task.name if step.is_bad and task.is_vital else "")
    return tuple(steps)


def output_path(gate: Gate, options: GateOptions, *, environ: Mapping[str, str]) -> Path | None:
    """Return where the evidence goes; None for a dry run that was asked for no copy."""
    usual = "outputs" if options.execute else ""
    folder = options.evidence_dir or environ.get("CTP_EVIDENCE_DIR") or usual
    return options.output_file or (Path(folder) / gate.file if folder else None)


def write_gate(result: GateResult, options: GateOptions, *, environ: Mapping[str, str]) -> None:
    """Write a gate's evidence where its flags say."""
    if path := output_path(result.gate, options, environ=environ):
        write_atomic(path, result.evidence())


def judge_gate_evidence(
    path: Path, *, gate: Gate, real: bool, rehearsal: bool = False
) -> Iterator[str]:
    """Yield what is wrong with a gate's evidence file; ``skipped`` is for rehearsals only."""
    values, problems = parse_env(path)
    if problems:
        yield from problems
        return
    name, prefix = path.name, gate.prefix
    dry_run = "0" if real else values.get(f"{prefix}_DRY_RUN", "")
    due = {"DRY_RUN": dry_run, "FAILED_STEP": "", "SUCCESS": "true"}
    for key, expected in due.items():
        value = values.get(f"{prefix}_{key}")
        if value != expected:
            yield f"{name}: {prefix}_{key} is {value!r}; expected {expected!r}"
    total = values.get(f"{prefix}_TOTAL_STEPS", "")
    yield from step_group_findings(name, values, total=total)
    if total == "0":
        yield f"{name}: {prefix}_TOTAL_STEPS is 0: nothing was asked"
    allowed = ("ok", "skipped") if rehearsal else ("ok",)
    for key, status in values.items():
        if re.fullmatch(r"STEP_\d+_STATUS", key) and status not in allowed:
            yield f"{name}: a step is {status}; expected {' or '.join(allowed)}"
    seen = {key for key in values if key.startswith(f"{prefix}_OBSERVED_")}
    if not seen - {f"{prefix}_OBSERVED_CHANGES"}:
        yield f"{name}: no {prefix}_OBSERVED_ line: it does not say what was seen"


def _do(task: Task, reason_of: Callable[[ProbeError], str]) -> GateStep:
    began = time.monotonic()
    try:
        seen = task.run()
    except ProbeError as error:
        # Not to be seen is a problem like any other: nothing unobserved passes.
        seen = Observation({}, (reason_of(error),))
    took = (time.monotonic() - began) * 1000
    unharmed = StepStatus.SKIPPED if seen.skipped else StepStatus.OK
    status = StepStatus.FAILED if seen.problems else unharmed
    reason = "; ".join(seen.problems) or seen.skipped
    return GateStep(task.name, status, took, task.question, seen.facts, reason, seen.changes)
