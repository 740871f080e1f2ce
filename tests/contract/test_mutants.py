"""Edit one place of a finished run: verification must notice, whatever it was.

A seeded sample of the edits is tried here; ``make prove`` tries all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.run import verify_run
from tests.props.run_mutants import file_mutants, forgeries, restore, sampled, snapshot, survivors
from tests.props.synthetic_runs import make_run

ALL = pytest.param(10**9, marks=(pytest.mark.slow, pytest.mark.timeout(7200)), id="all")
SEED = 20260202

# What the journal alone answers for, and the files derived from it: no manifest is needed.
DERIVED = (
    "journal.jsonl",
    "run.json",
    "evidence/ctp_cutover_result.env",
    "evidence/ctp_rollback_result.env",
    "samples/samples.jsonl",
)
# Fields that decide how a run is judged. Somebody who edits one of them in the journal, and then
# chains, derives and seals everything anew, is still found out.
DECISIVE = re.compile(
    r"""
    closed\.payload\.(outcome|exit_code|running.*)
    | watch_(started|ended)\.payload\..*
    | trigger\.payload\.(cause|metric|value|limit|sample_utc|sample_mono_ns)
    | rollback_started\.payload\..*
    | step_ended\.payload\.(step|phase|status|exit_code|output|output_sha256)
    | step_started\.payload\.(step|phase|attempt|command)
    | state\.payload\.to
    | control\.payload\.request
    | run_created\.payload\.(run_id|dry_run|environment)
    | run_created\.payload\.plan\.(environment|monitor_minutes|monitor_keys.*|trigger_text|steps)
    | run_created\.payload\.plan\.steps\.\d+\.(name|phase|kind)
    | run_created\.payload\.plan\.watch\..*
    """,
    re.VERBOSE,
)


@pytest.fixture(scope="module", params=["completed", "rolled_back", "drill"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run that verifies."""
    made = make_run(request.param, tmp_path_factory.mktemp("outputs"))
    assert _passes(made)
    return made


def _passes(run: RunDir) -> bool:
    return verify_run(run, allow_cutover_rollback=True).ok


def _passes_unsealed(run: RunDir) -> bool:
    return verify_run(run, allow_cutover_rollback=True, require_manifest=False).ok


@pytest.mark.parametrize("most", [120, ALL])
def test_no_edit_of_record_or_evidence_passes_even_without_a_manifest(
    run: RunDir, most: int
) -> None:
    """Journal, samples and evidence answer for each other, line by line and field by field."""
    mutants = sampled(file_mutants(run, DERIVED), most=most, seed=SEED)
    left = survivors(run, mutants, passes=_passes_unsealed)
    print(f"{len(mutants)} mutants of record and evidence, {len(left)} survivors")
    assert [(mutant.file, mutant.edit) for mutant in left] == []


@pytest.mark.parametrize("most", [120, ALL])
def test_no_edit_of_any_file_passes_a_seal(run: RunDir, most: int) -> None:
    """Under a sealed manifest every file of the run is guarded, the manifest itself included."""
    files = (path for path in sorted(run.path.rglob("*")) if path.is_file())
    names = [path.relative_to(run.path).as_posix() for path in files]
    mutants = sampled(file_mutants(run, names), most=most, seed=SEED)
    left = survivors(run, mutants, passes=_passes)
    print(f"{len(mutants)} mutants of {len(names)} files, {len(left)} survivors")
    assert [(mutant.file, mutant.edit) for mutant in left] == []


def test_no_file_can_be_added_under_a_seal(run: RunDir) -> None:
    """A sealed manifest claims to be complete."""
    extra = run.evidence / "more.env"
    extra.write_text("CUTOVER_SUCCESS=true\n")
    try:
        assert "evidence/more.env: not listed" in " ".join(verify_run(run).findings)
    finally:
        extra.unlink()


@pytest.mark.parametrize("most", [60, ALL])
def test_a_forger_who_derives_everything_anew_is_found_out(run: RunDir, most: int) -> None:
    """No decisive field can be edited, not even with chain, evidence and manifest made anew."""
    decisive = ((name, forge) for name, forge in forgeries(run) if DECISIVE.fullmatch(name))
    tried = sampled(decisive, most=most, seed=SEED)
    kept = snapshot(run)
    left = [name for name, forge in tried if _is_taken(run, forge, kept)]
    print(f"{len(tried)} forgeries, {len(left)} survivors")
    assert left == []


def _is_taken(run: RunDir, forge: object, kept: dict[Path, bytes]) -> bool:
    """True when the forged run verifies; a forger whose own tools break has not forged it."""
    assert callable(forge)
    try:
        forge()
        return _passes(run)
    except (RunbookError, KeyError, ValueError, TypeError, AttributeError):
        return False
    finally:
        restore(kept)


@pytest.fixture(autouse=True)
def _still_whole(run: RunDir) -> Iterator[None]:
    """Whatever a test did to the run, it is put back."""
    yield
    assert _passes(run)
