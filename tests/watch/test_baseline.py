"""The old engine before the switch: kept, digested, shown; missing, it says so and fails nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ctp_runbook.model import Verdict
from ctp_runbook.record.evidence import cutover_env
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Table
from ctp_runbook.show.run_blocks import comparison_table, watch_blocks
from ctp_runbook.verify.run import verify_run
from ctp_runbook.watch.baseline import Usual, usual_of
from ctp_runbook.watch.points import Point, Points
from ctp_runbook.watch.replay import rejudge
from tests.props.run_mutants import rewrite_journal
from tests.props.synthetic_runs import make_run, seal

Raws = list[dict[str, Any]]
SHIFTED = "order_latency_p99_ms"


def told(run: RunDir) -> History:
    """The run's journal, folded."""
    return History.of(read_journal(run.journal).records)


def of_kind(raws: Raws, kind: str) -> dict[str, Any]:
    """The payload of the only record of a kind."""
    return next(raw["payload"] for raw in raws if raw["kind"] == kind)


def shown(run: RunDir) -> list[str]:
    """What the page says of the watch, block by block."""
    history = told(run)
    return [block.text for block in watch_blocks(run, history, rejudge(run, history)[0])]


def test_both_engines_are_shown_and_nothing_is_decided(tmp_path: Path) -> None:
    """Figures of the points that are drawn stand on the page; the record says what was sampled."""
    run = make_run("completed", tmp_path)
    history = told(run)
    assert history.watch_ended is not None
    assert history.watch_ended.payload.baseline is None
    sampled = "20 of 20 scrapes of the old engine over 2280 s"
    assert f"CUTOVER_BASELINE={sampled}\n".encode() in cutover_env(history)
    *_, said = shown(run)
    assert f"by the points drawn ({sampled}); no verdict rests on it" in said
    rows = [" ".join(line.split()) for line in said.splitlines()[-3:]]
    assert rows == [
        "order_latency_p99_ms too few too few 14 / 15",
        "breaker_state too few too few 15 / 16",
        "reconnect_p99_s too few too few 0 / 0",
    ]


def point(value: float | None, *, status: str = "good", is_over: bool = False) -> Point:
    """A point of no moment yet."""
    return Point(0.0, 0.0, value, None, status, is_over=is_over)


HUNDRED = [float(n) for n in range(1, 101)]
USUAL: dict[str, tuple[list[Point], Usual]] = {
    "none": ([], Usual(0, None, None)),
    "nineteen": ([point(n) for n in HUNDRED[:19]], Usual(19, None, None)),
    "twenty": ([point(n) for n in HUNDRED[:20]], Usual(20, 10.0, None)),
    "a hundred": ([point(n) for n in reversed(HUNDRED)], Usual(100, 50.0, 99.0)),
    "without values": ([point(None)] * 9 + [point(n) for n in HUNDRED], Usual(100, 50.0, 99.0)),
    "a warm-up": (
        [point(1e6, status="warm_up")] * 900 + [point(n) for n in HUNDRED],
        Usual(100, 50.0, 99.0),
    ),
    "two above all buckets": (
        [point(n, is_over=n in (3.0, 7.0)) for n in HUNDRED],
        Usual(100, 52.0, math.inf),
    ),
}


@pytest.mark.parametrize(("points", "usual"), USUAL.values(), ids=USUAL)
def test_where_the_points_lie(points: list[Point], usual: Usual) -> None:
    """Median and p99 are points; of too few there is none, and more than a bound is above all."""
    assert usual_of(Points.of(placed(points))) == usual


def placed(points: list[Point]) -> tuple[Point, ...]:
    """Points one second apart."""
    return tuple(replace(each, mono=float(n)) for n, each in enumerate(points))


def test_figures_stand_with_their_shift_where_both_are_known(tmp_path: Path) -> None:
    """Before, after, unit and difference; none where one side is more than its buckets tell."""
    run = make_run("completed", tmp_path)
    history = told(run)
    judged, _ = rejudge(run, history)
    slower = placed([point(n + 1.5, is_over=n > 90) for n in HUNDRED])
    metric = replace(judged.metrics[SHIFTED], points=Points.of(slower))
    table = comparison_table(
        history,
        replace(judged, metrics={SHIFTED: metric}),
        before={SHIFTED: placed([point(n) for n in HUNDRED])},
        sentence="100 scrapes",
    )
    figures = ("50 ms → 51.5 ms (+1.5)", "99 ms → above all buckets", "100 / 100")
    assert table.rows == [(SHIFTED, *figures)]


# --- records of before -------------------------------------------------------------

COMPARED = {
    "metric": SHIFTED,
    "n_before": 19,
    "n_after": 15,
    "events_before": 950.0,
    "events_after": 750.0,
    "median": {"before": 1.0, "after": 2.0, "shift": 1.0, "low": 0.9, "high": 1.1},
    "failed": True,
    "sentence": "median 1 → 2 ms; surely beyond watch.order_latency_p99_ms.baseline_max_shift 0.5 ms",
}


def _failed_by_its_shift(raws: Raws) -> None:
    """As it stood in a journal when a shift could fail a metric."""
    of_kind(raws, "run_created")["plan"]["watch"]["metrics"][SHIFTED]["baseline_max_shift"] = 0.5
    said = {"sentence": "1 of 3 metrics compared", "metrics": {SHIFTED: COMPARED}}
    of_kind(raws, "watch_ended")["baseline"] = said


def test_a_shift_that_failed_a_metric_still_does(tmp_path: Path) -> None:
    """In the record that says so, in its words; evidence keeps what the comparison came to."""
    run = make_run("completed", tmp_path)
    _edit_journal(run, _failed_by_its_shift)
    history = told(run)
    judged, _ = rejudge(run, history)
    assert judged.overall is Verdict.FAILED
    assert judged.sentence == f"{SHIFTED} FAILED: {COMPARED['sentence']}"
    assert judged.metrics["breaker_state"].verdict is Verdict.PASSED
    assert b"CUTOVER_BASELINE=1 of 3 metrics compared\n" in cutover_env(history)
    assert judged.sentence in "\n".join(shown(run))


def test_the_plan_of_a_run_of_before_may_have_the_key(tmp_path: Path) -> None:
    """Its watch.toml is that of its header, though nobody could plan with it today."""
    run = make_run("completed", tmp_path)
    kept = run.plan / "watch.toml"
    head = f"[metrics.{SHIFTED}]\n"
    kept.write_text(kept.read_text().replace(head, f"{head}baseline_max_shift = 0.5\n"))

    def edit(raws: Raws) -> None:
        _failed_by_its_shift(raws)
        shifted = of_kind(raws, "watch_ended")["baseline"]["metrics"][SHIFTED]
        of_kind(raws, "watch_ended")["baseline"]["metrics"][SHIFTED] = {
            key: value for key, value in shifted.items() if key != "failed"
        }

    _edit_journal(run, edit)
    seal(run)
    assert [finding for finding in verify_run(run).findings if "watch" in finding] == []


def test_a_run_without_an_old_page_says_no_baseline_and_verifies(tmp_path: Path) -> None:
    """No page is no failure: the sentence goes from the record onto the page."""
    run = make_run("completed", tmp_path)
    said = "no baseline: the old engine has no metrics page (G_CORE_ENGINE_METRICS_URL)"
    run.baseline.write_bytes(b"")

    def edit(raws: Raws) -> None:
        of_kind(raws, "baseline_ended").update(
            url="", samples=0, samples_sha256=digest_of(b""), sentence=said
        )

    _edit_journal(run, edit)
    seal(run)
    assert verify_run(run).findings == ()
    history = told(run)
    assert f"CUTOVER_BASELINE={said}".encode() in cutover_env(history)
    *blocks, last = watch_blocks(run, history, rejudge(run, history)[0])
    assert said in last.text
    assert all(block.rows for block in [*blocks, last] if isinstance(block, Table))


def _other_digest(raws: Raws) -> None:
    of_kind(raws, "baseline_ended")["samples_sha256"] = "0" * 64


def _other_page(raws: Raws) -> None:
    of_kind(raws, "baseline_ended")["url"] = "http://127.0.0.1:1/metrics"


def _forgotten(raws: Raws) -> None:
    raws[:] = [raw for raw in raws if raw["kind"] != "baseline_ended"]


def _behind_the_stop(raws: Raws) -> None:
    kept = next(raw for raw in raws if raw["kind"] == "baseline_ended")
    raws.remove(kept)
    at = next(n for n, raw in enumerate(raws) if raw["kind"] == "watch_started")
    raws.insert(at, kept)


MUTANTS: dict[str, tuple[Callable[[Raws], None], str]] = {
    "another digest": (_other_digest, "baseline_ended says "),
    "another page": (_other_page, "not from the old engine"),
    "record left out": (_forgotten, "the journal has no baseline_ended"),
    "sampled after the stop": (_behind_the_stop, "behind the first stop"),
}


@pytest.mark.parametrize(("edit", "said"), MUTANTS.values(), ids=MUTANTS)
def test_an_edited_baseline_is_refused(
    edit: Callable[[Raws], None], said: str, tmp_path: Path
) -> None:
    """Chain, evidence and seal made anew around the edit: verify still says what is wrong."""
    run = make_run("completed", tmp_path)
    _edit_journal(run, edit)
    seal(run)
    findings = verify_run(run).findings
    assert any(said in finding for finding in findings), findings


def test_edited_samples_are_refused(tmp_path: Path) -> None:
    """A slower old engine, written in later, is not the one that was digested."""
    run = make_run("completed", tmp_path)
    lines = [json.loads(line) for line in run.baseline.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["series"]['quant_hft_order_latency_seconds_bucket{le="0.002"}'] = float(number)
    run.baseline.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(run)
    findings = verify_run(run).findings
    assert any("baseline_ended says " in finding for finding in findings)


def _edit_journal(run: RunDir, edit: Callable[[Raws], None]) -> None:
    raws = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    edit(raws)
    rewrite_journal(run, raws)
