"""The gate ``clickhouse-schema``: applied, then compared with its files column by column.

What is wanted is read out of the CREATE statements, and types are spelt the server's way by the
server itself (``toTypeName``): nothing is created to compare with. A second set of queue tables
in a scratch database, however short-lived, would join the consumer group and take ticks.

A queue (engine Kafka) cannot run on the twin: there its table has the engine Null and the ingester
fills it. Outside profile rehearsal that is a difference like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.sql_files import SqlFile, Statement, load_sql, squeezed
from ctp_runbook.probes.clickhouse import ClickHouseDoor, quoted

__all__ = ["clickhouse_door", "clickhouse_tasks"]

_CALL_SECONDS = 20.0
_MIB = 1 << 20
# On a full disk ClickHouse makes views without a query and says nothing: seen in 26.9.
_LEAST_FREE_MIB = 256


def clickhouse_door(context: GateContext) -> ClickHouseDoor | None:
    """ClickHouse as the flags and the environment have it; None without an address."""
    url = context.clickhouse_url
    return ClickHouseDoor(url, *context.clickhouse_login) if url else None


def clickhouse_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the server, apply the files, compare file by file."""
    door = clickhouse_door(context)
    if door is None:
        return ()
    files = load_sql(context.infra("clickhouse"))
    gate = _SchemaGate(context, door, files)
    told = f"run {len(files)} files of infra/clickhouse at {door.shown}"
    return (
        Task("reach_clickhouse", f"SELECT version() at {door.shown}", gate.reach, is_vital=True),
        Task("apply_schema", told, gate.apply, acts=True),
        *(gate.task(file) for file in files),
    )


@dataclass(frozen=True)
class _Table:
    """A live table or view, as system.tables and system.columns have it."""

    engine: str
    engine_full: str
    order_by: str
    partition_by: str
    select: str
    target: str
    rows: int
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _SchemaGate:
    context: GateContext
    door: ClickHouseDoor
    files: tuple[SqlFile, ...]

    def ask(self, query: str) -> list[list[Any]]:
        return self.door.rows(query, seconds=self.context.deadline.call(_CALL_SECONDS))

    def reach(self) -> Observation:
        """The server's version, and room on its disks: nothing is made on a full one."""
        facts = {"version": str(self.ask("SELECT version()")[0][0])}
        problems = []
        for name, path, free in self.ask("SELECT name, path, free_space FROM system.disks"):
            facts[f"disk_{name}_free_mib"] = str(free // _MIB)
            if free < _LEAST_FREE_MIB * _MIB:
                problems.append(
                    f"ClickHouse at {self.door.shown}: disk {name} ({path}) has {free // _MIB} MiB "
                    f"free, expected at least {_LEAST_FREE_MIB} MiB; make room on that disk"
                )
        return Observation(facts, tuple(problems))

    @property
    def wanted(self) -> tuple[Statement, ...]:
        """Every statement, as this profile has it."""
        return tuple(self.here(one) for file in self.files for one in file.statements)

    def here(self, statement: Statement) -> Statement:
        return statement.on_twin() if self.context.options.is_rehearsal else statement

    @cached_property
    def databases(self) -> str:
        """The databases of the files, as a list in SQL."""
        names = {one.database for one in self.wanted}
        return ", ".join(map(quoted, sorted(names)))

    def apply(self) -> Observation:
        """Make what is missing; a view that was dropped is not quietly made again."""
        before = self.live()
        problems = tuple(self.dropped_views(before))
        if problems:
            return Observation({"tables_before": str(len(before))}, problems)
        # Not all of them: even with IF NOT EXISTS a view is checked against its target first, and
        # would hide by its own error which column the target lacks.
        there = {*before, *(name.partition(".")[0] for name in before)}
        texts = [one.text for one in self.wanted if one.name not in there]
        texts += [text for file in self.files for text in file.more]
        for text in texts:
            self.door.run(text, seconds=self.context.deadline.call(_CALL_SECONDS))
        after = self.live()
        new = sorted(set(after) - set(before))
        new += sorted(name for name in before if after[name].columns != before[name].columns)
        facts = {"statements_run": str(len(texts)), "created": ", ".join(new) or "none"}
        if self.context.options.is_rehearsal:
            queues = [
                one for file in self.files for one in file.statements if one.engine == "Kafka"
            ]
            facts["stand_ins"] = f"{len(queues)} queues have engine Null on the twin, not Kafka"
        return Observation(facts, changes=len(new))

    def dropped_views(self, live: Mapping[str, _Table]) -> Iterator[str]:
        """Views that are gone though their target was filled: rows are missing since."""
        for one in self.wanted:
            target = live.get(one.target)
            if one.kind == "MATERIALIZED VIEW" and one.name not in live and target and target.rows:
                yield (
                    f"view {one.name} does not exist, though its target {one.target} has "
                    f"{target.rows} rows: it was dropped, and what came since is not in the "
                    f"target; find out why, then run its CREATE of {self.file_of(one)} by hand "
                    "and fill the gap from the topic"
                )

    def file_of(self, statement: Statement) -> str:
        found = (
            file for file in self.files for one in file.statements if one.name == statement.name
        )
        return str(next(found).path)

    def live(self) -> dict[str, _Table]:
        """Every table and view of the databases, by full name."""
        columns = dict[str, dict[str, str]]()
        for table, name, kind in self.ask(
            "SELECT database || '.' || table, name, type FROM system.columns "
            f"WHERE database IN ({self.databases}) ORDER BY database, table, position"
        ):
            columns.setdefault(table, {})[name] = kind
        found = self.ask(
            "SELECT database || '.' || name, engine, engine_full, sorting_key, partition_key,"
            " as_select, extract(create_table_query, ' TO ([^ (]+)'), ifNull(total_rows, 0)"
            f" FROM system.tables WHERE database IN ({self.databases})"
        )
        return {
            name: _Table(
                engine, full, order, partition, select, target, rows, columns.get(name, {})
            )
            for name, engine, full, order, partition, select, target, rows in found
        }

    def task(self, file: SqlFile) -> Task:
        """Compare what one file is to make."""
        name = file.path.stem
        question = f"system.tables and system.columns against {file.path.name}"
        return Task(name, question, lambda: self.compare(file))

    def compare(self, file: SqlFile) -> Observation:
        """Each statement of a file against what is live."""
        live, facts, problems = self.live(), dict[str, str](), list[str]()
        for statement in file.statements:
            if statement.kind == "DATABASE":
                continue
            wanted, found = self.here(statement), live.get(statement.name)
            if found is None:
                problems.append(f"{_noun(wanted)} does not exist ({file.path}); run {_GATE}")
                continue
            problems += [
                f"{_noun(wanted)}: {one} ({file.path})" for one in self.differences(wanted, found)
            ]
            facts[f"{statement.short}_engine"] = found.engine
            facts[f"{statement.short}_columns"] = str(len(found.columns))
        facts = facts or {"tables": "none in this file"}
        return Observation(facts, tuple(problems))

    def differences(self, wanted: Statement, found: _Table) -> Iterator[str]:
        """What is live otherwise than the statement has it."""
        if wanted.is_view:
            yield from self.view_differences(wanted, found)
            return
        if found.engine != wanted.engine:
            yield f"engine is {found.engine}, expected {wanted.engine}; {_BY_HAND}"
        yield from self.column_differences(wanted, found)
        for what, have, want in (
            ("ORDER BY", found.order_by, wanted.order_by),
            ("PARTITION BY", found.partition_by, wanted.partition_by),
        ):
            if squeezed(have) != squeezed(want):
                yield f"{what} is {have or 'none'}, expected {want or 'none'}; {_BY_HAND}"
        for key, value in wanted.settings:
            if f"{key}={squeezed(value)}" not in squeezed(found.engine_full):
                yield f"setting {key} is not {value}: {found.engine_full}; {_BY_HAND}"

    def column_differences(self, wanted: Statement, found: _Table) -> Iterator[str]:
        """Columns that are missing, of another type, or nobody's."""
        types = self.spelt([one.type for one in wanted.columns])
        for column in wanted.columns:
            have, want = found.columns.get(column.name), types[column.type]
            if have is None:
                fix = f"ALTER TABLE {wanted.name} ADD COLUMN {column.name} {want}"
                yield f"column {column.name} {want} is missing; run `{fix}`"
            elif have != want:
                fix = f"ALTER TABLE {wanted.name} MODIFY COLUMN {column.name} {want}"
                yield f"column {column.name} is {have}, expected {want}; in a quiet hour run `{fix}`"
        for name in found.columns.keys() - {column.name for column in wanted.columns}:
            yield f"column {name} {found.columns[name]} is not in the file; add it there, or drop it"

    def spelt(self, types: list[str]) -> dict[str, str]:
        """Each type as the server spells it: ``Decimal64(4)`` is ``Decimal(18, 4)`` there."""
        asked = ", ".join(f"toTypeName(defaultValueOfTypeName({quoted(one)}))" for one in types)
        return dict(zip(types, map(str, self.ask(f"SELECT {asked}")[0]), strict=True))

    def view_differences(self, wanted: Statement, found: _Table) -> Iterator[str]:
        """A view that writes elsewhere, or selects something else."""
        if wanted.target and found.target.replace("`", "") != wanted.target:
            yield f"writes to {found.target}, expected {wanted.target}; {_BY_HAND}"
        if not found.select:
            yield f"has no query; {_BY_HAND}"
            return
        both = (f"formatQuerySingleLine({quoted(one)})" for one in (found.select, wanted.select))
        have, want = map(str, self.ask(f"SELECT {', '.join(both)}")[0])
        if squeezed(have) != squeezed(want):
            yield f"selects {_first_difference(have, want)}; {_BY_HAND}"


_GATE = "`ctp-runbook infra clickhouse-schema --execute`"
_BY_HAND = "it cannot be altered in place: drop it in a quiet hour, then run the gate"


def _noun(statement: Statement) -> str:
    return f"{'view' if statement.is_view else 'table'} {statement.name}"


def _first_difference(have: str, want: str) -> str:
    """Both texts from where they part."""
    pairs = enumerate(zip(have, want, strict=False))
    at = next((number for number, (a, b) in pairs if a != b), min(len(have), len(want)))
    start = max(0, at - 20)
    return f"…{have[start : at + 60]}…, expected …{want[start : at + 60]}…"
