"""A number in the JSON object that a service of this host shows under an address."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.metrics import fetch
from ctp_runbook.probes.strict_json import decode_object, keys_of, shown

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["json_number", "number_at"]


def json_number(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``http_json``: the number at the rule's query on the page at its url."""
    del around  # nothing but the address is needed

    def measure() -> float | None:
        body = fetch(rule.url, seconds=rule.patience_seconds)
        return number_at(decode_object(body, subject=rule.url).fields, rule.query, where=rule.url)

    return measure


def number_at(document: dict[str, Any], path: str, *, where: str) -> float | None:
    """Return the number at ``path`` (``pools.orders.waiting``); None where null stands there.

    Raises ProbeError, naming the keys that are there, for a path that leads nowhere, and for
    anything but a number at its end.
    """
    value: object = document
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            there = keys_of(value) if isinstance(value, dict) else shown(value)
            raise ProbeError(f"{where}: no {key!r} of {path}; found {there}; correct the query")
        value = value[key]
    if value is None:
        return None
    # A whole number that no float holds is none of ours.
    with contextlib.suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    raise ProbeError(f"{where}: {path} is {shown(value)}, expected a number or null")
