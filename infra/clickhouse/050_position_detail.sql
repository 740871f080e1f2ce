-- quant_hft_pg.trading_core.position_detail -> position_detail_cdc_kafka (queue) -> position_detail_cdc_mv -> position_detail_cdc.
--
-- One row a change, never an update: op is Debezium's c, u, d or r (snapshot), event_time the
-- moment the change was committed in PostgreSQL. A consumer group of its own, so that a slow topic
-- holds up no other.

CREATE TABLE IF NOT EXISTS quant_hft.position_detail_cdc_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'quant_hft_pg.trading_core.position_detail',
    kafka_group_name = 'clickhouse-ingest-position-detail',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 500,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.position_detail_cdc (
    account_id String,
    instrument_id String,
    direction String,
    hedge_flag String,
    volume Int32,
    trading_day String,
    updated_at DateTime64(6, 'UTC'),
    op String,
    source_ts_ms Int64,
    event_time DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (trading_day, account_id, instrument_id, direction, hedge_flag, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.position_detail_cdc_mv
TO quant_hft.position_detail_cdc
AS
SELECT
    JSONExtract(raw, 'account_id', 'String') AS account_id,
    JSONExtract(raw, 'instrument_id', 'String') AS instrument_id,
    JSONExtract(raw, 'direction', 'String') AS direction,
    JSONExtract(raw, 'hedge_flag', 'String') AS hedge_flag,
    JSONExtract(raw, 'volume', 'Int32') AS volume,
    JSONExtract(raw, 'trading_day', 'String') AS trading_day,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'updated_at'), 6, 'UTC') AS updated_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, '__source_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, '__source_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.position_detail_cdc_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.position_detail_cdc_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'quant_hft_pg.trading_core.position_detail' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.position_detail_cdc_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
