"""Facts about run/old_engine.py: what the old engine's page says before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.record.kinds import Finding
from ctp_runbook.run.old_engine import OldEngineSampling, warn_of_buckets
from tests.props.plan_fixtures import make_plan, open_context, wait_for
from tests.props.small_servers import http_page

pytestmark = pytest.mark.twin
# The shipped limits are 5 ms and 10 s; the trigger's numbers are the same.
PAGE = """\
# TYPE quant_hft_order_latency_seconds histogram
quant_hft_order_latency_seconds_bucket{le="0.0025"} 0
quant_hft_order_latency_seconds_bucket{le="0.025"} 0
quant_hft_order_latency_seconds_bucket{le="+Inf"} 0
# TYPE quant_hft_ctp_reconnect_seconds histogram
quant_hft_ctp_reconnect_seconds_bucket{le="1.0"} 0
quant_hft_ctp_reconnect_seconds_bucket{le="5.0"} 0
quant_hft_ctp_reconnect_seconds_bucket{le="+Inf"} 0
"""
WORDS = (
    "watch.order_latency_p99_ms.limit 5 ms has no bucket at it: what quant_hft_order_latency_seconds",
    "counts from 2.5 to 25 ms may be on either side of it; give the histogram a bucket at 5 ms",
    "watch.reconnect_p99_s.limit 10 s has no bucket at it",
    "the trigger's 10 s has no bucket at it",
    "has its widest at 5 s, and nothing is known of what is more",
)
WHOLE = PAGE.replace('"0.0025"', '"0.005"').replace('"5.0"', '"10.0"')


def warnings(folder: Path, page: str, *, sampled: bool) -> str:
    """What is warned of by one look at the page, or by the sampling while the gates run."""
    with http_page(page) as url:
        plan = make_plan(folder, OLD_CORE_ENGINE_METRICS_URL=url)
        with open_context(folder, plan=plan) as context:
            if sampled:
                sampling = OldEngineSampling(context)
                sampling.start()
                wait_for(lambda: sampling._page)
                sampling.warn_of_buckets()
                sampling.end()
            else:
                warn_of_buckets(context)
            found = context.history.of_kind(Finding)
    return " | ".join(record.payload.sentence for record in found)


@pytest.mark.parametrize("sampled", [False, True], ids=["--probe", "gates"])
def test_a_limit_without_a_bucket_is_told_before_the_switch(tmp_path: Path, sampled: bool) -> None:
    """With metric, limit, what the buckets are, and what to do; of the trigger's numbers as well."""
    told = warnings(tmp_path, PAGE, sampled=sampled)
    assert all(words in told for words in WORDS), told


@pytest.mark.parametrize("page", [WHOLE, "other 1\n", "no page"])
def test_nothing_is_told_of_buckets_that_are_right_or_not_there(tmp_path: Path, page: str) -> None:
    """Nor of a page that cannot be read: others tell that."""
    assert warnings(tmp_path, page, sampled=False) == ""
