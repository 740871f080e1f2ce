"""Where the configuration and the notebooks are: in the working directory, else the checkout."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import caller
from ctp_runbook.host.checkout import CHECKOUT, find_here
from ctp_runbook.plan.plan import Plan, load_plan

__all__ = ["find_config", "find_notebooks", "find_plan"]


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


def find_config(name: str, *, template: Path) -> Path:
    """Return the file beside the template, else ``configs/NAME`` here, else that of the checkout.

    A rehearsal's templates bring their own limits.toml and watch.toml along.
    """
    beside = template.parent / name
    return beside if beside.is_file() else _find(Path("configs") / name)


def find_notebooks() -> Path:
    """Return the directory of the seven notebooks."""
    return _find(Path("notebooks"))


def _find(path: Path) -> Path:
    if place := find_here(path):
        return place
    raise RunRefused(f"{path} is neither here nor in {CHECKOUT}; run in a checkout, or name it")
