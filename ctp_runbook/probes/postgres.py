"""Ask PostgreSQL: one connection with a deadline, and the views that say how it stands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ctp_runbook.errors import ProbeError

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresDoor", "SlotLook", "look_at_slot", "published_tables"]

_T = TypeVar("_T")
_MIB = 1 << 20
# A server that is well ends a statement itself at its time, and this is what it needs to say so.
_GRACE_SECONDS = 0.5
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class PostgresDoor:
    """How to get in: a DSN without its password, and the password beside it.

    ``password_name`` is the variable the password is read from, for sentences.
    """

    dsn: str
    password: str
    password_name: str = "PGPASSWORD"

    def __repr__(self) -> str:
        return f"PostgresDoor({self.shown})"

    @property
    def _parts(self) -> dict[str, Any]:
        from psycopg.conninfo import conninfo_to_dict

        return conninfo_to_dict(self.dsn)

    @property
    def shown(self) -> str:
        """``postgresql://host:port/dbname`` for sentences."""
        parts = {"host": "localhost", "port": 5432, "dbname": "", **self._parts}
        return f"postgresql://{parts['host']}:{parts['port']}/{parts['dbname']}"

    @contextlib.contextmanager
    def open(self, *, seconds: float) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in autocommit whose every statement has ``seconds``, and little more
        where the server hangs, which then ends no statement itself. Raises ProbeError.
        """
        import psycopg

        try:
            with psycopg.connect(
                self.dsn,
                autocommit=True,
                connect_timeout=max(2, int(seconds)),  # libpq takes no less
                options=f"-c statement_timeout={max(1, int(seconds * 1000))}",
                application_name="ctp-runbook",
                password=self.password or None,
                client_encoding="utf8",  # the files of infra are, whatever the database is in
            ) as connection:
                connection.wait = _bounded(connection.wait, seconds)  # type: ignore[method-assign]
                yield connection
        except psycopg.Error as error:
            raise ProbeError(f"PostgreSQL at {self.shown}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        if "password" not in text:
            return text
        return (
            f"{text}; the password of {self._parts.get('user') or 'the user'} is taken from "
            f"PGPASSWORD, else from {self.password_name} of the environment or the env file: "
            "correct it there"
        )


def _bounded(wait: Callable[..., _T], seconds: float) -> Callable[..., _T]:
    """Return psycopg's way of waiting for a server, which without this waits for ever."""
    import psycopg

    most = seconds + _GRACE_SECONDS

    def bounded(generator: Any, interval: float = _LOOK_SECONDS, timeout: float = most) -> _T:
        began = time.monotonic()
        try:
            return wait(generator, interval=interval, timeout=timeout)
        except psycopg.OperationalError as error:
            if time.monotonic() - began < timeout:
                raise
            raise psycopg.OperationalError(
                f"no answer within {timeout:g} s although it let us in; see whether its host is "
                "overloaded or its disk hangs, and its log"
            ) from error

    return bounded


@dataclass(frozen=True)
class SlotLook:
    """A replication slot: whether somebody reads it, and how much WAL it keeps."""

    active: bool
    wal_status: str
    retained_bytes: int
    unconfirmed_bytes: int

    @property
    def retained_mib(self) -> float:
        """Write-ahead log that cannot be removed because of it."""
        return self.retained_bytes / _MIB


def look_at_slot(connection: Any, name: str) -> SlotLook | None:
    """Return the slot of that name, None where there is none."""
    row = connection.execute(
        "SELECT active, coalesce(wal_status, 'unknown'),"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        (name,),
    ).fetchone()
    return None if row is None else SlotLook(*row)


def published_tables(connection: Any, publication: str) -> tuple[str, ...] | None:
    """Return ``schema.table`` of a publication, sorted; None where there is no such publication."""
    rows = connection.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication"
        " LEFT JOIN pg_publication_tables USING (pubname) WHERE pubname = %s",
        (publication,),
    ).fetchall()
    # A publication without tables is one row of NULL.
    return tuple(sorted(table for (table,) in rows if table)) if rows else None
