-- quant_hft_pg.trading_core.orders -> orders_cdc_kafka (queue) -> orders_cdc_mv -> orders_cdc.
--
-- One row a change, never an update: op is Debezium's c, u, d or r (snapshot), event_time the
-- moment the change was committed in PostgreSQL. A consumer group of its own, so that a slow topic
-- holds up no other.

CREATE TABLE IF NOT EXISTS quant_hft.orders_cdc_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'quant_hft_pg.trading_core.orders',
    kafka_group_name = 'clickhouse-ingest-orders',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 500,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.orders_cdc (
    order_id String,
    order_ref String,
    account_id String,
    strategy_id String,
    instrument_id String,
    direction String,
    offset_flag String,
    order_status String,
    limit_price Decimal(16, 4),
    volume_original Int32,
    volume_traded Int32,
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
ORDER BY (trading_day, order_id, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.orders_cdc_mv
TO quant_hft.orders_cdc
AS
SELECT
    JSONExtract(raw, 'order_id', 'String') AS order_id,
    JSONExtract(raw, 'order_ref', 'String') AS order_ref,
    JSONExtract(raw, 'account_id', 'String') AS account_id,
    JSONExtract(raw, 'strategy_id', 'String') AS strategy_id,
    JSONExtract(raw, 'instrument_id', 'String') AS instrument_id,
    JSONExtract(raw, 'direction', 'String') AS direction,
    JSONExtract(raw, 'offset_flag', 'String') AS offset_flag,
    JSONExtract(raw, 'order_status', 'String') AS order_status,
    JSONExtract(raw, 'limit_price', 'Decimal(16, 4)') AS limit_price,
    JSONExtract(raw, 'volume_original', 'Int32') AS volume_original,
    JSONExtract(raw, 'volume_traded', 'Int32') AS volume_traded,
    JSONExtract(raw, 'trading_day', 'String') AS trading_day,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'updated_at'), 6, 'UTC') AS updated_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, '__source_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, '__source_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.orders_cdc_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.orders_cdc_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'quant_hft_pg.trading_core.orders' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.orders_cdc_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
