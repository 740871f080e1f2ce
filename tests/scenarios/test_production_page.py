"""The page from an empty host to a real run, followed on an empty root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.props.documents import ROOT, RUNBOOK, blocks

RELEASES = ("2026.02", "2026.11")
PROGRAMS = ("core_engine", "ctp_instrument_query", "redis_bridge_compat")
# In namespaces of its own: what is mounted goes with them.
ENTER = """
mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/run"; mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
exec chroot "$0" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_CERT=/authorities.pem SSL_CERT_FILE=/authorities.pem bash -euo pipefail /page.sh
"""
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def release_and_mirror() -> tuple[str, str]:
    """What this host is a release of, and where it takes its packages from; skip for what has none."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("an empty root wants root and debootstrap")
    said = Path("/etc/os-release").read_text()
    release = next(iter(re.findall(r"^VERSION_CODENAME=(\w+)$", said, re.MULTILINE)), "")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    mirrors = [line.split()[1] for line in sorted(listed) if line.split()[:1] == [release]]
    # That of the release has the shortest address: security updates have one of their own.
    return (release, min(mirrors, key=len)) if mirrors else pytest.skip("no mirror of this release")


def make_root(root: Path, release: str, mirror: str) -> None:
    """The least that is a system, with this checkout, and engines that only are there."""
    make = ["debootstrap", "--variant=minbase", release, str(root), mirror]
    done = subprocess.run(make, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"debootstrap cannot make a root here: {done.stdout.splitlines()[-1:]}")
    root.chmod(0o755)
    files = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (root / "opt/ctp-runbook" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / "opt/ctp-runbook" / name)
    for release in RELEASES:
        home = root / "opt/quant-hft" / release
        for program in (*(f"bin/{name}" for name in PROGRAMS), "venv/bin/python"):
            (home / program).parent.mkdir(parents=True, exist_ok=True)
            (home / program).write_text("#!/bin/sh\nexec sleep 60\n")
            (home / program).chmod(0o755)
        scripts = home / "scripts/strategy"
        scripts.mkdir(parents=True)
        for script in ("run_strategy.py", "run_ctp_strategy.py"):
            (scripts / script).touch()
    # How this machine reaches its registries is no part of the page.
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    shutil.copy(AUTHORITIES, root / "authorities.pem")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_leads_to_a_dry_run_without_warnings(tmp_path: Path) -> None:
    """On an empty root every block of production.md for one, typed in order, ends in a plan that is
    warned of nothing and a dry run that nothing stands in the way of."""
    root = tmp_path / "root"
    make_root(root, *release_and_mirror())
    page = "\n".join(b.text for b in blocks(page=RUNBOOK / "production.md") if b.mark == "root")
    (root / "page.sh").write_text(page)
    enter = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
    try:
        done = subprocess.run(
            [*enter, "bash", "-euc", ENTER, str(root)],
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
        )
    finally:
        assert str(root) not in Path("/proc/self/mounts").read_text()
        shutil.rmtree(root)
    told = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, told
    assert "\nwarning:" not in f"\n{done.stderr}"
    assert "DRY_RUN_OK: dry run: nothing stands in the way; nothing was done" in told
