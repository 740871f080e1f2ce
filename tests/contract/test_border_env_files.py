"""Env files at the border: read as docker compose and bash both read them, or refused by line."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.env_text import read_env
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.redact import MASK, Redactor

FOLDER = Path(__file__).parent / "border/env_files"
CASES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "expect.toml").read_text("utf-8"))


def test_every_input_has_an_answer() -> None:
    """A file nobody expects anything of is no test."""
    assert {path.stem for path in FOLDER.glob("*.env")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_or_refused_by_line(name: str) -> None:
    """Values by name; each refused line by its number, its name, and what is wrong with it."""
    case = CASES[name]
    read = read_env(_data(name), environ=case.get("environ", {}))
    assert read.values == case["values"]
    told = list(zip(read.problems, case["refused"], strict=True))
    assert [problem for problem, begins in told if not problem.startswith(begins)] == []


@pytest.mark.parametrize("name", CASES)
def test_bash_reads_the_same(name: str) -> None:
    """The values expected above are those that bash makes of the file, but for its refused lines."""
    case = CASES[name]
    lines = {int(begins.split()[1].strip(":")) for begins in case["refused"]}
    raw = _data(name).split(b"\n")
    kept = [b"" if number in lines else line for number, line in enumerate(raw, start=1)]
    told = subprocess.run(
        ["bash", "-c", "set -a; . /dev/stdin; env -0"],
        input=b"\n".join(kept),
        env=case.get("environ", {}),
        capture_output=True,
        check=True,
    ).stdout
    seen = dict(pair.split("=", 1) for pair in told.decode().split("\0") if pair)
    wanted = {key: value for key, value in case["values"].items() if "byte order" not in str(case)}
    assert {key: seen.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_gives_no_value_and_is_masked_all_the_same(name: str) -> None:
    """The reader raises with the lines in its sentence, and no value in it; both are secrets."""
    case = CASES[name]
    path, environ = FOLDER / f"{name}.env", case.get("environ", {})
    with pytest.raises(ValueError, match="line ") as refused:
        read_variables(path, environ=environ)
    redactor = Redactor.gather(environ={}, env_files=[path])
    for key, value in case["values"].items():
        if "PASSWORD" in key and len(value) > 5:
            assert value not in str(refused.value)
            assert redactor(f"login with {value}.").startswith(f"login with {MASK}")
            assert value.strip("\\'\"") not in redactor(f"login with {value}.")


def test_a_refused_secret_is_masked_in_both_readings(tmp_path: Path) -> None:
    """What compose logs in with, and what stands in the file."""
    (tmp_path / "x.env").write_text("A_PASSWORD=dollar$$pass # remark\nB_PASSWORD=two words\n")
    redactor = Redactor.gather(environ={}, env_files=[tmp_path / "x.env"])
    for form in ("dollar$$pass", "dollar$pass", "two words"):
        assert redactor(f"<{form}>") == f"<{MASK}>"


def _data(name: str) -> bytes:
    return (FOLDER / f"{name}.env").read_bytes()
