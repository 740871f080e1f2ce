"""What a reviewer asks first of a run: who runs now, what it does not prove, and who did what to it.

Every word is the record's own, or the record's lack of one, which is said as that.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

from ctp_runbook import __version__
from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, StepStatus, Verdict
from ctp_runbook.probes.trading_state import TradingState
from ctp_runbook.record import kinds
from ctp_runbook.record.evidence import unobserved_steps
from ctp_runbook.record.formats import FORMAT
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Banner, Block, Facts, Table, symbol_of
from ctp_runbook.show.run_blocks import read_readiness
from ctp_runbook.watch.judge import WindowJudgement

__all__ = ["handover_blocks", "not_proved", "provenance", "who_runs"]

_READINESS = ("ctp_readiness_precheck.json", "ctp_readiness_rollback.json")
_NOTHING = "nothing on record"
_UNTOLD = f"not on record; its record is of format {FORMAT}"
_LEFT_OUT = "; not compared: "
_GENERATIONS = {Generation.NEW: "new stack", Generation.OLD: "old stack"}
# Of a trading state, in the order a reader asks; what a position or a fund is called follows.
_STATE_FACTS = (
    *("td_session", "md_session", "settlement_confirmed", "stream_drained", "trading_day"),
    *("max_order_ref", "next_order_ref"),
)
_MOST_ROWS = 30


def who_runs(history: History) -> str:
    """Return what the last look saw of either stack, and when; why there was none."""
    if history.closed is None:
        return "the run is not over: no last look was taken yet"
    if not (seen := history.closed.payload.running):
        return "nobody was looked at"
    words = [
        f"{name} {states}"
        for generation, name in _GENERATIONS.items()
        if (states := _states_of(seen, generation))
    ]
    return f"{'; '.join(words)} (last look, by {history.closed.wall:%H:%M:%S}Z)"


def _states_of(seen: Mapping[str, str], generation: Generation) -> str:
    """``alive`` where all of a stack is; else each part's own word."""
    parts = {
        name.removeprefix(f"{generation}_").replace("_", " "): state
        for name, state in seen.items()
        if name.startswith(f"{generation}_")
    }
    if len(set(parts.values())) == 1:
        (state,) = set(parts.values())
        return f"{symbol_of(state)} {state}".strip()
    return ", ".join(f"{name} {symbol_of(state)} {state}" for name, state in parts.items())


def not_proved(run: RunDir, history: History, judged: WindowJudgement | None) -> Facts:
    """Return what was declared, not compared, not measured, inconclusive or left out; each kind
    has its line, for a line that is missing would look like nothing of the kind."""
    sentences: Mapping[str, Iterator[str]] = {
        "overridden": _overridden(history),
        "declared": iter(history.plan.declared),
        "not compared": _not_compared(history),
        "not measured": _not_measured(run, history),
        "inconclusive": _inconclusive(history, judged),
        "not done": _not_done(history),
    }
    return Facts(
        [(name, "; ".join(dict.fromkeys(said)) or _NOTHING) for name, said in sentences.items()],
        title="Not proved by this run",
    )


def _overridden(history: History) -> Iterator[str]:
    created = history.created
    for name, reason in created.overrides.items():
        yield f"{kinds.override_name(name)}: {reason}"
    if created.short_watch_reason:
        yield f"a watch shorter than limits.min_watch_minutes: {created.short_watch_reason}"


def _not_compared(history: History) -> Iterator[str]:
    """What of the handover and of the two engines' metrics was left out."""
    for record in history.of_kind(kinds.ProbeAnswered):
        if record.payload.question == "trading_state" and _LEFT_OUT in record.payload.observed:
            yield f"handover: {record.payload.observed.partition(_LEFT_OUT)[2]}"
    missing = [name for name, state in _states(history).items() if state is None]
    if missing and not history.is_dry_run:
        yield f"handover: no trading state of the {' nor of the '.join(missing)} is on record"
    if history.watch_ended is None:
        yield "old engine against new: no watch came to its end"
        return
    baseline = history.watch_ended.payload.baseline
    if baseline is None:
        yield "old engine against new: no verdict rests on it"
        return
    if not baseline.metrics:
        yield f"old engine against new: {baseline.sentence}"
    few = [name for name, metric in baseline.metrics.items() if metric.median is None is metric.p99]
    if few:
        yield f"old engine against new, too few values: {', '.join(few)}"


def _not_measured(run: RunDir, history: History) -> Iterator[str]:
    """SLIs nobody could measure, gates without evidence, and time of the watch nobody sampled."""
    where: dict[str, list[str]] = {}
    for name in _READINESS:
        if not (path := run.evidence / name).is_file():
            continue
        report = read_readiness(path)
        cannot = [sli.name for sli in report.slis if sli.is_unmeasurable]
        absent = report.metadata.not_in_this_environment
        for what, names in (("measurable", cannot), ("in this environment", absent)):
            if names:
                where.setdefault(f"not {what}: {', '.join(names)}", []).append(name)
    for words, files in where.items():
        yield f"{words} ({', '.join(files)})"
    yield from unobserved_steps(run, history).values()
    for gap in history.of_kind(kinds.WatchGap):
        yield f"no sample from {gap.payload.from_utc} to {gap.payload.to_utc}: {gap.payload.reason}"
    for disturbed in history.of_kind(kinds.WatchDisturbed):
        yield disturbed.payload.sentence


def _inconclusive(history: History, judged: WindowJudgement | None) -> Iterator[str]:
    """Metrics that were to be watched and have no verdict either way."""
    keys = ", ".join(history.plan.monitor_keys)
    if history.watch_started is None:
        yield f"nothing was watched: {keys}"
    elif judged is None:
        yield f"the samples cannot be judged again: {keys}"
    else:
        for verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR):
            names = [name for name, metric in judged.metrics.items() if metric.verdict is verdict]
            if names:
                yield f"{verdict.name}: {', '.join(names)}"


def _not_done(history: History) -> Iterator[str]:
    """Steps that the plan leaves out; steps of gates and switch that were not reached."""
    for name, reason in history.plan.left_out.items():
        yield f"{name}: {reason}"
    steps = [step.name for step in history.plan.steps if step.phase != "rollback"]
    ended = {name: history.step(name).status for name in steps}
    left = [name for name, status in ended.items() if status is StepStatus.NOT_RUN]
    if left := [name for name in left if name not in history.plan.left_out]:
        yield f"not run: {', '.join(left)}"
    simulated = [name for name, status in ended.items() if status is StepStatus.SIMULATED_OK]
    if simulated:
        yield f"simulated: {', '.join(simulated)}"


def provenance(history: History) -> list[Block]:
    """Return who planned, confirmed and steered the run, where, with what, when, in which boot."""
    created, records = history.created, history.records
    begun, ended = records[0], history.closed
    boots = list(dict.fromkeys(record.boot_id for record in records))
    pairs: list[tuple[str, object]] = [
        ("planned by", f"{created.created_by} on {created.host}, from {created.cwd}"),
        ("why", created.reason or "no reason given"),
        ("confirmed by", _confirmed(history)),
        ("created", f"{begun.wall:%Y-%m-%d %H:%M:%S}Z"),
        ("ended", f"{ended.wall:%Y-%m-%d %H:%M:%S}Z" if ended else "not over"),
        ("boot id", ", then ".join(boots)),
        ("plan sha256", created.plan_sha256),
        ("tool of the run", created.tool.words if created.tool else _UNTOLD),
        ("tool of this page", f"ctp_runbook {__version__}"),
    ]
    blocks: list[Block] = [Facts(pairs, "Provenance")]
    if rows := list(_steered(history)):
        columns = ("UTC", "what", "by", "why", "answer")
        blocks.append(Table(columns, rows, "Who steered, and who took it up"))
    return blocks


def _confirmed(history: History) -> str:
    asked = [record.payload for record in history.of_kind(kinds.RequestTaken)]
    goes = [
        f"{go.by} ({go.reason}), {_clock(go.requested_utc)}" for go in asked if go.request == "go"
    ]
    return "; ".join(goes) or "nobody: no go is on record"


def _steered(history: History) -> Iterator[tuple[str, str, str, str, str]]:
    """A line a request, and a line whoever took the run up again or started its guardian again."""
    answers = {
        (record.payload.request, record.payload.file): record.payload
        for record in history.of_kind(kinds.RequestAnswered)
    }
    for record in history.records:
        said, when = record.payload, f"{record.wall:%H:%M:%S}Z"
        if isinstance(said, kinds.RequestTaken):
            answer = answers.get((said.request, said.file))
            words = answer.sentence if answer else "none on record"
            if answer and not answer.obeyed:
                words = f"not obeyed: {words}"
            yield when, said.request, said.by, said.reason, words
        elif isinstance(said, kinds.OrchestratorStarted) and said.resumed:
            yield when, "taken up again", f"pid {record.writer.pid}", said.reason, ""
        elif isinstance(said, kinds.GuardianStarted):
            yield when, "guardian started again", f"pid {record.writer.pid}", said.reason, ""


def _clock(utc: str) -> str:
    try:
        return f"{datetime.fromisoformat(utc):%H:%M:%S}Z"
    except ValueError:
        return utc


def handover_blocks(history: History) -> Iterator[Block]:
    """Show what the old engine left beside what the new one knew, fact by fact."""
    old, new = _states(history).values()
    if old is None and new is None:
        yield Banner("info", "No handover on record", "no trading state was read of either engine")
        return
    before, after = _facts_of(old), _facts_of(new)
    rows = [
        (name, before.get(name, "–"), after.get(name, "–"), _compared(name, before, after))
        for name in dict.fromkeys((*before, *after))
    ]
    if (more := len(rows) - _MOST_ROWS) > 0:
        rows[_MOST_ROWS:] = [(f"and {more} more", "", "", "")]
    title = "Handover: what the old engine left, and what the new one knew"
    yield Table(("fact", "old engine", "new engine", "as told"), rows, title)


def _compared(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if name not in before or name not in after:
        return "told by one alone"
    return "same" if before[name] == after[name] else "differs"


def _states(history: History) -> dict[str, TradingState | None]:
    """The last trading state of the old engine before the new one's, and the new one's last."""
    states: dict[str, TradingState | None] = {"old engine": None, "new engine": None}
    for record in history.of_kind(kinds.TradingStateRead):
        if record.payload.member.startswith(f"{Generation.NEW}_"):
            states["new engine"] = _state_of(record.payload)
        elif states["new engine"] is None:
            states["old engine"] = _state_of(record.payload)
    return states


def _state_of(read: kinds.TradingStateRead) -> TradingState | None:
    # As far as it says anything: what of it is compared was asked for when it was read.
    with contextlib.suppress(ProbeError):
        return TradingState.of(read.state, subject=read.member, compares=())
    return None


def _facts_of(state: TradingState | None) -> dict[str, str]:
    """A trading state as names and words; positions and funds a line each."""
    if state is None:
        return {}
    known = {name: getattr(state, name) for name in _STATE_FACTS}
    facts = {name: _word(value) for name, value in known.items() if value is not None}
    if state.working_orders is not None:
        facts["working orders"] = str(len(state.working_orders))
    if state.positions is not None:
        held: Counter[str] = Counter()
        for position in state.positions:
            held[f"{position.instrument} {position.direction} {position.hedge_flag}"] += (
                position.volume
            )
        facts["positions"] = str(len(held))
        facts |= {f"position {name}": str(volume) for name, volume in sorted(held.items())}
    return facts | {f"funds {name}": _word(held) for name, held in (state.funds or {}).items()}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
