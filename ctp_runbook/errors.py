"""The error tree: everything an operator can be told, with the exit code it carries.

    RunbookError                     exit 2 unless a subclass says otherwise
    ├── InputError                   bad input; carries every Problem found, in one go
    │   ├── TemplateError            configs/ops/*.template.env and their like
    │   ├── ConfigError              limits.toml, watch.toml
    │   └── TriggerError             ROLLBACK_TRIGGER_CONDITION
    ├── PlanRefused                  the plan cannot be run (or not for real)
    ├── RunRefused                   run id taken, wrong state, digest differs
    │   └── EnvironmentHeld          another run has the environment; says which
    ├── JournalError                 the record is broken, or cannot be written
    ├── ProbeError                   could not measure (never: measured and bad)
    ├── NotebookError                wrong parameters, output exists, kernel lost
    ├── EvidenceInvalid              verification found something wrong
    └── RunEnded                     a run ended other than COMPLETED; carries its exit code

Foreign errors are translated where they are caught and always chained (``raise … from``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "ConfigError",
    "EnvironmentHeld",
    "EvidenceInvalid",
    "InputError",
    "JournalError",
    "NotebookError",
    "PlanRefused",
    "ProbeError",
    "Problem",
    "RunEnded",
    "RunLost",
    "RunRefused",
    "RunbookError",
    "TemplateError",
    "TriggerError",
]


class Problem(NamedTuple):
    """One thing wrong with one place of an input, in words an operator can act on.

    ``line`` counts from 1 and is 0 where the problem has no line (a key that is missing).
    """

    file: str
    line: int
    key: str
    found: str
    expected: str
    remedy: str
    nearest: str = ""

    @property
    def sentence(self) -> str:
        """``file:line: KEY: found X; expected Y; do Z`` on one line."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        hint = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{where}:{key} found {self.found}; expected {self.expected}{hint}; {self.remedy}"


class RunbookError(Exception):
    """Anything this project refuses or reports; ``exit_code`` is what a command ends with."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: a notebook shows the sentence, not the code that raised it."""
        import re
        import textwrap

        # JupyterLab breaks long lines anywhere, in the middle of a word too.
        wrapper = textwrap.TextWrapper(
            100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        # Jupyter shows a traceback as a terminal would: what it would obey is left out.
        said = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", f"✗ {type(self).__name__}: {self}")
        return [wrapper.fill(line) for line in said.splitlines()]


class InputError(RunbookError):
    """Bad input, with every problem found in it (never empty)."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.sentence for problem in self.problems))


class TemplateError(InputError):
    """A template file that cannot be taken as it stands."""


class ConfigError(InputError):
    """A configuration file (limits.toml, watch.toml) that cannot be taken as it stands."""


class TriggerError(InputError):
    """A rollback trigger condition that does not parse or does not fit its metrics."""


class PlanRefused(RunbookError):
    """A plan that must not be run; carries every reason."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(self.reasons))


class RunRefused(RunbookError):
    """A run that cannot be started, joined or steered as asked; nothing was touched."""


class RunLost(RunRefused):
    """A run that was followed and that nobody conducts any more: what is done is done already."""

    exit_code = 7


class EnvironmentHeld(RunRefused):
    """Another run has the environment; ``holder`` is its directory, empty when it is not known."""

    def __init__(self, sentence: str, *, holder: str) -> None:
        self.holder = holder
        super().__init__(sentence)


class JournalError(RunbookError):
    """The journal is broken (reading) or could not be written (appending)."""


class ProbeError(RunbookError):
    """A measurement could not be made: says nothing about what would have been measured."""


class NotebookError(RunbookError):
    """A notebook run that was refused or lost its kernel."""


class EvidenceInvalid(RunbookError):
    """Verification failed; carries every finding."""

    def __init__(self, findings: Iterable[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(self.findings))


class RunEnded(RunbookError):
    """A run ended other than as asked; ``exit_code`` is the run's own."""

    def __init__(self, sentence: str, *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(sentence)
