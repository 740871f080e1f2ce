"""Readiness files out of as little as a test has to say of them."""

from __future__ import annotations

from typing import Any

from ctp_runbook.record.gate_files import ReadinessFile, readiness_of

__all__ = ["readiness_file"]

_SLI = {
    "name": "x",
    "value": 1.0,
    "target": 1.0,
    "unit": "",
    "healthy": True,
    "provenance": "measured",
    "detail": "",
    "source": "",
    "sampled_utc": "",
}


def readiness_file(*slis: dict[str, Any]) -> ReadinessFile:
    """Read a file with these SLIs, each of which says what is not said here."""
    file = {"overall_healthy": False, "metadata": {"not_in_this_environment": []}}
    read, _ = readiness_of({**file, "slis": [{**_SLI, **sli} for sli in slis]})
    return read
