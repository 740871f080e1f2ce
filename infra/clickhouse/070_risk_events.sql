-- quant_hft_pg.trading_core.risk_events -> risk_events_cdc_kafka (queue) -> risk_events_cdc_mv -> risk_events_cdc.
--
-- One row a change, never an update: op is Debezium's c, u, d or r (snapshot), event_time the
-- moment the change was committed in PostgreSQL. A consumer group of its own, so that a slow topic
-- holds up no other.

CREATE TABLE IF NOT EXISTS quant_hft.risk_events_cdc_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'quant_hft_pg.trading_core.risk_events',
    kafka_group_name = 'clickhouse-ingest-risk-events',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 500,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.risk_events_cdc (
    event_id Int64,
    account_id String,
    strategy_id String,
    instrument_id String,
    event_type String,
    event_level Int32,
    event_desc String,
    occurred_at DateTime64(6, 'UTC'),
    op String,
    source_ts_ms Int64,
    event_time DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (event_id, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.risk_events_cdc_mv
TO quant_hft.risk_events_cdc
AS
SELECT
    JSONExtract(raw, 'event_id', 'Int64') AS event_id,
    JSONExtract(raw, 'account_id', 'String') AS account_id,
    JSONExtract(raw, 'strategy_id', 'String') AS strategy_id,
    JSONExtract(raw, 'instrument_id', 'String') AS instrument_id,
    JSONExtract(raw, 'event_type', 'String') AS event_type,
    JSONExtract(raw, 'event_level', 'Int32') AS event_level,
    JSONExtract(raw, 'event_desc', 'String') AS event_desc,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'occurred_at'), 6, 'UTC') AS occurred_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, '__source_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, '__source_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.risk_events_cdc_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.risk_events_cdc_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'quant_hft_pg.trading_core.risk_events' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.risk_events_cdc_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
