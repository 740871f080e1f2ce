"""The runs of a folder as tables, and two of them side by side: for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ctp_runbook.model import Generation, Outcome, State
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record.durations import Bound, bound_of
from ctp_runbook.record.past_runs import (
    TWINS,
    Comparison,
    Difference,
    HostRuns,
    PastMetric,
    PastRun,
    PastRuns,
    PastStep,
    took,
)
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table, escaped, mark

__all__ = [
    "bound_banner",
    "bound_blocks",
    "bounds_of",
    "comparison_blocks",
    "fleet_page",
    "outcome_of",
    "runs_table",
    "skipped_notes",
    "spoken_of",
]

_NONE = "–"
_SEALS = {"sealed": "✓ sealed", "open": "– open", "differs": "✗ differs"}
_TOTALS = 3  # rollbacks, cutovers, downtimes; steps follow
_LONGEST_FACT, _BEFORE = 120, 30


def runs_table(past: PastRuns) -> Table:
    """Return a line a run: how it ended, how long nobody traded, what was left to a limit."""
    columns = ("run", "as", "outcome", "downtime", "rollback", "margin", "record")
    rows = [_row(run) for run in past.runs]
    return Table(columns, rows, numbers=("downtime", "rollback"))


def skipped_notes(past: PastRuns) -> Notes:
    """Return what was not read, each with why."""
    said = [_one_line(f"skipped {each.path}: {each.why}") for each in past.skipped]
    return Notes("warn", said)


def _row(run: PastRun) -> tuple[str, ...]:
    rollback = _NONE
    if run.rollback_seconds is not None:
        rollback = f"{run.rollback_seconds:.1f} of {run.rollback_budget_seconds:g} s"
    downtime = _seconds(run.downtime_seconds)
    return (
        _one_line(run.run_id),
        run.mode,
        outcome_of(run),
        f"{downtime}, none trades" if run.is_down and run.outcome else downtime,
        rollback,
        _margin(run),
        _SEALS[run.seal],
    )


def outcome_of(run: PastRun) -> str:
    """Return how a run ended, or where it stands."""
    return run.outcome or f"not over: {run.state}"


def _margin(run: PastRun) -> str:
    if run.tightest_margin_percent is None:
        return _NONE
    return f"{run.tightest_margin_percent:.0f} % {run.tightest_metric}"


def _seconds(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds:.1f} s"


def _one_line(text: str) -> str:
    """Return a name of somebody else's as a cell shows it, line ends escaped as well."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def spoken_of(environment: str) -> str:
    """Return how the runs of an environment are spoken of."""
    return "all twins" if environment == TWINS else _one_line(environment)


# --- many hosts -------------------------------------------------------------------

# Of a run that is not over, by its state (infra/runbook/exits.md).
_TRADE_IN: Mapping[str, str] = {
    **dict.fromkeys((State.PLANNED, State.GATING, State.READY), "the old stack"),
    **dict.fromkeys((State.WATCHING, State.HOLDING), "the new stack"),
}


def fleet_page(hosts: Sequence[HostRuns], *, told_utc: str, reports: Mapping[str, str]) -> str:
    """Return a page of what became of each host's run; ``reports`` has where a run's report lies, by its
    id."""
    from ctp_runbook.show.report import document

    reached = [(host.host, host.run) for host in hosts if host.run is not None]
    left = [f"{_one_line(host.host)}: {_one_line(host.why)}" for host in hosts if host.run is None]
    rows = [(_one_line(host), _who_trades(run), *_host_row(run)) for host, run in reached]
    rows += [
        (_one_line(host.host), *["– not reached"], *[_NONE] * 6) for host in hosts if not host.run
    ]
    what = ("who trades", "outcome", "downtime", "rollback", "margin")
    columns = ("host", *what, "run", "record")
    links = {
        _one_line(run.run_id): reports[run.run_id] for _, run in reached if run.run_id in reports
    }
    banner = _fleet_banner(reached, len(left))
    table = Table(columns, rows, numbers=("downtime", "rollback"), links=links)
    notes = Notes("warn", left, title="Not reached, and what runs there was not asked")
    return document(
        banner.title,
        f"<header><h1>Cutover of {len(hosts)} hosts</h1>{banner.html}</header>"
        f"<main><div class='ctp-scroll' tabindex='0'>{table.html}</div>{notes.html}</main>"
        f"<footer>As each host told it until {escaped(told_utc)}. A record is proved on its host, by "
        "<code>ctp-runbook verify --run RUN</code></footer>",
        margin=f"fleet, {told_utc}",
    )


def _host_row(run: PastRun) -> tuple[str, ...]:
    name, _, *rest, record = _row(run)
    return (*rest, name, record)


def _fleet_banner(reached: Sequence[tuple[str, PastRun]], left: int) -> Banner:
    hosts = len(reached) + left
    done = sum(run.outcome == Outcome.COMPLETED.value for _, run in reached)
    title = f"{done} of {hosts} hosts COMPLETED"
    stopped = [(host, run) for host, run in reached if run.outcome != Outcome.COMPLETED.value]
    sentences = [
        f"{_one_line(host)}: {outcome_of(run)}, {_who_trades(run)}" for host, run in stopped
    ]
    sentences += [f"{left} not reached"] if left else []
    kind = "bad" if any(run.outcome for _, run in stopped) else "warn" if sentences else "good"
    return Banner(kind, title, "; ".join(sentences))


def _who_trades(run: PastRun) -> str:
    """Return in words whose stack ran at the last look; of a run that goes on, by its state."""
    if not run.outcome:
        return _TRADE_IN.get(run.state, "nobody, for most of it")
    stacks = {
        generation: [
            seen for name, seen in run.running.items() if name.startswith(f"{generation}_")
        ]
        for generation in Generation
    }
    whole = [name for name, seen in stacks.items() if seen and set(seen) == {"alive"}]
    others = [seen for name, seen in stacks.items() if name not in whole]
    if len(whole) == 1 and all(set(seen) <= {"gone"} for seen in others):
        return f"the {whole[0]} stack"
    if not run.running:
        return "nobody was looked at"
    if set(run.running.values()) == {"gone"}:
        return "nobody"
    return ", ".join(f"{name.replace('_', ' ')} {seen}" for name, seen in run.running.items())


# --- bounds -----------------------------------------------------------------------


def bounds_of(runs: Sequence[PastRun]) -> list[Bound]:
    """Return a bound for rollback, cutover, downtime and each step."""
    return [
        bound_of(what, seconds, failed=failed, spoken=what if at < _TOTALS else f"runs of {what}")
        for at, (what, seconds, failed) in enumerate(took(runs))
    ]


def bound_banner(environment: str, runs: Sequence[PastRun], bounds: Sequence[Bound]) -> Banner:
    """Return the one thing to know: whether a rollback ends within the budget that the newest run had."""
    real = [run for run in runs if not run.is_dry]
    rollbacks = next((bound for bound in bounds if bound.what == "rollbacks"), None)
    if rollbacks is None or not rollbacks.runs:
        sentence = f"{len(real)} runs; 59 rollbacks of it would bound how long they take"
        return Banner("info", f"No rollback of {environment} was measured", sentence)
    budget = real[-1].rollback_budget_seconds
    within = f"MAX_ROLLBACK_SECONDS {budget:g} s of the newest run"
    said = f"{rollbacks.sentence}; {within}"
    longest = rollbacks.longest_seconds or 0.0
    late = sum(run.outcome == Outcome.ROLLED_BACK_LATE.value for run in real)
    if rollbacks.failed or late or longest > budget:
        counts = (
            f"{rollbacks.failed} of {rollbacks.runs} did not end well, {late} ended late, the "
            f"longest took {longest:.1f} s"
        )
        return Banner("bad", f"Rollbacks of {environment} fail or are late", f"{counts}; {said}")
    if not rollbacks.is_proved or rollbacks.has_trend or (rollbacks.seconds or 0.0) > budget:
        return Banner(
            "warn", f"Rollbacks of {environment} were in time, and few prove little", said
        )
    return Banner("good", f"Rollbacks of {environment} end in time", said)


def bound_blocks(bounds: Sequence[Bound]) -> Iterator[Block]:
    """Yield what the runs prove of rollback, cutover and downtime, in sentences; then each step."""
    totals, steps = bounds[:_TOTALS], bounds[_TOTALS:]
    yield Notes("info", [bound.sentence for bound in totals], title="What these runs prove")
    columns = ("step", "runs", "failed", "median", "longest", "bound", "what")
    rows = [
        (
            bound.what,
            bound.runs,
            bound.failed,
            _seconds(bound.median_seconds),
            _seconds(bound.longest_seconds),
            _seconds(bound.seconds if bound.is_proved else None),
            bound.sentence,
        )
        for bound in steps
    ]
    if rows:
        yield Table(columns, rows, title="Each step", numbers=columns[1:6], folded=True)


# --- two of them ------------------------------------------------------------------


def comparison_blocks(compared: Comparison) -> Iterator[Block]:
    """Yield what differs between two runs: how they ended, what was planned, steps, metrics."""
    a, b = compared.a, compared.b
    yield Facts([("A", _named(a)), ("B", _named(b))])
    yield _outcomes(a, b)
    if compared.plan:
        # A command is longer than any column; below each other two of them are seen to differ.
        lines = [line for each in compared.plan for line in _fact_lines(each)]
        yield Table(("fact", "run", "planned"), lines, title="Planned otherwise", code=("planned",))
    else:
        yield Banner("info", "Both were planned alike")
    steps = [(name, *_step_cells(ours, theirs)) for name, ours, theirs in compared.steps]
    yield Table(("step", "A", "B", "B - A"), steps, title="Steps", numbers=("B - A",))
    metrics = [(name, _metric(ours), _metric(theirs)) for name, ours, theirs in compared.metrics]
    if metrics:
        yield Table(("metric", "A", "B"), metrics, title="Metrics of the watch")


def _named(run: PastRun) -> str:
    begun = run.started_utc[:19].replace("T", " ")
    return _one_line(
        f"{run.run_id}: {run.mode} in {run.environment}, {begun} UTC, by {run.created_by} on {run.host}"
    )


def _seal(run: PastRun) -> str:
    why = "" if run.seal == "sealed" else f": {_one_line(run.seal_sentence)}"
    return f"{_SEALS[run.seal]}{why}"


def _outcomes(a: PastRun, b: PastRun) -> Table:
    facts = {
        "outcome": outcome_of,
        "failed step": lambda run: run.failed_step or _NONE,
        "verdict of the watch": lambda run: mark(run.watch_verdict) if run.watch_verdict else _NONE,
        "tightest margin": _margin,
        "downtime": lambda run: _seconds(run.downtime_seconds),
        "cutover": lambda run: _seconds(run.cutover_seconds),
        "rollback": lambda run: _seconds(run.rollback_seconds),
        "rollback budget": lambda run: _seconds(run.rollback_budget_seconds),
        "taken up again": lambda run: f"{run.restarts} times",
        "record": _seal,
    }
    rows = [(name, fact(a), fact(b)) for name, fact in facts.items()]
    return Table(("end", "A", "B", ""), [(*row, "≠" * (row[1] != row[2])) for row in rows])


def _fact_lines(each: Difference) -> Iterator[tuple[str, str, str]]:
    # Two long commands are shown from a little before where they part.
    pairs = enumerate(zip(each.a, each.b, strict=False))
    alike = next((at for at, (ours, theirs) in pairs if ours != theirs), 0)
    start = max(alike - _BEFORE, 0) if max(len(each.a), len(each.b)) > _LONGEST_FACT else 0
    yield each.what, "A", _fact(each.a, start)
    yield "", "B", _fact(each.b, start)


def _fact(text: str, start: int) -> str:
    if not text:
        return _NONE
    cut = text[start : start + _LONGEST_FACT]
    before, after = "…" * (start > 0), "…" * (start + _LONGEST_FACT < len(text))
    return f"{before}{_one_line(cut)}{after}"


def _step_cells(a: PastStep | None, b: PastStep | None) -> tuple[str, str, str]:
    if a is None or b is None or a.seconds is None or b.seconds is None:
        return _step(a), _step(b), ""
    change = round(b.seconds - a.seconds, 1) + 0.0
    return _step(a), _step(b), f"{change:+.1f} s"


def _step(step: PastStep | None) -> str:
    if step is None:
        return _NONE
    took = f" {step.seconds:.1f} s" if step.seconds is not None else ""
    return f"{mark(step.status)}{took}"


def _metric(metric: PastMetric | None) -> str:
    if metric is None:
        return "– not watched"
    unit = f" {metric.unit}" if metric.unit in ("ms", "s") else ""
    worst = _NONE if metric.worst is None else f"{metric.worst:.4g}"
    return f"{mark(metric.verdict)}, worst {worst} of {metric.limit:.4g}{unit}"
