"""A metric that a command says: a number, or one JSON object with a value in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.liveness import run_probe_apart

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["command_value", "spoken_value"]

_SHOWN = 80


def command_value(rule: MetricRule, around: Surroundings) -> Measure:
    """The source ``command``: what the rule's command line prints."""
    cwd, env, seconds = around.cwd, around.environ, rule.patience_seconds
    return lambda: spoken_value(rule.query, cwd=cwd, env=env, seconds=seconds)


def spoken_value(
    command: str, *, cwd: Path, env: Mapping[str, str], seconds: float
) -> float | None:
    """What ``command`` prints: ``12.5``, or ``{"value": 12.5, "events": 40}``.

    NaN is kept. None where it says that there was nothing to measure: ``"value": null``, or no
    events. It runs in a group of its own, which ends with it. Raises ProbeError for another exit
    code than 0, for anything else on its output, and when it does not end within ``seconds``.
    """
    code, output, said = run_probe_apart(command, cwd=cwd, env=env, seconds=seconds)
    words = f"; it said: {said}" if said else ""
    if code is None:
        raise ProbeError(f"the command did not end within {seconds:g} s{words}")
    if code != 0:
        raise ProbeError(f"the command ended with exit {code}, expected 0{words}")
    text = output.decode(errors="replace").strip()
    try:
        return _value(json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        # Cut, it could show half a secret, which nobody masks.
        shown = repr(text) if len(text) <= _SHOWN else f"{len(text)} characters"
        raise ProbeError(
            f"the command printed {shown}; expected a number, or a JSON object with a number as "
            "its value"
        ) from error


def _value(told: Any) -> float | None:
    if isinstance(told, dict):
        nothing = told["value"] is None or told.get("events") == 0
        return None if nothing else _value(told["value"])
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise TypeError(type(told).__name__)
    return float(told)
