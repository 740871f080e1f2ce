"""infra/: what the files of the production stack promise, read and never run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

from ctp_runbook.plan.config import MetricRule, load_watch
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.redact import is_secret_name

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE = INFRA / "docker-compose.single-host.yaml"
CAPTURED = ("account_funds", "orders", "position_detail", "risk_events", "trades")
ASKED_FOR = {
    "clickhouse",
    "grafana",
    "kafka",
    "kafka-connect",
    "prometheus",
    "redis",
    "timescale",
}
CONNECTORS = {
    "trading-core-connector": {f"trading_core.{name}" for name in CAPTURED},
    "ops-audit-connector": {"ops_audit.events"},
}
# What takes away: a migration may only ever add.
TAKES_AWAY = re.compile(
    r"\b(DROP|TRUNCATE|DELETE|DETACH|RENAME|REVOKE|RESET|REPLACE TABLE|ALTER COLUMN|MODIFY|UPDATE \w)",
    re.IGNORECASE,
)
VARIABLE = re.compile(r"\$\{(\w+)(:[-?])?([^}]*)\}")


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


SERVICES: dict[str, dict[str, Any]] = _yaml(COMPOSE)["services"]
RULES = load_watch(ROOT / "configs/rich_engine.watch.toml").metrics


def _environment() -> dict[str, str]:
    return read_variables(INFRA / "env/prodlike.env", environ={})


def _statements(path: Path) -> Iterator[str]:
    bare = re.sub(r"--.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return (part.strip() for part in bare.split(";") if part.strip())


def test_every_service_asked_for_is_there() -> None:
    """Issue 3 names seven; the exporters are what Prometheus reads two of them by."""
    assert set(SERVICES) == ASKED_FOR | {"kafka-exporter", "postgres-exporter"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_be_judged_and_bounded(name: str) -> None:
    """Health check with a shell line, memory limit, restart policy, bounded log."""
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD-SHELL"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_health_check_asks_for_work(name: str) -> None:
    """No check is content with an open port or with pg_isready alone."""
    line = SERVICES[name]["healthcheck"]["test"][1]
    assert not re.search(r"\bnc\b|/dev/tcp|\bping\b", line, re.IGNORECASE)
    asks = ("SET ", "psql", "kafka-topics.sh", "/connectors", "--query", "/metrics", "/api/")
    assert any(word in line for word in asks)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_a_variable_with_a_prefix_and_a_pinned_default(name: str) -> None:
    """A private registry goes in front; the default has a version and names no host."""
    shape = r"\$\{REGISTRY_PREFIX:-\}\$\{(\w+_IMAGE):-([\w.-]+(?:/[\w.-]+)?):(v?\d[\w.-]+)\}"
    found = re.fullmatch(shape, SERVICES[name]["image"])
    assert found, SERVICES[name]["image"]
    assert "." not in found[2].split("/")[0], "a registry's host name"
    assert _environment()[found[1]] == f"{found[2]}:{found[3]}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_bound_to_the_loopback_and_chosen_by_a_variable(name: str) -> None:
    """On the host's own network, where nothing is published, the service itself listens there."""
    service = SERVICES[name]
    for port in service.get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port)
    if service.get("network_mode") == "host":
        listens = str(service.get("entrypoint", "")) + str(service["environment"])
        assert re.search(
            r"listen-address=127\.0\.0\.1:|'GF_SERVER_HTTP_ADDR': '127\.0\.0\.1'", listens
        )
    else:
        assert service["ports"]


def test_no_two_ports_are_the_same() -> None:
    """Of the settings file: two services on one port would be found out in production only."""
    ports = [value for name, value in _environment().items() if name.endswith("_PORT")]
    assert len(ports) == len(set(ports))


def test_a_password_has_no_default_and_stands_nowhere() -> None:
    """Every secret variable of the compose file refuses to be missing; the settings have none."""
    told = VARIABLE.findall(COMPOSE.read_text(encoding="utf-8"))
    secrets = {name: kind for name, kind, _ in told if is_secret_name(name)}
    assert set(secrets.values()) == {":?"}
    assert not [name for name in _environment() if is_secret_name(name)]
    # … and is named in the settings file's instructions.
    text = (INFRA / "env/prodlike.env").read_text(encoding="utf-8")
    assert all(f"\n# {name}=" in text for name in secrets)


def test_no_password_is_on_a_command_line() -> None:
    """Commands and health checks name no secret but where the shell itself passes it on."""
    for service in SERVICES.values():
        lines = [service["healthcheck"]["test"][1], *map(str, service.get("command", ()))]
        # The heredoc is standard input.
        text = re.sub(r"<<EOF.*EOF", "", " ".join(lines), flags=re.DOTALL)
        assert not re.search(r"PASSWORD|AUTH|requirepass|--password", text)


def test_settings_and_compose_file_name_the_same_variables() -> None:
    """With the same defaults: leaving the env file out changes nothing but where to look."""
    told = VARIABLE.findall(COMPOSE.read_text(encoding="utf-8"))
    defaults = {name: value for name, kind, value in told if kind == ":-"}
    assert defaults == _environment()


def test_the_database_is_ready_for_capture_and_bounded() -> None:
    """wal_level needs a restart to change, so it is on from the start; a dead slot is given up."""
    words = " ".join(SERVICES["timescale"]["command"])
    assert "wal_level=logical" in words
    assert "max_slot_wal_keep_size=${TIMESCALE_SLOT_WAL_KEEP:-8GB}" in words


def test_volumes_are_named() -> None:
    """What must outlive a container is in a volume the file declares; the rest is read-only."""
    declared = set(_yaml(COMPOSE)["volumes"])
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in declared or volume.endswith(":ro")


def test_mounted_files_exist() -> None:
    """Docker would make a directory of a name that is not there."""
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (INFRA / volume.split(":")[0]).exists(), volume


@pytest.mark.parametrize("path", sorted(INFRA.glob("*/*.sql")), ids=lambda path: path.name)
def test_sql_only_adds(path: Path) -> None:
    """Migrations run beside an engine that trades: nothing is dropped, renamed or rewritten."""
    text = re.sub(r"--.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # A right to update the heartbeat takes nothing away.
    text = text.replace("GRANT INSERT, UPDATE ON", "GRANT INSERT ON")
    assert not TAKES_AWAY.findall(text)
    for created in re.findall(r"^CREATE .*", text, flags=re.MULTILINE):
        assert re.search(r"IF NOT EXISTS|OR REPLACE FUNCTION", created), created


def test_sql_files_are_numbered() -> None:
    """They are applied in the order of their names."""
    for folder in ("clickhouse", "timescale"):
        names = [path.name for path in INFRA.glob(f"{folder}/*.sql")]
        assert names
        assert all(re.fullmatch(r"\d{3}_\w+\.sql", name) for name in names)


@pytest.mark.parametrize(
    "topic", ["market.ticks.v1", *(f"quant_hft_pg.trading_core.{name}" for name in CAPTURED)]
)
def test_a_topic_has_queue_target_and_view(topic: str) -> None:
    """One queue reads it, one MergeTree keeps it, and a view goes from the one to the other."""
    everything = [part for path in INFRA.glob("clickhouse/*.sql") for part in _statements(path)]
    (queue,) = [part for part in everything if f"kafka_topic_list = '{topic}'" in part]
    name = re.search(r"EXISTS quant_hft\.(\w+)_kafka", queue)
    assert name
    assert any(
        f"EXISTS quant_hft.{name[1]} (" in part and "ENGINE = MergeTree" in part
        for part in everything
    )
    view = next(part for part in everything if f"EXISTS quant_hft.{name[1]}_mv" in part)
    assert f"TO quant_hft.{name[1]}\n" in view
    assert f"FROM quant_hft.{name[1]}_kafka\n" in view


def test_the_watchs_group_and_columns_are_those_of_the_tick_table() -> None:
    """kafka_lag_ms names its group and topic, clickhouse_ingest_delay_ms its columns."""
    text = (INFRA / "clickhouse/020_market_ticks.sql").read_text(encoding="utf-8")
    lag = RULES["kafka_lag_ms"]
    assert f"kafka_group_name = '{lag.labels['group']}'" in text
    assert f"kafka_topic_list = '{lag.query}'" in text
    assert "event_time DateTime64(3" in text
    assert "ingested_at DateTime64(3" in text
    flush = re.search(r"kafka_flush_interval_ms = (\d+)", text)
    assert flush
    assert int(flush[1]) < lag.limit / 2


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_connector_captures_its_tables_and_holds_no_credential(name: str) -> None:
    """Both connectors of DOMAIN, each with slot and publication, its password a placeholder."""
    told = json.loads((INFRA / f"debezium/{name}.json").read_text(encoding="utf-8"))
    config = told["config"]
    assert told["name"] == name
    assert set(config["table.include.list"].split(",")) == CONNECTORS[name]
    assert config["plugin.name"] == "pgoutput"
    assert config["transforms.unwrap.add.fields"] == "op,table,source.ts_ms"
    assert int(config["heartbeat.interval.ms"]) > 0
    assert name in config["heartbeat.action.query"]
    for key, value in config.items():
        if is_secret_name(key):
            assert re.fullmatch(r"\$\{env:\w+_PASSWORD\}", value), key


def test_connectors_share_no_slot_publication_or_prefix() -> None:
    """And publication and slot are made under these names by infra/timescale and the connector."""
    configs = [json.loads(path.read_text())["config"] for path in INFRA.glob("debezium/*.json")]
    assert len(configs) == len(CONNECTORS)
    for key in ("slot.name", "publication.name", "topic.prefix"):
        assert len({config[key] for config in configs}) == len(configs)
    sql = (INFRA / "timescale/040_partitions_and_publications.sql").read_text(encoding="utf-8")
    assert all(f"'{config['publication.name']}'" in sql for config in configs)
    assert {config["publication.autocreate.mode"] for config in configs} == {"disabled"}


def test_captured_tables_are_never_hypertables() -> None:
    """pgoutput publishes chunks, not hypertables: their topics would stay empty without a word."""
    text = (INFRA / "timescale/030_sample_tables.sql").read_text(encoding="utf-8")
    assert "create_hypertable" in text
    assert not [name for name in CAPTURED if re.search(rf"trading_core\.{name}\b", text)]


def _rules() -> list[dict[str, Any]]:
    groups = _yaml(INFRA / "prometheus/alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_an_alert_mirrors_the_limit_of_the_watch(rule: MetricRule) -> None:
    """Limit, direction and duration of the alert are those of configs/rich_engine.watch.toml."""
    (alert,) = [told for told in _rules() if told.get("labels", {}).get("metric") == rule.name]
    beyond = ">" if rule.direction == "max" else "<"
    assert alert["expr"] == f"{rule.name} {beyond} {rule.limit:g}"
    assert alert["for"] == f"{rule.for_seconds:g}s"
    assert f"limit {rule.limit:g}" in alert["annotations"]["summary"]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_recorded_metric_is_taken_as_the_watch_takes_it(rule: MetricRule) -> None:
    """Same family, window, quantile, factor and least number of events."""
    (recorded,) = [told for told in _rules() if told.get("record") == rule.name]
    expression = recorded["expr"]
    if rule.source == "engine":
        assert rule.query in expression
    if rule.source != "clickhouse":  # its window is in the query of the handler
        assert set(re.findall(r"\[(\d+)s\]", expression)) == {f"{rule.window_seconds:g}"}
    if rule.kind == "latency_quantile":
        assert f"histogram_quantile({rule.quantile:g}, " in expression
        assert expression.startswith("1000 * ") == (rule.scale == 1000)
    if rule.min_events > 1:
        assert f">= {rule.min_events}" in expression


def test_the_alerts_know_engines_as_found_too() -> None:
    """Each family of configs/watch.toml, with its limit and how long an order may be waited for."""
    rules = load_watch(ROOT / "configs/watch.toml").metrics
    told = {each.get("alert", each.get("record")): each for each in _rules()}
    said = " ".join(each["expr"] for each in _rules())
    families = {f for rule in rules.values() if rule.source == "engine" for f in rule.families}
    assert [family for family in families if family not in said] == []
    for family in rules["query_rate_violation"].families:
        assert told["callbacks_dropped_or_late"]["expr"].count(family) == 3
    limit = rules["query_rate_violation"].limit
    assert told["CallbacksDroppedOrLate"]["expr"] == f"callbacks_dropped_or_late > {limit:g}"
    assert told["ConnectionLost"]["for"] == f"{rules['reconnect_p99_s'].limit:g}s"
    still = rules["order_latency_p99_ms"].still_seconds
    assert f"[{still:g}s]" in told["OrdersStandStill"]["expr"]


def test_clickhouse_tells_prometheus_what_it_tells_the_watch() -> None:
    """The handler's query holds the query of configs/rich_engine.watch.toml word for word."""
    text = (INFRA / "clickhouse/config.d/quant_hft.xml").read_text(encoding="utf-8")
    assert RULES["clickhouse_ingest_delay_ms"].query.strip() in text


def test_prometheus_scrapes_every_part() -> None:
    """Engines of both generations, Kafka, Connect, ClickHouse, PostgreSQL; all on the loopback."""
    jobs = {
        job["job_name"]: job for job in _yaml(INFRA / "prometheus/prometheus.yml")["scrape_configs"]
    }
    assert {"core_engine", "kafka", "kafka_connect", "clickhouse", "postgresql"} <= set(jobs)
    targets = [
        target
        for job in jobs.values()
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    ports = {value for name, value in _environment().items() if name.endswith("_PORT")}
    for target in targets:
        host, _, port = target.partition(":")
        assert host == "127.0.0.1"
        assert port in ports
        # The compose file puts another port in by exactly this text.
        assert f"s/{target}/" in str(SERVICES["prometheus"]["entrypoint"])


def test_the_dashboard_shows_the_six_metrics_with_their_limits() -> None:
    """One panel each, its red line at the limit of the watch."""
    told = json.loads((INFRA / "grafana/dashboards/watch.json").read_text(encoding="utf-8"))
    shown = {
        panel["targets"][0]["expr"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
        for panel in told["panels"]
    }
    assert {name: step["value"] for name, step in shown.items()} == {
        name: rule.limit for name, rule in RULES.items()
    }


def test_grafana_finds_its_source_and_dashboards() -> None:
    """The provisioned source is the one the panels name; the folder is the one that is mounted."""
    source = _yaml(INFRA / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    told = (INFRA / "grafana/dashboards/watch.json").read_text(encoding="utf-8")
    assert set(re.findall(r'"uid": "(quant-hft-prom\w+)"', told)) == {source["uid"]}
    provider = _yaml(INFRA / "grafana/provisioning/dashboards/quant_hft.yaml")["providers"][0]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


@pytest.mark.parametrize("path", sorted(INFRA.glob("scripts/*.sh")), ids=lambda path: path.name)
def test_a_script_is_three_lines_and_executable(path: Path) -> None:
    """RUNBOOK 4.1's names stay; everything they do is the gate's."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    # The one that is called is on PATH, or else this checkout's.
    place = 'PATH="$PATH:$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin" '
    assert re.fullmatch(re.escape(place) + r'exec ctp-runbook infra [a-z-]+ "\$@"', lines[2])
    assert path.stat().st_mode & 0o111
