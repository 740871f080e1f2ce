"""Facts about the twin's files and settings, its protocol and its faults: no process needed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.faults import FaultOrder, Faults
from ctp_runbook.rehearsal.front.protocol import ProtocolError, decode, encode, read_ports
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.rehearsal.twin_files import overlaid, render, write_wrappers


@dataclass(frozen=True)
class Settings:
    """What a test process might be told."""

    name: str
    rate: float = 1.0


def test_later_files_win_and_may_be_missing(tmp_path: Path) -> None:
    """A behaviour file overrides the configuration where there is one."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text('{"name": "old", "rate": 2}')
    assert load_settings(Settings, first, second) == Settings("old", 2)
    second.write_text('{"rate": 3}')
    assert load_settings(Settings, first, second) == Settings("old", 3)


@pytest.mark.parametrize(
    "content",
    ['{"nam": "x"}', "[]", "{", "{}", None],
    ids=["unknown", "list", "torn", "lacks", "no"],
)
def test_settings_that_do_not_fit_are_refused(content: str | None, tmp_path: Path) -> None:
    """The refusal names the file; nothing runs on half a configuration."""
    file = tmp_path / "a.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunbookError, match=r"a\.json"):
        load_settings(Settings, file)


VALUES = {"twin_dir": "/tmp/a twin's $dir", "new_metrics_port": "18080"}


def test_an_overlay_replaces_adds_and_takes_away() -> None:
    """Its keys win, a blank one leaves none, and what it does not name stays."""
    text, overlay = "# of it\nA=1\nB=x = y\nC=3\n", "# over it\nA=9\nB=\nD=4\n"
    lines = [line for line in overlaid(text, overlay).splitlines() if line]
    assert lines == ["# of it", "C=3", "# over it", "A=9", "D=4"]


def test_commands_get_their_values_quoted_for_the_shell() -> None:
    """bash reads back exactly the path, whatever is in it."""
    line = render("PRECHECK_CMD=printf %s <twin_dir>/run/x.pid\n", VALUES)
    command = line.removeprefix("PRECHECK_CMD=").strip()
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout == "/tmp/a twin's $dir/run/x.pid"


def test_other_values_are_literal() -> None:
    """A template value that is no command knows no quotes."""
    text = "OLD_CORE_ENGINE_PID_FILE=<twin_dir>/x.pid\nURL=http://127.0.0.1:<new_metrics_port>/metrics\n"
    assert render(text, VALUES) == (
        "OLD_CORE_ENGINE_PID_FILE=/tmp/a twin's $dir/x.pid\nURL=http://127.0.0.1:18080/metrics\n"
    )


def test_comments_are_left_alone_and_unknown_placeholders_refused() -> None:
    """A comment may speak of <placeholders>; a value may not keep one."""
    assert render("# <whatever>\n", VALUES) == "# <whatever>\n"
    with pytest.raises(RunbookError, match="<whatever>"):
        render("KEY=<whatever>\n", VALUES)


def test_the_wrappers_find_the_package_from_anywhere(tmp_path: Path) -> None:
    """bin/python imports ctp_runbook with an empty environment in another directory."""
    twin = Twin(tmp_path / "a twin's $dir")
    write_wrappers(twin)
    code = "import ctp_runbook.host.proc, sys; print(sys.argv[1])"
    told = subprocess.run(
        [twin.python, "-c", code, "a b"],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "a b\n"


def test_two_twins_are_two_environments() -> None:
    """A run locks its environment on the host; the same twin is the same environment again."""
    first, second = Twin(Path("/tmp/a")), Twin(Path("/tmp/b"))
    assert first.environment != second.environment
    assert first.environment == Twin(Path("/tmp/a")).environment
    assert first.environment.startswith("rehearsal-")


def test_a_line_is_one_object() -> None:
    """Anything else is a ProtocolError that quotes it."""
    assert decode(encode({"op": "login", "rid": 1})) == {"op": "login", "rid": 1}
    for line in (b"", b"[]", b"nonsense", b"\xff"):
        with pytest.raises(ProtocolError):
            decode(line)


def test_a_front_that_is_not_up_is_named(tmp_path: Path) -> None:
    """Without ports.json the refusal says which file is missing."""
    with pytest.raises(ProtocolError, match=r"ports\.json"):
        read_ports(tmp_path)


def test_rejects_are_spread_evenly_over_one_generation() -> None:
    """A quarter is every fourth order of that generation; the other's count for nothing."""
    faults = Faults()
    faults.take(FaultOrder(reject_orders_ratio=0.25, reject_generation="new"))
    rejected = []
    for _ in range(8):
        assert not faults.rejects_next_order("old")
        rejected.append(faults.rejects_next_order("new"))
    assert rejected == [False, False, False, True] * 2


def test_one_fault_leaves_the_others_as_they_are() -> None:
    """Each request changes what it names."""
    faults = Faults()
    faults.take(FaultOrder(order_latency_ms=400, order_latency_generation="new"))
    faults.take(FaultOrder(reject_instrument_query=True, reject_generation="new"))
    assert faults.order_latency_seconds("new") == 0.4
    assert faults.order_latency_seconds("old") == 0
    assert faults.rejects_instrument_query("new")
    assert not faults.rejects_instrument_query("old")
