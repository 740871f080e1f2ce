"""The cutover of several hosts as an Airflow DAG: a task a host, each behind the one before.

The same as cutover.yml, for firms that have an Airflow. A task that is not COMPLETED fails, and none
behind it begins. A worker that died, or lost its connection, is tried again: the host knows by its own
record whether the reviewed plan had its run (`orchestrate --once`). What to fill in stands in
infra/runbook/fleet.md.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

# [{"name": "trade-1", "reach": ["ssh", "trade-1.example"], "orchestrate": "ctp-runbook orchestrate …"}, …],
# the canary first. ``reach`` is what a command line is handed to that is to be run there.
HOSTS = json.loads(Path(os.environ["CTP_FLEET"]).read_text(encoding="utf-8"))
_LOST = 255  # what ssh ends with when its connection is gone; no exit code of ours


@task(retries=3, retry_delay=timedelta(seconds=30))
def cut_over(reach: list[str], orchestrate: str) -> str:
    """Follow the host's run to its end; what it said of that, where it COMPLETED."""
    argv = [*reach, f"{orchestrate} --execute --yes --once --json"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode == _LOST or done.returncode < 0:
        raise AirflowException(f"{reach}: the connection is lost; the run there goes on")
    end = done.stdout.splitlines()[-1:]
    # By what the run says of its end: an exit code 0 alone would be no proof.
    if done.returncode or not end or not is_completed(end[0]):
        raise AirflowFailException(f"not COMPLETED, exit {done.returncode}: {end}; see the log")
    return end[0]


def is_completed(line: str) -> bool:
    """True for the last line of ``--json`` of a run that COMPLETED."""
    try:
        return json.loads(line)["outcome"] == "COMPLETED"
    except (ValueError, KeyError, TypeError):
        return False


@dag(schedule=None, catchup=False, max_active_runs=1, tags=["cutover"])
def ctp_cutover() -> None:
    """One host after the other."""
    before = None
    for host in HOSTS:
        now = cut_over.override(task_id=host["name"])(host["reach"], host["orchestrate"])
        if before is not None:
            before >> now
        before = now


ctp_cutover()
