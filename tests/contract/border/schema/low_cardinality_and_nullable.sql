CREATE TABLE IF NOT EXISTS q.t (id String, x LowCardinality(Nullable(String)), m Map(String, Array(Int64))) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, x LowCardinality(Nullable(String)), m Map(String, Array(BIGINT))) ENGINE = MergeTree ORDER BY id;
