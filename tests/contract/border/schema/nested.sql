CREATE TABLE IF NOT EXISTS q.t (id String, n Nested(a UInt8, b String)) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String, `n.a` Array(UInt8), `n.b` Array(String)) ENGINE = MergeTree ORDER BY id;
