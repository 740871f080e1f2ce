-- Partitions for today and the trading days to come, a partition for what fits none of them, and
-- what Debezium reads.

-- One partition a day for every partitioned table of the two schemas: tables by trading_day get
-- [day, next day) as text, tables by time the same day in the exchanges' time. Weekends are left
-- out (no Chinese exchange trades on one); holidays are not known here, which is why the default
-- looks 14 days ahead: longer than any of their breaks. Returns how many it created.
CREATE OR REPLACE FUNCTION trading_core.ensure_partitions(
    first_day date DEFAULT (now() AT TIME ZONE 'Asia/Shanghai')::date,
    days integer DEFAULT 14
) RETURNS integer LANGUAGE plpgsql AS $function$
DECLARE
    parent record;
    day date;
    lower_bound text;
    upper_bound text;
    part text;
    created integer := 0;
BEGIN
    FOR parent IN
        SELECT tables.oid, schemas.nspname AS schema, tables.relname AS name,
               keys.atttypid = 'text'::regtype AS is_text
        FROM pg_partitioned_table AS parted
        JOIN pg_class AS tables ON tables.oid = parted.partrelid
        JOIN pg_namespace AS schemas ON schemas.oid = tables.relnamespace
        JOIN pg_attribute AS keys
            ON keys.attrelid = tables.oid AND keys.attnum = parted.partattrs[0]
        WHERE schemas.nspname IN ('trading_core', 'ops_audit')
        ORDER BY 2, 3
    LOOP
        -- An insert must not fail because nobody made tomorrow's partition.
        part := parent.name || '_default';
        IF to_regclass(format('%I.%I', parent.schema, part)) IS NULL THEN
            EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s DEFAULT',
                           parent.schema, part, parent.oid::regclass);
            created := created + 1;
        END IF;
        FOR day IN
            SELECT series::date
            FROM generate_series(first_day, first_day + days - 1, INTERVAL '1 day') AS series
            WHERE extract(isodow FROM series) < 6
        LOOP
            part := parent.name || '_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(format('%I.%I', parent.schema, part)) IS NOT NULL;
            IF parent.is_text THEN
                lower_bound := to_char(day, 'YYYYMMDD');
                upper_bound := to_char(day + 1, 'YYYYMMDD');
            ELSE
                lower_bound := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+08';
                upper_bound := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+08';
            END IF;
            BEGIN
                EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                               parent.schema, part, parent.oid::regclass, lower_bound, upper_bound);
                created := created + 1;
            EXCEPTION WHEN check_violation THEN
                -- Rows of that day are in the default partition already: they are served and
                -- published from there; moving them is for a quiet hour.
                RAISE WARNING '%.%: % has rows in the default partition; no partition made',
                    parent.schema, parent.name, day;
            END;
        END LOOP;
    END LOOP;
    RETURN created;
END
$function$;

SELECT trading_core.ensure_partitions() AS partitions_created;

-- The engine owns what is not partitioned as well as what is.
DO $owner$
DECLARE
    relation record;
BEGIN
    FOR relation IN
        SELECT classes.oid::regclass AS name, classes.relkind = 'S' AS is_sequence
        FROM pg_class AS classes
        JOIN pg_namespace AS schemas ON schemas.oid = classes.relnamespace
        WHERE schemas.nspname IN ('trading_core', 'ops_audit')
            AND classes.relkind IN ('r', 'p', 'S')
            AND classes.relowner <> 'quant_hft'::regrole
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO quant_hft',
                       CASE WHEN relation.is_sequence THEN 'SEQUENCE' ELSE 'TABLE' END,
                       relation.name);
    END LOOP;
END
$owner$;

GRANT SELECT ON ALL TABLES IN SCHEMA trading_core, ops_audit TO debezium, quant_hft_monitor;
GRANT INSERT, UPDATE ON ops_audit.connector_heartbeat TO debezium;

-- A publication of each connector, made here and not by the connector, which therefore needs no
-- right to make one. The heartbeat is in both: only what is published moves a slot.
DO $publications$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('trading_core_publication',
             'trading_core.orders, trading_core.trades, trading_core.position_detail, '
             'trading_core.account_funds, trading_core.risk_events, ops_audit.connector_heartbeat'),
            ('ops_audit_publication', 'ops_audit.events, ops_audit.connector_heartbeat')
        ) AS publications (name, tables)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = wanted.name) THEN
            EXECUTE format('CREATE PUBLICATION %I FOR TABLE %s '
                           'WITH (publish_via_partition_root = true)', wanted.name, wanted.tables);
        END IF;
    END LOOP;
END
$publications$;
