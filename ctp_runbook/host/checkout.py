"""Where this package lies on the machine, and what lies beside it in a checkout."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ctp_runbook.errors import RunRefused

__all__ = ["CHECKOUT", "changed_since", "commit_of", "find_config", "find_here", "get_here"]

# The folder that holds the package: what PYTHONPATH must name for another process to import it.
CHECKOUT = Path(__file__).resolve().parents[2]


def find_here(part: str | Path) -> Path | None:
    """``part`` of the working directory, as a relative path, else of the checkout; else None."""
    return next((base / part for base in (Path(), CHECKOUT) if (base / part).exists()), None)


def get_here(part: Path) -> Path:
    """Return what ``find_here`` finds. Raises RunRefused where that is nothing."""
    if place := find_here(part):
        return place
    raise RunRefused(f"{part} is neither here nor in {CHECKOUT}; run in a checkout, or name it")


def find_config(name: str, *, template: Path) -> Path:
    """Return the file beside the template, else ``configs/NAME`` here, else that of the checkout.

    A rehearsal's templates bring their own limits.toml and watch.toml along.
    """
    beside = template.parent / name
    return beside if beside.is_file() else get_here(Path("configs") / name)


_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
# What of a checkout acts or is shown; its configuration is in the record of each run anyway.
_CODE = ("ctp_runbook", "notebooks")
_GIT_SECONDS = 5.0


def commit_of(folder: Path = CHECKOUT) -> str:
    """Return the commit that is checked out in ``folder``, or that what is installed there was built
    of; blank where neither is known. It reads a few small files, and starts nothing."""
    with suppress(OSError, ValueError):
        if (folder / ".git").exists():
            return _commit_of_repository(_repository(folder / ".git"))
        import json  # a checkout, which is the usual, needs none

        for place in folder.glob("ctp_runbook-*.dist-info/direct_url.json"):  # written by pip
            commit = json.loads(place.read_bytes()).get("vcs_info", {}).get("commit_id", "")
            return commit if _COMMIT.fullmatch(commit) else ""
    return ""


def _repository(git: Path) -> Path:
    """What a worktree's ``.git`` file leads to, else the folder itself."""
    return git if git.is_dir() else git.parent / git.read_text().removeprefix("gitdir: ").strip()


def _commit_of_repository(git: Path) -> str:
    name = (git / "HEAD").read_text().strip()
    if name.startswith("ref: "):
        name = _commit_of_ref(git, name.removeprefix("ref: "))
    return name if _COMMIT.fullmatch(name) else ""


def _commit_of_ref(git: Path, ref: str) -> str:
    """A branch is a file of its own or a line of packed-refs, in a worktree the repository's."""
    common = git / "commondir"
    git = git / common.read_text().strip() if common.is_file() else git
    if (git / ref).is_file():
        return (git / ref).read_text().strip()
    lines = (line.split() for line in (git / "packed-refs").read_text().splitlines())
    return next((words[0] for words in lines if words[1:] == [ref]), "")


def changed_since(folder: Path = CHECKOUT) -> bool | None:
    """Return whether the code in ``folder`` is another than that of its commit; None where git cannot
    tell."""
    import subprocess

    if not (folder / ".git").exists():
        return None
    argv = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "-C", str(folder)]
    # A hook's own variables would have it look at another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        status = subprocess.run(
            [*argv, "status", "--porcelain", "--", *_CODE],
            capture_output=True,
            check=True,
            env=env,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return bool(status.stdout.strip())
