"""The kernel of a lab, as the process that JupyterLab would start: what it answers beside a cell that awaits."""

from __future__ import annotations

import json
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from ctp_runbook.notebook.lab import lab_copy
from ctp_runbook.notebook.lab_kernel import KERNEL_CLASS

pytestmark = pytest.mark.twin

PATIENCE_SECONDS = 60.0
FOLLOW = """
import asyncio, ipywidgets
field, over = ipywidgets.Text(), asyncio.Event()
field.observe(lambda change: change["new"] == "enough" and over.set(), "value")
print(field.model_id, flush=True)
await over.wait()
"""
ASK = """
from ctp_runbook.errors import RunRefused
from ctp_runbook.notebook.phases import _ask
async def ask():
    try:
        _ask("Type it: ")
    except RunRefused as error:
        print(error)
print("asking", flush=True)
await ask()
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[BlockingKernelClient]:
    """A client of a kernel that was started as a lab has it started."""
    specs = lab_copy(tmp_path, parameters={}) / ".lab" / "share" / "kernels"
    known = KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False)
    with tempfile.TemporaryDirectory() as room:  # a socket's path is a short one
        yield from started(
            KernelManager(
                kernel_spec_manager=known, transport="ipc", connection_file=f"{room}/kernel.json"
            ),
            cwd=tmp_path,
        )


def started(manager: KernelManager, *, cwd: Path) -> Iterator[BlockingKernelClient]:
    """A client of its kernel, which is ended with it."""
    manager.start_kernel(cwd=str(cwd))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_SECONDS)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def printed(client: BlockingKernelClient, words: str = "") -> str:
    """The next thing that is printed, with ``words`` in it."""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE_SECONDS)
        if message["msg_type"] == "stream" and words in message["content"]["text"]:
            return str(message["content"]["text"]).strip()


def tell(client: BlockingKernelClient, kind: str, content: dict[str, Any]) -> str:
    """Send what a page sends; its id."""
    message = client.session.msg(kind, content)
    client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


def statuses_until(client: BlockingKernelClient, last: str) -> list[tuple[str, str]]:
    """What the kernel says of itself, and to whom, until it is idle for ``last`` and busy again."""
    told: list[tuple[str, str]] = []
    while (last, "idle") not in told or told[-1][1] != "busy":
        message = client.get_iopub_msg(timeout=PATIENCE_SECONDS)
        if message["msg_type"] == "status":
            told.append((message["parent_header"]["msg_id"], message["content"]["execution_state"]))
    return told


def answer(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    """The reply to a request."""
    while True:
        message = client.get_shell_msg(timeout=PATIENCE_SECONDS)
        if message["parent_header"]["msg_id"] == asked:
            return dict(message)


def test_a_page_is_answered_while_a_cell_awaits(client: BlockingKernelClient) -> None:
    """What the kernel is, which widgets it has, and what is typed, more than once; each is begun and ended
    on record, and the cell is busy again afterwards. Another cell waits for its turn."""
    cell = client.execute(FOLLOW)
    widget = printed(client)
    later = client.execute("print('later', flush=True)")
    about = client.kernel_info()
    assert answer(client, about)["content"]["status"] == "ok"
    assert (cell, "busy") in statuses_until(client, about)
    assert widget in answer(client, client.comm_info())["content"]["comms"]
    for value in ("not", "yet"):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        told = tell(client, "comm_msg", {"comm_id": widget, "data": data})
        assert (told, "busy") in statuses_until(client, told)
    with pytest.raises(queue.Empty):
        client.get_shell_msg(timeout=0.1)
    data = {"method": "update", "state": {"value": "enough"}, "buffer_paths": []}
    tell(client, "comm_msg", {"comm_id": widget, "data": data})
    assert answer(client, cell)["content"]["status"] == "ok"
    assert answer(client, later)["content"]["status"] == "ok"


def test_a_cell_that_awaits_is_interrupted(client: BlockingKernelClient) -> None:
    """By the button of JupyterLab: the phase is told, as of a Ctrl-C."""
    code = """
from ctp_runbook.notebook.progress import Waiting
def looks():
    print("looking", flush=True)
    try:
        while True:
            yield 0.05
    except KeyboardInterrupt:
        return "detached"
await Waiting(looks).live()
"""
    cell = client.execute(code)
    printed(client, "looking")
    interrupt(client)
    assert answer(client, cell)["content"]["status"] == "ok"
    while (message := client.get_iopub_msg(timeout=PATIENCE_SECONDS))[
        "msg_type"
    ] != "execute_result":
        continue
    assert message["content"]["data"]["text/plain"] == "'detached'"


def test_a_question_of_a_cell_that_awaits_is_interrupted(client: BlockingKernelClient) -> None:
    """Nobody has to type something first."""
    cell = client.execute(ASK, allow_stdin=True)
    printed(client, "asking")
    client.get_stdin_msg(timeout=PATIENCE_SECONDS)
    interrupt(client)
    assert answer(client, cell)["content"]["status"] == "ok"
    assert "interrupted before anything was typed" in printed(client, "typed")


def interrupt(client: BlockingKernelClient) -> None:
    """As JupyterLab does it."""
    assert client.parent is not None
    client.parent.interrupt_kernel()


def test_a_lab_starts_this_kernel(tmp_path: Path) -> None:
    """Under the name that every notebook asks for."""
    (path,) = lab_copy(tmp_path, parameters={}).glob(".lab/share/kernels/python3/kernel.json")
    assert f"--IPKernelApp.kernel_class={KERNEL_CLASS}" in json.loads(path.read_text())["argv"]
