"""A distribution of somebody else: what it brings is planned, watched, run and shown like our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.gates.gate import judge_gate_evidence
from ctp_runbook.host.clocks import Clocks
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.gate_table import find_gate, gates_in
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.topology import gate_topology
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
    subprocess.run([*pip, *offline, str(PLUGIN)], check=True, timeout=240)
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
        timeout=240,
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
    assert "2 passed" in done.stdout


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
        good, bad, none = (read_once(target, clocks=Clocks()) for _ in range(3))
    assert (good.source, good.target) == ("example_http_json", "orders_waiting")
    assert good.series == {"orders_waiting": 7.0}
    assert url in bad.error
    assert none.ok
    assert none.series == {}


def infra(site: Path, run: RunDir, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A gate command whose evidence goes to the run's."""
    folder = f"--evidence-dir={run.evidence}"
    return run_python(site, "-m", "ctp_runbook", "infra", *arguments, folder, cwd=run.path)


def test_its_gate_is_run_and_shown(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own command, with evidence like ours, which can be read where it is not installed."""
    run = RunDir(tmp_path / "run")
    run.evidence.mkdir(parents=True)
    with http_page('["orders-value"]') as url:
        endpoint = f"--endpoint=example-registry={url.removesuffix('/metrics')}"
        done = infra(site, run, "example-schema-registry", "--execute", endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gate example-schema-registry ok: read_subjects ok" in done.stdout
    [stranger] = gates_in(run.evidence)
    assert stranger.prefix == "EXAMPLE_SCHEMA_REGISTRY"
    assert list(judge_gate_evidence(run.evidence / stranger.file, gate=stranger, real=True)) == []
    assert gate_topology(run) is None
    monkeypatch.syspath_prepend(str(site))
    assert list(gates_in(run.evidence)) == [find_gate("example-schema-registry")]
    seen = gate_topology(run)
    assert seen is not None
    assert [one.key for one in seen.stations if one.state == "ok"] == ["kafka"]


def test_its_gate_is_named_by_help_and_fails_like_ours(site: Path, tmp_path: Path) -> None:
    """Exit 3 where nobody answers; without the plug-in there is no such command."""
    run = RunDir(tmp_path / "run")
    run.evidence.mkdir(parents=True)
    told = run_python(site, "-m", "ctp_runbook", "infra", "--help", cwd=tmp_path).stdout
    assert "example-schema-registry  The registry has its subjects." in told
    nobody = "--endpoint=example-registry=http://127.0.0.1:1"
    failed = infra(site, run, "example-schema-registry", "--execute", nobody)
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert "FAILED: read_subjects: http://127.0.0.1:1" in failed.stdout
    unknown = infra(tmp_path, run, "example-schema-registry", "--execute", nobody)
    assert unknown.returncode == 2
