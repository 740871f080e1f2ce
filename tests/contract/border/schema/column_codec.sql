CREATE TABLE IF NOT EXISTS q.t (id String, x UInt8 CODEC(ZSTD(3))) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, x UInt8 CODEC(LZ4)) ENGINE = MergeTree ORDER BY id;
