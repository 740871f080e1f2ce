CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, CONSTRAINT c CHECK id != '') ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
