"""Whether a file's tables are those that our migrations make. A file from elsewhere may have others.

A trigger would change what a write does, a view in a table's place could run for ever, and an expression in
an index runs with each record. Connections of ours run no trigger and no view anyway (connection.py). People
may add what does nothing by itself: tables and views of their own, and indexes on plain columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import chain

import apsw

from takhin.disk import statements as sql
from takhin.schema.checksums import SINCE_VERSION
from takhin.schema.tables import COMMITS, TABLES
from takhin.schema.upgrades import UPGRADES
from takhin.sentences import shown


def tables_fault(connection: apsw.Connection) -> str | None:
    """What is wrong with the file's tables, as a clause that follows its path. Raises apsw.Error."""
    wanted = tables_of(int(connection.pragma("user_version")))
    found: dict[str, str] = {}
    rows = connection.execute(sql.SCHEMA, (sql.SCHEMA_ROWS_MAX + 1,)).fetchall()
    if len(rows) > sql.SCHEMA_ROWS_MAX:
        return f"has more than {sql.SCHEMA_ROWS_MAX} tables, indexes and views"
    for kind, name, table, text in rows:
        if kind == "trigger" or name in sql.TABLE_FUNCTIONS:
            why = "Takhin makes none" if kind == "trigger" else "the broker has a table function of that name"
            return f"has a {kind}, {shown(str(name))}: {why}"
        if kind == "table":
            found[str(name)] = str(text)
        plain = text is None or re.fullmatch(sql.PLAIN_INDEX, str(text), re.IGNORECASE)
        if kind == "index" and table in wanted and not plain:
            return f"has an index, {shown(str(name))}, on more than plain columns: Takhin makes none"
    for name, text in wanted.items():
        if name not in found:
            return f"has no table {name}"
        if _normal(found[name]) != text:
            return f"has a table {name} that is not the one that Takhin makes"
    return None


@cache
def tables_of(version: int) -> Mapping[str, str]:
    """The statement of each table of a schema version, without comments and spaces that mean nothing."""
    upgrades = chain.from_iterable(UPGRADES[each] for each in sorted(UPGRADES) if each <= version)
    statements = [*TABLES.split(";\n"), *upgrades]
    tables = {found[1]: _normal(text) for text in statements if (found := re.search(sql.TABLE_NAME, text))}
    if version >= SINCE_VERSION:
        head, closing, rest = tables["log"].rpartition(")")
        tables["log"] = _normal(f"{head}, {COMMITS}{closing}{rest}")
    return tables


def _normal(statement: str) -> str:
    without_comments = re.sub(r"--[^\n]*", "", statement)
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(without_comments.split()).rstrip(";"))
