"""A watch in a process of its own, to be stopped, starved and lied to: python -m tests.props.watched.

Arguments: a folder with ``rules.toml``, the URL of the engine's page, seconds of watch, and after
how many of them the wall clock is set an hour ahead (0: never). A file ``step`` says that it was,
a file ``end`` in the folder ends the watch as an operator would.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from ctp_runbook.host.clocks import Clocks
from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import own_identity
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.history import pinned
from ctp_runbook.record.kinds import RequestTaken
from ctp_runbook.run.window import Watch
from ctp_runbook.run.world import HERE
from tests.props.example_records import header_like
from tests.props.plan_fixtures import make_plan, open_context

__all__ = ["main", "watch_header"]

_HOUR = 3600.0


def watch_header(plan: Plan) -> dict[str, Any]:
    """What a journal's header says of the plan, as far as a watch is judged again by it."""
    rules = plan.watch
    return {
        "monitor_minutes": plan.monitor_minutes,
        "monitor_keys": list(plan.monitor_keys),
        "trigger_text": plan.trigger.text,
        "watch": {
            "metrics": {key: rules.metrics[key] for key in plan.monitor_keys},
            "tolerance_inconclusive_seconds": rules.tolerance_inconclusive_seconds,
            "tolerance_error_seconds": rules.tolerance_error_seconds,
            "recovery_seconds": rules.recovery_seconds,
        },
    }


def _set_ahead(after: float) -> None:
    """From then on the wall clock of this process is an hour ahead."""
    real, due = time.time, time.monotonic() + after
    time.time = lambda: real() + (_HOUR if time.monotonic() >= due else 0.0)


def main() -> None:
    """Watch until the window ends or somebody ends it."""
    folder, url, seconds, step = sys.argv[1:5]
    room = Path(folder)
    rules = load_watch(room / "rules.toml")
    plan = make_plan(
        room, POST_SWITCH_MONITOR_MINUTES=repr(float(seconds) / 60), NEW_CORE_ENGINE_METRICS_URL=url
    )
    keys = tuple(rules.metrics)
    units = {key: rule.unit for key, rule in rules.metrics.items()}
    trigger = parse_trigger(f"{keys[0]} > 1000", units=units, file="watched", line=1)
    plan = structs.replace(plan, watch=rules, monitor_keys=keys, trigger=trigger)

    def requests() -> Iterable[RequestTaken]:
        if (room / "end").exists():
            (room / "end").unlink()
            return [
                RequestTaken(request="rollback", by="ops", reason="", requested_utc="", file="file")
            ]
        return []

    with open_context(room, plan=plan) as context:
        context.record(
            header_like(run_id=context.run.run_id, dry_run=False, plan=watch_header(plan))
        )
        own = own_identity()  # as long as this process lives, so do the members
        for member in ("new_core_engine", "new_strategy_runner"):
            context.record(pinned(member, "", Pin(own)))
        if float(step):
            _set_ahead(float(step))
        print(context.run.path, flush=True)
        moved = replace(HERE, clock=Clocks(wall=lambda: time.time()))
        trouble = Watch(replace(context, world=moved), requests=requests).run()
        print("PASSED" if trouble is None else trouble.cause, flush=True)


if __name__ == "__main__":
    main()
