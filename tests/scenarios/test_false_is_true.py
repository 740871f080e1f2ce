"""The accident "`false` is true": plain papermill read `-p go false` as text, and a text is true.

A live stack and a run that is READY, one word from its switch. Every notebook is handed ten
spellings in each of its parameters, as papermill reads them; none of it may be taken for a yes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from papermill.cli import _resolve_type as as_papermill_reads
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ctp_runbook.errors import InputError, RunbookError
from ctp_runbook.model import Identity, State
from ctp_runbook.notebook import phases
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from tests.props.notebook_tools import outputs_text, run_code
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack, small_stack

ROOT = Path(__file__).parents[2]
SPELLINGS = ("false", "False ", "FALSE", "no", "off", "n", "0", "0.0", "null", "None")
NOTEBOOKS: Mapping[str, tuple[str, ...]] = {
    "01_plan": (
        *("cutover_template", "rollback_template", "execute"),
        *("run_dir", "accept_unmeasured", "accept_late"),
    ),
    "02_infra_gate": ("run_dir",),
    "03_readiness_gate": ("run_dir",),
    "04_switch": ("run_dir", "go"),
    "05_watch": ("run_dir",),
    "06_rollback": ("run_dir",),
    "07_verify": ("run_dir",),
}
# What somebody types: a notebook by the papermill command costs seconds, so one a kind.
TYPED = (
    ("01_plan", "execute", "false"),
    ("04_switch", "go", "false"),
    ("06_rollback", "run_dir", "0"),
)


@dataclass(frozen=True)
class Scene:
    """The stack that trades, its run that waits for a go, and a plan nobody has run yet."""

    stack: SmallStack
    run: RunDir
    other: Plan
    trading: tuple[Identity | None, ...]
    files: frozenset[str]

    def given(self, notebook: str) -> dict[str, str]:
        """Parameters that fit: the run, or the other plan with a reason to run it for real."""
        if notebook != "01_plan":
            return {"run_dir": str(self.run.path)}
        return {
            "cutover_template": str(self.other.cutover_template),
            "rollback_template": str(self.other.rollback_template),
            "accept_unmeasured": "a stack of this test",
        }

    def assert_untouched(self) -> None:
        """The same old processes run, the run waits as before, and nothing was made."""
        history = launch.read_whole(self.run)
        assert (history.state, history.go) == (State.READY, None)
        assert [*self.run.control.iterdir()] == []
        assert trading(self.stack) == self.trading
        assert None not in self.trading
        assert not self.stack.is_up("new_core_engine")
        assert files(self.stack) == self.files


def trading(stack: SmallStack) -> tuple[Identity | None, ...]:
    """Who runs as the old generation."""
    return tuple(stack.identity(name) for name in ("old_core_engine", "old_strategy_runner"))


def files(stack: SmallStack) -> frozenset[str]:
    """What lies in the working directory and in its outputs/, runs among it."""
    return frozenset([*os.listdir(stack.folder), *os.listdir(stack.folder / "outputs")])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A real run brought to READY on a live stack; the working directory is the stack's."""
    with (
        small_stack(tmp_path_factory.mktemp("stack")) as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv(phases.HOME_VARIABLE, raising=False)
        patch.delenv(phases.OUTPUTS_VARIABLE, raising=False)
        plan = plan_of(stack)
        run = stack.create(plan)
        launch.start(run, plan=plan)
        wait_for(lambda: launch.read_whole(run).state is State.READY)
        second = SmallStack(stack.folder / "second", stack.mark)
        second.folder.mkdir()
        yield Scene(stack, run, plan_of(second), trading(stack), files(stack))


def plan_of(stack: SmallStack) -> Plan:
    """A plan whose gates pass at once."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    return stack.plan(
        **{f"{gate}_CMD": "ls" for gate in gates}, PRECHECK_CMD=stack.readiness_command("precheck")
    )


def run_cells(notebook: str, given: Mapping[str, Any]) -> None:
    """Run the code of the notebook with these parameters injected by papermill."""
    nb = load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    nb = parameterize_notebook(nb, given, kernel_name="python3", language="python")
    names: dict[str, Any] = {}
    for cell in nb.cells:
        if cell.cell_type == "code":
            run_code(cell.source, names)


def papermill(notebook: str, out: Path, given: Mapping[str, str]) -> str:
    """Run the notebook by the papermill command with its own engine, which fails; what it said."""
    words = [word for name, value in given.items() for word in ("-p", name, value)]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += [str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0, done.stderr
    return done.stderr


# A phase that takes what it is passed would follow the run that waits, for ever.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_spelling_is_taken_for_a_yes(notebook: str, scene: Scene) -> None:
    """Ten spellings in each parameter: refused by name and value; the old stack trades on."""
    for name in NOTEBOOKS[notebook]:
        for spelling in SPELLINGS:
            value = as_papermill_reads(spelling)
            with pytest.raises(RunbookError) as refused:
                run_cells(notebook, {**scene.given(notebook), name: value})
            assert isinstance(refused.value, InputError), f"{name} {spelling}: {refused.value}"
            (line,) = str(refused.value).splitlines()
            assert line.startswith(f"{notebook}: parameter {name}: found "), line
            assert repr(value) in line
    scene.assert_untouched()


@pytest.mark.parametrize(("notebook", "name", "spelling"), TYPED, ids=lambda word: word)
def test_plain_papermill_is_refused_in_a_sentence(
    notebook: str, name: str, spelling: str, scene: Scene, tmp_path: Path
) -> None:
    """`papermill notebooks/04_switch.ipynb OUT -p go false` switches nothing and says why."""
    out = tmp_path / "out.ipynb"
    said = papermill(notebook, out, {**scene.given(notebook), name: spelling})
    shown = re.sub(r"\s+", " ", outputs_text(out))
    found = f"{notebook}: parameter {name}: found "
    assert found in re.sub(r"\s+", " ", said)
    assert found in shown
    assert f"`-p {name} " in shown
    assert ".py" not in shown
    scene.assert_untouched()


def test_plain_papermill_passes_no_name_that_nobody_declares(scene: Scene, tmp_path: Path) -> None:
    """`-p run_dri X -p go True` would switch the newest run instead of X; papermill only warns."""
    out = tmp_path / "out.ipynb"
    said = papermill("04_switch", out, {"run_dri": str(scene.run.path), "go": "True"})
    found = "04_switch: parameter run_dri: found a name that is not declared; expected one of"
    for words in (said, outputs_text(out)):
        assert found in re.sub(r"\s+", " ", words)
    assert "(did you mean run_dir?); correct its name" in re.sub(r"\s+", " ", outputs_text(out))
    scene.assert_untouched()


def test_true_is_still_true(scene: Scene) -> None:
    """The last word on that run: its one true go does what none of the spellings did."""
    with pytest.raises(RunbookError):
        run_cells("04_switch", {"run_dir": str(scene.run.path), "go": "true"})
    scene.assert_untouched()
    run_cells("04_switch", {"run_dir": str(scene.run.path), "go": True})
    assert launch.read_whole(scene.run).go is not None
    assert scene.stack.is_up("new_core_engine")
    assert trading(scene.stack) == (None, None)
