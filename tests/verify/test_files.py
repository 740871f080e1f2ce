"""Facts about verify/files.py: each file of a run against its journal, a row a sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import UNSET, UnsetType, structs

from ctp_runbook.plan.config import load_watch
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify import files
from tests.props.forged_runs import (
    Edit,
    Raw,
    changed,
    edit_file,
    edit_json,
    findings_of,
    forge,
    nth,
    together,
)

UNMEASURED = {
    "cutover_seconds": None,
    "cutover_runs": 0,
    "rollback_seconds": None,
    "rollback_runs": 0,
}
Change = Callable[[bytes], bytes | None]
CUTOVER, ROLLBACK = "evidence/ctp_cutover_result.env", "evidence/ctp_rollback_result.env"
CHECKLIST = "evidence/ctp_one_shot_cutover_checklist.md"
KAFKA, PRECHECK = "evidence/kafka_topic_init_result.env", "evidence/ctp_readiness_precheck.json"
NOTEBOOK, LOG = "notebooks/07_verify.ipynb", "logs/steps/0007_bootstrap_infra.log"


def swap(old: str, new: str) -> Change:
    """Replace a pattern in a text file, once."""

    def change(data: bytes) -> bytes:
        text, count = re.subn(old, new, data.decode(), count=1)
        assert count == 1, old
        return text.encode()

    return change


def gone(data: bytes) -> None:
    """Remove the file."""


FILES: dict[str, tuple[str, Change, str]] = {
    "another header": (
        "run.json",
        swap('"host": "host"', '"host": "elsewhere"'),
        """: '  "host": "elsewhere",'; the journal's first record has '  "host": "host",'""",
    ),
    "a header with more behind it": (
        "run.json",
        lambda data: data + b"\n",
        "; the journal's first record has ",
    ),
    "no header": (
        "run.json",
        gone,
        "run.json: cannot be read: No such file or directory",
    ),
    "no watch rules": (
        "plan/watch.toml",
        gone,
        "plan/watch.toml is not there: nobody can tell what the watch was to be judged by",
    ),
    "watch rules that are none": (
        "plan/watch.toml",
        lambda data: b"limit = 1\n",
        "plan/watch.toml: ",
    ),
    "another limit": (
        "plan/watch.toml",
        swap(r"limit = 5\.0", "limit = 50.0"),
        "plan.watch.metrics.order_latency_p99_ms of run.json is not that of plan/watch.toml",
    ),
    "a test that it was not judged by": (
        "plan/watch.toml",
        swap("quantile = 0.99", 'quantile = 0.99\ntest = "sequential"'),
        "plan.watch.metrics.order_latency_p99_ms of run.json is not that of plan/watch.toml",
    ),
    "another tolerance": (
        "plan/watch.toml",
        swap(r"recovery_seconds = [\d.]+", "recovery_seconds = 9.5"),
        "plan.watch.recovery_seconds is 120.0; plan/watch.toml has 9.5",
    ),
    "a cutover of other words": (
        CUTOVER,
        swap("CUTOVER_SUCCESS=true", "CUTOVER_SUCCESS=false"),
        f"{CUTOVER}:5: 'CUTOVER_SUCCESS=false'; what the journal gives has 'CUTOVER_SUCCESS=true'",
    ),
    "a rollback of other words": (
        ROLLBACK,
        swap("ROLLBACK_TRIGGERED=false", "ROLLBACK_TRIGGERED=true"),
        f"{ROLLBACK}:4: 'ROLLBACK_TRIGGERED=true'; what the journal gives has",
    ),
    "no cutover": (CUTOVER, gone, f"{CUTOVER}: cannot be read: No such file or directory"),
    "half a cutover": (
        CUTOVER,
        lambda data: data[: data.index(b"STEP_1_NAME")],
        "; what the journal gives has 'STEP_1_NAME=bootstrap_infra'",
    ),
    "a checklist that was signed": (
        CHECKLIST,
        lambda data: data + b"- [x] all well\n",
        f"{CHECKLIST}:2: '- [x] all well'; plan/ctp_one_shot_cutover_checklist.md has ''",
    ),
    "a log of other words": (
        LOG,
        lambda data: b"bootstrap_infra: failed\n",
        "step bootstrap_infra: 0007_bootstrap_infra.log has sha256 ",
    ),
    "no log": (
        LOG,
        gone,
        "step bootstrap_infra: 0007_bootstrap_infra.log cannot be read: No such file or directory",
    ),
    "no evidence of a gate": (KAFKA, gone, "kafka_topic_init_result.env: cannot be read"),
    "a gate in a dry run": (
        KAFKA,
        swap("_DRY_RUN=0", "_DRY_RUN=1"),
        "kafka_topic_init_result.env: KAFKA_TOPIC_INIT_DRY_RUN is '1'; expected '0'",
    ),
    "a gate that failed": (
        KAFKA,
        swap("_SUCCESS=true", "_SUCCESS=false"),
        "KAFKA_TOPIC_INIT_SUCCESS is 'false'; expected 'true'",
    ),
    "a gate that skipped": (
        KAFKA,
        swap("STEP_1_STATUS=ok", "STEP_1_STATUS=skipped"),
        "kafka_topic_init_result.env: a step is skipped; expected ok",
    ),
    "a gate that saw nothing": (
        KAFKA,
        lambda data: re.sub(rb"KAFKA_TOPIC_INIT_OBSERVED_.*\n", b"", data),
        "no KAFKA_TOPIC_INIT_OBSERVED_ line: it does not say what was seen",
    ),
    "no readiness": (
        PRECHECK,
        gone,
        "ctp_readiness_precheck.json: cannot be read: No such file or directory",
    ),
    "readiness of no JSON": (PRECHECK, lambda data: b"{", "ctp_readiness_precheck.json: not JSON"),
    "readiness beyond its target": (
        PRECHECK,
        swap(r"120\.5", "9999.0"),
        "ctp_readiness_precheck.json: quant_hft_ctp_query_latency_p99_ms: ",
    ),
    "no notebook": (
        NOTEBOOK,
        lambda data: b"{}",
        f"{NOTEBOOK}: not a notebook stamped by this project: Object missing required field `metadata`",
    ),
    "a notebook of no JSON": (
        NOTEBOOK,
        lambda data: b"<html>",
        f"{NOTEBOOK}: not a notebook stamped by this project: JSON is malformed: invalid character (byte 0)",
    ),
}


@pytest.mark.parametrize(("name", "change", "said"), FILES.values(), ids=FILES)
def test_a_file_says_what_the_journal_says(
    name: str, change: Change, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Header, plan, evidence, logs, gates and readiness: under a seal made anew, and still told."""
    run = run_of("completed")
    edit_file(run, name, change((run.path / name).read_bytes()))
    assert said in findings_of(run)


HEADERS: dict[str, tuple[str, Edit, str]] = {
    "a plan file of another digest": (
        "completed",
        changed("run_created", plan_files={"watch.toml": "0" * 64}),
        "run_created.plan_files: watch.toml has sha256 ",
    ),
    "a plan file elsewhere": (
        "completed",
        changed("run_created", plan_files={"../../x": "0" * 64}),
        "lies outside of the run's directory",
    ),
    "an override that nobody told": (
        "completed",
        changed("run_created", overrides={"accept_late": "a late start is fine"}),
        "run.json overrides accept_late, and no finding of the journal says so",
    ),
    "never measured": (
        "completed",
        changed("run_created", measured=UNMEASURED),
        "in a real run without --accept-unmeasured REASON",
    ),
    "a step without its output": (
        "completed",
        changed("step_ended", output="", output_sha256=""),
        "step bootstrap_infra: its end names no output and digest",
    ),
    "a step with an output elsewhere": (
        "completed",
        changed("step_ended", output="../../../../etc/passwd"),
        "step bootstrap_infra: ",
    ),
    "a step with an output that no file can be called": (
        "completed",
        changed("step_ended", output="\x00"),
        r"step bootstrap_infra: '\x00' cannot be read: ",
    ),
    "a readiness report of another hour": (
        "completed",
        lambda raws: [
            raw.update(wall_utc="2026-02-02T09:00:00.000000+00:00")
            for raw in raws
            if raw["payload"].get("step") == "precheck"
        ],
        "ctp_readiness_precheck.json: ",
    ),
    "a rollback without its readiness": (
        "rolled_back",
        changed(
            "step_ended",
            where={"step": "post_rollback_validate"},
            output="logs/steps/none.log",
        ),
        "step post_rollback_validate: none.log cannot be read",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), HEADERS.values(), ids=HEADERS)
def test_what_the_journal_names_is_there(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Files of the plan, overrides, what earlier runs measured, the output of each step."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


def test_a_run_lies_in_the_folder_of_its_name(run_of: Callable[[str], RunDir]) -> None:
    """A record moved from elsewhere proves nothing about the run it is laid beside."""
    run = run_of("completed")
    moved = RunDir(run.path.rename(run.path.with_name("20260303T000000Z-other")))
    write_manifest(moved, sealed=True)
    said = f"is that of run {run.run_id}: a record moved here from elsewhere proves nothing"
    assert said in findings_of(moved)


def test_an_override_stands_among_the_findings(run_of: Callable[[str], RunDir]) -> None:
    """Flag, who asked and the reason: with them in the journal it is accepted."""
    run = run_of("completed")
    sentence = "OVERRIDE --accept-unmeasured by operator: the first of all (nothing measured)"
    finding = {"severity": "warning", "sentence": sentence}

    def add(raws: list[Raw]) -> None:
        raws.insert(1, {**raws[0], "kind": "finding", "payload": finding})

    forge(
        run,
        together(
            changed(
                "run_created",
                overrides={"accept_unmeasured": "the first of all"},
                measured=UNMEASURED,
            ),
            add,
            changed("control", start=2),  # the start is one record later now
        ),
    )
    assert findings_of(run) == ""
    forge(run, lambda raws: raws[1]["payload"].update(sentence=sentence.replace("first", "last")))
    assert "overrides accept_unmeasured, and no finding" in findings_of(run)


def test_a_rollback_has_its_own_readiness_report(run_of: Callable[[str], RunDir]) -> None:
    """post_rollback_validate is proved by a file of its own."""
    run = run_of("rolled_back")
    edit_file(run, "evidence/ctp_readiness_rollback.json", None)
    assert "ctp_readiness_rollback.json: cannot be read" in findings_of(run)


# --- notebooks --------------------------------------------------------------------


def stamped(**values: Any) -> Callable[[Any], None]:
    """Other values in a notebook's stamp."""
    return lambda notebook: notebook["metadata"]["ctp_runbook"].update(values)


def _never_run(notebook: Any) -> None:
    notebook["cells"][0]["execution_count"] = None


NOTEBOOKS: dict[str, tuple[Callable[[Any], None], str]] = {
    "of another run": (
        stamped(run_id="another"),
        f"{NOTEBOOK}: stamped with run another; this is run 20260202T023000Z-completed",
    ),
    "of a longer journal": (
        stamped(journal_records=999),
        f"{NOTEBOOK}: stamped at record 999; the journal has 46",
    ),
    "of no journal": (stamped(journal_records=0), f"{NOTEBOOK}: stamped at record 0; the journal"),
    "of a true journal": (
        stamped(journal_records=True),
        "Expected `int`, got `bool` - at `$.metadata.ctp_runbook.journal_records`",
    ),
    "of another journal": (
        stamped(journal_sha256="0" * 64),
        f"{NOTEBOOK}: stamped with journal digest 000000000000…; at record 46 it was ",
    ),
    "with a cell that never ran": (
        _never_run,
        f"{NOTEBOOK}: cell 1 is marked completed and was never executed",
    ),
}


@pytest.mark.parametrize(("edit", "said"), NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_notebook_carries_the_digest_of_its_journal(
    edit: Callable[[Any], None], said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Its stamp is this run's at some record, and no cell claims more than it did."""
    run = run_of("completed")
    edit_json(run, NOTEBOOK, edit)
    assert said in findings_of(run)


LOST: dict[str, Callable[[Any], None]] = {
    "a cell that did not run": lambda notebook: notebook["cells"][0].update(
        execution_count=None, metadata={"papermill": {"status": "pending"}}
    ),
    "a cell of prose": lambda notebook: notebook["cells"].append(
        {"cell_type": "markdown", "source": "then", "metadata": {}}
    ),
    "a cell without code": lambda notebook: notebook["cells"][0].update(
        source="", execution_count=None
    ),
    "a cell without metadata": lambda notebook: notebook["cells"][0].update(metadata=None),
}


@pytest.mark.parametrize("edit", LOST.values(), ids=LOST)
def test_a_notebook_may_be_lost_in_part(
    edit: Callable[[Any], None], run_of: Callable[[str], RunDir]
) -> None:
    """Its viewer died and the run went on: as long as nothing is claimed, nothing is wrong."""
    run = run_of("completed")
    edit_json(run, NOTEBOOK, edit)
    assert findings_of(run) == ""


def test_a_notebook_of_an_earlier_moment_is_true(run_of: Callable[[str], RunDir]) -> None:
    """It was executed while the run went on: its digest is that of the journal as it then was."""
    run = run_of("completed")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    edit_json(
        run, NOTEBOOK, stamped(journal_records=9, journal_sha256=digest_of(b"".join(lines[:9])))
    )
    assert findings_of(run) == ""


# --- the manifest -----------------------------------------------------------------


def of_manifest(edit: Callable[[Any], None]) -> Change:
    """Edit manifest.json as data, in the form it is written."""

    def change(data: bytes) -> bytes:
        value = json.loads(data)
        edit(value)
        return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()

    return change


MANIFESTS: dict[str, tuple[Change, str]] = {
    "gone": (gone, "manifest.json: cannot be read: No such file or directory"),
    "no JSON": (lambda data: b"{", "manifest.json: not a manifest: Input data was truncated"),
    "a list": (lambda data: b"[]", "manifest.json: not a manifest: Expected `object`, got `array`"),
    "without its files": (
        of_manifest(lambda value: value.pop("files")),
        "manifest.json: not a manifest: Object missing required field `files`",
    ),
    "of a file that is not there": (
        of_manifest(lambda value: value["files"].update(x={"sha256": "0" * 64, "size": 1})),
        "manifest.json lists x, which is not there",
    ),
    "of another size": (
        of_manifest(lambda value: value["files"]["run.json"].update(size=1)),
        "…, 1 bytes",
    ),
    "of a file less": (
        of_manifest(lambda value: value["files"].pop("run.json")),
        "run.json: not listed in the sealed manifest.json",
    ),
    "that was edited": (
        of_manifest(lambda value: value.update(run_id="another")),
        "manifest.json is not in the form this project writes: it was edited",
    ),
    "unsealed by hand": (
        of_manifest(lambda value: value.update(sealed=False)),
        "manifest.json is not in the form this project writes: it was edited",
    ),
}


@pytest.mark.parametrize(("change", "said"), MANIFESTS.values(), ids=MANIFESTS)
def test_the_manifest_lists_what_is_there(
    change: Change, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """In the one form it can have, every file with its digest and size."""
    run = run_of("completed")
    data = change(run.manifest.read_bytes())
    if data is None:
        run.manifest.unlink()
    else:
        run.manifest.write_bytes(data)
    assert said in findings_of(run)


def test_a_file_that_changed_is_told_by_its_digest(run_of: Callable[[str], RunDir]) -> None:
    """Whatever it is: what nothing else answers for, the seal does."""
    run = run_of("completed")
    (run.plan / "note.md").write_text("as planned\n")
    write_manifest(run, sealed=True)
    assert findings_of(run) == ""
    (run.plan / "note.md").write_text("as it came\n")
    assert "plan/note.md: sha256 " in findings_of(run)


def test_an_unsealed_manifest_allows_what_notebooks_write(run_of: Callable[[str], RunDir]) -> None:
    """They were still to come when the run closed, with report and logs; nothing else was."""
    run = run_of("completed")
    write_manifest(run, sealed=False)
    (run.path / "report.html").write_text("<html></html>")
    (run.logs / "guardian.log").write_text("guardian: well\n")
    for half in (run.manifest, run.notebooks / "07_verify.ipynb"):
        half.with_name(f".{half.name}.1234.567890").write_text("{")
    assert findings_of(run) == ""
    (run.notebooks / "note.txt").write_text("x")
    (run.evidence / "more.env").write_text("CUTOVER_SUCCESS=true\n")
    assert findings_of(run).splitlines() == [
        "evidence/more.env: not listed in manifest.json",
        "notebooks/note.txt: not listed in manifest.json",
    ]
    (run.notebooks / "note.txt").unlink()
    (run.evidence / "more.env").unlink()
    (run.evidence / ".more.env.1.2").write_text("x")
    assert findings_of(run) == "evidence/.more.env.1.2: not listed in manifest.json"
    write_manifest(run, sealed=True)
    (run.evidence / "more.env").write_text("CUTOVER_SUCCESS=true\n")
    assert "evidence/more.env: not listed in the sealed manifest.json" in findings_of(run)


def test_findings_of_a_step_are_told_once_a_step(run_of: Callable[[str], RunDir]) -> None:
    """A record without output says so for itself alone."""
    run = run_of("completed")
    forge(run, lambda raws: nth(raws, "step_ended", step="precheck")["payload"].update(output=""))
    assert findings_of(run).count("its end names no output and digest") == 1


def test_what_the_plan_says_cannot_be_measured_is_excused(tmp_path: Path) -> None:
    """By the reviewed checklist alone: what a readiness file says of itself excuses nothing."""
    run = RunDir(tmp_path / "run")
    run.make()
    assert files._excused(run) == []
    said = {"a": "not_measurable: it has none", "b": "cat b"}
    path = run.plan / "ctp_one_shot_cutover_checklist.json"
    path.write_text(json.dumps({"schema": 1, "readiness_commands": said}))
    assert files._excused(run) == ["a"]
    path.write_text("[")
    assert files._excused(run) == []


@pytest.mark.parametrize(
    ("rate", "is_found"), [(UNSET, False), (0.01, False), (0.02, True)], ids=str
)
def test_a_record_of_before_the_rate_was_divided_has_none(
    rate: float | UnsetType, is_found: bool, tmp_path: Path
) -> None:
    """It is held against the same file; a rate that is not the file's is told."""
    run = RunDir(tmp_path)
    run.plan.mkdir()
    shutil.copy(Path(__file__).parents[2] / "configs" / "watch.toml", run.plan / "watch.toml")
    rules = load_watch(run.plan / "watch.toml")
    name = "order_latency_p99_ms"
    recorded = {**rules.metrics, name: structs.replace(rules.metrics[name], false_alarm_rate=rate)}
    watch = structs.replace(rules, metrics=recorded)
    history = SimpleNamespace(plan=SimpleNamespace(watch=watch))
    found = [*files._rule_findings(run, cast(History, history))]
    assert (
        found
        == [f"plan.watch.metrics.{name} of run.json is not that of plan/watch.toml"] * is_found
    )
