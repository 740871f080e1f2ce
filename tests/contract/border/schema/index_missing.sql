CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, INDEX i at TYPE minmax GRANULARITY 1) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
