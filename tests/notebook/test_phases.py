"""What a notebook cell shows of any run, when it fails, and what it refuses; nothing is executed."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ctp_runbook.errors import EvidenceInvalid, PlanRefused, RunEnded, RunRefused, TemplateError
from ctp_runbook.notebook import phases
from ctp_runbook.notebook.phases import PhaseResult
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import read_history
from ctp_runbook.run.requests import send_request
from tests.props.example_records import like
from tests.props.synthetic_runs import make_run

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "runs"
WATCHED = ("completed", "drill", "failed", "late", "triggered", "unvalidated")
CUTOVER = "configs/ops/ctp_cutover.template.env"
ROLLBACK = "configs/ops/ctp_rollback_drill.template.env"
LOOKERS: dict[str, Callable[[str], PhaseResult]] = {
    "02": phases.infra_gates,
    "03": phases.readiness,
    "04": phases.switch,
    "05": phases.watch,
    "06": phases.rollback,
    "07": phases.verify,
}


def look(room: str, run: RunDir) -> PhaseResult:
    """What this notebook shows of the run."""
    return LOOKERS[room](str(run.path))


@pytest.mark.parametrize("room", LOOKERS)
@pytest.mark.parametrize("kind", ["completed", "dry", "drill"])
def test_good_runs_are_good_in_every_room(kind: str, room: str, tmp_path: Path) -> None:
    """A completed run, a dry run and a drill raise nothing anywhere; each page names its run."""
    run = make_run(kind, tmp_path)
    result = look(room, run)
    result.raise_if_failed()
    assert result.page.run_dir == str(run.path)


@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        ("aborted", {"03": 3, "04": 3, "05": 3, "07": 2}),
        ("rolled_back", {"05": 4, "07": 2}),
    ],
)
def test_bad_runs_fail_in_the_rooms_concerned(
    kind: str, failing: dict[str, int], tmp_path: Path
) -> None:
    """A gate that failed, and a triggered rollback, each raise where they belong, with their code."""
    run = make_run(kind, tmp_path)
    codes = {}
    for room in LOOKERS:
        failure = look(room, run).failure
        if failure is not None:
            codes[room] = failure.exit_code
    assert codes == failing


@pytest.mark.parametrize("name", WATCHED)
def test_a_watch_that_just_ended_fails_as_the_run_does(name: str, tmp_path: Path) -> None:
    """05 looks right after the verdicts, before what they lead to is written down: it waits for it."""
    run = RunDir(tmp_path / name)
    shutil.copytree(GOLDEN / name, run.path)
    meant = look("05", run)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines, 1) if b'"watch_ended"' in line)
    run.journal.write_bytes(b"".join(lines[:cut]))
    with ThreadPoolExecutor() as looks:
        seen = looks.submit(look, "05", run)
        with pytest.raises(TimeoutError):
            seen.result(timeout=1)
        with run.journal.open("ab") as journal:
            journal.write(b"".join(lines[cut:]))
        said = seen.result(timeout=60)
    assert str(said.failure) == str(meant.failure)
    assert said.page.text == meant.page.text


def test_a_result_is_shown_before_it_fails(tmp_path: Path) -> None:
    """The page is data; the error comes only when asked for, as one sentence without a traceback."""
    result = look("03", make_run("aborted", tmp_path))
    assert "✗ failed" in repr(result)
    assert "<table" in result._repr_mimebundle_()[0]["text/html"]
    with pytest.raises(RunEnded) as raised:
        result.raise_if_failed()
    (line,) = raised.value._render_traceback_()
    assert line.startswith("✗ RunEnded: ABORTED_BEFORE_SWITCH")
    assert raised.value.exit_code == 3


def test_the_watch_is_shown_with_its_plot(tmp_path: Path) -> None:
    """Verdict, picture and table; no picture of a watch there was none of."""
    html = look("05", make_run("completed", tmp_path)).page.html
    assert "data:image/png;base64," in html
    assert "Watch PASSED" in html
    dry = look("05", make_run("dry", tmp_path / "dry")).page
    assert "data:image" not in dry.html
    assert "No watch window" in dry.text


def test_the_rollback_is_shown_with_its_budget(tmp_path: Path) -> None:
    """The triggering sample, the budget and the steps as a picture."""
    page = look("06", make_run("rolled_back", tmp_path)).page
    assert "trading restored" in page.text
    assert "budget 180 s" in page.text


def test_verification_says_passed_or_what_is_wrong(tmp_path: Path) -> None:
    """An intact run verifies; one byte of a sample changed does not, and 07 says so."""
    run = make_run("completed", tmp_path)
    assert "verification passed" in look("07", run).page.text
    run.samples.write_bytes(run.samples.read_bytes().replace(b"100.0", b"101.0", 1))
    with pytest.raises(EvidenceInvalid, match="sha256"):
        look("07", run).raise_if_failed()


@pytest.mark.parametrize("kind", ["drill", "undone"])
def test_a_rollback_that_was_wanted_passes_in_green(kind: str, tmp_path: Path) -> None:
    """A drill, and the run that undoes another: rolled back in time is what they claim."""
    result = look("07", make_run(kind, tmp_path))
    assert result.failure is None
    text = result.page.text
    assert "✓ verification passed" in text
    assert "✓ Rolled back as asked, in time" in text
    assert "✗" not in text
    assert "ended ROLLED_BACK_IN_BUDGET, as wanted" in text


def test_a_dry_run_never_verifies_as_real(tmp_path: Path) -> None:
    """07 of a dry run says that it is consistent, and not that verification passed."""
    text = look("07", make_run("dry", tmp_path)).page.text
    assert "verification passed" not in text
    assert "never verifies as a real run" in text


def test_no_run_directory_means_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook opened by hand shows the run made last."""
    run = make_run("completed", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert phases.verify().page.run_dir == str(run.path)


def test_no_run_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says how to make one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunRefused, match="no run under"):
        phases.watch()


# --- 01 ---------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the checkout."""
    monkeypatch.chdir(ROOT)
    return ROOT


def test_a_dry_plan_makes_a_run_and_simulates_it(tmp_path: Path, home: Path) -> None:
    """01 alone is a whole dry run; it warns of placeholders and says what --execute would refuse."""
    result = phases.plan(CUTOVER, ROLLBACK, run_dir=str(tmp_path / "run"))
    history = read_history(RunDir(tmp_path / "run"))
    assert history.outcome is not None
    assert history.outcome.exit_code == 0
    text = result.page.text
    assert text.startswith("ℹ DRY RUN")
    assert "--execute would refuse" in text
    assert history.created.plan_sha256 in text


def test_a_plan_called_twice_shows_the_same_run(tmp_path: Path, home: Path) -> None:
    """Executing the cell again makes no second run and adds nothing to the first."""
    run = RunDir(tmp_path / "run")
    first = phases.plan(CUTOVER, ROLLBACK, run_dir=str(run.path))
    journal = run.journal.read_bytes()
    again = phases.plan(CUTOVER, ROLLBACK, run_dir=str(run.path))
    assert again.page.text == first.page.text
    assert run.journal.read_bytes() == journal


def test_a_run_of_another_plan_is_refused(tmp_path: Path, home: Path) -> None:
    """01 does not join a run that was made from other templates, or for another purpose."""
    run_dir = str(tmp_path / "run")
    phases.plan(CUTOVER, ROLLBACK, run_dir=run_dir)
    with pytest.raises(RunRefused, match="is a dry run; execute = True does not fit"):
        phases.plan(CUTOVER, ROLLBACK, run_dir=run_dir, execute=True)
    other = tmp_path / "other.env"
    other.write_text(Path(CUTOVER).read_text().replace("MONITOR_MINUTES=30", "MONITOR_MINUTES=31"))
    with pytest.raises(RunRefused, match="was made from a plan with sha256"):
        phases.plan(str(other), ROLLBACK, run_dir=run_dir)


def test_templates_with_problems_are_refused_with_all_of_them(tmp_path: Path, home: Path) -> None:
    """Every problem in one go, and no run directory."""
    broken = tmp_path / "broken.env"
    broken.write_text("CUTOVER_ENV_NAME=x\nNONSENSE=1\n")
    with pytest.raises(TemplateError, match="NONSENSE") as refused:
        phases.plan(str(broken), ROLLBACK, run_dir=str(tmp_path / "run"))
    assert len(refused.value.problems) > 5
    assert not (tmp_path / "run").exists()


def test_executing_a_plan_with_placeholders_is_refused(tmp_path: Path, home: Path) -> None:
    """All reasons at once; nothing was made."""
    with pytest.raises(PlanRefused) as refused:
        phases.plan(CUTOVER, ROLLBACK, run_dir=str(tmp_path / "run"), execute=True)
    assert len(refused.value.reasons) > 1
    assert not (tmp_path / "run").exists()


def test_a_notebook_works_where_the_operator_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened in a copy below outputs/, templates and runs are found from the checkout's root."""
    (tmp_path / "configs").mkdir()
    room = tmp_path / "outputs" / "lab"
    room.mkdir(parents=True)
    run = make_run("dry", tmp_path / "outputs")
    monkeypatch.chdir(room)
    assert phases.rollback().page.run_dir == str(run.path)
    assert Path.cwd() == tmp_path


def test_a_named_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTP_RUNBOOK_HOME says where commands run, wherever the notebook lies."""
    home = tmp_path / "home"
    (home / "configs").mkdir(parents=True)
    run = make_run("dry", home / "outputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(phases.HOME_VARIABLE, str(home))
    assert phases.rollback().page.run_dir == str(run.path)


# --- 04: the go -------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path) -> RunDir:
    """A real run, cut off where it waits for its go."""
    run = make_run("completed", tmp_path)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    ready = next(n for n, line in enumerate(lines) if b'"to":"READY"' in line)
    run.journal.write_bytes(b"".join(lines[: ready + 1]))
    return run


def test_the_switch_waits_for_the_environment_s_name(
    ready: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else typed leaves the run READY and untouched."""
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(RunRefused, match="typed 'yes'; expected 'synthetic': nothing was touched"):
        phases.switch(str(ready.path))
    assert list(ready.control.iterdir()) == []


def test_the_switch_asks_nobody_where_nobody_is(
    ready: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headless without go is a refusal that says what to pass."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(RunRefused, match="pass -p go True"):
        phases.switch(str(ready.path))
    assert list(ready.control.iterdir()) == []


def test_a_blank_run_dir_switches_no_colleague_s_run(
    ready: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest run under outputs/ is somebody else's: it is looked at, and nothing more."""
    monkeypatch.setenv(phases.OUTPUTS_VARIABLE, str(ready.path.parent))
    monkeypatch.setattr("ctp_runbook.run.launch.operator_name", lambda: "colleague")
    with pytest.raises(
        RunRefused, match=r"is .* of operator, not of colleague: nothing is started"
    ):
        phases.switch(go=True)
    assert list(ready.control.iterdir()) == []
    assert phases.readiness().page.run_dir == str(ready.path)


def test_a_blank_run_dir_starts_no_colleague_s_run(
    ready: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was only planned, 02 would begin the gates."""
    lines = ready.journal.read_bytes().splitlines(keepends=True)
    ready.journal.write_bytes(lines[0])
    monkeypatch.setenv(phases.OUTPUTS_VARIABLE, str(ready.path.parent))
    monkeypatch.setattr("ctp_runbook.run.launch.operator_name", lambda: "colleague")
    with pytest.raises(RunRefused, match="not of colleague"):
        phases.infra_gates()
    assert ready.journal.read_bytes() == lines[0]


@pytest.mark.parametrize("go", [True, False], ids=["parameter", "typed"])
def test_a_confirmed_switch_leaves_a_go(
    ready: RunDir, go: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request names who and how; what follows is the orchestrator's, here a stand-in's."""
    monkeypatch.setattr("sys.stdin", io.StringIO("synthetic\n"))
    asked: list[str] = []

    def orchestrator(run: RunDir, kind: str, *, by: str, reason: str = "", seen: History) -> str:
        assert seen.conducted is not None
        name = send_request(run, kind, by=by, reason=reason)
        asked.append(f"{kind}: {reason}")
        journal = Journal(run.journal)
        journal.append(like("answer", request=kind, file=name, obeyed=True, sentence="x"))
        journal.append(like("state", to="ROLLING_BACK", reason="stand-in"))
        journal.close()
        return name

    monkeypatch.setattr("ctp_runbook.run.launch.request", orchestrator)
    result = phases.switch(str(ready.path), go=go)
    said = "parameter go of 04_switch" if go else "typed confirmation in 04_switch"
    assert asked == [f"go: {said}"]
    assert isinstance(result.failure, RunEnded)
    assert len(list(ready.control.iterdir())) == 1
