"""A small plan in a folder of its own, and a run of it: what the tests of the mechanism share.

The plan is one a real run would take. Nothing of it is running: tests say with ``values`` which
commands, pid files and limits they mean. Every run made here has a name of its own and leaves
neither processes nor private files behind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ctp_runbook.host.process import identity_of
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.private_plan import clear_private
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.context import RunContext

__all__ = [
    "CLOSED_PORT_URL",
    "command_line",
    "dead_pid",
    "end_run",
    "make_plan",
    "make_run",
    "open_context",
    "processes_with",
    "wait_for",
]

CONFIGS = Path(__file__).parents[2] / "configs"
# The discard port: nothing listens on it here.
CLOSED_PORT_URL = "http://127.0.0.1:9/metrics"
SHORT_GRACES = {
    "term_grace_seconds": "0.3",
    "kill_grace_seconds": "2",
    "effect_poll_seconds": "0.05",
    "alive_timeout_seconds": "1",
    "proof_grace_seconds": "0.2",
    "journal_reserve_bytes": "65536",
}
_CUTOVER = {
    "CTP_CONFIG_PATH": "ctp.yaml",
    "OLD_CORE_ENGINE_STOP_CMD": "cat old_core_engine.stop",
    "OLD_STRATEGY_RUNNER_STOP_CMD": "cat old_strategy_runner.stop",
    "PRECHECK_CMD": "cat precheck",
    "BOOTSTRAP_INFRA_CMD": "cat bootstrap",
    "INIT_KAFKA_TOPIC_CMD": "cat topics",
    "INIT_CLICKHOUSE_SCHEMA_CMD": "cat schema",
    "INIT_DEBEZIUM_CONNECTOR_CMD": "cat connectors",
    "NEW_CORE_ENGINE_START_CMD": "cat new_core_engine.conf",
    "NEW_STRATEGY_RUNNER_START_CMD": "cat new_strategy_runner.conf",
    "WARMUP_QUERY_CMD": "cat instruments",
    "POST_SWITCH_MONITOR_MINUTES": "30",
    "MONITOR_KEYS": "order_latency_p99_ms,breaker_state,reconnect_p99_s",
    "OLD_CORE_ENGINE_ALIVE_CMD": "cat old_core_engine.alive",
    "OLD_CORE_ENGINE_METRICS_URL": CLOSED_PORT_URL,
    "OLD_STRATEGY_RUNNER_ALIVE_CMD": "cat old_strategy_runner.alive",
    "NEW_CORE_ENGINE_ALIVE_CMD": "cat new_core_engine.alive",
    "NEW_CORE_ENGINE_METRICS_URL": CLOSED_PORT_URL,
    "NEW_STRATEGY_RUNNER_ALIVE_CMD": "cat new_strategy_runner.alive",
}
_ROLLBACK = {
    "ROLLBACK_TRIGGER_CONDITION": "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s",
    "NEW_CORE_ENGINE_STOP_CMD": "cat new_core_engine.stop",
    "NEW_STRATEGY_RUNNER_STOP_CMD": "cat new_strategy_runner.stop",
    "RESTORE_PREVIOUS_BINARIES_CMD": "cat previous_binaries",
    "RESTORE_REDIS_BRIDGE_COMPAT_CMD": "cat redis_bridge",
    "PREVIOUS_CORE_ENGINE_START_CMD": "cat old_core_engine.conf",
    "PREVIOUS_STRATEGY_RUNNER_START_CMD": "cat old_strategy_runner.conf",
    "POST_ROLLBACK_VALIDATE_CMD": "cat validate",
    "MAX_ROLLBACK_SECONDS": "180",
}
_COUNT = itertools.count()


def make_plan(
    folder: Path,
    *,
    limits: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    **values: str,
) -> Plan:
    """The plan of a template pair written to ``folder``, with ``values`` over the defaults.

    The window is now, the environment's name new each time, and each member has a pid file
    ``folder/<member>.pid`` that does not exist yet. ``limits`` are lines of limits.toml, as
    text, over those of configs/ and short graces.
    """
    cutover, rollback = _template_values(folder, values)
    files = {
        "cutover.env": _lines(cutover),
        "rollback.env": _lines(rollback),
        "limits.toml": _with_values(
            (CONFIGS / "limits.toml").read_text(), {**SHORT_GRACES, **(limits or {})}
        ),
        "watch.toml": (CONFIGS / "rich_engine.watch.toml").read_text(),
        "ctp.yaml": "ctp: {}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return load_plan(
        folder / "cutover.env",
        folder / "rollback.env",
        limits=folder / "limits.toml",
        watch=folder / "watch.toml",
        environ=os.environ if environ is None else environ,
        base=folder,
    )


def make_run(folder: Path) -> RunDir:
    """A run directory below ``folder`` with a name that no other test has."""
    run = RunDir(folder / "outputs" / f"test-{os.getpid()}-{next(_COUNT)}")
    run.make()
    return run


@contextlib.contextmanager
def open_context(
    folder: Path, *, plan: Plan | None = None, interrupt: Callable[[], str] = lambda: ""
) -> Iterator[RunContext]:
    """A run of ``plan`` with a journal and the environment of this process; ended at the end."""
    run = make_run(folder)
    journal = Journal(run.journal, durable=False)
    try:
        yield RunContext(
            run=run,
            plan=plan or make_plan(folder),
            journal=journal,
            cwd=folder,
            environ=dict(os.environ),
            interrupt=interrupt,
        )
    finally:
        journal.close()
        end_run(run)


def end_run(run: RunDir) -> None:
    """Kill what a run's steps left, and remove its private files."""
    for pid in processes_with(f"CTP_RUN_ID={run.run_id}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    clear_private(run)


def dead_pid() -> int:
    """A pid that nobody has: it was given away a moment ago, and is given again last of all."""
    pid = os.posix_spawnp("true", ["true"], os.environ)
    os.waitpid(pid, 0)
    return pid


def command_line(pid: int) -> bytes:
    """The words of a process, each ended by NUL; blank once it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def processes_with(variable: str) -> tuple[int, ...]:
    """Live processes with ``NAME=value`` in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            held = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if variable.encode() in held and identity_of(int(name)):
                found.append(int(name))
    return tuple(found)


def wait_for(fact: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Return as soon as ``fact()`` is true; fail when it is not within ``seconds``.

    The end is for what never comes, on however busy a machine: it says nothing of how soon.
    """
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(0.01)


def _template_values(
    folder: Path, values: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    environment = f"test-{os.getpid()}-{next(_COUNT)}"
    members = [f"{g}_{r}" for g in ("OLD", "NEW") for r in ("CORE_ENGINE", "STRATEGY_RUNNER")]
    cutover = {
        "CUTOVER_ENV_NAME": environment,
        "CUTOVER_WINDOW_LOCAL": datetime.now(UTC).isoformat(timespec="seconds"),
        **_CUTOVER,
        **{f"{name}_PID_FILE": str(folder / f"{name.lower()}.pid") for name in members},
        "CUTOVER_EVIDENCE_OUTPUT": str(folder / "copies" / "cutover.env"),
    }
    rollback = {
        "ROLLBACK_ENV_NAME": values.get("CUTOVER_ENV_NAME", environment),
        **_ROLLBACK,
        "ROLLBACK_EVIDENCE_OUTPUT": str(folder / "copies" / "rollback.env"),
    }
    for name, value in values.items():
        (rollback if name in rollback else cutover)[name] = value
    return cutover, rollback


def _lines(values: Mapping[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _with_values(toml: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        line = f"{key} = {value}".replace("\\", r"\\")
        toml, count = re.subn(rf"(?m)^{key} = .*$", line, toml)
        assert count == 1, f"{key} stands {count} times in the file"
    return toml
