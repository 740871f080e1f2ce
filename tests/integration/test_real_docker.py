"""`infra bootstrap --execute` on a real Docker engine: stand-in images, production's compose file.

Of the file nothing is changed but how often health is asked, and how many files may be open where
this machine allows fewer. Databases are the real ones, beside it.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ctp_runbook.result_env import parse_env
from tests.docker_engine import Engine, docker_engine
from tests.small_postgres import PASSWORDS, SmallPostgres, small_postgres
from tests.small_servers import free_port, valkey

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "infra/docker-compose.single-host.yaml").read_text(encoding="utf-8")
SERVICES = 9


@dataclass
class Host:
    """A trading host in small: the engine, the databases, the folder with the compose file."""

    engine: Engine
    postgres: SmallPostgres
    redis_url: str
    folder: Path
    given: dict[str, str] = field(default_factory=dict)

    @property
    def evidence(self) -> dict[str, str]:
        """What the last gate wrote."""
        values, problems = parse_env(self.folder / "out" / "single_host_bootstrap_result.env")
        assert problems == []
        return values

    def bootstrap(self, *, seconds: float, **more: str) -> subprocess.CompletedProcess[str]:
        """RUNBOOK 4.1, first command, with the variables that a shell would have."""
        argv = [sys.executable, "-m", "ctp_runbook", "infra", "bootstrap", "--execute"]
        argv += ["--profile", "single-host", "--project-name", "quant-hft-single-host"]
        argv += ["--compose-file", str(self.folder / "infra" / "compose.yaml")]
        argv += ["--env-file", str(ROOT / "infra/env/prodlike.env")]
        argv += ["--infra", str(ROOT / "infra"), "--evidence-dir", str(self.folder / "out")]
        argv += ["--postgres-dsn", self.postgres.dsn, "--redis-url", self.redis_url]
        return subprocess.run(
            [*argv, "--deadline-seconds", str(seconds)],
            cwd=ROOT,
            env={**os.environ, **self.engine.environ, **self.given, **more},
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host before anything of the project runs on it."""
    folder = tmp_path_factory.mktemp("host")
    shutil.copytree(ROOT / "infra", folder / "infra")
    often = re.sub(r"(interval|start_period): \d+s", r"\1: 1s", COMPOSE)
    files = min(262144, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    (folder / "infra" / "compose.yaml").write_text(often.replace("262144", str(files)))
    with docker_engine() as engine, small_postgres(migrated=False) as postgres:
        secret = "redis-geheim-5"
        with valkey(folder, "--requirepass", secret) as redis_url:
            made = Host(engine, postgres, redis_url, folder)
            names = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
            made.given = {name: f"{name.lower()}-geheim" for name in names}
            made.given |= {**PASSWORDS, "REDIS_PASSWORD": secret}
            made.given |= dict.fromkeys(re.findall(r"\$\{(\w+_IMAGE):", COMPOSE), engine.well)
            made.given |= {name: str(free_port()) for name in _ports()}
            yield made


def _ports() -> set[str]:
    return set(re.findall(r"\$\{(\w+_PORT):", COMPOSE))


def test_up_to_healthy(host: Host) -> None:
    """Nine containers come up, each is healthy by its own check, and the evidence says so."""
    done = host.bootstrap(seconds=90)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [value for key, value in host.evidence.items() if "_WAIT_HEALTHY_" in key]
    assert seen == ["running, healthy"] * SERVICES
    assert len(host.engine.containers()) == SERVICES
    assert not [secret for secret in PASSWORDS.values() if secret in done.stdout + done.stderr]


def test_a_second_time_changes_nothing(host: Host) -> None:
    """The same containers run, and CHANGES is 0."""
    before = host.engine.containers()
    done = host.bootstrap(seconds=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.evidence["SINGLE_HOST_BOOTSTRAP_OBSERVED_CHANGES"] == "0"
    assert host.engine.containers() == before


def test_another_configuration_restarts_nothing(host: Host) -> None:
    """A service that runs otherwise than the file says is named; its container is the same one."""
    before = host.engine.containers()
    done = host.bootstrap(seconds=60, REDIS_MAXMEMORY="512mb")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "service redis runs with another configuration" in done.stdout
    assert "it is not restarted under the old engine" in done.stdout
    assert host.engine.containers() == before


def test_an_unhealthy_service_is_named(host: Host) -> None:
    """With Docker's own word for its health and its last log lines; the others are left alone."""
    before = host.engine.containers()
    host.engine.docker("rm", "--force", before.pop("grafana"))
    compose = host.folder / "infra" / "compose.yaml"
    text, _, rest = compose.read_text().rpartition("retries: 6")
    compose.write_text(f"{text}retries: 1{rest}")  # Grafana is the last one
    done = host.bootstrap(seconds=30, GRAFANA_IMAGE=host.engine.sick)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "service grafana is running, unhealthy, expected running, healthy" in done.stdout
    assert "FATAL: could not map memory" in done.stdout
    after = host.engine.containers()
    assert after.pop("grafana")
    assert after == before


def test_a_missing_password_is_refused(host: Host) -> None:
    """Compose's own words say which one and where to look; nothing is started or stopped."""
    before = host.engine.containers()
    done = host.bootstrap(seconds=20, GRAFANA_PASSWORD="")
    assert done.returncode == 3
    assert "give GRAFANA_PASSWORD, see infra/env/prodlike.env" in done.stdout
    assert host.engine.containers() == before
