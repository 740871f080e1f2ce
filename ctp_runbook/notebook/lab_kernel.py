"""The kernel of a lab: it answers a page also while one of its cells awaits a run.

ipykernel hands a message for a widget to a cell that awaits, and says neither that it began nor that it
ended: a field that was typed in twice would be told of once. Whoever asks what the kernel is, or which
widgets it has, waits for the cell. A page that was opened again asks all of that, and gives up after 4 s.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

from ipykernel.ipkernel import IPythonKernel

__all__ = ["KERNEL_CLASS", "LabKernel"]

KERNEL_CLASS = f"{__name__}.LabKernel"
_BESIDE_A_CELL = (
    *("kernel_info_request", "comm_info_request"),
    *("comm_open", "comm_msg", "comm_close"),
)


class LabKernel(IPythonKernel):
    """IPythonKernel, whose cells that await keep no page waiting."""

    async def shell_main(self, subshell_id: str | None, msg: Any) -> None:
        """Answer what a page asks beside a cell at once; ipykernel's signature."""
        asked = self._asked_beside_a_cell(msg) if subshell_id is None else None
        if asked is None:
            await super().shell_main(subshell_id, msg)
            return
        kernel: Any = self  # untyped in ipykernel
        cell = kernel.get_parent("shell")
        of_cell = kernel._get_shell_context_var(kernel._shell_parent_ident)
        answering = kernel.dispatch_shell(msg, subshell_id=None, concurrent=True)
        kernel._publish_status("busy", "shell", asked)
        try:
            await asyncio.create_task(answering, context=copy_context())
        finally:
            kernel.set_parent(of_cell, cell, channel="shell")
            kernel._publish_status("idle", "shell", asked)
            # Whoever asked is answered, and the cell goes on.
            kernel._publish_status("busy", "shell", cell)

    def _asked_beside_a_cell(self, msg: Any) -> Any:
        """The message, without its content, if it is one that a cell need not be waited for."""
        if not self._main_asyncio_lock.locked() or self.session is None:
            return None
        try:
            _, frames = self.session.feed_identities(msg, copy=False)
            message = self.session.deserialize(frames, content=False, copy=False)
        except (ValueError, LookupError, TypeError):  # ipykernel says what is wrong with it
            return None
        return message if message["header"]["msg_type"] in _BESIDE_A_CELL else None
