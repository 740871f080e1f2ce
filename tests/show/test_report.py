"""``report.html``: one page, self-contained, the same twice, for every kind of run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.journal import digest_of
from ctp_runbook.show import report
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.run import verify_run
from tests.props.synthetic_runs import KINDS, make_run

NEWLINE = b"\n"
VOID = {"meta", "img", "source", "br", "link"}


class Balance(HTMLParser):
    """Remembers what is open, and every address the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that opens."""
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        """A tag that closes must be the last one opened."""
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_stands_on_its_own(kind: str, tmp_path: Path) -> None:
    """Well-formed, no script, and no address outside of the page and the run's directory."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "<script" not in page
    assert all(a.startswith(("data:", "#", "notebooks/")) for a in parser.addresses)


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("completed", "The new stack trades"),
        ("rolled_back", "Rolled back in time"),
        ("dry", "Dry run: nothing stands in the way"),
        ("aborted", "the old stack still trades"),
    ],
)
def test_the_headline_says_it_in_plain_words(kind: str, headline: str, tmp_path: Path) -> None:
    """Somebody who reads the first line only knows how it went."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    found = re.search(r"<h1>(.*?)</h1>", page)
    assert found is not None
    assert headline in found.group(1)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    """Written again it has the same bytes, so a sealed manifest stays true."""
    run = make_run("rolled_back", tmp_path)
    first = write_report(run).read_bytes()
    write_manifest(run, sealed=True)
    assert write_report(run).read_bytes() == first
    assert verify_run(run, allow_cutover_rollback=True).ok


def test_figures_are_there_for_light_and_dark(tmp_path: Path) -> None:
    """Time line, watch, switch, rollback and the host, each twice, the dark one for dark screens only."""
    page = write_report(make_run("rolled_back", tmp_path)).read_text()
    assert page.count("<img") == 5
    assert page.count("screen and (prefers-color-scheme: dark)") == 5


@pytest.mark.parametrize("kind", KINDS)
def test_no_table_is_empty_and_each_says_of_what_its_cells_are(kind: str, tmp_path: Path) -> None:
    """A head above nothing looks like something forgotten; a cell belongs to a row and a column."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    assert "<tbody></tbody>" not in page
    assert page.count("<th ") == len(re.findall(r"<th scope='(?:col|row)' ", page)) > 0


def test_evidence_is_listed_with_digests_anybody_can_compute(tmp_path: Path) -> None:
    """Each file of evidence, the journal and the samples with their sha256."""
    run = make_run("completed", tmp_path)
    page = write_report(run).read_text()
    for path in (run.journal, run.samples, *run.evidence.iterdir()):
        assert digest_of(path.read_bytes()) in page, path


def test_notebooks_are_linked_with_how_they_ended(tmp_path: Path) -> None:
    """A relative link, so that the directory can be moved."""
    page = write_report(make_run("completed", tmp_path)).read_text()
    assert "<a href='notebooks/07_verify.ipynb'>" in page


def test_a_command_cannot_act_on_the_page(tmp_path: Path) -> None:
    """What an operator wrote into a template is shown, not interpreted."""
    run = KINDS["completed"](tmp_path, created_by="<script>alert(1)</script>")
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_whose_samples_are_broken_is_reported_all_the_same(tmp_path: Path) -> None:
    """The page says that the watch cannot be judged again, in the place of its verdict."""
    run = make_run("completed", tmp_path)
    run.samples.write_bytes(b"not a sample\n")
    assert "The samples cannot be judged again" in write_report(run).read_text()


# --- what stands where ------------------------------------------------------------


def section(page: str, name: str) -> str:
    """The body of a section of the page."""
    found = re.search(f"<section id='{name}'>(.*?)</section>", page, re.DOTALL)
    assert found is not None, name
    return found.group(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_can_be_reached_from_the_top(kind: str, tmp_path: Path) -> None:
    """Eight sections, in one order, each with its link."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    order = re.findall(r"<section id='(.*?)'>", page)
    assert order == [
        "time-line",
        "provenance",
        "watch-window",
        "switch",
        "rollback",
        "gates",
        "run",
        "evidence",
    ]
    assert re.findall(r"<a href='#(.*?)'>", page) == order


@pytest.mark.parametrize(
    ("kind", "why"),
    [("dry", "a dry run watches nothing"), ("aborted", "the run did not get there")],
)
def test_a_watch_there_was_none_of_is_said(kind: str, why: str, tmp_path: Path) -> None:
    """With the reason, and without a picture that could be taken for a quiet one."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    assert why in section(page, "watch-window")
    assert "<img" not in section(page, "watch-window")


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("completed", ["environment", "outcome", "who runs", "trading downtime", "watch"]),
        (
            "rolled_back",
            ["environment", "outcome", "who runs", "trading downtime", "watch", "rollback"],
        ),
        ("aborted", ["environment", "outcome", "who runs", "trading downtime"]),
    ],
)
def test_the_key_figures_are_those_there_are(kind: str, figures: list[str], tmp_path: Path) -> None:
    """No watch, no verdict; no rollback, no budget."""
    page = write_report(make_run(kind, tmp_path)).read_text()
    assert re.findall(r"<div><span>(.*?)</span>", page) == figures


def test_key_figures_agree_with_the_sections_below(tmp_path: Path) -> None:
    """The same seconds of the same budget, and the same verdicts, counted."""
    page = write_report(make_run("rolled_back", tmp_path)).read_text()
    spent = re.search(r"<span>rollback</span><b>(.*?)</b>", page)
    assert spent is not None
    assert f"{spent.group(1)} (kept)" in section(page, "rollback")
    watch = re.search(r"<span>watch</span><b>cut short; (\d+) of (\d+) metrics passed</b>", page)
    assert watch is not None
    passed, metrics = map(int, watch.groups())
    assert section(page, "watch-window").count("✓ PASSED") == passed
    assert metrics == 3


def test_overrides_stand_above_the_headline(tmp_path: Path) -> None:
    """Whoever reads the first lines only sees what was waived."""
    run = KINDS["completed"](tmp_path, overrides={"accept_late": "the exchange waits"})
    page = write_report(run).read_text()
    assert page.index("OVERRIDE --accept-late") < page.index("<h1>")


def test_the_footer_says_how_far_the_journal_had_come(tmp_path: Path) -> None:
    """A digest that anybody can compute, and the command that checks the rest."""
    run = make_run("completed", tmp_path)
    page = write_report(run).read_text()
    data = run.journal.read_bytes()
    footer = page[page.index("<footer>") :]
    assert f"journal record {data.count(NEWLINE)}" in footer
    assert digest_of(data) in footer
    assert f"ctp-runbook verify --run {run.run_id}" in footer


def test_a_notebook_says_of_itself_how_it_ended(tmp_path: Path) -> None:
    """Beside its link; one that somebody else executed says nothing, and that is said."""
    run = make_run("completed", tmp_path)
    stamp = {"ctp_runbook": {"status": "not_run", "sentence": "02 <failed>"}}
    (run.notebooks / "05_watch.ipynb").write_text(json.dumps({"metadata": stamp}))
    (run.notebooks / "06_rollback.ipynb").write_text("{}")
    (run.notebooks / "07_verify.ipynb").write_text("no JSON")
    body = section(write_report(run).read_text(), "evidence")
    assert "05_watch.ipynb</a> not run: 02 &lt;failed&gt;" in body
    assert body.count("not executed by ctp-runbook") == 2


def test_the_members_are_shown_where_a_last_look_was_taken(tmp_path: Path) -> None:
    """A dry run looked at nobody."""
    real = write_report(make_run("completed", tmp_path / "real")).read_text()
    assert "Who runs" in section(real, "switch")
    dry = write_report(make_run("dry", tmp_path / "dry")).read_text()
    assert "Who runs" not in section(dry, "switch")


def test_a_run_that_is_not_over_has_a_page_too(tmp_path: Path) -> None:
    """Cut off in the middle of its watch: the page says so, and claims no end."""
    run = make_run("completed", tmp_path)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if b'"kind":"watch_started"' in line)
    run.journal.write_bytes(b"".join(lines[: last + 1]))
    page = write_report(run).read_text()
    assert "The run is not over: WATCHING" in page
    assert "<span>outcome</span>" not in page


def test_the_page_prints_light_and_whole() -> None:
    """Folded lists are open on paper, and no picture is cut in two."""
    printed = report._STYLE[report._STYLE.index("@media print") :]
    assert "details::details-content{display:block" in printed
    assert "break-inside:avoid" in printed
    assert "@media screen and (prefers-color-scheme:dark)" in report._STYLE
