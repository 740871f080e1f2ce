"""Facts about run/launch.py: what is refused is refused whole, and one run at a time is let through."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from ctp_runbook import __version__
from ctp_runbook.errors import JournalError, PlanRefused, RunLost, RunRefused
from ctp_runbook.host.checkout import commit_of
from ctp_runbook.host.process import own_identity
from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.plan.plan import PLAN_FILES, Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record, digest_of, read_known
from ctp_runbook.record.kinds import Finding, PlanFiles, RunCreated
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import attend
from ctp_runbook.run.launch import (
    RunOptions,
    await_run_of_plan,
    begin,
    create_run,
    execute_refusals,
    follow,
    is_attended,
    new_run_dir,
    operator_name,
    read_history,
    request,
    run_of_plan,
    start,
    take_lock,
    write_run,
)
from ctp_runbook.run.requests import send_request
from ctp_runbook.verify.run import verify_run
from tests.props.example_records import like
from tests.props.plan_fixtures import end_run, make_plan, wait_for
from tests.props.small_stack import SmallStack
from tests.props.synthetic_runs import KINDS, Clock

SECRET = "correct-horse-battery"
NOW = datetime.now(UTC)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan that a real run would take now; the working folder is its own."""
    monkeypatch.chdir(tmp_path)
    return make_plan(tmp_path)


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    """A dry run below the test's folder."""
    return RunOptions(outputs=tmp_path / "outputs", by="ops")


# --- refusals ---------------------------------------------------------------------


def test_a_good_plan_is_not_refused(plan: Plan) -> None:
    """Neither dry nor for real."""
    assert (
        execute_refusals(plan, RunOptions(execute=True, accept_unmeasured="a test"), now=NOW) == ()
    )
    assert execute_refusals(plan, RunOptions(), now=NOW) == ()


def broken_plan(folder: Path) -> Plan:
    """A plan with a placeholder, no pid file, no config, outside its window, and a short watch."""
    return make_plan(
        folder,
        limits={"require_plan_sha256": "true"},
        WARMUP_QUERY_CMD="cat <instruments>",
        NEW_STRATEGY_RUNNER_PID_FILE="",
        CUTOVER_WINDOW_LOCAL=(NOW - timedelta(days=1)).isoformat(),
        POST_SWITCH_MONITOR_MINUTES="5",
        CTP_CONFIG_PATH="no-such-file.yaml",
    )


def test_every_reason_is_told_at_once(tmp_path: Path) -> None:
    """An operator mends a plan once, not once per reason."""
    reasons = execute_refusals(
        broken_plan(tmp_path), RunOptions(execute=True, accept_unmeasured="a test"), now=NOW
    )
    told = "\n".join(reasons)
    for words in (
        "WARMUP_QUERY_CMD still has <instruments>",
        "neither NEW_STRATEGY_RUNNER_PID_FILE nor NEW_STRATEGY_RUNNER_UNIT is given",
        "no-such-file.yaml",
        "CUTOVER_WINDOW_LOCAL",
        "require_plan_sha256 is true and --plan-sha256 was not given",
        "POST_SWITCH_MONITOR_MINUTES is 5, below min_watch_minutes 30",
    ):
        assert words in told
    assert len(reasons) == 6


def test_a_dry_run_refuses_none_of_that(tmp_path: Path) -> None:
    """Its clock, its watch and its placeholders are only warned about."""
    assert execute_refusals(broken_plan(tmp_path), RunOptions(), now=NOW) == ()


@pytest.mark.parametrize("execute", [True, False])
def test_another_plan_than_the_reviewed_one_is_refused(plan: Plan, execute: bool) -> None:
    """The digest asked for is the plan's or nothing goes on; dry or not."""
    good = RunOptions(execute=execute, plan_sha256=plan.sha256, accept_unmeasured="a test")
    assert execute_refusals(plan, good, now=NOW) == ()
    (reason,) = execute_refusals(plan, structs.replace(good, plan_sha256="0" * 64), now=NOW)
    assert reason.startswith("--plan-sha256 000000000000… is not this plan")
    assert plan.sha256 in reason


def test_a_short_watch_needs_a_reason(tmp_path: Path) -> None:
    """A reason, or a rehearsal's environment, lets it through."""
    short = make_plan(tmp_path, POST_SWITCH_MONITOR_MINUTES="1")
    options = RunOptions(execute=True, accept_unmeasured="a test")
    assert len(execute_refusals(short, options, now=NOW)) == 1
    assert (
        execute_refusals(short, structs.replace(options, short_watch_reason="night"), now=NOW) == ()
    )
    twin = make_plan(tmp_path, POST_SWITCH_MONITOR_MINUTES="1", CUTOVER_ENV_NAME="rehearsal-twin")
    assert execute_refusals(twin, options, now=NOW) == ()


@pytest.mark.parametrize("execute", [True, False])
def test_copies_that_cannot_be_written_are_refused(
    plan: Plan, execute: bool, tmp_path: Path
) -> None:
    """Those asked for by flag are written by a dry run too, so it is refused as well."""
    for side in ("cutover", "rollback"):
        options = RunOptions(
            execute=execute,
            accept_unmeasured="a test" if execute else "",
            **{f"{side}_output": plan.cutover_template},  # type: ignore[arg-type]
        )
        (reason,) = execute_refusals(plan, options, now=NOW)
        assert reason.startswith(f"--{side}-output {plan.cutover_template} is there already, and")
        good = structs.replace(options, **{f"{side}_output": tmp_path / "new" / "copy.env"})
        assert execute_refusals(plan, good, now=NOW) == ()


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    """No folder, no lock, no private copy."""
    outputs = tmp_path / "outputs"
    with pytest.raises(PlanRefused) as caught:
        create_run(
            broken_plan(tmp_path),
            RunOptions(execute=True, accept_unmeasured="a test", outputs=outputs),
        )
    assert len(caught.value.reasons) == 6
    assert not outputs.exists()


# --- making a run -----------------------------------------------------------------


def test_a_run_id_says_when_and_where(tmp_path: Path) -> None:
    """UTC, environment, and four random digits, fit for a path."""
    names = {new_run_dir("prod a/b", outputs=tmp_path).name for _ in range(20)}
    assert len(names) > 10
    for name in names:
        assert re.fullmatch(r"\d{8}T\d{6}Z-prod-a-b-[0-9a-f]{4}", name)
    assert "-run-" in new_run_dir("../..", outputs=tmp_path).name


def test_a_run_id_is_never_used_twice(plan: Plan, options: RunOptions, tmp_path: Path) -> None:
    """A second run of the name is refused, and the first one's journal is as it was."""
    named = structs.replace(options, run_dir=tmp_path / "mine")
    run = create_run(plan, named)
    before = run.journal.read_bytes()
    with pytest.raises(RunRefused, match="a run id is never used twice"):
        create_run(plan, named)
    assert run.journal.read_bytes() == before


def test_of_many_who_make_one_run_one_does(plan: Plan, options: RunOptions, tmp_path: Path) -> None:
    """At the same moment, with the same name."""
    gate, refused = threading.Barrier(4), []

    def make() -> None:
        gate.wait()
        try:
            create_run(plan, structs.replace(options, run_dir=tmp_path / "mine"))
        except RunRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    written = read_history(RunDir(tmp_path / "mine")).records
    assert [record.kind for record in written].count("run_created") == 1


def test_the_header_says_what_was_asked_by_whom(plan: Plan, options: RunOptions) -> None:
    """Run, plan, flags, files and the folder of its commands; run.json is the same for people."""
    asked = structs.replace(
        options, probe=True, force_rollback=True, cutover_output=Path("copy.env")
    )
    run = create_run(plan, asked)
    header = read_history(run).created
    assert msgspec.json.decode(run.run_json.read_bytes(), type=RunCreated) == header
    assert header == structs.replace(
        header,
        run_id=run.run_id,
        environment=plan.environment,
        dry_run=True,
        probe=True,
        force_rollback=True,
        rehearsal=False,
        plan_sha256=plan.sha256,
        created_by="ops",
        cwd=str(Path.cwd()),
        files=PlanFiles(**{name: str(getattr(plan, name)) for name in PLAN_FILES}),
        copies={"cutover_output": str(Path.cwd() / "copy.env")},
    )
    assert [step.name for step in header.plan.steps] == [step.name for step in plan.steps]
    assert set(header.plan.watch.metrics) == set(plan.monitor_keys)


@pytest.mark.parametrize("execute", [True, False])
def test_the_header_has_the_digests_of_what_was_kept(
    plan: Plan, options: RunOptions, execute: bool
) -> None:
    """Of plan/ as it stands there, without secrets; and for a real run of the four files as they
    were."""
    run = create_run(plan, structs.replace(options, execute=execute, accept_unmeasured="a test"))
    end_run(run)
    header = read_history(run).created
    assert header.plan_files == {
        path.name: digest_of(path.read_bytes()) for path in run.plan.iterdir()
    }
    names = ("cutover_template", "rollback_template", "limits_file", "watch_file")
    raw = {name: digest_of(getattr(plan, name).read_bytes()) for name in names}
    assert header.kept_files == (raw if execute else {})


def test_a_plan_copy_that_was_edited_is_found(plan: Plan, options: RunOptions) -> None:
    """Verification compares plan/ with the journal's header."""
    run = create_run(plan, options)
    start(run)
    assert not [one for one in verify_run(run).findings if "plan_files" in one]
    copy = run.plan / "ctp_cutover.template.env"
    copy.write_bytes(copy.read_bytes() + b"#")
    told = [one for one in verify_run(run).findings if "plan_files" in one]
    assert len(told) == 1
    assert "ctp_cutover.template.env has sha256" in told[0]


def test_somebody_always_asked(plan: Plan, options: RunOptions) -> None:
    """Without a name it is the user's."""
    run = create_run(plan, structs.replace(options, by=""))
    assert read_history(run).created.created_by == operator_name() != ""


@pytest.mark.parametrize("is_real", [False, True])
def test_a_run_names_the_code_that_made_it(plan: Plan, tmp_path: Path, is_real: bool) -> None:
    """Version and commit; a dry run does not start git to see whether it was changed since."""
    run = write_run(plan, RunOptions(outputs=tmp_path / "outputs", execute=is_real))
    tool = read_history(run).created.tool
    assert tool is not None
    assert (tool.version, tool.commit) == (__version__, commit_of())
    assert is_real or tool.changed is None


def test_no_secret_enters_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the environment or of a template: neither header nor plan copies nor checklists."""
    monkeypatch.chdir(tmp_path)
    plan = make_plan(
        tmp_path,
        environ={"PATH": os.environ["PATH"], "CTP_PASSWORD": SECRET},
        WARMUP_QUERY_CMD=f"cat --user {SECRET}",
        PRECHECK_CMD="cat --token top-secret-token",
    )
    run = create_run(
        plan,
        RunOptions(
            execute=True, accept_unmeasured="a test", outputs=tmp_path / "outputs", by=SECRET
        ),
    )
    try:
        texts = {path: path.read_text() for path in run.path.rglob("*") if path.is_file()}
    finally:
        end_run(run)
    assert len(texts) >= 8
    for secret in (SECRET, "top-secret-token"):
        assert [path for path, text in texts.items() if secret in text] == []
    assert "cat --user ***" in texts[run.plan / "ctp_cutover.template.env"]


# --- a dry run --------------------------------------------------------------------


def test_a_dry_run_is_over_when_it_was_started(plan: Plan, options: RunOptions) -> None:
    """Every step of gates and switch simulated, nothing proved, exit code 0, evidence written."""
    run = create_run(plan, options)
    start(run, plan=plan)
    history = read_history(run)
    assert history.outcome is Outcome.DRY_RUN_OK
    simulated = {step.name for step in (*plan.gates, *plan.switch)}
    assert {
        name for name, step in history.steps.items() if step.status is StepStatus.SIMULATED_OK
    } == simulated
    assert history.identities == {}
    assert "CUTOVER_DRY_RUN=1" in (run.evidence / "ctp_cutover_result.env").read_text()
    assert run.manifest.exists()
    assert not is_attended(run)


def test_starting_a_run_that_is_over_does_nothing(plan: Plan, options: RunOptions) -> None:
    """The journal is closed, and stays as it is."""
    run = create_run(plan, options)
    start(run)
    before = run.journal.read_bytes()
    start(run)
    assert run.journal.read_bytes() == before


WATCHED = """
import os, sys
from pathlib import Path
from typing import Any

acts = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(event, args):
    if event == "open" and isinstance(args[0], str) and args[2] & WRITES:
        acts.append(args[0])
    elif event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod", "os.truncate"):
        acts.append(os.fspath(args[0]))
    elif event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "os.system"):
        acts.append(event)
    elif event in ("socket.connect", "socket.bind"):
        acts.append(event)


from ctp_runbook.run.launch import RunOptions, create_run, start
from ctp_runbook.plan.plan import load_plan

here = Path.cwd()
plan = load_plan(
    here / "cutover.env", here / "rollback.env", limits=here / "limits.toml",
    watch=here / "watch.toml", environ=os.environ, base=here,
)
sys.addaudithook(watch)
run = create_run(plan, RunOptions(run_dir=here / "run"))
start(run, plan=plan)
print(*sorted(set(acts)), sep="\\n")
"""


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All that a dry run in a new folder writes, removes, starts or connects to, as the
    interpreter sees it; the folder's own path is left out."""
    folder = tmp_path_factory.mktemp("dry")
    make_plan(folder)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (folder / "run" / "manifest.json").exists()
    return [act.removeprefix(f"{folder}/") for act in done.stdout.splitlines()]


def test_a_dry_run_acts_on_nothing_but_its_directory(acts: list[str]) -> None:
    """It runs no command, opens no connection, and writes nowhere else on a disk."""
    assert [act for act in acts if not act.startswith(("run", "/dev/shm/", "/run/"))] == []
    assert len(acts) > 10


def test_a_dry_run_has_no_private_room(acts: list[str]) -> None:
    """It keeps no secret, so it needs no place for one."""
    assert [act for act in acts if act.startswith(("/dev/shm/", "/run/"))] == []


def test_a_dry_run_says_what_execute_would_say(tmp_path: Path) -> None:
    """Each refusal that does not hang on the time of day, and how many they are; not one twice."""
    broken = broken_plan(tmp_path)
    options = RunOptions(outputs=tmp_path / "outputs")
    opening = broken.window_local
    due = execute_refusals(broken, structs.replace(options, execute=True), now=opening)
    run = create_run(broken, options)
    start(run, plan=broken)
    history = read_history(run)
    assert len(due) == 6
    assert history.would_refuse == tuple(f"--execute would refuse: {reason}" for reason in due)
    assert history.closed is not None
    assert history.closed.payload.outcome is Outcome.DRY_RUN_OK
    assert history.closed.payload.sentence == (
        "dry run: nothing was done; --execute would refuse this plan, for 6 reasons"
    )
    told = [record.payload.sentence for record in history.of_kind(Finding)]
    assert len(set(told)) == len(told)
    assert not set(told) & set(broken.execute_refusals)


def test_nothing_stands_in_the_way_where_execute_would_say_nothing(
    plan: Plan, options: RunOptions
) -> None:
    """The words are left to a plan that a real run would take."""
    run = create_run(plan, structs.replace(options, accept_unmeasured="a test"))
    start(run, plan=plan)
    history = read_history(run)
    assert history.would_refuse == ()
    assert history.closed is not None
    assert "nothing stands in the way" in history.closed.payload.sentence


@pytest.mark.twin
def test_a_probing_dry_run_fails_on_what_it_sees(plan: Plan, options: RunOptions) -> None:
    """The old stack is not there: refused, exit code 2, with each gap."""
    run = create_run(plan, structs.replace(options, probe=True))
    start(run, plan=plan)
    history = read_history(run)
    assert history.outcome is Outcome.REFUSED
    assert history.outcome.exit_code == 2
    assert history.closed is not None
    for member in ("old_core_engine", "old_strategy_runner"):
        assert f"expected alive: {member} " in history.closed.payload.sentence
    assert "CUTOVER_SUCCESS=false" in (run.evidence / "ctp_cutover_result.env").read_text()


@pytest.mark.twin
def test_a_probing_dry_run_asks_nothing_with_a_placeholder(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no member and no state; each command that was not asked is named by its key."""
    monkeypatch.chdir(tmp_path)
    keys = [
        f"{g}_{r}_ALIVE_CMD" for g in ("OLD", "NEW") for r in ("CORE_ENGINE", "STRATEGY_RUNNER")
    ]
    keys.append("TRADING_STATE_CMD")
    commands: dict[str, Any] = dict.fromkeys(keys, "touch ran; cat <state> ran2")
    plan = make_plan(tmp_path, **commands)
    run = create_run(plan, structs.replace(options, probe=True))
    start(run, plan=plan)
    closed = read_history(run).closed
    assert closed is not None
    assert closed.payload.outcome is Outcome.REFUSED
    # The second part of a generation is not looked at once the first is not proved gone.
    for key in (*keys[:3], keys[-1]):
        assert f"not asked: the placeholder <state> is still in {key}" in closed.payload.sentence
    assert sorted(path.name for path in tmp_path.glob("ran*")) == []


# --- following --------------------------------------------------------------------


def test_no_run_is_told_as_such(tmp_path: Path) -> None:
    """A folder without a journal is refused, with what to look at."""
    with pytest.raises(RunRefused, match="holds no run"):
        read_history(RunDir(tmp_path))


def test_a_run_that_is_over_is_followed_to_its_end(plan: Plan, options: RunOptions) -> None:
    """At once, whatever was waited for; the last state of affairs is shown."""
    run = create_run(plan, options)
    start(run)
    shown: list[int] = []
    history = follow(run, until=lambda _: False, on_change=lambda h: shown.append(len(h.records)))
    assert history.outcome is Outcome.DRY_RUN_OK
    assert shown == [len(history.records)]


def test_following_ends_with_what_was_waited_for(plan: Plan, options: RunOptions) -> None:
    """Each change is shown once, and the one that was waited for is returned."""
    run = create_run(plan, structs.replace(options, accept_unmeasured="a test"))
    journal = Journal(run.journal, durable=False)
    shown: list[int] = []

    def show(history: History) -> None:
        shown.append(len(history.records))
        journal.append(like("finding", severity="info", sentence="x"))

    history = follow(run, until=lambda h: len(h.records) == 4, on_change=show, poll_seconds=0.01)
    journal.close()
    assert shown == [1, 2, 3, 4]
    assert len(history.records) == 4


def test_a_journal_that_is_taken_away_is_followed_until_it_is_back(
    plan: Plan, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it open puts it back. Where nobody is left who has, that is what is told."""
    monkeypatch.setattr(attend, "_UNATTENDED_SECONDS", 0.5)
    run = create_run(plan, structs.replace(options, execute=True, accept_unmeasured="a test"))
    journal = Journal(run.journal, durable=False)
    journal.append(like("state", to="GATING", reason=""))
    shown: list[int] = []

    def take_away(history: History) -> None:
        shown.append(len(history.records))
        if len(shown) == 1:
            run.journal.unlink()
            journal.append(like("finding", severity="info", sentence="x"))
            threading.Timer(0.1, journal.put_back).start()

    at_first = len(journal.records)
    follow(run, until=lambda h: len(h.records) > at_first, on_change=take_away, poll_seconds=0.01)
    assert shown == [at_first, at_first + 1]
    shown.clear()
    journal.close()
    with pytest.raises(RunLost, match=r"journal\.jsonl was taken away or cannot be read") as lost:
        follow(run, until=lambda _: False, on_change=lambda _: run.journal.unlink())
    assert "It was GATING at " in str(lost.value)


def test_a_run_that_nobody_conducts_is_not_followed_for_ever(
    plan: Plan, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while it is told how to take it up again, or that it was never started."""
    monkeypatch.setattr(attend, "_UNATTENDED_SECONDS", 0.1)
    run = create_run(plan, structs.replace(options, execute=True, accept_unmeasured="a test"))
    with pytest.raises(RunRefused, match=r"never started, .*ctp-runbook abort --run"):
        follow(run, until=lambda _: False, poll_seconds=0.01)
    journal = Journal(run.journal, durable=False)
    journal.append(like("state", to="GATING", reason=""))
    journal.close()
    with pytest.raises(RunLost, match=r"nobody conducts it; .*ctp-runbook resume --run") as lost:
        follow(run, until=lambda _: False, poll_seconds=0.01)
    assert lost.value.exit_code == 7  # something may have been touched: 2 would be a lie


def test_a_dry_run_that_was_interrupted_is_taken_up_by_nobody(
    plan: Plan, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did nothing, and the command that takes a run up would be refused."""
    monkeypatch.setattr(attend, "_UNATTENDED_SECONDS", 0.1)
    run = create_run(plan, options)
    journal = Journal(run.journal, durable=False)
    journal.append(like("state", to="GATING", reason="dry run"))
    journal.close()
    with pytest.raises(RunRefused, match=r"nothing was done, .*: make another") as refused:
        follow(run, until=lambda _: False, poll_seconds=0.01)
    assert refused.value.exit_code == 2


def test_one_look_is_one_reading(
    plan: Plan, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether somebody conducts it is told from the same records as its state."""
    run = create_run(plan, options)
    read: list[Path] = []

    def count(path: Path, behind: Path | None) -> tuple[Record, ...]:
        read.append(path)
        return read_known(path, behind)

    monkeypatch.setattr(attend, "read_known", count)
    follow(run, until=lambda _: len(read) == 3, poll_seconds=0.01)
    assert len(read) == 3


def test_a_torn_line_does_not_end_the_following(plan: Plan, options: RunOptions) -> None:
    """A record caught in the middle of its write is whole a moment later."""
    run = create_run(plan, structs.replace(options, accept_unmeasured="a test"))
    with run.journal.open("ab") as file:
        file.write(b'{"seq":1')
    assert len(follow(run, until=lambda _: True).records) == 1


ATTENDANTS = {
    "nobody yet": (None, False),
    "an orchestrator": ({"resumed": False, "reason": ""}, True),
}


@pytest.mark.parametrize(("payload", "attended"), ATTENDANTS.values(), ids=ATTENDANTS)
def test_a_run_is_attended_while_its_orchestrator_lives(
    plan: Plan, options: RunOptions, payload: dict[str, object] | None, attended: bool
) -> None:
    """It is the writer of its own first record: here, this process."""
    run = create_run(plan, options)
    if payload is not None:
        journal = Journal(run.journal, durable=False)
        journal.append(like("orchestrator_started", **payload))
        journal.close()
    assert is_attended(run) is attended


@pytest.mark.parametrize(("ticks", "attended"), [(0, True), (1, False)])
def test_a_guardian_attends_too(
    plan: Plan, options: RunOptions, ticks: int, attended: bool
) -> None:
    """By its identity: the same pid with another start time is somebody else."""
    own = own_identity()
    run = create_run(plan, options)
    journal = Journal(run.journal, durable=False)
    guardian = {"pid": own.pid, "start_ticks": own.start_ticks - ticks, "reason": ""}
    journal.append(like("guardian_started", **guardian))
    journal.close()
    assert is_attended(run) is attended


@pytest.mark.parametrize("name", ["", "another"])
def test_a_run_that_is_being_taken_up_is_attended(
    plan: Plan, options: RunOptions, name: str
) -> None:
    """Whoever takes it up holds its environment for it before that is on record; for another run it
    would be no comfort."""
    run = create_run(plan, structs.replace(options, execute=True, accept_unmeasured="a test"))
    assert not is_attended(run)
    held_for = run.path.parent / (name or run.run_id)
    lock = take_lock(plan.environment, run_id=held_for.name, path=held_for)
    assert is_attended(run) is not bool(name)
    os.close(lock)
    assert not is_attended(run)


def test_a_request_is_left_for_the_orchestrator(plan: Plan, options: RunOptions) -> None:
    """Whoever conducts the run finds it in control/, with the start that the asker saw; for a run
    that was never started nothing is left there."""
    run = create_run(plan, options)
    with pytest.raises(RunRefused, match=r"nothing to hold: run .* was planned and never started"):
        request(run, "hold", by="ops", reason="wait")
    assert list(run.control.iterdir()) == []
    journal = Journal(run.journal, durable=False)
    seq = journal.append(like("orchestrator_started", resumed=False, reason="")).seq
    journal.close()
    request(run, "hold", by="ops", reason="wait")
    (path,) = run.control.iterdir()
    assert json.loads(path.read_text()).items() >= {"request": "hold", "start": seq}.items()


# --- a real run -------------------------------------------------------------------


@pytest.mark.twin
def test_a_gate_that_fails_leaves_the_old_stack_trading(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3; the same two processes as before; no secret of the gate's output anywhere."""
    monkeypatch.setenv("CTP_PASSWORD", SECRET)
    before = [stack.identity(name) for name in ("old_core_engine", "old_strategy_runner")]
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="env; echo $CTP_PASSWORD >&2; ls no-such-file")
    run = stack.create(plan)
    start(run, plan=plan)
    history = follow(run, until=lambda _: False, poll_seconds=0.02)
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert history.outcome.exit_code == 3
    assert history.step("bootstrap_infra").status is StepStatus.FAILED
    assert history.step("stop_old_strategy_runner").status is StepStatus.NOT_RUN
    after = [stack.identity(name) for name in ("old_core_engine", "old_strategy_runner")]
    assert after == before != [None, None]
    kept = [path for path in stack.folder.rglob("*") if path.is_file()]
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
    assert (stack.folder / "copies" / "cutover.env").exists()


@pytest.mark.twin
def test_one_run_at_a_time(stack: SmallStack) -> None:
    """A second run of the environment is refused by name while the first one lives, for good; after
    it another one may start. Starting the first one again changes nothing."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    first, second, third = (stack.create(plan) for _ in range(3))
    start(first)
    wait_for(lambda: read_history(first).unfinished)
    records = len(read_history(first).records)
    start(first)
    with pytest.raises(RunRefused, match=f"is held by run {first.run_id} "):
        start(second)
    assert read_history(second).outcome is Outcome.REFUSED
    assert is_attended(first)
    assert len(read_history(first).records) == records
    send_request(first, "abort", by="ops")
    follow(first, until=lambda _: False, poll_seconds=0.02)
    wait_for(lambda: is_free(plan.environment))
    start(second)
    assert read_history(second).conducted is None
    start(third)
    send_request(third, "abort", by="ops")
    assert follow(third, until=lambda _: False, poll_seconds=0.02).outcome is not None


@pytest.mark.twin
def test_a_run_that_cannot_start_says_where_to_look(stack: SmallStack) -> None:
    """Its private copy and its files are gone: refused and closed, and the lock is free again."""
    plan = stack.plan()
    run = stack.create(plan)
    end_run(run)
    plan.cutover_template.unlink()
    with pytest.raises(
        RunRefused, match=r"the orchestrator did not start; see .*orchestrator\.log"
    ):
        start(run)
    assert read_history(run).outcome is Outcome.REFUSED
    wait_for(lambda: is_free(plan.environment))


def is_free(environment: str) -> bool:
    """True when the lock can be had."""
    try:
        os.close(take_lock(environment, run_id="next"))
    except RunRefused:
        return False
    return True


# --- once ---------------------------------------------------------------------------


def of_plan(plan: Plan, kind: str, *, day: int = 0, **header: Any) -> RunDir:
    """A finished run of a plan on this host, so many days after the first."""
    clock = Clock()
    clock.advance(day * 86_400)
    given = {
        "environment": plan.environment,
        "host": os.uname().nodename,
        "plan_sha256": plan.sha256,
        **header,
    }
    outputs = plan.cutover_template.parent / "outputs" / str(day)
    run = KINDS[kind](outputs, clock=clock, **given)
    return RunDir(run.path.rename(outputs.parent / f"{day}-{kind}"))


ONCE: dict[str, tuple[tuple[str, ...], str]] = {
    "no run": ((), "begins"),
    "only planned for": (("dry", "drill"), "begins"),
    "completed": (("completed",), "0-completed"),
    "rolled back": (("rolled_back",), "0-rolled_back"),
    "a gate failed": (("aborted",), "0-aborted"),
    "completed, and looked at since": (("completed", "dry"), "0-completed"),
    "tried again": (("rolled_back", "completed"), "1-completed"),
    "undone since": (("completed", "drill"), "refused"),
}


@pytest.mark.parametrize(("kinds", "said"), ONCE.values(), ids=ONCE)
def test_a_plan_has_one_run(
    kinds: tuple[str, ...], said: str, plan: Plan, options: RunOptions
) -> None:
    """Whatever became of it; a dry run and a drill are none, and what came after one that COMPLETED is
    to be looked at by a person."""
    for day, kind in enumerate(kinds):
        of_plan(plan, kind, day=day)
    asked = structs.replace(options, once=True)
    if said == "refused":
        with pytest.raises(RunRefused, match="and run 1-drill came after it: what trades"):
            run_of_plan(plan, asked)
    elif said == "begins":
        assert run_of_plan(plan, asked) is None
    else:
        found = run_of_plan(plan, asked)
        assert found is not None
        assert found.run_id == said


def test_another_run_of_a_plan_is_asked_for_by_the_last_one(
    plan: Plan, options: RunOptions
) -> None:
    """And by that alone: once it has begun, the same command begins no third."""
    of_plan(plan, "rolled_back")
    asked = structs.replace(options, once=True, again="0-rolled_back")
    assert run_of_plan(plan, structs.replace(asked, again="another")) is not None
    assert run_of_plan(plan, asked) is None
    second = of_plan(plan, "aborted", day=1)
    assert run_of_plan(plan, asked) == second


@pytest.mark.parametrize(
    "other", [{"environment": "other"}, {"host": "other"}, {"plan_sha256": "f" * 64}]
)
def test_runs_of_others_are_not_the_plan_s(
    other: dict[str, Any], plan: Plan, options: RunOptions
) -> None:
    """Another environment, another host of a shared folder, another plan."""
    of_plan(plan, "completed", **other)
    assert run_of_plan(plan, options) is None


def test_the_reviewed_plan_is_the_one_that_counts(plan: Plan, options: RunOptions) -> None:
    """A cutover may change files that the digest covers: by now it is another, and its run COMPLETED."""
    run = of_plan(plan, "completed", plan_sha256="a" * 64)
    assert run_of_plan(plan, structs.replace(options, plan_sha256="a" * 64)) == run


def test_a_journal_nobody_can_read_may_be_the_plan_s(plan: Plan, options: RunOptions) -> None:
    """Nothing begins beside it; whatever run.json says."""
    run = of_plan(plan, "completed")
    run.run_json.write_text("{}")
    assert run_of_plan(plan, options) == run
    run.journal.write_bytes(b"torn")
    with pytest.raises(JournalError, match="nobody can tell whether it is of this plan"):
        run_of_plan(plan, options)


def test_a_run_that_came_meanwhile_is_found_under_the_lock(plan: Plan, options: RunOptions) -> None:
    """Whoever looked, slept and woke begins nothing."""
    of_plan(plan, "completed")
    real = structs.replace(options, execute=True, once=True, accept_unmeasured="a test")
    with pytest.raises(RunRefused, match="run 0-completed of this plan was begun meanwhile"):
        begin(plan, real, reason="test")


@pytest.mark.twin
def test_of_many_who_ask_at_one_instant_one_begins(stack: SmallStack) -> None:
    """The others find its run, while it is being started too."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    options = stack.options(once=True)
    found: list[RunDir | None] = []

    def ask() -> None:
        try:
            found.append(begin(plan, options, reason="test"))
        except RunRefused:
            found.append(await_run_of_plan(plan, options))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    (path,) = (stack.folder / "outputs").glob("*/journal.jsonl")
    assert found == [RunDir(path.parent)] * 3
    send_request(RunDir(path.parent), "abort", by="ops")
    assert follow(RunDir(path.parent), until=lambda _: False, poll_seconds=0.02).outcome is not None
