"""The compose file before Compose itself, and Prometheus' files before its own checker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra/docker-compose.single-host.yaml"
SETTINGS = ROOT / "infra/env/prodlike.env"
PASSWORDS = sorted(set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The command of Compose: the plugin of docker, or the program of that name."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) is None:
            continue
        asked = [*words, "version"]
        if subprocess.run(asked, capture_output=True, timeout=240, check=False).returncode == 0:
            return words
    pytest.skip(
        "neither `docker compose` nor `docker-compose` runs here: "
        "install Debian's docker-compose or Ubuntu's docker-compose-v2"
    )


def _config(
    compose: list[str], *, given: dict[str, str], settings: Path = SETTINGS
) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if name not in PASSWORDS}
    project = ("-p", "quant-hft-single-host", "-f", str(COMPOSE))
    return subprocess.run(
        [*compose, *project, "--env-file", str(settings), "config"],
        env={**bare, **given},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def given() -> dict[str, str]:
    """A password for each name that the file asks for."""
    return {name: f"{name.lower()}-0123456789" for name in PASSWORDS}


def test_it_is_accepted_with_settings_and_passwords(
    compose: list[str], given: dict[str, str]
) -> None:
    """Every image, port and limit resolves, and nothing is published beyond the loopback."""
    outcome = _config(compose, given=given)
    assert outcome.returncode == 0, outcome.stderr
    assert "variable is not set" not in outcome.stderr
    resolved = yaml.safe_load(outcome.stdout)["services"]
    assert len(resolved) == 9
    assert all(":" in service["image"] for service in resolved.values())
    published = re.findall(r"host_ip: (\S+)|- (\S+):\d+:\d+", outcome.stdout)
    assert {address.split(":")[0] for pair in published for address in pair if address} == {
        "127.0.0.1"
    }


@pytest.mark.parametrize("missing", PASSWORDS)
def test_it_is_refused_without_a_password(
    compose: list[str], given: dict[str, str], missing: str
) -> None:
    """Whichever one is missing or blank, and the message says where to look."""
    for blank in ({}, {missing: ""}):
        rest = {name: value for name, value in given.items() if name != missing}
        outcome = _config(compose, given={**rest, **blank})
        assert outcome.returncode != 0
        assert f"give {missing}, see infra/env/prodlike.env" in outcome.stderr


def test_a_registry_goes_in_front_of_every_image(compose: list[str], given: dict[str, str]) -> None:
    """For hosts that reach no other."""
    prefix = {"REGISTRY_PREFIX": "registry.example.internal:5000/"}
    outcome = _config(compose, given={**given, **prefix})
    images = [service["image"] for service in yaml.safe_load(outcome.stdout)["services"].values()]
    assert images
    assert all(image.startswith(prefix["REGISTRY_PREFIX"]) for image in images)


def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    """promtool, Prometheus' own checker, finds scrape settings and every rule's query good."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: Debian's package prometheus has it")
    text = (ROOT / "infra/prometheus/prometheus.yml").read_text(encoding="utf-8")
    secret = tmp_path / "monitor_password"
    secret.write_text("monitor")
    rules = ROOT / "infra/prometheus/alerts.yml"
    text = text.replace("/etc/prometheus/alerts.yml", str(rules))
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/run/prometheus/monitor_password", str(secret))
    )
    outcome = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "SUCCESS: 22 rules found" in outcome.stdout
