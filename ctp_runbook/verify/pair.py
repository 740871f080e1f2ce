"""A bare pair of result files against the contract alone: what two texts can prove by themselves.

No journal, no samples, so nothing is recomputed but arithmetic and logic; the report says
"contract only". Evidence of earlier tools is read as well: keys that this project added
(CONTRACT §3) are not required, but are held to their form when they are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ctp_runbook.model import Outcome, Phase, StepKind
from ctp_runbook.plan.step_table import STEP_TABLE, StepSpec
from ctp_runbook.record.kinds import FAILED_BY_CAUSE
from ctp_runbook.record.result_env import ResultEnv, form_findings, number_of, parse_env
from ctp_runbook.verify.report import Check, VerificationReport, checked

__all__ = ["MAX_ROLLBACK_SECONDS", "judge_pair"]

# RUNBOOK §8 calls the verifier with this.
MAX_ROLLBACK_SECONDS = 180.0

# A command that does nothing but say something: not what moves an engine.
_ECHO = re.compile(r"""^\s*(?:bash\s+-l?c\s+)?["']?\s*(?:echo|printf|true|:|exit\s+0)(?![\w/-])""")
_FAILED = re.compile(r" is (failed|timed_out|unknown)\b")
_TOLERANCE_MS = 5.0


def judge_pair(
    cutover: Path,
    rollback: Path,
    *,
    allow_cutover_rollback: bool,
    max_rollback_seconds: float,
) -> VerificationReport:
    """Check two result files against CONTRACT §3 and each other; no age check."""
    subject = f"{cutover} {rollback}"
    checks: list[Check] = []
    envs: list[ResultEnv] = []
    for path, prefix in ((cutover, "CUTOVER"), (rollback, "ROLLBACK")):
        values, problems = parse_env(path)
        env = ResultEnv(path.name, prefix, values)
        found = [*problems, *form_findings(env)] if values or not problems else problems
        checks.append(checked(f"{prefix.lower()} keys", "every key is there, in form", found))
        envs.append(env)
    if all(check.ok for check in checks):
        checks.append(checked("real", "both are of a real run", _real_findings(*envs)))
    if all(check.ok for check in checks):
        one, two = envs
        cross = _cross_findings(one, two, allow=allow_cutover_rollback)
        checks += [
            checked("steps", "known steps, in order", _all_step_findings(one, two)),
            checked("arithmetic", "the numbers fit each other", _sums(one, two)),
            checked("cutover", "the cutover is consistent", _cutover_findings(one)),
            checked(
                "rollback",
                "the rollback is consistent",
                _rollback_findings(two, limit=max_rollback_seconds),
            ),
            checked("outcome", "the outcome is the one allowed", cross),
        ]
    return VerificationReport(subject, tuple(checks), contract_only=True)


def _real_findings(cutover: ResultEnv, rollback: ResultEnv) -> Iterator[str]:
    for env in (cutover, rollback):
        if env.text("DRY_RUN") != "0":
            yield (
                f"{env.name}: {env.prefix}_DRY_RUN is {env.text('DRY_RUN')}: a dry run never "
                "verifies as a real one"
            )
        simulated = [n for n in env.numbers if env.step(n, "STATUS") == "simulated_ok"]
        if simulated:
            yield f"{env.name}: {len(simulated)} steps are simulated_ok: nothing was done"
    commands = [
        env.step(number, "COMMAND") for env in (cutover, rollback) for number in env.numbers
    ]
    if commands and all(_ECHO.match(command) for command in commands):
        yield "every command only echoes: such a plan moves nothing, and its success proves nothing"


def _all_step_findings(cutover: ResultEnv, rollback: ResultEnv) -> Iterator[str]:
    """Known names, each once, in the runbook's order, and none left out."""
    for env in (cutover, rollback):
        due = [spec.name for spec in _specs(env)] if env.steps else []
        given = [env.step(number, "NAME") for number in env.numbers]
        for number, name in enumerate(given, start=1):
            if name not in due:
                yield f"{env.name}: STEP_{number}_NAME {name!r} is no such step of the runbook"
        known = [name for name in given if name in due]
        if known != sorted(set(known), key=due.index):
            yield f"{env.name}: the steps do not stand in the runbook's order, each once"
        missing = [name for name in due if name not in given]
        if missing and env.flag("SUCCESS"):
            yield f"{env.name}: a success without {', '.join(missing)}"


def _specs(env: ResultEnv) -> list[StepSpec]:
    rolls_back = env.prefix == "ROLLBACK"
    return [spec for spec in STEP_TABLE if (spec.phase is Phase.ROLLBACK) == rolls_back]


def _sums(cutover: ResultEnv, rollback: ResultEnv) -> Iterator[str]:
    for env in (cutover, rollback):
        started, completed = env.text("STARTED_UTC"), env.text("COMPLETED_UTC")
        duration = env.seconds("DURATION_SECONDS")
        if not started and not completed and not env.flag("TRIGGERED"):
            if duration:
                yield f"{env.name}: {duration:g} s, and neither a start nor an end"
            continue
        span = _span(started, completed)
        # Evidence of earlier tools has instants of whole seconds.
        tolerance = 0.002 if "." in started and "." in completed else 1.5
        if span is None or span < 0:
            yield f"{env.name}: from {started!r} to {completed!r} is no span of UTC time"
        elif abs(span - duration) > tolerance:
            yield (
                f"{env.name}: from {started} to {completed} are {span:.3f} s; "
                f"{env.prefix}_DURATION_SECONDS says {duration:.3f}"
            )
        steps = sum(number_of(env.step(n, "DURATION_MS")) for n in env.numbers)
        if steps > duration * 1000 + _TOLERANCE_MS * (1 + env.steps):
            yield (
                f"{env.name}: the steps took {steps / 1000:.3f} s together; "
                f"{env.prefix}_DURATION_SECONDS says {duration:.3f}"
            )


def _cutover_findings(env: ResultEnv) -> Iterator[str]:
    failed, success = env.text("FAILED_STEP"), env.flag("SUCCESS")
    names = {spec.name for spec in _specs(env)}
    bad = _bad_steps(env)
    if success and failed:
        yield f"{env.name}: CUTOVER_SUCCESS is true with CUTOVER_FAILED_STEP {failed}"
    if not success and failed not in {*names, *FAILED_BY_CAUSE.values(), "aborted", "preflight"}:
        yield f"{env.name}: CUTOVER_FAILED_STEP {failed!r} names no step and no cause"
    if success and bad:
        yield f"{env.name}: CUTOVER_SUCCESS is true, but {'; '.join(bad)}"
    if not success and failed in names and not any(f"{failed} is" in one for one in bad):
        yield f"{env.name}: CUTOVER_FAILED_STEP {failed} has a status that is no failure"
    if failed in FAILED_BY_CAUSE.values() and any(_FAILED.search(one) for one in bad):
        yield f"{env.name}: CUTOVER_FAILED_STEP is {failed}, but {'; '.join(bad)}"
    if success and env.seconds("DURATION_SECONDS") < env.seconds("MONITOR_MINUTES") * 60:
        yield (
            f"{env.name}: a success in {env.text('DURATION_SECONDS')} s; the watch alone takes "
            f"{env.text('MONITOR_MINUTES')} minutes (CUTOVER_MONITOR_MINUTES)"
        )
    verdict = env.values.get("CUTOVER_WATCH_VERDICT")
    if success and verdict not in (None, "PASSED"):
        yield f"{env.name}: CUTOVER_SUCCESS is true with CUTOVER_WATCH_VERDICT {verdict}"
    if success and env.values.get("CUTOVER_WATCH_SAMPLES") == "0":
        yield f"{env.name}: CUTOVER_SUCCESS is true without a sample of the watch"
    outcome = env.values.get("CUTOVER_OUTCOME")
    if outcome is not None and success != (outcome == Outcome.COMPLETED.value):
        yield f"{env.name}: CUTOVER_SUCCESS is {env.text('SUCCESS')} with the outcome {outcome!r}"


def _rollback_findings(env: ResultEnv, *, limit: float) -> Iterator[str]:
    if not env.flag("TRIGGERED"):
        if env.steps or env.text("FAILED_STEP"):
            yield f"{env.name}: steps or a failed step, and ROLLBACK_TRIGGERED is false"
        return
    success, failed = env.flag("SUCCESS"), env.text("FAILED_STEP")
    seconds, budget = env.seconds("DURATION_SECONDS"), env.seconds("MAX_SECONDS")
    bad = _bad_steps(env)
    if success == bool(failed):
        yield (
            f"{env.name}: ROLLBACK_SUCCESS is {env.text('SUCCESS')} with ROLLBACK_FAILED_STEP "
            f"{failed!r}"
        )
    if success and bad:
        yield f"{env.name}: ROLLBACK_SUCCESS is true, but {'; '.join(bad)}"
    in_time = seconds <= budget
    if env.flag("SLO_MET") > in_time or (success and in_time and not env.flag("SLO_MET")):
        yield (
            f"{env.name}: ROLLBACK_SLO_MET is {env.text('SLO_MET')}; {seconds:.3f} s were taken of "
            f"ROLLBACK_MAX_SECONDS {budget:g}"
        )
    if success and not in_time:
        yield f"{env.name}: a success after {seconds:.3f} s; ROLLBACK_MAX_SECONDS is {budget:g}"
    if not seconds <= limit:
        yield f"{env.name}: the rollback took {seconds:.3f} s > --max-rollback-seconds {limit:g}"
    if not env.text("STARTED_UTC") or not env.text("COMPLETED_UTC"):
        yield f"{env.name}: a rollback without start or end"
    outcome = env.values.get("ROLLBACK_OUTCOME")
    if outcome is not None and success != (outcome == Outcome.ROLLED_BACK_IN_BUDGET.value):
        yield f"{env.name}: ROLLBACK_SUCCESS is {env.text('SUCCESS')} with the outcome {outcome!r}"


def _cross_findings(cutover: ResultEnv, rollback: ResultEnv, *, allow: bool) -> Iterator[str]:
    success, triggered = cutover.flag("SUCCESS"), rollback.flag("TRIGGERED")
    if cutover.flag("TRIGGERED_ROLLBACK") != triggered:
        yield "CUTOVER_TRIGGERED_ROLLBACK and ROLLBACK_TRIGGERED differ"
    if cutover.text("ENV") != rollback.text("ENV"):
        yield f"CUTOVER_ENV {cutover.text('ENV')} and ROLLBACK_ENV {rollback.text('ENV')} differ"
    ids = {v for e in (cutover, rollback) if (v := e.values.get(f"{e.prefix}_RUN_ID")) is not None}
    if len(ids) > 1:
        yield f"the two files are of different runs: {', '.join(sorted(ids))}"
    if success and triggered:
        yield "CUTOVER_SUCCESS is true, and yet it was rolled back"
    if not success and not allow:
        yield (
            f"CUTOVER_SUCCESS is false ({cutover.text('FAILED_STEP')}); expected true (a drill "
            "that is to roll back verifies with --allow-cutover-rollback)"
        )
    if not success and not triggered:
        yield (
            f"CUTOVER_SUCCESS is false ({cutover.text('FAILED_STEP')}), and nothing was rolled back"
        )
    if triggered and not rollback.flag("SUCCESS"):
        yield f"the rollback failed ({rollback.text('FAILED_STEP')})"
    begun, taken_over = rollback.text("STARTED_UTC"), cutover.text("STARTED_UTC")
    if triggered and (_span(taken_over, begun) or 0.0) < 0:
        yield f"the rollback's clock starts at {begun}, before the cutover began ({taken_over})"


def _bad_steps(env: ResultEnv) -> list[str]:
    """Steps that are no success; in a rollback a stop that failed may have been made good."""
    kinds = {spec.name: spec.kind for spec in STEP_TABLE}
    found = []
    for number in env.numbers:
        name, status = env.step(number, "NAME"), env.step(number, "STATUS")
        allowed = {"ok"}
        if env.prefix == "ROLLBACK":
            allowed |= {"skipped"} if name != "post_rollback_validate" else set()
            allowed |= {"failed", "timed_out"} if kinds.get(name) is StepKind.STOP else set()
        if status not in allowed:
            code = env.step(number, "EXIT_CODE")
            found.append(f"step {name} is {status}{f' with exit code {code}' if code else ''}")
    return found


def _span(started: str, completed: str) -> float | None:
    try:
        begin, end = datetime.fromisoformat(started), datetime.fromisoformat(completed)
        if begin.utcoffset() is None or begin.utcoffset() != end.utcoffset():
            return None
        return (end - begin).total_seconds()
    except ValueError:
        return None
