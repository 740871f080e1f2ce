-- market.ticks.v1 -> market_ticks_kafka (queue) -> market_ticks_mv -> market_ticks.
--
-- The watch judges this path: the group is the one that kafka_lag_ms of configs/watch.toml names,
-- event_time and ingested_at are what clickhouse_ingest_delay_ms is the difference of. Without a
-- flush interval of its own the queue would be emptied every 7.5 s, beyond both limits.
-- RawBLOB takes any record as it is: one that is no JSON goes to ingest_refused and stops nothing.

CREATE TABLE IF NOT EXISTS quant_hft.market_ticks_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'market.ticks.v1',
    kafka_group_name = 'clickhouse-ingest',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 250,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.market_ticks (
    instrument_id String,
    exchange_id String,
    last_price Float64,
    volume Int64,
    trading_day String,
    published_at DateTime64(6, 'UTC'),
    op String,
    source_ts_ms Int64,
    event_time DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (instrument_id, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.market_ticks_mv
TO quant_hft.market_ticks
AS
SELECT
    JSONExtract(raw, 'instrument_id', 'String') AS instrument_id,
    JSONExtract(raw, 'exchange_id', 'String') AS exchange_id,
    JSONExtract(raw, 'last_price', 'Float64') AS last_price,
    JSONExtract(raw, 'volume', 'Int64') AS volume,
    JSONExtract(raw, 'trading_day', 'String') AS trading_day,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'published_at'), 6, 'UTC') AS published_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, 'published_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, 'published_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.market_ticks_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.market_ticks_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'market.ticks.v1' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.market_ticks_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
