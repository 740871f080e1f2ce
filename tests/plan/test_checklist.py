"""The checklist: complete, the same bytes every time, and free of secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.plan.checklist import EVIDENCE_FILES, checklist
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.redact import Redactor
from tests.props.plan_fixtures import make_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of the shipped templates, named as the RUNBOOK names them."""
    monkeypatch.chdir(ROOT)
    return load_plan(
        Path("configs/ops/ctp_cutover.template.env"),
        Path("configs/ops/ctp_rollback_drill.template.env"),
        limits=Path("configs/limits.toml"),
        watch=Path("configs/watch.toml"),
        environ={"PATH": "/usr/bin:/bin"},
        base=Path(),
    )


def with_command(plan: Plan, command: str) -> Plan:
    """The plan with another first command."""
    return replace(plan, gates=(plan.gates[0]._replace(command=command), *plan.gates[1:]))


def test_markdown_has_every_step_with_what_a_person_needs(plan: Plan) -> None:
    """Command, timeout, proof, undo and what to do when it fails, each under a box to tick."""
    text = checklist(plan).markdown
    for step in plan.steps:
        section = text.partition(f" {step.name}\n\n")[2].partition("\n### ")[0]
        assert f"```bash\n{step.command}\n```" in section
        assert f"at most {step.timeout_seconds:g} s" in section
        assert f"- [ ] Proved: {step.effect}" in section
        assert "Undone by: " in section
        assert "When it fails: " in section


def test_markdown_has_the_watch_with_its_limits(plan: Plan) -> None:
    """Each metric with its limit in its unit, and the trigger in words."""
    text = checklist(plan).markdown
    for rule in plan.watched:
        assert f"`{rule.name}`" in text
        assert re.search(rf"\\<= {rule.limit:g}\b", text)
    assert plan.trigger.sentence in text
    assert plan.trigger.text in text
    assert "in 1% of watches at most, all together: `order_latency_p99_ms` " in text


def test_markdown_has_every_evidence_file_and_warning(plan: Plan) -> None:
    """RUNBOOK §7's list is there, and nothing that stands in the way is left out."""
    text = checklist(plan).markdown
    assert all(f"- [ ] `{name}`" in text for name in EVIDENCE_FILES)
    assert text.count("still has ") == sum("still has " in warning for warning in plan.warnings)
    assert f"refuses until these {len(plan.execute_refusals)} are mended" in text


def test_a_gate_by_another_command_is_said_to_be_unobserved(plan: Plan) -> None:
    """It leaves no evidence, so none is on the list; what is on it instead says so."""
    other = with_command(plan, "/opt/infra/up.sh")
    text, facts = checklist(other).markdown, json.loads(checklist(other).json)
    assert "- [ ] `single_host_bootstrap_result.env`" not in text
    assert "- [ ] bootstrap\\_infra is not observed by this tool: its command is not" in text
    assert len(facts["not_observed"]) == 1
    assert "single_host_bootstrap_result.env" not in facts["evidence_files"]
    assert "not_observed" not in json.loads(checklist(plan).json)


def test_json_has_every_step_and_the_digest(plan: Plan) -> None:
    """A machine finds the same steps, in the same order, and the digest a run is bound to."""
    facts = json.loads(checklist(plan).json)
    steps = [*facts["gates"], *facts["switch"], *facts["rollback"]]
    assert [step["name"] for step in steps] == [step.name for step in plan.steps]
    assert all(step["when_it_fails"] and step["effect"] for step in steps)
    assert facts["plan_sha256"] == plan.sha256
    assert [metric["name"] for metric in facts["watch"]["metrics"]] == list(plan.monitor_keys)


def test_both_are_the_same_bytes_every_time(plan: Plan) -> None:
    """No clock, no machine path, no order that depends on the run."""
    assert checklist(plan) == checklist(plan)
    for text in checklist(plan):
        assert str(ROOT) not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_no_secret_is_printed(plan: Plan) -> None:
    """A password in a command is masked in both forms."""
    secret = with_command(plan, "PGPASSWORD=hunter22 psql postgres://ann:pa55word@db/x; a hunter22")
    secret = replace(secret, redactor=Redactor.of(["hunter22"]))
    for text in checklist(secret):
        assert "hunter22" not in text
        assert "pa55word" not in text


def test_commands_cannot_break_out_of_their_block(plan: Plan) -> None:
    """Backticks in a command get a longer fence, so that the rest is not read as markup."""
    text = checklist(with_command(plan, "echo '```'; echo '````' # <b>")).markdown
    assert "`````bash\necho '```'; echo '````' # <b>\n`````" in text


def test_a_plan_without_findings_says_so(plan: Plan) -> None:
    """Silence is not left to be understood."""
    text = checklist(replace(plan, warnings=("only a remark",), execute_refusals=())).markdown
    assert "Nothing in the templates stands in the way of `--execute`." in text
    assert "- [ ] only a remark" in text


def test_the_session_sources_stand_in_it_and_what_nobody_tells_in_red(tmp_path: Path) -> None:
    """Red, and in a word; nothing of it where the engines are asked as ever."""
    (tmp_path / "sources.toml").write_text(
        '[may_trade]\nsource = "file"\npath = "engine.json"\nfield = "mode"\n'
    )
    plan = make_plan(
        tmp_path,
        NEW_SESSION_SOURCES="sources.toml",
        NEW_SESSION_CMD="cat session",
        SESSION_NOT_PROVED="recovered: it | says nothing",
    )
    written = checklist(plan)
    assert "| new_core_engine | may trade | file engine.json: mode |" in written.markdown
    assert "| new_core_engine | settlement confirmed | NEW\\_SESSION\\_CMD |" in written.markdown
    red = '<span style="color:#c00">**✗ NOT PROVED: recovered**</span>'
    assert f"{red}, where nothing above tells it: it \\| says nothing" in written.markdown
    assert "## Declared exceptions" in written.markdown
    assert json.loads(written.json)["session_not_proved"] == {"recovered": "it | says nothing"}
    assert "session_sources" not in json.loads(checklist(make_plan(tmp_path)).json)


def test_a_secret_of_the_same_letters_as_a_fact_costs_no_fact(tmp_path: Path) -> None:
    """Somebody's passwords are the names of facts: each fact stands there, and no other secret does."""
    (tmp_path / "sources.toml").write_text(
        '[may_trade]\nsource = "file"\npath = "engine.json"\nfield = "mode"\n'
    )
    plan = make_plan(
        tmp_path,
        NEW_SESSION_SOURCES="sources.toml",
        NEW_SESSION_CMD="cat session",
        SESSION_NOT_PROVED="recovered: hunter22; settlement_confirmed: it says nothing",
    )
    secrets = ["may_trade", "recovered", "settlement_confirmed", "hunter22"]
    markdown, as_json = checklist(replace(plan, redactor=Redactor.of(secrets)))
    for fact in ("recovered", "settlement confirmed"):
        assert f"✗ NOT PROVED: {fact}" in markdown
    assert "hunter22" not in markdown + as_json


def test_a_part_that_is_not_there_is_said_where_it_is_looked_for(tmp_path: Path) -> None:
    """Who runs, and at each of its steps, which have nothing to tick."""
    runner = "NEW_STRATEGY_RUNNER"
    ends = ("STOP_CMD", "START_CMD", "ALIVE_CMD", "PID_FILE")
    given = {runner: "none", **{f"{runner}_{end}": "" for end in ends}}
    plan = make_plan(tmp_path, limits=None, environ=None, **given)
    text = checklist(plan).markdown
    why = "NEW_STRATEGY_RUNNER=none: there is no new strategy runner, its work is done in the new"
    who = text.partition("## Who runs")[2].partition("\n## ")[0]
    assert why.replace("_", "\\_") in who
    assert "| new_strategy_runner |" not in who
    for name in ("start_new_strategy_runner", "stop_new_strategy_runner"):
        section = text.partition(f" {name}\n\n")[2].partition("\n### ")[0]
        assert section.startswith(f"Skipped: {why}")
        assert "[ ]" not in section
