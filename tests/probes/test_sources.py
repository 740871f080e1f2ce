"""Facts about what a watch asks beside an engine's page: Prometheus, a command, a recording."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.command import spoken_value
from ctp_runbook.probes.prometheus import PrometheusDoor
from ctp_runbook.probes.recording import Recording
from ctp_runbook.record.samples import Sample
from tests.props.small_servers import free_port, http_page

pytestmark = pytest.mark.twin


def answer(kind: str, result: object) -> str:
    """What Prometheus says of a query that it understood."""
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


def asked(page: str, *, status: int = 200) -> float | None:
    """The value of a query that is answered so."""
    with http_page(page, status=status) as url:
        door = PrometheusDoor(url.removesuffix("/metrics"))
        return door.value("x", seconds=2, fresh_seconds=10)


def one(value: str, *, age: float = 0.0) -> str:
    """A vector of one series."""
    return answer("vector", [{"metric": {}, "value": [time.time() - age, value]}])


def test_prometheus_says_a_number() -> None:
    """A vector of one, and a scalar; NaN stays NaN, and no series is no data."""
    assert asked(one("12.5")) == 12.5
    assert asked(answer("scalar", [time.time(), "3"])) == 3.0
    nan = asked(one("NaN"))
    assert nan is not None
    assert math.isnan(nan)
    assert asked(answer("vector", [])) is None


BAD_ANSWERS = {
    "two series": (answer("vector", [{"value": [0, "1"]}, {"value": [0, "2"]}]), "2 series"),
    "a string": (answer("string", [0, "x"]), "a string is no number"),
    "its clock is off": (one("1", age=60), r"its clock is \d+ s away"),
    "no sample": (answer("vector", [{"value": "x"}]), "is no sample"),
    "not JSON": ("<html>", "not as Prometheus does"),
    "another JSON": ("{}", "not as Prometheus does"),
}


@pytest.mark.parametrize(("page", "said"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_what_is_no_number_is_an_error(page: str, said: str) -> None:
    """Each with what was answered instead, and where to correct it."""
    with pytest.raises(ProbeError, match=said):
        asked(page)


def test_prometheus_own_words_are_quoted() -> None:
    """A query that it refuses is told as it tells it."""
    refusal = json.dumps({"status": "error", "error": "1:3: parse error: unexpected <op:*>"})
    with pytest.raises(ProbeError, match=r"HTTP 400: 1:3: parse error.*correct the query"):
        asked(refusal, status=400)


def test_nobody_there_is_an_error() -> None:
    """By its address, without the query's own text a second time."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ProbeError, match=f"Prometheus at {url}: .*refused"):
        PrometheusDoor(url).value("x", seconds=1, fresh_seconds=10)


SPOKEN = {
    "printf 12.5": 12.5,
    "echo '  -3 '": -3.0,
    """echo '{"value": 4, "events": 9}'""": 4.0,
    """echo '{"value": 4.5}'""": 4.5,
    """echo '{"value": null}'""": None,
    """echo '{"value": 4, "events": 0}'""": None,
    "echo noise >&2; echo 1": 1.0,
}


@pytest.mark.parametrize(("command", "value"), SPOKEN.items())
def test_a_command_says_a_number(command: str, value: float | None, tmp_path: Path) -> None:
    """Bare, or as the value of one JSON object; what it says on stderr is no part of it."""
    assert spoken_value(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, seconds=5) == value


UNSPOKEN = {
    "exit 3": "ended with exit 3",
    "echo why >&2; exit 1": "it said: why",
    "sleep 60 & sleep 60": "did not end within 0.5 s",
    "echo true": "printed 'true'",
    "echo 1 2": "printed '1 2'",
    "true": "printed ''",
    "head -c 200 /dev/zero | tr '\\0' x": "printed 200 characters; expected",
    """echo '{"events": 1}'""": "expected a number",
    """echo '{"value": "x"}'""": "expected a number",
}


@pytest.mark.parametrize(("command", "said"), UNSPOKEN.items())
def test_a_command_that_says_none_is_an_error(command: str, said: str, tmp_path: Path) -> None:
    """With its exit code, its own words, or what it printed; never zero."""
    with pytest.raises(ProbeError, match=said):
        spoken_value(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, seconds=0.5)


def recorded(folder: Path, *values: float | None) -> Path:
    """A file with one sample a second; None is one that failed."""
    path = folder / "watch.jsonl"
    lines = [
        Sample(
            seq=number,
            wall=1e9 + number,
            mono=100.0 + number,
            source="engine",
            target="engine",
            ok=value is not None,
            error="" if value is not None else "connection refused",
            took_ms=1.0,
            series={} if value is None else {"x": value},
        ).to_line()
        for number, value in enumerate(values)
    ]
    path.write_bytes(b"".join(lines))
    return path


def test_a_recording_is_played_at_its_own_pace(tmp_path: Path) -> None:
    """What was said then, as long after the start; an error is an error again."""
    now = [50.0]
    played = Recording(recorded(tmp_path, 1.0, 2.0, None, 4.0), clock=lambda: now[0])
    assert played.read() == {"x": 1.0}
    now[0] = 51.5
    assert played.read() == {"x": 2.0}
    now[0] = 52.0
    with pytest.raises(ProbeError, match="connection refused"):
        played.read()
    now[0] = 53.9
    assert played.read() == {"x": 4.0}


def test_a_recording_that_is_over_says_nothing_more(tmp_path: Path) -> None:
    """Its last value is not repeated for ever: that would be no data taken for good data."""
    now = [0.0]
    played = Recording(recorded(tmp_path, 1.0, 2.0), clock=lambda: now[0])
    now[0] = 2.1
    with pytest.raises(ProbeError, match="it ends after 1 s"):
        played.read()


@pytest.mark.parametrize("content", [b"", b"nonsense\n"])
def test_a_file_that_is_no_recording_is_an_error(content: bytes, tmp_path: Path) -> None:
    """Named by its key in watch.toml."""
    (tmp_path / "watch.jsonl").write_bytes(content)
    with pytest.raises(ProbeError, match=r"sources\.replay_file"):
        Recording(tmp_path / "watch.jsonl")
