r"""`takhin consume`: records to stdout, as values, as JSON lines, or by a template.

Reads the partitions one after the other up to their ends, or follows all of them at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

import click

from takhin.cli import json_lines, templates
from takhin.cli.connection import admin, partition_option, run, server_option, topic_argument
from takhin.cli.offsets import chosen_partitions, offset_at
from takhin.cli.positions import FORMS, parse
from takhin.client import Admin, Consumer, PartitionDescription, Record, Span
from takhin.limits import INT64_MAX

PREFETCH_BYTES_MAX = 4 << 20
"""Bytes read ahead of what was printed. Not an option: a few responses keep the printing busy."""

VALUES = r"%v\n"


@click.command(short_help="Print records.")
@topic_argument
@partition_option
@click.option(
    "-o",
    "--offset",
    "where",
    default="start",
    metavar="PLACE[:PLACE]",
    help=f"Where to begin, and where to stop: {FORMS}. Times as in 2026-01-31T12:00, local unless they "
    "say their zone.  [default: start]",
)
@click.option("--follow", is_flag=True, help="Go on with new records instead of stopping at the end.")
@click.option("-n", "--max-records", type=click.IntRange(1, INT64_MAX), metavar="N", help="Stop after N.")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
@click.option(
    "-f", "--format", "template", metavar="TEMPLATE", help=r"Print each by a template.  [default: %v\n]"
)
@server_option
def consume(
    topic: str,
    *,
    partition: int | None,
    where: str,
    follow: bool,
    max_records: int | None,
    as_json: bool,
    template: str | None,
    server: str,
) -> None:
    r"""Print the records of TOPIC, the value of each on a line, up to the end as it is now.

    \b
    takhin consume orders -o -10              the last ten of each partition
    takhin consume orders -o @-1h: --json     what came in the last hour, as JSON
    takhin consume orders -o 5:20 -p 0        offsets 5 to 19
    takhin consume orders -o end --follow -f '%o %k %v\n'

    -o: start, end, an offset, +N (N after the start), -N (N before the end), @TIME, @-1h (that long ago);
    A:B goes from A up to, without, B.

    -f: %t topic, %p partition, %o offset, %d timestamp in ms, %d{iso}, %k key, %v value, %h headers; %K and
    %V bytes of key and value, -1 where there is none; %H number of headers; %%; %k{hex}, %k{base64}, so %v
    and %h; escapes \n \t \r \0 \\ \xHH.

    --json: topic, partition, offset, timestamp (ms since 1970), key, value and headers. Keys and values
    are text where they are UTF-8, {"base64": …} where they are not, null where there is none; `takhin produce
    --json` takes them in again.
    """
    if as_json and template is not None:
        raise click.UsageError("--json and --format exclude each other", click.get_current_context())
    try:
        asked = parse(where, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--offset") from None
    if follow and asked.stop is not None:
        raise click.BadParameter(f"{where!r} says where to stop; --follow never does", param_hint="--offset")
    try:
        line = json_lines.line if as_json else templates.compiled(VALUES if template is None else template)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--format") from None
    out = _Output(sys.stdout.buffer, line, max_records)
    run(_consume(server, _Query(topic, partition, asked, follow=follow), out))


@dataclass(frozen=True, slots=True)
class _Query:
    """What was asked for. partition: None for all."""

    topic: str
    partition: int | None
    asked: Span
    follow: bool

    async def spans(self, broker: Admin) -> dict[tuple[str, int], Span]:
        """What to read of each partition. A stop at the end, or none, is the end as it is now."""
        described = await broker.describe_topic(self.topic)
        chosen = chosen_partitions(self.topic, described.partitions, self.partition)
        if len(chosen) > 1 and any(isinstance(place, int) for place in self.asked):
            raise click.BadParameter(
                f"an offset belongs to one partition: give --partition, 0 to {len(chosen) - 1}",
                param_hint="--offset",
            )
        return {(self.topic, of.partition): await self._span(broker, of) for of in chosen}

    async def _span(self, broker: Admin, of: PartitionDescription) -> Span:
        begin = await offset_at(broker, self.topic, of, self.asked.start)
        if self.follow:
            return Span(begin)
        stop = self.asked.stop
        if stop is None or (isinstance(stop, int) and stop > of.end_offset):
            return Span(begin, of.end_offset)
        return Span(begin, max(begin, await offset_at(broker, self.topic, of, stop)))


class _FullError(Exception):
    """--max-records are printed."""


@dataclass(slots=True)
class _Output:
    """Where records go. left: how many more may be printed; None for any number."""

    stream: IO[bytes]
    line: templates.Piece
    left: int | None

    def write(self, records: Iterable[Record]) -> None:
        """Print records at once; raises _FullError after the last that is wanted."""
        wanted = list(records)[: self.left]
        self.stream.write(b"".join([self.line(record) for record in wanted]))
        self.stream.flush()
        if self.left is not None:
            self.left -= len(wanted)
            if self.left == 0:
                raise _FullError


async def _consume(server: str, query: _Query, out: _Output) -> None:
    async with admin(server) as broker:
        spans = await query.spans(broker)
    async with Consumer(server, prefetch_bytes_max=PREFETCH_BYTES_MAX) as consumer:
        rounds = [spans] if query.follow else [{at: span} for at, span in spans.items()]
        try:
            for assigned in rounds:
                await consumer.assign(assigned)
                async for batch in consumer.batches():
                    out.write(batch.records)
        except _FullError:
            pass
