"""``report.html``: one page, self-contained, the same twice, for every kind of run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.journal import digest_of
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.run import verify_run
from tests.props.synthetic_runs import KINDS, make_run

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
    """Watch, switch, rollback and the host, each twice, the dark one for dark screens only."""
    page = write_report(make_run("rolled_back", tmp_path)).read_text()
    assert page.count("<img") == 4
    assert page.count("screen and (prefers-color-scheme: dark)") == 4


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
