"""A Docker engine of one test's own: Debian's docker.io in its own network and process names.

Nothing of it outlives it: its first process dies with the test, and the kernel ends what it
started. Its networks and the ports it publishes are its own, so that the compose file's ports are
free there, whatever this machine serves. Where it cannot run, tests are skipped with that reason;
with ``CTP_RUNBOOK_REQUIRE_DOCKER=1`` (CI) they fail instead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.props.stand_in_image import BUSYBOX, IMAGE, stand_in_rootfs

__all__ = ["Engine", "private_engine"]

_TOOLS = ("docker", "dockerd", "docker-compose", "unshare", "nsenter")
_READY_SECONDS = 30.0
_START = """\
busybox ip link set lo up
exec dockerd --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/pid --host unix://$PWD/sock \
  --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --bridge=none
"""


@dataclass(frozen=True)
class Engine:
    """A running engine; ``pid`` is in its network."""

    folder: Path
    pid: int

    @property
    def environ(self) -> dict[str, str]:
        """Where clients find it."""
        return {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/sock"}

    def inside(self, *argv: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
        """A command in the engine's network, where the published ports are."""
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *argv],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def docker(self, *words: str) -> str:
        """The output of `docker WORDS`."""
        done = subprocess.run(
            ["docker", *words], env=self.environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def remove_containers(self) -> None:
        """Take away every container, by KILL; volumes stay."""
        if listed := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", *listed)

    def tag(self, names: set[str]) -> None:
        """Build the stand-in image and give it these names."""
        rootfs = self.folder / "rootfs.tar"
        stand_in_rootfs(rootfs)
        change = ("--change", 'ENTRYPOINT ["/bin/start"]', "--change", "ENV PATH=/bin")
        self.docker("import", *change, str(rootfs), IMAGE)
        rootfs.unlink()
        for name in names:
            self.docker("tag", IMAGE, name)


@contextlib.contextmanager
def private_engine() -> Iterator[Engine]:
    """Start the engine; ended by the ids of its own processes, its folder removed."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        _out_of_reach(f"{', '.join(missing)} not installed")
    if not BUSYBOX.exists():
        _out_of_reach("busybox-static not installed")
    if os.geteuid():
        _out_of_reach("needs root")
    # Not tmp_path: the path of a socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ctp-runbook-docker-"))
    argv = ["unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=KILL"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*argv, "sh", "-ec", _START], cwd=folder, stdout=log, stderr=log)
    engine = Engine(folder, process.pid)
    try:
        _wait(engine, process)
        yield engine
    finally:
        _end(engine, process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY_SECONDS
    asked = ["docker", "version"]
    while subprocess.run(asked, env=engine.environ, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > end:
            lines = (engine.folder / "log").read_text(errors="replace").splitlines()[-3:]
            _out_of_reach(f"dockerd does not serve: {' | '.join(lines)}")
        time.sleep(0.1)


def _end(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    """Containers first, then TERM for dockerd; the kernel ends what is left of it."""
    with contextlib.suppress(AssertionError):
        engine.remove_containers()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children():
            child.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _out_of_reach(why: str) -> None:
    reason = f"no Docker engine of our own: {why}"
    if os.environ.get("CTP_RUNBOOK_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason}; CTP_RUNBOOK_REQUIRE_DOCKER=1 requires it")
    pytest.skip(reason)
