"""A data plane without the rest of a twin, for tests of the plane and of what works on it."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.layout import Plane

__all__ = ["plane_up", "resident_mb"]


def plane_up(directory: Path) -> Plane:
    """A plane that serves; what had been started is ended again when it does not come up."""
    plane = control.begin(directory)
    try:
        control.wait_serving(plane)
    except BaseException:
        control.down(directory)
        raise
    return plane


def resident_mb(status: control.PlaneStatus) -> float:
    """Of all parts together."""
    return sum(part.resident_mb for part in status.parts.values())
