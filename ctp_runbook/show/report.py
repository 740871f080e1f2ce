"""``report.html``: one self-contained page for those who were not there. Derived, and so derivable
again: the same run gives the same bytes.

No script, no network, no font to fetch. It follows the reader's light or dark theme and prints
light.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.evidence import rollback_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import RunDir, write_atomic
from ctp_runbook.show import run_blocks
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table, mark
from ctp_runbook.show.step_figures import pictures_of
from ctp_runbook.watch.judge import WindowJudgement

__all__ = ["write_report"]

_SECTIONS = ("Watch window", "Switch", "Rollback", "Gates", "Run", "Evidence")
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--jp-ui-font-color1:#1b1f24;--jp-ui-font-color2:#59636e;
--jp-border-color2:#d5dae0;--jp-layout-color2:#f3f5f7}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171b;--jp-ui-font-color1:#e8eaed;
--jp-ui-font-color2:#a3abb5;--jp-border-color2:#343b43;--jp-layout-color2:#20252b}
a{color:#7cc0f5}}
body{background:var(--paper);color:var(--jp-ui-font-color1);max-width:1120px;margin:0 auto;
padding:24px;font:14px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:26px;margin:4px 0 12px}
h2{font-size:18px;margin:34px 0 8px;border-bottom:1px solid var(--jp-border-color2)}
table{font-size:13px}.ctp-table{display:block;overflow-x:auto}
td{overflow-wrap:anywhere}code{font-size:12px}nav a{margin-right:14px}
.ctp-key{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}
.ctp-key div{background:var(--jp-layout-color2);padding:8px 14px;min-width:150px}
.ctp-key b{display:block;font-size:17px}.ctp-key span{color:var(--jp-ui-font-color2)}
footer{margin-top:40px;color:var(--jp-ui-font-color2);overflow-wrap:anywhere}
@media print{body{max-width:none;padding:0;font-size:11px}h2,img,tr,.ctp-banner{break-inside:avoid}
nav{display:none}details>*{display:block}.ctp-table{display:table}}
"""


def write_report(run: RunDir) -> Path:
    """Write the page from journal, samples and evidence; also of a run that is not over.

    Raises JournalError when the journal does not hold together.
    """
    history = History.of(read_journal(run.journal).records)
    judged = _judged(run, history)
    write_atomic(run.report, _page(run, history, judged).encode())
    return run.report


def _judged(run: RunDir, history: History) -> WindowJudgement | None:
    """The watch judged again from its samples; None when there was none, or it cannot be."""
    if history.watch_started is None:
        return None
    from ctp_runbook.watch.replay import rejudge

    try:
        return rejudge(run, history)[0]
    except RunbookError:  # the page says so where the verdict would stand
        return None


def _page(run: RunDir, history: History, judged: WindowJudgement | None) -> str:
    _, title = run_blocks.headline(history)
    bodies: dict[str, Sequence[Block]] = {
        "Watch window": [*_watch(run, history, judged)],
        "Switch": [*_switch(history)],
        "Rollback": [*_rollback(history)],
        "Gates": [*_gates(run, history)],
        "Run": [*_run(history)],
        "Evidence": [*_evidence(run)],
    }
    navigation = " ".join(f"<a href='#{_anchor(name)}'>{name}</a>" for name in _SECTIONS)
    sections = "".join(
        f"<section id='{_anchor(name)}'><h2>{name}</h2>{''.join(b.html for b in bodies[name])}"
        "</section>"
        for name in _SECTIONS
    )
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(f'{history.run_id}: {title}')}</title><style>{_STYLE}</style></head>"
        f"<body>{run_blocks.mode_banner(history).html}{_overridden(history)}<h1>{html.escape(title)}</h1>"
        f"{run_blocks.outcome_banner(history).html}{_key_figures(history, judged)}"
        f"<nav>{navigation}</nav>{''.join(n.html for n in run_blocks.findings(history))}{sections}"
        f"<footer>run {html.escape(history.run_id)} · journal record {len(history.records)}, sha256 "
        f"{digest_of(run.journal.read_bytes())} · check it with <code>ctp-runbook verify --run "
        f"{html.escape(run.run_id)}</code></footer></body></html>\n"
    )


def _overridden(history: History) -> str:
    return "".join(banner.html for banner in run_blocks.override_banners(history))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _key_figures(history: History, judged: WindowJudgement | None) -> str:
    """The few numbers everybody asks for first."""
    figures = [("environment", str(history.plan.get("environment", "")))]
    if history.closed is not None:
        figures.append(("outcome", str(history.closed.payload["outcome"])))
    figures.append(("trading downtime", run_blocks.downtime_figure(history)))
    if judged is not None:
        passed = sum(one.verdict.name == "PASSED" for one in judged.metrics.values())
        verdict = f"{mark(judged.overall.name)}, {passed} of {len(judged.metrics)}"
        figures.append(("watch", verdict))
    if history.rollback_started is not None:
        budget = float(history.rollback_started.payload["budget_seconds"])
        figures.append(("rollback", f"{rollback_seconds(history):.1f} s of {budget:g} s"))
    cells = "".join(
        f"<div><span>{html.escape(name)}</span><b>{html.escape(value)}</b></div>"
        for name, value in figures
    )
    return f"<div class='ctp-key'>{cells}</div>"


def _watch(run: RunDir, history: History, judged: WindowJudgement | None) -> Iterator[Block]:
    if history.watch_started is None:
        told = "a dry run watches nothing" if history.is_dry_run else "the run did not get there"
        yield Banner("info", "No watch window", told)
        return
    if judged is None:
        yield Banner("bad", "The samples cannot be judged again", "see `ctp-runbook verify`")
        return
    from ctp_runbook.show.watch_figure import watch_picture
    from ctp_runbook.watch.baseline import read_baseline
    from ctp_runbook.watch.replay import read_rules

    baseline = read_baseline(run, history, read_rules(history.plan["watch"]))
    yield watch_picture(history, judged, before=baseline.points, both=True)
    yield run_blocks.verdict_table(history, judged)
    yield run_blocks.comparison_table(history, baseline)


def _switch(history: History) -> Iterator[Block]:
    names = _steps_of(history, "switch")
    yield from pictures_of(history, "switch", both=True)
    yield run_blocks.step_table(history, names)
    if history.closed is not None and history.closed.payload.get("running"):
        yield run_blocks.member_table(history)


def _steps_of(history: History, phase: str) -> list[str]:
    return [step["name"] for step in history.plan.get("steps", ()) if step["phase"] == phase]


def _rollback(history: History) -> Iterator[Block]:
    blocks: list[Block] = [*run_blocks.rollback_blocks(history)]
    blocks[1:1] = pictures_of(history, "rollback", both=True)
    yield from blocks


def _gates(run: RunDir, history: History) -> Iterator[Block]:
    yield from run_blocks.topology_blocks(run, both=True)
    yield run_blocks.step_table(history, _steps_of(history, "gate"))
    yield from run_blocks.observed_tables(run)
    for name in ("ctp_readiness_precheck.json", "ctp_readiness_rollback.json"):
        if (run.evidence / name).is_file():
            yield run_blocks.readiness_table(
                json.loads((run.evidence / name).read_bytes()), title=name
            )


def _run(history: History) -> Iterator[Block]:
    yield run_blocks.facts_of_plan(history)
    yield run_blocks.timeline_table(history)
    commands = [(step["name"], step["command"]) for step in history.plan.get("steps", ())]
    yield Table(("step", "command"), commands, "Commands", frozenset({"command"}), folded=True)
    yield Notes("warn", history.plan.get("warnings", ()), "Warnings of the plan")


def _evidence(run: RunDir) -> Iterator[Block]:
    """Evidence with its digests, and the notebooks with what they say of themselves."""
    kept = [run.journal, run.baseline, run.samples, *sorted(run.evidence.glob("*"))]
    digests = {
        path.relative_to(run.path).as_posix(): digest_of(path.read_bytes())
        for path in kept
        if path.is_file()
    }
    yield run_blocks.evidence_table(digests)
    yield _Links([*sorted(run.notebooks.glob("*.ipynb"))], run)
    yield Facts([("how to check", "ctp-runbook verify --run RUN_DIRECTORY")])


class _Links:
    """Executed notebooks as links beside the page, with how each ended."""

    def __init__(self, notebooks: Sequence[Path], run: RunDir) -> None:
        self._rows = [(p.relative_to(run.path).as_posix(), _notebook_status(p)) for p in notebooks]

    @property
    def html(self) -> str:
        """A list of links."""
        items = "".join(
            f"<li><a href='{html.escape(name, quote=True)}'>{html.escape(name)}</a> "
            f"{html.escape(status)}</li>"
            for name, status in self._rows
        )
        return f"<strong>Notebooks</strong><ul>{items}</ul>" if items else ""

    @property
    def text(self) -> str:
        """A line each."""
        return "\n".join(f"{name} {status}" for name, status in self._rows)


def _notebook_status(path: Path) -> str:
    try:
        told = json.loads(path.read_bytes())["metadata"]["ctp_runbook"]
        return f"{told['status'].replace('_', ' ')}: {told['sentence']}"
    except (ValueError, KeyError, TypeError):
        return "not executed by ctp-runbook"
