-- What Debezium captures. Partitioned by PostgreSQL itself and never a hypertable, whether the
-- extension is there or not: a hypertable's rows live in chunks of another schema, and pgoutput
-- publishes them under the chunks' names, so that topic quant_hft_pg.trading_core.orders would stay
-- empty without any error. publish_via_partition_root (040) keeps the table's own name.
--
-- The partition key is part of each primary key, because PostgreSQL asks for it; it comes first,
-- because every query is about a day. trading_day is CTP's own YYYYMMDD.

CREATE TABLE IF NOT EXISTS trading_core.orders (
    order_id text NOT NULL DEFAULT '',
    order_ref text NOT NULL DEFAULT '',
    account_id text NOT NULL DEFAULT '',
    strategy_id text NOT NULL DEFAULT '',
    instrument_id text NOT NULL DEFAULT '',
    direction text NOT NULL DEFAULT '',
    offset_flag text NOT NULL DEFAULT '',
    order_status text NOT NULL DEFAULT '',
    limit_price numeric(16, 4) NOT NULL DEFAULT 0,
    volume_original integer NOT NULL DEFAULT 0,
    volume_traded integer NOT NULL DEFAULT 0,
    trading_day text COLLATE "C" NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trading_day, order_id)
) PARTITION BY RANGE (trading_day);

CREATE TABLE IF NOT EXISTS trading_core.trades (
    trade_id text NOT NULL DEFAULT '',
    order_id text NOT NULL DEFAULT '',
    order_ref text NOT NULL DEFAULT '',
    account_id text NOT NULL DEFAULT '',
    strategy_id text NOT NULL DEFAULT '',
    instrument_id text NOT NULL DEFAULT '',
    direction text NOT NULL DEFAULT '',
    offset_flag text NOT NULL DEFAULT '',
    volume integer NOT NULL DEFAULT 0,
    price numeric(16, 4) NOT NULL DEFAULT 0,
    commission numeric(18, 2) NOT NULL DEFAULT 0,
    close_profit numeric(18, 2) NOT NULL DEFAULT 0,
    trading_day text COLLATE "C" NOT NULL DEFAULT '',
    traded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trading_day, trade_id)
) PARTITION BY RANGE (trading_day);

CREATE TABLE IF NOT EXISTS trading_core.position_detail (
    account_id text NOT NULL DEFAULT '',
    instrument_id text NOT NULL DEFAULT '',
    direction text NOT NULL DEFAULT '',
    hedge_flag text NOT NULL DEFAULT '',
    volume integer NOT NULL DEFAULT 0,
    trading_day text COLLATE "C" NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trading_day, account_id, instrument_id, direction, hedge_flag)
) PARTITION BY RANGE (trading_day);

CREATE TABLE IF NOT EXISTS trading_core.account_funds (
    account_id text NOT NULL DEFAULT '',
    trading_day text COLLATE "C" NOT NULL DEFAULT '',
    pre_balance numeric(18, 2) NOT NULL DEFAULT 0,
    deposit numeric(18, 2) NOT NULL DEFAULT 0,
    withdraw numeric(18, 2) NOT NULL DEFAULT 0,
    close_profit numeric(18, 2) NOT NULL DEFAULT 0,
    commission numeric(18, 2) NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (trading_day, account_id)
) PARTITION BY RANGE (trading_day);

-- Numbered by sequences of their own: partitioned tables have identity columns from PostgreSQL 17.
CREATE SEQUENCE IF NOT EXISTS trading_core.risk_event_ids;
CREATE TABLE IF NOT EXISTS trading_core.risk_events (
    event_id bigint NOT NULL DEFAULT nextval('trading_core.risk_event_ids'),
    account_id text NOT NULL DEFAULT '',
    strategy_id text NOT NULL DEFAULT '',
    instrument_id text NOT NULL DEFAULT '',
    event_type text NOT NULL DEFAULT '',
    event_level integer NOT NULL DEFAULT 0,
    event_desc text NOT NULL DEFAULT '',
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);

CREATE SEQUENCE IF NOT EXISTS ops_audit.event_ids;
CREATE TABLE IF NOT EXISTS ops_audit.events (
    event_id bigint NOT NULL DEFAULT nextval('ops_audit.event_ids'),
    actor text NOT NULL DEFAULT '',
    action text NOT NULL DEFAULT '',
    target text NOT NULL DEFAULT '',
    detail text NOT NULL DEFAULT '',
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);

-- Each connector writes its row every heartbeat.interval.ms and reads it back from the log: a slot
-- whose own tables are quiet still moves, and the log of everybody else's writes can go.
CREATE TABLE IF NOT EXISTS ops_audit.connector_heartbeat (
    connector text PRIMARY KEY,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
