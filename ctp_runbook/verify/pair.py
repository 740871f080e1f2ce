"""A bare pair of result files against the contract alone: what two texts can prove by themselves.

No journal, no samples, so nothing is recomputed but arithmetic and logic; the report says
"contract only". Evidence of earlier tools is read as well: keys that this project added
(CONTRACT §3) are not required, but are held to their form when they are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from ctp_runbook.model import Outcome, Phase, StepKind
from ctp_runbook.plan.step_table import (
    NO_MEMBER,
    ROLES_BESIDE,
    STEP_TABLE,
    presence_key,
    steps_of,
)
from ctp_runbook.record.kinds import FAILED_BY_CAUSE
from ctp_runbook.record.result_env import ResultEnv, form_findings, number_of, parse_env
from ctp_runbook.verify.report import VerificationReport, checked

__all__ = ["MAX_ROLLBACK_SECONDS", "verify_pair"]

# RUNBOOK §8 calls the verifier with this.
MAX_ROLLBACK_SECONDS = 180.0

# A command that does nothing but say something: not what moves an engine.
_ECHO = re.compile(r"""^\s*(?:bash\s+-l?c\s+)?["']?\s*(?:echo|printf|true|:|exit\s+0)(?![\w/-])""")
_FAILED = re.compile(r" is (failed|timed_out|unknown)\b")
_TOLERANCE_MS = 5.0
_STEPS = {
    "CUTOVER": (*steps_of(Phase.GATE), *steps_of(Phase.SWITCH)),
    "ROLLBACK": steps_of(Phase.ROLLBACK),
}
_CAUSES = {*FAILED_BY_CAUSE.values()}
_LEFT_OUT = {
    spec.name: (f"{presence_key(*spec.acts_on)}={NO_MEMBER}",)
    for spec in STEP_TABLE
    if spec.acts_on and spec.acts_on[1] in ROLES_BESIDE
}
_STOPS = {spec.name for spec in STEP_TABLE if spec.kind is StepKind.STOP}


def verify_pair(
    cutover: Path,
    rollback: Path,
    *,
    allow_cutover_rollback: bool = False,
    max_rollback_seconds: float | None = None,
) -> VerificationReport:
    """Check two bare result files against CONTRACT §3 and each other: the contract only.

    Without ``max_rollback_seconds`` the limit is that of RUNBOOK §8. No age check.
    """
    limit = MAX_ROLLBACK_SECONDS if max_rollback_seconds is None else max_rollback_seconds
    forth, forth_wrong = _read(cutover, "CUTOVER")
    back, back_wrong = _read(rollback, "ROLLBACK")
    due = [
        ("steps", "known steps, in order", _of_both(_step_findings, forth, back)),
        ("arithmetic", "the numbers fit each other", _of_both(_sums, forth, back)),
        ("cutover", "the cutover is consistent", _named(forth, _cutover_findings(forth))),
        ("rollback", "the rollback is consistent", _named(back, _rollback_findings(back, limit))),
        (
            "outcome",
            "the outcome is the one allowed",
            _cross_findings(forth, back, allow=allow_cutover_rollback),
        ),
    ]
    checks = [
        checked("cutover keys", "every key is there, in form", forth_wrong),
        checked("rollback keys", "every key is there, in form", back_wrong),
    ]
    # What is not in form, or not of a real run, is asked nothing more.
    if all(check.ok for check in checks):
        checks.append(checked("real", "both are of a real run", _real_findings(forth, back)))
    if all(check.ok for check in checks):
        checks += [checked(*check) for check in due]
    return VerificationReport(f"{cutover} {rollback}", tuple(checks), contract_only=True)


def _read(path: Path, prefix: str) -> tuple[ResultEnv, list[str]]:
    values, problems = parse_env(path)
    env = ResultEnv(path.name, prefix, values)
    # Of a file that cannot be read it need not be said that each key is missing.
    is_unread = problems and not values
    return env, problems if is_unread else [*problems, *form_findings(env)]


def _named(env: ResultEnv, findings: Iterable[str]) -> Iterator[str]:
    return (f"{env.name}: {finding}" for finding in findings)


def _of_both(find: Callable[[ResultEnv], Iterable[str]], *envs: ResultEnv) -> Iterator[str]:
    return (finding for env in envs for finding in _named(env, find(env)))


def _real_findings(cutover: ResultEnv, rollback: ResultEnv) -> Iterator[str]:
    yield from _of_both(_dry_findings, cutover, rollback)
    commands = [env.step(n, "COMMAND") for env in (cutover, rollback) for n in env.numbers]
    if commands and all(map(_ECHO.match, commands)):
        yield "every command only echoes: such a plan moves nothing, and its success proves nothing"


def _dry_findings(env: ResultEnv) -> Iterator[str]:
    if env.text("DRY_RUN") != "0":
        key = f"{env.prefix}_DRY_RUN"
        yield f"{key} is {env.text('DRY_RUN')}: a dry run never verifies as a real one"
    simulated = [n for n in env.numbers if env.step(n, "STATUS") == "simulated_ok"]
    if simulated:
        yield f"{len(simulated)} steps are simulated_ok: nothing was done"


def _step_findings(env: ResultEnv) -> Iterator[str]:
    """Known names, each once, in the runbook's order, and none left out."""
    due = _STEPS[env.prefix] if env.steps else ()
    names = [env.step(number, "NAME") for number in env.numbers]
    for number, name in enumerate(names, start=1):
        if name not in due:
            yield f"STEP_{number}_NAME {name!r} is no such step of the runbook"
    known = [name for name in names if name in due]
    if known != sorted(set(known), key=due.index):
        yield "the steps do not stand in the runbook's order, each once"
    missing = [name for name in due if name not in names]
    if missing and env.flag("SUCCESS"):
        yield f"a success without {', '.join(missing)}"


def _sums(env: ResultEnv) -> Iterator[str]:
    started, completed = env.text("STARTED_UTC"), env.text("COMPLETED_UTC")
    duration = env.seconds("DURATION_SECONDS")
    if not started and not completed and not env.flag("TRIGGERED"):
        if duration:
            yield f"{duration:g} s, and neither a start nor an end"
        return
    key, span = f"{env.prefix}_DURATION_SECONDS", _span(started, completed)
    # Instants are the wall clock's, durations are not: where it was set, the file says by how much.
    set_by = env.seconds("CLOCK_SET_SECONDS") if env.text("CLOCK_SET_SECONDS") else 0.0
    span = None if span is None else span - set_by
    # Evidence of earlier tools has instants of whole seconds.
    tolerance = 0.002 if "." in started and "." in completed else 1.5
    if span is None or span < 0:
        yield f"from {started!r} to {completed!r} is no span of UTC time"
    elif not abs(span - duration) <= tolerance:
        less = f", less the {set_by:.3f} s by which the clock was set" if set_by else ""
        yield f"from {started} to {completed} are {span:.3f} s{less}; {key} says {duration:.3f}"
    steps = sum(number_of(env.step(number, "DURATION_MS")) for number in env.numbers)
    if steps > duration * 1000 + _TOLERANCE_MS * (1 + env.steps):
        yield f"the steps took {steps / 1000:.3f} s together; {key} says {duration:.3f}"


def _cutover_findings(env: ResultEnv) -> Iterator[str]:
    failed, success = env.text("FAILED_STEP"), env.flag("SUCCESS")
    bad = _bad_steps(env)
    if success:
        yield from _success_findings(env, bad)
    elif failed not in {*_STEPS["CUTOVER"], *_CAUSES, "aborted", "preflight"}:
        yield f"CUTOVER_FAILED_STEP {failed!r} names no step and no cause"
    elif failed in _STEPS["CUTOVER"] and not any(f"{failed} is" in step for step in bad):
        yield f"CUTOVER_FAILED_STEP {failed} has a status that is no failure"
    if failed in _CAUSES and any(map(_FAILED.search, bad)):
        yield f"CUTOVER_FAILED_STEP is {failed}, but {'; '.join(bad)}"
    outcome = env.values.get("CUTOVER_OUTCOME")
    if outcome is not None and success != (outcome == Outcome.COMPLETED.value):
        yield f"CUTOVER_SUCCESS is {env.text('SUCCESS')} with the outcome {outcome!r}"


def _success_findings(env: ResultEnv, bad: list[str]) -> Iterator[str]:
    """What does not go together with CUTOVER_SUCCESS=true."""
    if failed := env.text("FAILED_STEP"):
        yield f"CUTOVER_SUCCESS is true with CUTOVER_FAILED_STEP {failed}"
    if bad:
        yield f"CUTOVER_SUCCESS is true, but {'; '.join(bad)}"
    if env.seconds("DURATION_SECONDS") < env.seconds("MONITOR_MINUTES") * 60:
        yield (
            f"a success in {env.text('DURATION_SECONDS')} s; the watch alone takes "
            f"{env.text('MONITOR_MINUTES')} minutes (CUTOVER_MONITOR_MINUTES)"
        )
    verdict = env.values.get("CUTOVER_WATCH_VERDICT", "PASSED")
    if verdict != "PASSED":
        yield f"CUTOVER_SUCCESS is true with CUTOVER_WATCH_VERDICT {verdict}"
    if env.text("WATCH_SAMPLES") == "0":
        yield "CUTOVER_SUCCESS is true without a sample of the watch"


def _rollback_findings(env: ResultEnv, limit: float) -> Iterator[str]:
    success, failed = env.flag("SUCCESS"), env.text("FAILED_STEP")
    if not env.flag("TRIGGERED"):
        if env.steps or failed:
            yield "steps or a failed step, and ROLLBACK_TRIGGERED is false"
        return
    seconds, budget = env.seconds("DURATION_SECONDS"), env.seconds("MAX_SECONDS")
    bad, in_time, slo_met = _bad_steps(env), seconds <= budget, env.flag("SLO_MET")
    if success == bool(failed):
        yield f"ROLLBACK_SUCCESS is {env.text('SUCCESS')} with ROLLBACK_FAILED_STEP {failed!r}"
    if success and bad:
        yield f"ROLLBACK_SUCCESS is true, but {'; '.join(bad)}"
    if slo_met > in_time or (success and in_time and not slo_met):
        yield (
            f"ROLLBACK_SLO_MET is {env.text('SLO_MET')}; {seconds:.3f} s were taken of "
            f"ROLLBACK_MAX_SECONDS {budget:g}"
        )
    if success and not in_time:
        yield f"a success after {seconds:.3f} s; ROLLBACK_MAX_SECONDS is {budget:g}"
    if not seconds <= limit:
        yield f"the rollback took {seconds:.3f} s > --max-rollback-seconds {limit:g}"
    if not env.text("STARTED_UTC") or not env.text("COMPLETED_UTC"):
        yield "a rollback without start or end"
    outcome = env.values.get("ROLLBACK_OUTCOME")
    if outcome is not None and success != (outcome == Outcome.ROLLED_BACK_IN_BUDGET.value):
        yield f"ROLLBACK_SUCCESS is {env.text('SUCCESS')} with the outcome {outcome!r}"


def _cross_findings(cutover: ResultEnv, rollback: ResultEnv, *, allow: bool) -> Iterator[str]:
    success, triggered = cutover.flag("SUCCESS"), rollback.flag("TRIGGERED")
    failed = f"CUTOVER_SUCCESS is false ({cutover.text('FAILED_STEP')})"
    if cutover.flag("TRIGGERED_ROLLBACK") != triggered:
        yield "CUTOVER_TRIGGERED_ROLLBACK and ROLLBACK_TRIGGERED differ"
    if cutover.text("ENV") != rollback.text("ENV"):
        yield f"CUTOVER_ENV {cutover.text('ENV')} and ROLLBACK_ENV {rollback.text('ENV')} differ"
    keys = {f"{env.prefix}_RUN_ID": env for env in (cutover, rollback)}
    ids = {env.values[key] for key, env in keys.items() if key in env.values}
    if len(ids) > 1:
        yield f"the two files are of different runs: {', '.join(sorted(ids))}"
    if success and triggered:
        yield "CUTOVER_SUCCESS is true, and yet it was rolled back"
    if not success and not allow:
        yield (
            f"{failed}; expected true (a drill that is to roll back verifies with "
            "--allow-cutover-rollback)"
        )
    if not success and not triggered:
        yield f"{failed}, and nothing was rolled back"
    if triggered and not rollback.flag("SUCCESS"):
        yield f"the rollback failed ({rollback.text('FAILED_STEP')})"
    begun, taken_over = rollback.text("STARTED_UTC"), cutover.text("STARTED_UTC")
    # Of a clock that was set before the trigger the two instants say nothing.
    was_set = bool(cutover.text("CLOCK_SET_SECONDS"))
    if triggered and not was_set and (_span(taken_over, begun) or 0.0) < 0:
        yield f"the rollback's clock starts at {begun}, before the cutover began ({taken_over})"


def _bad_steps(env: ResultEnv) -> list[str]:
    """Steps that are no success; in a rollback a stop that failed may have been made good."""
    bad = []
    for number in env.numbers:
        name, status = env.step(number, "NAME"), env.step(number, "STATUS")
        allowed = {"ok"}
        # The line that says that there is no such part stands where the command of its step would.
        if env.step(number, "COMMAND") in _LEFT_OUT.get(name, ()):
            allowed = {"skipped"}
        elif env.prefix == "ROLLBACK":
            allowed |= {"skipped"} if name != "post_rollback_validate" else set()
            allowed |= {"failed", "timed_out"} if name in _STOPS else set()
        if status not in allowed:
            code = env.step(number, "EXIT_CODE")
            bad.append(f"step {name} is {status}{f' with exit code {code}' if code else ''}")
    return bad


def _span(started: str, completed: str) -> float | None:
    """Seconds between two instants in UTC; None where one is no such instant."""
    try:
        begin, end = datetime.fromisoformat(started), datetime.fromisoformat(completed)
    except ValueError:
        return None
    if begin.utcoffset() is None or begin.utcoffset() != end.utcoffset():
        return None
    return (end - begin).total_seconds()
