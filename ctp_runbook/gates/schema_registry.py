"""The gate ``schema-registry``: it answers, refuses what would break readers, and has its subjects.

It is only looked at: a registry's compatibility is a decision of whoever owns the schemas.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.probes.metrics import ask

__all__ = ["registry_tasks"]

_CALL_SECONDS = 5.0
_GATE = "ctp-runbook infra schema-registry"


def registry_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the registry, then look at its subjects; none without an address."""
    flag = context.options.endpoints.get("schema-registry", "")
    url = (flag or context.value("SCHEMA_REGISTRY_URL")).rstrip("/")
    registry = _Registry(context, url)
    reach = Task("reach_registry", f"GET {url}/config", registry.reach, is_vital=True)
    return (reach, Task("read_subjects", f"GET {url}/subjects", registry.subjects)) if url else ()


@dataclass(frozen=True)
class _Registry:
    context: GateContext
    url: str

    def reach(self) -> Observation:
        """Ask for its compatibility; NONE takes any change of a schema, readable or not."""
        level = str(self._get("/config", dict).get("compatibilityLevel", "unknown"))
        if level not in ("NONE", "unknown"):
            return Observation({"compatibility": level})
        why = f"compatibility is {level}, expected BACKWARD or stricter; set it, then `{_GATE}`"
        return Observation({"compatibility": level}, (why,))

    def subjects(self) -> Observation:
        """Look at each subject's latest version, which a writer will be given."""
        names = sorted(map(str, self._get("/subjects", list)))
        problems = [
            f"subject {name}: its latest version has no schema"
            for name in names
            if not self._get(f"/subjects/{quote(name, safe='')}/versions/latest", dict).get(
                "schema"
            )
        ]
        if not names:
            problems.append(f"no subject is registered; register the schemas, then `{_GATE}`")
        return Observation({"subjects": str(len(names))}, tuple(problems))

    def _get(self, path: str, kind: type[Any]) -> Any:
        """Return the JSON under ``path``, which must be of this kind. Raises ProbeError."""
        seconds = self.context.deadline.call(_CALL_SECONDS)
        status, body = ask(f"{self.url}{path}", seconds=seconds)
        if status != 200:
            raise ProbeError(f"{self.url}{path}: HTTP {status}; is it the registry's address?")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ProbeError(f"{self.url}{path}: not JSON: {error}") from error
        if not isinstance(answer, kind):
            kinds = f"a {type(answer).__name__}, not a registry's answer"
            raise ProbeError(f"{self.url}{path}: {kinds}")
        return answer
