"""`takhin consume`: records to stdout, as JSON lines or as bare values.

Reads the partitions one after the other up to their ends, or follows all of them at once. A call that
a broker ends because its connection grew old is taken up again where it stopped.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING

import click
import grpc

from takhin.cli.connection import (
    CALL_SECONDS_MAX,
    CHANNEL_OPTIONS,
    check,
    explained,
    server_option,
)
from takhin.errors import UnknownPartitionError
from takhin.limits import INT64_MAX
from takhin.model import EARLIEST
from takhin.settings import INT32_MAX
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

if TYPE_CHECKING:  # it is there for type checkers only
    from takhin.v1.takhin_pb2_grpc import TakhinServiceAsyncStub

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.command(short_help="Print records.")
@click.argument("topic")
@click.option("--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="[default: all]")
@click.option(
    "--from",
    "start",
    default="earliest",
    metavar="earliest|latest|OFFSET|TIME",
    help="Where to begin; TIME as in 2026-01-31T12:00, local unless it says its zone.  [default: earliest]",
)
@click.option("--follow", is_flag=True, help="Go on with new records instead of stopping at the end.")
@click.option("--max-records", type=click.IntRange(1, INT64_MAX), metavar="N", help="Stop after N records.")
@click.option(
    "--format", "form", type=click.Choice(["json", "value"]), default="json", help="[default: json]"
)
@server_option
def consume(
    topic: str,
    *,
    partition: int | None,
    start: str,
    follow: bool,
    max_records: int | None,
    form: str,
    server: str,
) -> None:
    """Print the records of TOPIC that are there now, one a line.

    json: topic, partition, offset, timestamp (ms since 1970), key, value and headers. Keys and values
    are text where they are UTF-8, {"base64": …} where they are not, null where there is none.
    value: the bytes of the value and a newline.
    """
    begin = parse_start(start)
    out = _Output(sys.stdout.buffer, _json_line if form == "json" else _value_line, max_records)
    with explained(server):
        asyncio.run(_consume(server, _Query(topic, partition, begin, follow=follow), out))


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: an offset (EARLIEST for the first one), the end as of now, or a time in ms."""

    offset: int | None = None
    time: int | None = None

    @property
    def at_end(self) -> bool:
        return self.offset is None and self.time is None


def parse_start(text: str) -> Start:
    """The value of --from; digits alone are an offset."""
    if text == "latest":
        return Start()
    if text == "earliest":
        return Start(offset=EARLIEST)
    if re.fullmatch(r"[0-9]{1,19}", text) and int(text) <= INT64_MAX:
        return Start(offset=int(text))
    try:
        moment = datetime.fromisoformat(text).astimezone()  # without a zone it is local time
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither earliest, latest, an offset nor a time such as 2026-01-31T12:00",
            param_hint="--from",
        ) from None
    # Rounded up, since the first record at or after it is wanted; none is older than 1970.
    return Start(time=max(0, -((EPOCH - moment) // timedelta(milliseconds=1))))


@dataclass(frozen=True, slots=True)
class _Query:
    """What was asked for. partition: None for all."""

    topic: str
    partition: int | None
    start: Start
    follow: bool

    def requests(self, info: pb.TopicInfo) -> list[pb.ConsumeMessagesRequest]:
        """A call for each partition, bounded by its end as it is in `info` unless it follows."""
        chosen = sorted(info.partitions) if self.partition is None else [self.partition]
        if self.partition is not None and self.partition not in info.partitions:
            unknown = UnknownPartitionError(self.topic, self.partition, info.num_partitions)
            raise click.ClickException(str(unknown))
        if len(chosen) > 1 and self.start.offset not in {None, EARLIEST}:
            raise click.BadParameter(
                f"an offset belongs to one partition: give --partition, 0 to {len(chosen) - 1}",
                param_hint="--from",
            )
        return [self._request(info.partitions[number]) for number in chosen]

    def _request(self, of: pb.PartitionInfo) -> pb.ConsumeMessagesRequest:
        return pb.ConsumeMessagesRequest(
            topic=self.topic,
            partition=of.partition_id,
            # The end is asked for by its number, so that a call taken up again misses nothing.
            offset=of.end_offset if self.start.at_end else self.start.offset or 0,
            start_timestamp=self.start.time,
            stop_offset=None if self.follow else of.end_offset,
        )


class _FullError(Exception):
    """--max-records are printed."""


@dataclass(slots=True)
class _Output:
    """Where records go. left: how many more may be printed; None for any number."""

    stream: IO[bytes]
    line: Callable[[pb.ConsumeMessagesResponse, pb.Record], bytes]
    left: int | None

    def write(self, response: pb.ConsumeMessagesResponse) -> None:
        """Print the records of a response at once; raises _FullError after the last that is wanted."""
        records = response.records[: self.left]
        self.stream.write(b"".join([self.line(response, record) for record in records]))
        self.stream.flush()
        if self.left is not None:
            self.left -= len(records)
            if self.left == 0:
                raise _FullError


async def _consume(server: str, query: _Query, out: _Output) -> None:
    async with grpc.aio.insecure_channel(server, CHANNEL_OPTIONS) as channel:
        stub = TakhinServiceStub(channel)
        found = await stub.GetTopic(pb.GetTopicRequest(name=query.topic), timeout=CALL_SECONDS_MAX)
        check(found)
        requests = query.requests(found.topic)
        try:
            if query.follow:
                await _all_at_once(stub, requests, out)
            else:
                for request in requests:
                    await _print(stub, request, out)
        except _FullError:
            pass


async def _all_at_once(
    stub: TakhinServiceAsyncStub, requests: Sequence[pb.ConsumeMessagesRequest], out: _Output
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(_print(stub, request, out))
    except ExceptionGroup as failures:  # what the first one says is enough
        raise failures.exceptions[0] from None


async def _print(stub: TakhinServiceAsyncStub, request: pb.ConsumeMessagesRequest, out: _Output) -> None:
    while True:
        request.max_records = out.left or 0
        heard = False
        try:
            async for response in stub.ConsumeMessages(request):
                heard = True
                if response.records:
                    out.write(response)
                    request.offset = response.records[-1].offset + 1
                    request.ClearField("start_timestamp")
        except grpc.RpcError as error:
            # A connection that grew old, if the broker can be reached again.
            if error.code() is grpc.StatusCode.UNAVAILABLE and heard:
                continue
            raise
        return


def _json_line(response: pb.ConsumeMessagesResponse, record: pb.Record) -> bytes:
    document = {
        "topic": response.topic,
        "partition": response.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key) if record.HasField("key") else None,
        "value": _text(record.value) if record.HasField("value") else None,
        "headers": [{"key": header.key, "value": _text(header.value)} for header in record.headers],
    }
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _value_line(_response: pb.ConsumeMessagesResponse, record: pb.Record) -> bytes:
    return record.value + b"\n"


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
