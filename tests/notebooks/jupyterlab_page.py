"""JupyterLab as a person uses it: the page in a real browser, its menus and its keyboard."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Request, expect, sync_playwright
from playwright.sync_api import TimeoutError as PageTimeoutError

__all__ = ["ALONE", "Lab", "address", "blank_page", "browse", "patient", "processes_of"]

# Without these Chromium asks hosts of its maker for updates, time and field trials.
ALONE = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SLOW_MS = 90_000.0
_TRIES, _TRY_SECONDS = 3, 20.0
_UNFINISHED = re.compile(r"\[[ *]\]")
_KERNEL_KNOWN = re.compile(r"\| (Idle|Busy)")


@contextmanager
def blank_page(browser: str, *, height: int) -> Iterator[Page]:
    """A page as wide as a laptop's, for files."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, chromium_sandbox=False, args=list(ALONE)
        )
        try:
            yield chromium.new_page(viewport={"width": 1280, "height": height})
        finally:
            chromium.close()


def patient(browser: str, *, folder: Path) -> str:
    """The browser, made to wait for everybody else on the machine: a twin has latencies to keep."""
    path = folder / "patient-browser"
    path.write_text(f'#!/bin/sh\nexec nice -n 15 {shlex.quote(browser)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """What the log says where to go."""
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", log.read_text()):
            return found[0]
        time.sleep(0.1)
    return pytest.fail(f"no JupyterLab: {log.read_text()}")


def processes_of(outputs: Path) -> dict[int, str]:
    """Command lines, by pid, of all processes that were started for these outputs."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if int(entry.name) != os.getpid() and os.fsencode(outputs) in told:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


@contextmanager
def browse(
    url: str, *, browser: str, pictures: Path, size: tuple[int, int] = (1440, 1240)
) -> Iterator[Lab]:
    """A browser on ``url``; it has no sandbox of its own, for tests run as root too."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, chromium_sandbox=False, args=list(ALONE)
        )
        width, height = size
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(_SLOW_MS)
        lab = Lab(page, pictures, url=url)
        page.on("request", lab.note)
        try:
            page.goto(url)
            lab.wait_for_kernel()
            yield lab
        except BaseException:
            lab.photograph("failed-here")
            raise
        finally:
            chromium.close()


class Lab:
    """The page. ``elsewhere`` are the addresses it asked that were not this host's."""

    def __init__(self, page: Page, pictures: Path, *, url: str, taken: int = 0) -> None:
        self.page = page
        self._url = url
        self.elsewhere: list[str] = []
        self._pictures = pictures
        self._taken = taken
        # Of a page that was loaded while the one before it still saved: either is right (00_start).
        strange = page.locator(".jp-Dialog", has_text="has changed on disk since")
        overwrite = strange.locator("button", has_text="Overwrite")
        page.add_locator_handler(strange, lambda: overwrite.click())
        # Of a tab that was closed while it still saved: what it had was saved on closing.
        failed = page.locator(".jp-Dialog", has_text="File Save Error")
        dismiss = failed.locator("button.jp-mod-accept")
        page.add_locator_handler(failed, lambda: dismiss.click())

    def note(self, request: Request) -> None:
        """Remember requests that leave the host."""
        if not re.match(r"https?://127\.0\.0\.1:|data:|blob:", request.url):
            self.elsewhere.append(request.url)

    @property
    def notebook(self) -> Locator:
        """The notebook in front."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    @property
    def output(self) -> str:
        """Everything its cells have put out, as it reads."""
        areas = self.notebook.locator(".jp-OutputArea-output")
        return "\n".join(areas.all_inner_texts())

    @property
    def _prompts(self) -> Locator:
        """``[3]:`` for a cell that ran, ``[*]:`` for one that runs or waits, ``[ ]:`` for neither."""
        return self.notebook.locator(".jp-CodeCell .jp-InputArea-prompt")

    @property
    def _dirty(self) -> Locator:
        """The tab in front, as long as it is not saved."""
        return self.page.locator(".lm-DockPanel-tabBar .lm-mod-current.jp-mod-dirty")

    @property
    def question(self) -> Locator:
        """Where an answer is to be typed."""
        return self.notebook.locator(".jp-Stdin-input")

    def open(self, name: str) -> None:
        """Double-click a notebook in the file browser; its kernel is there on return."""
        row = self.page.locator(".jp-DirListing-item", has_text=name).first
        for _ in range(_TRIES):
            row.dblclick()
            # The list is drawn anew now and then, and one click of the two may meet another row.
            with suppress(PageTimeoutError):
                self.wait_for_tab(name, seconds=_TRY_SECONDS)
                break
        self.wait_for_tab(name)
        self.wait_for_kernel()

    def wait_for_tab(self, name: str, *, seconds: float | None = None) -> None:
        """Until a notebook is in front; for so long, or as long as the page waits for all."""
        tab = self.page.locator(".lm-TabBar-tab.lm-mod-current", has_text=name).first
        tab.wait_for(timeout=None if seconds is None else seconds * 1000)

    def wait_for_kernel(self) -> None:
        """Until the notebook is drawn and its kernel has said how it is."""
        self.notebook.locator(".jp-CodeCell").first.wait_for()
        self.page.locator("#jp-main-statusbar", has_text=_KERNEL_KNOWN).wait_for()

    def close_tab(self) -> None:
        """Close the notebook in front, saved as it is now; its kernel goes on."""
        tabs = self.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab")
        save = self.page.locator(".jp-Dialog button.jp-mod-accept").last
        before = tabs.count()
        tabs.and_(self.page.locator(".lm-mod-current")).locator(".lm-TabBar-tabCloseIcon").click()
        end = time.monotonic() + 20
        while tabs.count() == before and time.monotonic() < end:
            if save.is_visible():  # a live page is never wholly saved
                with suppress(PageTimeoutError):  # it was the other question, which is answered
                    save.click(timeout=2_000)
            self.page.wait_for_timeout(100)

    def follow(self, word: str) -> None:
        """Click a link among the outputs that leads to a notebook; its kernel is there on return."""
        self.notebook.locator(".jp-OutputArea-output a", has_text=word).last.click()
        self.wait_for_tab(word)
        self.wait_for_kernel()

    @contextmanager
    def another(self) -> Iterator[Lab]:
        """A second person: a browser of their own, on the page that a lab opens with."""
        browser = self.page.context.browser
        assert browser is not None
        context = browser.new_context(viewport=self.page.viewport_size)
        try:
            page = context.new_page()
            page.set_default_timeout(_SLOW_MS)
            other = Lab(page, self._pictures, url=self._url, taken=20)
            page.goto(self._url)
            # JupyterLab first puts up the tabs of whoever was here before, and the page asked for last.
            other.wait_for_tab("00_start")
            other.wait_for_kernel()
            yield other
        finally:
            context.close()

    def reload(self) -> None:
        """The browser's reload; the same notebook is in front again, and its kernel is there: to start
        one again while the page still connects to it, JupyterLab loses what it is told next.

        A page looks for a widget each 100 ms, gives up after 2 s, and never looks again where the
        widgets came between its last look and its giving up: then it is reloaded once more.
        """
        cells = self._prompts.count()
        outputs = self.notebook.locator(".jp-OutputArea-output")
        for _ in range(2):
            self._dirty.wait_for(state="detached")
            self.page.reload()
            expect(self._prompts).to_have_count(cells, timeout=_SLOW_MS)
            self.wait_for_kernel()
            self.page.wait_for_timeout(500)
            outputs.filter(has_text="Loading widget").first.wait_for(state="detached")
            if not outputs.filter(has_text="Error displaying widget").count():
                return

    def choose(self, menu: str, command: str) -> None:
        """A command of a menu, by its JupyterLab id."""
        self.page.locator("#jp-MainMenu .lm-MenuBar-item", has_text=menu).first.click()
        self.page.locator(f'.lm-Menu-item[data-command="{command}"]').click()

    def run_all(self) -> None:
        """Run ▸ Run All Cells; once more where JupyterLab, just loaded, forgot it was told."""
        for patience in (5_000, 15_000, 30_000):
            self.choose("Run", "runmenu:run-all")
            try:
                expect(self._prompts.filter(has_text="[ ]")).to_have_count(0, timeout=patience)
            except AssertionError:
                continue
            return

    def restart_and_run_all(self) -> None:
        """Kernel ▸ Restart Kernel and Run All Cells, confirmed."""
        self.choose("Kernel", "runmenu:restart-and-run-all")
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()

    def wait_until_run(self, *, seconds: float = 0.0) -> None:
        """Until every cell has a number; ``seconds`` is what the work itself takes."""
        timeout = _SLOW_MS + seconds * 1000
        expect(self._prompts.filter(has_text=_UNFINISHED)).to_have_count(0, timeout=timeout)

    def save(self) -> None:
        """File ▸ Save, between two autosaves: JupyterLab takes one of its own saves for a stranger's
        when a second begins before it is done, and asks who is right."""
        self._dirty.wait_for(state="detached")
        self.choose("File", "docmanager:save")

    @property
    def panel(self) -> Locator:
        """What stands below the buttons, as the kernel has it now."""
        return self.notebook.locator(".widget-html", has_text="at ").last

    def button(self, word: str) -> Locator:
        """A button of the panel."""
        return self.notebook.locator(".jupyter-button", has_text=word)

    def press(self, word: str, *, reason: str, confirm: str) -> None:
        """Fill in the panel's two fields and press one of its buttons."""
        self.notebook.get_by_placeholder("Reason, for the record").fill(reason)
        self.notebook.get_by_placeholder(re.compile("^Type .* to confirm$")).fill(confirm)
        self.button(word).click()

    def answer(self, word: str) -> None:
        """Type an answer where one is asked for."""
        self.question.fill(word)
        self.question.press("Enter")

    def theme(self, name: str) -> None:
        """Settings ▸ Theme."""
        self.page.locator("#jp-MainMenu .lm-MenuBar-item", has_text="Settings").first.click()
        self.page.locator(".lm-Menu-item", has_text="Theme").first.hover()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).click()
        light = "true" if "Light" in name else "false"
        self.page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def photograph(self, name: str) -> None:
        """A picture of what a person sees now, numbered in the order taken."""
        self._taken += 1
        self.page.screenshot(path=self._pictures / f"{self._taken:02d}-{name}.png")

    def photograph_output(self, name: str) -> None:
        """A picture of the last output as a whole, however long it is."""
        self._taken += 1
        output = self.notebook.locator(".jp-OutputArea-output").last
        output.screenshot(path=self._pictures / f"{self._taken:02d}-{name}.png")
