CREATE TABLE IF NOT EXISTS q.t (id String, x UInt8 DEFAULT 1) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, x UInt8 DEFAULT 2) ENGINE = MergeTree ORDER BY id;
