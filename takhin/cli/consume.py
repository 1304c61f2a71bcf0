r"""`takhin consume`: prints records to stdout, as values, as JSON lines, or by a template.

It reads the topics and their partitions one after the other up to their ends, or follows all of them at once.
As a member of a group it reads what the group gives it: see shared_reading.py.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import click

from takhin.cli import json_lines, templates
from takhin.cli.connection import (
    admin,
    compression_option,
    groups_offered,
    partition_option,
    run,
    server_option,
    topics_argument,
)
from takhin.cli.lines import given_bytes
from takhin.cli.offsets import INCOMPLETE, chosen_partitions, name_left_out, offset_at
from takhin.cli.positions import RANGE_FORMS, parse
from takhin.cli.printing import FullError, Output
from takhin.cli.shared_reading import PREFETCH_BYTES_MAX, SharedQuery, consume_as_member
from takhin.cli.waiting import TellingRetry
from takhin.client import Admin, Consumer, PartitionDescription, Span, TopicDescription
from takhin.client.contexts import Endpoint
from takhin.errors import UnknownTopicError
from takhin.model import INT64_MAX

VALUE = "%v"

At: TypeAlias = tuple[str, int]
"""A topic and one of its partitions."""


@click.command(short_help="Print records.")
@topics_argument
@click.option(
    "--pattern", metavar="REGEX", help="Also every topic whose whole name now matches a regular expression."
)
@partition_option
@click.option(
    "-o",
    "--offset",
    "where",
    default="start",
    metavar="POSITION[:POSITION]",
    help=f"Where to begin, and where to stop: {RANGE_FORMS}. A time like 2026-01-31T12:00 is local unless it "
    "names a zone.  [default: start]",
)
@click.option(
    "-g",
    "--group",
    metavar="GROUP",
    shell_complete=groups_offered,
    help="Read as a member of a group: share its work, and commit what is printed.",
)
@click.option("--follow", is_flag=True, help="Keep printing new records instead of stopping at the end.")
@click.option("-n", "--max-records", type=click.IntRange(1, INT64_MAX), metavar="N", help="Stop after N.")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
@click.option(
    "-f",
    "--format",
    "template",
    metavar="TEMPLATE",
    help=r"Print each record by a template.  [default: %v\n]",
)
@click.option(
    "-D",
    "--delimiter",
    metavar="SEP",
    help=r"What to print after each value, instead of a newline; escapes as in -f.",
)
@click.option("--null", metavar="TEXT", help="What to print for a null value or key.  [default: nothing]")
@compression_option
@server_option
@click.pass_context
def consume(
    context: click.Context,
    topics: tuple[str, ...],
    *,
    pattern: str | None,
    partition: int | None,
    where: str,
    group: str | None,
    follow: bool,
    max_records: int | None,
    as_json: bool,
    template: str | None,
    delimiter: str | None,
    null: str | None,
    compression: Literal["zstd"] | None,
    server: Endpoint,
) -> None:
    """Print the records of each TOPIC, one value per line, up to where the topic ends now.

    A partition that the broker does not serve is named on stderr and left out; the exit code is 1 then.

    \b
    takhin consume orders -o -10              the last ten offsets of each partition
    takhin consume orders -o @-1h: --json     the records of the last hour, as JSON
    takhin consume orders -o 5:20 -p 0        offsets 5 to 19
    takhin consume orders -o end --follow -f '%o %k %v\\n'
    takhin consume orders payments -f '%t %v\\n'
    takhin consume orders --group billing --follow

    -o: start, end, an offset, +N (N offsets after the start), -N (N offsets before the end), @TIME,
    @-1h (an hour ago); A:B reads from A up to, but not including, B.

    --group: the group says which partitions this command reads, from where the group left off, or from -o
    where it has committed nothing. It leaves the group when it has printed all there was, or at Ctrl-C.

    -f: %t topic, %p partition, %o offset, %d timestamp in ms, %d{iso}, %k key, %v value, %h headers; %K and
    %V length of key and value in bytes, -1 if there is none; %H number of headers; %%; %k{hex}, %k{base64},
    and the same of %v and %h; escapes \\n \\t \\r \\0 \\\\ \\xHH.

    --json: topic, partition, offset, timestamp (ms since 1970), key, value and headers. A key or value is
    text if it is UTF-8, {"base64": …} if it is not, and null if there is none; `takhin produce --json` reads
    these lines.
    """  # noqa: D301  click wants the character, to keep the lines that follow as they are
    named = _names(topics, pattern)
    line = _line(template, delimiter, null, as_json=as_json)
    asked = _asked(where, follow=follow)
    out = Output(sys.stdout.buffer, line, max_records)
    if group is not None:
        shared = SharedQuery(group, topics, pattern, asked, follow=follow, compression=compression)
        shared.check(partition)
        complete = run(consume_as_member(server, shared, out))
    else:
        query = _Query(named, partition, asked, follow=follow, compression=compression)
        complete = run(_consume(server, query, out))
    if not complete:
        context.exit(INCOMPLETE)


def _asked(where: str, *, follow: bool) -> Span:
    """What --offset asks for."""
    try:
        asked = parse(where, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--offset") from None
    if follow and asked.stop is not None:
        raise click.BadParameter(
            f"{where!r} says where to stop, but --follow never stops", param_hint="--offset"
        )
    return asked


def _line(template: str | None, delimiter: str | None, null: str | None, *, as_json: bool) -> templates.Piece:
    """How each record is printed."""
    forms = {"--json": as_json or None, "--format": template, "--delimiter": delimiter}
    given = [option for option, value in forms.items() if value is not None]
    if len(given) > 1 or (as_json and null is not None):
        raise click.UsageError(
            f"use either {' or '.join(given) if len(given) > 1 else '--json or --null'}, not both",
            click.get_current_context(),
        )
    if as_json:
        return json_lines.line
    absent = b"" if null is None else null.encode()
    end = b"\n" if delimiter is None else given_bytes("--delimiter", delimiter)
    try:
        shown = templates.compiled(VALUE if template is None else template, null=absent)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--format") from None
    return shown if template is not None else lambda record: shown(record) + end


@dataclass(frozen=True, slots=True)
class _Names:
    """The topics that the command line asks for."""

    given: tuple[str, ...]
    pattern: re.Pattern[str] | None

    async def described(self, broker: Admin) -> list[TopicDescription]:
        """These topics, those given first. Raises UnknownTopicError."""
        names = dict.fromkeys(self.given)
        if self.pattern is not None:
            matching = [name for name in await broker.list_topics() if self.pattern.fullmatch(name)]
            if not matching:
                raise click.ClickException(f"no topic's name matches {self.pattern.pattern!r}")
            names |= dict.fromkeys(matching)
        found = {of.name: of for of in await broker.describe_topics(names)}
        for name in self.given:
            if name not in found:
                raise UnknownTopicError(name)
        return [found[name] for name in names if name in found]


def _names(given: tuple[str, ...], pattern: str | None) -> _Names:
    if not given and pattern is None:
        raise click.UsageError("Missing argument 'TOPIC...', or --pattern.", click.get_current_context())
    try:
        return _Names(given, None if pattern is None else re.compile(pattern))
    except re.error as error:
        raise click.BadParameter(f"{pattern!r} is not a regular expression: {error}") from None


@dataclass(frozen=True, slots=True)
class _Query:
    """What the command line asks for. partition: None for all."""

    names: _Names
    partition: int | None
    asked: Span
    follow: bool
    compression: Literal["zstd"] | None

    async def spans(self, broker: Admin) -> tuple[dict[At, Span], dict[At, PartitionDescription]]:
        """What to read of each partition: at most up to its end as of now, unless it is followed.

        Beside it the partitions that are not served.
        """
        topics = await self.names.described(broker)
        chosen = [
            (topic.name, of)
            for topic in topics
            for of in chosen_partitions(topic.name, topic.partitions, self.partition)
        ]
        if len(chosen) > 1 and any(isinstance(position, int) for position in self.asked):
            give = f"give --partition, 0 to {len(chosen) - 1}" if len(topics) == 1 else "give one topic"
            raise click.BadParameter(
                f"an offset is a position in one partition: {give}", param_hint="--offset"
            )
        spans = {
            (topic, of.partition): await self._span(broker, topic, of) for topic, of in chosen if of.served
        }
        return spans, {(topic, of.partition): of for topic, of in chosen if not of.served}

    async def _span(self, broker: Admin, topic: str, of: PartitionDescription) -> Span:
        begin = await offset_at(broker, topic, of, self.asked.start)
        if self.follow:
            return Span(begin)
        stop = self.asked.stop
        if stop is None or (isinstance(stop, int) and stop > of.end_offset):
            return Span(begin, of.end_offset)
        return Span(begin, max(begin, await offset_at(broker, topic, of, stop)))


async def _consume(server: Endpoint, query: _Query, out: Output) -> bool:
    """Print what is asked for. Returns False if a partition was left out, which it has named."""
    async with admin(server) as broker:
        spans, left_out = await query.spans(broker)
    name_left_out([*left_out.values()])
    async with Consumer(
        server.server,
        **server.credentials,
        prefetch_bytes_max=PREFETCH_BYTES_MAX,
        compression=query.compression,
        retry=TellingRetry(),
    ) as consumer:
        rounds = [spans] if query.follow and spans else [{at: span} for at, span in spans.items()]
        try:
            for assigned in rounds:
                if query.follow and query.partition is None:  # also the partitions that come later
                    topics = dict.fromkeys(topic for topic, _ in assigned)
                    await consumer.assign_topics(*topics, start=query.asked.start, left_out=left_out)
                else:
                    await consumer.assign(assigned)
                async for batch in consumer.batches():
                    out.write(batch.records)
        except FullError:
            pass
    return not left_out
