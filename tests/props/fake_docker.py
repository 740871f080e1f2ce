"""A ``docker`` on PATH that plays a compose project out of a JSON file: a shipped fake.

It answers what the bootstrap gate asks: ``compose version``, ``config``, ``up``, and
``ps``, ``inspect`` and ``logs`` of the containers. ``up`` starts what is not running, and never anything
else; each call is written down.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

__all__ = ["FakeDocker"]

_SCRIPT = """#!{python} -SE
import json, sys, time
from pathlib import Path

state_file = Path({state!r})
state = json.loads(state_file.read_text())
words = sys.argv[1:]
with Path({calls!r}).open("a") as sink:
    sink.write(" ".join(words) + "\\n")


if state["hangs_after"] and words[:1] == ["ps"]:
    asked = Path({calls!r}).read_text().splitlines()
    number = sum(line.startswith("ps") for line in asked)
    if state["hangs_after"] < number <= state["hangs_after"] + state["hangs"]:
        time.sleep(30)


def services():
    return state["services"].items()


def containers():
    return {{**state["services"], **state["beside"]}}


def inspected(name, one):
    health = {{"Health": {{"Status": one["health"]}}}} if one["health"] else {{}}
    labels = {{"com.docker.compose.service": one.get("service", name), "com.docker.compose.config-hash": one["runs"]}}
    return {{"Id": one["id"] or name, "Name": name, "RestartCount": 0, "Config": {{"Labels": labels}},
            "State": {{"Status": one["status"], **health}}}}


if words[:1] == ["ps"]:
    asked = [one for one in containers().items() if one[1]["status"] != "absent"]
    print("\\n".join(name for name, one in asked if "oneoff=False" not in words[-1] or not one.get("oneoff")))
elif words[:1] == ["inspect"]:
    print(json.dumps([inspected(name, containers()[name]) for name in words[1:]]))
elif "--hash" in words:
    if state["refuses"]:
        sys.exit(state["refuses"])
    said = [(name, one["hash"]) for name, one in services() if name not in state["hides"]]
    print("\\n".join(name + " " + hash for name, hash in said))
elif "--format" in words:
    ports = {{n: {{"ports": [{{"published": str(p)}} for p in o["ports"]] if o["ports"] is not None else None}} for n, o in services()}}
    print(json.dumps({{"services": ports}}))
elif "up" in words:
    if state["in_use"]:
        state["in_use"] -= 1
        state_file.write_text(json.dumps(state))
        sys.exit("The name is already in use by container 7")
    if state["up_fails"]:
        sys.exit(state["up_fails"])
    for name, one in services():
        if one["status"] in ("absent", "created", "exited"):
            one.update(status="running", runs=one["hash"], health=one["becomes"])
        if one["replaced"]:
            one["id"] = "another"
    state_file.write_text(json.dumps(state))
elif "logs" in words:
    print("FATAL: could not map memory")
"""


class FakeDocker:
    """The script in ``folder``/bin, and the project it plays."""

    def __init__(self, folder: Path) -> None:
        self.state_file, self.calls = folder / "docker.json", folder / "docker.calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        script = self.bin / "docker"
        text = _SCRIPT.format(
            python=sys.executable, state=str(self.state_file), calls=str(self.calls)
        )
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self._state: dict[str, Any] = {
            "services": {},
            "beside": {},
            "refuses": "",
            "up_fails": "",
            "in_use": 0,
            "hangs_after": 0,
            "hangs": 1_000_000,
            "hides": [],
        }
        self.calls.touch()

    def service(self, name: str, **given: Any) -> None:
        """A service, running and healthy as its file says unless ``given`` otherwise."""
        plain = {"status": "running", "health": "healthy", "hash": "h1", "runs": "h1", "ports": []}
        seldom = {"id": "", "replaced": False, "becomes": "healthy"}
        self._state["services"][name] = {**plain, **seldom, **given}
        self._write()

    def beside(self, name: str, service: str, **given: Any) -> None:
        """Another container of a service, which `up` leaves alone; ``oneoff`` is of `compose run`."""
        plain = {"status": "running", "health": "healthy", "runs": "h1", "id": "", "oneoff": False}
        self._state["beside"][name] = {**plain, "service": service, **given}
        self._write()

    def set(self, **given: Any) -> None:
        """``refuses``, ``up_fails``: what config and up fail with; ``in_use``: how often up meets
        a container that another compose has just made; ``hides``: services not in the file;
        ``hangs_after``: how many `docker ps` are answered, where not all are, and ``hangs`` how
        many are not then."""
        self._state.update(given)
        self._write()

    def asked(self) -> str:
        """Every call so far."""
        return self.calls.read_text()

    def _write(self) -> None:
        self.state_file.write_text(json.dumps(self._state))
