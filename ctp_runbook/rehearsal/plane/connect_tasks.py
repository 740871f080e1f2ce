"""Worker processes as Connect's tasks: started ahead, validated in, run, and seen to die."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError

__all__ = ["Task"]

_READY_SECONDS = 30.0


class Task:
    """One worker process. ``state`` is UNASSIGNED, RUNNING or FAILED, as Connect has it."""

    def __init__(self, *, bootstrap: str, offsets: Path, log: Path) -> None:
        module = "ctp_runbook.rehearsal.plane.connect_worker"
        argv = [sys.executable, "-m", module, "--bootstrap", bootstrap, "--offsets", str(offsets)]
        with log.open("ab") as sink:
            # No preexec_fn: it is not safe with threads. A closed pipe ends the worker.
            self._child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True
            )
        self.state, self.trace = "UNASSIGNED", ""
        self._answers: queue.Queue[list[str] | None] = queue.Queue()  # None: the worker is gone
        self._stopping = False
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self._child.pid

    def validate(self, config: Mapping[str, str]) -> list[str]:
        """What is wrong with ``config``, by the connector itself; ProbeError without an answer."""
        self._order({"validate": config})
        with contextlib.suppress(queue.Empty):
            if (errors := self._answers.get(timeout=_READY_SECONDS)) is not None:
                return errors
        raise ProbeError("Request timed out. The worker is currently validating connector")

    def run(self, config: Mapping[str, str]) -> None:
        """Start the engine; ``state`` tells what becomes of it."""
        self._order({"run": config})

    def _order(self, order: Mapping[str, Any]) -> None:
        stream = self._child.stdin
        assert stream is not None  # a pipe
        try:
            stream.write(json.dumps(order) + "\n")
            stream.flush()
        except OSError as error:
            raise ProbeError(f"worker {self.pid} is gone: {error}") from error

    def _listen(self) -> None:
        stream = self._child.stdout
        assert stream is not None  # a pipe
        for line in stream:
            said = json.loads(line)
            if "state" in said:
                self.state, self.trace = said["state"], said.get("trace", "")
            else:
                self._answers.put(said["errors"])
        code = self._child.wait()
        self._answers.put(None)
        if not self._stopping and self.state != "FAILED":
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self.trace = f"java.lang.IllegalStateException: worker process {self.pid} {how}"
            self.state = "FAILED"

    def stop(self, *, seconds: float = 6.0) -> None:
        """Close the engine, offsets written; KILL what takes longer."""
        self._stopping = True
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
