"""What the tasks of one gate share: its flags, addresses, secrets, deadline, and where to tell.

An address is looked for in the flags, then in the environment, then in the env file, and for the
single host at its loopback port. A password is never in a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.deadline import Deadline
from ctp_runbook.gates.gate import GateOptions, GateResult, GateStep
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.redact import Redactor

__all__ = ["GateContext", "open_door"]

_ENV_FILE = Path("infra/env/prodlike.env")


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
        """The context of a gate that begins now; raises RunRefused for an env file not there."""
        file = options.env_file
        if file is None and not options.is_rehearsal and _ENV_FILE.is_file():
            file = _ENV_FILE
        values = {**(_read_env(file) if file else {}), **environ}
        urls = (options.clickhouse_url, options.connect_url, options.redis_url)
        redact = Redactor.gather(
            environ=values, texts=[*urls, options.postgres_dsn, *options.endpoints.values()]
        )
        return cls(options, values, Deadline.after(options.deadline_seconds), redact, tell)

    def value(self, *names: str, default: str = "") -> str:
        """The first of these variables that is not blank; ``default`` for the single host."""
        for name in names:
            if self.values.get(name):
                return self.values[name]
        return "" if self.options.is_rehearsal else default

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address, ``host:port[,host:port]``."""
        port = self.values.get("KAFKA_PORT", "9092")
        given = self.options.bootstrap_servers
        return given or self.value("KAFKA_BOOTSTRAP_SERVERS", default=f"127.0.0.1:{port}")

    @property
    def clickhouse_url(self) -> str:
        """ClickHouse's HTTP address, with user and password where they are not in the flag."""
        port = self.values.get("CLICKHOUSE_HTTP_PORT", "8123")
        given = self.options.clickhouse_url
        return given or self.value("CLICKHOUSE_URL", default=f"http://127.0.0.1:{port}")

    @property
    def connect_url(self) -> str:
        """The base of Kafka Connect's REST interface."""
        port = self.values.get("CONNECT_PORT", "8083")
        given = self.options.connect_url
        return given or self.value("KAFKA_CONNECT_URL", default=f"http://127.0.0.1:{port}")

    @property
    def redis_url(self) -> str:
        """Redis' address; the password of the env file is put in where the flag has none."""
        port = self.values.get("REDIS_PORT", "6379")
        given = self.options.redis_url
        url = given or self.value("REDIS_URL", default=f"redis://127.0.0.1:{port}")
        return _with_password(url, self.value("REDIS_PASSWORD"))

    @property
    def postgres(self) -> PostgresDoor:
        """PostgreSQL's address; raises ProbeError where there is none to be had."""
        port = self.values.get("TIMESCALE_PORT", "5432")
        default = f"host=127.0.0.1 port={port} dbname=quant_hft user=postgres"
        given = self.options.postgres_dsn
        dsn = given or self.value("POSTGRES_DSN", "TIMESCALE_DSN", default=default)
        if not dsn:
            raise ProbeError("no address of PostgreSQL; name it by --postgres-dsn or POSTGRES_DSN")
        return open_door(dsn, values=self.values)

    @property
    def clickhouse_login(self) -> tuple[str, str]:
        """ClickHouse's user and password."""
        user = self.values.get("CLICKHOUSE_USER", "quant_hft")
        return user, self.values.get("CLICKHOUSE_PASSWORD", "")

    def infra(self, part: str) -> Path:
        """A file or folder of ``infra/`` here, else of the checkout."""
        roots = [self.options.infra] if self.options.infra else [Path("infra"), _CHECKOUT / "infra"]
        for root in roots:
            if (root / part).exists():
                return root / part
        tried = ", ".join(str(root / part) for root in roots)
        raise RunRefused(f"no {tried}; run in a checkout, or name its infra folder by --infra")

    def redacted(self, result: GateResult) -> GateResult:
        """The result as it may be written down."""
        return replace(result, steps=tuple(self._step(step) for step in result.steps))

    def _step(self, step: GateStep) -> GateStep:
        facts: dict[str, Any] = self.redact.data(dict(step.facts))
        return replace(
            step, facts=facts, reason=self.redact(step.reason), question=self.redact(step.question)
        )


_CHECKOUT = Path(__file__).resolve().parents[2]


# The env file's name for the password of each role of infra/timescale.
_PASSWORDS = {
    "postgres": "TIMESCALE_PASSWORD",
    "debezium": "DEBEZIUM_PASSWORD",
    "quant_hft": "ENGINE_DB_PASSWORD",
    "quant_hft_monitor": "MONITOR_PASSWORD",
}


def open_door(dsn: str, *, values: Mapping[str, str]) -> PostgresDoor:
    """The door of a DSN with its password from the environment; RunRefused for one in the DSN."""
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
    found = next((values[name] for name in names if values.get(name)), "")
    return PostgresDoor(dsn, found, names[1] or names[2])


def _with_password(url: str, password: str) -> str:
    from urllib.parse import quote

    scheme, found, rest = url.partition("://")
    if not (password and found) or "@" in rest:
        return url
    return f"{scheme}://:{quote(password, safe='')}@{rest}"


def _read_env(path: Path) -> dict[str, str]:
    try:
        return read_variables(path)
    except (OSError, ValueError) as error:
        raise RunRefused(f"--env-file {path}: cannot be read: {error}") from error
