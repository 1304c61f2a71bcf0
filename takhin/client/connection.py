"""The channels to one broker: their options and credentials, and single attempts with a deadline.

Knows no RPC by name (calls.py does) and repeats nothing (retry.py does).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, TypeVar

import grpc

from takhin.client import forks
from takhin.client.clock import monotonic, timeout_of_call
from takhin.client.errors import (
    ClosedError,
    HandshakeError,
    NoAnswerError,
    OtherLoopError,
    UnreachableError,
)
from takhin.client.failures import error_of, refusal_in
from takhin.client.handshakes import Diagnosis
from takhin.client.outage import Outage
from takhin.client.tls import Credentials, Tls, TlsFiles
from takhin.client.token import checked_token
from takhin.errors import InvalidArgumentError
from takhin.settings.security import UNIX, ListenAddress, listen_address

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

ByteStream = grpc.aio.UnaryStreamCall[bytes, bytes]
Duplex = grpc.aio.StreamStreamCall
"""A call whose sides both write and read."""

ATTEMPT_SECONDS_MAX = 30.0
"""A call without an answer by then counts as lost."""
CANCEL_SECONDS_MAX = 1.0
STREAMS_PER_CHANNEL = 90
"""Streams on one connection; the rest is for calls. RFC 9113 (5.1.2) recommends that a server allows 100 at
least. Whatever is above a broker's limit waits in gRPC without a word."""
LOOK_SECONDS = 1.0
"""How long until the files of certificates are looked at again, when there are calls."""
CHANNELS_MAX = 8
"""Connections of one client. Beyond STREAMS_PER_CHANNEL on each, streams are spread evenly."""
State = grpc.ChannelConnectivity

OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else all clients of a process would share one connection
    ("grpc.max_receive_message_length", -1),  # the broker has the limit
    ("grpc.max_send_message_length", -1),
    # Pings notice a broker that vanished without closing the connection; it allows one every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A restarted broker is found again soon. "min" is how long connecting itself may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
]


@dataclass(slots=True, eq=False)
class _Channel:
    """A channel, how many streams and unary calls are under way on it, and what was made of it once."""

    channel: grpc.aio.Channel
    streams: int = 0
    calls: int = 0
    made: dict[Any, Any] = field(default_factory=dict)


class Connection:
    """A channel for calls and streams, and more of them for many streams.

    Life: `open`, calls, `close`, all on one event loop.

    server: HOST:PORT, unix:PATH, or tls://HOST:PORT, which is the same as to give tls.
    tls: None for plain traffic. token: sent with every call as a bearer token; blanks around
    it, such as the newline at the end of a file, are left out.
    Raises InvalidArgumentError for a bad address, for files that cannot be used, and for a token that would
    travel unencrypted.
    """

    def __init__(
        self,
        server: str,
        *,
        tls: Tls | TlsFiles | grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        address = _checked_address(server)
        if token is not None:
            token = checked_token(token, "the token")
        if tls is None and address.encrypted:
            tls = Tls()
        if tls is not None and address.kind == UNIX:
            raise InvalidArgumentError(f"a socket file takes no TLS: {server}", field="tls")
        if token is not None and tls is None and not address.local:
            raise InvalidArgumentError(f"the token for {server} would travel unencrypted; give tls too")
        self.server = server
        self._address = address
        self._credentials = Credentials(tls)
        self._diagnosis = Diagnosis(address)
        self._outage = Outage(server)
        self._metadata = None if token is None else (("authorization", f"Bearer {token}"),)
        self._channels: list[_Channel] = []
        self._retired: list[_Channel] = []  # with former certificates, closed when their last call has ended
        self._look_at = 0.0
        self._closed = False
        self.more_metadata: Callable[[], tuple[tuple[str, str], ...]] | None = None
        """What calls made in a context say besides."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The one on which it was opened."""
        self.thread_id = 0
        """The thread of that loop."""

    def open(self) -> None:
        """Make the first channel, on the running loop. It connects when it is first used.

        Raises ClosedError after `close`, ForkedError in a process forked from one that used gRPC.
        """
        forks.check()
        if self._closed:
            raise ClosedError(f"this client of {self.server} is closed")
        if not self._channels:
            self.loop = asyncio.get_running_loop()
            self.thread_id = get_ident()
            self._add_channel()

    async def close(self) -> None:
        """Cancel all calls under way. May be called again, and does nothing in a forked process."""
        self._closed = True
        if not forks.forked():
            every = [*self._channels, *self._retired]
            await asyncio.gather(*(each.channel.close() for each in every), self._diagnosis.close())

    @property
    def is_open(self) -> bool:
        return bool(self._channels) and not self._closed and not forks.forked()

    def check_here(self) -> None:
        """Raise ForkedError in a forked process, OtherLoopError on another event loop than `open` was on.

        What waits there would wait for ever.
        """
        forks.check()
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise OtherLoopError(
                f"this client of {self.server} was opened on another event loop, and works on that one "
                "alone; open one on each loop, or use takhin.client.sync, whose clients any thread may use"
            )

    def made(self, make: Callable[[grpc.aio.Channel], T]) -> T:
        """What `make` makes of the channel for unary calls; the same again until that is another one.

        Raises ClosedError before `open` and after `close`, and as `check_here`.
        """
        made = self._first().made
        if make not in made:
            made[make] = make(self._channels[0].channel)
        found: T = made[make]
        return found

    def _first(self) -> _Channel:
        """The channel for unary calls, with the newest certificates."""
        self.check_here()
        if not self._channels or self._closed:
            raise ClosedError(f"this client of {self.server} is not open")
        if monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK_SECONDS
            if self._credentials.renew():
                self._retired += self._channels
                self._channels = []
                self._add_channel()
        return self._channels[0]

    async def _sweep(self) -> None:
        """Close channels with former certificates on which nothing is under way."""
        idle = [each for each in self._retired if not each.streams and not each.calls]
        self._retired = [each for each in self._retired if each not in idle]
        for each in idle:
            await each.channel.close()

    async def _connect(self, channel: grpc.aio.Channel, deadline: float) -> None:
        """Return when a channel is connected. Raises UnreachableError when connecting has failed."""
        while (state := channel.get_state(try_to_connect=True)) is not State.READY:
            if state is State.SHUTDOWN:
                raise ClosedError(f"this client of {self.server} is closed")
            if state is State.TRANSIENT_FAILURE:
                error = await self._unreachable()
                self._outage.lasts(error)
                raise error
            warns_in_s, left_s = self._outage.lasts(), deadline - monotonic()
            if left_s <= 0:
                raise UnreachableError(
                    f"no broker answers at {self.server}: connecting took too long", server=self.server
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(min(warns_in_s, left_s)):
                    await channel.wait_for_state_change(state)
        self._outage.over()

    async def _unreachable(self) -> UnreachableError:
        """Why there is no connection: gRPC has just failed to make one."""
        fault = await self._diagnosis.fault(self._credentials.tls)
        if fault is None:
            return UnreachableError(f"no broker answers at {self.server}", server=self.server)
        if not fault.reason:
            return UnreachableError(f"no broker answers at {self.server}: {fault.text}", server=self.server)
        error = HandshakeError(
            f"no connection to {self.server}: {fault.text}", server=self.server, reason=fault.reason
        )
        # Where a connection has been, it is the broker that has changed, and it may change back.
        error.heals = self._outage.connected_once or not self._diagnosis.is_certain(fault)
        return error

    async def unary(self, rpc: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q, deadline: float) -> R:
        """The answer to one attempt of a unary call. deadline: of clock.monotonic().

        Every way in which the attempt can fail is raised as a TakhinError.
        """
        place = self._channels[0]  # the one that `rpc` was made of
        place.calls += 1
        try:
            return await self._unary(place.channel, rpc, request, deadline)
        finally:
            place.calls -= 1
            if self._retired:
                await self._sweep()

    async def _unary(
        self,
        channel: grpc.aio.Channel,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Q, R],
        request: Q,
        deadline: float,
    ) -> R:
        await self._connect(channel, deadline)
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise UnreachableError(f"there was no time left to call {self.server}", server=self.server)
        timeout = timeout_of_call(min(left_s, ATTEMPT_SECONDS_MAX))
        call = rpc(request, timeout=timeout, metadata=self._metadata_now())
        try:
            response = await call
        except asyncio.CancelledError:
            await _end(call)
            raise_if_cancelled()
            raise NoAnswerError(f"the call to {self.server} was cancelled", server=self.server) from None
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.server) from error
        if (refusal := refusal_in(response)) is not None:
            raise refusal
        return response

    @asynccontextmanager
    async def stream(
        self, method: str, request: bytes, connect_deadline: float, *, seconds_max: float | None = None
    ) -> AsyncIterator[ByteStream]:
        """A call whose responses are read one by one. It is cancelled, if need be, when the block is left.

        Reading raises grpc.aio.AioRpcError; failures.py turns it into ours.
        """
        async with self._place(connect_deadline) as channel:
            rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method, None, None)
            timeout = None if seconds_max is None else timeout_of_call(seconds_max)
            call = rpc(request, timeout=timeout, metadata=self._metadata_now())
            try:
                yield call
            finally:
                await _end(call)

    @asynccontextmanager
    async def duplex(
        self,
        method: str,
        serialize: Callable[[Q], bytes],
        parse: Callable[[bytes], R],
        connect_deadline: float,
    ) -> AsyncIterator[Duplex[Q, R]]:
        """A call that both sides write to, which has a place among the streams. Otherwise as `stream`."""
        async with self._place(connect_deadline) as channel:
            rpc: grpc.aio.StreamStreamMultiCallable[Q, R] = channel.stream_stream(method, serialize, parse)
            call = rpc(metadata=self._metadata_now())
            try:
                yield call
            finally:
                await _end(call)

    @asynccontextmanager
    async def _place(self, connect_deadline: float) -> AsyncIterator[grpc.aio.Channel]:
        """A connected channel, on which the block has room for one stream."""
        place = self._place_for_stream()
        place.streams += 1
        try:
            await self._connect(place.channel, connect_deadline)
            yield place.channel
        finally:
            place.streams -= 1
            if self._retired:
                await self._sweep()

    def _place_for_stream(self) -> _Channel:
        """The channel for one more stream: the first with room, else the emptiest one."""
        self._first()  # raises if the client is not open
        for place in self._channels:
            if place.streams < STREAMS_PER_CHANNEL:
                return place
        if len(self._channels) < CHANNELS_MAX:
            return self._add_channel()
        return min(self._channels, key=lambda place: place.streams)

    def _metadata_now(self) -> tuple[tuple[str, str], ...] | None:
        if self.more_metadata is None or not (more := self.more_metadata()):
            return self._metadata
        return (*(self._metadata or ()), *more)

    def _add_channel(self) -> _Channel:
        forks.grpc_is_used()
        self._channels.append(_Channel(self._credentials.channel(self._address.target, OPTIONS)))
        return self._channels[-1]


def raise_if_cancelled() -> None:
    """Raise CancelledError if the running task was cancelled; call it where a CancelledError was caught.

    A call of gRPC runs in a task of its own. Where somebody else cancelled that one, it is a lost call.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError


async def _end(call: grpc.aio.Call) -> None:
    """Cancel a call and wait for its end: what gRPC reports later could find its event loop closed."""
    call.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS_MAX):
            await call.code()


def _checked_address(server: str) -> ListenAddress:
    try:
        address = listen_address(server)
    except ValueError as error:
        raise InvalidArgumentError(f"server must be {error}, not {server!r}", field="server") from None
    if address.kind != UNIX and address.port == 0:
        raise InvalidArgumentError(
            f"server must be a broker's HOST:PORT; port 0 is only for a broker to listen on: {server!r}",
            field="server",
        )
    return address
