"""The shipped watch on an engine as it is found: what it offers is enough to pass, and to tell.

Ten minutes of pages and files of the new engine of the runbook: a page with one gauge until the first
order, counters from their first event on, a readiness file with its mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.host.clocks import Clocks
from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.sampler import read_once
from ctp_runbook.watch.sources import watch_targets
from ctp_runbook.watch.verdicts import Firing
from tests.props.plan_fixtures import make_plan, open_context
from tests.props.small_servers import http_page
from tests.props.whole_window import judge_recorded, judge_window

RULES = load_watch(Path(__file__).parents[2] / "configs" / "watch.toml")
KEYS = ("order_latency_p99_ms", "breaker_state", "query_rate_violation", "reconnect_p99_s")
USUAL = "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s"
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, math.inf)
FAMILY = "quant_hft_order_latency_seconds_bucket"
SECONDS, FIRST_ORDER = 600, 20
# What of a second is different: orders so far, connected, mode, dropped callbacks.
Second = tuple[int, float, float, int]
Story = Callable[[int], Second]


def well(at: int) -> Second:
    """An order a second from the twentieth on; CloseOnly for the first half minute."""
    return max(0, at - FIRST_ORDER), 1.0, float(at < 30), 0


def deadlocked(at: int) -> Second:
    """From the fourth minute on it stands still: connected, Ready, and no order moves."""
    return well(min(at, 240))


def disconnected(at: int) -> Second:
    """The front is lost for twelve seconds."""
    orders, _, mode, dropped = well(at)
    return orders, float(not 300 <= at < 312), mode, dropped


def overwhelmed(at: int) -> Second:
    """A callback is dropped: the counter is on the page from then on."""
    return (*well(at)[:3], int(at >= 300))


def close_only(at: int) -> Second:
    """It never may open a position."""
    return well(at)[0], 1.0, 1.0, 0


def samples_of(story: Story) -> list[Sample]:
    """A page and a readiness file a second."""
    taken: list[Sample] = []
    for at in range(SECONDS + 1):
        orders, connected, mode, dropped = story(at)
        page = {"quant_hft_ctp_connected": connected}
        if orders:
            buckets = ("+Inf" if math.isinf(bound) else f"{bound:g}" for bound in BOUNDS)
            page |= {f'{FAMILY}{{le="{bound}"}}': float(orders) for bound in buckets}
        if dropped:
            page["quant_hft_callback_dispatcher_dropped_total"] = float(dropped)
        for source, series in (("engine", page), ("file", {"breaker_state": mode})):
            name = "breaker_state" if source == "file" else "engine"
            seq, mono = len(taken), 1000.0 + at
            taken.append(Sample(seq, 1.7e9 + at, mono, source, name, True, "", 1.0, series))
    return taken


def judged(story: Story, room: Path) -> tuple[WindowJudgement, Firing | None]:
    """The window at its end, from the samples and the same from their file."""
    units = {name: rule.unit for name, rule in RULES.metrics.items()}
    path, samples = room / "samples.jsonl", samples_of(story)
    path.write_bytes(b"".join(sample.to_line() for sample in samples))
    trigger = parse_trigger(USUAL, units=units, file="t", line=1)
    begins, ends = 1000.0, 1000.0 + SECONDS
    window = {"rules": RULES, "keys": KEYS, "trigger": trigger}
    window |= {"started_mono": begins, "ends_mono": ends}
    found = judge_window(samples, **window)  # type: ignore[arg-type]
    assert judge_recorded(path, **window) == found  # type: ignore[arg-type]
    return found


ENDS = {
    "well": (well, Verdict.PASSED, "", ""),
    "deadlocked": (
        deadlocked,
        Verdict.INCONCLUSIVE,
        "order_latency_p99_ms INCONCLUSIVE: no event for 360 s (still_seconds 120)",
        "",
    ),
    "disconnected": (disconnected, Verdict.FAILED, "reconnect_p99_s", "reconnect_p99_s = 11"),
    "overwhelmed": (overwhelmed, Verdict.FAILED, "query_rate_violation FAILED: 1", ""),
    "close only": (close_only, Verdict.FAILED, "breaker_state FAILED: 1", ""),
}


@pytest.mark.parametrize(("story", "verdict", "said", "fired"), ENDS.values(), ids=ENDS)
def test_how_a_watch_of_it_ends(
    story: Story, verdict: Verdict, said: str, fired: str, tmp_path: Path
) -> None:
    """By the shipped rules, live and from its samples alike."""
    window, firing = judged(story, tmp_path)
    assert (window.overall, firing is not None) == (verdict, bool(fired)), window.sentence
    assert said in window.sentence
    if firing is not None:
        assert fired in firing.sentence


@pytest.mark.twin
def test_its_page_is_read_before_the_first_order(tmp_path: Path) -> None:
    """One gauge: the counters that are not there yet are none, by the gauge beside them."""
    with http_page("quant_hft_ctp_connected 1\n") as url:
        plan = make_plan(tmp_path, NEW_CORE_ENGINE_METRICS_URL=url)
        only = ("order_latency_p99_ms", "query_rate_violation")
        plan = replace(plan, watch=RULES, monitor_keys=only)
        with open_context(tmp_path, plan=plan) as context:
            environ = context.environment_of()
            (target,) = watch_targets(context.plan, cwd=context.cwd, environ=environ)
            sample = read_once(target, clocks=Clocks())
    assert sample.series == {"quant_hft_ctp_connected": 1.0}


def test_a_sentence_names_the_file_it_is_from(tmp_path: Path) -> None:
    """As it names the page of another metric."""
    window, _ = judged(close_only, tmp_path)
    assert "query mode (file runtime/readiness.json)" in window.sentence
