"""``report.html``: one self-contained page for those who were not there. Derived, and so derivable
again: the same run gives the same bytes.

No script, no network, no font to fetch. It follows the reader's light or dark theme and prints
light.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.files import read
from ctp_runbook.model import Phase
from ctp_runbook.record.evidence import kept_files, list_again
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_known
from ctp_runbook.record.rundir import RunDir, behind_path, write_atomic
from ctp_runbook.record.samples import read_samples
from ctp_runbook.show import review, run_blocks
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table, escaped, mark
from ctp_runbook.show.run_figure import run_pictures
from ctp_runbook.show.step_figures import pictures_of
from ctp_runbook.watch.judge import WindowJudgement

__all__ = ["document", "write_report"]

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--jp-ui-font-color1:#1b1f24;--jp-ui-font-color2:#59636e;
--jp-border-color2:#d5dae0;--jp-layout-color2:#f3f5f7}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171b;--jp-ui-font-color1:#e8eaed;
--jp-ui-font-color2:#a3abb5;--jp-border-color2:#343b43;--jp-layout-color2:#20252b}
a{color:#7cc0f5}}
body{background:var(--paper);color:var(--jp-ui-font-color1);max-width:1120px;margin:0 auto;
padding:16px 24px;font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:26px;margin:4px 0 8px}
h2{font-size:18px;margin:30px 0 8px;border-bottom:1px solid var(--jp-border-color2)}
table{font-size:13px}.ctp-scroll{overflow-x:auto}.ctp-facts th{min-width:7em}
td{overflow-wrap:anywhere}code{font-size:12px}nav a{margin-right:14px;display:inline-block}
.ctp-key{display:flex;flex-wrap:wrap;gap:8px;margin:10px 0}
.ctp-key div{background:var(--jp-layout-color2);padding:6px 12px}
.ctp-key b{display:block;font-size:16px}.ctp-key span{color:var(--jp-ui-font-color2)}
.ctp-first .ctp-facts caption{padding-top:2px!important}
footer{margin-top:32px;color:var(--jp-ui-font-color2);overflow-wrap:anywhere}
@page{margin:9mm 11mm 12mm;
@bottom-right{content:"page " counter(page) " of " counter(pages);font:9pt sans-serif}
@bottom-left{content:"RUN_ID";font:9pt sans-serif}}
@media print{body{max-width:none;padding:0;font-size:8.5pt;line-height:1.25}
h1{font-size:16pt}h2{font-size:12pt;margin:9px 0 3px;break-after:avoid}
img,tr,.ctp-banner,.ctp-key{break-inside:avoid}caption{break-after:avoid}thead{display:table-header-group}
nav{display:none}details::details-content{display:block;content-visibility:visible}
summary{list-style:none;font-weight:bold;break-after:avoid}
.ctp-scroll{overflow:visible}table{font-size:6.9pt;line-height:1.12;width:100%}code{font-size:6pt;line-height:1.05}
.ctp-table th,.ctp-table td{white-space:normal!important;padding:0 6px 0 0!important}
.ctp-table td{overflow-wrap:break-word}
.ctp-table [style*="text-align:right"]{white-space:nowrap!important}
.ctp-facts th,.ctp-facts td{padding:0 8px 0 0!important}
.ctp-facts td{width:100%}
.ctp-banner{padding:4px 10px!important;margin:4px 0!important}
caption{padding-top:5px!important}.ctp-table,.ctp-facts{margin:2px 0!important}
.ctp-key b{font-size:10.5pt}.ctp-key{gap:6px;margin:6px 0}.ctp-key div{padding:3px 8px}
footer{margin-top:6px;font-size:7.2pt}}
"""


def write_report(run: RunDir) -> Path:
    """Write the page from journal, samples and evidence; also of a run that is not over.

    Raises JournalError when the journal does not hold together.
    """
    history = History.of(read_known(run.journal, behind_path(run)))
    judged = _judged(run, history)
    write_atomic(run.report, _page(run, history, judged).encode())
    # Made after the run was sealed, or by a later version: it belongs to the run all the same.
    list_again(run, run.report)
    return run.report


def _judged(run: RunDir, history: History) -> WindowJudgement | None:
    """The watch judged again from its samples; None when there was none, or it cannot be."""
    if history.watch_started is None:
        return None
    from ctp_runbook.watch.replay import rejudge

    try:
        return rejudge(run, history, so_far_mono=_so_far(run, history))[0]
    except RunbookError:  # the page says so where the verdict would stand
        return None


def _so_far(run: RunDir, history: History) -> float | None:
    """The moment an open watch was last heard of; None where it is over."""
    if history.watch_ended is not None:
        return None
    last = history.records[-1].mono
    return max([last, *(sample.mono for sample in read_samples(run.samples)[-1:])])


def _page(run: RunDir, history: History, judged: WindowJudgement | None) -> str:
    _, title = run_blocks.headline(history)
    # The watch before all that led to it: it is what a reader was not there for, and what the
    # outcome rests on.
    sections = {
        "Time line": _html([*run_pictures(history, both=True), run_blocks.timeline_table(history)]),
        "Provenance": _html(review.provenance(history)),
        "Watch window": _html(_watch(run, history, judged)),
        "Switch": _html(_switch(history)),
        "Rollback": _html(run_blocks.rollback_blocks(history, both=True)),
        "Gates": _html(_gates(run, history)),
        "Run": _html(_run(history)),
        "Evidence": _evidence(run),
    }
    anchors = {name: name.lower().replace(" ", "-") for name in sections}
    navigation = " ".join(f"<a href='#{anchor}'>{name}</a>" for name, anchor in anchors.items())
    top = [run_blocks.mode_banner(history), *run_blocks.override_banners(history)]
    bodies = "".join(
        f"<section id='{anchors[name]}'><h2>{name}</h2>{body}</section>"
        for name, body in sections.items()
    )
    first: list[Block] = [review.not_proved(run, history, judged), *run_blocks.findings(history)]
    journal = run.journal.read_bytes()  # without what is kept behind it, if any is
    return document(
        f"{history.run_id}: {title}",
        f"<header>{_html(top)}<h1>{escaped(title)}</h1>"
        f"{run_blocks.below_headline(history).html}</header>"
        f"<nav aria-label='Sections'>{navigation}</nav>"
        f"<main><div class='ctp-first'>{_key_figures(history, judged)}{_html(first)}</div>"
        f"{bodies}</main>"
        f"<footer>run {escaped(history.run_id)} · journal record {len(journal.splitlines())}, sha256 "
        f"{digest_of(journal)} · check it with <code>ctp-runbook verify --run "
        f"{escaped(run.run_id)}</code></footer>",
        margin=history.run_id,
    )


def document(title: str, body: str, *, margin: str = "") -> str:
    """Return a whole page; ``margin`` stands at the foot of each sheet that is printed."""
    style = _STYLE.replace("RUN_ID", _css_string(margin))
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escaped(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _css_string(text: str) -> str:
    """A run's id as a page's margin writes it: no character of it can end the string."""
    return "".join(c if c.isalnum() or c in "-_.:" else " " for c in text)


def _html(blocks: Iterable[Block]) -> str:
    """The blocks below each other; a table that is wider than a screen is scrolled by itself."""
    return "".join(
        f"<div class='ctp-scroll' tabindex='0'>{block.html}</div>"
        if isinstance(block, Table)
        else block.html
        for block in blocks
    )


def _key_figures(history: History, judged: WindowJudgement | None) -> str:
    """The few numbers everybody asks for first."""
    figures = {"environment": history.plan.environment}
    if history.outcome is not None:
        figures["outcome"] = history.outcome.value
    figures["who runs"] = review.who_runs(history)
    figures["trading downtime"] = run_blocks.downtime_figure(history)
    if judged is not None:
        passed = sum(metric.verdict.name == "PASSED" for metric in judged.metrics.values())
        how = "cut short" if history.trigger else mark(judged.overall.name)
        how += "" if history.watch_ended else " so far"
        figures["watch"] = f"{how}; {passed} of {len(judged.metrics)} metrics passed"
    if history.rollback_started is not None:
        figures["rollback"] = run_blocks.budget_figure(history).removesuffix(" (kept)")
    cells = "".join(
        f"<div><span>{escaped(name)}</span><b>{escaped(value)}</b></div>"
        for name, value in figures.items()
    )
    return f"<div class='ctp-key'>{cells}</div>"


def _watch(run: RunDir, history: History, judged: WindowJudgement | None) -> Iterator[Block]:
    if history.watch_started is None:
        far = "did not get there" if history.closed else "has not got there yet"
        why = "a dry run watches nothing" if history.is_dry_run else f"the run {far}"
        yield Banner("info", "No watch window", why)
    elif judged is None:
        yield Banner("bad", "The samples cannot be judged again", "see `ctp-runbook verify`")
    else:
        yield from run_blocks.watch_blocks(run, history, judged, both=True)


def _switch(history: History) -> Iterator[Block]:
    yield from pictures_of(history, Phase.SWITCH, both=True)
    steps = run_blocks.steps_in(history, Phase.SWITCH)
    yield run_blocks.step_table(history, steps, title="Switch steps")
    yield from review.handover_blocks(history)
    if history.closed is not None and history.closed.payload.running:
        yield run_blocks.member_table(history)


def _gates(run: RunDir, history: History) -> Iterator[Block]:
    steps = run_blocks.steps_in(history, Phase.GATE)
    yield run_blocks.step_table(history, steps, title="Gate steps")
    yield run_blocks.unobserved_note(run, history)
    yield from run_blocks.observed_tables(run)
    yield from run_blocks.topology_blocks(run, both=True)
    for name in ("ctp_readiness_precheck.json", "ctp_readiness_rollback.json"):
        if (path := run.evidence / name).is_file():
            yield run_blocks.readiness_table(run_blocks.read_readiness(path), title=name)


def _run(history: History) -> Iterator[Block]:
    plan = run_blocks.facts_of_plan(history)
    shown_above = ("run", "plan sha256", "created")  # by the provenance
    yield replace(
        plan, pairs=[pair for pair in plan.pairs if pair[0] not in shown_above], title="Plan"
    )
    yield run_blocks.commands_table(history)
    yield Notes("bad", history.plan.declared, "Declared exceptions: the run went on without these")
    yield Notes("warn", history.plan.warnings, "Warnings of the plan")


def _evidence(run: RunDir) -> str:
    """Evidence with its digests (``sha256sum`` of each), and the notebooks with what they say of themselves."""
    named = (run.journal, run.baseline, run.samples)
    digests = {
        name: digest_of(path.read_bytes())
        for name, path in kept_files(run).items()
        if path in named or path.is_relative_to(run.evidence)
    }
    table = Table(("file", "sha256"), sorted(digests.items()), "Evidence", code=("sha256",))
    check = Facts(
        [
            ("the whole run", f"ctp-runbook verify --run {run.run_id}"),
            ("a file", "sha256sum FILE, in the run's directory"),
        ],
        "How to check",
    )
    return f"{_html([table])}{_links(run)}{check.html}"


def _links(run: RunDir) -> str:
    """Executed notebooks as links beside the page, each also as a page, with how each ended."""
    items = "".join(
        f"<li>{_link(run, path)} {escaped(_notebook_status(path))}{_rendered(run, path)}</li>"
        for path in sorted(run.notebooks.glob("*.ipynb"))
    )
    return f"<strong>Notebooks</strong><ul>{items}</ul>" if items else ""


def _link(run: RunDir, path: Path) -> str:
    name = escaped(path.relative_to(run.path).as_posix())
    return f"<a href='{name}'>{name}</a>"


def _rendered(run: RunDir, path: Path) -> str:
    page = path.with_suffix(".html")
    return f"; as a page: {_link(run, page)}" if page.is_file() else ""


def _notebook_status(path: Path) -> str:
    try:
        stamp = json.loads(read(path))["metadata"]["ctp_runbook"]
        status = stamp["status"].replace("_", " ").replace("completed", "executed")
        return f"{status}: {stamp['sentence']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "not executed by ctp-runbook"
