"""Talk to a running front: ask how it is, or make it misbehave.

Without asyncio, so that a fault can be injected from anywhere at no cost.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.protocol import Message, decode, encode, read_ports

__all__ = ["front_control"]

_TIMEOUT_SECONDS = 3.0


def front_control(front_dir: Path, **faults: Any) -> Message:
    """Apply ``faults`` (the fields of ``FaultOrder``) and return the front's state.

    With no faults it only reports: ``sessions``, ``lingering``, ``armed``, ``attempts_left``,
    ``orders``, ``working``, ``trades``, ``max_order_ref``. Raises RunbookError when the front
    cannot be reached or refuses.
    """
    port = int(read_ports(front_dir)["control"])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as line:
            line.sendall(encode({"faults": faults}))
            with line.makefile("rb") as stream:
                answer = decode(stream.readline())
    except OSError as error:
        raise RunbookError(f"the front's control port {port} does not answer: {error}") from error
    if not answer.pop("ok"):
        raise RunbookError(f"the front refused {faults}: {answer['error']}")
    return answer
