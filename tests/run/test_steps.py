"""Facts about run/steps.py: a step is written down, bounded, ended, proved, and written down again."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.host.process import group_members, identity_of
from ctp_runbook.model import Generation, Role, Step, StepStatus
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.kinds import (
    Payload,
    ProbeAnswered,
    StepEnded,
    StepStarted,
)
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.steps import StepResult, run_step, skip_step
from tests.props.plan_fixtures import make_plan, open_context, processes_with, wait_for

ROOT = Path(__file__).parents[2]
P = TypeVar("P", bound=Payload)
SECRET = "tr0ub4dor-and-3"
OLD_RUNNER = (Generation.OLD, Role.STRATEGY_RUNNER)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run; who a runner is, its pid file says, and that it lives, a file ``alive``."""
    plan = make_plan(
        tmp_path,
        environ={"PATH": os.environ["PATH"], "CTP_PASSWORD": SECRET},
        OLD_STRATEGY_RUNNER_ALIVE_CMD="test -e alive",
    )
    with open_context(tmp_path, plan=plan) as made:
        yield structs.replace(made, environ={"PATH": os.environ["PATH"], "CTP_PASSWORD": SECRET})


def step(context: RunContext, command: str, *, seconds: float = 10.0) -> Step:
    """A gate with this command and timeout."""
    return context.plan.step("bootstrap_infra")._replace(command=command, timeout_seconds=seconds)


def run(context: RunContext, command: str, *, seconds: float = 10.0) -> StepResult:
    """Run such a gate."""
    return run_step(context, step(context, command, seconds=seconds), deadline=soon(60))


def soon(seconds: float = 0.5) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def kinds(context: RunContext) -> list[str]:
    """The journal's kinds, in order."""
    return [record.kind for record in context.journal.records]


def last(context: RunContext, kind: type[P]) -> P:
    """What the last record of this kind says."""
    *_, record = context.history.of_kind(kind)
    return record.payload


def log_of(context: RunContext) -> bytes:
    """The redacted output that the last ended step points to."""
    name = last(context, StepEnded).output
    return (context.run.path / name).read_bytes()


# --- how a command ends -----------------------------------------------------------

ENDINGS = {
    "success": ("true", StepStatus.OK, 0, "exit 0"),
    "failure": ("exit 3", StepStatus.FAILED, 3, "exit 3, expected 0"),
    "killed": ("kill -KILL $$", StepStatus.FAILED, 137, "exit 137, expected 0"),
    "not there": ("no-such-command", StepStatus.FAILED, 127, "exit 127, expected 0"),
}


@pytest.mark.parametrize(("command", "status", "code", "reason"), ENDINGS.values(), ids=ENDINGS)
def test_a_step_ends_as_its_command_does(
    context: RunContext, command: str, status: StepStatus, code: int, reason: str
) -> None:
    """Status, exit code and reason, in the result and in the journal alike."""
    result = run(context, command)
    assert (result.status, result.exit_code) == (status, code)
    assert result.reason.startswith(reason)
    assert result.is_ok == (status is StepStatus.OK)
    known = context.history.step("bootstrap_infra")
    assert (known.status, known.exit_code, known.reason) == (status, code, result.reason)
    assert known.duration_ms == pytest.approx(result.duration_ms, abs=0.001)


def test_a_failed_steps_last_words_are_its_reason(context: RunContext) -> None:
    """What it said last, redacted, stands beside the exit code; of a good one nothing does."""
    failed = run(context, "echo one; echo no route to $CTP_PASSWORD >&2; echo; exit 3")
    assert failed.reason == "exit 3, expected 0; it said: no route to ***"
    assert run(context, "echo all good").reason == "exit 0"


def test_a_step_that_hangs_is_bounded(context: RunContext) -> None:
    """``sleep 600`` with a limit of 0.3 s is timed out, and its group is proved empty."""
    began = time.monotonic()
    result = run(context, "sleep 600", seconds=0.3)
    assert time.monotonic() - began < 60
    assert (result.status, result.exit_code) == (StepStatus.TIMED_OUT, None)
    assert result.reason == "did not end within its limit (BOOTSTRAP_INFRA_TIMEOUT_SECONDS 0.3 s)"
    assert group_members(context.history.step("bootstrap_infra").pid) == ()
    assert last(context, StepEnded).left_behind == ()


def test_the_runs_deadline_comes_before_the_steps(context: RunContext) -> None:
    """What is left of a budget cuts a step that would have been allowed more."""
    result = run_step(context, step(context, "sleep 600", seconds=60), deadline=soon(0.2))
    assert result.status is StepStatus.TIMED_OUT
    assert result.duration_ms < 50_000


def test_a_family_that_ignores_term_leaves_nobody(context: RunContext) -> None:
    """Neither the shell nor what it forked is there afterwards."""
    stubborn = "trap '' TERM; (while :; do sleep 0.05; done) & while :; do sleep 0.05; done"
    result = run(context, stubborn, seconds=0.2)
    assert result.status is StepStatus.TIMED_OUT
    assert processes_with(f"CTP_RUN_ID={context.run.run_id}") == ()


def test_a_failed_step_takes_its_children_along(context: RunContext) -> None:
    """What a step began and did not finish does not go on behind the run's back."""
    assert run(context, "sleep 600 & exit 1").status is StepStatus.FAILED
    assert processes_with(f"CTP_RUN_ID={context.run.run_id}") == ()


def test_a_failed_step_takes_along_what_left_its_group(context: RunContext) -> None:
    """``setsid`` is no way to outlive a gate that failed."""
    run(context, "setsid sleep 600 & sleep 0.2; exit 1")
    assert processes_with(f"CTP_RUN_ID={context.run.run_id}") == ()


@pytest.mark.parametrize("start", ["sleep 60 &", "nohup sleep 60 &", "setsid sleep 60 &"])
def test_a_daemon_outlives_the_step_that_started_it(context: RunContext, start: str) -> None:
    """The step returns when its shell exits, though the daemon keeps its output open."""
    began = time.monotonic()
    result = run(context, f"echo started; {start}")
    assert result.is_ok
    assert time.monotonic() - began < 50
    wait_for(lambda: len(processes_with(f"CTP_RUN_ID={context.run.run_id}")) == 1)
    assert log_of(context) == b"started\n"


def test_an_interrupt_ends_the_step(context: RunContext) -> None:
    """An abort is a failure with the words of who asked, and nothing is left running."""
    aborted = structs.replace(context, interrupt=lambda: "abort asked for by ops")
    result = run(aborted, "sleep 600")
    assert result.status is StepStatus.FAILED
    assert result.reason == "interrupted: abort asked for by ops"
    assert processes_with(f"CTP_RUN_ID={context.run.run_id}") == ()


# --- what is written down ---------------------------------------------------------


def test_a_step_is_on_record_before_it_acts(context: RunContext) -> None:
    """The command itself finds its start in the journal, with its own pid, and no end."""
    result = run(context, "cp $CTP_RUN_DIR/journal.jsonl seen; echo $$ > pid")
    assert result.is_ok
    (started,) = read_journal(context.cwd / "seen").records
    assert isinstance(started.payload, StepStarted)
    assert started.payload.pid == int((context.cwd / "pid").read_text())
    assert kinds(context) == ["step_started", "step_ended"]


def test_a_step_that_cannot_be_recorded_is_not_run(context: RunContext) -> None:
    """No record, no act."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(JournalError, match="cannot be written"):
            run(context, "touch done")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    time.sleep(0.1)
    assert not (context.cwd / "done").exists()
    assert processes_with(f"CTP_RUN_ID={context.run.run_id}") == ()


def test_attempts_are_counted(context: RunContext) -> None:
    """A step run again says so."""
    for attempt in (1, 2, 3):
        run(context, "true")
        assert context.history.step("bootstrap_infra").attempt == attempt
    logs = {ended.payload.output for ended in context.history.of_kind(StepEnded)}
    assert len(logs) == 3


def test_a_step_knows_its_run(context: RunContext) -> None:
    """Run, folder, evidence and step are in its environment; it runs where the run was begun."""
    run(context, "env > variables; pwd")
    seen = dict(line.split("=", 1) for line in (context.cwd / "variables").read_text().splitlines())
    expected = {
        "CTP_RUN_ID": context.run.run_id,
        "CTP_RUN_DIR": str(context.run.path),
        "CTP_EVIDENCE_DIR": str(context.run.evidence),
        "CTP_STEP": "bootstrap_infra",
        "CTP_PASSWORD": SECRET,
    }
    assert expected.items() <= seen.items()
    assert log_of(context) == f"{context.cwd}\n".encode()


def test_a_probe_carries_no_step_name(context: RunContext) -> None:
    """Else it would be taken for something that a step left behind."""
    assert "CTP_STEP" not in context.environment_of()
    assert context.environment_of("precheck")["CTP_STEP"] == "precheck"


def test_a_command_is_told_what_an_sli_may_take(context: RunContext) -> None:
    """`readiness` has it from limits.toml only so."""
    assert context.environment_of("precheck")["CTP_SLI_TIMEOUT_SECONDS"] == "5"


# --- secrets ----------------------------------------------------------------------


def test_no_secret_reaches_the_run_directory(context: RunContext) -> None:
    """Printed, echoed as part of the command, or told as a reason: masked in every file."""
    run(context, f'echo "pw=$CTP_PASSWORD" >&2; env; : {SECRET}; exit 4')
    context.warn(f"login with {SECRET} failed")
    skip_step(context, step(context, f"login {SECRET}"), reason=SECRET)
    files = [path for path in context.run.path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert b"pw=***" in log_of(context)
    assert last(context, StepStarted).command.endswith(": ***; exit 4")


def test_the_digest_is_of_what_can_be_read(context: RunContext) -> None:
    """Of the redacted bytes in the run directory, so that a reader can check it."""
    run(context, "echo $CTP_PASSWORD")
    assert last(context, StepEnded).output_sha256 == digest_of(log_of(context))
    assert log_of(context) == b"***\n"


def test_raw_output_is_in_memory_only_and_removed(context: RunContext) -> None:
    """While it runs, output goes to a file that has no name in any folder; afterwards there is none."""
    run(context, "readlink /proc/self/fd/1; stat -L -c %a /proc/self/fd/1/..  2>/dev/null || true")
    raw = Path(log_of(context).decode().splitlines()[0])
    assert str(raw).startswith("/memfd:")
    assert not raw.exists()


def test_long_output_is_cut_and_says_so(context: RunContext) -> None:
    """A chatty step fills no disk."""
    run(context, "head -c 5000000 /dev/zero | tr '\\0' x")
    log = log_of(context)
    assert log.endswith(b"\n[cut: the output was longer than 4 MiB]\n")
    assert 4 << 20 < len(log) < (4 << 20) + 100


def test_a_secret_on_the_cut_is_masked(context: RunContext) -> None:
    """Half of it is too much, in the log or in the reason of a failure."""
    run(context, f"head -c {(4 << 20) - 8} /dev/zero | tr '\\0' x; echo $CTP_PASSWORD")
    assert SECRET[:8].encode() not in log_of(context)


def test_output_that_is_no_text_is_kept_readable(context: RunContext) -> None:
    """Bytes that are no UTF-8 show as marks."""
    run(context, r"printf 'a\xffb'")
    assert log_of(context) == "a\N{REPLACEMENT CHARACTER}b".encode()


def test_a_log_that_cannot_be_written_stops_no_rollback(context: RunContext) -> None:
    """Once the journal is tolerant, restoring trading goes on without the log."""
    context.journal.tolerant = True
    (context.run.logs / "steps").rmdir()
    (context.run.logs / "steps").write_text("no room")
    assert run(context, "true").is_ok


# --- steps not done ---------------------------------------------------------------


@pytest.mark.parametrize("status", [StepStatus.SKIPPED, StepStatus.NOT_RUN, StepStatus.FAILED])
def test_a_step_not_done_is_written_down(context: RunContext, status: StepStatus) -> None:
    """With its command, so that a reader sees what was not run."""
    result = skip_step(context, step(context, "touch x"), reason="kept", status=status)
    assert (result.status, result.exit_code, result.reason) == (status, None, "kept")
    known = context.history.step("bootstrap_infra")
    assert (known.status, known.command, known.attempt) == (status, "touch x", 0)


def test_a_result_is_a_sentence(context: RunContext) -> None:
    """Step, status, time and reason."""
    result = StepResult(step(context, "x"), StepStatus.FAILED, 1, 2040.0, "exit 1, expected 0")
    assert result.sentence == "step bootstrap_infra failed after 2.0 s: exit 1, expected 0"


# --- proof of effect --------------------------------------------------------------


def test_exit_0_without_its_effect_is_a_failure(context: RunContext) -> None:
    """The command's word is not enough; what was seen instead is told."""
    result = run_step(
        context, step(context, "true"), deadline=soon(10), prove=lambda until: "port still open"
    )
    assert (result.status, result.exit_code) == (StepStatus.FAILED, 0)
    assert result.reason == "exit 0, but its effect is not proved: port still open"


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("stopped pid 7: gone after TERM, 0.10 s", "proved gone"),
        ("gone after KILL (TERM did not end it in 10 s)", "it said: gone after KILL (TERM did not"),
    ],
)
def test_a_stop_that_needed_kill_says_so(context: RunContext, said: str, ends: str) -> None:
    """In its own line, in its command's words: whoever was killed has not written all it knew."""
    stop = context.plan.step("stop_old_core_engine")._replace(command=f"echo '{said}'")
    result = run_step(context, stop, deadline=soon(10), prove=lambda until: "")
    assert result.is_ok
    assert ("it said" in result.reason) == ("it said" in ends), result.reason
    assert ends in result.reason


def test_what_proves_a_stop_are_the_witnesses_that_were_asked(context: RunContext) -> None:
    """No port is said to be closed that nobody looked at."""
    stop = context.plan.step("stop_old_strategy_runner")._replace(command="true")
    member = context.plan.member(*(stop.acts_on or ()))
    seen = f"{member.name} gone: alive command says gone, no process is known as it"

    def prove(until: float) -> str:
        context.record(
            ProbeAnswered(
                subject=member.name, question="gone", ok=True, observed=seen, expected="gone"
            )
        )
        return ""

    assert run_step(context, stop, deadline=soon(10), prove=prove).reason == (
        f"exit 0; proved: {seen}"
    )


def test_what_was_done_about_a_failure_stands_in_its_line(context: RunContext) -> None:
    """And of a step that is ok nothing is made good."""
    for command, wanted in (("exit 1", "exit 1, expected 0; ended pid 7"), ("true", "exit 0")):
        result = run_step(
            context, step(context, command), deadline=soon(10), make_good=lambda: "ended pid 7"
        )
        assert result.reason == wanted


def test_a_proof_is_asked_for_with_the_steps_deadline(context: RunContext) -> None:
    """It may use what the command left of the time, and no more."""
    asked: list[float] = []

    def prove(until: float) -> str:
        asked.append(until)
        return ""

    began = time.monotonic()
    gate = step(context, "sleep 0.2", seconds=5)
    result = run_step(context, gate, deadline=soon(60), prove=prove)
    assert result.reason == f"exit 0; proved: {gate.effect}"
    assert asked == [pytest.approx(began + 5, abs=0.1)]


@pytest.mark.parametrize("command", ["exit 1", "sleep 600"])
def test_a_command_that_failed_is_not_proved(context: RunContext, command: str) -> None:
    """There is nothing to prove."""
    result = run_step(
        context,
        step(context, command, seconds=0.2),
        deadline=soon(10),
        prove=lambda until: pytest.fail("asked"),
    )
    assert not result.is_ok


def test_a_killed_starter_leaves_a_record_and_no_act(tmp_path: Path) -> None:
    """kill -9 between the record and the release: on record as unknown, and nothing was done."""
    script = f"""
import os, signal
from pathlib import Path
from ctp_runbook.record.journal import Journal
from ctp_runbook.host.held_command import HeldCommand
from tests.props.example_records import like
journal = Journal(Path({str(tmp_path)!r}) / "journal.jsonl")
held = HeldCommand("touch {tmp_path}/done", cwd=Path("/"), env={{}}, output=Path("/dev/null"))
journal.append(like("step_started", pid=held.identity.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    (line,) = (tmp_path / "journal.jsonl").read_bytes().splitlines()
    pid = json.loads(line)["payload"]["pid"]
    wait_for(lambda: identity_of(pid) is None)
    assert not (tmp_path / "done").exists()
