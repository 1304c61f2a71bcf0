"""`takhin produce`: the lines of stdin or of a file become records.

Nothing waits for a batch to fill: what one read brings is handed over, and while a request is under way the
next batch grows. A lone line goes at once. The producer rides out a broker's restart, and nothing is stored
twice; what became of each line is known by the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import click

from takhin.cli import json_lines
from takhin.cli.connection import ANSWER_MS_MAX, explained, partition_option, server_option, topic_argument
from takhin.cli.output import Progress, counted, progress_bar
from takhin.client import Header, NewRecord, Retry
from takhin.client.sync import Admin, Delivery, Producer
from takhin.errors import OutcomeUnknownError, TakhinError, UnknownPartitionError

STDIN = 0

READ_BYTES = 512 << 10
"""Bytes taken from stdin or a file at a time: enough that calls of the system cost nothing."""

LINE_BYTES_MAX = 64 << 20
"""Bytes of a line, far above any record: it bounds memory if the input has no lines at all."""

TIMEOUT_S = 120
"""The default of --timeout."""

Parse = Callable[[bytes], tuple[NewRecord, int | None]]
"""A line's record, and the partition it wants."""


@click.command(short_help="Produce lines as records.")
@topic_argument
@click.argument("source", metavar="[FILE]", type=click.Path(), default="-")
@partition_option
@click.option("-k", "--key", metavar="KEY", help="The key of all records.")
@click.option(
    "-K", "--key-separator", metavar="SEP", help="What stands before the first SEP of a line is its key."
)
@click.option(
    "-H", "--header", "headers", metavar="KEY=VALUE", multiple=True, help="A header of all records."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Each line is a record as `takhin consume --json` prints it."
)
@click.option(
    "--keep-partitions", is_flag=True, help="With --json: each record goes to the partition it names."
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 86_400),
    default=TIMEOUT_S,
    metavar="S",
    help=f"How long a record may wait for a broker that is away, in seconds.  [default: {TIMEOUT_S}]",
)
@server_option
def produce(
    topic: str,
    source: str,
    *,
    partition: int | None,
    key: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    as_json: bool,
    keep_partitions: bool,
    timeout: int,
    server: str,
) -> None:
    """Produce every line of FILE, or of stdin, to TOPIC as a record, its bytes kept as they are.

    Records of one key go to one partition, in order; those without one are spread. Ends when all records are
    durable. A restart of the broker is waited for, and no line is lost or stored twice.

    --json takes an object a line: "value", and if there are "key", "headers" and "timestamp" (ms since 1970).
    Binary is {"base64": …}. The topic, the partition and the offset that a record had are not looked at.
    """
    if as_json and (key is not None or key_separator is not None or headers):
        raise click.UsageError("--json brings keys and headers along", click.get_current_context())
    if keep_partitions and (not as_json or partition is not None):
        raise click.UsageError("--keep-partitions goes with --json alone", click.get_current_context())
    parse: Parse
    if as_json:
        parse = json_lines.parse if keep_partitions else _without_partition
    else:
        parse = _line_parser(key, key_separator, headers)
    descriptor = _opened(source)
    with explained():
        with Admin(server, timeout_ms=ANSWER_MS_MAX, retry=Retry(attempts_max=1)) as admin:
            partitions = len(admin.describe_topic(topic).partitions)  # at once if no broker answers
        if partition is not None and partition >= partitions:
            raise UnknownPartitionError(topic, partition, partitions)
        producer = Producer(server, delivery_timeout_ms=timeout * 1_000)
        with progress_bar("produce") as progress:
            _Production(producer, topic, partition, parse).run(_lines(_reads(descriptor, progress)))


def _opened(source: str) -> int:
    """A descriptor of FILE, or of stdin."""
    if source != "-":
        try:
            return os.open(source, os.O_RDONLY)
        except OSError as error:
            raise click.ClickException(f"cannot read {source}: {error.strerror}") from error
    if sys.stdin is None:  # closed by the caller; its number may belong to a socket by now
        raise click.ClickException("stdin is closed")
    return STDIN


def _without_partition(line: bytes) -> tuple[NewRecord, None]:
    return json_lines.parse(line)[0], None


def _line_parser(key: str | None, key_separator: str | None, headers: tuple[str, ...]) -> Parse:
    """For lines that are values, or keys and values."""
    if key is not None and key_separator is not None:
        raise click.UsageError("--key and --key-separator exclude each other", click.get_current_context())
    if key_separator == "":
        raise click.BadParameter("must not be empty", param_hint="--key-separator")
    pairs = [header.partition("=") for header in headers]
    if bad := next(
        (text for text, (name, equals, _) in zip(headers, pairs, strict=True) if not (name and equals)), None
    ):
        raise click.BadParameter(f"{bad!r} is not KEY=VALUE", param_hint="--header")
    same = [Header(name, value.encode()) for name, _, value in pairs]
    fixed = None if key is None else key.encode()
    separator = None if key_separator is None else key_separator.encode()

    def parse(line: bytes) -> tuple[NewRecord, None]:
        if separator is None:
            return NewRecord(line, fixed, same), None
        key, found, value = line.partition(separator)
        if not found:
            raise ValueError(f"it has no {key_separator!r}")
        return NewRecord(value, key, same), None

    return parse


def _reads(descriptor: int, progress: Progress) -> Iterator[bytes]:
    """What each read brings, until the end."""
    size_bytes, done = os.fstat(descriptor).st_size, 0  # 0 for a pipe
    while chunk := os.read(descriptor, READ_BYTES):
        yield chunk
        done += len(chunk)
        progress(done, max(done, size_bytes))


def _lines(reads: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The whole lines that each read brings, without their newlines; the last line may lack its own."""
    begun: list[bytes] = []  # pieces of a line whose newline has not come yet
    for chunk in reads:
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield b"".join([*begun, head]).split(b"\n")
            begun.clear()
        begun.append(tail)
        if sum(map(len, begun)) > LINE_BYTES_MAX:
            raise click.ClickException(f"a line is longer than {LINE_BYTES_MAX} bytes")
    if last := b"".join(begun):
        yield [last]


@dataclass
class _Production:
    """Lines on their way, and what became of those that have arrived."""

    producer: Producer
    topic: str
    partition: int | None
    parse: Parse
    pending: deque[tuple[int, Delivery]] = field(default_factory=deque)
    """The number of each line, from 1, with its delivery."""
    acknowledged: int = 0
    unknown: int = 0

    def run(self, reads: Iterable[list[bytes]]) -> None:
        """Send everything and say how many records are durable, also when it fails."""
        began = time.monotonic()
        try:
            self._send(reads)
            self._settle(wait=True)
        except KeyboardInterrupt:
            self.producer.close(timeout_s=0)
            self._count_rest()
            click.echo(f"interrupted: {self._tally()}", err=True)
            raise
        except (TakhinError, click.ClickException) as error:
            with suppress(TakhinError):  # of a record that is counted below
                self.producer.close()
            self._count_rest()
            raise click.ClickException(f"{error}; {self._tally()}") from error
        self.producer.close()
        count, seconds = counted(self.acknowledged, "record"), time.monotonic() - began
        click.echo(f"produced {count} to {self.topic} ({seconds:.2f} s)", err=True)

    def _send(self, reads: Iterable[list[bytes]]) -> None:
        number = 0
        for lines in reads:
            for line in lines:
                number += 1
                try:
                    (value, key, headers, timestamp), wanted = self.parse(line)
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
        """Count what is acknowledged; raises what befell the first line that is not."""
        while self.pending and (wait or self.pending[0][1].done):
            number, delivery = self.pending[0]
            try:
                delivery.result()
            except TakhinError as error:
                raise click.ClickException(f"line {number}: {error}") from error
            self.pending.popleft()
            self.acknowledged += 1

    def _count_rest(self) -> None:
        """After a failure, when the producer is closed."""
        for _, delivery in self.pending:
            try:
                delivery.result()
            except OutcomeUnknownError:
                self.unknown += 1
            except TakhinError:
                pass  # it is not stored
            else:
                self.acknowledged += 1

    def _tally(self) -> str:
        known = f"{counted(self.acknowledged, 'record')} produced"
        return f"{known}, {self.unknown} more may or may not be" if self.unknown else known
