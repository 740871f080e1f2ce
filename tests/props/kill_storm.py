"""A storm over one real cutover of the light twin: drawn hits at drawn moments, judged by /proc.

``python -m tests.props.kill_storm NUMBER FOLDER`` makes one run of the storm in a new folder and
prints it as one line of JSON; the same number draws the same hits. What the tool says is held
against the processes there were at that moment, which are looked at four times a second, and
against the front's own log; the tool's words are believed nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.lock import holder_of
from ctp_runbook.host.process import end_process, group_members, identity_of
from ctp_runbook.model import Identity, Outcome
from ctp_runbook.record.rundir import RunDir, private_path
from ctp_runbook.rehearsal import stack
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.steer import steer
from ctp_runbook.verify.run import verify_run
from tests.props.plan_fixtures import command_line, end_run, processes_with

__all__ = ["ALL_KINDS", "KINDS", "Hit", "Row", "draw", "false_ending", "false_status", "storm"]

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CTP_RUNBOOK_STORM_SEED", "20261126"))
ALL_KINDS = (
    *("kill", "term", "stop", "clock", "freeze"),
    *("control_gone", "run_gone", "evidence_gone", "private_gone", "private_full"),
)
# What is drawn from, each as often as it is named: signals oftener than what vanishes, which is oftener
# than the clock. CTP_RUNBOOK_STORM_KINDS names others.
_ALL = ",".join(("kill,kill,term,stop,clock", *ALL_KINDS))
KINDS = tuple(os.environ.get("CTP_RUNBOOK_STORM_KINDS", _ALL).split(","))
SIGNALS = ("kill", "term", "stop", "freeze")
PEOPLE = ("orchestrator", "guardian", "both", "step", "viewer")
MEMBERS = ("old_core_engine", "old_strategy_runner", "new_core_engine", "new_strategy_runner")

GATES = ("bootstrap_infra", "init_kafka_topic", "init_debezium_connector", "precheck")
SWITCH = (
    *("stop_old_strategy_runner", "stop_old_core_engine"),
    *("start_new_core_engine", "start_new_strategy_runner", "warmup_query"),
)
ROLLBACK = (
    *("stop_new_strategy_runner", "stop_new_core_engine", "restore_previous_binaries"),
    *("restore_redis_bridge_compat", "start_previous_core_engine"),
    *("start_previous_strategy_runner", "post_rollback_validate"),
)
_BEGUN, _ENDED = "step_started", "step_ended"
# In the order in which a run comes by them.
MOMENTS: Mapping[str, tuple[str, ...]] = {
    "gates": (*(f"{_BEGUN} {step}" for step in GATES), "state READY"),
    "switch": tuple(f"{kind} {step}" for step in SWITCH for kind in (_BEGUN, _ENDED)),
    "watch": ("state WATCHING",),
    "rollback": ("state ROLLING_BACK", *(f"{_BEGUN} {step}" for step in ROLLBACK)),
    "end": ("closed",),
}
_ORDER = tuple(moment for phase in MOMENTS.values() for moment in phase)
_WATCH_SECONDS = 4.0
_LOOK_SECONDS = 0.25
_SETTLE_SECONDS = 100.0
_ASKED_MAX = 2
# What is hit so shortly before the last record may die after it: of that no record can know.
_RACE_SECONDS = 2.0


@dataclass
class Hit:
    """What is done to whom, ``delay`` seconds after ``moment``; ``came`` is what became of it."""

    kind: str
    target: str
    moment: str
    delay: float
    seconds: float = 0.0
    came: str = "its moment did not come"
    mono: float = 0.0

    @property
    def text(self) -> str:
        """As a table shows it."""
        how = f" {self.seconds:g} s" if self.seconds else ""
        whom = f" {self.target}" if self.target else ""
        return f"{self.kind}{how}{whom} at {self.moment} +{self.delay:.2f}"


@dataclass
class Row:
    """One run of the storm: what was drawn, how it ended, and what was wrong."""

    number: int
    shape: str
    hits: list[Hit]
    outcome: str = ""
    viewer: int | None = None
    asked: list[str] = field(default_factory=list)
    trades: str = ""
    faults: list[str] = field(default_factory=list)
    story: str = ""
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """One line of the table."""
        hits = "; ".join(f"{hit.text} ({hit.came})" for hit in self.hits)
        asked = f"  asked: {', '.join(self.asked)}" if self.asked else ""
        wrong = f"  WRONG: {'; '.join(self.faults)}" if self.faults else ""
        return (
            f"{self.number:3} {self.shape:7} {self.outcome:22} viewer {self.viewer!s:4} "
            f"trades: {self.trades:6} {hits}{asked}{wrong}"
        )


def draw(number: int, kinds: tuple[str, ...] = KINDS) -> Row:
    """The run of this number: a cutover or a drill, and one to three hits in order of their moments."""
    rng = random.Random(f"{SEED}-{number}")
    shape = rng.choice(("cutover", "drill"))
    hits: list[Hit] = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        weights = {"gates": 1, "switch": 4, "watch": 2, "rollback": 4, "end": 1}
        if shape == "cutover":
            weights |= {"watch": 3, "rollback": 2 if hits else 0}
        (phase,) = rng.choices(tuple(weights), tuple(weights.values()))
        hits.append(_drawn(rng, phase, kinds))
    while sum(hit.target == "both" for hit in hits) > _ASKED_MAX:
        hits.pop()  # an operator comes back so often, and no oftener
    return Row(number, shape, sorted(hits, key=lambda hit: (_ORDER.index(hit.moment), hit.delay)))


def _drawn(rng: random.Random, phase: str, kinds: tuple[str, ...]) -> Hit:
    moment = rng.choice(MOMENTS[phase])
    longest = _WATCH_SECONDS + 0.5 if phase == "watch" else 0.6
    delay = round(rng.uniform(0, longest), 2)
    kind = rng.choice(kinds)
    seconds = {"stop": (0.2, 2.0), "freeze": (5.0, 15.0)}.get(kind)
    lasts = round(rng.uniform(*seconds), 1) if seconds else 0.0
    if kind == "clock":
        lasts = rng.choice((-3600.0, -40.0, 40.0, 3600.0))
    if kind not in SIGNALS:
        return Hit(kind, "", moment, delay, lasts)
    # Of the members those that may live then; after the end what dies is nobody's to know of.
    targets = [*PEOPLE[:3], *PEOPLE, *(name for name in MEMBERS if _may_live(name, moment))]
    if phase == "end":
        targets = ["orchestrator", "guardian", "both", "viewer"]
    return Hit(kind, rng.choice(targets), moment, delay, lasts)


def _may_live(member: str, moment: str) -> bool:
    at = _ORDER.index(moment)
    if member.startswith("old"):
        gone = _ORDER.index(f"{_ENDED} stop_{member}")
        return at < gone or at >= _ORDER.index(f"{_BEGUN} start_previous_core_engine")
    first = f"{_BEGUN} start_{member}"
    return _ORDER.index(first) <= at <= _ORDER.index(f"{_BEGUN} stop_{member}")


# --- the machine, by /proc --------------------------------------------------------

_ATTENDANTS = ("orchestrator", "guardian")
# Of an attendant that a signal has stopped.
_STOPPED = ", stopped"


class Looks:
    """Who of a twin and its run lives, looked at again and again; each look with its instant."""

    def __init__(self, twin: Twin, run: RunDir) -> None:
        self._twin, self._run = str(twin.dir), str(run.path)
        self._others: dict[int, int] = {}
        self.kept: list[tuple[float, Mapping[str, tuple[int, ...]]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Looks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.now()

    def now(self) -> Mapping[str, tuple[int, ...]]:
        """Pids by ``old_core_engine`` and the like, ``orchestrator`` and ``guardian``."""
        found: dict[str, list[int]] = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if self._others.get(pid, 0) < 4 and (name := self._name_of(pid)):
                found.setdefault(name, []).append(pid)
        look = {name: tuple(pids) for name, pids in found.items()}
        self.kept.append((time.monotonic(), look))
        return look

    def _name_of(self, pid: int) -> str:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return ""
        if name := _named(words, self._twin, self._run):
            if not identity_of(pid):
                return ""
            return f"{name}{_STOPPED}" if name in _ATTENDANTS and _is_stopped(pid) else name
        # What was somebody else's four times has become what it is: a fork is not at once.
        self._others[pid] = self._others.get(pid, 0) + 1
        return ""

    def near(self, mono: float, *, before: float, after: float) -> list[Mapping[str, Any]]:
        """The looks of this while; the last before it where there was none."""
        wanted = [look for at, look in self.kept if mono - before <= at <= mono + after]
        return wanted or [look for at, look in self.kept if at <= mono][-1:]


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"T"
    return False


def _named(words: list[str], twin: str, run: str) -> str:
    """What a command line is of this twin or run; nothing for a step that only names it."""
    if "proc" in words or "-m" not in words:
        return ""
    module = words[words.index("-m") + 1] if words[-1] != "-m" else ""
    if module.startswith("ctp_runbook.run.") and run in words:
        return module.rpartition(".")[2]
    if not module.startswith("ctp_runbook.rehearsal.engine."):
        return ""
    if not any(word.startswith(f"{twin}/") for word in words[words.index("-m") :]):
        return ""
    name = module.rpartition(".")[2]
    if name == "core_engine":
        return f"{words[words.index('--generation') + 1]}_core_engine"
    return f"{name.removesuffix('_runner')}_strategy_runner"


def generations(look: Mapping[str, object]) -> set[str]:
    """Those of which any member lives."""
    return {name.partition("_")[0] for name in look if name in MEMBERS}


def is_whole(look: Mapping[str, object], generation: str) -> bool:
    """Engine and runner live."""
    return {f"{generation}_core_engine", f"{generation}_strategy_runner"} <= set(look)


def is_attended(look: Mapping[str, object]) -> bool:
    """An orchestrator or a guardian of the run lives, if it be stopped."""
    return any(name.removesuffix(_STOPPED) in _ATTENDANTS for name in look)


def is_conducted(look: Mapping[str, object]) -> bool:
    """One of them lives and is not stopped."""
    return any(name in _ATTENDANTS for name in look)


# --- the journal, as it grows -----------------------------------------------------


class Tail:
    """The records of a journal, read on from an open file: it may be taken from under the run."""

    def __init__(self, path: Path) -> None:
        end = time.monotonic() + 40
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        self._path, self._file = path, path.open("rb")
        self._rest = b""
        self._lock = threading.Lock()
        self._records: list[dict[str, Any]] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        """All that is whole by now."""
        with self._lock:
            self._follow()
            *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # torn by a kill, and quoted by the next
                    self._records.append(json.loads(line))
            return list(self._records)

    def _follow(self) -> None:
        """Go over to the file that stands there now, where the run wrote it again."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                anew = self._path.open("rb")
                self._file.close()
                self._file, self._rest, self._records = anew, b"", []

    def when(self, moment: str) -> float | None:
        """The monotonic instant of the first such record."""
        found = (each for each in self.records if _moment_of(each) == moment)
        return next((each["mono_ns"] / 1e9 for each in found), None)

    @property
    def closed(self) -> dict[str, Any] | None:
        """The last record, once the run is over."""
        return next((each for each in self.records if each["kind"] == "closed"), None)

    @property
    def is_touched(self) -> bool:
        """True once a step of the switch was begun."""
        return any(self.when(f"{_BEGUN} {step}") is not None for step in SWITCH)

    def attendants(self) -> dict[str, Identity]:
        """The last orchestrator and the last guardian."""
        found: dict[str, Identity] = {}
        for each in self.records:
            payload, writer = each["payload"], each["writer"]
            if each["kind"] == "orchestrator_started":
                found["orchestrator"] = Identity(writer["pid"], writer["start_ticks"])
                payload = payload["guardian"] or {}
            elif each["kind"] != "guardian_started":
                continue
            if "pid" in payload:
                found["guardian"] = Identity(payload["pid"], payload["start_ticks"])
        return found

    def step_under_way(self) -> int:
        """The leader of the group of the step that has begun and not ended; 0 for none."""
        leader = 0
        for each in self.records:
            if each["kind"] == _BEGUN:
                leader = each["payload"]["pid"]
            elif each["kind"] == _ENDED:
                leader = 0
        return leader


def _moment_of(record: Mapping[str, Any]) -> str:
    payload = record["payload"]
    what = payload.get("step") or payload.get("to") or ""
    return f"{record['kind']} {what}".strip()


# --- the storm --------------------------------------------------------------------


@dataclass
class Storm:
    """One run under its hits."""

    row: Row
    twin: Twin
    run: RunDir
    viewer: subprocess.Popen[bytes]
    output: Path
    tail: Tail
    looks: Looks
    clock: Path | None
    rng: random.Random
    over: threading.Event = field(default_factory=threading.Event)
    asleep: list[threading.Timer] = field(default_factory=list)
    mounts: list[Path] = field(default_factory=list)
    viewer_left: float = 0.0

    # --- hits ---

    def hit_all(self) -> None:
        """Each hit at its moment; what never comes by is left."""
        for hit in self.row.hits:
            while (since := self.tail.when(hit.moment)) is None:
                if self.over.wait(0.02):
                    return
            if self.over.wait(max(0.0, since + hit.delay - time.monotonic())):
                return
            hit.mono = time.monotonic()
            hit.came = self._deliver(hit)

    def _deliver(self, hit: Hit) -> str:
        if hit.target in MEMBERS and self.tail.closed is not None:
            return "the run was over"
        if hit.kind in SIGNALS:
            return self._signal(hit)
        try:
            return str(getattr(self, f"_{hit.kind}")(hit))
        except OSError as error:
            return f"not done: {error}"

    def _signal(self, hit: Hit) -> str:
        pids = self._pids_of(hit.target)
        if not pids:
            return "it was not there"
        sign = {"kill": signal.SIGKILL, "term": signal.SIGTERM}.get(hit.kind, signal.SIGSTOP)
        reached = [pid for pid in pids if _sent(pid, sign)]
        if sign is signal.SIGSTOP:
            timer = threading.Timer(
                hit.seconds, lambda: [_sent(p, signal.SIGCONT) for p in reached]
            )
            timer.start()
            self.asleep.append(timer)
        return "done" if reached else "it was gone"

    def _pids_of(self, target: str) -> list[int]:
        if target == "viewer":
            return [self.viewer.pid] if self.viewer.poll() is None else []
        if target == "step":
            leader = self.tail.step_under_way()
            return list(group_members(leader)) if leader else []
        if target in MEMBERS:
            return list(self.looks.now().get(target, ()))
        known = self.tail.attendants()
        names = ["orchestrator", "guardian"] if target == "both" else [target]
        self.rng.shuffle(names)
        found = [known[name] for name in names if name in known]
        return [who.pid for who in found if identity_of(who.pid) == _here(who)]

    def _clock(self, hit: Hit) -> str:
        if self.clock is None:
            return "no shim here"
        before = int.from_bytes(self.clock.read_bytes(), sys.byteorder, signed=True)
        moved = before + int(hit.seconds * 1e9)
        with self.clock.open("r+b") as file:  # the same file: it is mapped
            file.write(moved.to_bytes(8, sys.byteorder, signed=True))
        return "done"

    def _control_gone(self, hit: Hit) -> str:
        return _removed(self.run.control)

    def _run_gone(self, hit: Hit) -> str:
        return _removed(self.run.path)

    def _evidence_gone(self, hit: Hit) -> str:
        return _removed(self.run.evidence)

    def _private_gone(self, hit: Hit) -> str:
        """Removed, and a file in its place: it cannot even be made again."""
        place = private_path(self.run)
        if not place.exists():
            return "it was gone"
        shutil.rmtree(place, ignore_errors=True)
        place.touch()
        return "done"

    def _private_full(self, hit: Hit) -> str:
        """A tmpfs of its own with no byte left; where that may not be mounted, nothing."""
        place = private_path(self.run)
        if not place.is_dir():
            return "it was gone"
        spare = self.run.path.parent / "spare"
        shutil.copytree(place, spare, dirs_exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return "it may not be mounted here"
        self.mounts.append(place)
        shutil.copytree(spare, place, dirs_exist_ok=True)
        shutil.rmtree(spare)
        with contextlib.suppress(OSError), (place / "ballast").open("wb", 0) as ballast:
            while True:
                ballast.write(bytes(4096))
        return "done"

    # --- the end ---

    def look_at_viewer(self) -> None:
        """Keep the instant at which it was first seen to be over."""
        if not self.viewer_left and self.viewer.poll() is not None:
            self.viewer_left = time.monotonic()

    def settle(self) -> bool:
        """Wait until the run is over and nobody is at it, or until nobody is at it any more."""
        end, alone = time.monotonic() + _SETTLE_SECONDS, 0
        while time.monotonic() < end:
            time.sleep(0.3)
            self.look_at_viewer()
            # Whoever is stopped goes on one day, and whoever was killed is replaced in a moment.
            attended = is_attended(self.looks.kept[-1][1]) if self.looks.kept else True
            alone = 0 if attended or any(each.is_alive() for each in self.asleep) else alone + 1
            if alone >= (1 if self._is_written else 6):
                return True
        return False

    @property
    def _is_written(self) -> bool:
        return self.tail.closed is not None and self.run.manifest.exists()

    def ask(self, *words: str) -> tuple[int, str]:
        """Type a command as an operator does; its exit code and what it said."""
        argv = [sys.executable, "-m", "ctp_runbook", *words]
        before, touched = self.looks.now(), self.tail.is_touched
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90
        )
        said = done.stdout + done.stderr
        self.row.asked.append(f"{words[0]} {done.returncode}")
        told = " ".join(words)
        if done.returncode == 2 and touched:
            self.row.faults.append(f"`{told}` ended with 2 after a stop was begun: {said}")
        if done.returncode not in (0, 2, 3, 4, 5, 6, 7):
            self.row.faults.append(f"`{told}` ended with {done.returncode}: {said}")
        if words[0] == "status":
            self.row.faults += [
                f"status said {wrong}: {said}"
                for wrong in false_status(said, done.returncode, before, self.looks.now())
            ]
        return done.returncode, said

    def operate(self) -> None:
        """What an operator does who looks, and types what he is told."""
        for turn in range(_ASKED_MAX + 1):
            if not self.settle():
                self.row.faults.append(f"after {_SETTLE_SECONDS:g} s it goes on")
                return
            if self._is_written or turn == _ASKED_MAX or not self.run.journal.exists():
                break
            _, said = self.ask("status", "--run", str(self.run.path))
            wanted = re.findall(r"`ctp-runbook (\w+) --run ([^`]+)`", said)
            if not wanted:
                self.row.faults.append(f"nobody conducts it and no command is named: {said}")
                return
            command, run = wanted[-1]
            self.ask(command, "--run", run)
        if self.run.journal.exists():
            self.ask("status", "--run", str(self.run.path))


def _here(who: Identity) -> Identity | None:
    now = identity_of(who.pid)
    return now if now is not None and now.start_ticks == who.start_ticks else None


def _sent(pid: int, sign: int) -> bool:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return False
    return True


def _removed(path: Path) -> str:
    if not path.exists():
        return "it was gone"
    shutil.rmtree(path, ignore_errors=True)  # who writes there at this moment may win
    return "done"


# --- what is said, against what there was -----------------------------------------

_Look = Mapping[str, object]
_MEMBER = re.compile(
    r"\b((?:old|new)_(?:core_engine|strategy_runner)) (runs|alive|gone|never started)"
)
# Somebody removed its folder: what became of the run only its lock can say, and that it is unknown.
_GONE = re.compile(
    r"^error: run \S+ (?:is under way, and .* removed|was the last to hold .* is gone)"
)


def false_status(said: str, code: int, before: _Look, after: _Look) -> Iterator[str]:
    """What ``status`` said that was true neither right before nor right after it."""
    looks = (before, after)
    first, *lines = said.splitlines() or [""]
    lost = next((line for line in lines if line.startswith("NOBODY CONDUCTS")), "")
    ended = next((each for each in Outcome if f": {each.value};" in first), None)
    if "; conducted;" in first and not any(map(is_attended, looks)):
        yield "conducted, by nobody"
    if ("not conducted" in first or lost) and all(map(is_conducted, looks)):
        yield "that nobody conducts it, and somebody does"
    expected = 7 if lost or _GONE.search(first) else ended.exit_code if ended else 0
    if code != expected and "no answer" not in said:
        yield f"its sentences with exit {code}, expected {expected}"
    yield from false_members(lost, looks)
    runners = [{name for name in look if name.endswith("_strategy_runner")} for look in looks]
    if "NOTHING TRADES" in lost and all(runners):
        yield f"that nothing trades beside {runners}"
    if "orders may be sent" in lost and not any(runners):
        yield "that orders may be sent, without a runner"


def false_members(sentence: str, looks: tuple[_Look, ...] | list[_Look]) -> Iterator[str]:
    """Every ``old_core_engine gone`` that is true in none of the looks."""
    for name, word in _MEMBER.findall(sentence):
        is_up = word in ("runs", "alive")
        if looks and all((name in look) is not is_up for look in looks):
            yield f"{name} {word}"


def false_ending(payload: Mapping[str, Any], looks: list[_Look]) -> Iterator[str]:
    """What the last record says that was true at no look around it."""
    sentence, outcome = payload["sentence"], payload["outcome"]
    yield from false_members(sentence, looks)
    told = ", ".join(f"{name} {word}" for name, word in payload["running"].items())
    yield from false_members(told, looks)
    trades: Mapping[str, Callable[[_Look], bool]] = {
        "the new generation trades": lambda look: _trades_alone(look, "new"),
        "the previous stack trades again": lambda look: _trades_alone(look, "old"),
        "the old stack still trades": lambda look: _trades_alone(look, "old"),
    }
    for words, is_so in trades.items():
        if words in sentence and not any(map(is_so, looks)):
            yield words
    if outcome == "COMPLETED" and not any(_trades_alone(look, "new") for look in looks):
        yield outcome
    if outcome.startswith("ROLLED_BACK") and not any(_trades_alone(look, "old") for look in looks):
        yield outcome


def _trades_alone(look: _Look, generation: str) -> bool:
    return is_whole(look, generation) and generations(look) == {generation}


# --- the judge --------------------------------------------------------------------


def judge(storm: Storm) -> Iterator[str]:
    """All that is wrong with a run that is over."""
    row, tail, looks = storm.row, storm.tail, storm.looks
    double = [look for _, look in looks.kept if len(generations(look)) > 1]
    if double:
        yield f"two generations at one moment: {double[0]}"
    if found := overlaps(storm.twin.front_log):
        yield f"two sessions at the front: {found[0]}"
    last = looks.now()
    if is_attended(last):
        yield f"still at it: {last}"
    closed = tail.closed
    if closed is None:
        done = {hit.kind for hit in row.hits if hit.came == "done"}
        if not (done & {"run_gone"} and any(_trades_alone(last, each) for each in ("old", "new"))):
            yield f"LOST: no end, and {last or 'nothing'} runs"
    else:
        yield from _judge_end(storm, closed, last)
    yield from _judge_viewer(storm, closed)
    yield from _judge_leftovers(storm, last, is_closed=closed is not None)


def _judge_end(storm: Storm, closed: Mapping[str, Any], last: _Look) -> Iterator[str]:
    payload, mono = closed["payload"], closed["mono_ns"] / 1e9
    looks = storm.looks.near(mono, before=1.5, after=0.5)
    for wrong in false_ending(payload, looks):
        yield f"the run ended saying {wrong}, and there was {looks}: {payload['sentence']}"
    raced = any(
        hit.target in MEMBERS and hit.mono and hit.mono + hit.seconds > mono - _RACE_SECONDS
        for hit in storm.row.hits
    )
    outcome = Outcome(payload["outcome"])
    wanted = "new" if outcome is Outcome.COMPLETED else ""
    wanted = "old" if outcome.value.startswith("ROLLED_BACK") else wanted
    if wanted and not raced and not _trades_alone(last, wanted):
        yield f"{outcome.value}, and in the end there is {last}"
    is_whole_record = all(hit.kind in (*SIGNALS, "clock") for hit in storm.row.hits)
    if is_whole_record and outcome in (Outcome.COMPLETED, Outcome.ROLLED_BACK_IN_BUDGET):
        allowed = outcome is not Outcome.COMPLETED
        report = verify_run(storm.run, allow_cutover_rollback=allowed)
        if not report.ok:
            yield f"{outcome.value} does not verify: {report.findings}"


def _judge_viewer(storm: Storm, closed: Mapping[str, Any] | None) -> Iterator[str]:
    row = storm.row
    with contextlib.suppress(subprocess.TimeoutExpired):
        storm.viewer.wait(timeout=25)
    storm.look_at_viewer()
    row.viewer = code = storm.viewer.poll()
    said = storm.output.read_text(errors="replace")
    reached = {hit.kind for hit in row.hits if hit.target == "viewer" and hit.came == "done"}
    wanted = {7}  # it lost the run, and said so
    wanted |= {Outcome(closed["payload"]["outcome"]).exit_code} if closed else set()
    wanted |= {-9} if "kill" in reached else set()
    wanted |= {-15} if "term" in reached else set()
    if code not in wanted:
        yield f"the viewer ended with {code}, expected one of {sorted(wanted)}: {said[-600:]}"
    looks = storm.looks.near(storm.viewer_left, before=1.5, after=0.5)
    if "nobody conducts it" in said and looks and all(map(is_conducted, looks)):
        yield f"the viewer said that nobody conducts it, and there was {looks}: {said[-600:]}"
    if closed and code == closed["payload"]["exit_code"]:
        told = "{outcome}: {sentence}".format_map(closed["payload"])
        if told not in said:
            yield f"the viewer did not say {told!r}: {said[-600:]}"


def _judge_leftovers(storm: Storm, last: _Look, *, is_closed: bool) -> Iterator[str]:
    run = storm.run
    members = {pid for name in MEMBERS for pid in storm.looks.now().get(name, ())}
    left = set(processes_with(f"CTP_RUN_ID={run.run_id}")) - members
    if lines := {pid: line for pid in left if (line := command_line(pid))}:
        yield f"left behind: {lines}"
    if held := holder_of(storm.twin.environment):
        yield f"the environment is held by {held}"
    if not is_closed or not run.journal.exists():
        return
    if private_path(run).is_dir() and not storm.mounts:
        yield "armed: its private files are there"
    taken = {
        record["payload"]["file"] for record in storm.tail.records if record["kind"] == "control"
    }
    names = {path.name for path in run.control.iterdir()} if run.control.exists() else set()
    if armed := names - taken:
        yield f"armed: {armed} in its inbox"
    if len(list(run.path.parent.glob("*/journal.jsonl"))) != 1:
        yield "there is another run"
    try:
        told = steer(run, "resume", by="ops").sentence
    except RunbookError as error:
        told = str(error)
    if "is over" not in told:
        yield f"armed: resume of a run that is over came to: {told}"


# --- one run ----------------------------------------------------------------------

_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile long *offset_ns;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("STEPPED_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  if (fd < 0) return;
  void *at = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) offset_ns = at;
}
int clock_gettime(clockid_t id, struct timespec *t) {
  if (!real) begin();
  int failed = real(id, t);
  if (failed || !offset_ns || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return failed;
  long ns = t->tv_nsec + *offset_ns % 1000000000L;
  t->tv_sec += *offset_ns / 1000000000L + (ns >= 1000000000L) - (ns < 0);
  t->tv_nsec = (ns + 1000000000L) % 1000000000L;
  return 0;
}
"""


def stepped_clock(folder: Path) -> Path | None:
    """Let all that is started from here live by a wall clock that can be set: the file that sets
    it, in nanoseconds; None where nothing compiles the shim."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, shim, offset = (folder / name for name in ("clock.c", "clock.so", "offset"))
    source.write_text(_SHIM)
    offset.write_bytes(bytes(8))
    argv = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
    subprocess.run(argv, check=True)
    os.environ |= {"LD_PRELOAD": str(shim), "STEPPED_CLOCK": str(offset)}
    return offset


@contextlib.contextmanager
def weather(row: Row, folder: Path) -> Iterator[Storm]:
    """A twin, a cutover or a drill of it, and the storm over it; all of it is ended again."""
    folder.mkdir(parents=True)
    is_stepped = any(hit.kind == "clock" for hit in row.hits)
    clock = stepped_clock(folder) if is_stepped else None
    twin = stack.up(folder / "twin", watch_minutes=_WATCH_SECONDS / 60)
    outputs = folder / "outputs"
    outputs.mkdir()
    run = RunDir(outputs / f"storm-{row.number}-{os.getpid()}")
    argv = [sys.executable, "-m", "ctp_runbook", "orchestrate", "--execute"]
    argv += ["--cutover-template", str(twin.cutover_template)]
    argv += ["--rollback-template", str(twin.rollback_template), "--run-dir", str(run.path)]
    argv += ["--force-rollback"] if row.shape == "drill" else []
    output = folder / "viewer.out"
    with output.open("wb") as sink:
        viewer = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    rng = random.Random(f"{SEED}-{row.number}-at")
    try:
        with Looks(twin, run) as looks:
            storm = Storm(row, twin, run, viewer, output, Tail(run.journal), looks, clock, rng)
            try:
                yield storm
            finally:
                storm.over.set()
                _clear(storm)
    finally:
        viewer.kill()
        viewer.wait()
        end_run(run)
        if left := stack.down(twin.dir).left:
            row.faults.append(f"the twin left {left}")


def _clear(storm: Storm) -> None:
    """End what is still at the run, by identity, and give back what was mounted."""
    for timer in storm.asleep:
        timer.cancel()
        timer.function()
    for name in ("guardian", "orchestrator"):
        for pid in storm.looks.now().get(name, ()):
            if who := identity_of(pid):
                end_process(who, term_grace=0.0, kill_grace=2.0)
    for place in storm.mounts:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
    place = private_path(storm.run)
    if place.is_file():
        place.unlink()


def run_storm(number: int, folder: Path) -> Row:
    """One run of the storm, from the twin's start to the verdict."""
    row, began = draw(number), time.monotonic()
    with weather(row, folder) as storm:
        hits = threading.Thread(target=storm.hit_all)
        hits.start()
        try:
            asks = threading.Timer(storm.rng.uniform(6, 14), _look_in, [storm])
            asks.start()
            storm.operate()
            asks.cancel()
            asks.join()
        finally:
            storm.over.set()
            hits.join()
        closed = storm.tail.closed
        row.outcome = closed["payload"]["outcome"] if closed else "no end"
        look = storm.looks.now()
        row.trades = ",".join(each for each in ("old", "new") if is_whole(look, each)) or "nobody"
        row.faults += judge(storm)
        if row.faults:
            row.story = _story(storm)
    row.seconds = round(time.monotonic() - began, 1)
    return row


def _look_in(storm: Storm) -> None:
    """Somebody looks how it goes, in the middle of the storm."""
    if storm.run.journal.exists() and not storm.over.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            storm.ask("status", "--run", str(storm.run.path))


def _story(storm: Storm) -> str:
    records = [
        f"{each['mono_ns'] / 1e9:.2f} {_moment_of(each)} {each['writer']['pid']} "
        f"{str(each['payload'].get('sentence') or each['payload'].get('reason') or '')[:300]}"
        for each in storm.tail.records
    ]
    hits = [f"{hit.mono:.2f} {hit.text} ({hit.came})" for hit in storm.row.hits]
    logs = [storm.output, storm.run.logs / "orchestrator.log", storm.run.logs / "guardian.log"]
    texts = [
        f"{log.name}: {log.read_text(errors='replace')[-2500:]}" for log in logs if log.exists()
    ]
    return "\n".join([*records, *hits, *texts])


def storm(numbers: Iterable[int], folder: Path, *, at_once: int = 4) -> list[Row]:
    """Several runs side by side, each in a process and a folder of its own; they mostly wait."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(number: int) -> Row:
        argv = [sys.executable, "-m", "tests.props.kill_storm", str(number)]
        done = subprocess.run(
            [*argv, str(folder / str(number))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        row = draw(number)
        if done.returncode:
            row.faults.append(f"the storm itself broke: {done.stderr[-3000:]}")
            return row
        told = json.loads(done.stdout.splitlines()[-1])
        return Row(**{**told, "hits": [Hit(**hit) for hit in told["hits"]]})

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, numbers))


def main() -> None:
    """``NUMBER FOLDER``: its row as JSON. ``FIRST-LAST FOLDER``: a line a run, and what was wrong."""
    first, is_many, last = sys.argv[1].partition("-")
    folder = Path(sys.argv[2]).absolute()
    if not is_many:
        print(json.dumps(asdict(run_storm(int(first), folder))))
        return
    for row in storm(range(int(first), int(last) + 1), folder):
        print(f"{row.line}  {row.seconds:g} s", f"\n{row.story}" * bool(row.faults), flush=True)


if __name__ == "__main__":
    main()
