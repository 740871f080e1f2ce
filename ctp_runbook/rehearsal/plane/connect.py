"""Kafka Connect's REST calls in front of Debezium workers, with Connect's shapes and refusals.

What the connectors do is real (validation, snapshot, streaming, offsets, traces); only the
server is ours, because the wheels' Jetty jars do not fit each other. Connector configurations
are kept in ``connect/connectors.json`` (mode 0600) and started again with the process.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.plane.connect_tasks import Task
from ctp_runbook.rehearsal.plane.connectors import resolved
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, Plane
from ctp_runbook.rehearsal.plane.web import Reply, Request, serve, serve_until_term

__all__ = ["Cluster", "ConnectError", "answer", "main"]

_VERSION = {"version": "3.9.0", "commit": "a60e31147e6b01ee", "kafka_cluster_id": "tansu_cluster"}
_POSTGRES = "io.debezium.connector.postgresql.PostgresConnector"
_BUSY = "Cannot complete request because of a conflicting operation (e.g. worker rebalance)"


class ConnectError(Exception):
    """A refusal with Connect's status and words."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@dataclass
class _Connector:
    config: dict[str, str]
    task: Task
    state: str = "RUNNING"
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_task(self) -> bool:
        """Whether Connect would tell of a task: not before it runs, nor of a stopped connector."""
        return self.task.state != "UNASSIGNED" and self.state != "STOPPED"

    def run(self, task: Task, config: Mapping[str, str]) -> None:
        """``task`` in place of the one there was, with ``config`` resolved."""
        self.task.stop()
        self.task = task
        task.run(config)


class Cluster:
    """The connectors of one plane. Methods are called from any thread."""

    def __init__(self, plane: Plane, *, spares: int = 0) -> None:
        self._plane = plane
        self._file = plane.home("connect") / "connectors.json"
        self._lock = threading.Lock()
        self._connectors: dict[str, _Connector] = {}
        self._spares: dict[str, Task] = {}
        known: dict[str, dict[str, str]] = {}
        if self._file.exists():
            known = json.loads(self._file.read_text())
        for name in (*known, *[each for each in CONNECTORS if each not in known])[:spares]:
            self._spares[name] = self._worker(name)  # JVMs start while nobody waits for them
        for name, config in known.items():
            self._connectors[name] = connector = _Connector(config, self._taken(name))
            with suppress(ProbeError):  # a worker that died: its task says so
                connector.task.run(self._resolved(connector))

    def _save(self) -> None:
        configs = {name: each.config for name, each in self._connectors.items()}
        write_atomic(self._file, json.dumps(configs).encode(), mode=0o600)

    def _worker(self, name: str) -> Task:
        offsets = self._plane.home("connect") / f"{name}.offsets"
        log = self._plane.log(f"connector-{name}")
        return Task(bootstrap=self._plane.bootstrap, offsets=offsets, log=log)

    def _taken(self, name: str) -> Task:
        with self._lock:
            spare = self._spares.pop(name, None)
        return spare if spare is not None and spare.state != "FAILED" else self._worker(name)

    def _resolved(self, connector: _Connector) -> dict[str, str]:
        return resolved(self._plane, connector.config)

    def names(self) -> list[str]:
        """Connectors that exist."""
        return sorted(self._connectors)

    def _get(self, name: str, missing: str = "Connector {} not found") -> _Connector:
        if name not in self._connectors:
            raise ConnectError(404, missing.format(name))
        return self._connectors[name]

    def config(self, name: str) -> dict[str, str]:
        """A connector's configuration, references unresolved, as Connect answers it."""
        return dict(self._get(name).config)

    def info(self, name: str) -> dict[str, Any]:
        """Name, configuration, tasks, type."""
        connector = self._get(name)
        tasks = [{"connector": name, "task": 0}] if connector.has_task else []
        return {"name": name, "config": connector.config, "tasks": tasks, "type": "source"}

    def status(self, name: str) -> dict[str, Any]:
        """States of connector and task; a dead engine leaves its connector RUNNING."""
        connector = self._get(name, "No status found for connector {}")
        worker = f"127.0.0.1:{self._plane.port('connect')}"  # as Connect names it
        tasks = []
        if connector.has_task:
            state = connector.task.state if connector.state == "RUNNING" else connector.state
            tasks = [{"id": 0, "state": state, "worker_id": worker}]
            if connector.task.state == "FAILED":
                tasks[0]["trace"] = connector.task.trace
        own = {"state": connector.state, "worker_id": worker}
        return {"name": name, "connector": own, "tasks": tasks, "type": "source"}

    def pids(self) -> dict[str, int]:
        """The worker process of each connector: not Connect's, for the supervisor."""
        return {name: each.task.pid for name, each in self._connectors.items()}

    def put(self, name: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create or change a connector; its information, and whether it is new."""
        wanted = _checked(name, config)
        known = self._connectors.get(name)
        with _alone(known) if known else nullcontext():
            if known and known.config == wanted and known.state != "STOPPED":
                return self.info(name), False
            task = self._taken(name)
            if errors := task.validate(resolved(self._plane, wanted)):
                task.stop()
                raise ConnectError(400, _invalid(errors))
            connector = known or _Connector(wanted, task)
            connector.config = wanted
            with self._lock:
                self._connectors[name] = connector
                self._save()
            if connector.task is not task:
                connector.task.stop()
            connector.task = task
            task.run(self._resolved(connector))
        return self.info(name), known is None

    def restart(self, name: str, *, include_tasks: bool, only_failed: bool) -> Reply:
        """Restart; without ``includeTasks`` the task is left as it is, as in Connect."""
        connector = self._get(name, "Unknown connector: {}")
        if not include_tasks and not only_failed:
            return Reply(204)
        if include_tasks and (connector.task.state == "FAILED" or not only_failed):
            self.restart_task(name, 0)
        return Reply.of(self.status(name), status=202)

    def restart_task(self, name: str, number: int) -> None:
        """A new engine for the task."""
        connector = self._get(name, "Unknown connector: {}")
        if number != 0 or connector.state == "STOPPED":
            raise ConnectError(404, f"Unknown task: {name}-{number}")
        with _alone(connector):
            connector.run(self._worker(name), self._resolved(connector))

    def delete(self, name: str) -> None:
        """Stop and forget a connector; its slot stays, as with Connect."""
        connector = self._get(name)
        with _alone(connector):
            connector.task.stop()
            with self._lock:
                del self._connectors[name]
                self._save()

    def set_state(self, name: str, state: str) -> None:
        """PAUSED or STOPPED ends the engine, RUNNING starts it again."""
        connector = self._get(name)
        with _alone(connector):
            if state == connector.state:
                return
            if state == "RUNNING":
                connector.run(self._worker(name), self._resolved(connector))
            else:
                connector.task.stop()
            connector.state = state

    def close(self) -> None:
        """End every worker, all at once."""
        tasks = [each.task for each in self._connectors.values()]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Task.stop, (*tasks, *self._spares.values())))


@contextmanager
def _alone(connector: _Connector) -> Iterator[None]:
    if not connector.busy.acquire(timeout=0.5):
        raise ConnectError(409, _BUSY)
    try:
        yield
    finally:
        connector.busy.release()


def _checked(name: str, config: Mapping[str, Any]) -> dict[str, str]:
    wanted = {key: str(value) for key, value in config.items() if value is not None}
    if wanted.setdefault("name", name) != name:
        raise ConnectError(
            400,
            f"Connector name configuration ({wanted['name']}) doesn't match connector name in "
            f"the URL ({name})",
        )
    if not (kind := wanted.get("connector.class")):
        raise ConnectError(400, f"Connector config {sorted(wanted)} contains no connector type")
    if kind not in (_POSTGRES, "PostgresConnector", "Postgres"):
        raise ConnectError(
            500,
            f"Failed to find any class that implements Connector and which name matches {kind}, "
            f"available connectors are: PluginDesc{{klass=class {_POSTGRES}, "
            "name='io.debezium.connector.postgresql.PostgresConnector', version='3.1.1.Final'}",
        )
    return {**wanted, "connector.class": _POSTGRES}


def _invalid(errors: list[str]) -> str:
    lines = "\n".join(errors)
    return (
        f"Connector configuration is invalid and contains the following {len(errors)} error(s):\n"
        f"{lines}\nYou can also find the above list of errors at the endpoint "
        "`/connector-plugins/{connectorType}/config/validate`"
    )


_NAME = r"/connectors/(?P<name>[^/]+)"
_STATES = {"pause": "PAUSED", "resume": "RUNNING", "stop": "STOPPED"}
_Handler = Callable[..., Reply | None]
_Routes = tuple[tuple[str, re.Pattern[str], _Handler], ...]


def _routes(cluster: Cluster) -> _Routes:
    """Method, path, and what answers: nothing means 204."""

    def put(request: Request, name: str) -> Reply:
        info, created = cluster.put(name, _json(request))
        return Reply.of(info, status=201 if created else 200)

    def post(request: Request) -> Reply:
        data = _json(request)
        if not isinstance(data.get("config"), dict) or not data.get("name"):
            raise ConnectError(400, "Connector config is missing a name or its configuration")
        if data["name"] in cluster.names():
            raise ConnectError(409, f"Connector {data['name']} already exists")
        return Reply.of(cluster.put(data["name"], data["config"])[0], status=201)

    def restart(request: Request, name: str) -> Reply:
        tasks, failed = (
            request.query.get(flag) == "true" for flag in ("includeTasks", "onlyFailed")
        )
        return cluster.restart(name, include_tasks=tasks, only_failed=failed)

    def change(_: Request, name: str, verb: str) -> Reply:
        cluster.set_state(name, _STATES[verb])
        return Reply(202)

    table: tuple[tuple[str, str, _Handler], ...] = (
        ("GET", "/", lambda _: Reply.of(_VERSION)),
        ("GET", "/twin/workers", lambda _: Reply.of(cluster.pids())),
        ("GET", "/connectors", lambda _: Reply.of(cluster.names())),
        ("POST", "/connectors", post),
        ("GET", _NAME, lambda _, name: Reply.of(cluster.info(name))),
        ("DELETE", _NAME, lambda _, name: cluster.delete(name)),
        ("GET", f"{_NAME}/config", lambda _, name: Reply.of(cluster.config(name))),
        ("PUT", f"{_NAME}/config", put),
        ("GET", f"{_NAME}/status", lambda _, name: Reply.of(cluster.status(name))),
        ("POST", f"{_NAME}/restart", restart),
        (
            "POST",
            rf"{_NAME}/tasks/(?P<number>\d+)/restart",
            lambda _, name, number: cluster.restart_task(name, int(number)),
        ),
        ("PUT", f"{_NAME}/(?P<verb>{'|'.join(_STATES)})", change),
    )
    return tuple((method, re.compile(path + "/?"), act) for method, path, act in table)


def _json(request: Request) -> dict[str, Any]:
    try:
        data = json.loads(request.body)
    except ValueError as error:
        raise ConnectError(500, f"Unexpected character in the request: {error}") from error
    if not isinstance(data, dict):
        raise ConnectError(500, "Cannot deserialize the request: an object was expected")
    return data


def answer(routes: _Routes, request: Request) -> Reply:
    """Answer as Connect does; every refusal is ``{"error_code": …, "message": …}``."""
    try:
        return _dispatch(routes, request)
    except ConnectError as error:
        status, message = error.status, error.message
    except ProbeError as error:
        status, message = 500, str(error)
    return Reply.of({"error_code": status, "message": message}, status=status)


def _dispatch(routes: _Routes, request: Request) -> Reply:
    fitting = [
        (method, act, match.groupdict())
        for method, path, act in routes
        if (match := path.fullmatch(request.path))
    ]
    for method, act, words in fitting:
        if method == request.method:
            return act(request, **words) or Reply(204)
    if fitting:
        raise ConnectError(405, "HTTP 405 Method Not Allowed")
    raise ConnectError(404, "HTTP 404 Not Found")


def main() -> None:
    """Serve a plane's Connect until TERM."""
    plane = Plane.of_command_line()
    cluster = Cluster(plane, spares=len(CONNECTORS))
    routes = _routes(cluster)
    port = plane.port("connect")
    serve_until_term(serve(port, lambda request: answer(routes, request), name="Connect"))
    cluster.close()


if __name__ == "__main__":
    main()
