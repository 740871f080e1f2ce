"""Env files, differentially: what is read is what bash reads; the rest is refused, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.env_text import read_env
from ctp_runbook.plan.template_text import read_variables

ROOT = Path(__file__).parents[1]
CASES = int(os.environ.get("CTP_RUNBOOK_CASES", "200"))
FILES_A_BASH = 20  # starting one costs more than reading a file
ENVIRON = {"FROM_ENV": "e 'v", "BOTH": "environment"}
ATOMS = st.one_of(
    st.sampled_from(
        [*"abXY=: \t'\"\\$`#~{}();&|<>!*?[]%^,.+-0_@/é密\r\n", "\\n", "\\$", '\\"', "\\\\", "$$"]
    ),
    st.sampled_from(["${ABOVE}", "$ABOVE", "${NO}", "${FROM_ENV}", "$BOTH", "{a,b}", "$1", "~/x"]),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
)
VALUES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "'", '"']),
        st.lists(ATOMS, max_size=6).map("".join),
        st.sampled_from(["", "'", '"', " # remark", "'\t# x", '"#']),
    ),
)
FILES = st.builds(
    "ABOVE='s a'\nBOTH=file\n{0}KEY{1}{2}{3}".format,
    st.sampled_from(["", "", "export ", "  ", "\texport\t"]),
    st.sampled_from(["=", "=", "=", " =", "= ", "+="]),
    VALUES,
    st.sampled_from(["\n", "", "\nLAST=x\n", "\r\n"]),
)


@settings(max_examples=max(1, CASES // FILES_A_BASH))
@given(texts=st.lists(FILES, min_size=FILES_A_BASH, max_size=FILES_A_BASH))
def test_what_is_read_is_what_bash_reads(texts: list[str]) -> None:
    """Every value of a file without a refused line is bash's own."""
    whole = [text for text in texts if not read_env(text.encode(), environ=ENVIRON).problems]
    for text, seen in zip(whole, bash_reads(whole), strict=True):
        values = read_env(text.encode(), environ=ENVIRON).values
        assert {key: seen.get(key) for key in values} == values, text


def bash_reads(texts: list[str]) -> list[dict[str, str]]:
    """The variables that bash has after reading each of these files, in a shell of its own.

    A restricted one without commands: a line that was wrongly taken for harmless touches nothing.
    """
    script = 'for text; do ( set -a; eval "$text"; env -0 ); printf "\\0END\\0"; done'
    with TemporaryDirectory() as folder:
        (Path(folder) / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
        told = subprocess.run(
            ["bash", "-r", "-c", script, "bash", *texts],
            env={"PATH": folder, **ENVIRON},
            executable=shutil.which("bash"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).stdout.decode()
    return [
        dict(pair.split("=", 1) for pair in part.split("\0") if "=" in pair)
        for part in told.split("\0END\0")[:-1]
    ]


@settings(max_examples=CASES)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No traceback; a NUL is never part of a value."""
    read = read_env(data, environ={})
    assert all("\0" not in value for value in read.values.values())


@pytest.mark.parametrize(
    "data",
    [b"A=" + b"\\" * 40_000, b'A="' + b'\\"' * 20_000, b"A='x\n" * 8_000, b'A="x\n"\n' * 8_000],
    ids=["backslashes", "escaped quotes", "single quotes", "double quotes"],
)
def test_a_long_file_takes_no_time(data: bytes) -> None:
    """Linear in its length, whatever it holds."""
    began = time.process_time()
    read_env(data, environ={})
    assert time.process_time() - began < 0.5


def test_the_shipped_file_is_read_whole() -> None:
    """infra/env/prodlike.env means the same to compose, to bash and to the gates."""
    assert len(read_variables(ROOT / "infra/env/prodlike.env", environ={})) > 40


def test_a_file_of_refused_lines_is_told_in_one_sentence(tmp_path: Path) -> None:
    """The first five, and how many more."""
    path = tmp_path / "x.env"
    path.write_text("A=b c\n" * 8)
    with pytest.raises(ValueError, match=r"line 1: A: .*line 5: A: .*; and 3 more$"):
        read_variables(path, environ={})


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    """A megabyte of variables is none."""
    path = tmp_path / "x.env"
    path.write_bytes(b"A=1\n" * 300_000)
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        read_variables(path, environ={})


def test_nothing_is_shown_of_it() -> None:
    """A traceback that prints what was read gives nothing away."""
    assert "hunter22" not in repr(read_env(b"A_PASSWORD=hunter22\n", environ={}))
