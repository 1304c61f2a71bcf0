"""The streams of takhin.v1 that the client uses: our values in, our values and errors out.

Their calls are made in calls.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from takhin.client.connection import CANCEL_SECONDS_MAX, ByteStream, Duplex
from takhin.client.errors import CallFailedError, NoAnswerError
from takhin.client.failures import error_of
from takhin.client.unread import Unread, UnreadColumns, ordinary
from takhin.model import TopicPartition
from takhin.settings import INT32_MAX
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import ResponseColumns
from takhin.wire.compression import BadCompressionError, decompressed

T = TypeVar("T")


class ConsumeStream:
    """The responses of one ConsumeMessages call, about one partition."""

    def __init__(self, call: ByteStream, server: str, at: TopicPartition) -> None:
        self._call = call
        self._server = server
        self._at = at

    async def read(self, *, silence_s_max: float | None = None) -> Unread | None:
        """The next response; None when the broker has ended the stream. If it is empty, the stream is alive.

        Raises NoAnswerError after silence_s_max without a response, CallFailedError for one that makes no
        sense, and the error that ended the stream.
        """
        raw = await _next(self._call, self._call.read, silence_s_max, self._server)
        if not isinstance(raw, bytes):
            return None
        if (plain := ordinary(self._at, raw)) is not None:
            return plain
        columns = ResponseColumns(raw)
        if not columns.compressed:
            return UnreadColumns(self._at, columns, len(raw))
        try:
            content = await decompressed(columns.compressed, INT32_MAX)  # as large as any message may be
        except BadCompressionError as error:
            raise CallFailedError(
                f"{self._server} sent compressed records whose bytes {error}", server=self._server
            ) from error
        if (plain := ordinary(self._at, content, columns.end_offset)) is not None:
            return plain
        return UnreadColumns(self._at, ResponseColumns(content, columns.end_offset), len(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a member asks for when it joins; either topics or a pattern. Empty, or 0: the broker's default."""

    group_id: str
    topics: tuple[str, ...] = ()
    pattern: str = ""
    client_id: str = ""
    instance_id: str = ""
    assignor: str = ""
    session_timeout_ms: int = 0
    revoke_timeout_ms: int = 0


class Joined(NamedTuple):
    """The member is taken. It is to say something every heartbeat_s at least."""

    member_id: str
    epoch: int
    heartbeat_s: float


class Granted(NamedTuple):
    """All that the member may hold now."""

    epoch: int
    partitions: frozenset[TopicPartition]


class Alive(NamedTuple):
    """The answer to a heartbeat."""

    epoch: int


class MemberStream:
    """One JoinConsumerGroup call. First `join`; one task may write while another one reads."""

    def __init__(self, call: Duplex[Message, pb.MemberResponse], server: str) -> None:
        self._call = call
        self._server = server

    async def join(
        self, to: Subscription, member_id: str, epoch: int, owned: Iterable[TopicPartition]
    ) -> None:
        """Ask to be a member. epoch, owned: 0 and nothing, or what it was and held before."""
        join = pb.Join(
            group_id=to.group_id,
            client_id=to.client_id,
            member_id=member_id,
            member_epoch=epoch,
            instance_id=to.instance_id,
            topics=to.topics,
            topic_pattern=to.pattern,
            assignor=to.assignor,
            session_timeout_ms=to.session_timeout_ms,
            revoke_timeout_ms=to.revoke_timeout_ms,
            owned=_named(owned),
        )
        await self._write(pb.MemberRequest(join=join))

    async def heartbeat(self, epoch: int, owned: Iterable[TopicPartition] | None) -> None:
        """Give a sign of life. owned: all that the member holds; None: as it said last."""
        heartbeat = pb.Heartbeat(member_epoch=epoch)
        if owned is not None:
            heartbeat.owned.CopyFrom(pb.OwnedPartitions(partitions=_named(owned)))
        await self._write(pb.MemberRequest(heartbeat=heartbeat))

    async def leave(self, *, keep_for_restart: bool) -> None:
        """Leave the group, and say nothing more."""
        await self._write(pb.MemberRequest(leave=pb.Leave(keep_for_restart=keep_for_restart)))
        await self._call.done_writing()

    async def read(self, *, silence_s_max: float) -> Joined | Granted | Alive | None:
        """What the broker says next; None when it has ended the stream in order. Raises as ConsumeStream."""
        said = await _next(self._call, self._call.read, silence_s_max, self._server)
        if not isinstance(said, pb.MemberResponse):
            return None
        if said.HasField("joined"):
            joined = said.joined
            return Joined(joined.member_id, joined.member_epoch, joined.heartbeat_interval_ms / 1_000)
        if said.HasField("assignment"):
            partitions = frozenset(
                TopicPartition(of.topic, of.partition) for of in said.assignment.partitions
            )
            return Granted(said.assignment.member_epoch, partitions)
        return Alive(said.heartbeat.member_epoch)

    async def _write(self, request: pb.MemberRequest) -> None:
        """Say something. Raises NoAnswerError if the call has ended; reading tells why."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise NoAnswerError(f"the stream of a member has ended at {self._server}") from error


def _named(partitions: Iterable[TopicPartition]) -> list[pb.TopicPartition]:
    return [pb.TopicPartition(topic=topic, partition=partition) for topic, partition in partitions]


def _ended(reading: asyncio.Task[object]) -> None:
    """Take an outcome that nobody waits for any more; asyncio warns of an error that nobody has taken."""
    if not reading.cancelled():
        reading.exception()


async def _next(
    call: grpc.aio.Call, read: Callable[[], Awaitable[T]], silence_s_max: float | None, server: str
) -> T:
    """What a stream brings next, or gRPC's mark of its end."""
    reading = asyncio.ensure_future(read())
    try:
        if not (await asyncio.wait({reading}, timeout=silence_s_max))[0]:
            raise NoAnswerError(f"{server} was silent for {silence_s_max} s")
        if reading.cancelled():
            raise NoAnswerError(f"a stream of {server} was cancelled")
        return reading.result()
    except grpc.aio.AioRpcError as error:
        raise error_of(error, server) from error
    finally:
        # A read that is given up ends, too: what gRPC reports of it later could find the loop closed.
        if not reading.done():
            call.cancel()
            reading.add_done_callback(_ended)
            await asyncio.wait({reading}, timeout=CANCEL_SECONDS_MAX)
