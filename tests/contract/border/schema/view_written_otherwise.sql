CREATE TABLE IF NOT EXISTS q.source (raw String) ENGINE = Null;
CREATE TABLE IF NOT EXISTS q.t (id String, one UInt8) ENGINE = MergeTree ORDER BY id;
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS SELECT raw AS id, -- so
 1::UInt8 AS one FROM q.source WHERE raw <> '';
-- live
CREATE TABLE IF NOT EXISTS q.source (raw String) ENGINE = Null;
CREATE TABLE IF NOT EXISTS q.t (id String, one UInt8) ENGINE = MergeTree ORDER BY id;
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS select raw as id, CAST('1', 'UInt8') as one from q.source where raw != '';
