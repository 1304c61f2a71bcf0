"""`takhin produce`: the lines of stdin become records.

A thread of its own turns bytes into batches (`_lines`, `_Form`); `_Producer` sends them with a few in
flight and counts what the broker acknowledged. Nothing waits for a batch to fill: a batch is what one
read of stdin gave. While the broker is busy the pipe fills and the next read gives more; a lone line
goes at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue

import click

from takhin.cli.connection import CALL_SECONDS_MAX, check, connected, counted, explained, server_option
from takhin.model import CHOOSE_PARTITION
from takhin.partitioner import partition_for_key
from takhin.settings import INT32_MAX
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STDIN = 0
READ_BYTES = 512 << 10
"""Bytes of one read of stdin, and so of a batch, unless a single record is larger."""
BATCH_RECORDS_MAX = 1_000
LINE_BYTES_MAX = 64 << 20
IN_FLIGHT_MAX = 16
"""Batches that are sent and not yet acknowledged."""
QUEUED_MAX = 4
"""Batches that are read and not yet sent."""
STREAM_SECONDS_MAX = 60
STREAM_IDLE_SECONDS_MAX = 1
"""After these a stream ends and the next batch opens another, because brokers close connections that
have grown old: nothing should be under way when they do."""


@click.command(short_help="Produce the lines of stdin.")
@click.argument("topic")
@click.option(
    "--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="[default: the broker chooses]"
)
@click.option("--key-separator", metavar="SEP", help="What stands before the first SEP of a line is its key.")
@server_option
def produce(topic: str, *, partition: int | None, key_separator: str | None, server: str) -> None:
    """Produce every line of stdin to TOPIC as a record, its bytes kept as they are.

    Records of one key go to one partition, in order. Ends when all records are durable.
    """
    if key_separator == "":
        raise click.BadParameter("must not be empty", param_hint="--key-separator")
    if sys.stdin is None:  # closed by the caller; its number may belong to a socket by now
        raise click.ClickException("stdin is closed")
    separator = None if key_separator is None else key_separator.encode()
    with connected(server) as stub:
        found = stub.GetTopic(pb.GetTopicRequest(name=topic), timeout=CALL_SECONDS_MAX)
        check(found)
        form = _Form(topic, partition, separator, found.topic.num_partitions)
        batches = form.batches(_lines(lambda: os.read(STDIN, READ_BYTES)))
        _Producer(stub, topic, server).run(batches)


def _lines(read: Callable[[], bytes]) -> Iterator[list[bytes]]:
    """The whole lines that each read brings, without their newlines; the last line may lack its own."""
    begun: list[bytes] = []  # pieces of a line whose newline has not come yet
    while chunk := read():
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield b"".join([*begun, head]).split(b"\n")
            begun.clear()
        begun.append(tail)
        if sum(map(len, begun)) > LINE_BYTES_MAX:
            raise click.ClickException(f"a line is longer than {LINE_BYTES_MAX} bytes")
    if last := b"".join(begun):
        yield [last]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Lines that travel as one request; `line` is the number of the first, counted from 1."""

    line: int
    request: pb.ProduceMessageRequest


@dataclass(frozen=True, slots=True)
class _Form:
    """How lines become requests. partition: None leaves the choice to the broker."""

    topic: str
    partition: int | None
    separator: bytes | None
    num_partitions: int

    def batches(self, reads: Iterable[list[bytes]]) -> Iterator[_Batch]:
        """Batches of the lines of each read, never of two."""
        number = 1
        for lines in reads:
            for at in range(0, len(lines), BATCH_RECORDS_MAX):
                yield from self._grouped(lines[at : at + BATCH_RECORDS_MAX], number + at)
            number += len(lines)

    def _grouped(self, lines: list[bytes], first: int) -> Iterator[_Batch]:
        """One batch, or one for each partition where keys decide: the broker keeps a batch in one.

        A line without a separator ends it, after the batches of the lines before it.
        """
        groups: dict[int, _Batch] = {}
        for number, line in enumerate(lines, first):
            key, value = None, line
            if self.separator is not None:
                key, found, value = line.partition(self.separator)
                if not found:
                    yield from groups.values()
                    raise click.ClickException(f"line {number} has no {self.separator.decode()!r}")
            place = self._place(key)
            if place not in groups:
                groups[place] = _Batch(number, self._request())
            groups[place].request.records.add(key=key, value=value)
        yield from groups.values()

    def _place(self, key: bytes | None) -> int:
        if key is None or self.partition is not None or self.num_partitions == 1:
            return 0
        return partition_for_key(key, self.num_partitions)

    def _request(self) -> pb.ProduceMessageRequest:
        # With keys the broker chooses too: it checks the grouping rather than trusting it.
        partition = CHOOSE_PARTITION if self.partition is None else self.partition
        return pb.ProduceMessageRequest(topic=self.topic, partition=partition)


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the input; `problem` is what ended it early."""

    problem: Exception | None = None


class _Producer:
    """Sends batches in order and knows what became of each.

    Three threads: the reader puts batches into `_incoming`; gRPC's own runs `_requests`; the caller's
    takes the answers.
    """

    def __init__(self, stub: TakhinServiceStub, topic: str, server: str) -> None:
        self._stub = stub
        self._topic = topic
        self._server = server
        self._incoming: Queue[_Batch | _End] = Queue(QUEUED_MAX)
        self._end: _End | None = None
        self._window = threading.Semaphore(IN_FLIGHT_MAX)
        self._pending: deque[_Batch] = deque()
        self._refusal: click.ClickException | None = None
        self._lock = threading.Lock()  # a batch joins _pending before the refusal is set, or never
        self._acknowledged = 0

    def run(self, batches: Iterator[_Batch]) -> None:
        """Send everything and say how many records are durable, also when it fails."""
        threading.Thread(target=self._read, args=(batches,), daemon=True).start()
        started = time.monotonic()
        try:
            with explained(self._server):
                self._send()
        except click.ClickException as error:
            raise click.ClickException(f"{error.message}; {self._tally()}") from error
        except KeyboardInterrupt:
            click.echo(f"interrupted: {self._tally()}", err=True)
            raise
        seconds = time.monotonic() - started
        count = counted(self._acknowledged, "record")
        click.echo(f"produced {count} to {self._topic} ({seconds:.2f} s)", err=True)

    def _tally(self) -> str:
        known = f"{counted(self._acknowledged, 'record')} produced"
        unknown = sum(len(batch.request.records) for batch in self._pending)
        return f"{known}, {unknown} more may or may not be" if unknown else known

    def _read(self, batches: Iterator[_Batch]) -> None:
        """On the reader's thread."""
        end = _End()
        try:
            for batch in batches:
                self._incoming.put(batch)
        except Exception as error:  # noqa: BLE001 - raised again where the answers are awaited
            end = _End(error)
        self._incoming.put(end)

    def _send(self) -> None:
        while self._end is None:
            item = self._incoming.get()
            if isinstance(item, _End):
                self._end = item
            else:
                self._stream(item)
        if self._end.problem is not None:
            raise self._end.problem

    def _stream(self, first: _Batch) -> None:
        """One call, which begins with `first`; everything it sent is answered when this returns."""
        call = self._stub.ProduceMessageStream(self._requests(first))
        for response in call:
            batch = self._pending.popleft()
            self._window.release()
            if not response.error:
                self._acknowledged += response.record_count
            elif self._refusal is None:
                self._refuse(batch, response.error)
            if self._refusal is not None and not self._pending:
                call.cancel()
                raise self._refusal
        if self._pending:
            raise click.ClickException("the broker ended the stream before it had answered everything")

    def _refuse(self, batch: _Batch, error: str) -> None:
        count = counted(len(batch.request.records), "record")
        with self._lock:
            self._refusal = click.ClickException(
                f"the batch of {count} that begins with line {batch.line} was refused: {error}"
            )

    def _requests(self, first: _Batch) -> Iterator[pb.ProduceMessageRequest]:
        """On gRPC's thread: `first` and what follows it, until the input ends, pauses or is refused."""
        ends_at = time.monotonic() + STREAM_SECONDS_MAX
        item: _Batch | _End = first
        while isinstance(item, _Batch):
            self._window.acquire()
            with self._lock:
                if self._refusal is not None:
                    return
                self._pending.append(item)
            yield item.request
            if time.monotonic() > ends_at:
                return
            try:
                item = self._incoming.get(timeout=STREAM_IDLE_SECONDS_MAX)
            except Empty:
                return
        self._end = item
