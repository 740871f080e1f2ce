"""The templates of configs/ops/examples/: for engines as they are found, ready but for what only an
operator knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.plan.template_keys import KEYS, SYNONYMS

ROOT = Path(__file__).parents[2]
EXAMPLES = Path("configs/ops/examples")
CUTOVER = EXAMPLES / "old_to_pure_cpp_cutover.template.env"
ROLLBACK = EXAMPLES / "old_to_pure_cpp_rollback.template.env"
# What must be installed where such a plan runs.
PROGRAMS = ("bash", "ctp-runbook", "ln")
# What the templates themselves declare, each with its reason: exceptions, and no warnings.
DECLARED = {
    r"SESSION_NOT_PROVED: NOT PROVED": 2,
    r"_CMD: NOT MEASURED": 5,
    r"HANDOVER_COMPARES: funds, order_ref not compared": 1,
    r"NEW_STRATEGY_RUNNER: the new engine sends orders itself": 1,
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout as it comes, and the programs on PATH."""
    for part in ("infra", EXAMPLES, "configs/prod"):
        link = tmp_path / part
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / part)
    for name in PROGRAMS:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(base: Path, cutover: Path = CUTOVER, rollback: Path = ROLLBACK) -> Plan:
    """The plan of a pair, with the limits and rules that are shipped."""
    return load_plan(
        cutover,
        rollback,
        limits=ROOT / "configs/limits.toml",
        watch=ROOT / "configs/watch.toml",
        environ={"PATH": str(base / "bin")},
        base=base,
    )


def test_a_plan_of_them_warns_of_placeholders_alone(base: Path) -> None:
    """What the templates declare stands apart: all of it, and nothing else."""
    plan = planned(base)
    assert [each for each in plan.warnings if " still has <" not in each] == []
    assert len(plan.declared) == sum(DECLARED.values())
    for words, times in DECLARED.items():
        assert sum(re.search(words, each) is not None for each in plan.declared) == times
    # Filled in, nothing of them is refused.
    assert [each for each in plan.execute_refusals if " still has <" not in each] == []


def test_they_are_of_engines_as_found(base: Path) -> None:
    """Bare pid files, no runner in the new one, all four facts told of its session."""
    plan = planned(base)
    assert {*plan.members} == {"old_core_engine", "old_strategy_runner", "new_core_engine"}
    new, old = plan.sessions["new"], plan.sessions["old"]
    assert (new.untold, new.lacking, new.close_only_seconds) == ((), (), 30.0)
    assert {*old.not_proved} == {"recovered", "may_trade"}
    assert plan.handover_compares == ("positions", "working_orders")
    assert plan.step("restore_redis_bridge_compat").key == "RESTORE_STRATEGY_ENGINE_COMPAT_CMD"
    assert plan.left_out == {
        *("start_new_strategy_runner", "stop_new_strategy_runner"),
    }


def test_the_watch_reads_where_the_session_is_told(base: Path) -> None:
    """Where the readiness file is stands in one place: the session's sources."""
    assert planned(base).watch.metrics["breaker_state"].read["path"] == "runtime/readiness.json"
    (base / EXAMPLES).unlink()
    (base / EXAMPLES).mkdir()
    for file in (ROOT / EXAMPLES).iterdir():
        text = file.read_text().replace("runtime/readiness.json", "/var/lib/engine/ready.json")
        (base / EXAMPLES / file.name).write_text(text)
    metrics = planned(base).watch.metrics
    assert metrics["breaker_state"].read["path"] == "/var/lib/engine/ready.json"
    assert [*metrics] == [*planned(base).watch.metrics]


@pytest.mark.parametrize("template", [CUTOVER, ROLLBACK])
def test_each_key_has_its_reason(template: Path) -> None:
    """A comment above it, or above the group that it stands in."""
    without, is_explained = [], False
    for line in (ROOT / template).read_text().splitlines():
        if not line:
            is_explained = False
        elif line.startswith("#"):
            is_explained = True
        elif not is_explained:
            without.append(line.partition("=")[0])
    assert without == ["CUTOVER_ENV_NAME"] * (template is CUTOVER) + ["ROLLBACK_ENV_NAME"] * (
        template is ROLLBACK
    )


def test_the_page_about_them_names_keys_that_there_are() -> None:
    """infra/runbook/engines_as_found.md is read beside the templates, and outlives no key."""
    page = (ROOT / "infra/runbook/engines_as_found.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=|`)", page))
    spelt = {*KEYS, *SYNONYMS, *(f"G_{key.partition('_')[2]}" for key in KEYS)}
    assert len(named) > 10
    assert named - spelt == set()
