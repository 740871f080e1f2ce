-- quant_hft_pg.trading_core.account_funds -> account_funds_cdc_kafka (queue) -> account_funds_cdc_mv -> account_funds_cdc.
--
-- One row a change, never an update: op is Debezium's c, u, d or r (snapshot), event_time the
-- moment the change was committed in PostgreSQL. A consumer group of its own, so that a slow topic
-- holds up no other.

CREATE TABLE IF NOT EXISTS quant_hft.account_funds_cdc_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'quant_hft_pg.trading_core.account_funds',
    kafka_group_name = 'clickhouse-ingest-account-funds',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 500,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.account_funds_cdc (
    account_id String,
    trading_day String,
    pre_balance Decimal(18, 2),
    deposit Decimal(18, 2),
    withdraw Decimal(18, 2),
    close_profit Decimal(18, 2),
    commission Decimal(18, 2),
    updated_at DateTime64(6, 'UTC'),
    op String,
    source_ts_ms Int64,
    event_time DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (trading_day, account_id, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.account_funds_cdc_mv
TO quant_hft.account_funds_cdc
AS
SELECT
    JSONExtract(raw, 'account_id', 'String') AS account_id,
    JSONExtract(raw, 'trading_day', 'String') AS trading_day,
    JSONExtract(raw, 'pre_balance', 'Decimal(18, 2)') AS pre_balance,
    JSONExtract(raw, 'deposit', 'Decimal(18, 2)') AS deposit,
    JSONExtract(raw, 'withdraw', 'Decimal(18, 2)') AS withdraw,
    JSONExtract(raw, 'close_profit', 'Decimal(18, 2)') AS close_profit,
    JSONExtract(raw, 'commission', 'Decimal(18, 2)') AS commission,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'updated_at'), 6, 'UTC') AS updated_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, '__source_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, '__source_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.account_funds_cdc_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.account_funds_cdc_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'quant_hft_pg.trading_core.account_funds' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.account_funds_cdc_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
