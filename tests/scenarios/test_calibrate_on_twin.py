"""The old engine of a twin held against its limits, with slow orders at a rate that is known.

The front answers late for a third of a second at moments of a Poisson process. What share of windows
then holds such a moment is known, and the interval that is reported must hold it.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctp_runbook.notebook.calibrate import Asked, Recording, make, subject_of_plan
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.record.calibration import Calibration
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.twin import Twin
from tests.props.cutover_tools import ROOT, fresh_twin

SLOW_PER_SECOND, SLOW_MS, SLOW_SECONDS = 1 / 20, 300.0, 0.3
WINDOW_SECONDS = 15.0
# From a moment to the alarm: the answers come, a sample sees them, and for_seconds of 1 s pass.
UNSEEN_SECONDS = 1.8
KNOWN = -math.expm1(-SLOW_PER_SECOND * (WINDOW_SECONDS - UNSEEN_SECONDS))


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    """A twin whose old generation trades."""
    with fresh_twin(tmp_path / "twin", watch_seconds=WINDOW_SECONDS, patient=False) as made:
        yield made


def plan_of(twin: Twin, folder: Path) -> Plan:
    """Its templates, with 100 ms for a second as the limit and as the trigger: a busy machine is slow,
    but not so slow. Judged by the plain rule, whose alarms are known: one each moment."""
    text = (ROOT / "configs" / "rehearsal" / "light" / "watch.toml").read_text()
    head, latency, rest = text.partition("[metrics.order_latency_p99_ms]")
    rest = rest.replace("limit = 50", "limit = 100", 1).replace(
        "for_seconds = 3", "for_seconds = 1", 1
    )
    rest = rest.replace('test = "sequential"\nburst_seconds = 0.5', 'test = "plain"', 1)
    watch = folder / "watch.toml"
    watch.write_text(f"{head}{latency}{rest}")
    return load_plan(
        twin.cutover_template,
        twin.rollback_template,
        limits=ROOT / "configs" / "rehearsal" / "limits.toml",
        watch=watch,
        environ=os.environ,
        base=folder,
    )


@contextlib.contextmanager
def slow_orders(twin: Twin, *, seed: int) -> Iterator[list[float]]:
    """Slow orders of the old engine, at moments of a Poisson process, until the block ends."""
    draw, ends, moments = random.Random(seed), threading.Event(), list[float]()

    def slow_now_and_then() -> None:
        while not ends.wait(draw.expovariate(SLOW_PER_SECOND)):
            front_control(twin.front_dir, order_latency_ms=SLOW_MS, order_latency_generation="old")
            ends.wait(SLOW_SECONDS)
            front_control(twin.front_dir, order_latency_ms=0.0, order_latency_generation="old")
            moments.append(draw.random())

    thread = threading.Thread(target=slow_now_and_then)
    thread.start()
    try:
        yield moments
    finally:
        ends.set()
        thread.join()


def calibrated(twin: Twin, folder: Path, *, minutes: float) -> tuple[Calibration, int]:
    """The old engine recorded meanwhile; and how many moments there were."""
    plan = plan_of(twin, folder)
    with slow_orders(twin, seed=20261126) as moments:
        made, _ = make(
            subject_of_plan(plan),
            Asked(window_minutes=WINDOW_SECONDS / 60),
            Recording(plan=plan, minutes=minutes),
            outputs=folder / "outputs",
        )
    return made, len(moments)


@pytest.mark.timeout(300)
def test_the_running_engine_is_recorded_and_left_alone(twin: Twin, tmp_path: Path) -> None:
    """A window and a little more: it trades on, and what was measured is its own."""
    before = front_control(twin.front_dir)
    made, _ = calibrated(twin, tmp_path, minutes=0.3)
    after = front_control(twin.front_dir)
    assert after["sessions"] == before["sessions"]
    assert after["orders"] > before["orders"]
    latency = made.metrics[0]
    assert latency.quantiles["median"] > 0
    assert latency.alarms.windows == 1
    assert made.source.startswith("the running engine, http://127.0.0.1:")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_reported_rate_holds_the_known_one(
    twin: Twin, tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """Ten minutes, or as many as CTP_RUNBOOK_CALIBRATE_MINUTES says; and the limit suggested is one
    that no injected moment reaches."""
    minutes = float(os.environ.get("CTP_RUNBOOK_CALIBRATE_MINUTES", "10"))
    made, moments = calibrated(twin, tmp_path, minutes=minutes)
    latency = made.metrics[0]
    record_table(
        "calibrate",
        [
            f"{minutes:g} min, {moments} moments with slow orders, windows of {WINDOW_SECONDS:g} s",
            f"known rate of alarms {KNOWN:.3f}, reported {latency.alarms.sentence}",
            f"of all {latency.alarms.sliding_windows} windows {latency.alarms.sliding_alarms}",
            f"suggested limit: {latency.suggested:g} ms; {latency.sentence}",
        ],
    )
    assert latency.alarms.low <= KNOWN <= latency.alarms.high
    assert latency.suggested is not None
    assert latency.suggested > SLOW_MS
    assert latency.suggested_alarms is not None
    assert latency.suggested_alarms.sliding_alarms == 0
