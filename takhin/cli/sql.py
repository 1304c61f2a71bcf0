"""`takhin sql`: its options and its output; takhin.query does the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from takhin.cli.folders import data_dir_option
from takhin.cli.rows import print_csv, print_json_lines, print_table
from takhin.sentences import counted

if TYPE_CHECKING:
    from takhin.query.topic import TopicFiles

EXAMPLE = "select partition, count(*), max(time) from records group by partition"


@click.command(short_help="Query a topic with SQL.")
@click.argument("topic")
@click.argument("query", required=False)
@data_dir_option
@click.option("--csv", "form", flag_value="csv", help="Print CSV, with the names in the first line.")
@click.option("--json", "form", flag_value="json", help="Print JSON lines, one object per row.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give up after this time.  [default: never]",
)
def sql(topic: str, query: str | None, *, data_dir: Path, form: str | None, timeout_s: float | None) -> None:
    """Answer QUERY, a SELECT of SQLite, over all partitions of TOPIC.

    The tables are records, headers, committed_offsets, sources and partitions; without QUERY their columns
    are shown. DATA is the data folder of a running or stopped broker, or a backup. It is only read, in short
    reads with no file open between them, so that the broker is not held up. A query sees no record that was
    appended after it began.
    """
    from takhin.query.query import run  # noqa: PLC0415  loads SQLite
    from takhin.query.topic import TopicFiles  # noqa: PLC0415

    over = TopicFiles(data_dir, topic)
    if query is None:
        _overview(over, as_json=form == "json")
        return
    show = {"csv": print_csv, "json": print_json_lines, None: print_table}[form]
    result = run(over, query, timeout_s=timeout_s)
    show(result.columns, result.rows)


def _overview(topic: TopicFiles, *, as_json: bool) -> None:
    from takhin.query.query import run  # noqa: PLC0415
    from takhin.query.tables import TABLES  # noqa: PLC0415

    def one(query: str) -> Any:
        return next(run(topic, query).rows)[0]

    records = one("SELECT sum(end_offset - beginning_offset) FROM partitions")
    groups = one("SELECT count(DISTINCT group_id) FROM committed_offsets")
    if as_json:
        tables = {table.name: [column.name for column in table.columns] for table in TABLES}
        counts = {"partitions": len(topic.paths), "records": records, "groups": groups}
        click.echo(json.dumps({"topic": topic.name, **counts, "tables": tables}))
        return
    click.echo(
        f"{topic.name}: {counted(records, 'record')} in {counted(len(topic.paths), 'partition')}, "
        f"{counted(groups, 'consumer group')}"
    )
    for table in TABLES:
        columns = ", ".join(f"({of.name})" if of.hidden else of.name for of in table.columns)
        click.echo(f"  {table.name:<18}  {columns}")
    click.echo(f'takhin sql {topic.name} "{EXAMPLE}"')
