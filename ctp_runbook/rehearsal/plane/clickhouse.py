"""ClickHouse: the engine of ``chdb-core`` in a process of its own, behind ClickHouse's HTTP.

One process owns a data directory. What a client may rely on: ``/ping``, a query in the body or
in ``?query=`` (an INSERT's data follows in the body), ``database``, ``default_format``,
``param_*``, users and their errors with ClickHouse's codes and statuses. Settings sent as URL
parameters are accepted and not applied.
"""

from __future__ import annotations

import base64
import gzip
import hmac
import os
import re
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.plane.web import Reply, Request, serve, serve_until_term

__all__ = ["ClickHouse", "answer", "main"]

_FORMAT = re.compile(rb"\s+FORMAT\s+(\w+)\s*;?\s*", re.IGNORECASE)
_INSERT = re.compile(rb"\s*INSERT\s+INTO\s", re.IGNORECASE)
_INLINE = re.compile(rb"\s(VALUES|SELECT)[\s(]", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)")
_TEXT = {"TabSeparated": "text/tab-separated-values; charset=UTF-8"}
# ClickHouse's own choice of status by error code; everything else is 500.
_STATUS = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 43, 44, 46, 47, 53, 62, 69, 130, 386), 400),
    **dict.fromkeys((60, 81, 82), 404),
    **dict.fromkeys((192, 193, 194, 497, 516), 403),
    48: 501,
    159: 408,
}


class ClickHouse:
    """The engine on a directory; one statement at a time."""

    def __init__(self, folder: Path) -> None:
        from chdb import session

        untyped: Any = session
        self._session = untyped.Session(str(folder))
        self._lock = threading.Lock()
        self._database = "default"
        self.version = str(self._session.query("SELECT version()", "TSVRaw")).strip()

    def run(
        self, statement: str, *, database: str, output: str, params: Mapping[str, str]
    ) -> bytes:
        """Run a statement; its output in the format ``output``, where it names none itself."""
        with self._lock:
            self._use(database)
            result = self._session.query(statement, output, params=dict(params) or None)
            return result.bytes() or b""

    def insert(self, statement: str, *, database: str, form: str, data: bytes) -> int:
        """Insert ``data`` in format ``form`` (the statement without its FORMAT); rows written."""
        with self._lock:
            self._use(database)
            with self._session.send_insert(statement, form) as stream:
                stream.append(data)
                return int(stream.finish().rows_written)

    def _use(self, database: str) -> None:
        if database != self._database:
            self._session.query(f"USE `{database.replace('`', '')}`")
            self._database = database

    def close(self) -> None:
        """Flush and close."""
        with self._lock:
            self._session.close()


def answer(engine: ClickHouse, request: Request, *, user: str, password: str) -> Reply:
    """Answer as ClickHouse's HTTP interface does."""
    if request.path == "/ping":
        return Reply(body=b"Ok.\n", content_type="text/html; charset=UTF-8")
    if request.path not in ("/", "/query"):
        text = f"There is no handle {request.path}\n"
        return Reply(404, text.encode(), "text/plain; charset=UTF-8")
    name, secret = _given(request)
    if name != user or not hmac.compare_digest(secret.encode(), password.encode()):
        text = (
            f"Code: 516. DB::Exception: {name}: Authentication failed: password is incorrect, or "
            "there is no user with such name. (AUTHENTICATION_FAILED)"
        )
        return _refusal(engine, text)
    try:
        return _answer_query(engine, request)
    except (RuntimeError, ValueError) as error:  # ChdbError is a RuntimeError
        return _refusal(engine, str(error))


def _given(request: Request) -> tuple[str, str]:
    """User and password as any of the three ways gave them."""
    basic = request.headers.get("authorization", "")
    if basic.lower().startswith("basic "):
        name, _, secret = base64.b64decode(basic[6:]).decode("utf-8", "replace").partition(":")
        return name, secret
    headers, query = request.headers, request.query
    name = headers.get("x-clickhouse-user") or query.get("user") or "default"
    return name, headers.get("x-clickhouse-key") or query.get("password") or ""


def _answer_query(engine: ClickHouse, request: Request) -> Reply:
    text, body = request.query.get("query", "").encode(), _unpacked(request)
    database = request.query.get("database", "default")
    if not text:
        text, body = body, b""  # an INSERT's data stands behind its FORMAT then
    elif body and not _INSERT.match(text):
        text, body = text + b"\n" + body, b""
    if not text.strip():
        return _refusal(engine, "Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
    written = 0
    form = _FORMAT.search(text)
    if _INSERT.match(text) and form and not _INLINE.search(text[: form.start()]):
        data = text[form.end() :] + body
        statement = text[: form.start()].decode()
        written = engine.insert(statement, database=database, form=form[1].decode(), data=data)
        out, output = b"", "TabSeparated"
    else:
        default = request.query.get("default_format", "TabSeparated")
        output = form[1].decode() if form else default
        named = [item for item in request.query.items() if item[0].startswith("param_")]
        params = {key.removeprefix("param_"): value for key, value in named}
        out = engine.run(text.decode(), database=database, output=output, params=params)
    return Reply(
        200, out, _TEXT.get(output, "text/plain; charset=UTF-8"), _headers(output, written)
    )


def _unpacked(request: Request) -> bytes:
    match request.headers.get("content-encoding", "").lower():
        case "gzip":
            return gzip.decompress(request.body)
        case "lz4":  # what clickhouse-connect sends, and brings along
            import lz4.frame

            return bytes(lz4.frame.decompress(request.body))
        case "" | "identity":
            return request.body
        case other:
            raise ValueError(
                f"Code: 474. DB::Exception: Unknown HTTP content encoding method: {other}. "
                "(UNKNOWN_COMPRESSION_METHOD)"
            )


def _headers(output: str, written: int) -> dict[str, str]:
    return {
        "X-ClickHouse-Query-Id": str(uuid.uuid4()),
        "X-ClickHouse-Format": output,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "twin",
        "X-ClickHouse-Summary": f'{{"written_rows":"{written}"}}',
    }


def _refusal(engine: ClickHouse, text: str) -> Reply:
    named = _CODE.search(text)
    code = int(named[1]) if named else 1000
    body = f"{text.strip()} (version {engine.version})\n".encode()
    headers = {"X-ClickHouse-Exception-Code": str(code)}
    return Reply(_STATUS.get(code, 500), body, "text/plain; charset=UTF-8", headers)


def main() -> None:
    """Serve a plane's ClickHouse until TERM."""
    plane = Plane.of_command_line()
    # The engine's own scratch: killed, it leaves that behind, and so it goes with the plane.
    scratch = plane.home("clickhouse-scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(scratch)
    engine = ClickHouse(plane.home("clickhouse"))
    password = plane.credentials().clickhouse

    def handle(request: Request) -> Reply:
        return answer(engine, request, user="quant_hft", password=password)

    server = serve(plane.port("clickhouse"), handle, name="ClickHouse")
    print(f"ClickHouse {engine.version} serves {plane.url('clickhouse')}", flush=True)
    serve_until_term(server)
    engine.close()


if __name__ == "__main__":
    main()
