"""What the plane carries: tables, their topics and the queue tables in ClickHouse.

How the tables look is said once, in ``infra/timescale`` and ``infra/clickhouse``, which the plane
applies as production does. ClickHouse's queue tables have the engine Null here: a Kafka engine does
not run inside a process of ours, so the ingester takes its place. Target and materialized view are
production's; a row gets into the target only through the view.
"""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.checkout import CHECKOUT, find_here

__all__ = ["KEYS", "QUEUES", "TICKS_TOPIC", "TOPICS", "checkout_folder", "infra_folder"]

TICKS_TOPIC = "market.ticks.v1"
_CDC = "quant_hft_pg.trading_core."
# Tables of schema trading_core and their primary keys, partition key first.
KEYS = {
    "orders": ("trading_day", "order_id"),
    "trades": ("trading_day", "trade_id"),
    "position_detail": (
        *("trading_day", "account_id", "instrument_id"),
        *("direction", "hedge_flag"),
    ),
    "account_funds": ("trading_day", "account_id"),
    "risk_events": ("occurred_at", "event_id"),
}
# Topic to partitions: infra/kafka/topics.toml, and the heartbeats, which Apache Kafka creates by
# itself when a connector first beats.
TOPICS = {
    TICKS_TOPIC: 6,
    **{f"{_CDC}{table}": 1 for table in KEYS},
    "quant_hft_ops.ops_audit.events": 1,
    "__debezium-heartbeat.quant_hft_pg": 1,
    "__debezium-heartbeat.quant_hft_ops": 1,
}
# Topic to the table the ingester inserts into.
QUEUES = {
    TICKS_TOPIC: "market_ticks_kafka",
    **{f"{_CDC}{table}": f"{table}_cdc_kafka" for table in KEYS},
}


def checkout_folder(part: str) -> Path:
    """``part`` of the working directory, else of the checkout that holds the package."""
    if folder := find_here(part):
        return folder.absolute()
    raise RunbookError(f"no {part} in {Path.cwd()} nor in {CHECKOUT}; run from a checkout")


def infra_folder() -> Path:
    """infra/ as ``checkout_folder`` finds it."""
    return checkout_folder("infra/timescale").parent
