-- quant_hft_pg.trading_core.trades -> trades_cdc_kafka (queue) -> trades_cdc_mv -> trades_cdc.
--
-- One row a change, never an update: op is Debezium's c, u, d or r (snapshot), event_time the
-- moment the change was committed in PostgreSQL. A consumer group of its own, so that a slow topic
-- holds up no other.

CREATE TABLE IF NOT EXISTS quant_hft.trades_cdc_kafka (
    raw String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'quant_hft_pg.trading_core.trades',
    kafka_group_name = 'clickhouse-ingest-trades',
    kafka_format = 'RawBLOB',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 500,
    kafka_poll_timeout_ms = 100;

CREATE TABLE IF NOT EXISTS quant_hft.trades_cdc (
    trade_id String,
    order_id String,
    order_ref String,
    account_id String,
    strategy_id String,
    instrument_id String,
    direction String,
    offset_flag String,
    volume Int32,
    price Decimal(16, 4),
    commission Decimal(18, 2),
    close_profit Decimal(18, 2),
    trading_day String,
    traded_at DateTime64(6, 'UTC'),
    op String,
    source_ts_ms Int64,
    event_time DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (trading_day, trade_id, event_time);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.trades_cdc_mv
TO quant_hft.trades_cdc
AS
SELECT
    JSONExtract(raw, 'trade_id', 'String') AS trade_id,
    JSONExtract(raw, 'order_id', 'String') AS order_id,
    JSONExtract(raw, 'order_ref', 'String') AS order_ref,
    JSONExtract(raw, 'account_id', 'String') AS account_id,
    JSONExtract(raw, 'strategy_id', 'String') AS strategy_id,
    JSONExtract(raw, 'instrument_id', 'String') AS instrument_id,
    JSONExtract(raw, 'direction', 'String') AS direction,
    JSONExtract(raw, 'offset_flag', 'String') AS offset_flag,
    JSONExtract(raw, 'volume', 'Int32') AS volume,
    JSONExtract(raw, 'price', 'Decimal(16, 4)') AS price,
    JSONExtract(raw, 'commission', 'Decimal(18, 2)') AS commission,
    JSONExtract(raw, 'close_profit', 'Decimal(18, 2)') AS close_profit,
    JSONExtract(raw, 'trading_day', 'String') AS trading_day,
    parseDateTime64BestEffortOrZero(JSONExtractString(raw, 'traded_at'), 6, 'UTC') AS traded_at,
    JSONExtractString(raw, '__op') AS op,
    JSONExtractInt(raw, '__source_ts_ms') AS source_ts_ms,
    fromUnixTimestamp64Milli(JSONExtractInt(raw, '__source_ts_ms'), 'UTC') AS event_time,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.trades_cdc_kafka
WHERE isValidJSON(raw);

CREATE MATERIALIZED VIEW IF NOT EXISTS quant_hft.trades_cdc_refused_mv
TO quant_hft.ingest_refused
AS
SELECT
    'quant_hft_pg.trading_core.trades' AS topic,
    now64(3, 'UTC') AS ingested_at,
    raw AS raw_payload
FROM quant_hft.trades_cdc_kafka
WHERE NOT isValidJSON(raw) AND raw != '';
