"""Secrets through every way in: a real run that is handed a canary by each of them. None is to be
found afterwards, in whatever form, where the run wrote, showed or started something: in a run of the
small stack that is rolled back, and in one of the light twin, notebooks included (`make prove`).

What only a person can mend, a secret in a template's own command, is warned of by its line, and is
in the process list while bash runs it; our own processes never have it there.
"""

from __future__ import annotations

import contextlib
import html
import http.server
import json
import os
import re
import secrets
import shlex
import stat
import subprocess
import sys
import textwrap
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from ctp_runbook.model import State
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import read_whole
from tests.props.cutover_tools import ROOT, edited, fresh_twin
from tests.props.small_stack import small_stack
from tests.props.twin_tools import wait_until

pytestmark = pytest.mark.timeout(400)

# By number, how a secret comes in. What a program prints in some form is known from infra/env/ or
# from the file of CTP_CONFIG_PATH, unless it says otherwise.
WAYS = {
    1: "a variable of the environment",
    2: "a variable of infra/env/",
    3: "an assignment in a command, PGPASSWORD=",
    4: "an option that names it, --password",
    5: "user info of a URL in a command",
    6: "a header of a command, Authorization: Bearer",
    7: "a value that limits.toml lists",
    8: "the address of the webhook",
    9: "a private key that a program prints, known to nobody",
    10: "JSON that a program prints, known to nobody",
    11: "JSON-escaped",
    12: "shell-quoted",
    13: "user info of a URL in a probe's error",
    14: "--reason of a hold",
    15: "--by of a hold",
    16: "a label of a sample",
    17: "curl -u",
    18: "mysql -p",
    19: "sshpass -p",
    20: "--pass",
    21: "a cookie",
    22: "sig= of an address",
    23: "base64, as user:password",
    24: "hex",
    25: "percent-encoded in small letters",
    26: "percent-encoded as a form is (quote_plus)",
    27: "HTML-escaped",
    28: "wrapped at 80 columns",
    29: "base64, wrapped at 76 columns",
    30: "the file of CTP_CONFIG_PATH",
}
IN_COMMANDS = (3, 4, 5, 6, 17, 18, 19, 20, 21, 22)
# Letters that each of the forms writes in its own way.
SIGNS = "&<x'y\" /+="


class Canaries:
    """A canary a way: ``core`` is what stays of it letter by letter in most forms."""

    def __init__(self) -> None:
        self._cores = {number: f"Zk{number:02}{secrets.token_hex(6)}" for number in WAYS}

    def core(self, number: int) -> str:
        """The letters and digits that nobody else writes."""
        return self._cores[number]

    def whole(self, number: int) -> str:
        """With signs, for the ways that are about signs."""
        return self._cores[number] + SIGNS

    def found_in(self, data: bytes) -> list[int]:
        """The ways whose canary can be read there: plain, in base64 or hex, across line ends too."""
        joined = re.sub(rb"\s*(?:\\r)?(?:\\n|\n)\s*", b"", data)
        return [
            number
            for number in WAYS
            if any(form in text for form in self._forms(number) for text in (data, joined))
        ]

    def _forms(self, number: int) -> Iterator[bytes]:
        core = self._cores[number].encode()
        yield from (core, core.hex().encode(), core.hex().upper().encode())
        for begun in range(3):
            # The digits that hold no bit of a neighbour.
            yield b64encode(bytes(begun) + core + b"....")[4 if begun else 0 : -8]


def printed(canary: Canaries) -> str:
    """What a step's program prints: a line a way."""
    whole = canary.whole
    key = f"-----BEGIN PRIVATE KEY-----\n{canary.core(9)}\n-----END PRIVATE KEY-----"
    wrapped = textwrap.wrap("x" * 63 + canary.core(28) + "y" * 40, 80)
    encoded = b64encode(b"u" * 50 + whole(29).encode() + b"v" * 60).decode()
    lines = {
        1: canary.core(1),
        2: canary.core(2),
        7: canary.core(7),
        8: f"http://127.0.0.1:9/hooks/{canary.core(8)}",
        9: key,
        10: json.dumps({"password": canary.core(10), "user": "ann"}),
        11: json.dumps({"said": whole(11)}),
        12: shlex.quote(whole(12)),
        23: f"Basic {b64encode(f'ops:{whole(23)}'.encode()).decode()}",
        24: whole(24).encode().hex(),
        25: re.sub("%..", lambda match: match[0].lower(), quote(whole(25), safe="")),
        26: quote_plus(whole(26)),
        27: html.escape(whole(27)),
        28: "\n".join(wrapped),
        29: "\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76)),
        30: canary.core(30),
    }
    return "".join(f"way-{number:02} {line}\n" for number, line in lines.items())


def commands(canary: Canaries) -> str:
    """Commands with a secret in them; bash reads them, says them aloud, and does nothing."""
    core = canary.core
    return "; ".join(
        (
            "set -x",
            f": way-03 PGPASSWORD={core(3)} psql",
            f": way-04 login --password {core(4)}",
            f": way-05 redis://ops:{core(5)}@127.0.0.1/0",
            f": way-06 curl -H 'Authorization: Bearer {core(6)}'",
            f": curl way-17 -u ops:{core(17)} http://127.0.0.1",
            f": mysql way-18 -p{core(18)} quant",
            f": way-19 sshpass -p {core(19)} ssh host",
            f": way-20 tool --pass {core(20)}",
            f": way-21 curl -H 'Cookie: sid={core(21)}'",
            f": way-22 'https://host/blob?sv=1&sig={core(22)}'",
            "set +x",
        )
    )


@contextlib.contextmanager
def page_of_breakers(client: str) -> Iterator[int]:
    """A page with a label that is a secret; its first answers are none."""
    text = f'quant_hft_breaker_state{{client="{client}",scope="way-16"}} 0\n'.encode()
    asked = []

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) > 3 else 503)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Files:
    """The four files of a plan."""

    cutover: Path
    rollback: Path
    limits: Path
    watch: Path

    @property
    def options(self) -> tuple[str, ...]:
        """As the command line names them."""
        names = {"cutover-template": self.cutover, "rollback-template": self.rollback}
        return tuple(f"--{name}={path}" for name, path in names.items())


def prepare(files: Files, room: Path, canary: Canaries, *, port: int) -> None:
    """Put a canary into each way that is a file."""
    (room / "infra/env").mkdir(parents=True)
    env = {f"WAY_{number}_PASSWORD": canary.core(number) for number in (2, 16, 28)}
    lines = "".join(f"{name}={value}\n" for name, value in env.items())
    (room / "infra/env/canaries.env").write_text(lines)
    forms = (11, 12, 23, 24, 25, 26, 27, 29)
    config = {f"way_{number}_password": canary.whole(number) for number in forms}
    ctp = {"ctp": {**config, "password": canary.core(30)}}
    (room / "ctp.json").write_text(json.dumps(ctp, indent=1))
    (room / "said.txt").write_text(printed(canary))
    values = dict(
        line.split("=", 1) for line in files.cutover.read_text().splitlines() if "=" in line
    )
    edited(
        files.cutover,
        CTP_CONFIG_PATH=str(room / "ctp.json"),
        BOOTSTRAP_INFRA_CMD=f"cat {room}/said.txt; {values['BOOTSTRAP_INFRA_CMD']}",
        PRECHECK_CMD=f"{commands(canary)}; {values['PRECHECK_CMD']}",
        HOLD_SECONDS="60",
        ALERT_WEBHOOK_URL=f"http://127.0.0.1:9/hooks/{canary.core(8)}",
    )
    limits = files.limits.read_text()
    files.limits.write_text(limits.replace("redact = []", f'redact = ["{canary.core(7)}"]'))
    watch, head = files.watch.read_text(), "[metrics.breaker_state]\n"
    assert head in watch
    url = f'url = "http://probe:{canary.core(13)}@127.0.0.1:{port}/way-13"\n'
    files.watch.write_text(watch.replace(head, head + url))


class ProcessList:
    """What anybody could read of our own processes: command lines, and environments."""

    def __init__(self) -> None:
        self.lines: set[bytes] = set()
        self.environments: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ProcessList:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    self._look(Path("/proc", name))

    def _look(self, process: Path) -> None:
        line = (process / "cmdline").read_bytes()
        first = line.partition(b"\0")[0]
        # Not bash, which has what the template says; nor the command whose words a person typed.
        if b"ctp_runbook" not in line or not first.endswith((b"python", b"python3")):
            return
        if b"\0hold\0" not in line:
            self.lines.add(line)
        self.environments.add((process / "environ").read_bytes())


def modes_open_to_others(folder: Path) -> list[str]:
    """What of a folder, itself included, somebody else may do anything with."""
    paths = [folder, *folder.rglob("*")]
    return [str(path) for path in paths if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def arrivals(text: str) -> set[int]:
    """The ways that were used: what they carried stands there masked."""
    marked = {int(number) for number in re.findall(r"way-(\d\d)\b.{0,120}?\*\*\*", text, re.DOTALL)}
    patterns = {
        13: r"http://\*\*\*@127\.0\.0\.1:\d+/way-13: answered HTTP 503",
        14: r"way-14 said password=\*\*\*",
        15: r"way-15 is token=\*\*\*",
        16: r'client=\\"\*\*\*\\",scope=\\"way-16\\"',
    }
    return marked - set(patterns) | {way for way, form in patterns.items() if re.search(form, text)}


class Handed:
    """A run below ``room`` that is handed every canary, and where to look for them afterwards."""

    def __init__(self, room: Path, files: Files, canary: Canaries) -> None:
        self.files, self.canary, self._room = files, canary, room
        self.run = RunDir(room / "outputs" / "run-1")
        self.screen: list[bytes] = []
        self.letters: list[bytes] = []
        self.processes = ProcessList()
        (room / "outputs").mkdir(exist_ok=True)
        (room / "outputs").chmod(0o755)

    @property
    def shown(self) -> str:
        """All that was on a terminal."""
        return b"\n".join(self.screen).decode()

    def say(self, *words: object) -> int:
        """Run a command of ours to its end, under a umask of 0, and keep what it shows."""
        process = self._started(*words)
        self.screen.append(process.communicate(timeout=240)[0])
        return process.returncode

    def _started(self, *words: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ctp_runbook", *map(str, words)],
            cwd=self._room,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            umask=0,
        )

    def conduct(self, command: str, *options: str, rolls_back: bool) -> int:
        """Plan, run, hold with canaries, go on, and see the run to its end; its viewer's exit code."""
        run, core = self.run, self.canary.core
        self.say("plan", *self.files.options, f"--output-json={self._room}/plan.json")
        with self.processes:
            excused = ("--accept-unmeasured", "a test of secrets")
            words = (command, "--execute", *self.files.options, "--run-dir", run.path, *excused)
            viewer = self._started(*words, *options)
            try:
                wait_for_state(run, State.WATCHING)
                why = ("--reason", f"way-14 said password={core(14)}")
                self.say("hold", "--run", run.path, *why, "--by", f"way-15 is token={core(15)}")
                self.letters += [path.read_bytes() for path in run.control.iterdir()]
                # Until the page with the label was read: its first answers are none.
                wait_until(lambda: b"way-16" in run.samples.read_bytes())
                self.say("status", "--run", run.path)
                self.say("resume", "--run", run.path, "--reason", "enough")
                if rolls_back:
                    self.say("rollback", "--run", run.path, "--reason", "enough")
                self.screen.append(viewer.communicate(timeout=120)[0])
            finally:
                viewer.kill()
        self.say("report", "--run", run.path)
        return viewer.returncode

    def places(self, *copies: Path) -> dict[str, list[bytes]]:
        """Where a canary could be, and what is there."""
        run = self.run
        notebooks = [path.read_bytes() for path in run.notebooks.iterdir()]
        return {
            "run folder": [path.read_bytes() for path in run.path.rglob("*") if path.is_file()],
            "control": self.letters,
            "samples": [run.samples.read_bytes(), run.baseline.read_bytes()],
            **({"notebooks": notebooks} if notebooks else {}),
            "report": [run.report.read_bytes()],
            "evidence": [path.read_bytes() for path in (*run.evidence.iterdir(), *copies)],
            "screen": self.screen,
            "process list": [*self.processes.lines],
        }

    def check(self, *copies: Path) -> list[str]:
        """Assert that each canary came in and none is left; a row a way, and one for all."""
        places = self.places(*copies, self._room / "plan.json")
        assert all(places.values()), {place: len(found) for place, found in places.items()}
        text = b"\n".join(data for found in places.values() for data in found)
        assert set(WAYS) - arrivals(text.decode(errors="replace")) == set(), self.shown
        left = {
            f"{WAYS[number]}: {place}"
            for place, found in places.items()
            for data in found
            for number in self.canary.found_in(data)
        }
        assert left == set()
        handed_on = {
            way for data in self.processes.environments for way in self.canary.found_in(data)
        }
        assert handed_on <= {1}, "only what came in by the environment is handed on by it"
        assert modes_open_to_others(self.run.path) == []
        assert stat.S_IMODE(self.run.path.parent.stat().st_mode) == 0o755
        lines = self.files.cutover.read_text().splitlines()
        at = next(at for at, line in enumerate(lines, start=1) if line.startswith("PRECHECK_CMD="))
        warned = f"{self.files.cutover}:{at}: PRECHECK_CMD: a secret stands in the command itself"
        assert warned in self.shown
        rows = [f"{number:2} {way:56} 0 bytes" for number, way in WAYS.items()]
        return [*rows, f"{len(WAYS)} ways in: 0 bytes in {', '.join(places)}"]


def test_no_secret_is_left_by_any_way_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_table: Callable[[str, list[str]], None],
) -> None:
    """30 ways in, 0 bytes out; and under a umask of 0 nobody else may read the run's folder."""
    canary, room = Canaries(), tmp_path
    monkeypatch.setenv("CTP_PASSWORD", canary.core(1))
    with small_stack(room) as stack, page_of_breakers(canary.core(16)) as port:
        gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
        commands = {f"{gate}_CMD": "ls" for gate in gates}
        stack.plan(PRECHECK_CMD=stack.readiness_command("precheck"), **commands)
        names = ("cutover.env", "rollback.env", "limits.toml", "watch.toml")
        files = Files(*(room / name for name in names))
        prepare(files, room, canary, port=port)
        handed = Handed(room, files, canary)
        assert handed.conduct("orchestrate", rolls_back=True) == 4, handed.shown
        rows = handed.check(room / "copies/rollback.env")
        handed.say("verify", "--run", handed.run.path, "--allow-cutover-rollback")
    # What is judged again is what was kept.
    assert "✓ samples:" in handed.shown, handed.shown
    record_table("canary_secrets", rows)


@pytest.mark.slow
def test_no_secret_is_left_in_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of a cutover of the light twin, by its notebooks, which verifies."""
    canary, room = Canaries(), tmp_path / "room"
    room.mkdir()
    monkeypatch.setenv("CTP_PASSWORD", canary.core(1))
    with (
        fresh_twin(tmp_path / "twin", watch_seconds=10) as twin,
        page_of_breakers(canary.core(16)) as port,
    ):
        files = Files(
            twin.cutover_template, twin.rollback_template, twin.limits_file, twin.watch_file
        )
        prepare(files, room, canary, port=port)
        handed = Handed(room, files, canary)
        notebooks = ("--notebooks", str(ROOT / "notebooks"))
        assert handed.conduct("run", *notebooks, rolls_back=False) == 0, handed.shown
        assert handed.say("verify", "--run", handed.run.path) == 0, handed.shown
        assert "notebooks" in handed.places()
        handed.check(twin.dir / "evidence/ctp_cutover_result.env")


def wait_for_state(run: RunDir, state: State, *, seconds: float = 120) -> None:
    """Return once the run is in that state; fail when it is over, or never comes to it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if run.journal.exists():
            history = read_whole(run)
            if history.state is state:
                return
            assert history.closed is None, history.closed
        time.sleep(0.1)
    pytest.fail(f"never {state.value}")
