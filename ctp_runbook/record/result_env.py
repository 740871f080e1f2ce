"""The form of a result file: ``KEY=VALUE`` lines, required keys, step groups, numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook.host import files
from ctp_runbook.model import StepStatus

__all__ = [
    "ResultEnv",
    "env_lines",
    "form_findings",
    "number_of",
    "parse_env",
    "step_group_findings",
]

# CONTRACT §3, each with its prefix before it.
_KEYS: Mapping[str, str] = {
    "CUTOVER": """
        ENV WINDOW_LOCAL CTP_CONFIG_PATH DRY_RUN SUCCESS TOTAL_STEPS FAILED_STEP MONITOR_MINUTES
        MONITOR_KEYS TRIGGERED_ROLLBACK STARTED_UTC COMPLETED_UTC DURATION_SECONDS""",
    "ROLLBACK": """
        ENV TRIGGER_CONDITION DRY_RUN TRIGGERED SUCCESS TOTAL_STEPS FAILED_STEP MAX_SECONDS
        DURATION_SECONDS SLO_MET STARTED_UTC COMPLETED_UTC""",
}
_MAY_BE_BLANK = (
    "CUTOVER_FAILED_STEP",
    "ROLLBACK_FAILED_STEP",
    "ROLLBACK_STARTED_UTC",
    "ROLLBACK_COMPLETED_UTC",
)
_FLAGS = ("_SUCCESS", "_TRIGGERED_ROLLBACK", "_TRIGGERED", "_SLO_MET")
_NUMBERS = ("_DURATION_SECONDS", "_MAX_SECONDS", "_MONITOR_MINUTES")
_STEP_FIELDS = ("NAME", "STATUS", "DURATION_MS", "EXIT_CODE", "COMMAND")
_STATUSES = [status.value for status in StepStatus]
_NEVER_RAN = ("skipped", "not_run", "simulated_ok")
_MOST_STEPS = 100
# A hundred steps with commands of 100 kB each; whoever verifies a pair names files of anybody's.
_MOST_BYTES = 16 * 1024 * 1024
_SHA256 = r"[0-9a-f]{64}"


class ResultEnv(Struct, frozen=True):
    """One result file: its name for sentences, its kind (the prefix of its keys), its values."""

    name: str
    prefix: str
    values: Mapping[str, str]

    def text(self, key: str) -> str:
        """The value of ``<prefix>_<key>``, blank when it is missing."""
        return self.values.get(f"{self.prefix}_{key}", "")

    def flag(self, key: str) -> bool:
        """True for exactly ``true``."""
        return self.text(key) == "true"

    def seconds(self, key: str) -> float:
        """The number under ``key``, NaN for anything that is not a finite one."""
        return number_of(self.text(key))

    @property
    def steps(self) -> int:
        """Number of step groups: the highest n of the STEP_n_* keys."""
        groups = (re.match(r"STEP_(\d{1,6})_", key) for key in self.values)
        return max((int(group[1]) for group in groups if group), default=0)

    @property
    def numbers(self) -> range:
        """The numbers of the step groups, from 1."""
        return range(1, self.steps + 1)

    def step(self, number: int, field: str) -> str:
        """A field of a step group, blank when it is missing."""
        return self.values.get(f"STEP_{number}_{field}", "")


def env_lines(pairs: Iterable[tuple[str, Any]]) -> bytes:
    """``KEY=VALUE`` lines; a line break inside a value becomes the two characters ``\\n``."""
    return "".join(f"{key}={_one_line(str(value))}\n" for key, value in pairs).encode()


def parse_env(path: Path) -> tuple[dict[str, str], list[str]]:
    """``KEY=VALUE`` lines of a file, and what is wrong with the others."""
    try:
        text = files.read_small(path, most=_MOST_BYTES).decode()
    except OSError as error:
        return {}, [f"{path}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        return {}, [f"{path}: not UTF-8 text"]
    values: dict[str, str] = {}
    problems = [] if text.endswith("\n") else [f"{path.name}: its last line is torn"]
    for number, line in enumerate(text.split("\n"), start=1):
        key, equals, value = line.partition("=")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            problems.append(f"{path.name}:{number}: {line[:60]!r} is not KEY=VALUE")
        elif key in values:
            problems.append(f"{path.name}:{number}: {key} stands here a second time")
        values.setdefault(key, value.strip())
    return values, problems


def step_group_findings(name: str, values: Mapping[str, str], *, total: str) -> Iterator[str]:
    """STEP_n groups 1..total, each whole, with statuses, durations and exit codes in form."""
    env = ResultEnv(name, "", values)
    if not total.isdecimal() or int(total) != env.steps:
        yield f"{name}: {env.steps} step groups; the total says {total!r}"
        return
    if env.steps > _MOST_STEPS:
        yield f"{name}: {env.steps} step groups; {_MOST_STEPS} at most"
        return
    for number in env.numbers:
        for field in _STEP_FIELDS:
            if f"STEP_{number}_{field}" not in values:
                yield f"{name}: STEP_{number}_{field} is missing"
        yield from _step_form(env, number)


def _step_form(env: ResultEnv, number: int) -> Iterator[str]:
    where = f"{env.name}: STEP_{number}"
    status, code = env.step(number, "STATUS"), env.step(number, "EXIT_CODE")
    duration = env.step(number, "DURATION_MS")
    if status not in _STATUSES:
        yield f"{where}_STATUS is {status!r}; expected one of {', '.join(_STATUSES)}"
    if not number_of(duration) >= 0:
        yield f"{where}_DURATION_MS is {duration!r}; expected a number of milliseconds >= 0"
    if code and not re.fullmatch(r"-?\d+", code):
        yield f"{where}_EXIT_CODE is {code!r}; expected a whole number, or nothing"
    if status == "ok" and code != "0":
        yield f"{where}_STATUS is ok with exit code {code or 'none'}"
    if status in _NEVER_RAN and code not in ("", "0"):
        yield f"{where}_STATUS is {status} with exit code {code}"
    if not env.step(number, "COMMAND"):
        yield f"{where}_COMMAND is blank"


def form_findings(env: ResultEnv) -> Iterator[str]:
    """What is wrong with the keys of a cutover or rollback result and the form of their values."""
    keys = [f"{env.prefix}_{name}" for name in _KEYS[env.prefix].split()]
    for key in keys:
        value = env.values.get(key)
        if value is None:
            yield f"{env.name}: {key} is missing"
        elif not value and key not in _MAY_BE_BLANK:
            yield f"{env.name}: {key} is blank"
        if value not in (None, "true", "false") and key.endswith(_FLAGS):
            yield f"{env.name}: {key} is {value!r}; expected true or false"
    if env.text("DRY_RUN") not in ("0", "1"):
        yield f"{env.name}: {env.prefix}_DRY_RUN is {env.text('DRY_RUN')!r}; expected 0 or 1"
    for key in keys:
        value = env.values.get(key, "")
        if key.endswith(_NUMBERS) and not number_of(value) >= 0:
            yield f"{env.name}: {key} is {value!r}; expected a finite number >= 0"
    yield from step_group_findings(env.name, env.values, total=env.text("TOTAL_STEPS"))
    yield from _added_findings(env)


def _added_findings(env: ResultEnv) -> Iterator[str]:
    """Keys of this project's own, in form where they are there."""
    for key, value in env.values.items():
        is_blank_output = key.endswith("_OUTPUT_SHA256") and not value
        if key.endswith("_SHA256") and not is_blank_output and not re.fullmatch(_SHA256, value):
            yield f"{env.name}: {key} is {value[:20]!r}; expected a SHA-256 in hex"
    downtime = env.values.get("CUTOVER_TRADING_DOWNTIME_SECONDS")
    if downtime is not None and not 0 <= number_of(downtime) <= 1e9:
        yield f"{env.name}: CUTOVER_TRADING_DOWNTIME_SECONDS is {downtime!r}"
    set_by = env.values.get(f"{env.prefix}_CLOCK_SET_SECONDS", "0")
    if math.isnan(number_of(set_by)):
        yield f"{env.name}: {env.prefix}_CLOCK_SET_SECONDS is {set_by!r}; expected a finite number"
    samples = env.values.get("CUTOVER_WATCH_SAMPLES")
    if samples is not None and not samples.isdecimal():
        yield f"{env.name}: CUTOVER_WATCH_SAMPLES is {samples!r}; expected a count"


def number_of(text: str) -> float:
    """The number a text says: a finite decimal number, NaN for anything else."""
    if not re.fullmatch(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text, re.ASCII):
        return math.nan
    value = float(text)
    return value if math.isfinite(value) else math.nan


def _one_line(text: str) -> str:
    return "\\n".join(text.splitlines())
