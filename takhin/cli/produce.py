"""`takhin produce`: sends the records that lines.py makes of stdin or of a file.

Nothing waits for a batch to fill: whatever a read returns is passed to the producer, and while a request is
under way the next batch grows. A single line is sent at once. The producer waits for a broker that restarts,
and nothing is stored twice. At the end it is known what became of each line.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import click

from takhin.cli import lines
from takhin.cli.connection import (
    compression_option,
    explained,
    partition_option,
    server_option,
    topic_argument,
    unreadable,
)
from takhin.cli.output import progress_bar
from takhin.cli.signals import ending
from takhin.cli.waiting import TellingRetry
from takhin.client.contexts import Endpoint
from takhin.client.sync import Admin, Delivery, Producer
from takhin.errors import OutcomeUnknownError, TakhinError, UnknownPartitionError
from takhin.sentences import counted

TIMEOUT_S = 120
"""The default of --timeout."""


@click.command(short_help="Produce lines as records.")
@topic_argument
@click.argument("source", metavar="[FILE]", type=click.Path(), default="-")
@partition_option
@click.option("-k", "--key", metavar="KEY", help="The key of all records.")
@click.option(
    "-K",
    "--key-separator",
    metavar="SEP",
    help="The part of a line before the first SEP is its key; escapes as in --delimiter.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="KEY=VALUE",
    multiple=True,
    help="A header of all records; may be repeated.",
)
@click.option("--null", metavar="TEXT", help="A value or key that is exactly TEXT is null, that is, absent.")
@click.option(
    "-D",
    "--delimiter",
    metavar="SEP",
    help=r"What ends a line, instead of a newline; escapes \n \t \r \0 \\ \xHH.",
)
@click.option("--file-as-record", is_flag=True, help="All of FILE, or of stdin, is the value of one record.")
@click.option(
    "--json", "as_json", is_flag=True, help="Each line is a record as `takhin consume --json` prints it."
)
@click.option(
    "--keep-partitions", is_flag=True, help="With --json: send each record to the partition it names."
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 86_400),
    default=TIMEOUT_S,
    metavar="S",
    help=f"How long a record may wait for a broker that does not answer, in seconds.  [default: {TIMEOUT_S}]",
)
@compression_option
@server_option
def produce(
    topic: str,
    source: str,
    *,
    partition: int | None,
    key: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    null: str | None,
    delimiter: str | None,
    file_as_record: bool,
    as_json: bool,
    keep_partitions: bool,
    timeout: int,
    compression: Literal["zstd"] | None,
    server: Endpoint,
) -> None:
    """Produce every line of FILE, or of stdin, to TOPIC as a record, with its bytes unchanged.

    Records with the same key go to the same partition, in order; records without a key are spread. The
    command ends when all records are durable. It waits for a broker that restarts, or for a partition that is
    not served, and says so; no line is lost or stored twice.

    --json takes one object per line: "value", and optionally "key", "headers" and "timestamp" (ms since
    1970). Binary is {"base64": …}. The topic, partition and offset that a record had are ignored, and blank
    lines are passed over.
    """
    given = (key, key_separator, null, delimiter, *headers, True if file_as_record else None)
    if as_json and any(option is not None for option in given):
        _refuse("with --json, keys, values and headers come from the lines")
    if keep_partitions and (not as_json or partition is not None):
        _refuse("--keep-partitions needs --json, and no --partition")
    if file_as_record and (key_separator is not None or delimiter is not None):
        _refuse("with --file-as-record there are no lines to divide")
    if as_json:
        parse = lines.json_parser(keep_partitions=keep_partitions)
    else:
        parse = lines.line_parser(key, key_separator, headers, null)
    end = b"\n" if delimiter is None else lines.given_bytes("--delimiter", delimiter)
    descriptor = lines.opened(source)
    with explained():
        waits_ms, retry = timeout * 1_000, TellingRetry()
        with Admin(server.server, **server.credentials, timeout_ms=waits_ms, retry=retry) as admin:
            partitions = len(admin.describe_topic(topic).partitions)  # a missing one fails at once
        if partition is not None and partition >= partitions:
            raise UnknownPartitionError(topic, partition, partitions)
        producer = Producer(
            server.server,
            **server.credentials,
            delivery_timeout_ms=waits_ms,
            compression=compression,
            retry=retry,
        )
        with progress_bar("produce", wanted=not os.isatty(descriptor)) as progress:
            chunks = lines.reads(descriptor, progress)
            divided = lines.whole(chunks) if file_as_record else lines.lines(chunks, end)
            _Production(producer, topic, partition, parse).run(divided)


def _refuse(sentence: str) -> NoReturn:
    """Refuse options that contradict each other."""
    raise click.UsageError(sentence, click.get_current_context())


@dataclass
class _Production:
    """The lines that are being sent, and counts of what became of the others."""

    producer: Producer
    topic: str
    partition: int | None
    parse: lines.Parse
    pending: deque[tuple[int, Delivery]] = field(default_factory=deque)
    """Numbers of lines, from 1, with their deliveries."""
    acknowledged: int = 0
    unknown: int = 0

    def run(self, reads: Iterable[list[bytes]]) -> None:
        """Send everything and print how many records are durable, also after a failure."""
        began = time.monotonic()
        try:
            self._send(reads)
            self._settle(wait=True)
            ending.check()
        except KeyboardInterrupt:
            self.producer.close(timeout_s=0)
            self._count_rest()
            click.echo(f"interrupted: {self._tally()}", err=True)
            raise
        except (TakhinError, click.ClickException, OSError) as error:
            with suppress(TakhinError):  # raised for records that are counted below
                self.producer.close()
            self._count_rest()
            sentence = unreadable(error) if isinstance(error, OSError) else error
            raise click.ClickException(f"{sentence}; {self._tally()}") from error
        self.producer.close()
        count, seconds = counted(self.acknowledged, "record"), time.monotonic() - began
        click.echo(f"produced {count} to {self.topic} ({seconds:.2f} s)", err=True)

    def _send(self, reads: Iterable[list[bytes]]) -> None:
        number = 0
        for read in reads:
            for line in read:
                number += 1
                try:
                    parsed = self.parse(line)
                    if parsed is None:
                        continue
                    (value, key, headers, timestamp), wanted = parsed
                    delivery = self.producer.send(
                        self.topic,
                        value,
                        key=key,
                        headers=headers,
                        timestamp=timestamp,
                        partition=self.partition if wanted is None else wanted,
                    )
                except (ValueError, TakhinError) as error:
                    raise click.ClickException(f"line {number}: {error}") from error
                self.pending.append((number, delivery))
            self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        """Count what is acknowledged; raises an error that names the first line that failed."""
        while self.pending and (wait or self.pending[0][1].done):
            number, delivery = self.pending[0]
            try:
                delivery.result()
            except TakhinError as error:
                raise click.ClickException(f"line {number}: {error}") from error
            self.pending.popleft()
            self.acknowledged += 1

    def _count_rest(self) -> None:
        """Count the remaining deliveries after a failure, when the producer is closed."""
        for _, delivery in self.pending:
            try:
                delivery.result()
            except OutcomeUnknownError:
                self.unknown += 1
            except TakhinError:
                pass  # certainly not stored
            else:
                self.acknowledged += 1

    def _tally(self) -> str:
        known = f"{counted(self.acknowledged, 'record')} produced"
        return f"{known}, {self.unknown} more may or may not be" if self.unknown else known
