"""What people look at, as pictures: the executed watch and the report, light, dark and printed.

``CTP_TEST_ARTEFACTS`` names a directory that keeps them. The live view is in test_jupyterlab.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Page

from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.report import write_report
from tests.notebooks.jupyterlab_page import blank_page
from tests.props.synthetic_runs import make_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LOOKS = {"light": ("light", "screen"), "dark": ("dark", "screen"), "print": ("light", "print")}
SAID = {"completed": "✓ PASSED", "rolled_back": "rollback trigger"}


@pytest.fixture(scope="module")
def page(browser_path: str) -> Iterator[Page]:
    """A page as wide as a laptop's."""
    with blank_page(browser_path, height=900) as made:
        yield made


@pytest.fixture(scope="module", params=SAID)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that ended so, with its report."""
    made = make_run(request.param, tmp_path_factory.mktemp(request.param))
    write_report(made)
    return made


def executed_watch(run: RunDir, folder: Path) -> Path:
    """05_watch executed on the run, as a page; of a rolled back run it fails, and is kept."""
    out = folder / "05_watch.ipynb"
    argv = [sys.executable, "-m", "papermill", "--engine", "ctp_runbook", "-p", "run_dir"]
    argv += [str(run.path), str(ROOT / "notebooks" / "05_watch.ipynb"), str(out)]
    subprocess.run(argv, cwd=ROOT, capture_output=True, check=False, timeout=240)
    html, _ = HTMLExporter().from_filename(str(out))  # type: ignore[no-untyped-call]
    path = folder / "05_watch.html"
    path.write_text(html)
    return path


def look(page: Page, path: Path, *, name: str, folder: Path) -> str:
    """Photograph a page in every look; nothing is cut off and every figure is there. Its words."""
    pictures = Path(os.environ.get("CTP_TEST_ARTEFACTS") or folder)
    pictures.mkdir(parents=True, exist_ok=True)
    for look_name, (scheme, media) in LOOKS.items():
        page.emulate_media(color_scheme=scheme, media=media)  # type: ignore[arg-type]
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        page.screenshot(path=pictures / f"{name}-{look_name}.png", full_page=True)
        missing = "images => images.filter(one => one.complete && !one.naturalWidth).length"
        assert page.locator("img").count() > 0
        assert page.locator("img").evaluate_all(missing) == 0
        assert page.evaluate(
            "document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth + 1"
        ), f"{name} {look_name}: wider than the page"
    return page.inner_text("body")


def test_the_report_is_whole_in_every_look(run: RunDir, page: Page, tmp_path: Path) -> None:
    """Light, dark and printed: each figure drawn, nothing wider than the page, the ending told."""
    kind = run.path.parent.name.rstrip("0123456789")
    said = look(page, run.report, name=f"report-{kind}", folder=tmp_path)
    assert SAID[kind].lower() in said.lower()


def test_the_executed_watch_is_whole(run: RunDir, page: Page, tmp_path: Path) -> None:
    """The notebook that a reviewer opens: its figure is there, and its verdict in words."""
    kind = run.path.parent.name.rstrip("0123456789")
    said = look(page, executed_watch(run, tmp_path), name=f"05_watch-{kind}", folder=tmp_path)
    assert SAID[kind].lower() in said.lower()
