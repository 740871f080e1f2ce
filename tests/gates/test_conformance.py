"""Facts about gates/conformance.py: what a gate must keep, and how each failing is told."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest
from msgspec import structs

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.conformance import check_gate
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.plan.gate_table import GATES, Gate

pytestmark = pytest.mark.twin
HERE = __name__


@pytest.mark.parametrize("row", GATES.values(), ids=GATES)
def test_our_own_gates_conform(row: Gate) -> None:
    """What others are held to, ours keep."""
    assert check_gate(row) == ()


def _task(context: GateContext, name: str = "reach_example") -> tuple[Task, ...]:
    url = context.options.endpoints.get("example", "")

    def reach() -> Observation:
        raise ProbeError(f"example at {url}: refused")

    return (Task(name, f"GET {url}", reach),) if url else ()


def good(context: GateContext) -> tuple[Task, ...]:
    """Make what fails where nobody is."""
    return _task(context)


def passes(context: GateContext) -> tuple[Task, ...]:
    """Make what passes where nobody is."""
    return tuple(replace(one, run=lambda: Observation({"x": "1"})) for one in _task(context))


def says_nothing(context: GateContext) -> tuple[Task, ...]:
    """Make what fails and does not say why."""
    seen = Observation({}, ("",))
    return tuple(replace(one, run=lambda: seen) for one in _task(context))


def raises_its_own(context: GateContext) -> tuple[Task, ...]:
    """Make what lets an error of its client through."""

    def reach() -> Observation:
        raise ConnectionRefusedError(111)

    return tuple(replace(one, run=reach) for one in _task(context))


def is_late(context: GateContext) -> tuple[Task, ...]:
    """Make what heeds no deadline."""

    def reach() -> Observation:
        time.sleep(5.2)
        raise ProbeError("late")

    return tuple(replace(one, run=reach) for one in _task(context))


def asks_nobody(context: GateContext) -> tuple[Task, ...]:
    """Make no task, whatever is named."""
    return ()


def always(context: GateContext) -> tuple[Task, ...]:
    """Make a task where no address is known."""
    return _task(context) or (Task("guess", "ask whoever is there", lambda: Observation({})),)


def asks_at_once(context: GateContext) -> tuple[Task, ...]:
    """Ask while tasks are made."""
    raise ConnectionRefusedError(111)


def gives_a_list(context: GateContext) -> list[Task]:
    """Make something else than a tuple."""
    return list(_task(context))


def has_twins(context: GateContext) -> tuple[Task, ...]:
    """Make two tasks of one name."""
    return _task(context) * 2


def has_odd_name(context: GateContext) -> tuple[Task, ...]:
    """Make a task whose name no evidence can have."""
    return _task(context, "reach it\n")


def row_of(performer: str) -> Gate:
    """A row whose performer is in this file."""
    performer = f"test_gate_conformance_props:{performer}"
    file = "example_gate_result.env"
    return Gate("example", "precheck", "EXAMPLE_GATE", file, "example", performer)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file goes by a name that ``module:function`` can have."""
    monkeypatch.setitem(sys.modules, "test_gate_conformance_props", sys.modules[HERE])


GOOD = row_of("good")


def test_a_gate_that_keeps_all_conforms() -> None:
    """Nothing is said of it."""
    assert check_gate(structs.replace(GOOD, parts=(("", "kafka"),))) == ()


WRONG = {
    "name": (structs.replace(GOOD, name="Ex ample"), "the name 'Ex ample'"),
    "prefix": (structs.replace(GOOD, prefix="example"), "the prefix 'example'"),
    "file": (structs.replace(GOOD, file="example.env"), "expected NAME_result.env"),
    "step": (structs.replace(GOOD, step="warmup_query"), "expected one of bootstrap_infra"),
    "part": (structs.replace(GOOD, parts=(("", "moon"),)), "the part 'moon'"),
    "our name": (
        structs.replace(GOOD, name="bootstrap"),
        "is that of ctp_runbook's own gate bootstrap",
    ),
    "our prefix": (structs.replace(GOOD, prefix="KAFKA_TOPIC_INIT"), "own gate kafka-topics"),
    "our file": (structs.replace(GOOD, file=GATES["bootstrap"].file), "own gate bootstrap"),
    "due": (structs.replace(GOOD, is_due=True), "is_due"),
    "no module": (structs.replace(GOOD, performer="nowhere:x"), "No module named 'nowhere'"),
    "no function": (row_of("HERE"), "is a str; expected a function"),
    "passes": (row_of("passes"), "where nobody answers it passes"),
    "no reason": (row_of("says_nothing"), "reach_example fails without a reason"),
    "a foreign error": (row_of("raises_its_own"), "raises ConnectionRefusedError"),
    "late": (row_of("is_late"), "expected its deadline at most"),
    "no tasks": (row_of("asks_nobody"), "with --endpoint example=URL it has no tasks"),
    "a guess": (row_of("always"), "without an address it has 1 tasks"),
    "too early": (row_of("asks_at_once"), "without an address it raises ConnectionRefusedError"),
    "a list": (row_of("gives_a_list"), "expected a tuple of Task"),
    "twins": (row_of("has_twins"), "two tasks are named reach_example"),
    "an odd name": (row_of("has_odd_name"), "expected a word"),
}


@pytest.mark.parametrize(("row", "said"), WRONG.values(), ids=WRONG)
def test_what_a_gate_does_wrong_is_told(row: Gate, said: str) -> None:
    """Each failing has its sentence, with what was expected."""
    assert said in "; ".join(check_gate(row))
