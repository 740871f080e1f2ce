CREATE TABLE IF NOT EXISTS q.t (id String COMMENT 'a, b) it''s', at DateTime) ENGINE = MergeTree ORDER BY id COMMENT 'mine';
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, at DateTime COMMENT 'now') ENGINE = MergeTree ORDER BY id COMMENT 'theirs';
