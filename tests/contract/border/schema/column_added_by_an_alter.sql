CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
ALTER TABLE q.t ADD COLUMN IF NOT EXISTS later String;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime) ENGINE = MergeTree ORDER BY id;
