"""A module imports only from earlier layers; a package that is one layer has no cycles inside.

The layers are the house of ARCHITECTURE.md ("Rooms"), copied in the README. An import counts
wherever it stands: at the top, late in a function, or for type checking alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "ctp_runbook"

# Earlier may not know later. A new module goes on the first line on which all it imports is above.
LAYERS = (
    "errors model step_table budget",
    "redact env_template sessions template_keys parameters checked_toml config triggers template_rules shell_words preflight",
    "plan measured checklist",
    "process pid_file pin daemon proc lock rundir journal record_forms history control private samples sample_blocks histogram measure measure_block readings points watched verdicts clocks sampler probes",
    "judge recorded comparison trouble result_env infra_gates readiness readiness_pipeline readiness_probes steps proofs handover simulate gates switch watch_sources baseline watch rollback",
    "evidence durations finish unstarted alerts guardian guardian_watch orchestrator run_header attend starting launch charge parent steer",
    "verification verify_clocks verify_journal verify_parent verify_watch verify_baseline verify_files verify_pair verify rejudge countdown narrate",
    "panels plot_style watch_clock watch_lines watch_panel watch_strip plots step_plots topology topology_plot pages plan_page locate live phases report",
    "kernel_forkserver kernel_fork kernels notebook_document notebook_parameters",
    "engine papermill_engine runner",
    "rehearsal",
    "lab cli_options cli_gates cli_runs cli_twin cli __main__",
)
ORDER = tuple(" ".join(LAYERS).split())
# The root package holds the version and imports nothing of ours: importing it must stay free.
ROOT_LAYER = -1
# The twin stands in for a trading host: only the command line knows it, and it knows no policy.
# Its one driver runs the whole job and may.
TWIN, TWIN_DRIVER, TWIN_CEILING, TWIN_USERS = "rehearsal", "rehearse", "verify", ("cli_twin",)


def test_modules_import_only_from_earlier_layers() -> None:
    """The house as it stands keeps its order."""
    found = broken_rules(read_house(ROOT / PACKAGE))
    assert not found, "\n".join(found)


def test_the_readme_shows_every_room() -> None:
    """A layer that the README's map does not name is a room nobody finds."""
    words = set(re.findall(r"\w+", (ROOT / "README.md").read_text()))
    assert [name for name in ORDER if name not in words and name != "__main__"] == []


HOUSES = {
    "late in a function": ({"model": "def f():\n    from ctp_runbook import plan\n"}, "plan"),
    "for types alone": (
        {"model": "if TYPE_CHECKING:\n    from ctp_runbook.plan import Plan\n"},
        "model imports plan",
    ),
    "relative": ({"probes.engine": "from ..judge import judge\n"}, "probes.engine imports judge"),
    "plain import": ({"errors": "import ctp_runbook.model\n"}, "errors imports model"),
    "itself": ({"plan": "from ctp_runbook.plan import Plan\n"}, "plan imports plan"),
    "cycle in a package": (
        {"probes.a": "from . import b\n", "probes.b": "from ctp_runbook.probes.a import x\n"},
        "probes: cycle",
    ),
    "unknown module": ({"surprise": ""}, "surprise: not in LAYERS"),
    "root imports ours": ({"": "from ctp_runbook import phases\n"}, "imports phases"),
    "the twin from above": ({"lab": "from ctp_runbook.rehearsal import stack\n"}, "only cli"),
    "policy in the twin": (
        {"rehearsal.stack": "import ctp_runbook.plots\n"},
        "rehearsal.stack imports plots",
    ),
}


@pytest.mark.parametrize(("house", "said"), HOUSES.values(), ids=HOUSES)
def test_a_broken_house_is_found(house: Mapping[str, str], said: str) -> None:
    """Each way to import what is not above is reported, once, by module and import."""
    (problem,) = broken_rules({**dict.fromkeys(ORDER, ""), **house})
    assert said in problem


def test_what_is_allowed_passes() -> None:
    """Earlier layers, siblings without a cycle, and the twin's driver are no problem."""
    allowed = {
        "journal": "from .process import boot_id\nimport json\n",
        "probes.a": "from ctp_runbook.probes import b\n",
        "probes.b": "from ctp_runbook import __version__, errors\n",
        "rehearsal.rehearse": "from ctp_runbook import report\n",
        "cli_twin": "from ctp_runbook.rehearsal.stack import up\n",
    }
    assert broken_rules({**dict.fromkeys(ORDER, ""), **allowed, "rehearsal.stack": ""}) == []


def read_house(package: Path) -> dict[str, str]:
    """Sources by module name below the package; a package goes by its own name, the root by ''."""
    names = {path: path.relative_to(package).with_suffix("") for path in package.rglob("*.py")}
    return {
        ".".join(part for part in name.parts if part != "__init__"): path.read_text()
        for path, name in sorted(names.items())
    }


def broken_rules(house: Mapping[str, str]) -> list[str]:
    """Every broken rule as a sentence; empty for a house in order."""
    unknown = [
        f"{name}: not in LAYERS of {Path(__file__).name}; add it where what it imports is above"
        for name in house
        if _layer(name) is None
    ]
    edges = {name: imported(name, source, house) for name, source in house.items()}
    wrong = [
        sentence
        for importer, imports in edges.items()
        for target in sorted(imports)
        for sentence in _judge(importer, target)
    ]
    return unknown + wrong + list(_cycles(edges))


def imported(importer: str, source: str, house: Mapping[str, str]) -> Set[str]:
    """The modules of ours that ``importer`` names anywhere in ``source``, below the package."""
    is_package = any(name.startswith(f"{importer}.") for name in house) or not importer
    return {
        target.removeprefix(PACKAGE).removeprefix(".")
        for node in ast.walk(ast.parse(source))
        for target in _targets(node, importer, is_package, house)
        if target.partition(".")[0] == PACKAGE and target != PACKAGE
    }


def _targets(
    node: ast.AST, importer: str, is_package: bool, house: Mapping[str, str]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        home = f"{PACKAGE}.{importer}".rstrip(".").split(".")
        above = node.level - is_package
        parts = home[: len(home) - above] if node.level else []
        base = ".".join([*parts, *(node.module or "").split(".")]).strip(".")
        known = {f"{PACKAGE}.{name}" for name in house}
        for alias in node.names:
            member = f"{base}.{alias.name}"
            yield member if member in known else base


def _layer(name: str) -> int | None:
    first = name.partition(".")[0]
    if not first:
        return ROOT_LAYER
    return ORDER.index(first) if first in ORDER else None


def _judge(importer: str, target: str) -> Iterator[str]:
    here, there = _layer(importer), _layer(target)
    if here is None or there is None:
        return
    room, other = importer.partition(".")[0], target.partition(".")[0]
    if there > here or importer == target:
        yield f"{importer or PACKAGE} imports {target}, which is not above it in LAYERS"
    elif other == TWIN and room not in (TWIN, *TWIN_USERS, "__main__"):
        yield f"{importer} imports {target}; only {', '.join(TWIN_USERS)} may know the twin"
    elif (
        room == TWIN
        and other != TWIN
        and importer != f"{TWIN}.{TWIN_DRIVER}"
        and there > ORDER.index(TWIN_CEILING)
    ):
        yield f"{importer} imports {target}, which is above {TWIN_CEILING}: not for the twin"


def _cycles(edges: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Cycles can only be inside one layer: between layers the order forbids them."""
    for room in sorted({name.partition(".")[0] for name in edges}):
        inside = {
            name: {other for other in imports if other.partition(".")[0] == room and other != name}
            for name, imports in edges.items()
            if name.partition(".")[0] == room
        }
        try:
            TopologicalSorter(inside).prepare()
        except CycleError as error:
            yield f"{room}: cycle {' <- '.join(error.args[1])}"
