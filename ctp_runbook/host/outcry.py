"""How a process calls for a person: the terminal, syslog, a page that takes JSON."""

from __future__ import annotations

import contextlib
import sys
import syslog
from collections.abc import Mapping

__all__ = ["cry_out", "post_json"]


def cry_out(sentence: str) -> None:
    """Say what must not be missed, to syslog and on the terminal, whatever of both works."""
    syslog.syslog(syslog.LOG_CRIT, f"ctp-runbook: {sentence}")
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def post_json(url: str, facts: Mapping[str, str], *, seconds: float) -> str:
    """POST ``facts`` as JSON; return why they were not taken within ``seconds``, or nothing."""
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    body = json.dumps(dict(facts)).encode()
    try:
        request = Request(url, data=body, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=seconds) as answer:
            return "" if 200 <= answer.status < 300 else f"HTTP {answer.status}"
    except HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"not delivered: {getattr(error, 'reason', error)}"
