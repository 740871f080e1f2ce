"""Four members of two generations out of ``sleep`` and files, for runs that are real but small.

A member lives while ``<member>.up`` is there and its process runs; the file and the pid file are
written by its start command. There is no market and no port: TRADING_STATE_CMD says ``ready``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.gates.readiness import SLIS, Readiness, SliReading
from ctp_runbook.host.held_command import HeldCommand
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import RunOptions, begin, create_run, read_history, read_whole
from tests.props.plan_fixtures import end_run, make_plan, processes_with, wait_for

__all__ = ["GATES", "WHOLE_STATE", "SmallStack", "small_stack"]

MEMBERS = ("old_core_engine", "old_strategy_runner", "new_core_engine", "new_strategy_runner")
# Those that a plan of this stack does nothing for, unless it is told to.
GATES = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
# What TRADING_STATE_CMD prints of either engine: nothing works, nothing is held.
WHOLE_STATE: Mapping[str, object] = {
    "td_session": "ready",
    "md_session": "ready",
    "settlement_confirmed": True,
    "stream_drained": True,
    "trading_day": "20260302",
    "next_order_ref": 2,
    "max_order_ref": 1,
    "working_orders": [],
    "positions": [],
    "funds": {},
}


@dataclass(frozen=True)
class SmallStack:
    """The stack in its folder; ``mark`` is in the environment of all that it starts."""

    folder: Path
    mark: str

    def plan(self, **values: str) -> Plan:
        """The plan of this stack, with ``values`` over it; the watch is as in configs/."""
        commands: dict[str, str] = {}
        for member in MEMBERS:
            generation, _, role = member.partition("_")
            stem = "PREVIOUS" if generation == "old" else "NEW"
            commands[f"{stem}_{role.upper()}_START_CMD"] = self.start_command(member)
            commands[f"{member.upper()}_STOP_CMD"] = self.stop_command(member)
            commands[f"{member.upper()}_ALIVE_CMD"] = f"test -e {self.folder}/{member}.up"
        (self.folder / "state.json").write_text(json.dumps(WHOLE_STATE))
        given = {
            **commands,
            "TRADING_STATE_CMD": f"cat {self.folder}/state.json",
            "RESTORE_PREVIOUS_BINARIES_CMD": "ls",
            "RESTORE_REDIS_BRIDGE_COMPAT_CMD": "ls",
            "POST_ROLLBACK_VALIDATE_CMD": self.readiness_command("rollback"),
            "WARMUP_QUERY_CMD": "ls",
            "BOOTSTRAP_INFRA_CMD": "ls",
        }
        given.update(values)
        return make_plan(self.folder, limits=None, environ=None, **given)

    def readiness_command(self, name: str) -> str:
        """Write ``ctp_readiness_<name>.json`` with every SLI measured now, and healthy."""
        readings = tuple(
            SliReading(spec.name, spec.target, "measured", "seen", "probe", "@NOW@")
            for spec in SLIS.values()
            if spec.core
        )
        report = self.folder / "readiness.json"
        report.write_bytes(Readiness(readings, "small", "single-host").to_bytes())
        now = "$(date -u +%Y-%m-%dT%H:%M:%S.%6N+00:00)"
        return f'sed "s/@NOW@/{now}/" {report} > "$CTP_EVIDENCE_DIR/ctp_readiness_{name}.json"'

    def start_command(self, member: str) -> str:
        """A daemon, its pid file (pid and start time), and the file that says it is up."""
        base = self.folder / member
        return (
            # With a name of its own: whoever runs the same command line counts as this member.
            f"setsid bash -c 'exec -a {base} sleep 3600' > {base}.log 2>&1 & "
            # Whoever ends the starter's group ends no daemon that is said to be up: it left it first.
            "until { read -ra own < /proc/$!/stat && [ ${own[5]} = $! ]; } || ! kill -0 $!; "
            "do sleep 0.01; done; "
            f"printf '%s\\n' $! $(cut -d' ' -f22 /proc/$!/stat) > {base}.pid; "
            f"echo {member} >> {self.folder}/starts; cat {base}.pid > {base}.up"
        )

    def stop_command(self, member: str) -> str:
        """TERM, wait, and the file is gone."""
        base = self.folder / member
        return f'kill "$(head -1 {base}.pid)"; cat {base}.up; rm {base}.up'

    def bring_up(self, *members: str) -> None:
        """Start members as somebody did long ago: with no run in their environment."""
        for member in members:
            held = HeldCommand(
                self.start_command(member),
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "SMALL_STACK": self.mark},
                output=self.folder / "up.log",
            )
            held.release()
            held.wait(deadline=float("inf"), interrupt=lambda: "")
            held.close()
            assert self.is_up(member)

    def is_up(self, member: str) -> bool:
        """True while its process runs."""
        return self.identity(member) is not None

    def identity(self, member: str) -> Identity | None:
        """Who runs under the pid of its pid file."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return identity_of(int((self.folder / f"{member}.pid").read_text().split()[0]))
        return None

    @property
    def starts(self) -> list[str]:
        """Every start of a member, in order."""
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []

    def options(self, **values: object) -> RunOptions:
        """Those of a real run of this stack, with ``values`` over them."""
        given = {
            "execute": True,
            "outputs": self.folder / "outputs",
            "by": "ops",
            "accept_unmeasured": "a stack of this test",
            **values,
        }
        return RunOptions(**given)  # type: ignore[arg-type]

    def create(self, plan: Plan, *, options: Mapping[str, object] | None = None) -> RunDir:
        """A real run of the plan, not started."""
        return create_run(plan, self.options(**(options or {})))

    def begin(self, plan: Plan, *, options: Mapping[str, object] | None = None) -> RunDir:
        """A real run of the plan, started with its go."""
        return begin(plan, self.options(**(options or {})), reason="test")

    def half_switch(self, **values: str) -> RunDir:
        """A real run once both parts of the old stack are stopped; the new engine's start hangs."""
        plan = self.plan(
            **{f"{gate}_CMD": "ls" for gate in GATES},
            PRECHECK_CMD=self.readiness_command("precheck"),
            NEW_CORE_ENGINE_START_CMD="tail -f /dev/null",
            **values,
        )
        run = self.begin(plan)
        wait_for(lambda: read_whole(run).step("start_new_core_engine").attempt)
        return run

    def closed(self, run: RunDir, *, seconds: float = 60) -> History:
        """The history once the run is over and nobody attends it any more."""
        wait_for(run.manifest.exists, seconds=seconds)
        return read_history(run)


@contextlib.contextmanager
def small_stack(folder: Path, *, runners: bool = True) -> Iterator[SmallStack]:
    """A stack with its old generation up; all that it and its runs started is ended."""
    stack = SmallStack(folder, mark=f"{os.getpid()}-{folder.name}")
    variable = f"SMALL_STACK={stack.mark}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SMALL_STACK", stack.mark)
        try:
            stack.bring_up("old_core_engine", *(["old_strategy_runner"] if runners else []))
            yield stack
        finally:
            while left := [pid for pid in processes_with(variable) if pid != os.getpid()]:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for path in folder.glob("outputs/*"):
                end_run(RunDir(path))
            for lock in Path("/run/lock").glob(f"ctp-runbook.test-{os.getpid()}-*.lock"):
                lock.unlink()
