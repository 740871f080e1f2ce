"""Where everything of a twin lies, and the two things every user of one asks it over HTTP.

A twin is a directory; ``Twin(dir)`` names what is in it whether it runs or not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.rehearsal.front.protocol import read_ports
from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.process import ProcessFolder

__all__ = ["MEMBERS", "PARTS", "SUPERVISORS", "Twin"]

MEMBERS = ("old_strategy_runner", "new_strategy_runner", "old_core_engine", "new_core_engine")
PARTS = ("front", "valkey")
SUPERVISORS = ("old_supervisor",)  # of which only a fault has any


@dataclass(frozen=True)
class Twin(ProcessFolder):
    """The paths and ports of a twin; its processes are members (``old_core_engine``, …) and
    parts (``front``, ``valkey``)."""

    @property
    def environment(self) -> str:
        """``rehearsal-`` and a digest of the directory: a run locks its environment on the host,
        and two twins are two environments."""
        return f"rehearsal-{hashlib.sha256(str(self.dir).encode()).hexdigest()[:8]}"

    @property
    def front_dir(self) -> Path:
        """The front's ports.json and front_log.jsonl."""
        return self.dir / "front"

    @property
    def front_log(self) -> Path:
        """The front's own record; see ``front.log.overlaps``."""
        return self.front_dir / "front_log.jsonl"

    @property
    def plane(self) -> Plane:
        """The data plane's paths, whether this twin has one or not."""
        return Plane(self.dir / "plane")

    @property
    def has_plane(self) -> bool:
        """Whether it was brought up with a data plane."""
        return self.plane.credentials_file.is_file()

    @property
    def is_as_found(self) -> bool:
        """Whether its engines are those that are found (DOMAIN.md), and not the twin's own."""
        return (self.dir / "as_found").is_dir()

    def data(self, generation: str) -> Path:
        """Where an engine as found writes what it tells."""
        return self.dir / "as_found" / generation

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts with a pid file of the twin's; with a plane Valkey is one of the plane's."""
        return PARTS[:1] if self.has_plane else PARTS

    @property
    def sentence(self) -> str:
        """What it has, beside the members that are started later."""
        parts = "the data plane" if self.has_plane else "Valkey"
        return f"front, {parts}, old engine and runner"

    @property
    def env_file(self) -> Path:
        """The plane's passwords by the names of infra/env, mode 0600."""
        return self.dir / "plane.env"

    @property
    def valkey_dir(self) -> Path:
        """Valkey's ``port`` file and log."""
        return self.dir / "valkey"

    @property
    def cutover_template(self) -> Path:
        """The rendered cutover template."""
        return self.dir / "templates" / "ctp_cutover.env"

    @property
    def rollback_template(self) -> Path:
        """The rendered rollback template."""
        return self.dir / "templates" / "ctp_rollback_drill.env"

    @property
    def watch_file(self) -> Path:
        """The rehearsal's watch.toml."""
        return self.dir / "templates" / "watch.toml"

    @property
    def limits_file(self) -> Path:
        """The rehearsal's limits.toml."""
        return self.dir / "templates" / "limits.toml"

    @property
    def python(self) -> Path:
        """An interpreter that has this package, from any working directory."""
        return self.dir / "bin" / "python"

    @property
    def ctp_runbook(self) -> Path:
        """The command, from any working directory."""
        return self.dir / "bin" / "ctp-runbook"

    def behaviour_file(self, generation: str) -> Path:
        """What that generation's engine is to do wrong; read when it starts."""
        return self.dir / "faults" / f"{generation}_core_engine.json"

    def release(self, generation: str) -> Path:
        """Configuration of a generation's engine and runner, as a release would bring it."""
        return self.dir / "releases" / generation

    def metrics_port(self, generation: str) -> int:
        """The engine's metrics port, reserved by the front for the twin's whole life."""
        return int(read_ports(self.front_dir)["reserved"][0 if generation == "old" else 1])

    def metrics_url(self, generation: str) -> str:
        """The engine's metrics page."""
        return f"http://127.0.0.1:{self.metrics_port(generation)}/metrics"

    def state(self, generation: str) -> dict[str, Any]:
        """The engine's trading state; raises ProbeError when it does not answer."""
        state: dict[str, Any] = self.call(generation, "GET", "/state")
        return state

    def call(self, generation: str, method: str, path: str, *, seconds: float = 5.0) -> Any:
        """Ask the engine's HTTP door; raises ProbeError unless it answers 200 with JSON."""
        port = self.metrics_port(generation)
        where = f"{method} {path} of the {generation} engine on port {port}"
        url = f"http://127.0.0.1:{port}{path}"
        try:
            status, body = exchange(url, seconds=seconds, method=method)
        except ProbeError as error:
            raise ProbeError(f"{where}: no answer: {error}") from error
        if status != 200:
            raise ProbeError(f"{where}: status {status}, expected 200: {body.decode().strip()}")
        return json.loads(body)
