"""What a twin's directory holds before anything runs: wrappers, releases, rendered templates."""

from __future__ import annotations

import json
import re
import shlex
import sys
from datetime import datetime, timedelta
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal import as_found
from ctp_runbook.rehearsal.engine.bridge import valkey_port
from ctp_runbook.rehearsal.front.protocol import read_ports
from ctp_runbook.rehearsal.plane.layout import DATABASE, Plane
from ctp_runbook.rehearsal.plane.tables import checkout_folder, infra_folder
from ctp_runbook.rehearsal.twin import Twin

__all__ = [
    "overlaid",
    "render",
    "render_templates",
    "set_keys",
    "write_env_file",
    "write_releases",
    "write_wrappers",
]

_SOURCES = {
    "ctp_cutover.template.env": "ctp_cutover.env",
    "ctp_rollback_drill.template.env": "ctp_rollback_drill.env",
    "watch.toml": "watch.toml",
    "limits.toml": "limits.toml",
}
# What is said otherwise of engines as found: keys replace those of the template, files the file.
_AS_FOUND = Path("as-found")
_SESSION = "session_new.toml"
_PLACEHOLDER = re.compile(r"<([a-z_]+)>")
_WRAPPER = """#!/bin/sh
PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}
export PYTHONPATH
exec {python}{module} "$@"
"""


def write_wrappers(twin: Twin) -> None:
    """``bin/python`` and ``bin/ctp-runbook``: this interpreter with this package, from anywhere."""
    root = shlex.quote(str(CHECKOUT))
    python = shlex.quote(sys.executable)
    for path, module in ((twin.python, ""), (twin.ctp_runbook, " -m ctp_runbook")):
        text = _WRAPPER.format(root=root, python=python, module=module)
        write_atomic(path, text.encode(), mode=0o755)


def write_releases(twin: Twin) -> None:
    """Each generation's configuration, and ``current`` pointing at the old one."""
    front, valkey = str(twin.front_dir), str(twin.valkey_dir)
    for generation in ("old", "new"):
        is_old = generation == "old"
        engine = {
            "generation": generation,
            "front_dir": front,
            "metrics_port": twin.metrics_port(generation),
            "behaviour_file": str(twin.behaviour_file(generation)),
            "valkey_dir": valkey if is_old else "",
            "quotes_per_second": 0.0 if is_old else 20.0,
            "plane_dir": str(twin.plane.dir) if twin.has_plane else "",
        }
        runner = {"front_dir": front, "valkey_dir": valkey}
        for name, content in (("core_engine", engine), ("strategy_runner", runner)):
            text = json.dumps(content, indent=2) + "\n"
            write_atomic(twin.release(generation) / f"{name}.json", text.encode())
    current = twin.dir / "current"
    current.unlink(missing_ok=True)
    current.symlink_to("releases/old")


def write_env_file(twin: Twin) -> None:
    """``plane.env``: what the gates take as ``--env-file``, so that no argv has a password."""
    secrets = twin.plane.credentials()
    names = {
        "TIMESCALE_PASSWORD": secrets.postgres,
        "ENGINE_DB_PASSWORD": secrets.quant_hft,
        "DEBEZIUM_PASSWORD": secrets.debezium,
        "CLICKHOUSE_PASSWORD": secrets.clickhouse,
    }
    text = "".join(f"{name}={value}\n" for name, value in names.items())
    write_atomic(twin.env_file, text.encode(), mode=0o600)


def render(text: str, values: dict[str, str]) -> str:
    """Fill placeholders in; in the value of a ``…_CMD`` key they are quoted for the shell.

    Raises RunbookError for a placeholder nobody has a value for.
    """
    return "".join(_render_line(line, values) for line in text.splitlines(keepends=True))


def _render_line(line: str, values: dict[str, str]) -> str:
    if line.startswith("#"):
        return line
    is_command = line.split("=", 1)[0].strip().endswith("_CMD")

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = f"known: {sorted(values)}"
            raise RunbookError(f"no value for {match[0]} in {line.strip()!r}; {known}")
        return shlex.quote(values[match[1]]) if is_command else values[match[1]]

    return _PLACEHOLDER.sub(value, line)


def set_keys(template: Path, **values: str) -> None:
    """Set keys of a rendered template otherwise, each where it stands."""
    text = template.read_text(encoding="utf-8")
    for key, value in values.items():
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", text)
    write_atomic(template, text.encode())


def render_templates(
    twin: Twin, *, watch_minutes: float, delays: as_found.Delays | None = None
) -> None:
    """Write the twin's templates for a window that opened a minute ago."""
    opens = datetime.now().astimezone().replace(microsecond=0) - timedelta(minutes=1)
    ports = read_ports(twin.front_dir)
    values = {
        "environment": twin.environment,
        "twin_dir": str(twin.dir),
        "python": str(twin.python),
        "ctp_runbook": str(twin.ctp_runbook),
        "old_metrics_port": str(twin.metrics_port("old")),
        "new_metrics_port": str(twin.metrics_port("new")),
        "td_port": str(ports["td"]),
        "md_port": str(ports["md"]),
        "valkey_port": str(valkey_port(twin.valkey_dir)),
        "window_local": opens.isoformat(),
        **(as_found.template_values(delays) if delays else {}),
        "watch_minutes": f"{watch_minutes:g}",
        **(_plane_values(twin.plane, twin.env_file) if twin.has_plane else {}),
    }
    target = twin.cutover_template.parent
    folder = checkout_folder("configs/rehearsal")
    for source, name in _SOURCES.items():
        light, overlay = folder / "light" / source, folder / _AS_FOUND / source
        file = light if light.is_file() and not twin.has_plane else folder / source
        text = file.read_text(encoding="utf-8")
        if twin.is_as_found and overlay.is_file():
            said = overlay.read_text(encoding="utf-8")
            text = overlaid(text, said) if source.endswith(".env") else said
        write_atomic(target / name, render(text, values).encode())
    if twin.is_as_found:
        text = (folder / _AS_FOUND / _SESSION).read_text(encoding="utf-8")
        write_atomic(target / _SESSION, render(text, values).encode())


def overlaid(text: str, overlay: str) -> str:
    """A template with the keys of another in the place of its own; a blank one takes its key away."""
    said = {_key_of(line): line for line in overlay.splitlines() if _key_of(line)}
    kept = [line for line in text.splitlines() if _key_of(line) not in said]
    more = [line for line in overlay.splitlines() if not line.endswith("=")]
    return "\n".join([*kept, "", *more, ""])


def _key_of(line: str) -> str:
    """The key a line sets; blank for a comment."""
    return "" if line.startswith("#") else line.partition("=")[0].strip()


def _plane_values(plane: Plane, env_file: Path) -> dict[str, str]:
    port = plane.port("postgres")
    return {
        "infra": str(infra_folder()),
        "env_file": str(env_file),
        "bootstrap_servers": plane.bootstrap,
        "clickhouse_url": plane.url("clickhouse"),
        "connect_url": plane.url("connect"),
        "postgres_port": str(port),
        "postgres_dsn": f"host=127.0.0.1 port={port} dbname={DATABASE} user=postgres",
    }
