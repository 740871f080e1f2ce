"""What a source must keep, ours or another distribution's: a test of theirs asks ``check_source``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.clocks import Clocks
from ctp_runbook.host.seam import Clock
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plugins import load_named
from ctp_runbook.plan.sources import KINDS, SOURCES, Source, Surroundings

__all__ = ["check_source"]

_NOBODY = "127.0.0.1:1"  # nobody listens on the port of tcpmux, and nobody but root may
_SLACK_SECONDS = 1.5
_PATH_ALONE: Mapping[str, str] = {"PATH": "/usr/bin:/bin"}


def check_source(
    row: Source, *, query: str = "ctp_runbook_conformance", clock: Clock | None = None
) -> tuple[str, ...]:
    """Return what is wrong with a source, a sentence each; empty where it conforms.

    Its row is looked at, and then it is asked for ``query`` where nobody answers: that must be a
    ProbeError, in time by ``clock`` (this host's where None). Opens sockets towards port 1 of this
    host.
    """
    findings = tuple(_row_findings(row))
    if findings or not row.performer:
        return findings
    return tuple(_silence_findings(row, query, clock or Clocks()))


def _row_findings(row: Source) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", row.name):
        yield f"the name {row.name!r}; expected a-z, 0-9 and _"
    if strange := sorted(set(row.kinds) - set(KINDS)):
        yield f"kinds {', '.join(strange)}; expected some of {', '.join(KINDS)}"
    if not row.kinds:
        yield "no kinds: no metric could come from it"
    if row.url not in ("no", "may", "must"):
        yield f"url {row.url!r}; expected no, may or must"
    if unsaid := sorted(set(row.needs) - set(row.settings)):
        yield f"it needs {', '.join(unsaid)}, which is none of its settings"
    if taken := sorted(set(row.reads) & set(MetricRule.__struct_fields__)):
        yield f"it reads {', '.join(taken)}, which every rule has"
    yield from _strangers(row)
    yield from _performer_findings(row)


def _strangers(row: Source) -> Iterator[str]:
    """What only our own rows may do."""
    if SOURCES.get(row.name) is row:
        return
    if row.name in SOURCES:
        yield f"{row.name} is a source of ctp_runbook's own: theirs would never be asked"
    if row.is_page:
        yield "is_page: a record is judged where no plug-in is, so pages are ctp_runbook's own"
    # Two distributions must not read the same key of [sources] with different meanings.
    for setting in row.settings:
        if not setting.startswith(f"{row.name}_") and setting != "env_file":
            yield f"the setting {setting}; expected {row.name}_{setting}"


def _performer_findings(row: Source) -> Iterator[str]:
    if row.is_page and not row.performer:
        return
    try:
        performer = load_named(row.performer)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"performer {row.performer!r} cannot be imported: {error}"
        return
    if not callable(performer):
        yield f"performer {row.performer} is a {type(performer).__name__}; expected a function"


def _silence_findings(row: Source, query: str, clock: Clock) -> Iterator[str]:
    """It is made without asking anybody, and a silent source is an error within its time."""
    settings = {key: f"http://{_NOBODY}" if key.endswith("_url") else _NOBODY for key in row.needs}
    rule = _rule(row, query)
    try:
        measure = row.measure(rule, Surroundings(settings, Path.cwd(), _PATH_ALONE))
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        yield f"it cannot be made before anybody is asked: {type(error).__name__}: {error}"
        return
    began = clock.mono()
    try:
        value = measure()
        yield f"where nobody answers it says {value!r}; expected ProbeError"
    except ProbeError as error:
        if not str(error).strip():
            yield "its ProbeError is blank; expected who was asked, and what happened"
    except Exception as error:  # noqa: BLE001  told to the author, whatever it is
        yield f"where nobody answers it raises {type(error).__name__}; expected ProbeError"
    took, due = clock.mono() - began, rule.patience_seconds + _SLACK_SECONDS
    if took > due:
        yield f"where nobody answers it took {took:.1f} s; expected rule.patience_seconds at most"


def _rule(row: Source, query: str) -> MetricRule:
    return MetricRule(
        name="conformance",
        label="Conformance",
        unit="count",
        kind=row.kinds[0],
        source=row.name,
        query=query,
        limit=1.0,
        direction="max",
        url=f"http://{_NOBODY}/" if row.url == "must" else "",
        labels=dict.fromkeys(row.labels, "conformance"),
        reads={"path": f"/{query}/none"},
    )
