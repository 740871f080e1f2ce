"""Facts about rehearsal/process.py: what was begun is ended, as often as it must be told."""

from __future__ import annotations

import asyncio
import contextlib

from ctp_runbook.rehearsal.process import end_tasks


async def _deaf(times: int, heard: list[int]) -> None:
    """Swallow so many cancellations, as ``wait_for`` of Python 3.11 may."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        heard.append(1)
        if len(heard) > times:
            raise asyncio.CancelledError


async def _fails() -> None:
    raise ValueError("told already")


def test_tasks_are_cancelled_until_they_have_ended() -> None:
    """One that swallows it, one that ends at once, one that has failed."""
    heard: list[int] = []

    async def run() -> list[bool]:
        work = (_deaf(2, heard), asyncio.sleep(60), _fails())
        tasks = [asyncio.create_task(each) for each in work]
        await asyncio.sleep(0)
        await end_tasks(tasks)
        return [task.done() for task in tasks]

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [True] * 3
    assert len(heard) == 3


def test_nobody_to_end_is_no_wait() -> None:
    """Nothing was begun."""
    asyncio.run(asyncio.wait_for(end_tasks([]), 20))
