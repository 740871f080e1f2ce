"""The panel of a notebook that follows a run: how it stands, and to hold, resume, abort, roll back.

It is made of widgets, whose state the kernel keeps: a page that was closed, or loaded anew, is handed the
panel as it is now while the cell awaits the run, and its buttons are heard. A front end that hands a click
over when the cell has ended finds the buttons closed: a decision that comes late is another decision.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any, ClassVar

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.requests import answer_to
from ctp_runbook.run.steer import steer
from ctp_runbook.show.blocks import Banner, Page

__all__ = ["HEADLESS_VARIABLE", "Controls", "is_person_there"]

HEADLESS_VARIABLE = "CTP_RUNBOOK_HEADLESS"
_WIDGET = "application/vnd.jupyter.widget-view+json"
# As they stand beside each other: what is asked, the word on the button, and its colour.
_BUTTONS: Mapping[str, tuple[str, str]] = {
    "hold": ("Hold", "info"),
    "resume": ("Resume", "success"),
    "abort": ("Abort", "warning"),
    "rollback": ("Roll back", "danger"),
}


def is_person_there() -> bool:
    """True in a front end whose reader can be asked something: JupyterLab, and never papermill."""
    if os.environ.get(HEADLESS_VARIABLE):
        return False
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    # Whoever executes notebooks unattended says with every cell that nobody answers a question.
    request = kernel.get_parent("shell") or {}
    return bool(request.get("content", {}).get("allow_stdin"))


class Controls:
    """Buttons that ask something of a run, each for a reason and with the environment typed in.

    They are made of what the run stands at; ``show`` says that it stands elsewhere, and ``tell`` is what
    is read below them.
    """

    # What a page that was opened again shows of panels whose cells have ended.
    _left: ClassVar[list[Any]] = []

    def __init__(self, run: RunDir, history: History) -> None:
        import ipywidgets

        self._run, self._environment = run, history.plan.environment
        self._is_open, self._asking = True, threading.Lock()
        self._history = history
        wide = ipywidgets.Layout(width="46%", min_width="220px")
        # Told when the field is left, not letter by letter: half a word confirms nothing.
        look: dict[str, Any] = {"continuous_update": False, "layout": wide}
        self.reason = ipywidgets.Text(placeholder="Reason, for the record", **look)
        self.typed = ipywidgets.Text(placeholder=f"Type {self._environment} to confirm", **look)
        self.said, self.told, self.drawn = (ipywidgets.HTML() for _ in range(3))
        self.buttons = {
            request: ipywidgets.Button(description=word, button_style=style)
            for request, (word, style) in _BUTTONS.items()
        }
        for request, button in self.buttons.items():
            button.on_click(lambda _, request=request: self._clicked(request))
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.reason, self.typed]),
                ipywidgets.HBox(list(self.buttons.values())),
                self.said,
                self.told,
                self.drawn,
            ]
        )
        for widget in (self.reason, self.typed, *self.buttons.values()):
            # ipykernel hands what a widget is told to the shell that used the widget last, the main one;
            # the front end chose a subshell, which hears it also where the main one draws a picture.
            widget.comm._reply_subshell_for = None
        self._handle: Any = None
        self.show(history)

    def display(self) -> None:
        """Put them into the cell's output. Who opens the saved file reads the commands instead."""
        from IPython.display import display

        while self._left:
            self._left.pop().close()
        otherwise = Banner(
            "info",
            "Saved while this cell followed its run",
            f"`ctp-runbook status --run {self._run.path}` says how it stands now; in its place `hold`, "
            "`resume`, `abort` or `rollback` steers it",
        )
        data = {
            **self.box._repr_mimebundle_(),
            "text/html": otherwise.html,
            "text/plain": otherwise.text,
        }
        self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def show(self, history: History) -> None:
        """Let those be pressed which the run would obey, and say what each would come to."""
        self._history = history
        for request, button in self.buttons.items():
            answer = answer_to(request, history)
            is_off = history.closed is not None or not answer.obeyed
            if (button.disabled, button.tooltip) != (is_off, answer.sentence):
                button.disabled, button.tooltip = is_off, answer.sentence

    def tell(self, page: Page, drawn: Page) -> None:
        """Say below them how the run stands; ``drawn`` are the pictures, which change less often."""
        for widget, shown in ((self.told, page), (self.drawn, drawn)):
            html = f"<div style='line-height:1.35'>{shown.html}</div>"
            if widget.value != html:
                widget.value = html

    def close(self) -> None:
        """Take them away; a click that is still under way does nothing.

        A page that was opened again meanwhile is not told what the cell ends with: it keeps a line.
        """
        self._is_open = False
        if self._handle is not None:
            self._handle.update(Page([], run_dir=str(self._run.path)))
        over = Banner("info", "This cell has ended", "run it again (Shift+Enter) for its page")
        with contextlib.suppress(OSError):  # the front end is gone already
            self.told.value = over.html
            self.box.children = (self.told,)
        self._left.extend((self.told, self.box))
        for widget in (self.reason, self.typed, self.said, self.drawn, *self.buttons.values()):
            with contextlib.suppress(OSError):
                widget.close()

    def _clicked(self, request: str) -> None:
        """Ask in a thread: an answer takes a while, and the kernel has a page to keep moving."""
        asking = threading.Thread(target=copy_context().run, args=(self.ask, request), daemon=True)
        asking.start()

    def ask(self, request: str) -> None:
        """Ask ``request`` of the run, once, where a reason and the environment are given."""
        if not self._is_open or not self._asking.acquire(blocking=False):
            return
        try:
            banner = self._asked(request)
            if self._is_open:
                self.said.value = banner.html
        finally:
            self._asking.release()

    def _asked(self, request: str) -> Banner:
        reason, typed = self.reason.value.strip(), self.typed.value.strip()
        word, _ = _BUTTONS[request]
        if not reason:
            return Banner("warn", f"{word}: not asked", "give a reason: the record keeps it")
        if typed != self._environment:
            sentence = (
                f"typed {typed!r}; expected {self._environment!r}: nothing was asked of the run"
            )
            return Banner("warn", f"{word}: not asked", sentence)
        # A second click is a second decision, and is to be confirmed as such.
        self.reason.value = self.typed.value = ""
        self.said.value = Banner("info", f"{word}: asked", "waiting for the answer").html
        try:
            steered = steer(self._run, request, reason=reason)
        except (RunbookError, OSError) as error:
            return Banner("bad", f"{word}: refused", str(error))
        kind = "good" if steered.exit_code == 0 else "bad"
        # It stays until the next click, whatever others ask of the run meanwhile.
        return Banner(kind, f"{word}: asked at {datetime.now(UTC):%H:%M:%S}Z", steered.sentence)
