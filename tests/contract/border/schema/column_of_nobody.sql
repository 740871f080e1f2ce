CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime, more String) ENGINE = MergeTree ORDER BY id;
INSERT INTO q.t (id) VALUES ('a');
