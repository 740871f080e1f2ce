"""watch.toml and limits.toml: the shipped ones hold, and every mistake has its line."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import UNSET, ValidationError, convert, to_builtins

from ctp_runbook.errors import ConfigError
from ctp_runbook.plan.config import MetricRule, load_limits, load_watch
from ctp_runbook.plan.step_table import STEP_TABLE

CONFIGS = Path(__file__).parents[2] / "configs"
WATCH = (CONFIGS / "watch.toml").read_text(encoding="utf-8")
LIMITS = (CONFIGS / "limits.toml").read_text(encoding="utf-8")


def test_shipped_watch_has_the_six_metrics_of_the_runbook() -> None:
    """Their units, limits and what an empty window means are those an operator was promised."""
    rules = load_watch(CONFIGS / "watch.toml").metrics
    assert {name: (rule.unit, rule.limit, rule.zero_events) for name, rule in rules.items()} == {
        "order_latency_p99_ms": ("ms", 5.0, "inconclusive"),
        "breaker_state": ("state", 0.0, "inconclusive"),
        "query_rate_violation": ("count", 0.0, "pass"),
        "reconnect_p99_s": ("s", 10.0, "pass"),
        "kafka_lag_ms": ("ms", 1000.0, "inconclusive"),
        "clickhouse_ingest_delay_ms": ("ms", 5000.0, "inconclusive"),
    }
    assert all(rule.direction == "max" for rule in rules.values())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("quantile", 1.49, "a finite number > 0 and <= 0.999999"),
        ("quantile", 0.0, "a finite number > 0"),
        ("window_seconds", 0.0, "a finite number > 0"),
        ("interval_seconds", -1.0, "a finite number > 0"),
        ("scale", 1e300, "<= 1e+09"),
        ("limit", -1e300, ">= -1e+12"),
        ("min_events", -1, "a whole number >= 0"),
        ("direction", "sideways", "one of max, min"),
        ("kind", "colour", "one of latency_quantile"),
        ("false_alarm_rate", 0.0, "a finite number > 0 and <= 0.5"),
    ],
)
def test_a_rule_in_a_record_is_held_to_what_watch_toml_is(
    key: str, value: object, said: str
) -> None:
    """Whoever edits one in a journal has it refused, with what is expected; nothing is judged by it."""
    rule = load_watch(CONFIGS / "watch.toml").metrics["order_latency_p99_ms"]
    assert convert(to_builtins(rule), MetricRule) == rule
    with pytest.raises(
        ValidationError, match=re.escape(f"{key} = {value!r}: expected ")
    ) as refused:
        convert({**to_builtins(rule), key: value}, MetricRule)
    assert said in str(refused.value)


def test_shipped_limits_time_every_step() -> None:
    """A template that gives no timeout still has one for each of the seventeen steps."""
    limits = load_limits(CONFIGS / "limits.toml")
    assert set(limits.step_timeout_seconds) == {step.name for step in STEP_TABLE}
    assert (limits.hold_seconds, limits.hold_expiry) == (300.0, "rollback")
    assert limits.sessions.are_known


def test_every_key_of_the_shipped_files_is_explained() -> None:
    """An operator finds each key of a metric in the head of watch.toml."""
    head = WATCH[: WATCH.index("[metrics.")]
    used = set(re.findall(r"^(\w+) = ", WATCH[len(head) :], re.MULTILINE))
    assert {key for key in used if not re.search(rf"\b{key}\b", head)} == set()


def test_whole_numbers_and_counts_keep_their_types() -> None:
    """Seconds are floats however they are written; counts of events and bytes are whole."""
    rule = load_watch(CONFIGS / "watch.toml").metrics["kafka_lag_ms"]
    limits = load_limits(CONFIGS / "limits.toml")
    assert isinstance(rule.limit, float)
    assert isinstance(rule.min_events, int)
    assert isinstance(limits.term_grace_seconds, float)
    assert isinstance(limits.journal_reserve_bytes, int)


def test_sources_name_addresses_and_no_password() -> None:
    """Where Kafka and ClickHouse are asked; the password by its variable's name alone."""
    assert load_watch(CONFIGS / "watch.toml").sources == {
        "kafka_bootstrap": "127.0.0.1:9092",
        "clickhouse_url": "http://127.0.0.1:8123",
        "clickhouse_user": "quant_hft",
        "clickhouse_key_env": "CLICKHOUSE_PASSWORD",
    }


def test_sources_may_be_left_out(tmp_path: Path) -> None:
    """A watch of engine metrics alone needs none."""
    file = tmp_path / "watch.toml"
    file.write_text(WATCH.replace(WATCH[WATCH.index("[sources]") : WATCH.index("[metrics.")], ""))
    assert load_watch(file).sources == {}


WRONG_WATCH = {
    "unknown source": ("clickhouse_url = ", "clickhouse_uri = ", "did you mean clickhouse_url?"),
    "source that is no text": ('"quant_hft"', "1", "sources.clickhouse_user: found"),
    "unknown key": ("min_events = 20", "min_event = 20", "did you mean min_events?"),
    "unknown metric table": ("[metrics.kafka_lag_ms]", "[metric.x]", "found an unknown key"),
    "unit": ('unit = "ms"', 'unit = "hours"', "one of ms, s, state, count, ratio"),
    "boolean limit": ("limit = 5\n", "limit = true\n", "found true"),
    "text limit": ("limit = 5\n", 'limit = "5"\n', "a finite number"),
    "NaN": ("limit = 5\n", "limit = nan\n", "found 'nan'"),
    "infinity": ("limit = 5\n", "limit = inf\n", "found 'inf'"),
    "huge": ("limit = 5\n", f"limit = {'9' * 400}\n", "a finite number"),
    "negative": ("window_seconds = 60", "window_seconds = -1", "a finite number > 0"),
    "zero window": ("window_seconds = 60", "window_seconds = 0", "a finite number > 0"),
    "quantile of one": ("quantile = 0.99", "quantile = 1.0", "<= 0.999999"),
    "coverage": ("min_coverage = 0.9", "min_coverage = 1.5", "<= 1"),
    "half an event": ("min_events = 20", "min_events = 0.5", "a whole number"),
    "labels": ('group = "clickhouse-ingest"', "group = 1", "a table of texts"),
    "direction": ('direction = "max"', 'direction = "up"', "one of max, min"),
    "missing": ('direction = "max"\n', "", "found no such key"),
    "missing tolerance": ("tolerance_error_seconds = 60", "", "found no such key"),
    "metric name": ("[metrics.breaker_state]", "[metrics.Breaker-State]", "a-z, 0-9 and _"),
    "a url that nobody asks": (
        'query = "market.ticks.v1"\n',
        'query = "market.ticks.v1"\nurl = "http://127.0.0.1:1/metrics"\n',
        "a page's url for source 'kafka'",
    ),
    "no table": ("[metrics.breaker_state]", "[x]", "found an unknown key"),
    "a test of no buckets": (
        'query = "market.ticks.v1"\n',
        'query = "market.ticks.v1"\ntest = "sequential"\n',
        "metrics.kafka_lag_ms.test: found 'sequential'; expected no such key but for a"
        " latency_quantile of a page",
    ),
    "a cap of a gauge": (
        'kind = "outage"\n',
        'kind = "outage"\ncap = 60\n',
        "found 60; expected no",
    ),
    "a test that is none": ('test = "sequential"', 'test = "fisher"', "one of sequential, plain"),
    "a rate of a plain test": (
        'test = "sequential"',
        'test = "plain"\nfalse_alarm_rate = 0.05',
        "found 0.05; expected no such key beside test",
    ),
    "a proof of a least": (
        'direction = "max"',
        'direction = "min"',
        'latency_quantile of a page, with direction = "max"',
    ),
    "a rate that alarms always": (
        'test = "sequential"',
        'test = "sequential"\nfalse_alarm_rate = 1',
        "a finite number > 0 and <= 0.5",
    ),
    "a shift that failed once": (
        'test = "sequential"',
        'test = "sequential"\nbaseline_max_shift = 0.5',
        "metrics.order_latency_p99_ms.baseline_max_shift: found a key that is no longer read: a shift "
        "from the old engine is shown and fails nothing; expected no such key; delete the line, and "
        "let `ctp-runbook calibrate` say which `limit` the old engine itself keeps",
    ),
    "a cap below the limit": (
        'test = "sequential"',
        'test = "sequential"\ncap = 4',
        "found 4; expected at least the limit 5",
    ),
    "whole rate": (
        "false_alarm_rate = 0.01\n",
        "false_alarm_rate = 1\n",
        "false_alarm_rate: found '1'; expected a finite number > 0 and <= 0.5",
    ),
}


def test_a_quantile_of_buckets_is_proved_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    """By default; what was recorded before the key has none, and is read as the file has it."""
    path = tmp_path / "watch.toml"
    path.write_text(WATCH.replace('test = "sequential"\n', ""), encoding="utf-8")
    assert load_watch(path).metrics["order_latency_p99_ms"].is_sequential
    assert load_watch(path, only_written=True).metrics["order_latency_p99_ms"].test is UNSET
    others = [rule for name, rule in load_watch(path).metrics.items() if name[0] != "o"]
    assert {rule.test for rule in others} == {UNSET}
    path.write_text(
        WATCH.replace('test = "sequential"\n', "false_alarm_rate = 0.02\nburst_seconds = 3\n"),
        encoding="utf-8",
    )
    rule = load_watch(path).metrics["order_latency_p99_ms"]
    assert (rule.allowed_share, rule.false_alarms, rule.span_seconds) == (0.01, 0.02, 3.0)


@pytest.mark.parametrize(
    "file", ["watch.toml", "rich_engine.watch.toml", "rehearsal/light/watch.toml"]
)
def test_the_rate_of_false_alarms_is_that_of_the_whole_watch(file: str) -> None:
    """1 %, however many metrics are proved; what was recorded before has no rate of its own."""
    rules = load_watch(CONFIGS / file).metrics.values()
    proved = [rule.false_alarms for rule in rules if rule.is_sequential]
    assert math.isclose(sum(proved), 0.01)
    written = load_watch(CONFIGS / file, only_written=True).metrics.values()
    assert {rule.false_alarm_rate for rule in written} == {UNSET}


def test_what_names_a_rate_has_it_and_the_others_share_the_watchs(tmp_path: Path) -> None:
    """Of three metrics that are proved one has its own."""
    head, table, rest = WATCH.partition("[metrics.order_latency_p99_ms]\n")
    table += rest.partition("\n[metrics.")[0] + "\n"
    both = "".join(table.replace("order_latency_p99_ms", name) for name in ("one", "two"))
    text = head.replace("rate = 0.01\n", "rate = 0.04\n") + both + table
    path = tmp_path / "watch.toml"
    path.write_text(text, encoding="utf-8")
    assert {rule.false_alarms for rule in load_watch(path).metrics.values()} == {0.04 / 3}
    own = text.replace("[metrics.two]\n", "[metrics.two]\nfalse_alarm_rate = 0.002\n")
    path.write_text(own, encoding="utf-8")
    rules = load_watch(path).metrics
    rates = {name: rule.false_alarms for name, rule in rules.items()}
    assert rates == {"one": 0.02, "two": 0.002, "order_latency_p99_ms": 0.02}


@pytest.mark.parametrize(("old", "new", "said"), WRONG_WATCH.values(), ids=WRONG_WATCH)
def test_mistake_in_watch_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    """Each mistake is told with its line, what is expected, and the nearest known key."""
    assert old in WATCH
    path = tmp_path / "watch.toml"
    path.write_text(WATCH.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_watch(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))


WRONG_LIMITS = {
    "unknown key": ("restarts_max", "restart_max", "did you mean restarts_max?"),
    "unknown step": ("precheck = 60", "prechek = 60", "did you mean precheck?"),
    "missing step": ("precheck = 60\n", "", "step_timeout_seconds.precheck: found no such key"),
    "zero timeout": ("precheck = 60", "precheck = 0", "a finite number > 0"),
    "not a table": ("[step_timeout_seconds]", "[other]", "step_timeout_seconds.precheck"),
    "policy": ('hold_expiry = "rollback"', 'hold_expiry = "hope"', "one of rollback, keep"),
    "flag": ("require_plan_sha256 = false", "require_plan_sha256 = 0", "true or false"),
    "redact": ("redact = []", "redact = [1]", "a list of texts"),
    "restarts": ("restarts_max = 3", "restarts_max = -1", "a whole number >= 0"),
    "session": ('"09:00-10:15"', '"09:00-25:15"', "a list of spans"),
    "session offset": ("utc_offset_hours = 8", "utc_offset_hours = 80", "<= 14"),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG_LIMITS.values(), ids=WRONG_LIMITS)
def test_mistake_in_limits_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    """The same for timeouts and policies."""
    assert old in LIMITS
    path = tmp_path / "limits.toml"
    path.write_text(LIMITS.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_limits(path)
    assert said in str(caught.value)


def test_problem_names_the_line_of_its_key(tmp_path: Path) -> None:
    """The same key in another table does not draw the problem to itself."""
    text = WATCH.replace("window_seconds = 300", "window_seconds = 0")
    path = tmp_path / "watch.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_watch(path)
    (problem,) = caught.value.problems
    assert problem.key == "metrics.reconnect_p99_s.window_seconds"
    assert text.splitlines()[problem.line - 1] == "window_seconds = 0"


def test_missing_key_names_the_line_of_its_table(tmp_path: Path) -> None:
    """What stands nowhere is told where it belongs."""
    text = WATCH.replace('kind = "state"\n', "")
    path = tmp_path / "watch.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_watch(path)
    (problem,) = caught.value.problems
    assert text.splitlines()[problem.line - 1] == "[metrics.breaker_state]"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """A file is mended once, not once per mistake."""
    path = tmp_path / "limits.toml"
    path.write_text("term_grace_second = 1\nhold_seconds = -1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_limits(path)
    lines = {problem.key: problem.line for problem in caught.value.problems}
    assert lines["term_grace_second"] == 1
    assert lines["hold_seconds"] == 2
    assert len(lines) == 13 + 17


UNREADABLE = {
    "no TOML": (b"a = 1\nb = \n", ":2: ", "at line 2"),
    "not UTF-8": (b"a = '\xff'", ": ", "can't decode"),
    "too deep": (b"a = " + b"[" * 100_000, ": ", "cannot be read as TOML"),
    "a number too long": (b"a = " + b"9" * 5_000, ": ", "cannot be read as TOML"),
    "key twice": (b"a = 1\na = 2\n", ":2: ", "cannot be read as TOML"),
}


@pytest.mark.parametrize(("raw", "place", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_toml_is_refused(raw: bytes, place: str, said: str, tmp_path: Path) -> None:
    """Whatever the bytes are, the answer is one problem with its line where TOML has one."""
    path = tmp_path / "watch.toml"
    path.write_bytes(raw)
    for load in (load_watch, load_limits):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert said in str(caught.value)
        assert str(caught.value).startswith(f"{path}{place}")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A config that is not there is a refusal, not a default."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        load_limits(tmp_path / "limits.toml")


ODD = ('""', "-1", "nan", "[]", "{a = [1]}", "1979-05-27", '"a\\u0000b"', "9" * 30)


@pytest.mark.parametrize(
    ("source", "load"), [(WATCH, load_watch), (LIMITS, load_limits)], ids=["watch", "limits"]
)
@pytest.mark.parametrize("odd", ODD)
def test_any_key_may_hold_anything(
    source: str, load: Callable[[Path], object], odd: str, tmp_path: Path
) -> None:
    """It is taken, or refused as a configuration: whatever its type, there is no traceback."""
    lines = source.splitlines()
    file = tmp_path / "x.toml"
    for at, line in enumerate(lines):
        if match := re.match(r"[\w.]+ *= *", line):
            file.write_text("\n".join([*lines[:at], match[0] + odd, *lines[at + 1 :]]))
            with contextlib.suppress(ConfigError):
                load(file)
