"""Facts about _late.py and __main__.py: what is not asked for is not paid for, and a start never
fails unexplained."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ctp_runbook
from ctp_runbook._late import LateModule

ROOMS = sorted(path.parent.name for path in Path(ctp_runbook.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_offers_few_names_and_all_of_them(room: str) -> None:
    """At most six; each is what its module defines under that name."""
    package = importlib.import_module(f"ctp_runbook.{room}")
    assert len(package.__all__) <= 6
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'surprise'"):
        _ = package.surprise


def test_importing_the_rooms_imports_none_of_their_modules() -> None:
    """All rooms together are rooms, the word for late, and nothing behind it."""
    code = f"import sys, {', '.join(f'ctp_runbook.{room}' for room in ROOMS)}; print(*sys.modules)"
    # By stdin: the interlock reads command lines, and one of the rooms is the twin.
    shown = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True)
    loaded = {name for name in shown.stdout.split() if name.startswith("ctp_runbook.")}
    assert loaded == {"ctp_runbook._late", *(f"ctp_runbook.{room}" for room in ROOMS)}


def test_a_dry_run_loads_nothing_that_acts(tmp_path: Path) -> None:
    """It starts, holds and samples nothing, and does not pay for what would."""
    code = f"""
import sys
from ctp_runbook.cli.main import main
sys.argv[1:] = ["orchestrate", "--outputs", {str(tmp_path)!r}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(*sys.modules)
"""
    root = Path(ctp_runbook.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, check=True, cwd=root
    )
    loaded = set(shown.stdout.splitlines()[-1].split())
    acting = ("guardian", "requests", "rollback", "steps", "switch", "window")
    assert "ctp_runbook.run.context" in loaded
    assert loaded.isdisjoint(f"ctp_runbook.run.{name}" for name in acting)
    assert loaded.isdisjoint({"subprocess", "ctp_runbook.host.pin", "ctp_runbook.host.daemon"})
    assert loaded.isdisjoint({"click", "rich", "typing_extensions", "numpy", "pandas"})
    # Needed by who waits, ends or splits something, or by names that none of our rows has.
    assert loaded.isdisjoint({"select", "shlex", "signal", "threading"})
    assert loaded.isdisjoint({"ctp_runbook.notebook", "ctp_runbook.plan.plugins"})
    # Wanted by libraries for what no start asks of them, and by who looks for other runs or a person.
    assert loaded.isdisjoint({"platform", "textwrap", "syslog", "ctp_runbook.record.charge"})
    assert loaded.isdisjoint({"json", "msgspec.inspect", "msgspec._json_schema"})
    # Of who proves something about members, and of who reads what engines write.
    assert loaded.isdisjoint({"ctp_runbook.run.proofs", "ctp_runbook.probes.engine_files"})


def test_a_start_takes_of_pathlib_only_what_it_asks() -> None:
    """An address of a file can be had all the same, by what it comes from."""
    code = """
import sys
from ctp_runbook._late import import_pathlib
import_pathlib()
import pathlib
assert not {"urllib.parse", "ipaddress"} & sys.modules.keys()
assert pathlib.Path("/a b").as_uri() == "file:///a%20b"
assert "urllib.parse" in sys.modules
"""
    # Without site, which may load it for some package's sake.
    where = {"PYTHONPATH": str(Path(ctp_runbook.__file__).parents[1])}
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env=where)


def test_a_module_that_stands_in_is_not_asked_whether_it_is_being_imported() -> None:
    """An import of it would ask it for its spec, which would import it, which would ask again."""
    stand_in = LateModule("ctp_runbook.surprise")
    assert stand_in.__spec__ is None
    with pytest.raises(ModuleNotFoundError, match="surprise"):
        _ = stand_in.anything


def test_a_command_ends_at_once_and_says_all_it_had_to_say(tmp_path: Path) -> None:
    """Nothing is taken apart then; whoever asked to be called at the end is waited for, and a thread."""
    code = """
import atexit, os, sys
from ctp_runbook import __main__
{asked}
os._exit = lambda code: print("at once", code, file=sys.stderr)
sys.argv[1:] = ["orchestrate", "--outputs", {outputs!r}]
__main__.main()
"""
    root = Path(ctp_runbook.__file__).parents[1]
    for asked, told in (
        ("", "at once 0\n"),
        ("atexit.register(print, 'called', file=sys.stderr)", "called\n"),
        ("import threading", ""),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", code.format(asked=asked, outputs=str(tmp_path))],
            capture_output=True,
            text=True,
            cwd=root,
        )
        assert (ended.returncode, ended.stderr) == (0, told)
        assert "DRY RUN evidence: " in ended.stdout


def modules_after(code: str, *, cwd: Path | None = None) -> set[str]:
    """Whatever is loaded once a process of its own has run ``code``."""
    shown = subprocess.run(
        [sys.executable],
        input=f"import sys\n{code}\nprint(*sys.modules)",
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return set(shown.stdout.splitlines()[-1].split())


# What the orchestrator, its guardian and the command line are made of.
ACTING = ("cli", "gates", "host", "plan", "probes", "record", "run", "watch")


def test_whoever_acts_never_loads_pandas() -> None:
    """None of their modules does, nor a library that they use; what is imported late, a contract
    of import-linter forbids."""
    package = Path(ctp_runbook.__file__).parent
    paths = [path for room in ACTING for path in (package / room).glob("*.py")]
    names = [f"ctp_runbook.{path.parent.name}.{path.stem}" for path in sorted(paths)]
    code = "from ctp_runbook.run.world import HERE\nHERE.load()\n"
    loaded = modules_after(code + "\n".join(f"import {name}" for name in names))
    assert {"ctp_runbook.run.guardian", "ctp_runbook.run.rollback"} <= loaded
    assert "pandas" not in loaded


ROOMS_OF_NOTEBOOKS = ("infra_gates", "readiness", "switch", "watch", "rollback", "verify")


def test_the_notebooks_of_a_dry_run_load_no_pandas(tmp_path: Path) -> None:
    """Seven notebooks are opened and shown without it; the first frame that is asked for loads it."""
    code = f"""
from ctp_runbook import phases
files = [f"configs/ops/ctp_{{name}}.template.env" for name in ("cutover", "rollback_drill")]
shown = [phases.plan(*files, run_dir={str(tmp_path / "run")!r})]
shown += [getattr(phases, room)({str(tmp_path / "run")!r}) for room in {ROOMS_OF_NOTEBOOKS}]
print(len([result._repr_mimebundle_() for result in shown]))
"""
    root = Path(ctp_runbook.__file__).parents[1]
    loaded = modules_after(code, cwd=root)
    assert "ctp_runbook.notebook.frames" in loaded
    assert "pandas" not in loaded
    assert "pandas" in modules_after(f"{code}print(len(shown[-1].steps))", cwd=root)


def test_no_kernel_is_made_ready_with_pandas() -> None:
    """The server that kernels are forked from works while a dry run waits for it."""
    from ctp_runbook.notebook.fork_server import PICTURES, PRELOAD

    loaded = modules_after("\n".join(f"import {name}" for name in (*PRELOAD, *PICTURES)))
    assert "pandas" not in loaded


def test_who_runs_seven_notebooks_loads_nothing_that_draws(tmp_path: Path) -> None:
    """Pages and pictures are made by another process meanwhile; papermill is asked for no file far away."""
    code = f"""
from ctp_runbook.cli.main import main
sys.argv[1:] = ["run", "--outputs", {str(tmp_path)!r}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""
    loaded = modules_after(code, cwd=Path(ctp_runbook.__file__).parents[1])
    assert {"papermill", "nbclient"} <= loaded
    assert loaded.isdisjoint({"numpy", "pandas", "matplotlib", "nbconvert", "pyarrow", "requests"})
    assert len(list(tmp_path.glob("*/notebooks/*.html"))) == 7
    assert len(list(tmp_path.glob("*/report.html"))) == 1


def test_runs_are_listed_and_compared_without_pandas() -> None:
    """A list of hundreds is to be there at once: neither pandas nor pictures are needed for it."""
    root = Path(ctp_runbook.__file__).parents[1]
    golden = root / "tests" / "golden" / "runs"
    for words in (["runs"], ["runs", "--json"], ["compare", "late", "drill"]):
        code = f"""
import sys
from ctp_runbook.cli.main import main
sys.argv[1:] = {[*words, "--outputs", str(golden)]!r}
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""
        loaded = modules_after(code, cwd=root)
        assert "ctp_runbook.record.past_runs" in loaded
        assert loaded.isdisjoint({"numpy", "pandas", "matplotlib", "rich"})


OFFLINE = ("numpy", "pandas", "matplotlib", "ctp_runbook.watch.calibrate")


def test_a_calibration_is_read_without_what_it_was_made_with(tmp_path: Path) -> None:
    """A dry run with one at hand reads a small file; who has none does not even import its reader."""
    root = Path(ctp_runbook.__file__).parents[1]
    code = f"""
import sys
from pathlib import Path
from ctp_runbook.cli.main import main
sys.argv[1:] = ["orchestrate", "--outputs", {str(tmp_path)!r}]
for is_there in (False, True):
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end.code
    print("seen", is_there, *sys.modules)
    kept = Path({str(tmp_path)!r}, "calibration-20260202T020202-000002Z")
    kept.mkdir(exist_ok=True)
    (kept / "calibration.json").write_text("{{}}")
"""
    shown = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, check=True, cwd=root
    )
    seen = [set(line.split()) for line in shown.stdout.splitlines() if line.startswith("seen ")]
    assert ["ctp_runbook.record.calibration" in modules for modules in seen] == [False, True]
    assert all(modules.isdisjoint(OFFLINE) for modules in seen)


def test_who_rolls_back_loads_nothing_of_a_notebooks_language() -> None:
    """The orchestrator and the guardian with all that they load late: numpy comes where a watch has
    ended well, to compare, and pandas never."""
    code = (
        "import sys; import ctp_runbook.run.orchestrator, ctp_runbook.run.guardian, "
        "ctp_runbook.run.rollback, ctp_runbook.run.window; "
        "from ctp_runbook.run.world import HERE; HERE.load(); print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(shown.stdout.split()).isdisjoint(OFFLINE)


def test_records_are_read_without_typing_extensions() -> None:
    """A start leaves it out, and every kind of record is decoded all the same; it can be had later."""
    code = """
import sys
from ctp_runbook._late import import_msgspec
import_msgspec()
import msgspec
from tests.props.example_records import EXAMPLES
for payload in EXAMPLES.values():
    assert msgspec.json.decode(msgspec.json.encode(payload), type=type(payload)) == payload
assert "typing_extensions" not in sys.modules
import typing_extensions
import platform, textwrap, uuid
assert platform.python_version() and textwrap.indent("a", "b") == "ba"
assert msgspec.json.schema(type(payload))["$defs"] and uuid.uuid4()
print(len(EXAMPLES), typing_extensions.__name__)
"""
    root = Path(ctp_runbook.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, check=True, cwd=root
    )
    number, name = shown.stdout.split()
    assert (int(number) > 20, name) == (True, "typing_extensions")


def test_a_broken_installation_is_told_in_a_sentence() -> None:
    """Exit 2: nothing was touched, and 1 would mean "gone" to who asks whether a daemon is alive."""
    code = """
import sys
sys.modules["ctp_runbook.cli.main"] = None
from ctp_runbook.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable], input=code, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ctp-runbook cannot be loaded: ")
    assert "Traceback" not in ended.stderr


def test_a_world_can_be_loaded_before_it_is_needed() -> None:
    """Whoever acts imports all it may need at its start: later there may be no disk to take it from."""
    code = (
        "import sys; from ctp_runbook.run.world import HERE; HERE.load(); "
        "print(all(f'ctp_runbook.{name}' in sys.modules for name in "
        "('host.daemon', 'host.held_command', 'host.lock', 'host.outcry', 'host.pin', "
        "'probes.exchange', 'probes.liveness', 'probes.metrics', 'probes.session')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "True\n"
