"""Facts about verify/pair.py: what two bare texts can prove, and refuse, a row a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.pair import verify_pair

Pair = tuple[Path, Path]
Swap = tuple[str, str]
CUTOVER, ROLLBACK = "ctp_cutover_result.env", "ctp_rollback_result.env"
WARMUP_KILLED = (
    r"(STEP_10_STATUS)=ok\n(.*\n)STEP_10_EXIT_CODE=0",
    r"\1=failed\n\2STEP_10_EXIT_CODE=137",
)


def pair_of(run: RunDir) -> Pair:
    """The two result files of a run."""
    return run.evidence / CUTOVER, run.evidence / ROLLBACK


def swap(path: Path, *swaps: Swap) -> None:
    """Replace patterns in a file, each of which must be there."""
    text = path.read_text()
    for old, new in swaps:
        text, count = re.subn(old, new, text)
        assert count, old
    path.write_text(text)


def said_of(pair: Pair, **options: object) -> str:
    """The findings of a verification that allows a rollback."""
    allowed = {"allow_cutover_rollback": True, **options}
    return "\n".join(verify_pair(*pair, **allowed).findings)  # type: ignore[arg-type]


FORMS: dict[str, tuple[Swap, str]] = {
    "a key missing": (("CUTOVER_ENV=.*\n", ""), "CUTOVER_ENV is missing"),
    "a key blank": (("CUTOVER_ENV=.*", "CUTOVER_ENV="), "CUTOVER_ENV is blank"),
    "a key twice": ((r"(CUTOVER_ENV=.*\n)", r"\1\1"), ":2: CUTOVER_ENV stands here a second time"),
    "no key": (("CUTOVER_ENV=", "cutover env "), ":1: 'cutover env synthetic' is not KEY=VALUE"),
    "a flag of another word": (
        ("CUTOVER_SUCCESS=true", "CUTOVER_SUCCESS=yes"),
        "CUTOVER_SUCCESS is 'yes'; expected true or false",
    ),
    "a dry run of another word": (
        ("DRY_RUN=0", "DRY_RUN=no"),
        "CUTOVER_DRY_RUN is 'no'; expected 0 or 1",
    ),
    "no number": (
        (r"DURATION_SECONDS=.*", "DURATION_SECONDS=nan"),
        "CUTOVER_DURATION_SECONDS is 'nan'; expected a finite number >= 0",
    ),
    "a number below zero": (
        (r"MONITOR_MINUTES=.*", "MONITOR_MINUTES=-1"),
        "CUTOVER_MONITOR_MINUTES is '-1'; expected a finite number >= 0",
    ),
    "a total that is none": (
        ("TOTAL_STEPS=10", "TOTAL_STEPS=many"),
        "10 step groups; the total says 'many'",
    ),
    "a total too low": (("TOTAL_STEPS=10", "TOTAL_STEPS=9"), "10 step groups; the total says '9'"),
    "more steps than there can be": (
        (r"TOTAL_STEPS=10", "TOTAL_STEPS=101\nSTEP_101_NAME=x"),
        "101 step groups; 100 at most",
    ),
    "a step without its status": (("STEP_3_STATUS=.*\n", ""), "STEP_3_STATUS is missing"),
    "a status of no step": (
        ("STEP_3_STATUS=ok", "STEP_3_STATUS=fine"),
        "STEP_3_STATUS is 'fine'; expected one of ok, failed, timed_out, skipped, not_run,",
    ),
    "a step that took less than nothing": (
        ("STEP_3_DURATION_MS=.*", "STEP_3_DURATION_MS=-5"),
        "STEP_3_DURATION_MS is '-5'; expected a number of milliseconds >= 0",
    ),
    "an exit code of words": (
        ("STEP_3_EXIT_CODE=0", "STEP_3_EXIT_CODE=nine"),
        "STEP_3_EXIT_CODE is 'nine'; expected a whole number, or nothing",
    ),
    "ok without an exit code": (
        ("STEP_3_EXIT_CODE=0", "STEP_3_EXIT_CODE="),
        "STEP_3_STATUS is ok with exit code none",
    ),
    "never run, and exit 9": (
        (
            r"STEP_3_STATUS=ok\n(.*\n)STEP_3_EXIT_CODE=0",
            r"STEP_3_STATUS=not_run\n\1STEP_3_EXIT_CODE=9",
        ),
        "STEP_3_STATUS is not_run with exit code 9",
    ),
    "a step without a command": (
        ("STEP_3_COMMAND=.*", "STEP_3_COMMAND="),
        "STEP_3_COMMAND is blank",
    ),
    "a digest that is none": (
        ("CUTOVER_PLAN_SHA256=.*", "CUTOVER_PLAN_SHA256=abc"),
        "CUTOVER_PLAN_SHA256 is 'abc'; expected a SHA-256 in hex",
    ),
    "a downtime of eternity": (
        ("DOWNTIME_SECONDS=.*", "DOWNTIME_SECONDS=1e10"),
        "CUTOVER_TRADING_DOWNTIME_SECONDS is '1e10'",
    ),
    "samples that are no count": (
        ("WATCH_SAMPLES=.*", "WATCH_SAMPLES=a few"),
        "CUTOVER_WATCH_SAMPLES is 'a few'; expected a count",
    ),
}


@pytest.mark.parametrize(("edit", "said"), FORMS.values(), ids=FORMS)
def test_the_form_of_a_result_file(edit: Swap, said: str, run_of: Callable[[str], RunDir]) -> None:
    """CONTRACT §3: each key there, once, with a value of its kind; nothing else is asked before."""
    pair = pair_of(run_of("completed"))
    swap(pair[0], edit)
    report = verify_pair(*pair)
    assert said in "\n".join(report.findings)
    assert [check.name for check in report.checks] == ["cutover keys", "rollback keys"]


CUTOVERS: dict[str, tuple[str, tuple[Swap, ...], str]] = {
    "a dry run": (
        "completed",
        (("CUTOVER_DRY_RUN=0", "CUTOVER_DRY_RUN=1"),),
        f"{CUTOVER}: CUTOVER_DRY_RUN is 1: a dry run never verifies as a real one",
    ),
    "simulated steps": (
        "completed",
        (("STEP_([12])_STATUS=ok", r"STEP_\1_STATUS=simulated_ok"),),
        f"{CUTOVER}: 2 steps are simulated_ok: nothing was done",
    ),
    "echoes alone": (
        "completed",
        (("_COMMAND=.*", "_COMMAND=bash -lc 'echo rehearsal: ok'"),),
        "every command only echoes: such a plan moves nothing, and its success proves nothing",
    ),
    "an unknown step": (
        "completed",
        (("STEP_1_NAME=bootstrap_infra", "STEP_1_NAME=dance"),),
        f"{CUTOVER}: STEP_1_NAME 'dance' is no such step of the runbook",
    ),
    "a step of the other file": (
        "completed",
        (("STEP_1_NAME=bootstrap_infra", "STEP_1_NAME=stop_new_core_engine"),),
        "STEP_1_NAME 'stop_new_core_engine' is no such step of the runbook",
    ),
    "another order": (
        "completed",
        (
            ("STEP_1_NAME=bootstrap_infra", "STEP_1_NAME=x"),
            ("STEP_2_NAME=init_kafka_topic", "STEP_2_NAME=bootstrap_infra"),
            ("STEP_1_NAME=x", "STEP_1_NAME=init_kafka_topic"),
        ),
        f"{CUTOVER}: the steps do not stand in the runbook's order, each once",
    ),
    "a step twice": (
        "completed",
        (("STEP_2_NAME=init_kafka_topic", "STEP_2_NAME=bootstrap_infra"),),
        f"{CUTOVER}: the steps do not stand in the runbook's order, each once",
    ),
    "a success without a step": (
        "completed",
        (("TOTAL_STEPS=10", "TOTAL_STEPS=9"), (r"STEP_10_\w+=.*\n", "")),
        f"{CUTOVER}: a success without warmup_query",
    ),
    "a longer time than its span": (
        "completed",
        ((r"(?<!DOWNTIME_)SECONDS=\d", "SECONDS=9"),),
        "s; CUTOVER_DURATION_SECONDS says 9",
    ),
    "an end before its start": (
        "completed",
        (("COMPLETED_UTC=2026", "COMPLETED_UTC=2025"),),
        "is no span of UTC time",
    ),
    "an end in another zone": (
        "completed",
        ((r"(COMPLETED_UTC=.*)\+00:00", r"\1+08:00"),),
        "is no span of UTC time",
    ),
    "an end that is no time": (
        "completed",
        (("COMPLETED_UTC=.*", "COMPLETED_UTC=tomorrow"),),
        "to 'tomorrow' is no span of UTC time",
    ),
    "steps longer than all": (
        "completed",
        (("STEP_1_DURATION_MS=.*", "STEP_1_DURATION_MS=9999999"),),
        "the steps took 10002",
    ),
    "a success with a failed step": (
        "completed",
        (("CUTOVER_FAILED_STEP=", "CUTOVER_FAILED_STEP=precheck"),),
        "CUTOVER_SUCCESS is true with CUTOVER_FAILED_STEP precheck",
    ),
    "a failure of nothing": (
        "rolled_back",
        (("CUTOVER_FAILED_STEP=.*", "CUTOVER_FAILED_STEP=bad luck"),),
        "CUTOVER_FAILED_STEP 'bad luck' names no step and no cause",
    ),
    "a success with a step that is none": (
        "completed",
        (WARMUP_KILLED,),
        "CUTOVER_SUCCESS is true, but step warmup_query is failed with exit code 137",
    ),
    "a failed step that is ok": (
        "rolled_back",
        (("CUTOVER_FAILED_STEP=.*", "CUTOVER_FAILED_STEP=precheck"),),
        "CUTOVER_FAILED_STEP precheck has a status that is no failure",
    ),
    "a cause, and a step that failed": (
        "rolled_back",
        (WARMUP_KILLED,),
        "CUTOVER_FAILED_STEP is watch_trigger, but step warmup_query is failed with exit code 137",
    ),
    "a success shorter than its watch": (
        "completed",
        (("MONITOR_MINUTES=30", "MONITOR_MINUTES=90"),),
        "s; the watch alone takes 90 minutes (CUTOVER_MONITOR_MINUTES)",
    ),
    "a success without a verdict": (
        "completed",
        (("WATCH_VERDICT=PASSED", "WATCH_VERDICT=INCONCLUSIVE"),),
        "CUTOVER_SUCCESS is true with CUTOVER_WATCH_VERDICT INCONCLUSIVE",
    ),
    "a success without a sample": (
        "completed",
        (("WATCH_SAMPLES=16", "WATCH_SAMPLES=0"),),
        "CUTOVER_SUCCESS is true without a sample of the watch",
    ),
    "a success of another outcome": (
        "completed",
        (("CUTOVER_OUTCOME=COMPLETED", "CUTOVER_OUTCOME=REFUSED"),),
        "CUTOVER_SUCCESS is true with the outcome 'REFUSED'",
    ),
    "rolled back, as one file alone says": (
        "completed",
        (("TRIGGERED_ROLLBACK=false", "TRIGGERED_ROLLBACK=true"),),
        "CUTOVER_TRIGGERED_ROLLBACK and ROLLBACK_TRIGGERED differ",
    ),
    "of another environment": (
        "completed",
        (("CUTOVER_ENV=.*", "CUTOVER_ENV=elsewhere"),),
        "CUTOVER_ENV elsewhere and ROLLBACK_ENV synthetic differ",
    ),
    "of another run": (
        "completed",
        (("CUTOVER_RUN_ID=.*", "CUTOVER_RUN_ID=other"),),
        "the two files are of different runs: 20260202T023000Z-completed, other",
    ),
    "a success that was rolled back": (
        "rolled_back",
        (("CUTOVER_SUCCESS=false", "CUTOVER_SUCCESS=true"),),
        "CUTOVER_SUCCESS is true, and yet it was rolled back",
    ),
    "a failure that nobody rolled back": (
        "aborted",
        (),
        "CUTOVER_SUCCESS is false (precheck), and nothing was rolled back",
    ),
}


@pytest.mark.parametrize(("kind", "edits", "said"), CUTOVERS.values(), ids=CUTOVERS)
def test_a_cutover_that_cannot_be_true(
    kind: str, edits: tuple[Swap, ...], said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Steps, arithmetic, and the two files against each other."""
    pair = pair_of(run_of(kind))
    swap(pair[0], *edits)
    assert said in said_of(pair)


ROLLBACKS: dict[str, tuple[str, tuple[Swap, ...], str]] = {
    "steps of none": (
        "completed",
        (("ROLLBACK_FAILED_STEP=", "ROLLBACK_FAILED_STEP=stop_new_core_engine"),),
        f"{ROLLBACK}: steps or a failed step, and ROLLBACK_TRIGGERED is false",
    ),
    "time of none": (
        "completed",
        (("DURATION_SECONDS=0.000", "DURATION_SECONDS=4.000"),),
        f"{ROLLBACK}: 4 s, and neither a start nor an end",
    ),
    "a success with a failed step": (
        "rolled_back",
        (("FAILED_STEP=", "FAILED_STEP=post_rollback_validate"),),
        "ROLLBACK_SUCCESS is true with ROLLBACK_FAILED_STEP 'post_rollback_validate'",
    ),
    "a failure of nothing": (
        "rolled_back",
        (("ROLLBACK_SUCCESS=true", "ROLLBACK_SUCCESS=false"),),
        "ROLLBACK_SUCCESS is false with ROLLBACK_FAILED_STEP ''",
    ),
    "a start that failed": (
        "rolled_back",
        (
            (
                r"(STEP_5_STATUS)=ok\n(.*\n)STEP_5_EXIT_CODE=0",
                r"\1=failed\n\2STEP_5_EXIT_CODE=137",
            ),
        ),
        "ROLLBACK_SUCCESS is true, but step start_previous_core_engine is failed with exit code",
    ),
    "a validation left out": (
        "rolled_back",
        (("STEP_7_STATUS=ok", "STEP_7_STATUS=skipped"),),
        "ROLLBACK_SUCCESS is true, but step post_rollback_validate is skipped",
    ),
    "in time, and late": (
        "rolled_back",
        (("MAX_SECONDS=.*", "MAX_SECONDS=1.000"),),
        "s were taken of ROLLBACK_MAX_SECONDS 1",
    ),
    "not in time, and in time": (
        "rolled_back",
        (("SLO_MET=true", "SLO_MET=false"),),
        "ROLLBACK_SLO_MET is false; ",
    ),
    "a late success": (
        "rolled_back",
        (("MAX_SECONDS=.*", "MAX_SECONDS=1.000"), ("SLO_MET=true", "SLO_MET=false")),
        f"{ROLLBACK}: a success after ",
    ),
    "without an end": (
        "rolled_back",
        (("COMPLETED_UTC=.*", "COMPLETED_UTC="),),
        f"{ROLLBACK}: a rollback without start or end",
    ),
    "a success of another outcome": (
        "rolled_back",
        (("OUTCOME=ROLLED_BACK_IN_BUDGET", "OUTCOME=ROLLED_BACK_LATE"),),
        "ROLLBACK_SUCCESS is true with the outcome 'ROLLED_BACK_LATE'",
    ),
    "begun before the cutover": (
        "rolled_back",
        (("ROLLBACK_STARTED_UTC=2026", "ROLLBACK_STARTED_UTC=2025"),),
        "the rollback's clock starts at 2025-",
    ),
    "failed": (
        "rolled_back",
        (
            ("ROLLBACK_SUCCESS=true", "ROLLBACK_SUCCESS=false"),
            ("FAILED_STEP=", "FAILED_STEP=rollback_duration_exceeded"),
        ),
        "the rollback failed (rollback_duration_exceeded)",
    ),
}


@pytest.mark.parametrize(("kind", "edits", "said"), ROLLBACKS.values(), ids=ROLLBACKS)
def test_a_rollback_that_cannot_be_true(
    kind: str, edits: tuple[Swap, ...], said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Its success, its budget, its steps and its clock must agree."""
    pair = pair_of(run_of(kind))
    swap(pair[1], *edits)
    assert said in said_of(pair)


MADE_GOOD = {
    "skipped": (("STEP_1_STATUS=ok", "STEP_1_STATUS=skipped"),),
    "failed": (
        (r"(STEP_1_STATUS)=ok\n(.*\n)STEP_1_EXIT_CODE=0", r"\1=failed\n\2STEP_1_EXIT_CODE=1"),
    ),
    "timed out": (
        (r"(STEP_2_STATUS)=ok\n(.*\n)STEP_2_EXIT_CODE=0", r"\1=timed_out\n\2STEP_2_EXIT_CODE="),
    ),
}


@pytest.mark.parametrize("edits", MADE_GOOD.values(), ids=MADE_GOOD)
def test_a_stop_that_failed_may_have_been_made_good(
    edits: tuple[Swap, ...], run_of: Callable[[str], RunDir]
) -> None:
    """What did not stop by its command was ended by signal; the rollback succeeded all the same."""
    pair = pair_of(run_of("rolled_back"))
    swap(pair[1], *edits)
    assert said_of(pair) == ""


def test_a_lower_budget_can_be_asked_for(run_of: Callable[[str], RunDir]) -> None:
    """By --max-rollback-seconds, which the finding names."""
    pair = pair_of(run_of("rolled_back"))
    assert "s > --max-rollback-seconds 0.5" in said_of(pair, max_rollback_seconds=0.5)


def test_a_rollback_is_allowed_only_where_it_is_asked_for(run_of: Callable[[str], RunDir]) -> None:
    """A drill verifies with the flag that the finding names."""
    pair = pair_of(run_of("drill"))
    said = said_of(pair, allow_cutover_rollback=False)
    assert "CUTOVER_SUCCESS is false (forced_drill); expected true (a drill that is to" in said
    assert said_of(pair) == ""


def test_instants_of_whole_seconds_are_of_an_earlier_tool(run_of: Callable[[str], RunDir]) -> None:
    """A second and a half may be between span and duration there; of ours two milliseconds."""
    pair = pair_of(run_of("completed"))
    swap(pair[0], (r"_UTC=(.*)\.\d+\+00:00", r"_UTC=\1+00:00"))
    assert said_of(pair) == ""
    swap(pair[0], (r"_UTC=(.*)\+00:00", r"_UTC=\1.000000+00:00"))
    assert "s; CUTOVER_DURATION_SECONDS says" in said_of(pair)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    """Each of the two is named."""
    said = said_of((tmp_path / "one.env", tmp_path / "two.env"))
    assert "one.env: cannot be read: No such file or directory" in said
    assert "two.env: cannot be read: No such file or directory" in said


def test_a_step_that_its_own_line_leaves_out_may_be_skipped(
    run_of: Callable[[str], RunDir],
) -> None:
    """The line stands where its command would; with any other command, skipped is no success."""
    pair = pair_of(run_of("completed"))
    lines = pair[0].read_text().splitlines()
    (name,) = [line for line in lines if line.endswith("_NAME=stop_old_strategy_runner")]
    step = name.partition("_NAME")[0]
    kept = {f"{step}_STATUS": "skipped", f"{step}_EXIT_CODE": "", f"{step}_DURATION_MS": "0"}
    for command, said in (("OLD_STRATEGY_RUNNER=none", ""), ("kill 1", "is skipped")):
        given = {**kept, f"{step}_COMMAND": command}
        pair[0].write_text(
            "".join(
                f"{key}={given.get(key, value)}\n"
                for key, _, value in (line.partition("=") for line in lines)
            )
        )
        found = said_of(pair)
        assert (said in found) if said else not found, found
