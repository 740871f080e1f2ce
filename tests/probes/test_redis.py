"""Facts about probes/redis.py: whatever a server answers, it is told in time and without secrets."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.redis import RedisLook, look_at_redis, shown_url
from tests.props.small_servers import bulk, free_port, scripted_redis, valkey

PONG, INFO = b"+PONG\r\n", bulk(b"role:master\r\nloading:0\r\n")


@pytest.mark.parametrize("url", ["redis://me:pw@h:1/0?x=pw#pw", "http://tok:pw@h:1/0"])
def test_a_shown_url_has_no_secret(url: str) -> None:
    """User, password, query and fragment are left out."""
    assert shown_url(url) == f"{url.partition(':')[0]}://h:1/0"


BROKEN_REDIS: dict[str, dict[str, bytes]] = {
    "hangs up": {},
    "no PONG": {"PING": b"+HELLO\r\n"},
    "error": {"PING": b"-LOADING wait\r\n"},
    "torn": {"PING": b"+PONG\r\n", "INFO": b"$1000"},
    "huge": {"PING": b"+PONG\r\n", "INFO": b"$99999999999\r\n"},
    "nonsense": {"PING": b"+PONG\r\n", "INFO": b"$x\r\n"},
}


@pytest.mark.twin
@pytest.mark.parametrize("answers", BROKEN_REDIS.values(), ids=BROKEN_REDIS)
def test_a_broken_server_is_a_probe_error(answers: dict[str, bytes]) -> None:
    """Whatever comes back, the probe ends in time and says that it could not measure."""
    with scripted_redis(answers) as url, pytest.raises(ProbeError):
        look_at_redis(url, seconds=0.5)


def test_a_url_that_has_no_secret_stays() -> None:
    """Its database, too: it says which one is meant."""
    assert shown_url("redis://h:1/3") == "redis://h:1/3"


LOOKS = {
    "a primary": ({"role": "master", "loading": "0", "redis_version": "7"}, True, "version 7"),
    "a Valkey": (
        {"role": "master", "loading": "0", "redis_version": "7.2", "valkey_version": "9.1"},
        True,
        "role master, version 9.1, loading 0",
    ),
    "a replica": ({"role": "slave", "loading": "0"}, False, "role slave, version unknown"),
    "loading": ({"role": "master", "loading": "1"}, False, "loading 1"),
    "nothing": ({}, False, "role unknown, version unknown, loading unknown"),
}


@pytest.mark.parametrize(("info", "is_healthy", "said"), LOOKS.values(), ids=LOOKS)
def test_only_a_loaded_primary_is_healthy(
    info: dict[str, str], is_healthy: bool, said: str
) -> None:
    """What does not say so is not."""
    look = RedisLook(info, (), {})
    assert look.is_healthy is is_healthy
    assert said in look.sentence


@pytest.mark.twin
def test_info_clients_and_keys_are_read() -> None:
    """A field keeps its colons, a client without a name is none, and nil is blank."""
    answers = {
        "PING": PONG,
        "INFO": bulk(b"# Server\r\nrole:master\r\nos:Linux: 6\r\n\r\nodd\r\n"),
        "CLIENT": bulk(b"id=1 name=old_core_engine db=0\nid=2 name= db=0\nid=3 db=0\n"),
        "GET": b"$-1\r\n",
    }
    with scripted_redis(answers) as url:
        look = look_at_redis(url, seconds=5, keys=["compat"])
    assert look == RedisLook(
        {"role": "master", "os": "Linux: 6"}, ("old_core_engine",), {"compat": ""}
    )


SAID = {
    "no PONG": ({"PING": b"+HELLO\r\n"}, "PING was answered 'HELLO', expected PONG"),
    "refused": ({"PING": b"-NOAUTH Authentication required.\r\n"}, "PING was refused: NOAUTH"),
    "too much": (
        {"PING": PONG, "INFO": bulk(b"x" * (5 << 20))},
        "its answers are longer than 4 MiB",
    ),
    "hangs up": ({"PING": PONG}, "closed the connection in the middle of an answer"),
    "no number": ({"PING": PONG, "INFO": b"$x\r\n"}, "invalid literal for int"),
    "half a look": ({"PING": PONG, "INFO": INFO}, "closed the connection"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("answers", "said"), SAID.values(), ids=SAID)
def test_what_came_instead_is_told(answers: dict[str, bytes], said: str) -> None:
    """By the command that was not answered."""
    with scripted_redis(answers) as url, pytest.raises(ProbeError, match=said):
        look_at_redis(url, seconds=5)


@pytest.mark.twin
@pytest.mark.parametrize("password", ["geheim", "a/b:c@d %", "\N{SNOWMAN}"])
def test_a_password_is_sent_as_it_is(password: str, tmp_path: Path) -> None:
    """Escaped in the URL, and whole for the server; with a user it is that user's."""
    with valkey(tmp_path, "--requirepass", password) as url:
        host = url.removeprefix("redis://")
        for user in ("", "default"):
            look = look_at_redis(f"redis://{user}:{quote(password, safe='')}@{host}", seconds=5)
            assert look.is_healthy
        with pytest.raises(ProbeError, match="NOAUTH"):
            look_at_redis(url, seconds=5)
        with pytest.raises(ProbeError, match="AUTH was refused: WRONGPASS") as refused:
            look_at_redis(f"redis://:other@{host}", seconds=5)
    assert "other" not in str(refused.value)


@pytest.mark.twin
def test_a_server_that_hangs_holds_nobody() -> None:
    """Accepted by the kernel and answered by nobody: over in time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ProbeError, match=r"^redis://127\.0\.0\.1:\d+: timed out"):
            look_at_redis(f"redis://127.0.0.1:{server.getsockname()[1]}", seconds=0.3)
        assert time.monotonic() - began < 60


@pytest.mark.twin
@pytest.mark.parametrize("port", ["x", "99999", ""])
def test_a_port_that_is_none_is_a_probe_error(port: str) -> None:
    """Not the end of whoever asks; without one it is Redis' own."""
    with pytest.raises(ProbeError, match=r"^redis://127\."):
        look_at_redis(f"redis://127.0.0.1:{port or free_port()}", seconds=0.3)
