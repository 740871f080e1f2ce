"""The gate ``debezium-connectors``: registered as their files say, running, and not piling up.

A connector that is not there is registered. One whose live configuration differs is a failure: a
PUT restarts its tasks, and that is decided by ``--update NAME``, not by running a gate. Running
means the connector *and* every task. The slot is read where it is, in PostgreSQL: a connector
may say RUNNING while nobody reads its slot and the disk fills with WAL.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.connector_files import WantedConnector, differences, load_connectors
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.probes.connect import Answer, ConnectorLook, NoJson, ask_connect, read_status
from ctp_runbook.probes.postgres import SlotLook, look_at_slot, published_tables
from ctp_runbook.strict_json import shown

__all__ = ["connector_tasks"]

_PLACES = tuple(
    f"{place}/*.json"
    for place in ("debezium", "debezium/connectors", "debezium/init", "connectors", "init/debezium")
)
_CALL_SECONDS = 10.0
# A PUT is answered after the worker has validated the configuration against the database.
_PUT_SECONDS = 40.0
_LOOK_SECONDS = 0.3
# How long a slot may stay unread after its tasks say RUNNING: the engine connects a moment later.
_SLOT_SECONDS, _SLOT_LOOK_SECONDS = 15.0, 0.5
_BUSY, _UNKNOWN = 409, 404
# Of a gateway, or of a worker that starts: it may well answer in a moment.
_NOT_YET = (429, 502, 503, 504)
_NOT_LET_IN = (401, 403)
_GATE = "ctp-runbook infra debezium-connectors"
_REBALANCE = (
    "its workers do not finish their rebalance: see their logs, and that no second worker of the "
    "group comes and goes"
)
_STARTS = "it does not become ready: see its log, `docker compose logs kafka-connect`"


def connector_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach Connect, then register, compare, wait for and look behind each connector."""
    base = context.connect_url
    if not base:
        return ()
    configs = context.infra_files(*_PLACES)
    wanted = load_connectors(
        configs.folder, values=context.values, over=context.options.connector_set
    )
    rest = _Rest(context, base)
    reach = Task("reach_connect", f"GET {base}/", rest.reach, is_vital=True)
    each = (_Connector(context, rest, connector).tasks() for connector in wanted)
    return (reach, *itertools.chain.from_iterable(each))


@dataclass(frozen=True)
class _Rest:
    """Connect's REST interface, with patience for a worker that rebalances."""

    context: GateContext
    base: str

    def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Answer:
        """Make one call, and again while Connect is not ready. Raises ProbeError for other 5xx."""
        deadline, most = self.context.deadline, _PUT_SECONDS if method == "PUT" else _CALL_SECONDS
        while True:
            answer = self._once(method, path, body, seconds=deadline.call(most))
            where = f"Kafka Connect: {method} {path}: HTTP {answer.status}"
            if answer.status in _NOT_LET_IN:
                raise ProbeError(
                    f"{where}: {answer.message}; it lets nobody in without a login, and the gate "
                    "sends none: name an address by --connect-url that this host may ask"
                )
            if not (remedy := _why_again(answer)):
                if answer.status < 500:
                    return answer
                raise ProbeError(
                    f"{where}: {answer.message}; see the worker's log, "
                    "`docker compose logs kafka-connect`"
                )
            self.context.tell(f"Kafka Connect is busy ({answer.message}); asking again")
            if not deadline.pause(_LOOK_SECONDS):
                raise ProbeError(
                    f"{where} until the deadline of {deadline.seconds:g} s (--deadline-seconds): "
                    f"{answer.message}; {remedy}"
                )

    def _once(
        self, method: str, path: str, body: dict[str, str] | None, *, seconds: float
    ) -> Answer:
        """Return the answer of one call; a page instead of JSON is one where its status tells."""
        try:
            return ask_connect(self.base, method, path, seconds=seconds, body=body)
        except NoJson as error:
            # The web server of a worker that starts knows no address yet, and says so in HTML.
            if error.status in (_UNKNOWN, *_NOT_YET, *_NOT_LET_IN) or error.status == 500:
                return Answer(error.status, str(error), is_json=False)
            raise

    def reach(self) -> Observation:
        """Ask for Connect's version, and which connectors it has."""
        about, names = self.ask("GET", "/"), self.ask("GET", "/connectors")
        if not isinstance(names.data, list) or not isinstance(about.data, dict):
            raise ProbeError(
                f"Kafka Connect at {self.base}: answered HTTP {about.status} and {names.status}, "
                "expected its version and a list of connectors; is this Connect (--connect-url)?"
            )
        if odd := [name for name in names.data if not isinstance(name, str)]:
            raise ProbeError(
                f"Kafka Connect at {self.base}: lists {shown(odd[0])} among its connectors, "
                "expected names; is this Connect (--connect-url)?"
            )
        version = str(about.data.get("version", "unknown"))
        return Observation({"version": version, "connectors": ", ".join(sorted(names.data))})


@dataclass(frozen=True)
class _Connector:
    context: GateContext
    rest: _Rest
    wanted: WantedConnector

    def tasks(self) -> Iterator[Task]:
        name, slot = self.wanted.name, f"slot_name = {self.wanted.slot}"
        put = f"PUT {self.path}/config if it is missing"
        yield Task(f"register_{name}", put, self.register, acts=True)
        yield Task(f"config_{name}", f"GET {self.path}/config", self.compare)
        yield Task(f"state_{name}", f"GET {self.path}/status", self.wait)
        yield Task(f"slot_{name}", f"pg_replication_slots where {slot}", self.slot)

    @property
    def path(self) -> str:
        return f"/connectors/{self.wanted.name}"

    @property
    def noun(self) -> str:
        return f"connector {self.wanted.name}"

    def live(self) -> dict[str, str] | None:
        """Return the live configuration, None for a connector that is not there."""
        answer = self.rest.ask("GET", f"{self.path}/config")
        if answer.status == _UNKNOWN:
            return None
        if answer.status != 200 or not isinstance(answer.data, dict):
            raise ProbeError(
                f"Kafka Connect: GET {self.path}/config: HTTP {answer.status}: {answer.message}"
            )
        return {key: str(value) for key, value in answer.data.items()}

    def register(self) -> Observation:
        """Put the configuration where there is none, or where ``--update`` allows it."""
        live, wanted = self.live(), self.wanted
        may_update = wanted.name in self.context.options.update
        if live is not None and not (may_update and differences(live, wanted.config)):
            return Observation({"registered": "already"})
        answer = self.rest.ask("PUT", f"{self.path}/config", dict(wanted.config))
        if answer.status not in (200, 201):
            why = (
                f"{self.noun}: PUT was answered HTTP {answer.status}: {answer.message}; correct "
                f"{wanted.source}"
            )
            return Observation({"registered": "refused"}, (why,))
        return Observation({"registered": "updated" if live else "now"}, changes=1)

    def compare(self) -> Observation:
        """Compare the live configuration with the file, key by key."""
        if (live := self.live()) is None:
            why = f"{self.noun}: is not registered; `{_GATE} --execute` registers it"
            return Observation({"keys": "0"}, (why,))
        drifted = differences(live, self.wanted.config)
        facts = {"keys": str(len(live)), "different": str(len(drifted))}
        if not drifted:
            return Observation(facts)
        words = ", ".join(difference.sentence for difference in drifted)
        fix = f"`{_GATE} --update {self.wanted.name} --execute` (its tasks restart)"
        return Observation(facts, (f"{self.noun}: {words} ({self.wanted.source}); run {fix}",))

    def wait(self) -> Observation:
        """Wait until the connector and every task run; a FAILED one is not waited for."""
        deadline, said, facts = self.context.deadline, "", dict[str, str]()
        while True:
            try:
                look = self.status()
            except ProbeError as error:
                return self._late(facts, f"{said} ({deadline.cut_words(error, said=said)})")
            facts = _facts(look) if look else {}
            if look is not None and look.is_running:
                return Observation(facts)
            sentence = look.sentence if look else "no status yet"
            if sentence != said:
                self.context.tell(f"{self.wanted.name}: {sentence}")
                said = sentence
            if look is not None and (problems := tuple(self.broken(look))):
                return Observation(facts, problems)
            # Connect knows a new connector's configuration before its status.
            if look is None and self.live() is None:
                return Observation({}, (f"{self.noun}: is not registered",))
            if not self.context.options.execute or not deadline.pause(_LOOK_SECONDS):
                return self._late(facts, sentence)

    def _late(self, facts: dict[str, str], sentence: str) -> Observation:
        """Return that it does not run yet; ``sentence`` is how it stood."""
        why = (
            f"{self.noun}: {sentence}, expected connector and every task RUNNING within "
            f"{self.context.deadline.seconds:g} s (--deadline-seconds); see "
            "`docker compose logs kafka-connect`"
        )
        return Observation(facts, (why,))

    def status(self) -> ConnectorLook | None:
        """Return the state now; None while Connect does not know it, as just after a PUT."""
        answer = self.rest.ask("GET", f"{self.path}/status")
        return None if answer.status == _UNKNOWN else read_status(self.wanted.name, answer.data)

    def broken(self, look: ConnectorLook) -> Iterator[str]:
        """Yield what does not mend itself by waiting."""
        where, url = f"{self.noun}: {look.sentence}", f"{self.rest.base}{self.path}"
        for task in look.tasks:
            if task.state == "FAILED":
                yield (
                    f"{where}: {task.trace}; when the cause is mended: "
                    f"`curl -X POST {url}/tasks/{task.number}/restart`"
                )
        if look.state == "FAILED":
            yield (
                f"{where}: {look.trace}; when the cause is mended: "
                f"`curl -X POST '{url}/restart?includeTasks=true'`"
            )
        if look.state in ("PAUSED", "STOPPED"):
            yield f"{where}, expected RUNNING; somebody paused it: `curl -X PUT {url}/resume`"

    def slot(self) -> Observation:
        """Look whether somebody reads the slot, and how much WAL it keeps."""
        door, status = self.context.postgres, self.status()
        # One that does not run will not read its slot, however long it is watched.
        patience = _SLOT_SECONDS if status is not None and status.is_running else 0.0
        with door.open(seconds=self.context.deadline.call(_CALL_SECONDS)) as connection:
            look = look_at_slot(connection, self.wanted.slot)
            while (look is None or not look.active) and patience > 0:
                pauses = self.context.options.execute
                if not pauses or not self.context.deadline.pause(_SLOT_LOOK_SECONDS):
                    break
                patience -= _SLOT_LOOK_SECONDS
                look = look_at_slot(connection, self.wanted.slot)
            tables = published_tables(connection, self.wanted.publication)
        problems = (*self.slot_problems(look, door.shown), *self.publication_problems(tables))
        facts = {"slot": self.wanted.slot, "publication": self.wanted.publication}
        if look is not None:
            facts |= {
                "active": str(look.active).lower(),
                "wal_status": look.wal_status,
                "retained_wal_mib": f"{look.retained_mib:.1f}",
                "unconfirmed_bytes": str(look.unconfirmed_bytes),
            }
        if tables is not None:
            facts["published_tables"] = str(len(tables))
        return Observation(facts, problems)

    def slot_problems(self, look: SlotLook | None, where: str) -> Iterator[str]:
        """Yield why a slot is no good: gone, lost, unread, or it keeps too much."""
        slot, most = self.wanted.slot, self.context.options.max_slot_wal_mib
        noun = f"slot {slot} of {self.wanted.name}"
        if look is None:
            yield (
                f"{noun} does not exist in {where}: changes since it was dropped are lost to "
                "Kafka; restart the connector with a new snapshot: "
                f"`curl -X DELETE {self.rest.base}{self.path}`, then `{_GATE} --execute`"
            )
            return
        if look.wal_status == "lost":
            yield (
                f"{noun} is lost: PostgreSQL removed WAL it needed (max_slot_wal_keep_size); drop "
                "it, delete the connector, register it again"
            )
        elif not look.active:
            yield (
                f"{noun} is not active: nobody reads it and its WAL piles up; restart the "
                f"connector, or `SELECT pg_drop_replication_slot('{slot}')` if it is not meant to "
                "come back"
            )
        if look.retained_mib > most:
            yield (
                f"{noun} keeps {look.retained_mib:.1f} MiB of WAL, expected at most {most:g} MiB "
                "(--max-slot-wal-mib); the connector is behind or its tables are quiet: see its "
                "state and heartbeat.interval.ms, and the disk PostgreSQL is on"
            )

    def publication_problems(self, tables: tuple[str, ...] | None) -> Iterator[str]:
        """Yield that a publication is gone, or lacks a table the connector is to capture."""
        publication = self.wanted.publication
        noun = f"publication {publication} of {self.wanted.name}"
        if tables is None:
            yield (
                f"{noun} does not exist; create it: `ctp-runbook infra bootstrap --execute` applies "
                "infra/timescale"
            )
        elif lacking := ", ".join(name for name in self.wanted.tables if name not in tables):
            yield f"{noun} lacks {lacking}: `ALTER PUBLICATION {publication} ADD TABLE {lacking}`"


def _why_again(answer: Answer) -> str:
    """Return what to look at where an answer may be another one in a moment; blank for others."""
    message = answer.message.lower()
    # Of Connect 4.1 a 500 just after a PUT, too.
    if answer.status == 500 and "rebalance is expected" in message:
        return _REBALANCE
    # A connector that is already there stays there, however often its creation is asked for.
    if answer.status == _BUSY and "already exists" not in message:
        return _REBALANCE
    timed_out = answer.status == 500 and ("timeout" in message or "timed out" in message)
    no_page = answer.status == _UNKNOWN and not answer.is_json
    return _STARTS if answer.status in _NOT_YET or timed_out or no_page else ""


def _facts(look: ConnectorLook) -> dict[str, str]:
    states = {f"task_{task.number}": task.state for task in look.tasks}
    return {"connector": look.state, "tasks": str(len(look.tasks)), **states}
