"""What is not of its declared type is refused in every phase, by name, value and remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ctp_runbook.errors import InputError, JournalError, NotebookError, RunRefused, TemplateError
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.notebook import phases
from ctp_runbook.notebook.parameters import check_parameters
from ctp_runbook.plan import parameters
from ctp_runbook.redact import Redactor
from ctp_runbook.run.launch import RunOptions
from tests.props.notebook_tools import notebook
from tests.props.synthetic_runs import make_run

NAN = float("nan")
# What papermill's -p and -y, a cell edited by hand and a caller in Python may make of a value.
VALUES: tuple[Any, ...] = (
    *("false", "False", "FALSE", "no", "NO", "off", "n", "0", "null", "~"),
    *("true", "True", "TRUE", "yes", "on", "y", "1", " true", "'False'"),
    *("", " ", "\t\n", "maybe", "outputs/x"),
    *(0, 1, -1, 2, 0.0, 1.0, -0.0, NAN, float("inf"), None, True, False),
    *([], [True], [False], (), (True,), {}, {"go": True}, set(), b"", b"True", object()),
    *(PurePosixPath("x"), Path("outputs/x"), int, lambda: True),
)
# The room as each phase calls itself, and its parameters with a value that fits.
PHASES: Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    "00_calibrate": (phases.calibration, {"calibration_dir": ""}),
    "00_start": (phases.overview, {"outputs": ""}),
    "01_plan": (
        phases.plan,
        {
            "cutover_template": "a.env",
            "rollback_template": "b.env",
            "execute": False,
            "run_dir": "",
            "reasons": None,
        },
    ),
    "02_infra_gate": (phases.infra_gates, {"run_dir": ""}),
    "03_readiness_gate": (phases.readiness, {"run_dir": ""}),
    "04_switch": (phases.switch, {"run_dir": "", "go": False}),
    "05_watch": (phases.watch, {"run_dir": ""}),
    "06_rollback": (phases.rollback, {"run_dir": ""}),
    "07_verify": (phases.verify, {"run_dir": ""}),
    "08_history": (phases.past_runs, {"outputs": "", "environment": ""}),
    "steer": (phases.steer, {"request": "hold", "reason": "", "by": "", "run_dir": ""}),
}
PAIRS = [(room, name) for room, (_, given) in PHASES.items() for name in given]


def is_flag(value: object) -> bool:
    """Exactly two values are."""
    return value is True or value is False


def is_run_dir(value: object) -> bool:
    """The blank text and what looks like a path, of those in VALUES."""
    return value in ("", "maybe", "outputs/x") if isinstance(value, str) else is_a_path(value)


def is_file(value: object) -> bool:
    """What looks like a path."""
    return value in ("maybe", "outputs/x") if isinstance(value, str) else is_a_path(value)


def is_a_path(value: object) -> bool:
    """A Path that can be opened here."""
    return isinstance(value, Path)


def is_text(value: object) -> bool:
    """Any text."""
    return isinstance(value, str)


FITS: Mapping[str, Callable[[object], bool]] = {
    "execute": is_flag,
    "go": is_flag,
    "run_dir": is_run_dir,
    "calibration_dir": is_run_dir,
    "outputs": is_run_dir,
    "environment": is_text,
    "cutover_template": is_file,
    "rollback_template": is_file,
    "reasons": lambda value: value is None or value == {},
    "request": lambda value: False,
    "reason": is_text,
    "by": is_text,
}


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory below a home, from which every phase would go up."""
    (tmp_path / "configs").mkdir()
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    monkeypatch.delenv(phases.HOME_VARIABLE, raising=False)
    return below


def call(room: str, **changed: Any) -> None:
    """Call the phase of this room with parameters that fit, but for those ``changed``."""
    phase, given = PHASES[room]
    phase(**{**given, **changed})


def test_no_parameter_of_a_phase_is_left_out() -> None:
    """A phase or a parameter that is new must be added to the table here."""
    public = {getattr(phases, name) for name in phases.__all__ if name.islower()}
    assert {phase for phase, _ in PHASES.values()} == public
    for phase, given in PHASES.values():
        assert set(inspect.signature(phase).parameters) == set(given)


@pytest.mark.parametrize(("room", "name"), PAIRS, ids=lambda word: word)
def test_only_the_declared_type_is_taken(room: str, name: str, below: Path) -> None:
    """Whatever else is refused before anything is done, with name, value, what fits and remedy."""
    for value in VALUES:
        if FITS[name](value):
            continue
        with pytest.raises(InputError) as refused:
            call(room, **{name: value})
        (problem,) = refused.value.problems
        assert problem.sentence.startswith(f"{room}: parameter {name}: found "), value
        assert problem.expected
        assert problem.remedy
        assert "\n" not in str(refused.value)
    assert Path.cwd() == below
    assert [*below.iterdir()] == []


@pytest.mark.parametrize(("room", "name"), PAIRS, ids=lambda word: word)
def test_what_is_of_its_type_is_let_through(room: str, name: str, below: Path) -> None:
    """It gets as far as the run, the templates or the calibration, of which there are none here; the
    page at which one begins says so."""
    none_here: AbstractContextManager[Any] = pytest.raises(
        (JournalError, RunRefused, TemplateError)
    )
    for value in filter(FITS[name], VALUES):
        with nullcontext() if room == "00_start" else none_here:
            call(room, **{name: value})


SAID = {
    "text": (
        {"go": "false"},
        "04_switch: parameter go: found text 'false'; expected True or False",
    ),
    "number": ({"go": 0}, "04_switch: parameter go: found number 0; expected True or False"),
    "not a number": ({"go": NAN}, "found number nan"),
    "nothing": ({"go": None}, "found None"),
    "remedy": ({"go": "off"}, "pass `-p go False` or `-p go True`: papermill leaves false, no"),
    "a path that is a number": ({"run_dir": 2026}, "found number 2026; expected a path (str)"),
    "a path that answers": ({"run_dir": "null"}, "for a file or directory of that name, `-p run_"),
    "long": ({"go": "x" * 999}, "x…; expected"),
    "an object": ({"go": object()}, "found an object of type object"),
}


@pytest.mark.parametrize(("given", "said"), SAID.values(), ids=SAID)
def test_the_sentence_says_what_was_read(given: dict[str, Any], said: str, below: Path) -> None:
    """The value as papermill read it, what was expected, and what to type instead."""
    with pytest.raises(InputError) as refused:
        call("04_switch", **given)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400


def test_all_problems_are_told_at_once(below: Path) -> None:
    """Five wrong parameters are five lines of one refusal, which exits 2 without a traceback."""
    reasons = {"accept_late": True, "accept_unmesured": "why"}
    with pytest.raises(InputError) as refused:
        call("01_plan", cutover_template=" ", execute="no", run_dir=1, reasons=reasons)
    keys = [problem.key.removeprefix("parameter ") for problem in refused.value.problems]
    assert keys == ["cutover_template", "execute", "run_dir", "accept_late", "reasons"]
    assert "(did you mean accept_unmeasured?)" in str(refused.value)
    assert refused.value.exit_code == 2
    assert "Traceback" not in "".join(refused.value._render_traceback_())


@pytest.mark.parametrize("name", ["accept_unmeasured", "accept_late"])
def test_a_word_that_answers_is_no_reason(name: str, below: Path) -> None:
    """`-p accept_late no` asks for the opposite of accepting; blank accepts nothing, and may."""
    for value in ("false", "No", "off", "0", "null", "yes", " True ", "1.0", "nan", 0, False, None):
        with pytest.raises(InputError, match=rf"01_plan: parameter {name}: found"):
            call("01_plan", reasons={name: value})
    for value in ("", "  ", "a drill", "no order rests"):
        with pytest.raises(TemplateError):
            call("01_plan", reasons={name: value})


def test_a_directory_of_such_a_name_can_be_named(below: Path) -> None:
    """The remedy works: ``./off`` is a path, and so is what is a Path already."""
    home = below.parent
    make_run("dry", home).path.rename(home / "off")
    with pytest.raises(InputError, match=r"`-p run_dir \./off`"):
        phases.verify("off")
    assert phases.verify("./off").page.run_dir == str(home / "off")
    assert phases.verify(Path("off")).page.run_dir == str(home / "off")


def test_no_secret_is_quoted(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret passed in the wrong place is masked in the refusal."""
    monkeypatch.setenv("CTP_PASSWORD", "hunter2hunter2")
    for value in ("hunter2hunter2", ["hunter2hunter2"], {"x": "redis://u:hunter2hunter2@h/"}):
        with pytest.raises(InputError) as refused:
            call("04_switch", go=value)
        assert "hunter2" not in str(refused.value)
        assert "***" in str(refused.value)


def test_a_secret_of_the_env_files_is_known_from_below(below: Path) -> None:
    """They lie at home, where the phase was not yet."""
    env = below.parent / "infra" / "env"
    env.mkdir(parents=True)
    (env / "prodlike.env").write_text("REDIS_PASSWORD=swordfish99\n")
    with pytest.raises(InputError, match=r"found text '\*\*\*'"):
        call("04_switch", go="swordfish99")


@pytest.mark.parametrize("value", ["false", 0, None, [], NAN], ids=str)
def test_papermill_s_engine_says_the_same(value: Any, below: Path) -> None:
    """One sentence for a wrong type, whichever door it came to; only the place is another."""
    nb = notebook(parameters="go: bool = False  # yes")
    with pytest.raises(NotebookError) as by_engine:
        check_parameters(nb, {"go": value}, where="04_switch", redactor=Redactor())
    with pytest.raises(InputError) as by_phase:
        call("04_switch", go=value)
    assert str(by_engine.value) == str(by_phase.value)


@pytest.mark.parametrize(
    ("declared", "value", "fits"),
    [
        ("bool | None", None, True),
        ("bool | None", "false", False),
        ("'bool'", "false", False),
        ("int | str", 1.5, False),
        ("float", 1, True),
        ("float", True, False),
        ("list[str]", "anything", True),
    ],
)
def test_a_union_is_taken_apart(declared: str, value: object, fits: bool) -> None:
    """Each part counts; a type that is not known takes anything."""
    assert (not [*parameters.of_type("x", value, declared=declared)]) is fits


# --- defence in depth -------------------------------------------------------------
# Untyped here: what is to be refused is what mypy would refuse as well.
run_options: Callable[..., RunOptions] = RunOptions
gate_options: Callable[..., GateOptions] = GateOptions


@pytest.mark.parametrize("name", ["execute", "probe", "force_rollback"])
def test_no_run_is_asked_for_with_a_text(name: str) -> None:
    """Whoever builds the options: what is neither True nor False is refused there as well."""
    for value in VALUES:
        if not is_flag(value):
            with pytest.raises(InputError, match=f"options of the run: parameter {name}: found"):
                run_options(**{name: value})
    assert [getattr(run_options(**{name: value}), name) for value in (True, False)] == [True, False]


@pytest.mark.parametrize("name", ["short_watch_reason", "accept_unmeasured", "accept_late"])
def test_no_run_is_excused_by_an_answer(name: str) -> None:
    """`--accept-late no` and `--short-watch false` excuse nothing."""
    for value in ("no", "false", "0", True, None, 1):
        with pytest.raises(InputError, match=f"parameter {name}: found"):
            run_options(**{name: value})
    run_options(**{name: "a drill"})


@pytest.mark.parametrize("name", ["execute", "probe"])
def test_no_gate_acts_on_a_text(name: str) -> None:
    """The options of an infra gate are as strict."""
    for value in VALUES:
        if is_flag(value):
            continue
        with pytest.raises(InputError, match=f"options of the gate: parameter {name}: found"):
            gate_options(**{name: value})
