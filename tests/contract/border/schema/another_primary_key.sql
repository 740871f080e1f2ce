CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree PRIMARY KEY id ORDER BY (id, at);
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY (id, at);
