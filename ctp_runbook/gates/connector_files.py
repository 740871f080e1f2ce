"""``infra/debezium/*.json``: the connectors as they are to be.

A file is what Connect's ``PUT /connectors/NAME/config`` takes, or ``{"name":…, "config":…}``. A
value ``${NAME}`` is filled in from the environment or the env file, in this process alone; a
reference with a colon (``${file:…}``, ``${env:…}``) is Connect's own config provider's, and
goes out and comes back as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
        live, wanted = (
            "not set" if value is None else repr(value) for value in (self.live, self.wanted)
        )
        return f"{self.key} is {live}, expected {wanted}"


def differences(live: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return where a live configuration is not the wanted one; ``name`` is Connect's addition."""
    keys = sorted({*live, *wanted} - {"name"})
    pairs = (Difference(key, live.get(key), wanted.get(key)) for key in keys)
    return tuple(pair for pair in pairs if not _agree(pair))


def _agree(pair: Difference) -> bool:
    # A worker may be configured to give secrets back masked: that says nothing against them.
    is_masked = pair.live in (MASK, "******") and pair.wanted is not None
    return pair.live == pair.wanted or is_masked


def load_connectors(
    folder: Path, *, values: Mapping[str, str], over: Mapping[str, str] | None = None
) -> tuple[WantedConnector, ...]:
    """Read the connectors of a folder, by file name. Raises ConfigError with every problem.

    ``over`` are keys that are otherwise here than in the files: the database's address, say.
    """
    connectors, problems = list[WantedConnector](), list[Problem]()
    for path in sorted(folder.glob("*.json")):
        try:
            connectors.append(_load(path, values, over or {}))
        except ConfigError as error:
            problems += error.problems
    if not connectors and not problems:
        problems.append(_problem(folder, "", "no *.json", "a file a connector"))
    if problems:
        raise ConfigError(problems)
    return tuple(connectors)


def _load(path: Path, values: Mapping[str, str], over: Mapping[str, str]) -> WantedConnector:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([_problem(path, "", f"no JSON ({error})", "a JSON object")]) from error
    config = data.get("config", data) if isinstance(data, dict) else None
    if not isinstance(config, dict) or "connector.class" not in config:
        missing = _problem(path, "connector.class", "no such key", "a connector's config")
        raise ConfigError([missing])
    name = str(data.get("name") or config.get("name") or path.stem)
    texts = {key: _text(value) for key, value in {**config, **over}.items()}
    unfilled = [
        (key, variable)
        for key, text in texts.items()
        for variable in _OURS.findall(text)
        if not values.get(variable)
    ]
    if unfilled:
        where = "in the environment or the env file"
        raise ConfigError(
            _problem(path, key, f"${{{variable}}}, which has no value", f"{variable} {where}")
            for key, variable in unfilled
        )
    texts.pop("name", None)
    filled = {key: _OURS.sub(lambda match: values[match[1]], text) for key, text in texts.items()}
    return WantedConnector(name, filled, str(path))


def _text(value: object) -> str:
    """Return a value as Connect writes it: its configurations are texts all through."""
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _problem(path: Path, key: str, found: str, expected: str) -> Problem:
    return Problem(str(path), 0, key, found, expected, "mend the file, or set what it asks for")
