"""What 01 shows of a plan, and when it is not the plan of the run."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.show.blocks import Block, Facts, Notes, Table
from ctp_runbook.show.run_blocks import facts_of_plan

__all__ = ["plan_blocks", "refuse_other_plan"]


def plan_blocks(history: History, made: Plan, *, checklist: Path) -> list[Block]:
    """Facts, warnings, steps, commands."""
    rows = [
        (n, s.phase.value, s.name, f"{s.timeout_seconds:g} s", s.effect, ", ".join(s.undo))
        for n, s in enumerate(made.steps, start=1)
    ]
    commands = [(s["name"], s["command"]) for s in history.plan["steps"]]
    columns = ("#", "phase", "step", "at most", "done when", "undone by")
    return [
        facts_of_plan(history),
        Notes("warn", made.warnings, "Warnings"),
        Notes("bad", made.execute_refusals, "--execute would refuse"),
        Table(columns, rows, "Steps", numbers=frozenset({"#", "at most"})),
        Table(("step", "command"), commands, "Commands", frozenset({"command"}), folded=True),
        Facts([("checklist", checklist)]),
    ]


def refuse_other_plan(history: History, made: Plan, *, execute: bool) -> None:
    """Raise RunRefused when the run was made from another plan, or is of another kind."""
    recorded = history.created["plan_sha256"]
    if recorded != made.sha256:
        raise RunRefused(
            f"run {history.run_id} was made from a plan with sha256 {recorded[:12]}…; these "
            f"templates give {made.sha256[:12]}…; name the run's own templates, or start a new run"
        )
    if history.is_dry_run is (execute is True):
        kind = "a dry run" if history.is_dry_run else "a real run"
        raise RunRefused(
            f"run {history.run_id} is {kind}; execute = {execute} does not fit; set it to "
            f"{not execute}, or start a new run"
        )
