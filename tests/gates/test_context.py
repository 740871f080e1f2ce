"""Facts about gates/context.py: where an address comes from, and that no secret goes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.context import Deadline, GateContext, open_door
from ctp_runbook.gates.gate import GateOptions, GateResult, GateStep
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES


def _context(tmp_path: Path, text: str = "", **given: object) -> GateContext:
    file = tmp_path / "prodlike.env"
    file.write_text(text)
    environ = given.pop("environ", {})
    options = GateOptions(env_file=file, **given)  # type: ignore[arg-type]
    return GateContext.of(options, environ=environ, tell=print)  # type: ignore[arg-type]


# Of each address: its flag, its variable, its port's variable, and what it is on the single host.
ADDRESSES = {
    "bootstrap_servers": (
        "bootstrap_servers",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_PORT",
        "127.0.0.1:{}",
        9092,
    ),
    "clickhouse_url": (
        "clickhouse_url",
        "CLICKHOUSE_URL",
        "CLICKHOUSE_HTTP_PORT",
        "http://127.0.0.1:{}",
        8123,
    ),
    "connect_url": (
        "connect_url",
        "KAFKA_CONNECT_URL",
        "CONNECT_PORT",
        "http://127.0.0.1:{}",
        8083,
    ),
    "redis_url": ("redis_url", "REDIS_URL", "REDIS_PORT", "redis://127.0.0.1:{}", 6379),
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_comes_from_flag_environment_file_and_default(name: str, tmp_path: Path) -> None:
    """In this order; the single host has a default at the env file's port, the twin has none."""
    flag, variable, port, usual, number = ADDRESSES[name]
    text = f"{port}=1{number}\n{variable}='http://file:1'\n# {port}=1\n"
    environ = {variable: "http://environ:1"}

    def address(text: str, **flags: object) -> object:
        return getattr(_context(tmp_path, text, **flags), name)

    assert address(text, environ=environ, **{flag: "http://flag:1"}) == "http://flag:1"
    assert address(text, environ=environ) == "http://environ:1"
    assert address(text) == "http://file:1"
    assert address(f"{port}=1{number}\n") == usual.format(f"1{number}")
    assert address("") == usual.format(number)
    assert address("", profile="rehearsal") == ""


def test_postgresql_is_where_a_dsn_says(tmp_path: Path) -> None:
    """Two variables may name it; without any the twin's is an error that names the flag."""
    names = {"POSTGRES_DSN": "host=a dbname=d", "TIMESCALE_DSN": "host=b dbname=d"}
    assert _context(tmp_path, environ=names).postgres.shown == "postgresql://a:5432/d"
    del names["POSTGRES_DSN"]
    assert _context(tmp_path, environ=names).postgres.shown == "postgresql://b:5432/d"
    usual = _context(tmp_path, "TIMESCALE_PORT=15432\n").postgres
    assert usual.shown == "postgresql://127.0.0.1:15432/quant_hft"
    with pytest.raises(ProbeError, match="--postgres-dsn"):
        _ = _context(tmp_path, profile="rehearsal").postgres


def test_clickhouse_is_asked_with_its_login(tmp_path: Path) -> None:
    """By the variables' user and password; without an address there is nobody to ask."""
    text = "CLICKHOUSE_USER=me\nCLICKHOUSE_PASSWORD=geheim\n"
    door = _context(tmp_path, text).clickhouse
    assert door is not None
    assert (door.url, door.user, door.password) == ("http://127.0.0.1:8123", "me", "geheim")
    usual = _context(tmp_path).clickhouse
    assert usual is not None
    assert (usual.user, usual.password) == ("quant_hft", "")
    assert _context(tmp_path, text, profile="rehearsal").clickhouse is None


def test_a_password_is_put_in_here_and_never_in_a_flag(tmp_path: Path) -> None:
    """Redis' and PostgreSQL's come from variables; one in --postgres-dsn is refused."""
    text = "REDIS_PASSWORD=a/b\nTIMESCALE_PASSWORD=geheim\nMONITOR_PASSWORD=m\n"
    found = _context(tmp_path, text)
    assert found.redis_url == "redis://:a%2Fb@127.0.0.1:6379"
    assert found.postgres.password == "geheim"
    assert "geheim" not in repr(found.postgres)
    assert open_door("user=quant_hft_monitor", values=found.values).password == "m"
    assert open_door("user=x", values={"PGPASSWORD": "p"}).password == "p"
    with pytest.raises(RunRefused, match="seen by everybody") as refused:
        open_door("user=x password=geheim", values={})
    assert "geheim" not in str(refused.value)
    with pytest.raises(RunRefused, match="expected host="):
        open_door("host", values={})


REDIS = {
    "redis://h:1": "redis://:geheim@h:1",
    "redis://me@h:1": "redis://me@h:1",
    "redis://:own@h:1": "redis://:own@h:1",
    "h:1": "h:1",
}


@pytest.mark.parametrize(("url", "address"), REDIS.items())
def test_redis_password_is_put_in_where_there_is_none(
    url: str, address: str, tmp_path: Path
) -> None:
    """A URL that has a login keeps it."""
    assert _context(tmp_path, "REDIS_PASSWORD=geheim\n", redis_url=url).redis_url == address


ROLES = {
    "user=postgres": ("t", "TIMESCALE_PASSWORD"),
    "user=debezium": ("d", "DEBEZIUM_PASSWORD"),
    "user=quant_hft": ("e", "ENGINE_DB_PASSWORD"),
    "user=another": ("a", "ANOTHER_PASSWORD"),
    "user=nobody": ("", "NOBODY_PASSWORD"),
    "postgresql://debezium@h/d": ("d", "DEBEZIUM_PASSWORD"),
}


@pytest.mark.parametrize(("dsn", "password"), ROLES.items())
def test_each_role_has_its_password(dsn: str, password: tuple[str, str]) -> None:
    """From the variable that the env file names it by, which the refusal of a login names, too."""
    values = {
        "TIMESCALE_PASSWORD": "t",
        "DEBEZIUM_PASSWORD": "d",
        "ENGINE_DB_PASSWORD": "e",
        "ANOTHER_PASSWORD": "a",
    }
    door = open_door(dsn, values=values)
    assert (door.password, door.password_name) == password
    assert open_door(dsn, values={**values, "PGPASSWORD": "p"}).password == "p"


def test_an_env_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A misspelt --env-file does not quietly mean no file."""
    with pytest.raises(RunRefused, match="--env-file"):
        GateContext.of(GateOptions(env_file=tmp_path / "none"), environ={}, tell=print)


def _lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("SELECT 1")


def test_somebody_elses_infra_folder_is_looked_through(tmp_path: Path) -> None:
    """The first place that has files is taken and named, and so is one that has some too."""
    context = _context(tmp_path, infra=tmp_path)
    _lay(tmp_path, "timescale/init/02.sql", "timescale/init/01.sql", "timescale/init/README")
    globs = ("timescale/*.sql", "timescale/init/*.sql", "init/*.sql")
    found = context.infra_files(*globs)
    assert [path.name for path in found.files] == ["01.sql", "02.sql"]
    assert found.sentence == f"2 files of {tmp_path}/timescale/init"
    _lay(tmp_path, "timescale/00.sql")
    taken = f"1 files of {tmp_path}/timescale, none of {tmp_path}/timescale/init"
    assert context.infra_files(*globs).sentence == taken


def test_nothing_to_run_is_refused_by_where_it_was_looked_for(tmp_path: Path) -> None:
    """No file is never "0 files run": what was looked for, where, and what lies there instead."""
    _lay(tmp_path, "timescale/init/init.sh")
    with pytest.raises(RunRefused) as refused:
        _context(tmp_path, infra=tmp_path).infra_files("timescale/*.sql", "timescale/init/*.sql")
    assert str(refused.value) == (
        "nothing of what the gate is to make is there: looked for "
        f"{tmp_path}/timescale/*.sql, {tmp_path}/timescale/init/*.sql (there are "
        f"{tmp_path}/timescale/init/init.sh); put it in one of these places, or name the folder "
        "that has such a place by --infra"
    )


def test_files_of_an_operators_own_folder_come_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder infra/ here with another layout is not passed over for the checkout's."""
    monkeypatch.chdir(tmp_path)
    globs = ("clickhouse/*.sql", "init/*.sql")
    assert _context(tmp_path).infra_files(*globs).folder == CHECKOUT / "infra/clickhouse"
    _lay(tmp_path, "infra/init/1.sql")
    assert _context(tmp_path).infra_files(*globs).folder == Path("infra/init")


def test_a_result_is_redacted(tmp_path: Path) -> None:
    """Secrets of the env file are masked in facts, reasons and questions alike."""
    context = _context(tmp_path, "REDIS_PASSWORD=geheim-geheim\n")
    leaks = "at geheim-geheim"
    step = GateStep("s", StepStatus.FAILED, 0.0, leaks, {"seen": leaks}, leaks)
    result = context.redacted(GateResult(GATES["bootstrap"], False, (step,)))
    assert b"geheim" not in result.evidence()
    assert b"at ***" in result.evidence()


def test_a_deadline_cuts_every_call() -> None:
    """A call gets what it asks for or what is left; with nothing left it is refused, by its flag."""
    assert Deadline.after(100).call(5) == 5
    assert 0 < Deadline.after(1).call(5) <= 1
    over = Deadline.after(-1)
    assert not over.pause(0.01)
    with pytest.raises(ProbeError, match="--deadline-seconds"):
        over.call(5)


def test_a_look_that_the_deadline_cut_short_says_so() -> None:
    """Once, by its flag; one that had its time is told as it was."""
    error = ProbeError("http://x: no whole answer within 0.1 s")
    assert Deadline.after(100).reason(error) == str(error)
    over = Deadline(0.1, 0.0)
    assert over.reason(error) == (
        f"{error}; by then the gate's deadline of 0.1 s was used up (--deadline-seconds)"
    )
    with pytest.raises(ProbeError) as refused:
        over.call(5)
    assert over.reason(refused.value) == str(refused.value)
