CREATE TABLE IF NOT EXISTS q.t (id String DEFAULT concat('a', 'b'), x Decimal64(4) DEFAULT 1.50, at DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY id;
-- live
CREATE TABLE IF NOT EXISTS q.t (id String DEFAULT concat('a','b'), x Decimal(18, 4) DEFAULT 1.5, at DateTime DEFAULT NOW()) ENGINE = MergeTree ORDER BY id;
