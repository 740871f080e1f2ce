"""The gate ``clickhouse-schema``: applied, then compared with what the server makes of its files.

The server says what is wanted: each statement is run in a scratch database of this process, and
system.tables is asked about both. Two spellings of one thing are one thing there, and a setting,
a TTL or an engine's argument that differs cannot hide. The scratch's queues take nothing: a queue
joins its group only when a view reads it, and a view is made as a plain one there. The scratch is
dropped when the file is compared; one whose process was killed is dropped by the next run. It is
a write: without --execute, only what is missing is told.

A queue (engine Kafka) cannot run on the twin: there its table has the engine Null and the ingester
fills it. Outside profile rehearsal that is a difference like any other.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.sql_files import (
    SqlFile,
    Statement,
    clauses,
    definitions,
    load_sql,
    settings,
    unbracketed,
    view_target,
)
from ctp_runbook.host.process import boot_id, is_running, own_identity
from ctp_runbook.model import Identity
from ctp_runbook.probes.clickhouse import ClickHouseDoor, quoted

__all__ = ["clickhouse_tasks"]

_PLACES = (
    "clickhouse/*.sql",
    "clickhouse/init/*.sql",
    "init/clickhouse/*.sql",
    "init/*clickhouse*.sql",
    "init/*.sql",
)
_CALL_SECONDS = 20.0
_MIB = 1 << 20
# On a full disk ClickHouse makes views without a query and says nothing: seen in 26.9.
_LEAST_FREE_MIB = 256
_GATE = "`ctp-runbook infra clickhouse-schema --execute`"
_SCRATCH = "ctp_runbook_scratch_"
# Of the boot's id, enough to tell hosts apart; and when another host's scratch is nobody's.
_BOOT = 8
_SCRATCH_SECONDS = 86_400.0
_NOT_ASKED = (
    "not asked whether what is there is as wanted: that takes a scratch database, which only "
    "--execute makes"
)


def clickhouse_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the server, apply the files, compare file by file; none without an address."""
    if (door := context.clickhouse) is None:
        return ()
    schema = context.infra_files(*_PLACES)
    files = load_sql(schema.folder, schema.files)
    if not any(file.statements or file.more for file in files):
        raise RunRefused(f"{schema.sentence}: no statement in any of them; write the schema there")
    gate = _SchemaGate(context, door, files)
    apply = f"run {schema.sentence} at {door.shown}"
    return (
        Task("reach_clickhouse", f"SELECT version() at {door.shown}", gate.reach, is_vital=True),
        Task("apply_schema", apply, gate.apply, acts=True),
        *(
            Task(
                file.path.stem,
                f"system.tables against what {file.path.name} makes in a scratch database",
                partial(gate.compare, file),
            )
            for file in files
        ),
    )


@dataclass(frozen=True)
class _Table:
    """A table or view as system.tables tells it; ``rows`` is None where the server counts none."""

    engine: str
    engine_full: str
    partition_by: str
    order_by: str
    primary_key: str
    sample_by: str
    create: str
    select: str
    rows: int | None

    @cached_property
    def definitions(self) -> dict[str, str]:
        """Its columns, indices, constraints and projections, by name."""
        return definitions(self.create)

    @property
    def target(self) -> str:
        """Where a view writes to, ``database.table``; blank where it keeps its rows itself."""
        return view_target(self.create.removesuffix(self.select))


@dataclass(frozen=True)
class _SchemaGate:
    context: GateContext
    door: ClickHouseDoor
    files: tuple[SqlFile, ...]

    def ask(self, query: str, *, like: Any) -> list[Any]:
        """Return the rows of a question, each of them ``like`` this."""
        return self.door.rows(query, seconds=self.context.deadline.call(_CALL_SECONDS), like=like)

    def run(self, statement: str) -> None:
        self.door.run(statement, seconds=self.context.deadline.call(_CALL_SECONDS))

    def reach(self) -> Observation:
        """Ask for the version, and for room on the disks: nothing is made on a full one."""
        versions = self.ask("SELECT version()", like=tuple[str])
        facts = {"version": ", ".join(version for (version,) in versions)}
        problems, disks = [], "SELECT name, path, free_space FROM system.disks"
        for name, path, free in self.ask(disks, like=tuple[str, str, int]):
            facts[f"disk_{name}_free_mib"] = str(free // _MIB)
            if free < _LEAST_FREE_MIB * _MIB:
                problems.append(
                    f"ClickHouse at {self.door.shown}: disk {name} ({path}) has {free // _MIB} MiB "
                    f"free, expected at least {_LEAST_FREE_MIB} MiB; make room on that disk"
                )
        return Observation(facts, tuple(problems))

    @property
    def wanted(self) -> Iterator[tuple[SqlFile, Statement]]:
        """Every statement, as this profile has it, with its file."""
        for file in self.files:
            yield from ((file, self.here(statement)) for statement in file.statements)

    def here(self, statement: Statement) -> Statement:
        return statement.on_twin() if self.context.options.is_rehearsal else statement

    def apply(self) -> Observation:
        """Make what is missing; a view that was dropped is not quietly made again."""
        removed = self.remove_leftovers()
        before = self.live()
        if problems := tuple(self.dropped_views(before)):
            return Observation({"tables_before": str(len(before))}, problems)
        # Not all of them: even with IF NOT EXISTS a view is checked against its target first, and
        # would hide by its own error which column the target lacks.
        there = {*before, *(name.partition(".")[0] for name in before)}
        texts = [wanted.text for _, wanted in self.wanted if wanted.name not in there]
        texts += [more.text for file in self.files for more in file.more]
        for text in texts:
            self.run(text)
        after = self.live()
        new = sorted(after.keys() - before)
        new += sorted(
            name for name in before if after[name].definitions != before[name].definitions
        )
        facts = {"statements_run": str(len(texts)), "created": ", ".join(new) or "none"}
        if removed:
            facts["scratch_removed"] = ", ".join(removed)
        if self.context.options.is_rehearsal:
            own = (wanted for file in self.files for wanted in file.statements)
            queues = sum(wanted.engine == "Kafka" for wanted in own)
            facts["stand_ins"] = f"{queues} queues have engine Null on the twin, not Kafka"
        return Observation(facts, changes=len(new))

    def dropped_views(self, live: Mapping[str, _Table]) -> Iterator[str]:
        """Yield views that are gone though their target was filled: rows are missing since."""
        for file, view in self.wanted:
            target = live.get(view.target) if view.kind == "MATERIALIZED VIEW" else None
            if target is not None and target.rows and view.name not in live:
                yield (
                    f"view {view.name} does not exist, though its target {view.target} has "
                    f"{target.rows} rows: it was dropped, and what came since is not in the "
                    f"target; find out why, then run its CREATE of {file.path} by hand "
                    "and fill the gap from the topic"
                )

    def live(self) -> dict[str, _Table]:
        """Return every table and view of the databases, by full name."""
        return self.tables(sorted({wanted.database for _, wanted in self.wanted}))

    def tables(self, databases: list[str]) -> dict[str, _Table]:
        rows = self.ask(
            "SELECT database || '.' || name, engine, engine_full, partition_key, sorting_key,"
            " primary_key, sampling_key, create_table_query, as_select, total_rows"
            f" FROM system.tables WHERE database IN ({', '.join(map(quoted, databases))})",
            like=tuple[str, str, str, str, str, str, str, str, str, int | None],
        )
        return {name: _Table(*facts) for name, *facts in rows}

    def compare(self, file: SqlFile) -> Observation:
        """Compare each statement of a file with what is live."""
        live, facts, problems = self.live(), dict[str, str](), list[str]()
        wanted = [
            self.here(statement) for statement in file.statements if statement.kind != "DATABASE"
        ]
        there = [statement for statement in wanted if statement.name in live]
        for statement in wanted:
            if (table := live.get(statement.name)) is None:
                problems.append(f"{_noun(statement)} does not exist ({file.path}); run {_GATE}")
                continue
            facts[f"{statement.short}_engine"] = table.engine
            facts[f"{statement.short}_columns"] = str(len(table.definitions))
        if self.context.options.execute is not True:
            return Observation(facts, tuple(problems), skipped=_NOT_ASKED if there else "")
        for statement, want in zip(there, self.as_wanted(there), strict=True):
            have = live[statement.name]
            said = (want,) if isinstance(want, str) else _differences(statement, have, want)
            problems += [f"{_noun(statement)}: {words} ({file.path})" for words in said]
        return Observation(facts or {"tables": "none in this file"}, tuple(problems))

    def as_wanted(self, statements: list[Statement]) -> list[_Table | str]:
        """Return what the server makes of each statement, or why it makes nothing."""
        if not statements:
            return []
        with self.scratch() as scratch:
            names = [f"{scratch}.wanted_{number}" for number in range(len(statements))]
            pairs = list(zip(statements, names, strict=True))
            refused = {name: self.refusal(statement, name) for statement, name in pairs}
            live = self.tables([scratch])
        # The engine of the twin refuses to start a queue, and has it nevertheless.
        starts = {name for statement, name in pairs if statement.engine != "Kafka"}
        return [
            live[name]
            if name in live and not (refused[name] and name in starts)
            else f"cannot be compared: {refused[name] or 'the server has made nothing of it'}"
            for name in names
        ]

    def refusal(self, statement: Statement, name: str) -> str:
        """Make what a statement wants under another name; return why not, blank for done."""
        more = (each for file in self.files for each in file.more if each.name == statement.name)
        try:
            for each in (statement, *more):
                self.run(each.moved(name))
        except ProbeError as error:
            return str(error)
        return ""

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """Make a database of this process' own, and take it away again."""
        me = own_identity()
        whose = f"{me.boot_id[:_BOOT]}_{me.pid}_{me.start_ticks}_{time.time():.0f}"
        name = f"{_SCRATCH}{whose}_{secrets.token_hex(4)}"
        try:
            self.run(f"CREATE DATABASE {name}")
            yield name
        except BaseException:
            with suppress(ProbeError):  # what went wrong first is what is told
                self.drop(name)
            raise
        self.drop(name)

    def drop(self, scratch: str) -> None:
        # Beyond the deadline if need be; a process that is killed leaves it to the next run.
        self.door.run(f"DROP DATABASE IF EXISTS {scratch} SYNC", seconds=_CALL_SECONDS)

    def remove_leftovers(self) -> list[str]:
        """Take away scratch databases whose process is gone; none that holds a row."""
        names = self.ask(
            "SELECT name FROM system.databases WHERE startsWith(name, "
            f"{quoted(_SCRATCH)}) AND name NOT IN"
            " (SELECT database FROM system.tables WHERE total_rows > 0)",
            like=tuple[str],
        )
        gone = [name for (name,) in names if _is_left_over(name)]
        for name in gone:
            self.drop(name)
        return gone


def _is_left_over(name: str) -> bool:
    """Return True for a scratch database nobody will take away: see `_SchemaGate.scratch`."""
    fields = name.removeprefix(_SCRATCH).split("_")
    if len(fields) != 5 or not all(field.isdecimal() for field in fields[1:4]):
        return False
    boot, pid, start_ticks, created = fields[0], *map(int, fields[1:4])
    if boot == boot_id()[:_BOOT]:
        return not is_running(Identity(pid, start_ticks))
    # Another host's, or this one's before it was started again: nobody to ask.
    return time.time() - created > _SCRATCH_SECONDS


# --- differences ------------------------------------------------------------------


def _noun(statement: Statement) -> str:
    return f"{'view' if statement.is_view else 'table'} {statement.name}"


def _differences(wanted: Statement, have: _Table, want: _Table) -> Iterator[str]:
    """Yield how a table or view is otherwise than the server would make it, each with a remedy."""
    if wanted.is_view:
        yield from _view_differences(wanted, have, want)
        return
    mend = _remedy(wanted, have)
    has, wants = clauses(have.engine_full), clauses(want.engine_full)
    if have.engine != want.engine:
        yield f"engine is {have.engine}, expected {want.engine}; {mend}"
    elif have.engine == "Kafka" and (has[""] == "Kafka") != (wants[""] == "Kafka"):
        yield (
            f"is written differently: {have.engine_full}, expected {want.engine_full}; whether "
            "both say the same the server does not tell: write the file the same way"
        )
        return
    elif has[""] != wants[""]:
        yield f"engine is {has['']}, expected {wants['']}; {mend}"
    for what, is_as, must_be in _keys(have, want):
        yield f"{what} is {is_as or 'none'}, expected {must_be or 'none'}; {mend}"
    if have.engine == want.engine:
        yield from _clause_differences(wanted, has, wants, mend)
    yield from _definition_differences(wanted, have, want, mend)


def _keys(have: _Table, want: _Table) -> Iterator[tuple[str, str, str]]:
    """Yield each key that differs: its keyword, what it is, what it must be."""
    for what, is_as, must_be in (
        ("PARTITION BY", have.partition_by, want.partition_by),
        ("ORDER BY", have.order_by, want.order_by),
        ("PRIMARY KEY", have.primary_key, want.primary_key),
        ("SAMPLE BY", have.sample_by, want.sample_by),
    ):
        if unbracketed(is_as) != unbracketed(must_be):
            yield what, is_as, must_be
            if what == "ORDER BY":  # the primary key is the same, where nothing else is said
                return


def _clause_differences(
    wanted: Statement, has: Mapping[str, str], wants: Mapping[str, str], mend: str
) -> Iterator[str]:
    table, is_queue = f"ALTER TABLE {wanted.quoted}", wanted.engine == "Kafka"
    have, want = has.get("TTL", ""), wants.get("TTL", "")
    if have != want:
        fix = f"MODIFY TTL {want}` (rows older than that go)" if want else "REMOVE TTL`"
        yield f"TTL is {have or 'none'}, expected {want or 'none'}; in a quiet hour run `{table} {fix}"
    before, due = settings(has.get("SETTINGS", "")), settings(wants.get("SETTINGS", ""))
    for key in sorted(before.keys() | due.keys()):
        have, want = before.get(key, ""), due.get(key, "")
        fix = f"MODIFY SETTING {key} = {want}" if want else f"RESET SETTING {key}"
        if have != want:
            yield (
                f"setting {key} is {have or 'not set'}, expected {want or 'not set'}; "
                + (mend if is_queue else f"in a quiet hour run `{table} {fix}`")
            )


def _definition_differences(
    wanted: Statement, have: _Table, want: _Table, mend: str
) -> Iterator[str]:
    """Yield columns, indices and the like that are missing, otherwise, or nobody's."""
    is_queue = "Kafka" in (have.engine, want.engine)
    for name, due in want.definitions.items():
        kind, _, own = name.partition(" ")
        alter, what = f"ALTER TABLE {wanted.quoted}", f"{kind.upper()} {own}"
        definition = have.definitions.get(name)
        if definition is None:
            fix = mend if is_queue else f"run `{alter} ADD {what} {due}`"
            yield f"{name} {due} is missing; {fix}"
        elif definition != due:
            change = f"MODIFY {what} {due}"
            if definition.startswith(f"{due} "):  # what a MODIFY leaves out stays as it is
                change = (
                    f"MODIFY {what} REMOVE {definition[len(due) :].split()[0].partition('(')[0]}"
                )
            by_hand = f"make it anew by {alter}" if kind != "column" else f"run `{alter} {change}`"
            fix = mend if is_queue else f"in a quiet hour {by_hand}"
            yield f"{name} is {definition}, expected {due}; {fix}"
    for name in have.definitions.keys() - want.definitions:
        fix = "add it there" + (", or drop it" if have.rows == 0 else "")
        yield f"{name} {have.definitions[name]} is not in the file; {fix}"


def _remedy(wanted: Statement, have: _Table) -> str:
    """Return what to do about what cannot be altered in place; a table with rows is not dropped."""
    if "Kafka" in (wanted.engine, have.engine) and not have.rows:
        return (
            "a queue is made anew, and loses nothing by it (what comes meanwhile waits in Kafka, "
            "as long as the topic keeps it; a new group name reads the topic from its start): in a "
            f"quiet hour `DETACH TABLE` its views, `RENAME TABLE {wanted.quoted}` away, run its "
            "CREATE of the file by hand, and `ATTACH TABLE` its views"
        )
    if have.rows == 0:
        return "it cannot be altered in place and has no rows: drop it in a quiet hour, then run the gate"
    rows = "how many rows it has is not told" if have.rows is None else f"it has {have.rows} rows"
    return (
        f"it cannot be altered in place, and {rows}: make it anew under another name, copy the "
        "rows by INSERT … SELECT, and `EXCHANGE TABLES`"
    )


def _view_differences(wanted: Statement, have: _Table, want: _Table) -> Iterator[str]:
    """Yield where a view writes elsewhere, or selects something else."""
    engine = "View" if wanted.kind == "VIEW" else "MaterializedView"
    own = "its own rows are copied first; " if have.rows or not have.target else ""
    mend = (
        f"{own}make it anew by hand in a quiet hour: `DETACH TABLE` the queue it reads, or what "
        "comes meanwhile does not reach its target; then its CREATE of the file, and `ATTACH TABLE`"
    )
    if have.engine != engine:
        yield f"is a {have.engine}, expected {engine}; {mend}"
        return
    if have.target != wanted.target:
        yield f"writes to {have.target or 'itself'}, expected {wanted.target or 'itself'}; {mend}"
    if not have.select:
        yield f"has no query; {mend}"
    elif have.select != want.select:
        fix = (
            f"in a quiet hour run `ALTER TABLE {wanted.quoted} MODIFY QUERY` with the file's SELECT"
        )
        yield f"selects {_first_difference(have.select, want.select)}; {fix}"


def _first_difference(have: str, want: str) -> str:
    """Return both texts from where they part."""
    pairs = enumerate(zip(have, want, strict=False))
    at = next((number for number, (a, b) in pairs if a != b), min(len(have), len(want)))
    start = max(0, at - 20)
    return f"…{have[start : at + 60]}…, expected …{want[start : at + 60]}…"
