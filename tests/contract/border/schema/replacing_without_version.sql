CREATE TABLE IF NOT EXISTS q.t (id String, v UInt8) ENGINE = ReplacingMergeTree(v) ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, v UInt8) ENGINE = ReplacingMergeTree ORDER BY id;
INSERT INTO q.t (id) VALUES ('a');
