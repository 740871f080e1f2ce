"""Facts about verify/report.py: what a verification came to, in words and as an exception."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctp_runbook.errors import EvidenceInvalid
from ctp_runbook.verify.report import Check, VerificationReport, checked

SOUND = Check("chain", True, "the chain holds")
BROKEN = Check("acts", False, "record 3: no end\nrecord 9: no start")


def test_a_check_without_findings_says_what_was_checked() -> None:
    """Its sentence is what was looked at; with findings it is these, a line each."""
    assert checked("chain", "the chain holds", []) == SOUND
    assert checked("acts", "all well", iter(["record 3: no end", "record 9: no start"])) == BROKEN


@pytest.mark.parametrize("finding", ["a\nb", "a\r\nb", "a\x85b", "a\u2028b"])
def test_a_finding_is_one_line(finding: str) -> None:
    """Whatever a forged file has in it: what quotes it does not become two findings."""
    check = checked("files", "all well", [finding])
    assert VerificationReport("run x", (check,)).findings == ("a b",)


def test_a_check_that_cannot_go_on_says_why() -> None:
    """What it said before counts as well; nobody takes its silence for a pass."""

    def findings() -> Iterator[str]:
        yield "record 3: no end"
        raise EvidenceInvalid(["record 9: no start"])

    assert checked("acts", "all well", findings()) == BROKEN


def test_what_did_not_apply_says_why_and_has_no_green_mark() -> None:
    """Nothing was there to be right; a finding counts all the same."""
    idle = checked("watch", "the watch was whole", [], unless="no watch began")
    assert (idle.symbol, idle.ok, idle.sentence) == ("–", True, "no watch began")
    found = checked("watch", "the watch was whole", ["sample 3: torn"], unless="no watch began")
    assert (found.symbol, found.ok, found.sentence) == ("✗", False, "sample 3: torn")
    assert SOUND.symbol == "✓"


def test_an_empty_finding_is_a_finding() -> None:
    """A check fails by there being one, whatever it says."""
    assert not checked("files", "all well", [""]).ok


REPORTS = {
    "all well": (
        (SOUND, SOUND),
        False,
        "verification passed: run x; 2 checks",
    ),
    "one did not apply": (
        (SOUND, Check("watch", True, "no watch began", applies=False)),
        False,
        "verification passed: run x; 1 checks, 1 did not apply",
    ),
    "something wrong": (
        (SOUND, BROKEN),
        False,
        "verification failed: run x; 2 findings",
    ),
    "two texts alone": (
        (SOUND,),
        True,
        "verification passed (contract only): run x; 1 checks",
    ),
    "two texts, and wrong": (
        (BROKEN,),
        True,
        "verification failed (contract only): run x; 2 findings",
    ),
    "nothing checked": ((), False, "verification failed: run x; 0 findings"),
}


@pytest.mark.parametrize(("checks", "alone", "said"), REPORTS.values(), ids=REPORTS)
def test_a_report_says_whether_it_passed(checks: tuple[Check, ...], alone: bool, said: str) -> None:
    """With the number of checks or findings, and whether only the contract was asked."""
    report = VerificationReport("run x", checks, contract_only=alone)
    assert report.sentence == said
    assert report.ok is ("passed" in said)


def test_findings_stand_in_the_order_of_the_checks() -> None:
    """Those of a check that is ok are none: its sentence says what was looked at."""
    report = VerificationReport("run x", (BROKEN, SOUND, Check("seal", False, "one more")))
    assert report.findings == ("record 3: no end", "record 9: no start", "one more")


def test_what_failed_is_raised_when_asked() -> None:
    """As bad evidence with every finding; what passed raises nothing."""
    with pytest.raises(EvidenceInvalid, match="record 9: no start"):
        VerificationReport("run x", (SOUND, BROKEN)).raise_if_failed()
    VerificationReport("run x", (SOUND,)).raise_if_failed()


def test_nothing_checked_is_refused_too() -> None:
    """With the sentence of the report, for there is no finding to name."""
    with pytest.raises(EvidenceInvalid, match="verification failed: run x"):
        VerificationReport("run x", ()).raise_if_failed()
