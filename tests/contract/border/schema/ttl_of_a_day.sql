CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id TTL at + INTERVAL 30 DAY;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id TTL at + INTERVAL 1 DAY;
INSERT INTO q.t (id) VALUES ('a');
