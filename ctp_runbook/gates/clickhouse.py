"""The gate ``clickhouse-schema``: applied, then compared with its files column by column.

What is wanted is read out of the CREATE statements, and types are spelt the server's way by the
server itself (``toTypeName``): nothing is created to compare with. A second set of queue tables
in a scratch database, however short-lived, would join the consumer group and take ticks.

A queue (engine Kafka) cannot run on the twin: there its table has the engine Null and the ingester
fills it. Outside profile rehearsal that is a difference like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.sql_files import SqlFile, Statement, load_sql, squeezed
from ctp_runbook.probes.clickhouse import ClickHouseDoor, quoted

__all__ = ["clickhouse_tasks"]

_CALL_SECONDS = 20.0
_MIB = 1 << 20
# On a full disk ClickHouse makes views without a query and says nothing: seen in 26.9.
_LEAST_FREE_MIB = 256
_GATE = "`ctp-runbook infra clickhouse-schema --execute`"
_BY_HAND = "it cannot be altered in place: drop it in a quiet hour, then run the gate"


def clickhouse_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the server, apply the files, compare file by file; none without an address."""
    if (door := context.clickhouse) is None:
        return ()
    files = load_sql(context.infra("clickhouse"))
    gate = _SchemaGate(context, door, files)
    apply = f"run {len(files)} files of infra/clickhouse at {door.shown}"
    return (
        Task("reach_clickhouse", f"SELECT version() at {door.shown}", gate.reach, is_vital=True),
        Task("apply_schema", apply, gate.apply, acts=True),
        *(
            Task(
                file.path.stem,
                f"system.tables and system.columns against {file.path.name}",
                partial(gate.compare, file),
            )
            for file in files
        ),
    )


@dataclass(frozen=True)
class _Table:
    """A live table or view, as system.tables and system.columns have it."""

    columns: Mapping[str, str]
    engine: str
    engine_full: str
    order_by: str
    partition_by: str
    select: str
    target: str
    rows: int


@dataclass(frozen=True)
class _SchemaGate:
    context: GateContext
    door: ClickHouseDoor
    files: tuple[SqlFile, ...]

    def ask(self, query: str) -> list[list[Any]]:
        return self.door.rows(query, seconds=self.context.deadline.call(_CALL_SECONDS))

    def reach(self) -> Observation:
        """Ask for the version, and for room on the disks: nothing is made on a full one."""
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
    def wanted(self) -> Iterator[tuple[SqlFile, Statement]]:
        """Every statement, as this profile has it, with its file."""
        for file in self.files:
            yield from ((file, self.here(statement)) for statement in file.statements)

    def here(self, statement: Statement) -> Statement:
        return statement.on_twin() if self.context.options.is_rehearsal else statement

    def apply(self) -> Observation:
        """Make what is missing; a view that was dropped is not quietly made again."""
        before = self.live()
        if problems := tuple(self.dropped_views(before)):
            return Observation({"tables_before": str(len(before))}, problems)
        # Not all of them: even with IF NOT EXISTS a view is checked against its target first, and
        # would hide by its own error which column the target lacks.
        there = {*before, *(name.partition(".")[0] for name in before)}
        texts = [wanted.text for _, wanted in self.wanted if wanted.name not in there]
        texts += [text for file in self.files for text in file.more]
        for text in texts:
            self.door.run(text, seconds=self.context.deadline.call(_CALL_SECONDS))
        after = self.live()
        new = sorted(after.keys() - before)
        new += sorted(name for name in before if after[name].columns != before[name].columns)
        facts = {"statements_run": str(len(texts)), "created": ", ".join(new) or "none"}
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
        databases = ", ".join(map(quoted, sorted({wanted.database for _, wanted in self.wanted})))
        columns = dict[str, dict[str, str]]()
        for table, name, kind in self.ask(
            "SELECT database || '.' || table, name, type FROM system.columns "
            f"WHERE database IN ({databases}) ORDER BY database, table, position"
        ):
            columns.setdefault(table, {})[name] = kind
        rows = self.ask(
            "SELECT database || '.' || name, engine, engine_full, sorting_key, partition_key,"
            " as_select, extract(create_table_query, ' TO ([^ (]+)'), ifNull(total_rows, 0)"
            f" FROM system.tables WHERE database IN ({databases})"
        )
        return {name: _Table(columns.get(name, {}), *facts) for name, *facts in rows}

    def compare(self, file: SqlFile) -> Observation:
        """Compare each statement of a file with what is live."""
        live, facts, problems = self.live(), dict[str, str](), list[str]()
        for wanted in map(self.here, file.statements):
            if wanted.kind == "DATABASE":
                continue
            noun = f"{'view' if wanted.is_view else 'table'} {wanted.name}"
            if (table := live.get(wanted.name)) is None:
                problems.append(f"{noun} does not exist ({file.path}); run {_GATE}")
                continue
            differences = self.view_differences if wanted.is_view else self.table_differences
            problems += [f"{noun}: {words} ({file.path})" for words in differences(wanted, table)]
            facts[f"{wanted.short}_engine"] = table.engine
            facts[f"{wanted.short}_columns"] = str(len(table.columns))
        return Observation(facts or {"tables": "none in this file"}, tuple(problems))

    def table_differences(self, wanted: Statement, table: _Table) -> Iterator[str]:
        """Yield what is live otherwise than the statement has it."""
        if table.engine != wanted.engine:
            yield f"engine is {table.engine}, expected {wanted.engine}; {_BY_HAND}"
        yield from self.column_differences(wanted, table)
        for what, have, want in (
            ("ORDER BY", table.order_by, wanted.order_by),
            ("PARTITION BY", table.partition_by, wanted.partition_by),
        ):
            if squeezed(have) != squeezed(want):
                yield f"{what} is {have or 'none'}, expected {want or 'none'}; {_BY_HAND}"
        for key, value in wanted.settings:
            if f"{key}={squeezed(value)}" not in squeezed(table.engine_full):
                yield f"setting {key} is not {value}: {table.engine_full}; {_BY_HAND}"

    def column_differences(self, wanted: Statement, table: _Table) -> Iterator[str]:
        """Yield columns that are missing, of another type, or nobody's."""
        spelt = self.spelt([column.type for column in wanted.columns])
        types = {column.name: spelt[column.type] for column in wanted.columns}
        for name, want in types.items():
            have = table.columns.get(name)
            if have is None:
                fix = f"ALTER TABLE {wanted.name} ADD COLUMN {name} {want}"
                yield f"column {name} {want} is missing; run `{fix}`"
            elif have != want:
                fix = f"ALTER TABLE {wanted.name} MODIFY COLUMN {name} {want}"
                yield f"column {name} is {have}, expected {want}; in a quiet hour run `{fix}`"
        for name in table.columns.keys() - types:
            yield f"column {name} {table.columns[name]} is not in the file; add it there, or drop it"

    def spelt(self, types: list[str]) -> dict[str, str]:
        """Return each type as the server spells it: ``Decimal64(4)`` is ``Decimal(18, 4)`` there."""
        asked = ", ".join(f"toTypeName(defaultValueOfTypeName({quoted(kind)}))" for kind in types)
        return dict(zip(types, map(str, self.ask(f"SELECT {asked}")[0]), strict=True))

    def view_differences(self, wanted: Statement, view: _Table) -> Iterator[str]:
        """Yield where a view writes elsewhere, or selects something else."""
        if wanted.target and view.target.replace("`", "") != wanted.target:
            yield f"writes to {view.target}, expected {wanted.target}; {_BY_HAND}"
        if not view.select:
            yield f"has no query; {_BY_HAND}"
            return
        both = (f"formatQuerySingleLine({quoted(sql)})" for sql in (view.select, wanted.select))
        have, want = map(str, self.ask(f"SELECT {', '.join(both)}")[0])
        if squeezed(have) != squeezed(want):
            yield f"selects {_first_difference(have, want)}; {_BY_HAND}"


def _first_difference(have: str, want: str) -> str:
    """Return both texts from where they part."""
    pairs = enumerate(zip(have, want, strict=False))
    at = next((number for number, (a, b) in pairs if a != b), min(len(have), len(want)))
    start = max(0, at - 20)
    return f"…{have[start : at + 60]}…, expected …{want[start : at + 60]}…"
