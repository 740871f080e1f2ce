-- Who may do what, and where the tables live. Additive: run any number of times, in number order,
-- by the superuser, in database quant_hft.
--
-- Passwords never stand in a file. Whoever runs this gives them as settings of its session:
--   set_config('quant_hft.password_engine', …), quant_hft.password_debezium, quant_hft.password_monitor
-- A role gets one when it has none; a password that is set is not touched, so that a second run
-- changes nothing and a running engine keeps its login.

DO $roles$
DECLARE
    wanted record;
    secret text;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            -- Owns the tables; the engine logs in as this.
            ('quant_hft', 'LOGIN', 'quant_hft.password_engine'),
            -- Reads the write-ahead log for Kafka Connect; reads tables for its first snapshot.
            ('debezium', 'LOGIN REPLICATION', 'quant_hft.password_debezium'),
            -- Reads statistics for Prometheus and for the gates.
            ('quant_hft_monitor', 'LOGIN', 'quant_hft.password_monitor')
        ) AS roles (name, options, setting)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.options);
        END IF;
        secret := coalesce(current_setting(wanted.setting, true), '');
        IF secret <> '' AND EXISTS (
            SELECT FROM pg_authid WHERE rolname = wanted.name AND rolpassword IS NULL
        ) THEN
            EXECUTE format('ALTER ROLE %I PASSWORD %L', wanted.name, secret);
        END IF;
    END LOOP;
END
$roles$;

GRANT pg_monitor TO quant_hft_monitor;

CREATE SCHEMA IF NOT EXISTS trading_core AUTHORIZATION quant_hft;
CREATE SCHEMA IF NOT EXISTS ops_audit AUTHORIZATION quant_hft;
GRANT USAGE ON SCHEMA trading_core, ops_audit TO debezium, quant_hft_monitor;

-- The extension where the server has it and has loaded it; everything below works without.
DO $extension$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
        AND current_setting('shared_preload_libraries') LIKE '%timescaledb%'
    THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
END
$extension$;
