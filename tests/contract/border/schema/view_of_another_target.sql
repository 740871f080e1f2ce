CREATE TABLE IF NOT EXISTS q.source (raw String) ENGINE = Null;
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS SELECT raw AS id FROM q.source;
-- live
CREATE TABLE IF NOT EXISTS q.source (raw String) ENGINE = Null;
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
CREATE TABLE IF NOT EXISTS q.other (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.other AS SELECT raw AS id FROM q.source;
INSERT INTO q.t (id) VALUES ('a');
