"""What a verification came to: every check by name, each wrong thing as one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ctp_runbook.errors import EvidenceInvalid

__all__ = ["Check", "VerificationReport", "checked"]


class Check(NamedTuple):
    """One check. ``sentence`` says what was checked, what is wrong (one finding a line), or why
    there was nothing to check."""

    name: str
    ok: bool
    sentence: str
    applies: bool = True

    @property
    def symbol(self) -> str:
        """``✓``, ``✗``, or ``–`` where nothing was there to be right or wrong."""
        return "–" if not self.applies else "✓" if self.ok else "✗"


@dataclass(frozen=True)
class VerificationReport:
    """All checks made of ``subject``; data first, an exception only when asked."""

    subject: str
    checks: tuple[Check, ...]
    contract_only: bool = False

    @property
    def findings(self) -> tuple[str, ...]:
        """Every wrong thing, in the order of the checks."""
        wrong = (check for check in self.checks if not check.ok)
        return tuple(line for check in wrong for line in check.sentence.splitlines())

    @property
    def ok(self) -> bool:
        """True when there was something to check and nothing is wrong with it."""
        return bool(self.checks) and not self.findings

    @property
    def sentence(self) -> str:
        """``verification passed: …`` or ``verification failed: …``, with the number of checks."""
        kind = " (contract only)" if self.contract_only else ""
        if self.ok:
            count = sum(check.applies for check in self.checks)
            others = (
                f", {len(self.checks) - count} did not apply" if count < len(self.checks) else ""
            )
            return f"verification passed{kind}: {self.subject}; {count} checks{others}"
        count = len(self.findings)
        many = "" if count == 1 else "s"
        return f"verification failed{kind}: {self.subject}; {count} finding{many}"

    def raise_if_failed(self) -> None:
        """Raise EvidenceInvalid with every finding, if there are any."""
        if not self.ok:
            raise EvidenceInvalid(self.findings or (self.sentence,))


def checked(name: str, passed: str, findings: Iterable[str], *, unless: str = "") -> Check:
    """A check that is ok when there are no findings, and says ``passed`` then.

    ``unless`` is why there was nothing to check: it is said instead, but for findings, which count
    all the same. One that cannot go on raises EvidenceInvalid: what it found before that counts.
    """
    lines: list[str] = []
    try:
        for finding in findings:
            lines.append(finding)
    except EvidenceInvalid as error:
        lines += error.findings
    # A finding may quote a forged file: whatever stands there, it stays one line.
    said = "\n".join(" ".join(line.splitlines()) for line in lines)
    return Check(name, not lines, said or unless or passed, bool(lines) or not unless)
