CREATE TABLE IF NOT EXISTS q.t (id String, e Enum('a', 'b')) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, e Enum('a', 'c')) ENGINE = MergeTree ORDER BY id;
