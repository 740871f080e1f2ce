"""Facts about record/journal.py: what is written stays readable, and what was touched is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.host.process import boot_id, own_identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import (
    FIRST_PREV,
    Journal,
    JournalFile,
    digest_of,
    header_text,
    keep_elsewhere,
    open_journal,
    read_journal,
    records_behind,
    utc_text,
)
from ctp_runbook.record.kinds import KINDS, Finding, Payload
from ctp_runbook.redact import Redactor
from tests.props.example_records import EXAMPLES, header_like, like

KEYS = ["seq", "wall_utc", "mono_ns", "boot_id", "writer", "kind", "payload", "prev"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.jsonl"


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    """The four lines of a journal that is on disk."""
    write(path, "run_created", "state", "step_started", "step_ended")
    return path.read_bytes().splitlines()


def _record(kind: str) -> Payload:
    """The example of a kind, with a letter of two bytes where it has a reason."""
    has_reason = "reason" in EXAMPLES[kind].__struct_fields__
    return like(kind, reason="Größe 1.5") if has_reason else EXAMPLES[kind]


def write(path: Path, *kinds: str) -> None:
    """Append a record of each kind, by a writer of its own."""
    journal = Journal(path, durable=False)
    for kind in kinds:
        journal.append(_record(kind))
    journal.close()


def refusal(path: Path) -> str:
    """What reading the journal is refused with."""
    with pytest.raises(JournalError) as caught:
        read_journal(path)
    return str(caught.value)


# --- what a record is -------------------------------------------------------------


def test_a_record_says_when_who_and_after_what(path: Path) -> None:
    """One compact line with the eight keys in order, by this process, in this boot."""
    before = datetime.now(UTC)
    journal = Journal(path)
    first = journal.append(like("run_created", run_id="r1"))
    second = journal.append(like("state", to="GATING"))
    journal.close()
    raw = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [list(one) for one in raw] == [KEYS, KEYS]
    assert [one["seq"] for one in raw] == [0, 1]
    assert [one["prev"] for one in raw] == [FIRST_PREV, digest_of(first.line)]
    own = own_identity()
    assert raw[1]["writer"] == {"pid": own.pid, "start_ticks": own.start_ticks}
    assert raw[1]["boot_id"] == boot_id()
    assert before <= first.wall <= second.wall <= datetime.now(UTC)
    assert 0 < first.mono_ns <= second.mono_ns
    assert path.read_bytes() == first.line + b"\n" + second.line + b"\n"


def test_what_was_appended_is_what_is_read(path: Path) -> None:
    """The records handed out, those remembered and those read are the same."""
    journal = Journal(path)
    appended = tuple(journal.append(payload) for payload in EXAMPLES.values())
    assert journal.records == appended
    assert read_journal(path) == JournalFile(appended)
    journal.close()


def test_another_writer_goes_on_with_the_chain(path: Path) -> None:
    """Closing and opening again is no break."""
    write(path, "run_created", "state")
    write(path, "closed")
    kinds = [record.kind for record in read_journal(path).records]
    assert kinds == ["run_created", "state", "closed"]


def test_the_clock_is_utc_with_microseconds() -> None:
    """Instants are written one way."""
    assert utc_text(0) == "1970-01-01T00:00:00.000000+00:00"
    assert datetime.fromisoformat(utc_text()).utcoffset() is not None


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2))
def test_any_text_comes_back(texts: list[str]) -> None:
    """Whatever a reason can say: line breaks, NUL, quotes; one line, and equal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        journal = Journal(path, durable=False)
        said = [journal.append(like("state", reason=text)) for text in texts]
        journal.close()
        assert read_journal(path).records == tuple(said)
        assert path.read_bytes().count(b"\n") == 2


def test_every_kind_has_an_example_and_a_schema() -> None:
    """None is forgotten where kinds are told, tried and described."""
    assert EXAMPLES.keys() == KINDS.keys()


def _spoilt(kind: str, payload: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """A payload with each thing wrong that can be, and what must be said of it."""
    yield "unknown field `nobody`", {**payload, "nobody": 1}
    for field in structs.fields(KINDS[kind]):
        value = payload.get(field.name)
        is_number = value is None or (isinstance(value, int | float) and value is not bool(value))
        yield f"`$.{field.name}`", {**payload, field.name: "seven" if is_number else 7}
        if field.required:
            rest = {name: held for name, held in payload.items() if name != field.name}
            yield f"missing required field `{field.name}`", rest


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_a_kind_cannot_say_is_refused(kind: str, path: Path) -> None:
    """A key missing, a key more, a value of another type: by line, record, and key."""
    write(path, "run_created", kind)
    first, line = path.read_bytes().splitlines()
    raw = json.loads(line)
    for said, payload in _spoilt(kind, raw["payload"]):
        other = json.dumps({**raw, "payload": payload}, separators=(",", ":"), ensure_ascii=False)
        path.write_bytes(first + b"\n" + other.encode() + b"\n")
        told = refusal(path)
        assert told.startswith(f"{path}:2: journal record 1 ({kind}): "), told
        assert said in told


OTHER_FORMATS = {
    "the next": (b'"format":2,', "journal of format 2; this version of ctp_runbook reads format 1"),
    "a text": (b'"format":"1",', "journal of format '1'; this version of ctp_runbook reads"),
    "true": (b'"format":true,', "journal of format True; this version of ctp_runbook reads"),
    "none": (b"", "journal without a format number"),
}


@pytest.mark.parametrize(("named", "said"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_another_format_is_refused_by_name_and_number(named: bytes, said: str, path: Path) -> None:
    """Whatever else such a journal holds: what this version would make of it is not what it says."""
    write(path, "run_created")
    path.write_bytes(path.read_bytes().replace(b'"format":1,', named))
    told = refusal(path)
    assert told.startswith(f"{path}:1: journal record 0 (run_created): {said}")


UNSAYABLE: dict[str, dict[str, Any]] = {
    "inf": {"value": float("inf")},
    "nan": {"limit": float("nan")},
    "half a character": {"sentence": "\udcff"},
}


@pytest.mark.parametrize("facts", UNSAYABLE.values(), ids=UNSAYABLE)
def test_what_json_cannot_say_stops_no_rollback(facts: dict[str, Any], path: Path) -> None:
    """A trigger value of +Inf, or a reason in broken UTF-8, is written somehow, not a crash."""
    journal = Journal(path)
    journal.tolerant = True
    try:
        journal.append(structs.replace(EXAMPLES["trigger"], **facts))
    finally:
        journal.close()
    assert len(read_journal(path).records) == 1


# --- damage -----------------------------------------------------------------------


def _swapped(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


EDITED = "not as this version writes it; the line was edited"
DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int, str]] = {
    "first record deleted": (lambda x: x[1:], 1, "record 1 stands where 0 is due"),
    "record deleted": (lambda x: [x[0], *x[2:]], 2, "record 2 stands where 1 is due"),
    "records swapped": (lambda x: _swapped(x, 1), 2, "record 2 stands where 1 is due"),
    "record twice": (lambda x: [*x[:2], *x[1:]], 3, "record 1 stands where 2 is due"),
    "value edited": (
        lambda x: [x[0], x[1].replace(b"1.5", b"1.6"), *x[2:]],
        3,
        "record 2 does not continue the record before it",
    ),
    "prev edited": (
        lambda x: [*x[:3], x[3].replace(b'"prev":"', b'"prev":"0')],
        4,
        "record 3 does not continue",
    ),
    "space added": (lambda x: [x[0], x[1] + b" ", *x[2:]], 2, EDITED),
    "NUL in it": (lambda x: [x[0], x[1][:9] + b"\0" + x[1][9:], *x[2:]], 3, "record 2 stands"),
    "not UTF-8": (
        lambda x: [x[0], x[1].replace(b"\xc3", b"\xff"), *x[2:]],
        2,
        "invalid start byte",
    ),
    "carriage returns": (lambda x: [one + b"\r" for one in x], 1, EDITED),
    "byte order mark": (lambda x: [b"\xef\xbb\xbf" + x[0], *x[1:]], 2, "record 1 stands where 0"),
    "blank line": (lambda x: [x[0], b"", *x[1:]], 2, "does not quote it as torn"),
    "key twice": (
        lambda x: [x[0], x[1].replace(b'{"seq":1', b'{"seq":1,"seq":1'), *x[2:]],
        2,
        EDITED,
    ),
    "key missing": (lambda x: [x[0], x[1].replace(b'"seq":1,', b""), *x[2:]], 3, "record 2 stands"),
    "keys in another order": (
        lambda x: [_reordered(x[0]), *x[1:]],
        1,
        EDITED,
    ),
    "last record not one": (lambda x: [*x, b"{}"], 5, "the last whole line is not a record"),
    "two lines of rubbish": (lambda x: [*x, b"{", b"}"], 6, "two torn lines in a row"),
    "deep nesting": (lambda x: [*x, b"[" * 100_000], 5, "the last whole line is not a record"),
    "endless number": (lambda x: [*x, b"1" * 5000], 5, "the last whole line is not a record"),
    "a list": (lambda x: [*x, b"[1]"], 5, "the last whole line is not a record"),
    "a NaN": (
        lambda x: [*x, x[3].replace(b'"exit_code":0', b'"exit_code":NaN')],
        5,
        "the last whole line is not a record",
    ),
}


def _reordered(line: bytes) -> bytes:
    raw = json.loads(line)
    return json.dumps(dict(reversed(raw.items())), separators=(",", ":")).encode()


@pytest.mark.parametrize(("damage", "line", "said"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused_with_its_place(
    damage: Callable[[list[bytes]], list[bytes]],
    line: int,
    said: str,
    path: Path,
    lines: list[bytes],
) -> None:
    """Whatever was done to the file, reading it names file, line and what the chain demands."""
    path.write_bytes(b"".join(one + b"\n" for one in damage(lines)))
    told = refusal(path)
    assert said in told
    assert told.startswith(f"{path}:{line}: ")


def test_no_byte_can_be_edited(path: Path, lines: list[bytes]) -> None:
    """Any byte of any record that has one after it is under that one's digest."""
    data = path.read_bytes()
    for at in range(0, len(data) - len(lines[-1]) - 1, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(JournalError):
            read_journal(path)


def test_a_missing_journal_is_told(tmp_path: Path) -> None:
    """The reason is the system's own."""
    assert refusal(tmp_path / "no.jsonl").endswith("cannot be read: No such file or directory")


def test_an_empty_journal_has_no_records(path: Path) -> None:
    """Created and not yet written to is not damage."""
    path.touch()
    assert read_journal(path) == JournalFile(())


# --- a torn last line -------------------------------------------------------------


def torn_at(path: Path, cut: int) -> bytes:
    """Cut the last line after ``cut`` bytes, as a crash would; what is left of it."""
    data = path.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    path.write_bytes(data[: start + cut])
    return data[start : start + cut]


def test_a_torn_line_is_seen_and_not_a_record(path: Path, lines: list[bytes]) -> None:
    """Half a record is handed out as bytes beside the whole ones."""
    torn = torn_at(path, 40)
    found = read_journal(path)
    assert (len(found.records), found.torn) == (len(lines) - 1, torn)


def test_a_torn_line_is_quoted_wherever_it_was_torn(path: Path, lines: list[bytes]) -> None:
    """The next writer leaves it as it is and names its digest, and the journal reads on."""
    data = path.read_bytes()
    for cut in {*range(1, len(lines[-1]), 5), len(lines[-1]) - 1}:
        path.write_bytes(data)
        torn = torn_at(path, cut)
        journal = Journal(path, durable=False)
        assert journal.torn_line_sha256 == digest_of(torn)
        journal.append(like("orchestrator_started"))
        journal.append(like("state"))
        journal.close()
        found = read_journal(path)
        assert [one.seq for one in found.records] == [0, 1, 2, 3, 4]
        quotes = [record.torn_line_sha256 for record in found.records]
        assert quotes == ["", "", "", digest_of(torn), ""]
        assert torn in path.read_bytes()


def test_a_line_that_lost_only_its_newline_is_no_damage(path: Path, lines: list[bytes]) -> None:
    """The one cut that leaves a whole record must not make the journal unreadable."""
    torn_at(path, len(lines[-1]))
    write(path, "orchestrator_started")
    assert read_journal(path).records[-1].kind == "orchestrator_started"


def test_torn_twice_is_quoted_twice(path: Path) -> None:
    """Two crashes with records between them are both told."""
    for _ in range(2):
        write(path, "state", "probe")
        torn_at(path, 30)
    write(path, "state")
    quoted = [bool(record.torn_line_sha256) for record in read_journal(path).records]
    assert quoted == [False, True, True]


@pytest.mark.parametrize("quote", ["", "0" * 64])
def test_a_torn_line_that_is_not_quoted_is_refused(
    quote: str, path: Path, lines: list[bytes]
) -> None:
    """A record after it must name its digest; else somebody cut the line out of a whole one."""
    last = json.loads(lines[3])
    if quote:
        last["torn_line_sha256"] = quote
    end = json.dumps(last, ensure_ascii=False, separators=(",", ":")).encode()
    path.write_bytes(b"\n".join([*lines[:3], lines[3][:30], end, b""]))
    told = refusal(path)
    assert told.startswith(f"{path}:4: not a record, and the record after it does not quote it")


# --- a full disk ------------------------------------------------------------------


SMALL_DISK = """
import os, sys
from pathlib import Path
from ctp_runbook.errors import JournalError
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import Finding
disk = Path(sys.argv[1])
path = disk / "journal.jsonl"
journal = Journal(path)
journal.append(Finding(severity="info", sentence="first"))
if sys.argv[2] == "reserve":
    journal.reserve(16384)
    assert path.with_suffix(".reserve").stat().st_size == 16384
with (disk / "rubbish").open("wb", buffering=0) as rubbish:
    try:
        while rubbish.write(bytes(1024)):
            pass
    except OSError:
        pass
written = 0
try:
    for _ in range(100):
        journal.append(Finding(severity="info", sentence="x" * 400))
        written += 1
except JournalError as error:
    print(str(error).rpartition(": ")[2])
print("reserve left:", path.with_suffix(".reserve").exists())
print("written:", written, "read:", len(read_journal(path).records) - 1)
"""


@pytest.mark.parametrize("reserve", ["reserve", "none"])
def test_the_reserve_saves_the_next_records(reserve: str, tmp_path: Path) -> None:
    """On a disk that fills up, space set aside is given back, and nothing written is lost."""
    script = f'mount -t tmpfs -o size=64k none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path} {reserve}'
    inside = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here, and so no small disk")
    told = subprocess.run(
        [*inside, script, SMALL_DISK], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    written, read = (int(word) for word in told[-1].split() if word.isdigit())
    assert told[:2] == ["No space left on device", "reserve left: False"]
    assert written == read
    assert (written > 20) == (reserve == "reserve")


LIMITED = """
import resource, sys
from pathlib import Path
from ctp_runbook.errors import JournalError
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import Finding
path = Path(sys.argv[1])
journal = Journal(path)
journal.append(Finding(severity="info", sentence="first"))
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
journal.tolerant = sys.argv[2] == "tolerant"
try:
    journal.append(Finding(severity="info", sentence="start_previous_core_engine"))
except JournalError as error:
    print("JournalError", error, file=sys.stderr)
print("kept:", [record.payload.sentence for record in journal.records])
assert path.stat().st_size == size, "a short write was left behind"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(Finding(severity="info", sentence="later"))
journal.close()
"""


def on_limited_disk(path: Path, mode: str) -> subprocess.CompletedProcess[str]:
    """A journal that has room for its first record, then not for the second, then again."""
    command = [sys.executable, "-c", LIMITED, str(path), mode]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def sentences(path: Path) -> list[str]:
    """What the findings of a journal say."""
    history = History.of(read_journal(path).records)
    return [record.payload.sentence for record in history.of_kind(Finding)]


def test_no_room_is_a_journal_error(path: Path) -> None:
    """The act that a record announces must not begin; half a record is taken back."""
    done = on_limited_disk(path, "strict")
    assert done.stderr == f"JournalError {path}: cannot be written: No space left on device\n"
    assert done.stdout == "kept: ['first']\n"
    assert sentences(path) == ["first", "later"]


def test_a_tolerant_journal_goes_on(path: Path) -> None:
    """In a rollback the record is kept in memory and cried out, and the work goes on."""
    done = on_limited_disk(path, "tolerant")
    assert done.stdout == "kept: ['first', 'start_previous_core_engine']\n"
    assert "No space left on device; going on without it: " in done.stderr
    assert "start_previous_core_engine" in done.stderr


def test_a_record_lost_in_a_rollback_leaves_a_readable_journal(path: Path) -> None:
    """After the disk has room again, the rest of the rollback is on record and can be read."""
    on_limited_disk(path, "tolerant")
    assert sentences(path) == ["first", "later"]


BEHIND = """
import resource, sys
from pathlib import Path
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.kinds import Finding
path, behind = map(Path, sys.argv[1:3])
journal = Journal(path, behind=behind)
journal.append(Finding(severity="info", sentence="the first of them all"))
journal.tolerant = True
size = path.stat().st_size
infinite = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20 if sys.argv[3] == "full" else size, infinite))
for number in range(20 if sys.argv[3] == "full" else 1):
    journal.append(Finding(severity="info", sentence=f"no room {number}"))
if sys.argv[4:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (infinite, infinite))
    journal.append(Finding(severity="info", sentence="room again"))
journal.close()
"""


def beside_a_full_disk(path: Path, behind: Path, *words: str) -> None:
    """A journal that has room for its first record; what comes then has a place behind it."""
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BEHIND, str(path), str(behind), *words]
    subprocess.run(command, capture_output=True, text=True, check=True)


def test_what_there_was_no_room_for_is_written_before_what_comes_next(
    path: Path, tmp_path: Path
) -> None:
    """By the same process, once there is room again; nothing is left behind then."""
    beside_a_full_disk(path, behind := tmp_path / "behind", "one", "room again")
    assert sentences(path) == ["the first of them all", "no room 0", "room again"]
    assert not behind.exists()


def test_what_there_was_no_room_for_is_known_to_whoever_comes_next(
    path: Path, tmp_path: Path
) -> None:
    """They go on from it and write it: what was done is not done once more, nor taken for another's."""
    beside_a_full_disk(path, behind := tmp_path / "behind", "one")
    known = read_journal(path).records
    assert sentences(path) == ["the first of them all"]
    assert b"no room 0" in records_behind(behind, known)[-1].line
    journal = Journal(path, behind=behind)
    assert b"no room 0" in journal.records[-1].line
    journal.append(Finding(severity="info", sentence="later"))
    journal.close()
    assert sentences(path) == ["the first of them all", "no room 0", "later"]
    assert not behind.exists()


def test_where_there_is_no_room_behind_it_either_the_journal_stays_readable(
    path: Path, tmp_path: Path
) -> None:
    """A record that has no place at all is lost, as it was cried out; what continues it is none."""
    beside_a_full_disk(path, behind := tmp_path / "behind", "full", "room again")
    assert sentences(path)[0] == "the first of them all"
    assert sentences(path)[-1] == "room again"
    Journal(path, behind=behind).close()
    assert sentences(path)[-1] == "room again"


STRAY = {
    "another run's": lambda line: line.replace(b'"seq":1', b'"seq":7'),
    "edited": lambda line: line.replace(b'"severity":', b'"severity": '),
    "torn": lambda line: line[:-9],
    "no record": lambda line: b"\xff\n" + line,
}


@pytest.mark.parametrize("change", STRAY.values(), ids=STRAY)
def test_what_does_not_continue_a_journal_is_not_taken_up(
    change: Callable[[bytes], bytes], path: Path, tmp_path: Path
) -> None:
    """Left of another run in that place, or damaged."""
    beside_a_full_disk(path, behind := tmp_path / "behind", "one")
    behind.write_bytes(change(behind.read_bytes()))
    Journal(path, behind=behind).close()
    assert sentences(path) == ["the first of them all"]


def test_a_pipe_in_place_of_what_was_kept_is_not_waited_at(path: Path, tmp_path: Path) -> None:
    """Whoever reads a journal reads on: a pipe nobody writes to would be waited at for ever."""
    Journal(path).close()
    os.mkfifo(behind := tmp_path / "behind")
    assert records_behind(behind, ()) == []
    Journal(path, behind=behind).close()


def test_a_durable_record_is_synced(tmp_path: Path) -> None:
    """A device that takes the bytes but cannot sync them is an error, unless it is a dry run."""
    (tmp_path / "null").symlink_to("/dev/null")
    durable = Journal(tmp_path / "null")
    with pytest.raises(JournalError, match="Invalid argument"):
        durable.append(like("state"))
    durable.close()
    dry = Journal(tmp_path / "null", durable=False)
    assert dry.append(like("state")).seq == 0
    dry.close()


def test_a_reserve_that_cannot_be_had_is_refused(path: Path) -> None:
    """Before the switch, a disk without that room is a reason not to begin, in words."""
    journal = Journal(path)
    with pytest.raises(JournalError, match="free disk space in outputs/ before the switch"):
        journal.reserve(1 << 62)
    journal.close()


@pytest.mark.parametrize("size", [0, 4096])
def test_a_reserve_is_gone_when_the_journal_closes(size: int, path: Path) -> None:
    """It takes its room while the run goes on (none at all may be asked for), and then no more."""
    journal = Journal(path)
    journal.reserve(size)
    assert path.with_suffix(".reserve").stat().st_size >= size
    journal.close()
    assert [one.name for one in path.parent.iterdir()] == ["journal.jsonl"]


WORDS = (
    *("operator", "PASS", "metr", "warn", "paused", "COMPLETED", "5e5e", "+00:00", "2026-02"),
    *("strategy", "runner", "core", "engine", "latency", "order", "switch", "alive", "json"),
)


@pytest.mark.parametrize("secret", WORDS)
def test_no_secret_makes_a_record_another_one(secret: str, path: Path) -> None:
    """Somebody's password, or the user of some URL, may be a word of ours: where only our words and
    names stand they stay, and elsewhere they are masked."""
    redactor = Redactor.of([secret])
    journal = Journal(path, durable=False)
    for payload in EXAMPLES.values():
        journal.append(redactor.data(payload))
    journal.close()
    for record, payload in zip(read_journal(path).records, EXAMPLES.values(), strict=True):
        for name in payload.own_words():
            assert getattr(record.payload, name) == getattr(payload, name), name
    told = EXAMPLES["finding"]
    masked = redactor.data(structs.replace(told, sentence=f"it is {secret}"))
    assert masked.sentence == "it is ***"


def _closed(kind: Any) -> bool:
    """True for a type that holds words, digests or instants of ours alone."""
    patterns = [getattr(meta, "pattern", None) for meta in getattr(kind, "__metadata__", ())]
    return get_origin(kind) is Literal or any(one not in (None, r"\S") for one in patterns)


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_only_be_ours_is_said_to_be(kind: str) -> None:
    """No field whose form a mask would break is left to redaction."""
    closed = {field.name for field in structs.fields(KINDS[kind]) if _closed(field.type)}
    assert closed <= KINDS[kind].own_words()


@pytest.mark.parametrize(
    "instant", ["2026-02-02T02:02:02Z", "2026-02-02T02:02:02", "2026-02-02T10:02:02.000000+08:00"]
)
def test_an_instant_is_written_one_way(instant: str, path: Path) -> None:
    """UTC with microseconds: in any other form two instants cannot be told apart by their text."""
    write(path, "run_created")
    path.write_bytes(
        re.sub(rb'"wall_utc":"[^"]*"', f'"wall_utc":"{instant}"'.encode(), path.read_bytes())
    )
    assert "journal record 0 (run_created): " in refusal(path)


def test_a_header_in_broken_utf_8_is_written_as_the_journal_has_it(path: Path) -> None:
    """A reason typed in another encoding reaches run.json too."""
    header = header_like(reason="\udcb2\udcce", cwd="/srv/\udcff")
    journal = Journal(path, durable=False)
    written = journal.append(header)
    journal.close()
    assert header_text(header) == header_text(written.payload)


def test_a_record_that_breaks_its_form_is_cried_out(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written all the same, and said while the process lives that can act."""
    journal = Journal(path, durable=False)
    journal.append(structs.replace(EXAMPLES["act_started"], pid=-1))
    journal.close()
    assert "a record of kind act_started cannot be read back" in capsys.readouterr().err


# --- a file without its name --------------------------------------------------------


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """A journal in a folder that a test may take away."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "journal.jsonl"


def test_whoever_has_it_open_reads_and_goes_on(lost: Path) -> None:
    """The folder is gone, and with it the name: the next writer takes up what the last one had open."""
    first = Journal(lost)
    first.append(like("state"))
    held = open_journal(lost)
    shutil.rmtree(lost.parent)
    first.append(like("state"))
    first.close()
    assert len(read_journal(lost, fd=held).records) == 2
    second = Journal(lost, fd=held)
    second.append(like("state"))
    assert second.put_back() == "was removed while it was written"
    second.append(like("state"))
    second.close()
    assert [record.seq for record in read_journal(lost).records] == [0, 1, 2, 3]


def test_what_was_put_in_its_place_is_not_believed(lost: Path) -> None:
    """The journal is what is open; the other file is kept beside it."""
    journal = Journal(lost)
    journal.append(like("state"))
    (lost.parent / "strange").write_text("edited\n")
    (lost.parent / "strange").rename(lost)
    assert journal.put_back().startswith("was replaced while it was written, by what is now ")
    assert read_journal(lost).records == journal.records
    journal.close()
    (aside,) = lost.parent.glob("*.found-*")
    assert aside.read_text() == "edited\n"


def test_without_a_place_it_is_kept_elsewhere(lost: Path) -> None:
    """Whoever has it open last says where it can be read."""
    journal = Journal(lost)
    journal.append(like("state"))
    held = open_journal(lost)
    journal.close()
    assert keep_elsewhere(os.dup(held), lost) == str(lost)
    shutil.rmtree(lost.parent)
    lost.parent.touch()
    place = Path(keep_elsewhere(held, lost))
    try:
        assert place.parent == Path("/tmp")
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert len(read_journal(place).records) == 1
    finally:
        place.unlink()


def test_one_that_is_not_there_cannot_be_held(path: Path) -> None:
    """And none is made."""
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        open_journal(path)
    assert not path.exists()


NO_INODES = """
import sys
from pathlib import Path
from ctp_runbook.errors import JournalError
from ctp_runbook.host.files import write_atomic
from ctp_runbook.record.journal import Journal
disk = Path(sys.argv[1])
journal = Journal(disk / "journal.jsonl")
journal.reserve(0)
number = 0
try:
    while True:
        (disk / f"rubbish{number}").touch()
        number += 1
except OSError as error:
    print(error.strerror)
journal.give_back()
for number in range(48):
    write_atomic(disk / f"log{number}", b"")
try:
    journal.reserve(0)
except JournalError as error:
    print(str(error).partition("cannot")[2])
"""


def test_the_reserve_is_of_files_too(tmp_path: Path) -> None:
    """On a disk that has room and no inodes the logs and the evidence can be written."""
    script = f'mount -t tmpfs -o size=1m,nr_inodes=100 none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    inside = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here, and so no small disk")
    done = subprocess.run([*inside, script, NO_INODES], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "No space left on device",
        " reserve 0 bytes and 48 files (No space left on device); free disk space in outputs/ before "
        "the switch",
    ], done.stderr
