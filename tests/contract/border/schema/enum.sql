CREATE TABLE IF NOT EXISTS q.t (id String, e Enum('a' = 1, 'b, c')) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, e Enum8('a' = 1, 'b, c' = 2)) ENGINE = MergeTree ORDER BY id;
