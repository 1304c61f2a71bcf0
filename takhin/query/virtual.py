"""The tables of a query as virtual tables of SQLite (sqlite.org/vtab.html).

They get SQLite's plan, pass what they can of it down to takhin/query/tables.py, and hand the rows up. The
names of the methods are apsw's. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import apsw

from takhin.disk.statements import declare_table
from takhin.query.tables import Comparison, Row, Table, Wanted
from takhin.query.topic import TopicFiles

OPERATORS = {
    apsw.SQLITE_INDEX_CONSTRAINT_EQ: "=",
    apsw.SQLITE_INDEX_CONSTRAINT_LT: "<",
    apsw.SQLITE_INDEX_CONSTRAINT_LE: "<=",
    apsw.SQLITE_INDEX_CONSTRAINT_GT: ">",
    apsw.SQLITE_INDEX_CONSTRAINT_GE: ">=",
    apsw.SQLITE_INDEX_CONSTRAINT_LIKE: "LIKE",
    apsw.SQLITE_INDEX_CONSTRAINT_GLOB: "GLOB",
}

ROWS = 1_000_000
"""Rows of a partition, as far as the planner knows."""
SELECTED = {"=": 1_000, "LIKE": 10, "GLOB": 10}
"""Selectivity told to the planner: one row in N matches."""
SELECTED_OF_RANGE = 4
"""The same for a range."""
OPENING = 1_000
"""The cost of opening a partition's file, in rows read."""


class Plan(NamedTuple):
    """How SQLite is going to ask for rows: once, or many times with different values."""

    columns: frozenset[str]
    conditions: Sequence[tuple[str, str]]
    descending: bool


class Module:
    """Makes a virtual table of one of a topic's tables. Implements apsw.VTModule."""

    def __init__(self, table: Table, topic: TopicFiles) -> None:
        self._table = table
        self._topic = topic

    def Create(self, *_names: object) -> tuple[str, VirtualTable]:
        table = self._table
        columns = (f"{of.name} {of.kind} {'HIDDEN' if of.hidden else ''}" for of in table.columns)
        return declare_table(table.name, columns, table.key), VirtualTable(self._table, self._topic)

    Connect = Create


class VirtualTable:
    """Implements apsw.VTTable."""

    def __init__(self, table: Table, topic: TopicFiles) -> None:
        self._table = table
        self._topic = topic
        self._plans: list[Plan] = []

    def BestIndexObject(self, info: apsw.IndexInfo) -> bool:
        conditions = []
        for at in range(info.nConstraint):
            if info.get_aConstraint_usable(at) and (condition := self._condition(info, at)):
                conditions.append(condition)
                info.set_aConstraintUsage_argvIndex(at, len(conditions))
        order = self._order(info)
        ascending = self._is_order(order, conditions, descending=False)
        descending = self._is_order(order, conditions, descending=True)
        info.orderByConsumed = ascending or descending
        info.idxNum = len(self._plans)
        info.estimatedRows, info.estimatedCost = self._estimate(conditions)
        used = frozenset(self._table.columns[at].name for at in info.colUsed)
        self._plans.append(Plan(used, conditions, descending and not ascending))
        return True

    def Open(self) -> Cursor:
        return Cursor(self._table, self._topic, self._plans)

    def Disconnect(self) -> None:
        """Nothing is open that would have to be closed."""

    Destroy = Disconnect

    def _condition(self, info: apsw.IndexInfo, at: int) -> tuple[str, str] | None:
        """(column, operator) of the constraint if it saves reading, else None."""
        operator = OPERATORS.get(info.get_aConstraint_op(at), "")
        number = info.get_aConstraint_iColumn(at)
        if number < 0 or operator not in self._table.columns[number].operators:
            return None
        if operator == "=" and info.get_aConstraint_collation(at).upper() != "BINARY":
            return None
        return self._table.columns[number].name, operator

    def _order(self, info: apsw.IndexInfo) -> list[tuple[str, bool]]:
        """The order that SQLite wants: (column, True if descending)."""
        return [
            (self._name(info.get_aOrderBy_iColumn(at)), info.get_aOrderBy_desc(at))
            for at in range(info.nOrderBy)
        ]

    def _name(self, number: int) -> str:
        return self._table.columns[number].name if number >= 0 else ""

    def _is_order(
        self, wanted: Sequence[tuple[str, bool]], conditions: Sequence[tuple[str, str]], *, descending: bool
    ) -> bool:
        """True if the rows come in the wanted order. With one partition its number orders nothing."""
        single = len(self._topic.paths) == 1 or ("partition", "=") in conditions
        natural = [(name, descending) for name in self._table.key if not (single and name == "partition")]
        asked = [
            (name, is_descending) for name, is_descending in wanted if (name, single) != ("partition", True)
        ]
        return self._table.ordered and asked[: len(natural)] == natural[: len(asked)]

    def _estimate(self, conditions: Sequence[tuple[str, str]]) -> tuple[int, float]:
        """(rows that will be found, their cost)."""
        partitions = 1 if ("partition", "=") in conditions else len(self._topic.paths)
        read = found = ROWS * partitions
        for column, operator in conditions:
            if column == "partition":
                continue
            one_row = (column, operator) == ("offset", "=")
            share = 1 / (ROWS if one_row else SELECTED.get(operator, SELECTED_OF_RANGE))
            found = max(1, int(found * share))
            if column in ("offset", "timestamp"):
                read = max(1, int(read * share))
        return found, float(OPENING * partitions + read)


class Cursor:
    """Implements apsw.VTCursor. Has the rows of one read of the table at a time."""

    def __init__(self, table: Table, topic: TopicFiles, plans: Sequence[Plan]) -> None:
        self._table = table
        self._topic = topic
        self._plans = plans
        self._shown = [column.shown for column in table.columns]
        self._rows: Iterator[Row] = iter(())
        self._row: Row = ()

    def Filter(self, number: int, _name: str, values: Sequence[Any]) -> None:
        plan = self._plans[number]
        conditions = [Comparison(*of, value) for of, value in zip(plan.conditions, values, strict=True)]
        wanted = Wanted(plan.columns, conditions, plan.descending)
        self._rows = chain.from_iterable(self._table.scan(self._topic, wanted))
        self.Next()

    def Eof(self) -> bool:
        return not self._row

    def Column(self, number: int) -> Any:
        found = self._row[number]
        shown = self._shown[number]
        return found if shown is None or found is None else shown(found)

    def Next(self) -> None:
        self._row = next(self._rows, ())

    def Rowid(self) -> int:
        raise NotImplementedError

    def Close(self) -> None:
        self._rows = iter(())
