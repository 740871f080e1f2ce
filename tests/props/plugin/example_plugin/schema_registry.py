"""The gate ``example-schema-registry``: the registry answers and names its subjects."""

from __future__ import annotations

from functools import partial

import httpx

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task

__all__ = ["registry_tasks"]


def registry_tasks(context: GateContext) -> tuple[Task, ...]:
    """One look at the registry of ``--endpoint example-registry=URL``; none without it."""
    url = context.options.endpoints.get("example-registry", "")
    return (
        (Task("read_subjects", f"GET {url}/subjects", partial(_look, context, url)),) if url else ()
    )


def _look(context: GateContext, url: str) -> Observation:
    try:
        answer = httpx.get(f"{url}/subjects", timeout=context.deadline.call(2.0))
        subjects = [str(name) for name in answer.raise_for_status().json()]
    except (httpx.HTTPError, ValueError, TypeError) as error:
        raise ProbeError(f"{url}: {type(error).__name__}: {error}") from error
    problems = () if subjects else ("no subject is registered; register the schemas",)
    return Observation({"subjects": str(len(subjects))}, problems)
