"""What the JSON files of gates say: one frozen type a file, which is its form, its schema, its reader.

Others may write such a file too. So more may stand in it than is known here; what is known here
must be there, and of its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, ValidationError

from ctp_runbook.decoding import convert
from ctp_runbook.plan.template_keys import SLI_NAMES

__all__ = [
    "NO_READINESS",
    "UNMEASURABLE",
    "CanaryFile",
    "FlownCanary",
    "FlownHop",
    "ReadinessFacts",
    "ReadinessFile",
    "SliEntry",
    "SliValue",
    "readiness_of",
]

SliValue = bool | int | float | str
# The provenance of what this engine cannot have; its detail is the reason.
UNMEASURABLE = "not_measurable"


class SliEntry(Struct, frozen=True, kw_only=True):
    """One SLI; ``value`` None where there was none, ``sampled_utc`` as ISO 8601 with its zone."""

    name: str
    value: SliValue | None
    target: SliValue
    unit: str
    healthy: bool
    provenance: str
    detail: str
    source: str
    sampled_utc: str

    @property
    def is_unmeasurable(self) -> bool:
        """True where this engine has no such thing: it is neither well nor ill."""
        return self.provenance == UNMEASURABLE


class ReadinessFacts(Struct, frozen=True, kw_only=True):
    """Where and for what a readiness file was written, and which SLIs that environment lacks."""

    environment: str = ""
    profile: str = ""
    host: str = ""
    run_id: str = ""
    step: str = ""
    not_in_this_environment: tuple[str, ...]


class ReadinessFile(Struct, frozen=True, kw_only=True):
    """A readiness file (CONTRACT §3)."""

    overall_healthy: bool
    slis: tuple[SliEntry, ...]
    metadata: ReadinessFacts


class FlownHop(Struct, frozen=True):
    """One hop of a canary, in milliseconds."""

    hop: str
    ms: float


class FlownCanary(Struct, frozen=True, kw_only=True):
    """One canary: the hops it made, and why it did not make the next."""

    mark: str
    sent_utc: str
    hops: tuple[FlownHop, ...]
    total_ms: float
    problem: str


class CanaryFile(Struct, frozen=True, kw_only=True):
    """All canaries of one call; ``percentiles_ms`` of each hop and of the total."""

    success: bool
    dry_run: bool
    problem: str
    source: str
    topic: str
    table: str
    mark_is: str
    percentiles_ms: dict[str, dict[str, float]]
    flights: tuple[FlownCanary, ...]


class _Named(Struct, frozen=True):
    name: str


class _Outline(Struct, frozen=True):
    """A readiness file whose SLIs were not looked at yet."""

    overall_healthy: bool
    slis: tuple[Any, ...]
    metadata: ReadinessFacts


NO_READINESS = ReadinessFile(
    overall_healthy=False, slis=(), metadata=ReadinessFacts(not_in_this_environment=())
)


def readiness_of(data: object) -> tuple[ReadinessFile, Mapping[str, str]]:
    """Return decoded JSON as a readiness file as far as it is one, and what of it is none.

    The second is by the name of the SLI, or its number where nobody knows that name; blank stands
    for the file as a whole.
    """
    try:
        outline = convert(data, _Outline)
    except ValidationError as error:
        return NO_READINESS, {"": f"no readiness file: {error}"}
    slis, refused = list[SliEntry](), dict[str, str]()
    for number, sli in enumerate(outline.slis, start=1):
        try:
            slis.append(convert(sli, SliEntry))
        except ValidationError as error:
            name = _name_of(sli)
            refused[name if name in SLI_NAMES else f"SLI number {number}"] = str(error)
    file = ReadinessFile(
        overall_healthy=outline.overall_healthy, slis=tuple(slis), metadata=outline.metadata
    )
    return file, refused


def _name_of(sli: object) -> str:
    try:
        return convert(sli, _Named).name
    except ValidationError:
        return ""
