CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, x UInt8 TTL at + INTERVAL 1 DAY) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, x UInt8) ENGINE = MergeTree ORDER BY id;
