CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, x UInt8) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (x UInt8, id String, at DateTime) ENGINE = MergeTree ORDER BY id;
