"""What a journal record may say: one frozen type a kind, which is its form, its schema and its reader.

Decoding validates: a key that is missing, unknown or of another type is refused, by its name. What
has a default is left out of the file where it has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from ctp_runbook.model import Outcome, Phase, State, StepKind, StepStatus
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.step_table import members_left
from ctp_runbook.plan.timing import Measured
from ctp_runbook.record.formats import FORMAT

__all__ = [
    "FAILED_BY_CAUSE",
    "KINDS",
    "NOT_PROVED",
    "ActEnded",
    "ActStarted",
    "AlertEnded",
    "AlertSent",
    "BaselineEnded",
    "Cause",
    "Closed",
    "Comparison",
    "ComparisonFacts",
    "Completed",
    "Count",
    "Digest",
    "Digests",
    "Disturbed",
    "Duration",
    "Facts",
    "Finding",
    "GuardianFacts",
    "GuardianStarted",
    "Instant",
    "Judged",
    "MemberPinned",
    "MetricEnd",
    "MetricVerdict",
    "Name",
    "OrchestratorStarted",
    "OwnName",
    "OwnNames",
    "OwnText",
    "OwnTexts",
    "ParentAdopted",
    "Payload",
    "PlanFacts",
    "PlanFiles",
    "PlannedStep",
    "ProbeAnswered",
    "Process",
    "RequestAnswered",
    "RequestName",
    "RequestTaken",
    "RollbackStarted",
    "RunCreated",
    "Severity",
    "Sha256",
    "Shares",
    "Shift",
    "StateEntered",
    "StepEnded",
    "StepNotDone",
    "StepStarted",
    "ToolFacts",
    "TradingStateRead",
    "Triggered",
    "VerdictName",
    "WatchDisturbed",
    "WatchEnded",
    "WatchFacts",
    "WatchGap",
    "WatchStarted",
    "override_name",
]

# The override that no flag gives: what of a session no source tells, by the template's reasons.
NOT_PROVED = "session_not_proved"
# What a machine counts in 64 bits: of a larger number no seconds can be made.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Duration = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"\S")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
# None where there was nothing to digest.
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
# As ``utc_text`` writes it: UTC, microseconds.
Instant = Annotated[
    str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$", max_length=32)
]
# Pid and start ticks.
Process = tuple[Count, Count]
# A name of this project's own giving: of a run, a step, a member, a metric, a file of the run.
OwnName = Annotated[str, Meta(pattern=r"\S")]
OwnNames = tuple[OwnName, ...]
OwnText = str
OwnTexts = dict[str, str]
Digests = dict[str, Sha256]
Shares = dict[str, float]
RequestName = Literal["go", "abort", "hold", "resume", "rollback"]
Disturbed = Literal["paused", "suspended", "clock_stepped"]
Severity = Literal["info", "warning", "critical"]
Completed = Literal["COMPLETED"]
VerdictName = Literal["PASSED", "INCONCLUSIVE", "ERROR", "FAILED"]
Cause = Literal[
    "forced_drill",
    "metric",
    "judge",
    "member_died",
    "hold_expired",
    "operator",
    "resume",
    "step_failed",
]

# CUTOVER_FAILED_STEP when it was no step that failed: why the rollback was triggered.
FAILED_BY_CAUSE: Mapping[Cause, str] = {
    "forced_drill": "forced_drill",
    "metric": "watch_trigger",
    "judge": "watch_judge",
    "member_died": "member_died",
    "hold_expired": "hold_expired",
    "operator": "operator_rollback",
    "resume": "resume",
    "step_failed": "step_failed",
}


# Types of fields that hold a word, a name, a digest or an instant of ours: no secret stands there,
# whatever somebody's secret is, and masked they would be no record, or that of another step.
_OURS = frozenset(
    (
        *("Cause", "Completed", "Digest", "Digests", "Disturbed", "Instant", "OwnName", "OwnNames"),
        *("OwnText", "OwnTexts", "RequestName", "Severity", "Sha256", "Shares", "VerdictName"),
    )
)
_ENDS = (StepStatus.OK, StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.UNKNOWN)


class Facts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Part of a record."""

    @classmethod
    @cache
    def own_words(cls) -> frozenset[str]:
        """Return the fields that redaction leaves as they are."""
        return frozenset(name for name, kind in cls.__annotations__.items() if kind in _OURS)

    @classmethod
    @cache
    def own_keys(cls) -> frozenset[str]:
        """Return the tables of which redaction leaves the keys as they are: names of ours."""
        kinds = cls.__annotations__.items()
        return frozenset(name for name, kind in kinds if kind.startswith("dict["))


class Payload(Facts, frozen=True, kw_only=True):
    """What a record of one kind says."""

    kind: ClassVar[str]


class PlanFiles(Facts, frozen=True, kw_only=True):
    """Where the four files stood that a run was planned from."""

    cutover_template: Name
    rollback_template: Name
    limits_file: Name
    watch_file: Name


class PlannedStep(Facts, frozen=True, kw_only=True):
    """A step as it was planned, without secrets. ``skipped`` is why the plan leaves it out."""

    name: OwnName
    phase: Phase
    kind: StepKind
    command: Name
    timeout_seconds: Duration
    skipped: str = ""


class WatchFacts(Facts, frozen=True, kw_only=True):
    """The rules the watch is judged by; each metric stands under its own name."""

    tolerance_inconclusive_seconds: Duration
    tolerance_error_seconds: Duration
    recovery_seconds: Duration
    metrics: dict[str, MetricRule]

    def __post_init__(self) -> None:
        """Refuse a rule that stands under another name than its own."""
        if wrong := [name for name, rule in self.metrics.items() if rule.name != name]:
            raise ValueError(f"rules under another name than their own: {', '.join(wrong)}")


class PlanFacts(Facts, frozen=True, kw_only=True):
    """What evidence, verification and pictures need of the plan.

    ``declared`` is what the templates say that a real run goes on without.
    """

    environment: Name
    window_local: Name
    ctp_config_path: str
    monitor_minutes: Duration
    monitor_keys: OwnNames
    trigger_text: OwnName
    max_rollback_seconds: Duration
    hold_seconds: Duration
    hold_expiry: OwnText
    session_policy: OwnText
    cutover_evidence_output: str
    rollback_evidence_output: str
    warnings: tuple[str, ...]
    steps: tuple[PlannedStep, ...]
    watch: WatchFacts
    declared: tuple[str, ...] = ()

    @property
    def left_out(self) -> dict[str, str]:
        """The steps of members that are not there, each with the reason."""
        return {step.name: step.skipped for step in self.steps if step.skipped}

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that are there, the old generation's first."""
        return members_left(self.left_out)

    def __post_init__(self) -> None:
        """Refuse a metric that is watched and has no rule."""
        if unruled := [key for key in self.monitor_keys if key not in self.watch.metrics]:
            raise ValueError(f"monitor_keys without a rule: {', '.join(unruled)}")


class ToolFacts(Facts, frozen=True, kw_only=True):
    """The version of ctp_runbook that made the run, and the commit it was of, where that is known.

    ``changed``: the checkout was not as that commit has it; None where nobody looked.
    """

    version: OwnName
    commit: OwnText = ""
    changed: bool | None = None

    @property
    def words(self) -> str:
        """``ctp_runbook 0.1.0, commit 1a2b3c…, with changes that no commit has``."""
        words = [f"ctp_runbook {self.version}"]
        words.append(f"commit {self.commit}" if self.commit else "its commit is not known")
        if self.changed is not None:
            words.append("with changes that no commit has" if self.changed else "unchanged")
        return ", ".join(words)


class RunCreated(Payload, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The header: what the run is, and its plan. run.json says the same."""

    kind: ClassVar[str] = "run_created"
    run_id: OwnName
    environment: Name
    dry_run: bool
    rehearsal: bool
    plan_sha256: Sha256
    created_by: str
    host: str
    probe: bool
    force_rollback: bool
    forced_after_seconds: Duration
    restarts_max: Count
    short_watch_reason: str
    parent_run: OwnText
    cwd: str
    files: PlanFiles
    copies: dict[str, str]
    plan: PlanFacts
    measured: Measured
    overrides: dict[str, str]
    reason: str = ""
    plan_files: Digests
    kept_files: Digests
    tool: ToolFacts | None = None


class StateEntered(Payload, frozen=True, kw_only=True):
    """The run entered a state."""

    kind: ClassVar[str] = "state"
    to: State
    reason: str


class GuardianFacts(Facts, frozen=True, kw_only=True):
    """The process that would start the orchestrator again."""

    pid: Count
    start_ticks: Count


class OrchestratorStarted(Payload, frozen=True, kw_only=True):
    """Somebody took the run up, or up again."""

    kind: ClassVar[str] = "orchestrator_started"
    resumed: bool
    reason: str
    guardian: GuardianFacts | None = None


class GuardianStarted(Payload, frozen=True, kw_only=True):
    """The guardian was started again."""

    kind: ClassVar[str] = "guardian_started"
    pid: Count
    start_ticks: Count
    reason: str


class MemberPinned(Payload, frozen=True, kw_only=True):
    """Who a member is, as the system told it."""

    kind: ClassVar[str] = "identity"
    member: OwnName
    unit: str
    pid: Count
    start_ticks: Count
    executable: str
    command_sha256: Digest
    tree: tuple[Process, ...]
    bystanders: tuple[Process, ...]
    kin: tuple[tuple[str, Digest], ...] = ()


class ProbeAnswered(Payload, frozen=True, kw_only=True):
    """A question to a member, and what was seen."""

    kind: ClassVar[str] = "probe"
    subject: OwnName
    question: OwnName
    ok: bool
    observed: str
    expected: str

    @property
    def closes_only(self) -> bool:
        """True where a session answered that its engine may close, and open nothing."""
        return "may trade: CloseOnly" in self.observed


class RequestTaken(Payload, frozen=True, kw_only=True):
    """What somebody asked for. ``start`` is the number of the start it was given to, or -1."""

    kind: ClassVar[str] = "control"
    request: RequestName
    by: str
    reason: str
    requested_utc: OwnText
    file: OwnText
    start: int = -1

    @property
    def sentence(self) -> str:
        """``rollback asked for by ops: spreads look wrong``."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.request} asked for by {self.by}{why}"


class RequestAnswered(Payload, frozen=True, kw_only=True):
    """What the orchestrator said to a request."""

    kind: ClassVar[str] = "answer"
    request: RequestName
    file: OwnName
    obeyed: bool
    sentence: str


class AlertSent(Payload, frozen=True, kw_only=True):
    """A person was called for."""

    kind: ClassVar[str] = "alert"
    occasion: OwnName
    sentence: str
    hooks: OwnNames


class AlertEnded(Payload, frozen=True, kw_only=True):
    """How one hook of an alert ended."""

    kind: ClassVar[str] = "alert_ended"
    occasion: OwnName
    hook: OwnName
    ok: bool
    sentence: str
    took_ms: Duration


class ParentAdopted(Payload, frozen=True, kw_only=True):
    """The completed run that this one undoes."""

    kind: ClassVar[str] = "parent"
    run_id: OwnName
    journal_sha256: Sha256
    outcome: Completed


class StepStarted(Payload, frozen=True, kw_only=True):
    """A step's command is about to run, as this process."""

    kind: ClassVar[str] = "step_started"
    step: OwnName
    phase: Phase
    attempt: Count
    pid: Count
    start_ticks: Count
    command: Name
    timeout_seconds: Duration
    due_mono_ns: Count


class StepEnded(Payload, frozen=True, kw_only=True):
    """How a step that was started ended; ok means that its effect was proved."""

    kind: ClassVar[str] = "step_ended"
    step: OwnName
    phase: Phase
    status: StepStatus
    exit_code: int | None
    duration_ms: Duration
    output_sha256: Digest
    output: OwnText
    reason: str
    left_behind: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is said of steps that never ran."""
        if self.status not in _ENDS:
            raise ValueError(f"status is {self.status} in a step that ran")


class StepNotDone(Payload, frozen=True, kw_only=True):
    """A step that was not run, and why. ``duration_ms`` went by before that was known."""

    kind: ClassVar[str] = "step_not_done"
    step: OwnName
    phase: Phase
    status: StepStatus
    reason: str
    command: str
    duration_ms: Duration = 0.0

    def __post_init__(self) -> None:
        """Refuse ok: what was not run did not end well."""
        if self.status is StepStatus.OK:
            raise ValueError("status is ok in a step that was not done")


class ActStarted(Payload, frozen=True, kw_only=True):
    """A command beside the steps is about to run."""

    kind: ClassVar[str] = "act_started"
    act: OwnName
    member: OwnName
    pid: Count
    command: Name


class ActEnded(Payload, frozen=True, kw_only=True):
    """How such a command ended."""

    kind: ClassVar[str] = "act_ended"
    act: OwnName
    member: OwnName
    exit_code: int | None


class TradingStateRead(Payload, frozen=True, kw_only=True):
    """What an engine left; ``state`` is read by probes/trading_state.py."""

    kind: ClassVar[str] = "trading_state"
    member: OwnName
    state: dict[str, Any]


class BaselineEnded(Payload, frozen=True, kw_only=True):
    """The old engine's metrics were sampled."""

    kind: ClassVar[str] = "baseline_ended"
    url: str
    samples: Count
    samples_sha256: Sha256
    sentence: str


class WatchStarted(Payload, frozen=True, kw_only=True):
    """The watch window begins at the instant of this record."""

    kind: ClassVar[str] = "watch_started"
    minutes: Duration
    metrics: OwnNames


class WatchGap(Payload, frozen=True, kw_only=True):
    """Nobody sampled between two instants."""

    kind: ClassVar[str] = "watch_gap"
    from_utc: Instant
    to_utc: Instant
    reason: str

    def __post_init__(self) -> None:
        """Refuse what is no instant."""
        _check_instants(self.from_utc, self.to_utc)


class WatchDisturbed(Payload, frozen=True, kw_only=True):
    """The host or the process stood still, or a clock was set."""

    kind: ClassVar[str] = "watch_disturbed"
    what: Disturbed
    seconds: float
    from_utc: Instant
    to_utc: Instant
    from_mono: float
    to_mono: float
    sentence: str

    def __post_init__(self) -> None:
        """Refuse what is no instant."""
        _check_instants(self.from_utc, self.to_utc)


class MetricVerdict(Facts, frozen=True, kw_only=True):
    """What a metric is judged to be for now."""

    verdict: VerdictName
    sentence: str


class Judged(Payload, frozen=True, kw_only=True):
    """A verdict changed during the watch."""

    kind: ClassVar[str] = "judgement"
    overall: VerdictName
    metrics: dict[str, MetricVerdict]


class Triggered(Payload, frozen=True, kw_only=True):
    """The trigger, or whatever else began a rollback. ``is_over``: the value is more than that."""

    kind: ClassVar[str] = "trigger"
    cause: Cause
    metric: OwnText
    value: float | None
    limit: float | None
    is_over: bool = False
    sample_utc: Instant
    sample_mono_ns: Count
    sentence: str

    def __post_init__(self) -> None:
        """Refuse what is no instant."""
        _check_instants(self.sample_utc)


class MetricEnd(Facts, frozen=True, kw_only=True):
    """What a metric came to. ``is_over`` and ``worst_is_over``: the value is more than that."""

    verdict: VerdictName
    sentence: str
    value: float | None
    limit: float
    margin: float | None
    worst: float | None
    coverage: float
    is_over: bool = False
    worst_is_over: bool = False


# Read in the records of before, and no longer written: the next three.
class Shift(Facts, frozen=True, kw_only=True):
    """A quantile before and after, their difference, and its 95 % bootstrap interval."""

    before: float
    after: float
    shift: float
    low: float
    high: float


class Comparison(Facts, frozen=True, kw_only=True):
    """One metric, old engine against new, in the metric's unit.

    ``n`` counts blocks, ``events`` what the blocks hold (for a state or a lag, the blocks).
    ``rank_p`` is the two-sided p-value of the Mann–Whitney U test on the blocks' values. A shift
    that is None was too small to judge, or one of its quantiles is above all buckets. ``failed``:
    beyond the rule's ``baseline_max_shift``.
    """

    metric: OwnText
    n_before: int
    n_after: int
    events_before: float
    events_after: float
    median: Shift | None = None
    p99: Shift | None = None
    rank_p: float | None = None
    failed: bool = False
    sentence: str = ""


class ComparisonFacts(Facts, frozen=True, kw_only=True):
    """Both engines compared, in short and by metric."""

    sentence: str
    metrics: dict[str, Comparison]


class WatchEnded(Payload, frozen=True, kw_only=True):
    """What the watch came to."""

    kind: ClassVar[str] = "watch_ended"
    samples: Count
    samples_sha256: Sha256
    verdict: VerdictName
    sentence: str
    judged_mono: float
    watched_seconds: Duration
    stopped_early: bool
    metrics: dict[str, MetricEnd]
    # In records of before: both engines compared, when a shift could still fail a metric.
    baseline: ComparisonFacts | None = None

    @property
    def compared(self) -> Mapping[str, Comparison]:
        """What was recorded of each metric that was compared with the old engine's."""
        return self.baseline.metrics if self.baseline else {}


class RollbackStarted(Payload, frozen=True, kw_only=True):
    """The rollback's time runs, from the sample that triggered it."""

    kind: ClassVar[str] = "rollback_started"
    budget_seconds: Duration
    shares: Shares
    started_utc: Instant
    started_mono_ns: Count

    def __post_init__(self) -> None:
        """Refuse what is no instant."""
        _check_instants(self.started_utc)


class Finding(Payload, frozen=True, kw_only=True):
    """Something a person should know."""

    kind: ClassVar[str] = "finding"
    severity: Severity
    sentence: str


class Closed(Payload, frozen=True, kw_only=True):
    """How the run ended, and what runs now by the last look at each member."""

    kind: ClassVar[str] = "closed"
    outcome: Outcome
    exit_code: Count
    sentence: str
    failed_step: OwnText
    running: OwnTexts


def override_name(name: str) -> str:
    """Return how an override of the header is spoken of: by its flag, or by its template key."""
    return "SESSION_NOT_PROVED" if name == NOT_PROVED else f"--{name.replace('_', '-')}"


KINDS: Mapping[str, type[Payload]] = {kind.kind: kind for kind in Payload.__subclasses__()}


def _check_instants(*texts: str) -> None:
    for text in texts:
        datetime.fromisoformat(text)
