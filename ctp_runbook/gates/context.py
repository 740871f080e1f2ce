"""What the tasks of one gate share: its flags, addresses, secrets, deadline, and where to tell.

An address is looked for in the flags, then in the environment, then in the env file, and for the
single host at its loopback port. A password is never in a flag.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.gate import GateOptions, GateResult, GateStep
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.redact import Redactor

__all__ = ["Deadline", "GateContext", "InfraFiles", "open_door"]

_MOST_NAMED = 5
_FLAG = "--deadline-seconds"
_ENV_FILE = Path("infra/env/prodlike.env")
# The env file's name for the password of each role of infra/timescale.
_PASSWORDS = {
    "postgres": "TIMESCALE_PASSWORD",
    "debezium": "DEBEZIUM_PASSWORD",
    "quant_hft": "ENGINE_DB_PASSWORD",
    "quant_hft_monitor": "MONITOR_PASSWORD",
}


@dataclass(frozen=True)
class Deadline:
    """The time a gate has in all. ``ends`` is a moment of the monotonic clock."""

    seconds: float
    ends: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline of a gate that begins now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left; negative once it is over."""
        return self.ends - time.monotonic()

    def call(self, most: float) -> float:
        """Return how long one call may take: ``most``, or what is left; ProbeError for nothing."""
        if self.left <= 0:
            raise ProbeError(
                f"the gate's deadline of {self.seconds:g} s is used up ({_FLAG}); "
                "see which step took it, then run the gate again: it goes on where it was"
            )
        return min(most, self.left)

    def cut_words(self, error: ProbeError, *, said: str) -> str:
        """Return what a look that failed adds to what the whole one before it ``said``.

        Cut short by the deadline it saw nothing, and "no answer within 0.3 s" is not why the gate
        failed. Raises the error where it was not cut, or where nothing was seen before it.
        """
        if not said or self.left > 0:
            raise error
        return "a later look was cut short by the deadline"

    def reason(self, error: ProbeError) -> str:
        """Return why a look failed, and that the deadline cut it short where none of it is left.

        Nobody is to look for an ill service where there was no time to wait for its answer.
        """
        if self.left > 0 or _FLAG in str(error):
            return str(error)
        return f"{error}; by then the gate's deadline of {self.seconds:g} s was used up ({_FLAG})"

    def pause(self, seconds: float) -> bool:
        """Sleep a little before looking again; False when there is no time left to look."""
        if self.left <= seconds:
            return False
        time.sleep(seconds)
        # A busy host may let it sleep for longer: who would look now would tell of the deadline alone.
        return self.left > 0


@dataclass(frozen=True)
class InfraFiles:
    """Files of an infra folder, in name order; ``left``: folders that have such files too."""

    files: tuple[Path, ...]
    folder: Path
    left: tuple[Path, ...] = ()

    @property
    def sentence(self) -> str:
        """``2 files of infra/timescale/init``, and what was not taken."""
        beside = f", none of {', '.join(map(str, self.left))}" if self.left else ""
        return f"{len(self.files)} files of {self.folder}{beside}"


def _instead(roots: list[Path], globs: tuple[str, ...]) -> str:
    """What else lies in the folders that were looked through: an init.sh, say."""
    folders = dict.fromkeys((root / glob).parent for root in roots for glob in globs)
    there = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    files = [str(path) for path in there if path.is_file()][:_MOST_NAMED]
    return f" (there are {', '.join(files)})" if files else ""


@dataclass(frozen=True)
class GateContext:
    """``values`` are the variables of the env file with the environment's over them."""

    options: GateOptions
    values: Mapping[str, str]
    deadline: Deadline
    redact: Redactor
    tell: Callable[[str], None]

    @classmethod
    def of(
        cls, options: GateOptions, *, environ: Mapping[str, str], tell: Callable[[str], None]
    ) -> GateContext:
        """Return the context of a gate that begins now; RunRefused for an env file not there."""
        file = options.env_file
        if file is None and not options.is_rehearsal and _ENV_FILE.is_file():
            file = _ENV_FILE
        values = {**(_read_env(file, environ) if file else {}), **environ}
        urls = (options.clickhouse_url, options.connect_url, options.redis_url)
        redact = Redactor.gather(
            environ=values, texts=[*urls, options.postgres_dsn, *options.endpoints.values()]
        )
        return cls(options, values, Deadline.after(options.deadline_seconds), redact, tell)

    def value(self, *names: str, default: str = "") -> str:
        """Return the first of these variables not blank; ``default`` for the single host."""
        own = next(filter(None, map(self.values.get, names)), "")
        return own or ("" if self.options.is_rehearsal else default)

    def _address(self, flag: str, *names: str, form: str, port: tuple[str, int]) -> str:
        usual = form.format(self.values.get(*port))
        return flag or self.value(*names, default=usual)

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address, ``host:port[,host:port]``."""
        flag, form, port = self.options.bootstrap_servers, "127.0.0.1:{}", ("KAFKA_PORT", 9092)
        return self._address(flag, "KAFKA_BOOTSTRAP_SERVERS", form=form, port=port)

    @property
    def clickhouse_url(self) -> str:
        """ClickHouse's HTTP address; user and password go in headers."""
        flag, port = self.options.clickhouse_url, ("CLICKHOUSE_HTTP_PORT", 8123)
        return self._address(flag, "CLICKHOUSE_URL", form="http://127.0.0.1:{}", port=port)

    @property
    def clickhouse(self) -> ClickHouseDoor | None:
        """ClickHouse with its login; None without an address."""
        user = self.values.get("CLICKHOUSE_USER", "quant_hft")
        door = ClickHouseDoor(self.clickhouse_url, user, self.values.get("CLICKHOUSE_PASSWORD", ""))
        return door if door.url else None

    @property
    def connect_url(self) -> str:
        """The base of Kafka Connect's REST interface."""
        flag, port = self.options.connect_url, ("CONNECT_PORT", 8083)
        return self._address(flag, "KAFKA_CONNECT_URL", form="http://127.0.0.1:{}", port=port)

    @property
    def redis_url(self) -> str:
        """Redis' address; the password of the env file is put in where the flag has none."""
        flag, port = self.options.redis_url, ("REDIS_PORT", 6379)
        url = self._address(flag, "REDIS_URL", form="redis://127.0.0.1:{}", port=port)
        scheme, joint, rest = url.partition("://")
        password = self.value("REDIS_PASSWORD")
        if not (password and joint) or "@" in rest:
            return url
        return f"{scheme}://:{quote(password, safe='')}@{rest}"

    @property
    def postgres(self) -> PostgresDoor:
        """PostgreSQL's address; raises ProbeError where there is none to be had."""
        dsn = self._address(
            self.options.postgres_dsn,
            "POSTGRES_DSN",
            "TIMESCALE_DSN",
            form="host=127.0.0.1 port={} dbname=quant_hft user=postgres",
            port=("TIMESCALE_PORT", 5432),
        )
        if not dsn:
            raise ProbeError("no address of PostgreSQL; name it by --postgres-dsn or POSTGRES_DSN")
        return open_door(dsn, values=self.values)

    def infra_files(
        self, *globs: str, says: Callable[[Path], bool] = lambda path: True
    ) -> InfraFiles:
        """Return the files of the first of these patterns below ``infra/`` that has any.

        ``says`` tells of a file whether it says what is looked for.

        An operator's own ``infra/`` here is looked through before the checkout's. Raises RunRefused
        for no file at all, with what was looked for where, and what lies there instead.
        """
        own, usual = self.options.infra, Path("infra")
        looked = [own] if own else [usual, CHECKOUT / usual]
        for root in looked:
            # A folder of such a name is no file; a link to nothing is told by whoever reads it.
            each = (
                tuple(path for path in sorted(root.glob(glob)) if not path.is_dir() and says(path))
                for glob in globs
            )
            there = [files for files in each if files]
            if there:
                folders = dict.fromkeys(files[0].parent for files in there)
                first, *others = folders
                return InfraFiles(there[0], first, tuple(others))
        places = ", ".join(f"{root}/{glob}" for root in looked for glob in globs)
        raise RunRefused(
            f"nothing of what the gate is to make is there: looked for {places}"
            f"{_instead(looked, globs)}; put it in one of these places, or name the folder that has "
            "such a place by --infra"
        )

    def redacted(self, result: GateResult) -> GateResult:
        """Return the result as it may be written down."""
        return replace(result, steps=tuple(self._step(step) for step in result.steps))

    def _step(self, step: GateStep) -> GateStep:
        facts: dict[str, Any] = self.redact.data(dict(step.facts))
        return replace(
            step, facts=facts, reason=self.redact(step.reason), question=self.redact(step.question)
        )


def open_door(dsn: str, *, values: Mapping[str, str]) -> PostgresDoor:
    """Return the door of a DSN with its password from the environment.

    Raises RunRefused for a password in the DSN, and for what is none.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError as error:
        raise RunRefused(f"--postgres-dsn: {error}; expected host=… port=… dbname=…") from error
    if parts.get("password"):
        raise RunRefused(
            "--postgres-dsn: a password in a command line is seen by everybody; leave it out and "
            "set PGPASSWORD, or the env file's TIMESCALE_PASSWORD"
        )
    user = str(parts.get("user", ""))
    names = ("PGPASSWORD", _PASSWORDS.get(user, ""), f"{user.upper()}_PASSWORD")
    password = next(filter(None, map(values.get, names)), "")
    return PostgresDoor(dsn, password, names[1] or names[2])


def _read_env(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    try:
        return read_variables(path, environ=environ)
    except (OSError, ValueError) as error:
        raise RunRefused(f"--env-file {path}: cannot be read: {error}") from error
