"""Ten thousand templates, broken in every way that came to mind: refused in words, or planned.

CI makes a seeded tenth of them; all are ``make prove``.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ConfigError, InputError, Problem, TemplateError
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.plan.template_text import parse_template

ALL, IN_CI = 10_000, 1_000
CORPUS = Path(__file__).parent / "corpus"
CONFIGS = Path(__file__).parents[2] / "configs"
VALID = tuple((CORPUS / "valid" / name).read_bytes() for name in ("cutover.env", "rollback.env"))
PIECES = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b"=", b"#", b" ", b"<x>", b"<<EOF>y"),
    *(b"nan", b"inf", b"-1", b"1e999", b"0", b"9" * 400, b"\xd9\xa3", b"1_0", b"0x10", b".", b"e"),
    *(b"'", b'"', b"\\", b"$(", b"`", b"${x", b"|| true", b"; echo", b"case x in a)", b"((", b"&>"),
    *(b"_or_", b"_and_", b"_gt_", b" > ", b" for 3s", b"_ms_gt_5ms_or_", b"breaker_state", b",,"),
    *(b"2026-13-40T25:00+99:99", b"9999-12-31T23:59:59-23:59", b"+08:00", b"Z", b"W01", b"24:00"),
    *(b"http://u:p@h:1/", b"[::1]:80", b"\xe2\x80\xae", b"\xc2\x85", b"\xf0\x9f\x92\xa5", b"../.."),
    *(b"export ", b"HOLD_SECONDS=1\n", b"PRECHECK_TIMEOUT_SECONDS=", b"UNKNOWN=1\n", b"A" * 5000),
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, bytes], Plan]:
    """Makes the plan of two templates given as bytes, in a folder with a CTP config."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "ctp.yaml").touch()
    cat = shutil.which("cat")
    assert cat is not None

    def plan(cutover: bytes, rollback: bytes) -> Plan:
        (folder / "cutover.env").write_bytes(cutover)
        (folder / "rollback.env").write_bytes(rollback)
        return load_plan(
            folder / "cutover.env",
            folder / "rollback.env",
            limits=CONFIGS / "limits.toml",
            watch=CONFIGS / "watch.toml",
            environ={"PATH": str(Path(cat).parent), "CTP_PASSWORD": "hunter22"},
            base=folder,
        )

    return plan


def answers_to(planned: Callable[[bytes, bytes], Plan], *, templates: int) -> Counter[str]:
    """How many generated pairs came to a plan, how many to a refusal, and nothing else.

    A refusal names file, line and key of each fault.
    """
    answers = Counter[str]()

    @settings(
        max_examples=templates,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(min_value=0), noise=st.binary(max_size=60))
    def every_pair(seed: int, noise: bytes) -> None:
        cutover, rollback = broken(Random(seed), noise)
        try:
            plan = planned(cutover, rollback)
        except (TemplateError, ConfigError) as error:
            assert_says_where(error, lines=max(cutover.count(b"\n"), rollback.count(b"\n")))
            answers["refused"] += 1
        else:
            assert len(plan.steps) == 17
            assert len(plan.sha256) == 64
            answers["planned"] += 1

    every_pair()
    return answers


def test_a_thousand_templates_never_crash(planned: Callable[[bytes, bytes], Plan]) -> None:
    """Whatever the bytes are: a plan, or a refusal."""
    assert answers_to(planned, templates=IN_CI).total() == IN_CI


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_templates_never_crash(
    planned: Callable[[bytes, bytes], Plan], record_table: Callable[[str, list[str]], None]
) -> None:
    """All of them; the numbers are kept."""
    answers = answers_to(planned, templates=ALL)
    told = ", ".join(f"{name} {number}" for name, number in sorted(answers.items()))
    record_table("templates", [f"templates {answers.total()}: {told}; tracebacks 0"])
    assert answers.total() == ALL


def test_valid_templates_are_planned(planned: Callable[[bytes, bytes], Plan]) -> None:
    """What is mutated above is a plan that a real run would take: breaking it means something."""
    assert planned(*VALID).execute_refusals == ()


def test_the_mutations_reach_both_answers(planned: Callable[[bytes, bytes], Plan]) -> None:
    """Of the mutations some are refused, in many different words, and some are still a plan."""
    plans, found = 0, set[str]()
    for seed in range(500):
        try:
            planned(*broken(Random(seed), b""))
            plans += 1
        except TemplateError as error:
            found |= {problem.expected for problem in error.problems}
    assert plans > 20
    assert len(found) > 20


@given(raw=st.binary(max_size=300))
def test_parsing_keeps_every_line_or_says_why_not(raw: bytes) -> None:
    """No line is lost: each is blank, a comment, an entry, or a problem with its number."""
    text = parse_template(raw, file="x.env")
    told = {entry.line for entry in text.entries} | {problem.line for problem in text.problems}
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    silent = {
        number
        for number, line in enumerate(lines, start=1)
        if line.startswith(b"#") or not line.removesuffix(b"\r").strip(b" \t")
    }
    assert told == set(range(1, len(lines) + 1)) - silent


def assert_says_where(error: InputError, *, lines: int) -> None:
    """Each problem says where, what was found, what is expected, and what to do."""
    assert error.problems
    for problem in error.problems:
        assert_names_its_place(problem, lines=lines)


def assert_names_its_place(problem: Problem, *, lines: int) -> None:
    """File, line (0 for a key that is missing) and key, and no secret."""
    assert problem.file.endswith(("cutover.env", "rollback.env"))
    assert 0 <= problem.line <= lines + 1
    assert problem.key
    assert problem.found
    assert problem.expected
    assert problem.remedy
    assert "\n" not in problem.sentence
    assert "hunter22" not in problem.sentence


def broken(random: Random, noise: bytes) -> tuple[bytes, bytes]:
    """The valid pair with up to four mutations in it; now and then nothing but noise."""
    pair = list(VALID)
    for _ in range(random.randint(1, 4)):
        which = random.randrange(2)
        lines = pair[which].split(b"\n")
        at = random.randrange(len(lines))
        lines[at] = mutated(lines[at], random, noise)
        kind = random.randrange(12)
        if kind == 0:
            lines.insert(random.randrange(len(lines)), random.choice(lines))
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines = [noise] if random.random() < 0.2 else lines[:at]
        pair[which] = random.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines)
    return pair[0], pair[1]


def mutated(line: bytes, random: Random, noise: bytes) -> bytes:
    """A line with a piece in, over or behind its value, or its bytes moved about."""
    key, equals, value = line.partition(b"=")
    piece = random.choice((*PIECES, noise, b"hunter22"))
    at = random.randint(0, len(line))
    return random.choice(
        (
            key + equals + piece,
            key + equals + value + piece,
            key + equals + piece + value,
            line[:at] + piece + line[at:],
            line[:at] + line[at + 1 :],
            line.lower(),
            line + b" ",
        )
    )
