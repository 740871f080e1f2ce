CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree PARTITION BY toDate(at) ORDER BY id;
