-- Database, and where records go that are no JSON. Additive: run any number of times, in number order.
-- Nothing here expires: how long records of trading are kept is the operator's decision, not ours.

CREATE DATABASE IF NOT EXISTS quant_hft;

CREATE TABLE IF NOT EXISTS quant_hft.ingest_refused (
    topic String,
    ingested_at DateTime64(3, 'UTC'),
    raw_payload String
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ingested_at)
ORDER BY (topic, ingested_at);
