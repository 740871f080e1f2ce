"""Evidence: keys, order, arithmetic, copies, manifest."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.record.evidence import (
    cutover_env,
    finalise,
    kept_open,
    list_again,
    list_file,
    missing_copies,
    no_runner_since,
    read_manifest,
    rollback_env,
    rollback_seconds,
    trading_downtime_seconds,
    write_evidence,
    write_manifest,
    write_missing_copies,
)
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal, utc_text
from ctp_runbook.record.kinds import RollbackStarted, StepEnded
from ctp_runbook.record.result_env import env_lines, parse_env
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.pair import verify_pair
from ctp_runbook.verify.run import verify_run
from tests.props import synthetic_runs
from tests.props.synthetic_runs import (
    aborted_run,
    completed_run,
    drill_run,
    dry_run,
    make_run,
    rolled_back_run,
)

CUTOVER_KEYS = [
    "CUTOVER_ENV",
    "CUTOVER_WINDOW_LOCAL",
    "CUTOVER_CTP_CONFIG_PATH",
    "CUTOVER_DRY_RUN",
    "CUTOVER_SUCCESS",
    "CUTOVER_TOTAL_STEPS",
    "CUTOVER_FAILED_STEP",
    "CUTOVER_MONITOR_MINUTES",
    "CUTOVER_MONITOR_KEYS",
    "CUTOVER_TRIGGERED_ROLLBACK",
    "CUTOVER_STARTED_UTC",
    "CUTOVER_COMPLETED_UTC",
    "CUTOVER_DURATION_SECONDS",
]
ROLLBACK_KEYS = [
    "ROLLBACK_ENV",
    "ROLLBACK_TRIGGER_CONDITION",
    "ROLLBACK_DRY_RUN",
    "ROLLBACK_TRIGGERED",
    "ROLLBACK_SUCCESS",
    "ROLLBACK_TOTAL_STEPS",
    "ROLLBACK_FAILED_STEP",
    "ROLLBACK_MAX_SECONDS",
    "ROLLBACK_DURATION_SECONDS",
    "ROLLBACK_SLO_MET",
    "ROLLBACK_STARTED_UTC",
    "ROLLBACK_COMPLETED_UTC",
]
STEP_KEYS = ("NAME", "STATUS", "DURATION_MS", "EXIT_CODE", "COMMAND")


def _history(run: RunDir) -> History:
    return History.of(read_journal(run.journal).records)


def _values(data: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in data.decode().splitlines())
    return {key: value for key, _, value in pairs}


def test_the_cutover_file_has_the_keys_of_the_contract_in_order(tmp_path: Path) -> None:
    """Base keys first, then five lines a step from 1, as CONTRACT §3 lists them."""
    keys = list(_values(cutover_env(_history(completed_run(tmp_path)))))
    steps = [f"STEP_{n}_{key}" for n in range(1, 11) for key in STEP_KEYS]
    assert keys[: len(CUTOVER_KEYS) + len(steps)] == [*CUTOVER_KEYS, *steps]


def test_the_rollback_file_has_the_keys_of_the_contract_in_order(tmp_path: Path) -> None:
    """Base keys first, then five lines for each of the seven steps."""
    keys = list(_values(rollback_env(_history(rolled_back_run(tmp_path)))))
    steps = [f"STEP_{n}_{key}" for n in range(1, 8) for key in STEP_KEYS]
    assert keys[: len(ROLLBACK_KEYS) + len(steps)] == [*ROLLBACK_KEYS, *steps]


def test_a_completed_run_says_so(tmp_path: Path) -> None:
    """Success, no failed step, the verdict of the watch, and the journal file's own digest."""
    run = completed_run(tmp_path)
    values = _values(cutover_env(_history(run)))
    assert values["CUTOVER_SUCCESS"] == "true"
    assert values["CUTOVER_DRY_RUN"] == "0"
    assert values["CUTOVER_FAILED_STEP"] == ""
    assert values["CUTOVER_OUTCOME"] == "COMPLETED"
    assert values["CUTOVER_WATCH_VERDICT"] == "PASSED"
    assert int(values["CUTOVER_WATCH_SAMPLES"]) == run.samples.read_bytes().count(b"\n")
    assert float(values["CUTOVER_DURATION_SECONDS"]) >= 30 * 60
    assert values["CUTOVER_JOURNAL_SHA256"] == digest_of(run.journal.read_bytes())


def test_a_run_without_a_rollback_claims_none(tmp_path: Path) -> None:
    """A rollback that never ran is no success, met no budget, and has no steps and no time."""
    values = _values(rollback_env(_history(completed_run(tmp_path))))
    due = {
        "ROLLBACK_TRIGGERED": "false",
        "ROLLBACK_SUCCESS": "false",
        "ROLLBACK_SLO_MET": "false",
        "ROLLBACK_TOTAL_STEPS": "0",
        "ROLLBACK_DURATION_SECONDS": "0.000",
        "ROLLBACK_STARTED_UTC": "",
        "ROLLBACK_OUTCOME": "NOT_TRIGGERED",
    }
    assert {key: values[key] for key in due} == due


def test_the_rollback_counts_from_the_triggering_sample(tmp_path: Path) -> None:
    """Budget time starts with the sample, not with the first step; what was seen is written."""
    history = _history(rolled_back_run(tmp_path))
    values = _values(rollback_env(history))
    assert history.trigger is not None
    assert values["ROLLBACK_STARTED_UTC"] == history.trigger.payload.sample_utc
    assert 0 < rollback_seconds(history) < 180
    observed = values["ROLLBACK_TRIGGER_OBSERVED"]
    assert observed.startswith("metric=order_latency_p99_ms value=")
    assert "limit=5.0 sample_utc=" in observed
    assert _values(cutover_env(history))["CUTOVER_FAILED_STEP"] == "watch_trigger"


def test_a_forced_drill_is_named_as_one(tmp_path: Path) -> None:
    """CONTRACT §2: the drill is no success, its failed step is forced_drill, it rolled back."""
    values = _values(cutover_env(_history(drill_run(tmp_path))))
    assert values["CUTOVER_SUCCESS"] == "false"
    assert values["CUTOVER_FAILED_STEP"] == "forced_drill"
    assert values["CUTOVER_TRIGGERED_ROLLBACK"] == "true"


def test_downtime_is_time_without_a_runner(tmp_path: Path) -> None:
    """The ten minutes in which the new generation traded are no downtime; both switches are."""
    history = _history(drill_run(tmp_path))
    assert 0 < trading_downtime_seconds(history) < 10
    assert rollback_seconds(history) < 10


@pytest.mark.parametrize("make", [dry_run, aborted_run])
def test_what_never_stopped_the_old_runner_has_no_downtime(make: object, tmp_path: Path) -> None:
    """A dry run and a failed gate cost no second of trading."""
    assert callable(make)
    values = _values(cutover_env(_history(make(tmp_path))))
    assert values["CUTOVER_TRADING_DOWNTIME_SECONDS"] == "0.000"


def test_steps_nobody_reached_are_listed(tmp_path: Path) -> None:
    """The total counts all ten steps; those after the failed gate are not_run."""
    values = _values(cutover_env(_history(aborted_run(tmp_path, failing="init_kafka_topic"))))
    statuses = [values[f"STEP_{n}_STATUS"] for n in range(1, 11)]
    assert values["CUTOVER_TOTAL_STEPS"] == "10"
    assert statuses == ["ok", "failed", *["not_run"] * 8]
    assert values["CUTOVER_FAILED_STEP"] == "init_kafka_topic"


def test_a_journal_cut_short_still_gives_evidence(tmp_path: Path) -> None:
    """Whatever prefix of a journal with a header there is, its evidence is whole and claims no
    success."""
    records = read_journal(completed_run(tmp_path).journal).records
    for length in range(1, len(records)):
        history = History.of(records[:length])
        values = _values(cutover_env(history))
        assert values["CUTOVER_SUCCESS"] == "false"
        assert set(CUTOVER_KEYS) <= set(values)
        assert set(ROLLBACK_KEYS) <= set(_values(rollback_env(history)))


def test_values_stay_on_their_line(tmp_path: Path) -> None:
    """A command of several lines is one line with \\n in it, and no value starts a key."""
    data = env_lines([("A", "one\ntwo\r\nthree\x85four\u2028five"), ("B", "")])
    assert data == b"A=one\\ntwo\\nthree\\nfour\\nfive\nB=\n"
    path = tmp_path / "x.env"
    path.write_bytes(data)
    assert parse_env(path) == ({"A": "one\\ntwo\\nthree\\nfour\\nfive", "B": ""}, [])


def test_copies_are_written_where_asked(tmp_path: Path) -> None:
    """By flag always; by *_EVIDENCE_OUTPUT, relative to where the run was started, if real."""
    plan = {"cutover_evidence_output": "named/cutover.env"}
    copies = {"rollback_output": str(tmp_path / "asked.env")}
    for make, real in ((completed_run, True), (dry_run, False)):
        home = tmp_path / make.__name__
        run = make(home, plan=plan, copies=copies)
        write_evidence(run, _history(run))
        assert (home / "named/cutover.env").exists() is real
        due = (run.evidence / "ctp_rollback_result.env").read_bytes()
        assert (tmp_path / "asked.env").read_bytes() == due


def test_a_copy_that_cannot_be_written_costs_the_run_nothing_else(tmp_path: Path) -> None:
    """The other copy, evidence/ and the manifest are there; what is missing is told, and mended."""
    (tmp_path / "file").write_text("somebody's")
    plan = {
        "cutover_evidence_output": str(tmp_path / "file" / "cutover.env"),
        "rollback_evidence_output": str(tmp_path / "named" / "rollback.env"),
    }
    run = completed_run(tmp_path, plan=plan)
    (gap,) = finalise(run)
    assert gap == (
        f"the copy {tmp_path}/file/cutover.env of ctp_cutover_result.env cannot be written: "
        f"{os.strerror(errno.ENOTDIR)}"
    )
    assert (tmp_path / "named" / "rollback.env").exists()
    assert run.manifest.exists()
    assert missing_copies(_history(run)) == [tmp_path / "file" / "cutover.env"]
    (tmp_path / "file").unlink()
    assert write_missing_copies(run) == ()
    due = (run.evidence / "ctp_cutover_result.env").read_bytes()
    assert (tmp_path / "file" / "cutover.env").read_bytes() == due
    assert missing_copies(_history(run)) == []


def test_evidence_and_manifest_are_the_same_bytes_twice(tmp_path: Path) -> None:
    """Derived files hold no clock: deriving them again changes nothing."""
    run = completed_run(tmp_path)
    found = []
    for _ in range(2):
        write_evidence(run, _history(run))
        write_manifest(run, sealed=True)
        found.append({path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()})
    assert found[0] == found[1]


def test_the_manifest_lists_what_it_should(tmp_path: Path) -> None:
    """All but itself and requests; unsealed, also not what viewers and conductors still write."""
    run = completed_run(tmp_path)
    for name in ("control/1.json", "notebooks/05_watch.ipynb", "logs/guardian.log", "report.html"):
        (run.path / name).write_text("x")
    listed = {}
    for sealed in (True, False):
        write_manifest(run, sealed=sealed)
        listed[sealed] = set(json.loads(run.manifest.read_bytes())["files"])
    assert listed[True] - listed[False] == {
        "notebooks/05_watch.ipynb",
        "logs/guardian.log",
        "report.html",
    }
    assert "journal.jsonl" in listed[False]
    assert not {"manifest.json", "control/1.json"} & listed[True]


def test_what_another_is_writing_is_waited_for(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two who close a run at one instant write its files at once: neither lists what the other
    has not put in its place yet."""
    run = completed_run(tmp_path)
    other = subprocess.Popen(["sleep", "60"])  # it would be writing
    request.addfinalizer(other.wait)
    request.addfinalizer(other.kill)
    for path in (run.evidence / "ctp_cutover_result.env", run.report, run.manifest):
        half = path.with_name(f".{path.name}.{other.pid}.{time.monotonic_ns()}")
        half.write_text("half")
        later = threading.Timer(0.2, half.replace, (path,))
        later.start()
        write_manifest(run, sealed=True)
        later.join()
        listed = read_manifest(run.manifest.read_bytes()).files
        assert [name for name in listed if "/." in f"/{name}"] == [], path


def test_what_a_dead_writer_left_half_is_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody puts it in its place any more, and what is there is told."""
    run = completed_run(tmp_path)
    other = subprocess.Popen(["true"])
    other.wait()
    half = run.evidence / f".x.env.{other.pid}.1"
    half.write_text("half")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited for the dead"))
    write_manifest(run, sealed=True)
    assert f"evidence/{half.name}" in read_manifest(run.manifest.read_bytes()).files


def test_whoever_closes_a_run_seals_it(tmp_path: Path) -> None:
    """Logs and all; the gaps are told before, for behind the seal nobody writes a log."""
    blocked = tmp_path / "file"
    blocked.write_text("somebody's")
    run = completed_run(tmp_path, plan={"cutover_evidence_output": str(blocked / "cutover.env")})
    log = run.logs / "orchestrator.log"
    with log.open("w") as said:
        finalise(run, tell=lambda gap: print(gap, file=said, flush=True))
    manifest = read_manifest(run.manifest.read_bytes())
    assert manifest.sealed
    assert manifest.files["logs/orchestrator.log"] == list_file(log)
    assert "cannot be written" in log.read_text()


def test_a_run_under_notebooks_is_sealed_when_they_are_done(tmp_path: Path) -> None:
    """Whatever ends them; what they wrote meanwhile is listed then."""
    run = completed_run(tmp_path)
    told: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), kept_open(run, tell=told.append):
        finalise(run)
        assert not read_manifest(run.manifest.read_bytes()).sealed
        (run.notebooks / "05_watch.ipynb").write_text("{}")
        raise KeyboardInterrupt
    manifest = read_manifest(run.manifest.read_bytes())
    assert (manifest.sealed, told) == (True, [])
    assert "notebooks/05_watch.ipynb" in manifest.files


def test_a_run_that_is_not_over_is_not_sealed(tmp_path: Path) -> None:
    """Its notebooks may be done with before it is: whoever closes it seals it."""
    run = completed_run(tmp_path)
    run.manifest.unlink(missing_ok=True)
    with kept_open(run, tell=pytest.fail):
        pass
    assert not run.manifest.exists()


def test_a_seal_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else comes of it."""
    run = completed_run(tmp_path)
    finalise(run)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ctp_runbook.record.evidence.write_manifest", full)
    told: list[str] = []
    with kept_open(run, tell=told.append):
        pass
    (sentence,) = told
    assert sentence.startswith(f"run {run.run_id} cannot be sealed")
    assert os.strerror(errno.ENOSPC) in sentence


def test_a_file_made_again_is_listed_again_and_no_other(tmp_path: Path) -> None:
    """What was changed beside it stays found; an edited or unsealed manifest is left alone."""
    run = completed_run(tmp_path)
    finalise(run)
    run.report.write_text("<html></html>")
    (run.plan / "watch.toml").write_text("limit = 1\n")
    list_again(run, run.report)
    manifest = read_manifest(run.manifest.read_bytes())
    assert manifest.files["report.html"] == list_file(run.report)
    assert manifest.files["plan/watch.toml"] != list_file(run.plan / "watch.toml")
    edited = run.manifest.read_bytes().replace(b'"run_id": "', b'"run_id": "x')
    for left in (edited, b"{", None):
        if left is None:
            write_manifest(run, sealed=False)
            left = run.manifest.read_bytes()
        run.manifest.write_bytes(left)
        run.report.write_text("<html>1</html>")
        list_again(run, run.report)
        assert run.manifest.read_bytes() == left


def test_every_step_has_the_command_of_the_plan(tmp_path: Path) -> None:
    """A step that never ran still shows what it would have run."""
    values = _values(cutover_env(_history(aborted_run(tmp_path))))
    commands = [values[f"STEP_{n}_COMMAND"] for n in range(1, 11)]
    assert commands == [synthetic_runs._command(spec) for spec in STEP_TABLE[:10]]


def test_a_name_that_is_no_utf_8_is_listed_escaped(tmp_path: Path) -> None:
    """A step's export in another encoding keeps no run from its manifest, nor from its proof."""
    run = make_run("completed", tmp_path)
    name = os.fsdecode(b"\xb2\xce.csv")
    (run.evidence / name).write_bytes(b"1")
    write_manifest(run, sealed=True)
    assert rb"evidence/\\udcb2\\udcce.csv" in run.manifest.read_bytes()
    assert verify_run(run).findings == ()
    (run.evidence / name).write_bytes(b"2")
    assert "csv" in " ".join(verify_run(run).findings)


# --- clocks that are set ------------------------------------------------------------


def moved(run: RunDir, *, by: float, since: int) -> History:
    """The run's history, its wall clock ``by`` seconds further from record number ``since`` on."""
    records = []
    for record in _history(run).records:
        if record.seq >= since:
            wall = record.wall + timedelta(seconds=by)
            record = structs.replace(record, wall_utc=utc_text(wall.timestamp()))
            if isinstance(begun := record.payload, RollbackStarted):
                sampled = datetime.fromisoformat(begun.started_utc).timestamp() + by
                begun = structs.replace(begun, started_utc=utc_text(sampled))
                record = structs.replace(record, payload=begun)
        records.append(record)
    return History.of(records)


@pytest.mark.parametrize("by", [-600.0, -0.7, 600.0])
@pytest.mark.parametrize("at", ["in the switch", "in the rollback"])
def test_durations_are_not_those_of_a_clock_that_was_set(
    at: str, by: float, tmp_path: Path
) -> None:
    """Downtime, rollback and cutover take as long as they took; the budget is neither met nor missed
    by somebody's hand on the clock."""
    run = rolled_back_run(tmp_path)
    history = _history(run)
    step = "start_new_core_engine" if at == "in the switch" else "stop_new_core_engine"
    since = next(record.seq for record in history.of_kind(StepEnded) if record.payload.step == step)
    stepped = moved(run, by=by, since=since)
    assert trading_downtime_seconds(stepped) == pytest.approx(
        trading_downtime_seconds(history), abs=0.02
    )
    assert rollback_seconds(stepped) == pytest.approx(rollback_seconds(history), abs=0.02)
    before, after = _values(cutover_env(history)), _values(cutover_env(stepped))
    key = "CUTOVER_DURATION_SECONDS"
    assert float(after[key]) == pytest.approx(float(before[key]), abs=0.02)
    assert _values(rollback_env(stepped))["ROLLBACK_SLO_MET"] == "true"


@pytest.mark.parametrize("by", [-600.0, 600.0])
@pytest.mark.parametrize("step", ["precheck", "start_new_core_engine", "stop_new_core_engine"])
def test_a_pair_says_by_how_much_the_clock_was_set(step: str, by: float, tmp_path: Path) -> None:
    """So that its instants and durations fit each other without the journal; of a clock that
    nobody set it says nothing, and what it says is counted."""
    run = rolled_back_run(tmp_path)
    history = _history(run)
    since = next(record.seq for record in history.of_kind(StepEnded) if record.payload.step == step)
    files = tmp_path / "forth.env", tmp_path / "back.env"

    def write(history: History) -> tuple[str, ...]:
        for path, data in zip(files, (cutover_env(history), rollback_env(history)), strict=True):
            path.write_bytes(data)
        return verify_pair(*files, allow_cutover_rollback=True).findings

    assert write(history) == ()
    assert "CLOCK_SET" not in "".join(path.read_text() for path in files)
    assert write(moved(run, by=by, since=since)) == ()
    said = [path for path in files if "_CLOCK_SET_SECONDS=" in path.read_text()]
    assert said == [files[step == "stop_new_core_engine"]]
    (path,) = said
    true = path.read_text()
    (line,) = [line for line in true.splitlines() if "_CLOCK_SET_SECONDS=" in line]
    key, _, value = line.partition("=")
    path.write_text(true.replace(line, f"{key}={float(value) - 5:.3f}"))
    (finding,) = verify_pair(*files, allow_cutover_rollback=True).findings
    assert "s by which the clock was set; " in finding
    path.write_text(true.replace(line, f"{key}=x"))
    (finding,) = verify_pair(*files, allow_cutover_rollback=True).findings
    assert "_CLOCK_SET_SECONDS is 'x" in finding


def test_a_downtime_that_is_not_over_is_told_since_when(tmp_path: Path) -> None:
    """No runner was proved started since the last was told to stop: no figure may look final."""
    records = read_journal(completed_run(tmp_path).journal).records
    by_step = {(r.kind, getattr(r.payload, "step", "")): n for n, r in enumerate(records, start=1)}
    stopped = by_step["step_started", "stop_old_strategy_runner"]
    started = by_step["step_ended", "start_new_strategy_runner"]
    assert no_runner_since(History.of(records[: stopped - 1])) == ""
    assert no_runner_since(History.of(records[:stopped])) == records[stopped - 1].wall_utc
    assert no_runner_since(History.of(records[: started - 1])) == records[stopped - 1].wall_utc
    assert no_runner_since(History.of(records[:started])) == ""
    assert no_runner_since(History.of(records)) == ""
