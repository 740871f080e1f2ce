"""The report as a browser shows it and as it is printed: pages, edges, letters, and who can read it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from matplotlib.text import Text
from playwright.sync_api import Page

from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import figure_style
from ctp_runbook.show.report import write_report
from tests.notebooks.jupyterlab_page import blank_page

pytestmark = pytest.mark.timeout(400)

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
RUNS = ("completed", "triggered", "aborted")
PAPERS = {"A4": (794, 1123), "Letter": (816, 1056)}
MARGINS = 83  # pixels of both sides, at 96 in an inch
MOST_PAGES = 6
LEAST_POINTS = 9.0
BLANK = {"", " "}


@pytest.fixture(scope="module")
def page(browser_path: str) -> Iterator[Page]:
    """A page as wide as a small laptop's."""
    with blank_page(browser_path, height=800) as made:
        yield made


@pytest.fixture(scope="module", params=RUNS)
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, set[float]]]:
    """The report of a recorded run, and the sizes of the letters in its pictures, as drawn."""
    folder = tmp_path_factory.mktemp("report") / str(request.param)
    shutil.copytree(GOLDEN / str(request.param), folder)
    sizes: dict[str, set[float]] = {}
    drawn = figure_style._png

    def measured(figure: Figure, *, dpi: int) -> bytes:
        data = drawn(figure, dpi=dpi)
        texts: list[Any] = figure.findobj(Text)
        seen = {t.get_fontsize() for t in texts if t.get_visible() and t.get_text() not in BLANK}
        sizes[f"{figure.get_figwidth()} wide, number {len(sizes)}"] = seen
        return data

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figure_style, "_png", measured)
        return write_report(RunDir(folder)), sizes


@pytest.mark.browser
@pytest.mark.parametrize("paper", PAPERS)
def test_it_prints_on_six_pages_and_nothing_is_cut(
    paper: str, page: Page, report: tuple[Path, Any], tmp_path: Path
) -> None:
    """Numbered pages, no part of which is wider than the paper between its margins."""
    path, _ = report
    width, height = PAPERS[paper]
    page.set_viewport_size({"width": width - MARGINS, "height": height})
    page.emulate_media(media="print")
    page.goto(path.as_uri())
    over = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
          .filter(e => e.getBoundingClientRect().right > innerWidth + 1
                    || (e.clientWidth && e.scrollWidth > e.clientWidth + 1))
          .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert over == []
    kept = Path(os.environ.get("CTP_TEST_ARTEFACTS") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    printed = page.pdf(
        format=paper, print_background=True, path=kept / f"{path.parent.name}-{paper}.pdf"
    )
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= MOST_PAGES
    assert "counter(page)" in path.read_text()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: Any, page: Page, report: tuple[Path, Any]) -> None:
    """No violation of any impact, on a light page and on a dark one."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(media="screen", color_scheme=scheme)
    page.goto(report[0].as_uri())
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.browser
def test_what_is_not_proved_stands_on_the_first_screen(
    page: Page, report: tuple[Path, Any]
) -> None:
    """Seen without scrolling on a small laptop, each kind on a line of its own."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(media="screen", color_scheme="light")
    page.goto(report[0].as_uri())
    table = page.locator("table", has_text="Not proved by this run")
    box = table.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 800
    kinds = table.locator("th").all_inner_texts()
    assert kinds == [
        *("overridden", "declared", "not compared", "not measured", "inconclusive", "not done"),
    ]


def test_no_letter_of_a_picture_is_smaller_than_nine_points(
    report: tuple[Path, dict[str, set[float]]],
) -> None:
    """As printed: pictures are drawn as wide as the page, and are not made smaller."""
    _, sizes = report
    for name, seen in sizes.items():
        assert min(seen) >= LEAST_POINTS, (name, sorted(seen))
        assert float(name.split()[0]) <= figure_style.PAGE_INCHES
    assert sizes


def test_every_table_has_a_caption(report: tuple[Path, Any]) -> None:
    """Or is folded below its title; and the page has its landmarks."""
    text = report[0].read_text()
    without = [
        found
        for found in re.finditer(r"<table[^>]*>(?!<caption)", text)
        if not text[: found.start()].endswith("</summary>")
    ]
    assert [text[one.start() : one.start() + 200] for one in without] == []
    assert all(text.count(f"<{mark}") == 1 for mark in ("header>", "nav ", "main>", "footer>"))
