"""Fifty peers that drip, stall, cut or flood: each call ends in its time, and in little memory."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from ctp_runbook.probes.connect import ask_connect
from ctp_runbook.probes.exchange import post_json
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.probes.prometheus import PrometheusDoor
from ctp_runbook.probes.redis import look_at_redis
from tests.props.hostile_peers import HTTP, REDIS, TLS, hostile_peers

DEADLINE_SECONDS, GRACE_SECONDS, MOST_MIB = 0.3, 0.2, 64.0
PEERS = 50
Call = Callable[[str], object]
CLIENTS: dict[str, Call] = {
    "metrics page": lambda url: scrape(f"{url}/metrics", families=["b"], seconds=DEADLINE_SECONDS),
    "Prometheus": lambda url: PrometheusDoor(url).value(
        "x", seconds=DEADLINE_SECONDS, fresh_seconds=9
    ),
    "Connect": lambda url: ask_connect(url, "GET", "/", seconds=DEADLINE_SECONDS),
    "ClickHouse": lambda url: ClickHouseDoor(url, "", "").rows(
        "SELECT 1", seconds=DEADLINE_SECONDS
    ),
    "webhook": lambda url: raised(post_json(url, {"a": "b"}, seconds=DEADLINE_SECONDS)),
}


def raised(sentence: str) -> None:
    """Raise what a webhook says instead of raising it."""
    if sentence:
        raise ProbeError(sentence)


def redis(url: str) -> object:
    """Look at a Redis."""
    return look_at_redis(url.replace("http:", "redis:"), seconds=DEADLINE_SECONDS)


def inside_tls(call: Call, url: str) -> object:
    """Make a call by https."""
    return call(url.replace("http:", "https:"))


def fifty_calls() -> Iterator[tuple[str, str, Call]]:
    """Client, peer and call: every peer of each kind, the five HTTP clients in turn."""
    names = itertools.cycle(CLIENTS)
    # 18 peers and 5 clients have no divisor in common: no pair comes twice before 90 calls.
    pairs = zip(itertools.cycle(HTTP), names, strict=False)
    for peer, client in itertools.islice(pairs, PEERS - len(REDIS) - len(TLS)):
        yield client, f"http: {peer}", CLIENTS[client]
    for peer in REDIS:
        yield "Redis", f"redis: {peer}", redis
    for peer, client in zip(TLS, ("metrics page", "ClickHouse"), strict=True):
        yield client, f"tls: {peer}", partial(inside_tls, CLIENTS[client])


def waited_for_a_cpu() -> float:
    """Seconds this thread could have run and did not, since it began: others were given the CPU."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # a kernel that does not count them
        return 0.0


def memory_mib(name: str) -> float:
    """What the kernel says of this process: VmRSS is now, VmHWM the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kib) / 1024


def measured(call: Call, url: str) -> tuple[float, float, str]:
    """Seconds and MiB that a call took, and what came of it."""
    gc.collect()
    most = "VmHWM"
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the most from here on
    except OSError:  # a kernel that does not count anew: what is left of it, then
        most = "VmRSS"
    before, queued, began = memory_mib("VmRSS"), waited_for_a_cpu(), time.monotonic()
    with pytest.raises(ProbeError) as caught:
        call(url)
    # A machine that is busy with others says nothing about the call.
    took = time.monotonic() - began - (waited_for_a_cpu() - queued)
    return took, memory_mib(most) - before, str(caught.value)


def test_a_hostile_peer_holds_nobody(record_table: Callable[[str, list[str]], None]) -> None:
    """Deadline + 0.2 s and 64 MiB, whoever asks and whatever comes."""
    rows, slow, large = [], [], []
    calls = list(fifty_calls())
    assert len(calls) == PEERS
    with hostile_peers() as ports:
        for client, call in {**CLIENTS, "Redis": redis}.items():  # what is imported late, now
            with pytest.raises(ProbeError):
                call(f"http://127.0.0.1:{ports['http: cuts its body']}")
            assert client
        for client, peer, call in calls:
            took, mib, said = measured(call, f"http://127.0.0.1:{ports[peer]}")
            shown = said.replace(str(ports[peer]), "PORT")[:90]
            rows.append(f"{client:13} {peer:31} {took:6.2f} s {max(0.0, mib):6.1f} MiB  {shown}")
            if took > DEADLINE_SECONDS + GRACE_SECONDS:
                slow.append(rows[-1])
            if mib > MOST_MIB:
                large.append(rows[-1])
    head = f"deadline {DEADLINE_SECONDS:g} s; allowed {GRACE_SECONDS:g} s more, {MOST_MIB:g} MiB"
    record_table("hostile_peers", [head, *rows])
    assert not slow
    assert not large
