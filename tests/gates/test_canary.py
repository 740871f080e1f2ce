"""The canary's words and numbers; its flights are in tests/integration."""

from __future__ import annotations

import json

from ctp_runbook.gates.canary import HOPS, CanaryFlight, CanaryResult, fly_canaries, percentile
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions


def _flight(seconds: float) -> CanaryFlight:
    return CanaryFlight("m", "2026-11-23T00:00:00Z", dict.fromkeys(HOPS, seconds))


def test_percentiles_are_values_that_occurred() -> None:
    """Nearest rank: of 20 the p50 is the tenth, the p99 the last; of one both are it."""
    values = [float(number) for number in range(20, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (10.0, 20.0)
    assert percentile([3.0], 0.5) == 3.0


def test_arrivals_are_told_hop_by_hop() -> None:
    """Every hop's p50 and p99 are in the sentence and, in milliseconds, in the evidence."""
    result = CanaryResult((_flight(0.1), _flight(0.2)), dry_run=False)
    assert result.exit_code == 0
    assert "debezium_to_kafka p50 100 ms p99 200 ms" in result.sentence
    data = json.loads(json.dumps(result.data()))
    assert data["percentiles_ms"]["total"] == {"p50": 300.0, "p99": 600.0}
    assert data["flights"][0]["hops"][0] == {"hop": "postgres", "ms": 100.0}


def test_one_that_is_stuck_fails_all() -> None:
    """The first trouble is the sentence, exit 3, and no percentile is claimed."""
    stuck = CanaryFlight("m", "t", {"postgres": 0.1}, "m is stuck at Debezium")
    result = CanaryResult((_flight(0.1), stuck), dry_run=False)
    assert (result.exit_code, result.sentence) == (3, "canary FAILED: m is stuck at Debezium")
    assert result.data()["percentiles_ms"] == {}
    assert not CanaryResult((), dry_run=False).is_ok


def test_a_dry_run_sends_nothing_and_an_address_is_needed() -> None:
    """Without --execute nothing is sent; without addresses the flags are named."""
    for execute, said in ((False, "dry run: would send"), (True, "needs --bootstrap-servers")):
        options = GateOptions(execute=execute, profile="rehearsal")
        context = GateContext.of(options, environ={}, tell=print)
        assert said in fly_canaries(context).sentence
