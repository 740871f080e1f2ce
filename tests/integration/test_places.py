"""``make rehearsal`` where people clone to: below a closed home, with blanks and other letters in the
path, as an ordinary user. Each place gets a clone and an installation of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.plane import postgres

ROOT = Path(__file__).parents[2]
SECONDS = 240
# A window of 30 s, which is usual, proves no more of a place.
ARGUMENTS = "--watch-seconds 3"
ODD = "Täglich 交易 x"


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder with a short name (sockets have 107 bytes) that every user gets to."""
    folder = Path(tempfile.mkdtemp(prefix="ctp-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def linked(source: Path, target: Path) -> None:
    """A copy that takes no space where that can be."""

    def link(src: str, dst: str) -> None:
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, target, symlinks=True, copy_function=link)


def anew(path: Path, text: str) -> None:
    """Replace a file that may be a link to somebody else's."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def cloned(place: Path) -> Path:
    """A clone in ``place``, with what ``make install`` would put into its .venv."""
    clone = place / "ctp"
    git = ["git", "-c", "safe.directory=*", "clone", "--quiet", "--no-local", str(ROOT), str(clone)]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    venv = clone / ".venv"
    linked(Path(sys.prefix), venv)
    (finder,) = venv.glob("lib/python*/site-packages/_editable_impl_ctp_runbook.pth")
    anew(finder, str(clone))
    # As pip writes it where a path has blanks, or is too long for the kernel.
    script = venv / "bin/ctp-runbook"
    lines = script.read_text(encoding="utf-8").splitlines()[1:]
    start = ["#!/bin/sh", f'\'\'\'exec\' "{venv}/bin/python" "$0" "$@"', "' '''"]
    anew(script, "\n".join([*start, *lines, ""]))
    installed = venv / ".installed"
    installed.unlink(missing_ok=True)
    installed.touch()
    return clone


def rehearsed(clone: Path, home: Path, *, scratch: str = "/tmp", **more: Any) -> None:
    """``make rehearsal`` there ends with exit code 0 and a verified run, and leaves nothing behind."""
    env = {
        "TMPDIR": scratch,
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        **({"LD_LIBRARY_PATH": str(more.pop("libraries"))} if "libraries" in more else {}),
    }
    done = subprocess.run(
        ["make", "--no-print-directory", "rehearsal", f"REHEARSE={ARGUMENTS}"],
        cwd=clone,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **more,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "COMPLETED" in told, told
    assert "verification passed" in told, told
    assert "twin down: every process proved gone" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user for root alone")
def test_below_a_closed_home(room: Path) -> None:
    """As root: what PostgreSQL runs as gets at neither the clone nor what is installed in it. The path
    has blanks and other letters, which commands of templates, the JVM and kernels get along with."""
    home = room / ODD
    home.mkdir(mode=0o700)
    (room / "tmp").mkdir()
    rehearsed(cloned(home), home, scratch=str(room / "tmp"))
    assert not list((room / "tmp").glob("ctp-runbook-postgres-*"))


def test_postgres_is_whole_where_its_user_gets_at_it(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of its programs brings the libraries they look for beside them."""
    user = postgres.postgres_user()
    monkeypatch.setattr(postgres, "_can_enter", lambda folder, user: user.pw_uid == -1)
    binaries = postgres._binaries(room, user)
    for program in ("initdb", "postgres", "psql"):
        done = subprocess.run(
            [str(binaries / program), "--version"],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            check=False,
            **postgres.run_as(user),
        )
        assert (done.returncode, done.stderr) == (0, "")
    if os.geteuid() == 0:
        assert room in binaries.parents
    with pytest.raises(RunbookError, match="gets into none of"):
        postgres._open_folder(user)


def test_as_an_ordinary_user(room: Path) -> None:
    """Without root's rights, in a home of its own whose path has blanks and other letters: PostgreSQL
    and its socket get along with them, as do commands of templates, the JVM and kernels."""
    home = room / ODD
    home.mkdir()
    clone = cloned(home)
    if os.geteuid() != 0:
        rehearsed(clone, home)
        return
    # With an interpreter that is free to be read.
    user = pwd.getpwnam("nobody")
    more: dict[str, Any] = {}
    if not _is_free(Path(sys.base_prefix)):
        linked(Path(sys.base_prefix), room / "python")
        python = clone / ".venv/bin/python"
        anew_link(python, room / "python/bin" / Path(sys.executable).resolve().name)
        more["libraries"] = room / "python/lib"
        anew(clone / ".venv/pyvenv.cfg", f"home = {room}/python/bin\n")
    for folder, _, files in os.walk(home):
        own = files if ".venv" not in Path(folder).relative_to(home).parts else []
        for name in (".", *own):
            os.chown(Path(folder, name), user.pw_uid, user.pw_gid, follow_symlinks=False)
    ids: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    rehearsed(clone, home, **ids, **more)


def anew_link(path: Path, target: Path) -> None:
    """Point a link elsewhere."""
    path.unlink()
    path.symlink_to(target)


def _is_free(folder: Path) -> bool:
    """Whether everybody gets into a folder."""
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
