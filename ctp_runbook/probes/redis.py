"""Ask a Redis-protocol server a few questions, all of them by one deadline.

The protocol is the client library's; the socket it reads from is ours, and bounded. ``rediss://``
is TLS, with ``#ca_file=PATH`` as in every other address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import TooMuch, open_link

if TYPE_CHECKING:
    from ctp_runbook.probes.exchange import Link

__all__ = ["RedisLook", "look_at_redis", "shown_url"]

# INFO and the clients of a busy server are some hundred KiB.
_LONGEST_ANSWER = 4 << 20
_PORT = 6379
_SCHEMES = {"redis": False, "rediss": True}


@dataclass(frozen=True)
class RedisLook:
    """What a server said of itself: INFO's fields, its clients' names, and the keys asked for."""

    info: dict[str, str]
    clients: tuple[str, ...]
    keys: dict[str, str]

    @property
    def is_healthy(self) -> bool:
        """True for a primary that has its data loaded: what says nothing is not healthy."""
        return self.info.get("role") == "master" and self.info.get("loading") == "0"

    @property
    def version(self) -> str:
        """Valkey's own version, else the one of Redis it is compatible with."""
        return self.info.get("valkey_version") or self.info.get("redis_version", "unknown")

    @property
    def sentence(self) -> str:
        """``role master, version 9.1.2, loading 0``."""
        role, loading = (self.info.get(name, "unknown") for name in ("role", "loading"))
        return f"role {role}, version {self.version}, loading {loading}"


def look_at_redis(url: str, *, seconds: float, keys: Iterable[str] = ()) -> RedisLook:
    """Ask PING, INFO, CLIENT LIST and GET of ``keys``, all within ``seconds``. Raises ProbeError."""
    try:
        return _look(url, seconds, keys)
    except TimeoutError as error:
        raise ProbeError(
            f"{shown_url(url)}: timed out: no whole answer within {seconds:g} s"
        ) from error
    except TooMuch as error:
        most = f"{_LONGEST_ANSWER >> 20} MiB"
        raise ProbeError(f"{shown_url(url)}: its answers are longer than {most}") from error
    except RecursionError as error:
        raise ProbeError(f"{shown_url(url)}: an answer is nested too deeply") from error
    except (OSError, ValueError, ProbeError) as error:
        raise ProbeError(f"{shown_url(url)}: {str(error) or type(error).__name__}") from error


def _look(url: str, seconds: float, keys: Iterable[str]) -> RedisLook:
    deadline = time.monotonic() + seconds
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ProbeError("expected redis:// or rediss://")
    with open_link(
        url,
        default_port=_PORT,
        deadline=deadline,
        room=_LONGEST_ANSWER,
        is_tls=_SCHEMES[parts.scheme],
    ) as link:
        ask = _asker(link)
        if parts.password is not None:
            user = [unquote(parts.username)] if parts.username else []
            ask("AUTH", *user, unquote(parts.password))
        if (answer := ask("PING")) != "PONG":
            raise ProbeError(f"PING was answered {answer[:80]!r}, expected PONG")
        info = _fields(ask("INFO"), lines="\r\n", joint=":")
        clients = (
            _fields(line, lines=" ", joint="=") for line in ask("CLIENT", "LIST").split("\n")
        )
        names = [client["name"] for client in clients if client.get("name")]
        return RedisLook(info, tuple(names), {key: ask("GET", key) for key in keys})


def shown_url(url: str) -> str:
    """Return the URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _asker(link: Link) -> Callable[..., str]:
    """Return what sends one command over a link and gives its answer as text, blank for nil."""
    # Late: 0.2 s, for those who look at a Redis.
    from valkey._parsers import _RESP2Parser
    from valkey.connection import Connection
    from valkey.exceptions import ConnectionError as LinkLost
    from valkey.exceptions import ResponseError, ValkeyError
    from valkey.exceptions import TimeoutError as ReadTimedOut

    class Whole(_RESP2Parser):
        @classmethod
        def parse_error(cls, response: str) -> ResponseError:
            # The client cuts off the code of an error it knows (NOAUTH, LOADING), which says most.
            return ResponseError(response)

    class Bounded(Connection):
        def _connect(self) -> Any:
            return link

    # Without the client's own CLIENT SETINFO: what looks changes nothing.
    bounded: Any = Bounded  # its methods are not typed
    connection = bounded(
        parser_class=Whole,
        encoding_errors="replace",
        decode_responses=True,
        lib_name=None,
        lib_version=None,
    )

    def ask(*words: str) -> str:
        try:
            connection.connect()
            connection.send_command(*words)
            answer = connection.read_response()
        except ReadTimedOut as error:
            raise TimeoutError from error
        except ResponseError as error:
            raise ProbeError(f"{words[0]} was refused: {error}") from error
        except LinkLost as error:
            raise ProbeError(
                f"{words[0]}: the server closed the connection in the middle of an answer ({error})"
            ) from error
        except ValkeyError as error:
            expected = "PONG" if words[0] == "PING" else "an answer in the Redis protocol"
            raise ProbeError(f"{words[0]} was answered: {error}, expected {expected}") from error
        return "" if answer is None else str(answer)

    return ask


def _fields(text: str, *, lines: str, joint: str) -> dict[str, str]:
    return dict(line.split(joint, 1) for line in text.split(lines) if joint in line)
