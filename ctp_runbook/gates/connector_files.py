"""``infra/debezium/*.json``: the connectors as they are to be.

A file is what Connect's ``PUT /connectors/NAME/config`` takes, or ``{"name":…, "config":…}``. A
value ``${NAME}`` is filled in from the environment or the env file, in this process alone; a
reference with a colon (``${file:…}``, ``${env:…}``) is Connect's own config provider's, and
goes out and comes back as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctp_runbook.errors import ConfigError, Problem
from ctp_runbook.redact import MASK, is_secret_name

__all__ = ["Difference", "WantedConnector", "differences", "load_connectors"]

_OURS = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class WantedConnector:
    """One connector; ``config`` has secrets in it and is never written down."""

    name: str
    config: Mapping[str, str] = field(repr=False)
    source: str

    @property
    def slot(self) -> str:
        """Its replication slot; Debezium's default where the file names none."""
        return self.config.get("slot.name", "debezium")

    @property
    def publication(self) -> str:
        """Its publication; Debezium's default where the file names none."""
        return self.config.get("publication.name", "dbz_publication")

    @property
    def tables(self) -> tuple[str, ...]:
        """``schema.table`` of each table it captures, where they are listed one by one."""
        listed = self.config.get("table.include.list", "").split(",")
        return tuple(
            name.strip().replace("\\", "") for name in listed if re.fullmatch(r"[\w.\\ ]+", name)
        )


@dataclass(frozen=True)
class Difference:
    """One key of a live configuration that is not as its file says; None for a key not there."""

    key: str
    live: str | None
    wanted: str | None

    @property
    def sentence(self) -> str:
        """``key is X, expected Y``; of a secret only that it differs."""
        if is_secret_name(self.key):
            return f"{self.key} differs (not shown)"
        told = (_shown(self.live), _shown(self.wanted))
        return f"{self.key} is {told[0]}, expected {told[1]}"


def _shown(value: str | None) -> str:
    return "not set" if value is None else repr(value)


def differences(live: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[Difference, ...]:
    """Where a live configuration is not the wanted one. ``name`` is Connect's own addition."""
    keys = sorted({*live, *wanted} - {"name"})
    pairs = ((key, live.get(key), wanted.get(key)) for key in keys)
    return tuple(Difference(*one) for one in pairs if not _equal(one[1], one[2]))


def _equal(live: str | None, wanted: str | None) -> bool:
    # A worker may be configured to give secrets back masked: that says nothing against them.
    return live == wanted or (live is not None and live in (MASK, "******") and wanted is not None)


def load_connectors(
    folder: Path, *, values: Mapping[str, str], over: Mapping[str, str] | None = None
) -> tuple[WantedConnector, ...]:
    """The connectors of a folder, by file name. Raises ConfigError with every problem.

    ``over`` are keys that are otherwise here than in the files: the database's address, say.
    """
    found, problems = list[WantedConnector](), list[Problem]()
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(_load(path, values, over or {}))
        except ConfigError as error:
            problems += error.problems
    if not found and not problems:
        problems.append(_problem(folder, "", "no *.json", "a file a connector"))
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _load(path: Path, values: Mapping[str, str], over: Mapping[str, str]) -> WantedConnector:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([_problem(path, "", f"no JSON ({error})", "a JSON object")]) from error
    config = data.get("config", data) if isinstance(data, dict) else None
    if not isinstance(config, dict) or "connector.class" not in config:
        raise ConfigError(
            [_problem(path, "connector.class", "no such key", "a connector's config")]
        )
    name = str(data.get("name") or config.get("name") or path.stem)
    config = {**config, **over}
    if problems := list(_unfilled(path, config, values)):
        raise ConfigError(problems)
    filled = {key: _fill(_text(value), values) for key, value in config.items() if key != "name"}
    return WantedConnector(name, filled, str(path))


def _text(value: object) -> str:
    """As Connect writes it: its configurations are texts all through."""
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _OURS.sub(lambda match: values[match[1]], text)


def _unfilled(
    path: Path, config: dict[str, object], values: Mapping[str, str]
) -> Iterator[Problem]:
    for key, value in config.items():
        for name in _OURS.findall(_text(value)):
            if not values.get(name):
                wanted = f"{name} in the environment or the env file"
                yield _problem(path, key, f"${{{name}}}, which has no value", wanted)


def _problem(path: Path, key: str, found: str, expected: str) -> Problem:
    return Problem(str(path), 0, key, found, expected, "mend the file, or set what it asks for")
