"""The additive migrations of ``infra/timescale``, or where others keep theirs, and what PostgreSQL shows of their work.

The files run in number order, as their owner wrote them: any number of times, adding only. A
statement that would have to wait for a lock somebody holds gives up after seconds: behind a DDL
statement that waits, every query of the old engine would wait too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task

__all__ = ["apply_migrations", "timescale_tasks", "trading_days"]

_PLACES = (
    *(
        f"{place}/*.sql"
        for name in ("timescale", "timescaledb", "postgres")
        for place in (name, f"{name}/init", f"init/{name}")
    ),
    "init/*timescale*.sql",
    "init/*postgres*.sql",
)
_CALL_SECONDS = 30.0
_LOCK = "5s"
_MEND = "mend the file, then run the gate again"
_SHANGHAI = ZoneInfo("Asia/Shanghai")
_SATURDAY = 5
# Settings of the session by which the files take passwords, and the env file's names for them.
_SECRETS = {
    "quant_hft.password_engine": "ENGINE_DB_PASSWORD",
    "quant_hft.password_debezium": "DEBEZIUM_PASSWORD",
    "quant_hft.password_monitor": "MONITOR_PASSWORD",
}
# Everything the files make, a row each: what is new afterwards is what changed. Not which tables
# are published: a connector that makes its own publication may be at it in the same moment.
_OBJECTS = """
SELECT 'relation', relnamespace::regnamespace || '.' || relname || ' ' || relkind::text
  FROM pg_class WHERE relnamespace::regnamespace::text IN ('trading_core', 'ops_audit')
UNION ALL
SELECT 'column', attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  WHERE relnamespace::regnamespace::text IN ('trading_core', 'ops_audit')
    AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p')
UNION ALL
SELECT 'function', oid::regprocedure || ' ' || md5(prosrc) FROM pg_proc
  WHERE pronamespace::regnamespace::text IN ('trading_core', 'ops_audit')
UNION ALL SELECT 'publication', pubname FROM pg_publication
UNION ALL SELECT 'role', rolname FROM pg_roles
UNION ALL SELECT 'extension', extname FROM pg_extension
"""
_SETTINGS = """
SELECT current_setting('server_version'), current_setting('wal_level'),
  current_setting('max_slot_wal_keep_size'), pg_is_in_recovery(),
  (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')
"""
_PARTITIONS = """
SELECT parent.relnamespace::regnamespace || '.' || parent.relname,
       coalesce(array_agg(child.relname::text) FILTER (WHERE child.oid IS NOT NULL), '{}')
  FROM pg_class parent
  LEFT JOIN pg_inherits ON inhparent = parent.oid
  LEFT JOIN pg_class child ON child.oid = inhrelid
  WHERE parent.relkind = 'p'
    AND parent.relnamespace::regnamespace::text IN ('trading_core', 'ops_audit')
  GROUP BY 1 ORDER BY 1
"""


def timescale_tasks(context: GateContext) -> tuple[Task, ...]:
    """Migrate, then look at what is there."""
    migrations = context.infra_files(*_PLACES)
    gate = _Timescale(context, migrations.files)
    migrate = f"run {migrations.sentence}"
    return (
        Task("migrate_timescale", migrate, gate.migrate, acts=True),
        Task("observe_timescale", "version, settings, extension, partitions", gate.observe),
    )


def trading_days(now: datetime) -> tuple[date, ...]:
    """Return today, where it is no weekend, and the next trading day; holidays are not known."""
    today = now.astimezone(_SHANGHAI).date()
    next_days = (today + timedelta(days=number) for number in (1, 2, 3))
    after = next(day for day in next_days if day.weekday() < _SATURDAY)
    return (today, after) if today.weekday() < _SATURDAY else (after,)


def apply_migrations(connection: Any, files: tuple[Path, ...], *, secrets: dict[str, str]) -> int:
    """Run the files; return how many objects are new, or differ. Raises ProbeError."""
    import psycopg

    # Counted, not believed: IF NOT EXISTS says nothing of what was there.
    before = set(connection.execute(_OBJECTS).fetchall())
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK,))
    for setting, secret in secrets.items():
        connection.execute("SELECT set_config(%s, %s, false)", (setting, secret))
    # All of them before the first is run: half of a schema is worse than none.
    for path, text in [(path, _text_of(path)) for path in files]:
        try:
            connection.execute(text)
        except psycopg.errors.LockNotAvailable as error:
            raise ProbeError(
                f"{path}: a lock was not had within {_LOCK} and was given up, so that nobody waits "
                "behind it; see pg_stat_activity for who holds it, then run the gate again"
            ) from error
        except psycopg.Error as error:
            is_full = isinstance(error, psycopg.errors.DiskFull)
            remedy = "make room on PostgreSQL's disk" if is_full else _MEND
            raise ProbeError(f"{path}: {' '.join(str(error).split())}; {remedy}") from error
    return len(before ^ set(connection.execute(_OBJECTS).fetchall()))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"{path}: cannot be read: {error}; mend the file, or take it away"
        ) from error


@dataclass(frozen=True)
class _Timescale:
    context: GateContext
    files: tuple[Path, ...]

    def connection(self) -> AbstractContextManager[Any]:
        return self.context.postgres.open(seconds=self.context.deadline.call(_CALL_SECONDS))

    def migrate(self) -> Observation:
        """Run the files in one session."""
        secrets = {key: self.context.values.get(name, "") for key, name in _SECRETS.items()}
        with self.connection() as connection:
            changes = apply_migrations(connection, self.files, secrets=secrets)
        facts = {"files": str(len(self.files)), "changed_objects": str(changes)}
        return Observation(facts, changes=changes)

    def observe(self) -> Observation:
        """Look at version, extension, the settings CDC rests on, and the next days' partitions."""
        with self.connection() as connection:
            [row] = connection.execute(_SETTINGS).fetchall()
            parts = dict(connection.execute(_PARTITIONS).fetchall())
        version, wal_level, most_wal, in_recovery, extension = row
        days = trading_days(datetime.now(_SHANGHAI))
        facts = {
            "version": version,
            "wal_level": wal_level,
            "max_slot_wal_keep_size": most_wal,
            "in_recovery": str(in_recovery).lower(),
            "timescaledb": extension or "absent (tables are partitioned by PostgreSQL)",
            "partitioned_tables": str(len(parts)),
            "partitions_of": ", ".join(day.isoformat() for day in days),
        }
        problems = (*self._settings(facts), *_lacking(parts, days))
        where = self.context.postgres.shown
        return Observation(facts, tuple(f"{where}: {problem}" for problem in problems))

    def _settings(self, facts: dict[str, str]) -> Iterator[str]:
        if facts["in_recovery"] == "true":
            yield "is a standby, expected the primary; name it by --postgres-dsn"
        if facts["wal_level"] != "logical":
            yield (
                f"wal_level is {facts['wal_level']}, expected logical: Debezium reads nothing; set "
                "it in infra/docker-compose.single-host.yaml (takes a restart, so before a session)"
            )
        if facts["max_slot_wal_keep_size"] == "-1" and not self.context.options.is_rehearsal:
            yield (
                "max_slot_wal_keep_size is -1, expected a bound: an unread slot fills the disk; "
                "`ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'`, then `SELECT pg_reload_conf()`"
            )


def _lacking(parts: dict[str, list[str]], days: tuple[date, ...]) -> Iterator[str]:
    """Yield partitions that are not there: rows of their day would go to the default one."""
    if not parts:
        yield "no partitioned table in trading_core and ops_audit; are the migrations applied?"
    for table, children in parts.items():
        for day in days:
            if f"{table.partition('.')[2]}_{day:%Y%m%d}" not in children:
                yield (
                    f"{table} has no partition for {day.isoformat()}; "
                    "run `SELECT trading_core.ensure_partitions()`"
                )
