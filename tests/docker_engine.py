"""A Docker engine of a test's own, and images for it out of a busybox: nothing is pulled.

The daemon is Debian's ``docker.io``, as root, on a socket and folders of its own, without bridge
and firewall rules beside those of the project's network. Where it cannot be had, tests are skipped
with that reason; with ``CTP_RUNBOOK_REQUIRE_DOCKER=1`` (CI) they fail instead.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Engine", "docker_engine"]

_START_SECONDS = 30.0
_APPLETS = ("cat", "grep", "httpd", "sed", "sh", "sleep", "wget")
# Plays every service: one small web server, and the words that health checks ask for.
_SERVE = """#!/bin/sh
[ -e /sick ] && echo 'FATAL: could not map memory'
port=${GF_SERVER_HTTP_PORT:-9187}
for word in "$@"; do
  case $word in --web.listen-address=*) port=${word##*:} ;; esac
done
httpd -f -p "$port" -h /www &
trap 'exit 0' TERM
wait
"""
_ANSWERS = {
    "bin/bash": '#!/bin/sh\nexec sh "$@"\n',
    "bin/stand-in": _SERVE,
    "bin/prometheus": _SERVE,
    "bin/docker-entrypoint.sh": _SERVE,
    "docker-entrypoint.sh": _SERVE,
    "bin/redis-cli": '#!/bin/sh\n[ "$1" = SET ] && echo OK || echo role:master\n',
    "bin/pg_isready": "#!/bin/sh\n",
    "bin/psql": "#!/bin/sh\necho 1\n",
    "bin/curl": "#!/bin/sh\n",
    "bin/clickhouse-client": "#!/bin/sh\n",
    "opt/kafka/bin/kafka-topics.sh": "#!/bin/sh\n",
    "www/metrics": "kafka_brokers 1\npg_up 1\n",
    "www/-/ready": "ready\n",
    "www/api/v1/rules": "order_latency_p99_ms\n",
    "www/api/health": '{"database": "ok"}\n',
}
_SICK = {"sick": "", "www/api/health": '{"database": "failing"}\n'}


@dataclass(frozen=True)
class Engine:
    """A running daemon. ``well`` and ``sick`` are its images."""

    socket: Path
    well: str = "stand-in:well"
    sick: str = "stand-in:sick"

    @property
    def environ(self) -> dict[str, str]:
        """For whoever talks to it."""
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    def docker(self, *words: str, stdin: bytes = b"") -> str:
        """The output of a docker command."""
        done = subprocess.run(
            ["docker", *words],
            env={**os.environ, **self.environ},
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def containers(self) -> dict[str, str]:
        """Id of each container by its service."""
        told = self.docker("ps", "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}')
        return dict(line.split() for line in told.splitlines())


@contextlib.contextmanager
def docker_engine() -> Iterator[Engine]:
    """Start the daemon, make both images; containers, networks and folders are gone at the end."""
    dockerd, busybox = _programs()
    # A short path: a socket's name has room for about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="ctp-docker-"))
    engine = Engine(folder / "socket")
    argv = [dockerd, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    argv += ["--host", f"unix://{engine.socket}", "--pidfile", str(folder / "pid")]
    argv += ["--bridge", "none", "--iptables=false", "--ip-forward=false"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(engine, daemon, folder / "log")
        for image, files in ((engine.well, _ANSWERS), (engine.sick, {**_ANSWERS, **_SICK})):
            change = 'ENTRYPOINT ["/bin/stand-in"]'
            engine.docker("import", "--change", change, "-", image, stdin=_image(busybox, files))
        yield engine
    finally:
        if daemon.poll() is None:
            _clear(engine)
        daemon.terminate()
        daemon.wait(30)
        # dockerd leaves the host's own network namespace mounted there.
        for mounted in (folder / "exec" / "netns").glob("*"):
            subprocess.run(["umount", str(mounted)], check=False)
        shutil.rmtree(folder)


def _programs() -> tuple[str, Path]:
    if os.geteuid() != 0:
        _do_without("a Docker engine needs root")
    dockerd = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if dockerd is None or shutil.which("docker") is None:
        _do_without("no dockerd here: Debian's package docker.io has it")
    busybox = Path("/bin/busybox")
    if not busybox.exists() or b"libc.so" in busybox.read_bytes()[:4096]:
        _do_without("no static /bin/busybox here: Debian's package busybox-static has it")
    assert dockerd is not None
    return dockerd, busybox


def _do_without(reason: str) -> None:
    if os.environ.get("CTP_RUNBOOK_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason}; CTP_RUNBOOK_REQUIRE_DOCKER=1 requires it")
    pytest.skip(reason)


def _wait(engine: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and daemon.poll() is None:
        asked = subprocess.run(
            ["docker", "version"],
            env={**os.environ, **engine.environ},
            capture_output=True,
            check=False,
        )
        if asked.returncode == 0:
            return
        time.sleep(0.1)
    _do_without(f"dockerd does not start here: {log.read_text().splitlines()[-1:]}")


def _image(busybox: Path, files: Mapping[str, str]) -> bytes:
    """A root file system as a tar: busybox, its applets, and ``files``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _clear(engine: Engine) -> None:
    if found := engine.docker("ps", "--all", "--quiet").split():
        engine.docker("rm", "--force", "--volumes", *found)
    for network in engine.docker("network", "ls", "--quiet", "--filter", "type=custom").split():
        engine.docker("network", "rm", network)
