"""A distribution of somebody else: what it brings is planned and watched like our own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ctp_runbook.plan.config import load_watch
from ctp_runbook.watch.sampler import read_once
from ctp_runbook.watch.sources import watch_targets
from tests.props.plan_fixtures import make_plan
from tests.props.small_servers import http_page

PLUGIN = Path(__file__).parents[1] / "props" / "plugin"
WAITING = """
[metrics.orders_waiting]
label = "Orders waiting"
unit = "count"
kind = "state"
source = "example_http_json"
url = "URL"
query = "waiting"
limit = 10
direction = "max"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the plug-in to; asks no index for anything."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([*pip, *offline, str(PLUGIN)], check=True, timeout=60)
    return folder


def run_python(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with the plug-in beside us, as an operator has it."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_passes_the_test_that_others_can_run(site: Path) -> None:
    """Its own tests ask ours: nothing of tests/ is needed for that."""
    pytest_alone = [
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "--noconftest",
        "-p",
        "no:cacheprovider",
    ]
    done = run_python(site, *pytest_alone, str(PLUGIN / "check_conformance.py"), cwd=site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def rules_with(folder: Path, url: str) -> Path:
    """A plan's folder whose watch.toml has a metric of the plug-in's."""
    make_plan(folder)
    file = folder / "watch.toml"
    text = file.read_text().replace("[sources]\n", '[sources]\nexample_http_json_user = "ops"\n')
    file.write_text(text + WAITING.replace("URL", url))
    cutover = folder / "cutover.env"
    keys = "MONITOR_KEYS=order_latency_p99_ms,"
    cutover.write_text(cutover.read_text().replace(keys, f"{keys}orders_waiting,"))
    return file


def plan_of(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What ``plan`` says of the templates in ``folder``."""
    cutover = f"--cutover-template={folder / 'cutover.env'}"
    rollback = f"--rollback-template={folder / 'rollback.env'}"
    written = f"--output-json={folder / 'checklist.json'}"
    return run_python(site, "-m", "ctp_runbook", "plan", cutover, rollback, written, cwd=folder)


def test_a_plan_with_its_metric_is_made(site: Path, tmp_path: Path) -> None:
    """The checklist names its source; without the plug-in the same plan is refused."""
    rules_with(tmp_path, "http://127.0.0.1:1/")
    planned = plan_of(tmp_path, site)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert '"source": "example_http_json"' in (tmp_path / "checklist.json").read_text()
    refused = plan_of(tmp_path, tmp_path)
    assert refused.returncode == 2
    assert "orders_waiting.source: found 'example_http_json'; expected one of" in refused.stderr


def test_its_metric_is_sampled(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample goes by the metric's name; an answer that is none is an error that names whom."""
    monkeypatch.syspath_prepend(str(site))
    with http_page('{"waiting": 7}', '{"waiting": "many"}', '{"waiting": null}') as url:
        rules = load_watch(rules_with(tmp_path, url))
        plan = replace(make_plan(tmp_path), watch=rules, monitor_keys=("orders_waiting",))
        [target] = watch_targets(plan, cwd=tmp_path, environ={})
        good, bad, none = (read_once(target) for _ in range(3))
    assert (good.source, good.target) == ("example_http_json", "orders_waiting")
    assert good.series == {"orders_waiting": 7.0}
    assert url in bad.error
    assert none.ok
    assert none.series == {}
