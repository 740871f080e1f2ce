"""topics.toml: every key known, all problems at once; and what the gate makes of a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ConfigError
from ctp_runbook.gates.kafka import load_topics

ROOT = Path(__file__).parents[2]
GOOD = """\
[topics."a.b"]
partitions = 6
replication = 1
min_insync_replicas = 1
retention_ms = 1000
cleanup_policy = "delete"
"""


def test_the_shipped_topics_are_those_of_the_pipeline() -> None:
    """Ticks have six partitions; the five CDC topics and the audit topic one each."""
    topics = load_topics(ROOT / "infra/kafka/topics.toml")
    assert {one.name: one.partitions for one in topics} == {
        "market.ticks.v1": 6,
        "quant_hft_pg.trading_core.orders": 1,
        "quant_hft_pg.trading_core.trades": 1,
        "quant_hft_pg.trading_core.position_detail": 1,
        "quant_hft_pg.trading_core.account_funds": 1,
        "quant_hft_pg.trading_core.risk_events": 1,
        "quant_hft_ops.ops_audit.events": 1,
    }
    assert topics[0].spec.configs["retention.ms"] == str(7 * 24 * 3600 * 1000)


BAD = {
    "no topic": ("", "no topic"),
    "no table": ('topics = "x"', "no topic"),
    "unknown table": (GOOD + "[more]\n", "unknown key"),
    "unknown key": (GOOD + "partition = 6\n", "did you mean partitions?"),
    "no partitions": (GOOD.replace("partitions = 6", "partitions = 0"), ">= 1"),
    "a text": (GOOD.replace("= 6", '= "6"'), "whole number"),
    "no such policy": (GOOD.replace("delete", "forget"), "compact"),
    "missing": (GOOD.replace("replication = 1\n", ""), "no such key"),
    "more in sync than there are": (
        GOOD.replace("min_insync_replicas = 1", "min_insync_replicas = 2"),
        "at most replication, 1",
    ),
    "no TOML": ("[", "cannot be read as TOML"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """What is no topic is refused before a broker is asked."""
    path = tmp_path / "topics.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_topics(path)
    assert said in str(refused.value)
