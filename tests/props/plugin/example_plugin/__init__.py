"""What this distribution brings to ctp-runbook; each row is named by an entry point."""

from ctp_runbook.plan.gate_table import Gate
from ctp_runbook.plan.sources import Source

__all__ = ["HTTP_JSON", "SCHEMA_REGISTRY"]

HTTP_JSON = Source(
    "example_http_json",
    "example_plugin.http_json:json_number",
    settings=("example_http_json_user",),
    url="must",
    by_wall_clock=False,
)
SCHEMA_REGISTRY = Gate(
    "example-schema-registry",
    "init_kafka_topic",
    "EXAMPLE_SCHEMA_REGISTRY",
    "example_schema_registry_result.env",
    "example-registry",
    "example_plugin.schema_registry:registry_tasks",
    help="The registry has its subjects.",
    address="--endpoint example-registry=URL",
    parts=(("", "kafka"),),
)
