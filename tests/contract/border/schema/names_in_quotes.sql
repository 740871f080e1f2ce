CREATE TABLE IF NOT EXISTS `q`."t u" (`x y` String, "at" DateTime) ENGINE = MergeTree ORDER BY `x y`;
-- live
CREATE TABLE IF NOT EXISTS q.`t u` (`x y` String, at DateTime) ENGINE = MergeTree ORDER BY (`x y`);
