"""Facts about gates/migrations.py: files only add and wait for nobody, and what CDC rests on is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates import migrations
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateStep, perform
from ctp_runbook.gates.migrations import apply_migrations, timescale_tasks, trading_days
from ctp_runbook.probes.postgres import PostgresDoor

DAYS = {
    "a Monday": (datetime(2026, 11, 23, 2, tzinfo=UTC), ["2026-11-23", "2026-11-24"]),
    "a Thursday": (datetime(2026, 11, 26, 2, tzinfo=UTC), ["2026-11-26", "2026-11-27"]),
    "Friday's night is Monday's": (
        datetime(2026, 11, 27, 14, tzinfo=UTC),
        ["2026-11-27", "2026-11-30"],
    ),
    "a Saturday": (datetime(2026, 11, 28, 2, tzinfo=UTC), ["2026-11-30"]),
    "a Sunday": (datetime(2026, 11, 29, 2, tzinfo=UTC), ["2026-11-30"]),
    "the end of a year": (datetime(2026, 12, 31, 2, tzinfo=UTC), ["2026-12-31", "2027-01-01"]),
    "tomorrow in Shanghai": (datetime(2026, 11, 23, 17, tzinfo=UTC), ["2026-11-24", "2026-11-25"]),
    "Friday in London, Saturday there": (
        datetime(2026, 11, 27, 17, tzinfo=UTC),
        ["2026-11-30"],
    ),
}


@pytest.mark.parametrize(("now", "days"), DAYS.values(), ids=DAYS)
def test_days_are_those_of_the_exchange(now: datetime, days: list[str]) -> None:
    """By the exchanges' clock; no weekend is a trading day."""
    assert trading_days(now) == tuple(map(date.fromisoformat, days))


# --- the files --------------------------------------------------------------------


@dataclass
class FakeConnection:
    """A session: what it was asked, and what it answers to a query with this beginning."""

    answers: dict[str, list[list[tuple[Any, ...]]]] = field(default_factory=dict)
    raises: dict[str, Exception] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def execute(self, query: str, parameters: tuple[str, ...] = ()) -> FakeConnection:
        """Answer, or refuse."""
        self.asked.append((query.strip(), parameters))
        for start, error in self.raises.items():
            if query.startswith(start):
                raise error
        found = [rows for start, rows in self.answers.items() if query.strip().startswith(start)]
        self.rows = found[0].pop(0) if found and found[0] else []
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows of the last query."""
        return self.rows


OBJECTS = "SELECT 'relation'"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    """Two files."""
    for name in ("001.sql", "002.sql"):
        (tmp_path / name).write_text(f"-- {name}")
    return tuple(sorted(tmp_path.glob("*.sql")))


def test_files_run_in_order_in_one_session(files: tuple[Path, ...]) -> None:
    """Behind a bound on locks, and with the passwords as settings, not as text."""
    connection = FakeConnection()
    apply_migrations(connection, files, secrets={"quant_hft.password_engine": "geheim"})
    asked = connection.asked[1:-1]
    assert asked == [
        ("SELECT set_config('lock_timeout', %s, false)", ("5s",)),
        ("SELECT set_config(%s, %s, false)", ("quant_hft.password_engine", "geheim")),
        ("-- 001.sql", ()),
        ("-- 002.sql", ()),
    ]


CHANGES: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]], int]] = {
    "nothing": ([("column", "a.b text")], [("column", "a.b text")], 0),
    "a new table": ([], [("relation", "a.t r"), ("column", "a.t.id int")], 2),
    "a function's body": ([("function", "f() 1")], [("function", "f() 2")], 2),
    "something went": ([("role", "r")], [], 1),
}


@pytest.mark.parametrize(("before", "after", "count"), CHANGES.values(), ids=CHANGES)
def test_what_is_new_or_differs_is_what_changed(
    before: list[tuple[str, str]],
    after: list[tuple[str, str]],
    count: int,
    files: tuple[Path, ...],
) -> None:
    """Counted among all objects, so that a second run says 0 and means it."""
    connection = FakeConnection({OBJECTS: [list(before), list(after)]})
    assert apply_migrations(connection, files, secrets={}) == count


REFUSALS: dict[str, tuple[Exception, str]] = {
    "a lock": (
        psycopg.errors.LockNotAvailable("canceling"),
        "a lock was not had within 5s and was given up, so that nobody waits behind it",
    ),
    "a full disk": (psycopg.errors.DiskFull("no space\n left"), "no space left; make room on"),
    "a mistake": (psycopg.errors.SyntaxError('at "x"\nLINE 1'), 'at "x" LINE 1; mend the file'),
    "a connection": (psycopg.OperationalError("server closed"), "server closed; mend the file, t"),
}


@pytest.mark.parametrize(("error", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_file_that_fails_is_named(error: Exception, said: str, files: tuple[Path, ...]) -> None:
    """With what to do; the files behind it are not run."""
    connection = FakeConnection(raises={"-- 001": error})
    with pytest.raises(ProbeError) as caught:
        apply_migrations(connection, files, secrets={})
    assert f"001.sql: {said}" in str(caught.value)
    assert connection.asked[-1][0] == "-- 001.sql"


def test_nothing_to_migrate_is_no_success(tmp_path: Path) -> None:
    """Files in another layout are found and named; none at all are refused, not run 0 times."""
    options = GateOptions(postgres_dsn="host=h dbname=d", infra=tmp_path)
    context = GateContext.of(options, environ={}, tell=print)
    with pytest.raises(RunRefused, match="timescale/init/"):
        timescale_tasks(context)
    (tmp_path / "timescale/init").mkdir(parents=True)
    (tmp_path / "timescale/init/01.sql").write_text("SELECT 1")
    migrate, _ = timescale_tasks(context)
    assert migrate.question == f"run 1 files of {tmp_path}/timescale/init"


# --- what is seen afterwards ------------------------------------------------------

MONDAY = datetime(2026, 11, 23, 2, tzinfo=UTC)
SETTINGS = ("17.2", "logical", "8GB", False, "2.17")
PARTITIONS = {"trading_core.orders": ["orders_20261123", "orders_20261124", "orders_default"]}


def observed(
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[Any, ...] = SETTINGS,
    partitions: dict[str, list[str]] | None = None,
    *,
    profile: str = "single-host",
) -> GateStep:
    """The step that looks, of a database that says this."""
    parts = PARTITIONS if partitions is None else partitions
    answers = {"SELECT current_setting": [[settings]], "SELECT parent": [list(parts.items())]}

    @contextmanager
    def opened(self: PostgresDoor, *, seconds: float) -> Iterator[FakeConnection]:
        yield FakeConnection(answers)

    class Monday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return MONDAY.astimezone(tz)

    monkeypatch.setattr(PostgresDoor, "open", opened)
    monkeypatch.setattr(migrations, "datetime", Monday)
    options = GateOptions(profile=profile, postgres_dsn="host=h dbname=d")
    tasks = timescale_tasks(GateContext.of(options, environ={}, tell=print))
    _, step = perform(tasks, execute=False, probe=True)
    return step


def test_what_cdc_rests_on_is_in_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, settings, extension, and for which days there are partitions."""
    step = observed(monkeypatch)
    assert not step.is_bad, step.reason
    assert step.facts == {
        "version": "17.2",
        "wal_level": "logical",
        "max_slot_wal_keep_size": "8GB",
        "in_recovery": "false",
        "timescaledb": "2.17",
        "partitioned_tables": "1",
        "partitions_of": "2026-11-23, 2026-11-24",
    }
    bare = observed(monkeypatch, (*SETTINGS[:4], None))
    assert bare.facts["timescaledb"] == "absent (tables are partitioned by PostgreSQL)"


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, list[str]], str]] = {
    "a standby": (
        ("17.2", "logical", "8GB", True, None),
        PARTITIONS,
        "is a standby, expected the primary; name it by --postgres-dsn",
    ),
    "no logical WAL": (
        ("17.2", "replica", "8GB", False, None),
        PARTITIONS,
        "wal_level is replica, expected logical: Debezium reads nothing",
    ),
    "slots without a bound": (
        ("17.2", "logical", "-1", False, None),
        PARTITIONS,
        "max_slot_wal_keep_size is -1, expected a bound: an unread slot fills the disk",
    ),
    "no partition for tomorrow": (
        SETTINGS,
        {"trading_core.orders": ["orders_20261123"]},
        "trading_core.orders has no partition for 2026-11-24; run `SELECT trading_core.ensure_",
    ),
    "no partitioned table": (SETTINGS, {}, "no partitioned table in trading_core and ops_audit"),
}


@pytest.mark.parametrize(("settings", "partitions", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_what_to_do(
    settings: tuple[Any, ...],
    partitions: dict[str, list[str]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the database's address."""
    step = observed(monkeypatch, settings, partitions)
    assert step.is_bad
    assert step.reason.startswith("postgresql://h:5432/d: ")
    assert said in step.reason


def test_in_a_rehearsal_a_slot_need_not_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin's disk is not the one that fills."""
    settings = ("17.2", "logical", "-1", False, None)
    assert not observed(monkeypatch, settings, profile="rehearsal").is_bad


def test_a_file_that_cannot_be_read_runs_none(tmp_path: Path) -> None:
    """A link to nothing, or no text: by its name, before the first file is run."""
    (tmp_path / "1.sql").write_text("SELECT 1")
    (tmp_path / "2.sql").symlink_to("nowhere")
    (tmp_path / "3.sql").write_bytes(b"\xff\xfe")

    class Connection:
        ran: ClassVar[list[str]] = []

        def execute(self, text: str, *_: object) -> Connection:
            self.ran.append(text)
            return self

        def fetchall(self) -> list[str]:
            return []

    for name in ("2.sql", "3.sql"):
        with pytest.raises(ProbeError, match=f"{name}: cannot be read"):
            apply_migrations(Connection(), (tmp_path / "1.sql", tmp_path / name), secrets={})
    assert "SELECT 1" not in Connection.ran
