"""Facts about rehearsal/plane/supervisor.py: what did not come up is told, with a log that is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.plane import supervisor
from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.plane.parts import Part


def test_a_part_that_never_began_has_a_log(tmp_path: Path) -> None:
    """Its preparation failed three times: the reason is in the sentence, and in the log it names."""
    plane = Plane(tmp_path)
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()

    def prepare(plane: Plane) -> None:
        raise RunbookError("initdb failed: libpq.so.5 is not to be read")

    part = Part("postgres", lambda plane: [], lambda plane: None, prepare=prepare)
    tender = supervisor.Supervisor(plane)
    asyncio.run(tender._tend(supervisor._Tended(part)))
    state = plane.state().parts["postgres"]
    assert state.state == "failed"
    assert "3 ends within 60 s; it is left as it is; did not come up: initdb" in state.sentence
    log = Path(state.sentence.rpartition("see ")[2])
    assert log.read_text().count("libpq.so.5 is not to be read") == 3
