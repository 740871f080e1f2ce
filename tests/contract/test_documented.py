"""Nothing that can be typed, set or read goes unexplained, and what is explained can be typed.

The pages are infra/runbook/ and the README. What they must name is taken from the tables of the
code, so that a new flag, key, step, gate or exit code fails here until a page has a line of it; and
what a page names must be there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ctp_runbook.cli.click_commands import cli
from ctp_runbook.host import proc
from ctp_runbook.model import Generation, Outcome, Phase, Role, State, Verdict
from ctp_runbook.plan import config
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.plan.sources import KINDS, SOURCES
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.plan.template_keys import KEYS, READINESS_KEYS, SLI_NAMES, SYNONYMS
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from tests.props.documents import (
    PAGES,
    ROOT,
    RUNBOOK,
    Block,
    blocks,
    first_cells,
    headings,
    links,
    our_commands,
    prose,
    sections,
)

COMMANDS, KEY_PAGE = RUNBOOK / "commands.md", RUNBOOK / "template_keys.md"
SWITCH, EXITS, SOURCES_PAGE = (
    RUNBOOK / "switch.md",
    RUNBOOK / "exits.md",
    RUNBOOK / "sources_and_gates.md",
)
COMPLETED = ROOT / "tests" / "golden" / "runs" / "completed"
UNITS = ROOT / "infra" / "systemd"
# Of a viewer that no longer follows its run, and of one that was interrupted (CONTRACT §5).
VIEWERS = {7, 130}
TYPED = [block for block in blocks() if not block.mark and "make " not in block.text]
# RUNBOOK.md speaks of the scripts of before.
SCRIPTS = {
    "scripts/ops/generate_ctp_cutover_plan.py": ["plan"],
    "scripts/ops/ctp_cutover_orchestrator.py": ["orchestrate"],
    "scripts/ops/verify_ctp_cutover_evidence.py": ["verify"],
    "scripts/ops/run_ctp_readiness_evidence.py": ["readiness"],
    "scripts/infra/bootstrap_prodlike.sh": ["infra", "bootstrap"],
    "scripts/infra/init_kafka_topics.sh": ["infra", "kafka-topics"],
    "scripts/infra/init_clickhouse_schema.sh": ["infra", "clickhouse-schema"],
    "scripts/infra/init_debezium_connectors.sh": ["infra", "debezium-connectors"],
}


def every_command(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Each command with its words, those of groups too."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if found := command.get_command(context, name):
                yield from every_command(found, (*path, name))
    else:
        yield " ".join(path), command


def flags_of(name: str, command: click.Command) -> set[str]:
    """What a command takes, but for --help."""
    if name == "proc":
        return {
            flag
            for action in proc._parser()._actions
            for flag in action.option_strings
            if flag not in ("-h", "--help")
        }
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {flag for each in options for flag in (*each.opts, *each.secondary_opts)}


def documented_flags() -> dict[str, set[str]]:
    """The flags of each command as commands.md has them: those of every section that names it."""
    found: dict[str, set[str]] = {}
    for title, text in sections(COMMANDS).items():
        flags = {cell.split()[0] for cell in first_cells(text) if cell.startswith("--")}
        for name in re.findall(r"`([^`]+)`", title):
            found.setdefault(name, set()).update(flags)
    return found


def test_every_command_and_flag_is_documented() -> None:
    """commands.md has each with a line of its own, and none that is not there."""
    wanted = {name: flags_of(name, command) for name, command in every_command()}
    assert documented_flags() == wanted


def expand(name: str) -> set[str]:
    """What a pattern of template_keys.md stands for: G a generation, X a role, <STEP>, <SLI>."""
    names = {name}
    steps = {spec.command_key.removesuffix("_CMD") for spec in STEP_TABLE}
    steps |= {key.removesuffix("_CMD") for key in SYNONYMS if key.endswith("_CMD")}
    slis = {key.removeprefix("READINESS_").removesuffix("_CMD") for key in READINESS_KEYS}
    for pattern, words in (
        (r"\bG_", [f"{each}_".upper() for each in Generation]),
        (r"_X_", [f"_{each}_".upper() for each in Role]),
        ("<STEP>", steps),
        ("<SLI>", slis),
    ):
        names = {re.sub(pattern, word, each) for each in names for word in words}
    return names


def test_every_template_key_is_explained_once() -> None:
    """template_keys.md has a row for each, synonyms and patterns too, and none that is not there."""
    rows = [key for cell in first_cells(prose(KEY_PAGE)) for key in expand(cell)]
    assert sorted(key for key in set(rows) if rows.count(key) > 1) == []
    assert {*rows} ^ {*KEYS, *SYNONYMS} == set()
    assert [sli for sli in SLI_NAMES if f"`{sli}`" not in KEY_PAGE.read_text()] == []


def test_every_step_and_phase_is_documented() -> None:
    """switch.md tells of each step, in its order, below the phase it belongs to."""
    told = {title.split()[0].lower(): first_cells(text) for title, text in sections(SWITCH).items()}
    for phase in Phase:
        steps = [spec.name for spec in STEP_TABLE if spec.phase is phase]
        assert told[phase.value] == steps


def test_every_notebook_is_documented() -> None:
    """The notebooks that a browser shows are those of the index page."""
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
    assert len(names) >= 7
    assert [name for name in names if f"`{name}`" not in prose(RUNBOOK / "README.md")] == []


def test_every_gate_source_and_kind_is_documented() -> None:
    """sources_and_gates.md has a row for each of ours."""
    cells = set(first_cells(prose(SOURCES_PAGE)))
    assert {*GATES, *SOURCES, *KINDS} - cells == set()


def test_every_end_of_a_run_is_documented() -> None:
    """exits.md has each exit code, outcome, state and verdict, and the README each exit code."""
    codes = {str(code) for code in {each.exit_code for each in Outcome} | VIEWERS}
    cells = first_cells(prose(EXITS))
    assert {cell for cell in cells if cell.isdigit()} == codes
    text = prose(EXITS)
    for word in (*[each.value for each in (*Outcome, *State)], *[each.name for each in Verdict]):
        assert f"`{word}`" in text, word
    readme = sections(ROOT / "README.md")["Exit codes"]
    assert set(re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)) == codes


def test_every_setting_is_explained_where_it_is_set() -> None:
    """The comments of limits.toml and watch.toml name each key that the readers of them take."""
    limits = (ROOT / "configs/limits.toml").read_text()
    assert [
        key for key in (*config._LIMIT_FIELDS, *config._LIMIT_TABLES) if key not in limits
    ] == []
    watch = (ROOT / "configs/watch.toml").read_text()
    keys = {*config._METRIC_FIELDS, *(key for row in SOURCES.values() for key in row.reads)}
    keys |= {key for row in SOURCES.values() for key in row.settings}
    comments = "\n".join(line for line in watch.splitlines() if line.startswith("#"))
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", comments)] == []


def test_settings_shown_are_read(tmp_path: Path) -> None:
    """What a page shows of watch.toml can be put into it."""
    shown = [
        match
        for page in PAGES
        for match in re.findall(r"```toml\n(.*?)```", page.read_text(), re.S)
    ]
    assert shown
    for number, text in enumerate(shown):
        path = tmp_path / f"{number}.toml"
        path.write_text(f"{(ROOT / 'configs/watch.toml').read_text()}\n{text}")
        assert (
            config.load_watch(path).metrics.keys()
            > config.load_watch(ROOT / "configs/watch.toml").metrics.keys()
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each is a file of this checkout, and a heading of it where it names one."""
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in headings(path), target


def test_every_page_is_found_from_the_readme() -> None:
    """README leads to the index, and that to every page, the runbook itself too."""
    assert "infra/runbook/README.md" in set(links(ROOT / "README.md"))
    listed = {target.partition("#")[0] for target in links(RUNBOOK / "README.md")}
    assert {page.name for page in RUNBOOK.glob("*.md")} - listed == {"README.md"}


def test_messages_lead_to_pages() -> None:
    """What a sentence of the code, a template or a unit calls a page is one."""
    files = [*ROOT.glob("ctp_runbook/**/*.py"), *ROOT.glob("configs/**/*"), *UNITS.glob("*")]
    text = "".join(path.read_text() for path in files if path.is_file())
    named = set(re.findall(r"infra/runbook/(\w+\.md)", text))
    assert named
    assert [name for name in sorted(named) if not (RUNBOOK / name).is_file()] == []


def problem_of(words: list[str]) -> str:
    """Why click, or proc, would not take these words; nothing is done of what they say."""
    command: click.Command = cli
    path: list[str] = []
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            return "" if words in (["--help"], ["--version"]) else f"no command in {words}"
        path.append(words[0])
        if (found := command.get_command(click.Context(command), words[0])) is None:
            return f"no command {' '.join(path)}"
        command, words = found, words[1:]
    if path == ["proc"]:
        try:
            proc._parser().parse_args(proc._split(words)[0])
        except SystemExit:
            return f"proc does not take {words}"
        return ""
    try:
        command.make_parser(click.Context(command)).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: block.name)
def test_commands_are_there(block: Block) -> None:
    """bash reads each block, and every command of ours in it exists with all its flags."""
    read = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert read.returncode == 0, read.stderr
    assert block.mark in ("", "host", "root")
    for words in our_commands(block.text):
        assert problem_of(words) == "", words
    targets = re.findall(r"^make (?:-\S+ )*([a-z]+)", block.text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_a_wrong_command_is_found() -> None:
    """The reader of blocks sees a flag that is none, behind whatever the command is called through."""
    script = "cd x && sudo -u me ctp-runbook plan --nope\nctp-runbook proc stop --nope\n"
    assert [problem_of(words) != "" for words in our_commands(script)] == [True, True]
    assert problem_of(["stack", "sideways"]) == "no command stack sideways"
    assert problem_of(["plan", "--outputs", "x"]) == ""


def test_the_runbook_s_own_commands_are_ours() -> None:
    """Every script that RUNBOOK.md calls is a command here that takes each of its flags."""
    called = 0
    for block in blocks(page=RUNBOOK / "RUNBOOK.md"):
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            words = line.split()[1:]
            assert problem_of([*SCRIPTS[words[0]], *words[1:]]) == ""
            called += 1
    assert called == 11


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout to type in, with one finished run in outputs/."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "infra"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("notebooks", ".venv", "ctp_runbook"):
        (folder / name).symlink_to(ROOT / name)
    if not (ROOT / ".venv").exists():
        (folder / ".venv").unlink()
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    shutil.copytree(COMPLETED, run_path(folder))
    (folder / "tmp").mkdir(mode=0o700)
    return folder


def run_path(folder: Path) -> Path:
    """Where the recorded run lies in a checkout."""
    run_id = History.of(read_journal(COMPLETED / "journal.jsonl").records).run_id
    return folder / "outputs" / run_id


def typed(text: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """What comes of these lines, typed in the checkout; $RUN is the folder of a finished run."""
    environ = {
        **os.environ,
        "RUN": str(run_path(checkout).relative_to(checkout)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # Rooms of its own: the twins that `stack down --all` finds there are nobody else's.
        "XDG_RUNTIME_DIR": str(checkout / "tmp"),
        "TMPDIR": str(checkout / "tmp"),
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-s"],
        input=text,
        text=True,
        cwd=checkout,
        env=environ,
        capture_output=True,
    )


@pytest.mark.twin
@pytest.mark.parametrize("block", TYPED, ids=lambda block: block.name)
def test_what_is_documented_can_be_typed(block: Block, checkout: Path) -> None:
    """Each block ends well as it stands, typed in a checkout; $RUN is the folder of a finished run."""
    done = typed(block.text, checkout)
    assert done.returncode == 0, done.stdout + done.stderr


QUESTIONS = re.findall(
    r"^\| ([^|]+\?) \| ([^|]+) \| (.+) \|$", prose(RUNBOOK / "questions.md"), re.M
)


def test_the_questions_are_asked() -> None:
    """Each once, and each answer quotes something."""
    assert len({question for question, _, _ in QUESTIONS}) == len(QUESTIONS) >= 30
    assert [question for question, _, answer in QUESTIONS if "“" not in answer] == []


@pytest.mark.twin
@pytest.mark.parametrize(
    ("question", "where", "answer"), QUESTIONS, ids=[q for q, _, _ in QUESTIONS]
)
def test_a_question_is_answered(question: str, where: str, answer: str, checkout: Path) -> None:
    """The page, or what the command prints and the page it writes, has what the answer quotes."""
    if where.startswith("["):
        (target,) = re.findall(r"\]\(([^)#]+)", where)
        read = (RUNBOOK / target).read_text()
    else:
        done = typed(where.strip("`"), checkout)
        assert done.returncode == 0, done.stderr
        read = done.stdout
        if page := re.search(r"\S+\.html", read):
            read = (checkout / page[0]).read_text()
    read = " ".join(re.sub(r"[`*]", "", read).split())
    assert [quote for quote in re.findall(r"“([^”]+)”", answer) if quote not in read] == []
