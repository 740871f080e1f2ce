"""infra/fleet/ over light twins as hosts: real ansible-core, a real Airflow, and controllers that are killed.

What each host says of itself is all that a controller goes by: its own record, asked for by command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import JournalError
from ctp_runbook.host.checkout import find_config
from ctp_runbook.model import State
from ctp_runbook.plan.plan import load_plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.past_runs import PastRun, past_runs
from ctp_runbook.rehearsal import faults, stack
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.twin import Twin
from tests.props.maven_kafka import CACHE
from tests.props.twin_tools import ROOT, events, wait_until

pytestmark = pytest.mark.timeout(400)
FLEET = ROOT / "infra" / "fleet"
WATCH_SECONDS = 3.0
_WAVE_SECONDS = 240.0
COMMAND = Path(sys.executable).parent / "ctp-runbook"


# --- controllers in rooms of their own --------------------------------------------


def installed(name: str) -> Path:
    """The programs of a lock of infra/fleet/, in a virtual environment that is made once."""
    lock = FLEET / f"{name}.lock"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = CACHE / f"{name}-{digest}"
    if not (target / "ready").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        python = target / "bin" / "python"
        words = ["--quiet", "--require-hashes", "-r", str(lock)]
        uv = [str(COMMAND.parent / "uv"), "pip", "install", "--python", str(python), *words]
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *words]
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        # As `make install` does it: uv, and where it reaches no index that pip is told of, pip.
        if subprocess.run(uv, check=False).returncode:
            subprocess.run(pip, check=True)
        (target / "ready").touch()
    return target / "bin"


@pytest.fixture(scope="module")
def ansible() -> Path:
    """Where ansible-playbook is."""
    return installed("ansible-core")


# --- hosts ------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """A light twin, and its folder of runs: what another machine would be."""

    name: str
    twin: Twin
    plan_sha256: str

    @property
    def outputs(self) -> Path:
        """Its runs."""
        return self.twin.dir.parent / "outputs"

    @property
    def templates(self) -> str:
        """The options that name its templates."""
        return (
            f"--cutover-template {self.twin.cutover_template} "
            f"--rollback-template {self.twin.rollback_template}"
        )

    @property
    def runs(self) -> list[PastRun]:
        """Every real run that it ever had."""
        return [run for run in past_runs(self.outputs).runs if not run.is_dry]

    @property
    def outcomes(self) -> list[str]:
        """How each real run ended; where it stands, of one that goes on."""
        return [run.outcome or run.state for run in self.runs]

    @property
    def state(self) -> State | None:
        """Where its last real run stands; None without one."""
        with contextlib.suppress(JournalError, OSError, IndexError):
            journal = Path(self.runs[-1].path) / "journal.jsonl"
            return History.of(read_journal(journal).records).state
        return None

    @property
    def is_untouched(self) -> bool:
        """True where the old engine trades, logged in once, and nobody else ever did."""
        log = self.twin.front_log
        return trading_generations(log) == {"old"} and len(events(log, "logged_in", "login")) <= 2


@contextlib.contextmanager
def hosts_of(folder: Path, *names: str, fault: tuple[str, str] = ("", "")) -> Iterator[list[Host]]:
    """Twins as hosts, brought up at once, in the order of their names; ``fault`` breaks one of them."""
    with ThreadPoolExecutor() as pool:

        def up(name: str) -> Twin:
            return stack.up(folder / name / "twin", watch_minutes=WATCH_SECONDS / 60)

        twins: list[Twin] = []
        try:
            for twin in pool.map(up, names):
                twins.append(twin)
                (twin.dir.parent / "outputs").mkdir()
            hosts = [planned(name, twin) for name, twin in zip(names, twins, strict=True)]
            for host in hosts:
                if host.name == fault[0]:
                    faults.apply(host.twin, fault[1])
            yield hosts
            for host in hosts:
                assert overlaps(host.twin.front_log) == []
        finally:
            end_all_of(folder)
            downs = list(pool.map(lambda name: stack.down(folder / name / "twin"), names))
            assert [down.left for down in downs] == [() for _ in names]


def end_all_of(folder: Path) -> None:
    """SIGKILL for controllers and for whoever conducts a run in a folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            if bytes(folder) in words and (b"ctp_runbook.run." in words or b"ansible" in words):
                found.append(int(name))
    # Stopped first: the one that lives a moment longer would start the other anew.
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)


def planned(name: str, twin: Twin) -> Host:
    """A host with the digest of its plan, as its reviewer takes it from `plan`."""
    template = twin.cutover_template
    plan = load_plan(
        template,
        twin.rollback_template,
        limits=find_config("limits.toml", template=template),
        watch=find_config("watch.toml", template=template),
        environ=os.environ,
        base=ROOT,
    )
    return Host(name, twin, plan.sha256)


# --- Ansible ----------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """The playbook over these hosts, from a controller that may die."""

    folder: Path
    hosts: Sequence[Host]
    ansible: Path
    groups: Mapping[str, Any] = field(default_factory=dict)

    @property
    def page_folder(self) -> Path:
        """Where the page of all hosts goes."""
        return self.folder / "page"

    @property
    def page(self) -> str:
        """That page as it stands."""
        return (self.page_folder / "fleet.html").read_text()

    def inventory(self) -> Path:
        """The first host is the canary."""
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "checkout": str(ROOT),
            "ctp_runbook": str(COMMAND),
            "page_ctp_runbook": str(COMMAND),
            "page_folder": str(self.page_folder),
            "ansible_pipelining": True,
            "plan_sha256": "0" * 64,
            "templates": "",
            "outputs": str(self.folder),
        }
        rows = {
            host.name: {
                "templates": host.templates,
                "outputs": str(host.outputs),
                "plan_sha256": host.plan_sha256,
            }
            for host in self.hosts
        }
        groups = self.groups or {
            "canary": {"hosts": dict([*rows.items()][:1])},
            "fleet": {"hosts": dict([*rows.items()][1:])},
        }
        groups = {"all": {"vars": common}, **groups}
        path = self.folder / "hosts.yml"
        path.write_text(json.dumps(groups))  # JSON is YAML
        return path

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """The controller, in a session of its own: all of it can be killed at once."""
        room = self.folder / "ansible"
        environ = {
            **os.environ,
            "ANSIBLE_HOME": str(room),
            "ANSIBLE_LOCAL_TEMP": str(room / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(room / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        argv = [str(self.ansible / "ansible-playbook"), "-i", str(self.inventory()), *words]
        with (self.folder / "wave.log").open("wb") as log:
            return subprocess.Popen(
                [*argv, str(FLEET / "cutover.yml")],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *words: str) -> tuple[int, str]:
        """The controller to its end: exit code and what it said."""
        process = self.start(*words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_WAVE_SECONDS)
        if process.poll() is None:
            kill_all_of(process)
        return process.returncode, (self.folder / "wave.log").read_text()


def where_they_stand(hosts: Sequence[Host]) -> str:
    """Each host's runs in the order of the hosts, for a table."""
    return ", ".join(" and ".join(host.outcomes) or "no run" for host in hosts)


def kill_all_of(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a controller, its workers, and who follows the run for it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)


def test_the_example_is_read(ansible: Path, tmp_path: Path) -> None:
    """Playbook and inventory as they are shipped."""
    argv = [str(ansible / "ansible-playbook"), "-i", str(FLEET / "hosts.example.yml")]
    argv += ["--syntax-check", str(FLEET / "cutover.yml")]
    environ = {**os.environ, "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    read = subprocess.run(argv, env=environ, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    assert read.stderr == ""


_STAND_IN = """\
#!/usr/bin/env bash
case " $* " in
  *" --execute "*)
    touch {folder}/acted
    echo '{{"outcome": "COMPLETED", "sentence": ""}}'
    if [ -e {folder}/ssh ]; then touch {folder}/lost; fi ;;
  *" runs "*) echo '{{"format": 1, "outputs": "", "runs": [], "skipped": []}}' ;;
esac
"""
_SSH = """\
#!/usr/bin/env bash
if [ -e {folder}/lost ]; then exit 255; fi
bash -c "${{@: -1}}"
code=$?
if [ -e {folder}/lost ]; then exit 255; fi
exit $code
"""


def test_a_connection_that_is_lost_stops_the_wave(ansible: Path, tmp_path: Path) -> None:
    """Nobody knows what became of that host: it is named, and none behind it is begun."""
    groups = {}
    for group, name in (("canary", "host-1"), ("fleet", "host-2")):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in (("ctp-runbook", _STAND_IN), ("ssh", _SSH)):
            (folder / file).write_text(text.format(folder=folder))
            (folder / file).chmod(0o755)
        facts = {"ctp_runbook": str(folder / "ctp-runbook"), "ansible_connection": "local"}
        groups[group] = {"hosts": {name: facts}}
    canary = tmp_path / "host-1" / "ssh"
    groups["canary"]["hosts"]["host-1"] |= {
        "ansible_connection": "ssh",
        "ansible_ssh_executable": str(canary),
    }
    (tmp_path / "host-2" / "ssh").unlink()
    wave = Wave(tmp_path, [], ansible, groups=groups)
    code, said = wave.run()
    assert code > 0, said
    assert "host-1 is not COMPLETED, exit unknown; no host behind it is begun. No outcome" in said
    assert (tmp_path / "host-1" / "acted").exists()
    assert not (tmp_path / "host-2" / "acted").exists()
    assert "0 of 2 hosts COMPLETED" in wave.page


def test_the_wave_stops_at_the_first_that_is_not_completed(tmp_path: Path, ansible: Path) -> None:
    """Canary and second COMPLETED, the third refused by a gate and named, the fourth untouched; the page
    says so."""
    names = ("host-c", "host-b", "host-x", "host-a")
    with hosts_of(tmp_path, *names, fault=("host-x", "gate-fails")) as hosts:
        wave = Wave(tmp_path, hosts, ansible)
        code, said = wave.run()
        assert code > 0, said
        ended = [["COMPLETED"], ["COMPLETED"], ["ABORTED_BEFORE_SWITCH"], []]
        assert [host.outcomes for host in hosts] == ended, said
        assert "host-x is not COMPLETED, exit 3; no host behind it is begun. ABORTED_BEFORE" in said
        begun = [host.runs[0].started_utc for host in hosts[:3]]
        assert begun == sorted(begun)  # the canary first, whatever its name
        assert hosts[3].is_untouched
        assert [sorted(trading_generations(host.twin.front_log)) for host in hosts] == [
            ["new"],
            ["new"],
            ["old"],
            ["old"],
        ]
        assert "2 of 4 hosts COMPLETED" in wave.page
        assert "host-x: ABORTED_BEFORE_SWITCH, the old stack; 1 not reached" in wave.page
        for host in hosts[:3]:
            link = f"{host.name}/{host.runs[0].run_id}.html"
            assert f"href='{link}'" in wave.page
            assert (wave.page_folder / link).is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_controller_that_is_killed_again_and_again_cuts_no_host_over_twice(
    tmp_path: Path, ansible: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """SIGKILL of the controller and of who follows for it, at five moments of one wave, and the same
    command after each: every host has one run. In the canary's gates its orchestrator and guardian die
    with them, and the run is taken up. The last host is rolled back, and stays so."""
    names = ("host-a", "host-b", "host-c", "host-x")
    with hosts_of(tmp_path, *names, fault=("host-x", "warmup-fails")) as hosts:
        first, second, third, last = hosts
        moments: dict[str, Callable[[], bool]] = {
            "the canary is asked": lambda: any(first.outputs.iterdir()),
            "the canary's gates": lambda: first.state is State.GATING,
            "between two hosts": lambda: first.outcomes == ["COMPLETED"] and not second.runs,
            "the second's switch": lambda: second.state is State.SWITCHING,
            "the third's watch": lambda: third.state is State.WATCHING,
        }
        wave, rows = Wave(tmp_path, hosts, ansible), []
        for moment, is_so in moments.items():
            controller = wave.start()
            wait_until(is_so, seconds=_WAVE_SECONDS, what=moment)
            kill_all_of(controller)
            if first.state is State.GATING:
                end_all_of(first.outputs)
            rows.append(f"killed at {moment:20}: {where_they_stand(hosts)}")
        ended = [["COMPLETED"]] * 3 + [["ROLLED_BACK_IN_BUDGET"]]
        for told in (
            "host-x is not COMPLETED, exit 4; no host behind it is begun. ROLLED_BACK_IN_BUDGET",
            "run {} of this plan is ROLLED_BACK_IN_BUDGET: no other is begun",
        ):
            code, said = wave.run()
            rows.append(f"to its end, exit {code:<13}: {where_they_stand(hosts)}")
            assert [host.outcomes for host in hosts] == ended, said
            assert code > 0, said
            assert told.format(last.runs[0].run_id) in said
        assert "3 of 4 hosts COMPLETED" in wave.page
        assert [host.runs[0].restarts for host in hosts] == [1, 0, 0, 0]
    record_table("fleet_kills", rows)


# --- Airflow ----------------------------------------------------------------------


@dataclass(frozen=True)
class Dag:
    """The DAG over these hosts, by an Airflow of its own."""

    folder: Path
    hosts: Sequence[Host]

    def start(self) -> subprocess.Popen[bytes]:
        """`airflow dags test`, which runs each task of it, in a session of its own."""
        fleet = self.folder / "fleet.json"
        rows = [
            {
                "name": host.name,
                "reach": ["bash", "-c"],
                "orchestrate": f"cd {ROOT} && {COMMAND} orchestrate {host.templates} "
                f"--outputs {host.outputs} --plan-sha256 {host.plan_sha256}",
            }
            for host in self.hosts
        ]
        fleet.write_text(json.dumps(rows))
        home = self.folder / "airflow"
        environ = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(FLEET),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "CTP_FLEET": str(fleet),
        }
        airflow = str(installed("apache-airflow") / "airflow")
        with (self.folder / "dag.log").open("ab") as log:
            if not home.exists():
                subprocess.run([airflow, "db", "migrate"], env=environ, check=True, stderr=log)
            return subprocess.Popen(
                [airflow, "dags", "test", "ctp_cutover"],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self) -> tuple[int, str]:
        """To its end: exit code, and what was said."""
        code = self.start().wait(timeout=_WAVE_SECONDS)
        return code, (self.folder / "dag.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_airflow_cuts_over_two_hosts(tmp_path: Path) -> None:
    """One task after the other; killed in the first one's watch and run again, each has one run."""
    with hosts_of(tmp_path, "host-b", "host-a") as hosts:
        dag = Dag(tmp_path, hosts)
        controller = dag.start()
        wait_until(lambda: hosts[0].state is State.WATCHING, seconds=_WAVE_SECONDS)
        kill_all_of(controller)
        code, said = dag.run()
        assert code == 0, said
        assert [host.outcomes for host in hosts] == [["COMPLETED"]] * 2
        assert hosts[0].runs[0].ended_utc < hosts[1].runs[0].started_utc


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_airflow_stops_at_a_host_that_is_not_completed(tmp_path: Path) -> None:
    """It is not tried again, and the one behind it is untouched."""
    with hosts_of(tmp_path, "host-x", "host-a", fault=("host-x", "gate-fails")) as hosts:
        code, said = Dag(tmp_path, hosts).run()
        assert code != 0, said
        assert "not COMPLETED, exit 3" in said
        assert [host.outcomes for host in hosts] == [["ABORTED_BEFORE_SWITCH"], []]
        assert hosts[1].is_untouched
