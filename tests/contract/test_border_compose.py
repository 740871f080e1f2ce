"""Compose projects held to a table: every container of a service counts, whatever another says."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.bootstrap import _ComposeGate
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.probes.compose import Compose, Container

FOLDER = Path(__file__).parent / "border/compose"
CASES = tomllib.loads((FOLDER / "expect.toml").read_text(encoding="utf-8"))
SERVICE, HASH = "com.docker.compose.service", "com.docker.compose.config-hash"


@dataclass(frozen=True)
class Answering(Compose):
    """A project of which docker says so, and in whose file each of these services is as h1."""

    services: tuple[str, ...] = ()
    inspected: str = "[]"
    config: str = '{"services": {}}'

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Nothing is called."""
        return ("docker", "compose")

    def logs(self, container: Container, *, seconds: float) -> str:
        """Nothing."""
        return "no log"

    def _output(self, argv: list[str], what: str, seconds: float) -> str:
        hashes = "\n".join(f"{name} h1" for name in self.services)
        given = {"docker ps": "id", "docker inspect": self.inspected}
        return given.get(what) or (hashes if "--hash" in argv else self.config)


def problems(compose: Compose) -> tuple[str, ...]:
    """What is wrong with a project, to a gate that only looks."""
    context = GateContext.of(GateOptions(probe=True), environ={}, tell=lambda line: None)
    gate, found = _ComposeGate(context, compose), list[str]()
    for look in (gate.compare, gate.wait):
        try:
            found += look().problems
        except ProbeError as error:
            found.append(str(error))
    return tuple(found)


def inspected(box: dict[str, Any]) -> dict[str, Any]:
    """A container of a listing as `docker inspect` has it."""
    labels = {SERVICE: box["Service"], HASH: box.get("Hash", "h1")}
    health = {"Status": box["Health"]} if box["Health"] else None
    state = {"Status": box["State"], "Health": health}
    return {
        "Id": box["Name"],
        "Name": f"/{box['Name']}",
        "Config": {"Labels": labels},
        "State": state,
    }


@pytest.mark.parametrize(("case", "expect"), CASES.items(), ids=CASES)
def test_the_gate_says_what_the_table_says(case: str, expect: dict[str, Any]) -> None:
    """By the container's name."""
    listed = json.loads((FOLDER / f"{case}.json").read_text(encoding="utf-8"))
    boxes = [inspected(box) for box in listed if "Name" in box]
    services = tuple({box["Service"]: 0 for box in listed if not box.get("Unlisted")})
    found = " ".join(problems(Answering(Path("f"), "p", None, {}, services, json.dumps(boxes))))
    if said := expect.get("said"):
        for words in said:
            assert words in found
        for words in expect.get("never", ()):
            assert words not in found
    else:
        assert found == ""


def test_every_case_has_its_input() -> None:
    """And every input its case."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)


# What a service publishes, and which ports that is; None for what is refused in words.
PORTS: dict[str, tuple[Any, tuple[int | range, ...] | None]] = {
    "null": (None, ()),
    "none": ([], ()),
    "a text": ([{"published": "8000"}], (8000,)),
    "a number": ([{"published": 8000}], (8000,)),
    "a range": ([{"published": "8000-8010"}], (range(8000, 8011),)),
    "two": ([{"published": "1"}, {"published": "2-3"}], (1, range(2, 4))),
    "any": ([{"target": 80}, {"published": ""}, {"published": "0"}, {"published": None}], ()),
    "of UDP": ([{"published": "53", "protocol": "udp"}], ()),
    "a word": ([{"published": "http"}], None),
    "half a range": ([{"published": "8000-"}], None),
    "a range that ends before it begins": ([{"published": "8010-8000"}], None),
    "a list of texts": (["8000:80"], None),
    "a text alone": ("8000:80", None),
    "a truth": ([{"published": True}], None),
}


@pytest.mark.parametrize(("ports", "published"), PORTS.values(), ids=PORTS)
def test_published_ports_are_read_or_refused(
    ports: Any, published: tuple[int | range, ...] | None
) -> None:
    """Every way in which compose writes them."""
    config = json.dumps({"services": {"kafka": {"ports": ports}, "redis": {}}})
    compose = Answering(Path("f"), "p", None, {}, ("kafka",), "[]", config)
    if published is None:
        with pytest.raises(ProbeError, match="compose config: "):
            compose.published(seconds=1)
    else:
        assert compose.published(seconds=1) == {"kafka": published, "redis": ()}


@pytest.mark.parametrize("config", ["{}", '{"services": null}', "services:\n", "[" * 5000])
def test_a_file_without_services_publishes_nothing(config: str) -> None:
    """Nor one that is no JSON."""
    compose = Answering(Path("f"), "p", None, {}, (), "[]", config)
    assert compose.published(seconds=1) == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
STATUS = st.sampled_from(["running", "exited", "paused", "restarting", "Running", ""]) | VALUES
HEALTH = st.sampled_from(["healthy", "unhealthy", "starting", "none", ""]) | VALUES
LABELS = st.fixed_dictionaries(
    {},
    optional={
        SERVICE: st.sampled_from(["kafka", "redis", "x"]) | VALUES,
        HASH: st.just("h1") | VALUES,
    },
)
STATE = st.fixed_dictionaries(
    {}, optional={"Status": STATUS, "Health": st.fixed_dictionaries({"Status": HEALTH}) | VALUES}
)
LOOKS = st.fixed_dictionaries(
    {"Id": st.text(max_size=2)},
    optional={
        "Name": st.text(max_size=3) | VALUES,
        "Config": st.fixed_dictionaries({}, optional={"Labels": LABELS | VALUES}) | VALUES,
        "State": STATE | VALUES,
    },
)
WELL = st.just(
    inspected({"Name": "k", "Service": "kafka", "State": "running", "Health": "healthy"})
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(looks=st.lists(WELL | LOOKS, max_size=3) | VALUES, cut=st.booleans())
def test_no_listing_is_healthy_that_does_not_say_so(looks: Any, cut: bool) -> None:
    """No traceback; and without a problem every container of kafka is running, healthy, and as its
    file says."""
    text = json.dumps(looks)[: -1 if cut else None]
    if problems(Answering(Path("f"), "p", None, {}, ("kafka",), text)):
        return
    assert not cut
    boxes = [look for look in looks if (look["Config"].get("Labels") or {}).get(SERVICE) == "kafka"]
    assert boxes
    for box in boxes:
        assert box["State"]["Status"] == "running"
        assert box["State"]["Health"]["Status"] == "healthy"
        assert box["Config"]["Labels"][HASH] == "h1"
