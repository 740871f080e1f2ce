"""Where the configuration and the notebooks are: in the working directory, else the checkout."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.host import caller, checkout
from ctp_runbook.plan.plan import Plan, load_plan

__all__ = ["find_config", "find_notebooks", "find_plan"]

find_config = checkout.find_config


def find_plan(
    cutover_template: Path,
    rollback_template: Path,
    *,
    limits: Path | None = None,
    watch: Path | None = None,
) -> Plan:
    """Load the plan of two templates, with the configuration that belongs to them unless named.

    Raises InputError with every problem.
    """
    return load_plan(
        cutover_template,
        rollback_template,
        limits=limits or find_config("limits.toml", template=cutover_template),
        watch=watch or find_config("watch.toml", template=cutover_template),
        environ=caller.environ(),
        base=Path.cwd(),
    )


def find_notebooks() -> Path:
    """Return the directory of the seven notebooks."""
    return checkout.get_here(Path("notebooks"))
