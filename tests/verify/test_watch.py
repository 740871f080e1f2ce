"""Facts about verify/watch.py: a forged window, samples, verdict or comparison, a row a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctp_runbook.record.rundir import RunDir
from tests.props.forged_runs import (
    Edit,
    Raw,
    Raws,
    changed,
    edit_file,
    edit_samples,
    findings_of,
    forge,
    moved,
    nth,
    planned,
    removed,
    together,
)

LATENCY, BREAKER = "order_latency_p99_ms", "breaker_state"
SAMPLES, BASELINE = "samples/samples.jsonl", "samples/baseline.jsonl"


def _half_a_minute(raws: Raws) -> None:
    planned(monitor_minutes=0.5)(raws)
    changed("watch_started", minutes=0.5)(raws)


def _an_hour(raws: Raws) -> None:
    planned(monitor_minutes=60.0)(raws)
    changed("watch_started", minutes=60.0)(raws)


WINDOWS: dict[str, tuple[str, Edit, str]] = {
    "none": (
        "completed",
        removed("watch_ended"),
        "the journal has no whole watch window; a run without one is never COMPLETED",
    ),
    "of another length": (
        "completed",
        changed("watch_started", minutes=29.0),
        "watch_started says 29.0 minutes; POST_SWITCH_MONITOR_MINUTES is 30",
    ),
    "of fewer metrics": (
        "completed",
        changed("watch_started", metrics=[BREAKER]),
        "watch_started watches breaker_state; MONITOR_KEYS is order_latency_p99_ms, breaker_state, ",
    ),
    "shorter than asked for": (
        "completed",
        _an_hour,
        "POST_SWITCH_MONITOR_MINUTES 60 asks for 3600 s: stopped early is never PASSED",
    ),
    "stopped early, and COMPLETED": (
        "completed",
        changed("watch_ended", stopped_early=True),
        "watch_ended says stopped_early true in a run that ended COMPLETED",
    ),
    "watched for longer than it was": (
        "completed",
        changed("watch_ended", watched_seconds=2000.0),
        "watch_ended says 2000.0 s were watched; it was judged 1800.000 s after the start",
    ),
    "short, and nobody said why": (
        "completed",
        _half_a_minute,
        "a watch of 0.5 minutes without --short-watch REASON; RUNBOOK §5 wants 30",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), WINDOWS.values(), ids=WINDOWS)
def test_the_watch_lasted_as_long_as_was_asked(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Whole, of the metrics asked for, and long enough unless a reason stands in the header."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


@pytest.mark.parametrize("excuse", [{"short_watch_reason": "a drill"}, {"rehearsal": True}])
def test_a_short_watch_may_have_its_reason(excuse: Raw, run_of: Callable[[str], RunDir]) -> None:
    """Whoever said why, or rehearses, is not told that half an hour is due."""
    run = run_of("completed")
    forge(run, together(_half_a_minute, changed("run_created", **excuse)))
    assert "--short-watch" not in findings_of(run)


# --- the samples file -------------------------------------------------------------


def of_sample(number: int, **fields: Any) -> Edit:
    """Other fields of one sample."""
    return lambda raws: raws[number].update(fields)


def shifted(number: int, **seconds: float) -> Edit:
    """Clocks of one sample that many seconds later."""

    def edit(raws: Raws) -> None:
        for clock, by in seconds.items():
            raws[number][clock] += by

    return edit


def _due(raw: Raw, *, late: float) -> Raw:
    """When a sample of the engine's page was to begin: a minute before it did, or later."""
    return {"target": "engine", "due": raw["mono"] - 60.1 + late, "missed": 0}


BAD_SAMPLES: dict[str, tuple[Edit, str]] = {
    "one left out": (lambda raws: raws.pop(3), f"{SAMPLES}:4: sample 4 stands where 3 is due"),
    "due after it was taken": (
        of_sample(2, due=1e9),
        f"{SAMPLES}:3: it was due at 1000000000.0 and taken at 175",
    ),
    "ok with an error": (of_sample(2, error="refused"), "ok is true with the error 'refused'"),
    "clocks apart": (shifted(2, wall=60.0), ":3: wall and monotonic clock are 60.0 s apart"),
    "taken before the one before": (
        shifted(9, wall=-300.0, mono=-300.0),
        ":10: its monotonic clock is before that of the window or sample before",
    ),
    "taken before the one before, by the wall": (
        shifted(9, wall=-300.0, mono=-300.0),
        ":10: taken at 2026-02-02T",
    ),
    "taken after the end": (
        shifted(-1, wall=300.0, mono=300.0),
        "a sample is from 2026-02-02T",
    ),
    "taken after the end, by the other clock": (
        shifted(-1, wall=300.0, mono=300.0),
        "a sample's monotonic clock is after the end of the watch",
    ),
    "due half a turn after its turn": (
        lambda raws: [raw.update(_due(raw, late=60.0 * (raw["seq"] == 5))) for raw in raws],
        f"{SAMPLES}:6: due 1.50 turns after the one before, 0 missed",
    ),
}


@pytest.mark.parametrize(("edit", "said"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_a_forged_sample_is_found_though_the_journal_digests_it(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Number, form, clocks and schedule of each sample must be what a sampler can have left."""
    run = run_of("completed")
    edit_samples(run, edit)
    assert said in findings_of(run)


# What decoding refuses, each with what was expected and where.
MALFORMED: dict[str, tuple[Edit, str]] = {
    "numbered by true": (of_sample(2, seq=True), "Expected `int`, got `bool` - at `$.seq`"),
    "numbered by a word": (of_sample(2, seq="2"), "Expected `int`, got `str` - at `$.seq`"),
    "took less than nothing": (of_sample(2, took_ms=-1.0), "Expected `float` >= 0.0 - at `$.took"),
    "took a word": (of_sample(2, took_ms="long"), "Expected `float`, got `str` - at `$.took_ms`"),
    "due at a word": (of_sample(2, due="soon"), "Expected `float`, got `str` - at `$.due`"),
    "missed a fraction": (of_sample(2, missed=0.5), "Expected `int`, got `float` - at `$.missed`"),
    "missed fewer than none": (of_sample(2, missed=-1), "Expected `int` >= 0 - at `$.missed`"),
    "ok by a word": (of_sample(2, ok="yes"), "Expected `bool`, got `str` - at `$.ok`"),
    "from nowhere": (of_sample(2, target=7), "Expected `str`, got `int` - at `$.target`"),
    "without a time": (of_sample(2, wall=None), "Expected `float`, got `null` - at `$.wall`"),
    "without its series": (
        lambda raws: raws[2].pop("series"),
        "Object missing required field `series`",
    ),
    "with more than is known": (
        of_sample(2, note="x"),
        "Object contains unknown field `note`",
    ),
    "of a series of words": (of_sample(2, series={"up": "yes"}), " - at `$.series[...]`"),
}


@pytest.mark.parametrize(("edit", "said"), MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("name", ["samples", "baseline"])
def test_a_sample_of_another_form_is_none(
    name: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """In either file; nothing is judged by a sample that cannot be read."""
    run = run_of("completed")
    edit_samples(run, edit, name=name)
    findings = findings_of(run)
    assert f"samples/{name}.jsonl:3: not a sample: " in findings
    assert said in findings


def _torn(data: bytes) -> bytes:
    return data[:-1]


def _one_less(data: bytes) -> bytes:
    return b"\n".join(data.splitlines()[:-1]) + b"\n"


FILES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "samples gone": (
        SAMPLES,
        lambda data: None,
        f"{SAMPLES}: cannot be read: No such file or directory; watch_ended digests it",
    ),
    "samples of somebody else": (
        SAMPLES,
        lambda data: data.replace(b"100.0", b"101.0", 1),
        "watch_ended says ",
    ),
    "a torn line": (SAMPLES, _torn, f"{SAMPLES}: its last line is torn"),
    "one sample less": (SAMPLES, _one_less, f"{SAMPLES}: 15 samples; watch_ended counts 16"),
    "baseline gone": (
        BASELINE,
        lambda data: None,
        f"{BASELINE}: cannot be read: No such file or directory; baseline_ended digests it",
    ),
    "a baseline of somebody else": (
        BASELINE,
        lambda data: data.replace(b"100.0", b"101.0", 1),
        "…; baseline_ended says ",
    ),
    "a sample of the baseline less": (
        BASELINE,
        _one_less,
        f"{BASELINE}: 19 samples; baseline_ended counts 20",
    ),
    "no baseline at all": (
        BASELINE,
        lambda data: b"not a sample\n",
        f"/{BASELINE}:1: not a sample: JSON is malformed",
    ),
}


@pytest.mark.parametrize(("name", "edit", "said"), FILES.values(), ids=FILES)
def test_samples_are_those_the_journal_digested(
    name: str,
    edit: Callable[[bytes], bytes | None],
    said: str,
    run_of: Callable[[str], RunDir],
) -> None:
    """Both files: there, whole, of the digest and number that the journal has."""
    run = run_of("completed")
    edit_file(run, name, edit((run.path / name).read_bytes()))
    assert said in findings_of(run)


def test_a_digest_names_both(run_of: Callable[[str], RunDir]) -> None:
    """What the file has, and what the journal says."""
    run = run_of("completed")
    forge(run, changed("watch_ended", samples_sha256="0" * 64))
    assert "…; watch_ended says 000000000000…" in findings_of(run)


# --- the verdict ------------------------------------------------------------------


def of_metric(name: str, **values: Any) -> Edit:
    """Other values of one metric in watch_ended."""
    return lambda raws: nth(raws, "watch_ended")["payload"]["metrics"][name].update(values)


def _without_a_metric(raws: Raws) -> None:
    del nth(raws, "watch_ended")["payload"]["metrics"][BREAKER]


def _rules_lost(raws: Raws) -> None:
    del raws[0]["payload"]["plan"]["watch"]["metrics"][BREAKER]


VERDICTS: dict[str, tuple[str, Edit, str]] = {
    "another verdict": (
        "completed",
        changed("watch_ended", verdict="INCONCLUSIVE"),
        "watch_ended says INCONCLUSIVE",
    ),
    "another sentence": (
        "completed",
        changed("watch_ended", sentence="all well"),
        "; watch_ended: all well",
    ),
    "a metric left out": (
        "completed",
        _without_a_metric,
        "watch_ended judges order_latency_p99_ms, reconnect_p99_s; MONITOR_KEYS asks for "
        "breaker_state, order_latency_p99_ms, reconnect_p99_s",
    ),
    "another verdict of a metric": (
        "completed",
        of_metric(LATENCY, verdict="FAILED"),
        "order_latency_p99_ms: verdict judged again is 'PASSED'; watch_ended says 'FAILED'",
    ),
    "another value": (
        "completed",
        of_metric(LATENCY, value=0.5),
        "order_latency_p99_ms: value judged again is ",
    ),
    "a coverage that was not": (
        "completed",
        of_metric(BREAKER, coverage=0.5),
        "breaker_state: coverage judged again is 1.0; watch_ended says 0.5",
    ),
    "more than was measured": (
        "completed",
        of_metric(LATENCY, is_over=True),
        "order_latency_p99_ms: is_over judged again is False; watch_ended says True",
    ),
    "rules that no longer name a metric": (
        "completed",
        _rules_lost,
        "monitor_keys without a rule: breaker_state",
    ),
    "a trigger that does not parse": (
        "completed",
        planned(trigger_text="nonsense"),
        "the watch cannot be judged again: TriggerError(",
    ),
    "a metric, and another cause": (
        "drill",
        changed("trigger", metric=LATENCY),
        "the trigger names a metric, and its cause is forced_drill",
    ),
    "a trigger that is not in the samples": (
        "drill",
        changed("trigger", cause="metric", metric=LATENCY, value=9.0, limit=5.0),
        "the trigger on order_latency_p99_ms is not in the samples",
    ),
    "a trigger that nobody acted on": (
        "rolled_back",
        changed("trigger", cause="operator", metric="", value=None, limit=None),
        "the run acted on operator",
    ),
    "another value that fired": (
        "rolled_back",
        changed("trigger", value=5.5),
        "the trigger's value was 5.5; the samples fire with ",
    ),
    "more than the bucket": (
        "rolled_back",
        changed("trigger", is_over=True),
        "the trigger's is_over was True; the samples fire with False",
    ),
    "another sample that fired": (
        "rolled_back",
        changed("trigger", sample_utc="2026-02-02T02:00:00.000000+00:00"),
        "the trigger's sample_utc was '2026-02-02T02:00:00.000000+00:00'; the samples fire with",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), VERDICTS.values(), ids=VERDICTS)
def test_judged_again_the_samples_say_the_same(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Verdict, sentence, numbers of each metric and the trigger come out of the samples alone."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


def _slow(raws: Raws) -> None:
    fast = 'quant_hft_order_latency_seconds_bucket{le="0.002"}'
    for number, raw in enumerate(raws[5:], start=1):
        raw["series"][fast] -= 40.0 * number


def test_samples_that_fail_are_no_completed_run(run_of: Callable[[str], RunDir]) -> None:
    """Where the samples fire the trigger, COMPLETED is refused with what they judge to."""
    run = run_of("completed")
    edit_samples(run, _slow)
    said = findings_of(run)
    assert "COMPLETED, but the samples judge to FAILED: " in said
    assert "the samples fire the trigger (rollback trigger" in said
    assert "; the run acted on nothing" in said


# --- the old engine ---------------------------------------------------------------


def compared(name: str = LATENCY, **values: Any) -> Edit:
    """What a record of before says of one metric, the old engine against the new."""
    sizes = {"n_before": 8, "n_after": 9, "events_before": 80.0, "events_after": 90.0}
    metrics = {name: {"metric": name, **sizes, **values, "sentence": "worse"}}
    return changed("watch_ended", baseline={"sentence": "1 compared", "metrics": metrics})


COMPARISONS: dict[str, tuple[Edit, str]] = {
    "not digested": (
        removed("baseline_ended"),
        f"{BASELINE} is there, and no record baseline_ended digests it",
    ),
    "not proved": (
        removed("baseline_ended"),
        "the journal has no baseline_ended: what the old engine showed is not proved",
    ),
    "after the first stop": (
        moved("baseline_ended", behind="watch_started"),
        "baseline_ended stands behind the first stop: those samples are not a baseline",
    ),
    "of another page": (
        changed("baseline_ended", url="http://127.0.0.1:1/metrics"),
        f"{BASELINE}:1: taken from http://127.0.0.1:18080/metrics, not from the old engine",
    ),
    "of a metric nobody watches": (
        compared("position_gap", failed=True),
        "watch_ended compares position_gap, which nothing proves",
    ),
    "that no plan asked for": (
        compared(failed=True),
        f"watch_ended fails {LATENCY} for its shift; the plan has no baseline_max_shift of it",
    ),
    "that was told otherwise": (compared(failed=True), f"the samples judge to FAILED ({LATENCY} "),
}


@pytest.mark.parametrize(("edit", "said"), COMPARISONS.values(), ids=COMPARISONS)
def test_the_old_engine_s_samples_and_what_was_said_of_them_fit(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """They are digested, and of before the switch; no shift fails what no plan asked for."""
    run = run_of("completed")
    forge(run, edit)
    assert said in findings_of(run)


OLD_SAMPLES: dict[str, tuple[Edit, str]] = {
    "one left out": (lambda raws: raws.pop(3), f"{BASELINE}:4: sample 4 stands where 3 is due"),
    "taken during the switch": (
        shifted(-1, wall=300.0, mono=300.0),
        f"{BASELINE}:20: not taken between the run's start and baseline_ended",
    ),
    "taken before the run": (
        shifted(0, wall=-3600.0, mono=-3600.0),
        f"{BASELINE}:1: not taken between the run's start and baseline_ended",
    ),
    "taken from the new engine": (
        of_sample(2, target="http://127.0.0.1:18081/metrics"),
        f"{BASELINE}:3: taken from http://127.0.0.1:18081/metrics, not from the old engine",
    ),
}


@pytest.mark.parametrize(("edit", "said"), OLD_SAMPLES.values(), ids=OLD_SAMPLES)
def test_a_forged_baseline_is_found_though_the_journal_digests_it(
    edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Each of its samples was taken before the switch, in order, from the old engine's page."""
    run = run_of("completed")
    edit_samples(run, edit, name="baseline")
    assert said in findings_of(run)


def test_false_is_not_zero_in_a_comparison(run_of: Callable[[str], RunDir]) -> None:
    """Python takes 0 for false; a reader of the record does not."""
    run = run_of("completed")

    forge(run, compared(failed=0))
    assert "Expected `bool`, got `int` - at `$.baseline.metrics[...].failed`" in findings_of(run)
    forge(run, of_metric(BREAKER, value=False))
    assert "Expected `float | null`, got `bool` - at `$.metrics[...].value`" in findings_of(run)
