"""Every file of border/parameters/ is given to a notebook by papermill, with the words it is answered with.

And whatever a parameter is: taken for what it is declared to be, or refused in one clear sentence.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.cli import _resolve_type as as_papermill_reads
from papermill.iorw import load_notebook_node, read_yaml_file
from papermill.parameterize import parameterize_notebook

from ctp_runbook.errors import InputError, RunbookError, RunRefused, TemplateError
from ctp_runbook.notebook import phases
from tests.props.notebook_tools import run_code

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "border" / "parameters"
EXPECT: Mapping[str, Mapping[str, Any]] = tomllib.loads((FOLDER / "expect.toml").read_text())
CASES = int(os.environ.get("CTP_RUNBOOK_CASES", "200"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home without templates and runs: what fits is looked for in vain, and nothing is made."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "configs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(phases.HOME_VARIABLE, str(folder))
        patch.delenv(phases.OUTPUTS_VARIABLE, raising=False)
        yield folder
        assert [path.name for path in folder.iterdir()] == ["configs"]


def test_every_file_has_its_answer() -> None:
    """And every answer its file."""
    assert {path.stem for path in FOLDER.glob("*.yaml")} == EXPECT.keys()


@pytest.mark.parametrize("name", EXPECT)
def test_parameters_are_answered_in_these_words(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is read or written, or let through; never taken for another value."""
    given_ = read_yaml_file(str(FOLDER / f"{name}.yaml"))
    with pytest.raises(RunbookError) as caught:
        run_cells(EXPECT[name]["notebook"], given_, monkeypatch)
    told, words = str(caught.value), EXPECT[name]["says"]
    assert [each for each in words if each not in told] == [], told
    assert isinstance(caught.value, InputError) == bool(words), told
    assert told.encode()
    assert len(told.splitlines()) == (len(given_) if name == "all_at_once" else 1)


def run_cells(notebook: str, given_: Mapping[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Run the code of the notebook with parameters injected by papermill, as its kernel would."""
    nb = load_notebook_node(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    nb = parameterize_notebook(nb, given_, kernel_name="python3", language="python")
    names: dict[str, Any] = {"In": [""]}
    shell = SimpleNamespace(user_ns=names)
    patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    for cell in nb.cells:
        if cell.cell_type == "code":
            names["In"].append(cell.source)
            run_code(cell.source, names)


def test_what_has_no_words_is_named_by_its_type(home: Path) -> None:
    """A number of five thousand digits, and a list that is nested without end."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value, words in ((10**5000, "an object of type int"), (nested, "an object of type list")):
        with pytest.raises(InputError, match=f"parameter go: found {words}; expected True or"):
            phases.switch(go=value)  # type: ignore[arg-type]


# --- whatever it is ---------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=4)
    | st.text(max_size=20)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["false", "no", "off", "0", "null", "True", " true", "~", "x" * 5000])
    | st.sampled_from(["False", "True", "1.0", "nan", "1e5", "None", "'no'"]).map(
        as_papermill_reads
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
ANSWERS = {
    *("true", "yes", "on", "y", "t", "1", "false", "no", "off", "n", "f", "0"),
    *("null", "none", "nil", "nan", "na", "n/a", "undefined", "~", "-"),
}


def is_flag(value: object) -> bool:
    """One of two."""
    return any(value is flag for flag in (True, False))


def is_path(value: object) -> bool:
    """A text that names something on a disk."""
    return (
        type(value) is str
        and is_name(value)
        and value.strip(" \t\r\n'\"").casefold() not in ANSWERS
    )


def is_run_dir(value: object) -> bool:
    """The same, or the blank text."""
    return value == "" or is_path(value)


def is_name(value: str) -> bool:
    """Something a file may be called."""
    data = value.encode(errors="surrogatepass")
    is_utf8 = not any("\ud800" <= letter <= "\udfff" for letter in value)
    parts_fit = all(len(part) < 256 for part in data.split(b"/"))
    return value.strip() != "" and "\0" not in value and is_utf8 and parts_fit and len(data) < 4096


CALLS: Mapping[str, tuple[Callable[[Any], Any], Callable[[object], bool]]] = {
    "go": (lambda value: phases.switch(go=value), is_flag),
    "execute": (lambda value: phases.plan("a.env", "b.env", execute=value), is_flag),
    "run_dir": (phases.watch, is_run_dir),
    "cutover_template": (lambda value: phases.plan(value, "b.env"), is_path),
}


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(sorted(CALLS)), value=VALUES)
def test_a_parameter_is_of_its_type_or_refused(home: Path, name: str, value: Any) -> None:
    """By its name, in a sentence that can be shown and written; what fits is looked for in vain."""
    call, fits = CALLS[name]
    with pytest.raises(RunbookError) as caught:
        call(value)
    told = str(caught.value)
    is_refused = f"parameter {name}: found " in told
    assert is_refused != fits(value), told
    if is_refused:
        assert isinstance(caught.value, InputError)
        assert told.isprintable()
        assert len(told) < 600
    else:
        assert isinstance(caught.value, RunRefused | TemplateError)
