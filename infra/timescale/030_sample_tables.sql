-- Time series nobody captures: hypertables where the extension is there, partitioned by PostgreSQL
-- where it is not. A table cannot be both, so its kind is chosen when it is created.

DO $tables$
DECLARE
    has_timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    kind text := CASE WHEN has_timescale THEN '' ELSE 'PARTITION BY RANGE (sampled_at)' END;
    sampled text;
BEGIN
    EXECUTE 'CREATE TABLE IF NOT EXISTS trading_core.account_funds_samples (
        sampled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        account_id text NOT NULL,
        balance numeric(18, 2) NOT NULL,
        available numeric(18, 2) NOT NULL,
        margin numeric(18, 2) NOT NULL,
        position_profit numeric(18, 2) NOT NULL,
        PRIMARY KEY (sampled_at, account_id)
    ) ' || kind;
    EXECUTE 'CREATE TABLE IF NOT EXISTS ops_audit.engine_samples (
        sampled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        engine text NOT NULL,
        metric text NOT NULL,
        value double precision NOT NULL,
        PRIMARY KEY (sampled_at, engine, metric)
    ) ' || kind;
    IF NOT has_timescale THEN
        RETURN;
    END IF;
    FOREACH sampled IN ARRAY ARRAY['trading_core.account_funds_samples', 'ops_audit.engine_samples']
    LOOP
        -- relkind r: one that was made before the extension came stays as it is.
        IF EXISTS (SELECT FROM pg_class WHERE oid = sampled::regclass AND relkind = 'r') THEN
            EXECUTE format(
                'SELECT create_hypertable(%L, %L, chunk_time_interval => INTERVAL %L, '
                'if_not_exists => true)', sampled, 'sampled_at', '1 day');
        END IF;
    END LOOP;
END
$tables$;
