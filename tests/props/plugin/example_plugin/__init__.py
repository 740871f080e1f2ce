"""What this distribution brings to ctp-runbook; each row is named by an entry point."""

from ctp_runbook.plan.sources import Source

__all__ = ["HTTP_JSON"]

HTTP_JSON = Source(
    "example_http_json",
    "example_plugin.http_json:json_number",
    settings=("example_http_json_user",),
    url="must",
    by_wall_clock=False,
)
