"""A channel to one broker: calls with a deadline, repeated as the policy says, and errors with a type."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import grpc
from google.rpc import status_pb2

from takhin.client.errors import (
    CallFailedError,
    ClosedError,
    NoAnswerError,
    TransportLimitError,
    UnreachableError,
)
from takhin.client.retry import Retry
from takhin.errors import InvalidArgumentError, TakhinError, UnavailableError
from takhin.settings import split_address
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub
from takhin.wire.status import error_of_code, error_of_status

T = TypeVar("T")

ATTEMPT_SECONDS_MAX = 30.0
"""A call that is not answered by then is taken for lost, and repeated if there is time left."""
CANCEL_SECONDS_MAX = 1.0
STATUS_DETAILS = "grpc-status-details-bin"
SERVICE = pb.DESCRIPTOR.services_by_name["TakhinService"].full_name
State = grpc.ChannelConnectivity

OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else all clients of a process would share one connection
    ("grpc.max_receive_message_length", -1),  # the broker has the limit
    ("grpc.max_send_message_length", -1),
    # A broker that vanished without a word is noticed; it allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A broker that was restarted is found again soon. "min" is how long connecting itself may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
]

LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,  # a reset of the stream
    grpc.StatusCode.UNKNOWN,
}
"""What gRPC makes of a connection that broke under a call, where the broker itself said nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates in PEM. root_certificates: whom to trust; None: what gRPC trusts by default.

    certificate_chain, private_key: the client's own, where the broker asks for them.
    """

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = None


class Connection:
    """One channel. Life: `open`, calls, `close`, all on one event loop.

    server: HOST:PORT. tls: None for plain traffic. token: sent with every call as a bearer token.
    Raises InvalidArgumentError for a bad address, and for a token that would travel unencrypted.
    """

    def __init__(
        self,
        server: str,
        *,
        tls: Tls | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        host = _checked_host(server)
        if token is not None and tls is None and not _is_loopback(host):
            raise InvalidArgumentError(f"the token for {server} would travel unencrypted; give tls too")
        self.server = server
        self.retry = retry or Retry()
        self._tls = tls
        self._metadata = None if token is None else (("authorization", f"Bearer {token}"),)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._closed = False

    def open(self) -> None:
        """Make the channel, on the running loop. It connects when it is first used."""
        if self._closed:
            raise ClosedError(f"this client of {self.server} is closed")
        if self._channel is None:
            self._channel = _channel(self.server, self._tls)
            self._stub = TakhinServiceStub(self._channel)
            # These two carry bytes: wire/requests.py and wire/columns.py do what the stub would do.
            self._stub.ProduceMessage = self._channel.unary_unary(
                f"/{SERVICE}/ProduceMessage", None, pb.ProduceMessageResponse.FromString
            )
            self._stub.ConsumeMessages = self._channel.unary_stream(
                f"/{SERVICE}/ConsumeMessages", pb.ConsumeMessagesRequest.SerializeToString, None
            )

    async def close(self) -> None:
        """Cancel what is under way. May be called again."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    @property
    def is_open(self) -> bool:
        return self._channel is not None and not self._closed

    async def call(self, name: str, request: Any, deadline: float) -> Any:
        """The answer to a unary call, repeated while it is an UnavailableError and time is left.

        deadline: of time.monotonic(). Raises the TakhinError that the last attempt raised.
        """
        return await self.retried(lambda: self.attempt(name, request, deadline), deadline)

    async def retried(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
        for failures in count(1):
            try:
                return await attempt()
            except UnavailableError as error:
                if not await self.pause(failures, error, deadline):
                    raise
        raise AssertionError  # count has no end

    async def pause(self, failures: int, error: UnavailableError, deadline: float) -> bool:
        """Wait before the next attempt; False, at once: there is none before the deadline."""
        wait_s = self.retry.wait_s(failures, error)
        if wait_s is None or time.monotonic() + wait_s >= deadline:
            return False
        await asyncio.sleep(wait_s)
        return True

    async def attempt(self, name: str, request: Any, deadline: float) -> Any:
        """One unary call, and every way in which it can fail as a TakhinError.

        name: of the RPC. request: its message; for ProduceMessage as bytes.
        """
        await self.connect(deadline)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise UnreachableError(f"there was no time left to call {self.server}", server=self.server)
        call = getattr(self._stub, name)(
            request, timeout=min(left_s, ATTEMPT_SECONDS_MAX), metadata=self._metadata
        )
        try:
            response = await call
        except asyncio.CancelledError:
            await ended(call)
            raise
        except grpc.aio.AioRpcError as error:
            raise self.error_of(error) from error
        if getattr(response, "error_code", 0):
            raise error_of_code(response.error_code, response.error, _details(response))
        return response

    async def connect(self, deadline: float) -> None:
        """Return when the channel is connected. Raises UnreachableError when that has failed once more."""
        channel = self._channel
        if channel is None or self._closed:
            raise ClosedError(f"this client of {self.server} is not open")
        try:
            while (state := channel.get_state(try_to_connect=True)) is not State.READY:
                if state is State.SHUTDOWN:
                    raise ClosedError(f"this client of {self.server} is closed")
                if state is State.TRANSIENT_FAILURE:
                    raise UnreachableError(f"no broker answers at {self.server}", server=self.server)
                async with asyncio.timeout(deadline - time.monotonic()):
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise UnreachableError(
                f"no broker answers at {self.server}: connecting took too long", server=self.server
            ) from None

    def stream(self, request: pb.ConsumeMessagesRequest, *, seconds_max: float | None = None) -> Any:
        """A consume call, whose responses are bytes. Its errors are for `error_of`."""
        return self._stub.ConsumeMessages(request, timeout=seconds_max, metadata=self._metadata)

    def error_of(self, error: grpc.aio.AioRpcError) -> TakhinError:
        """The broker's error if it said one, else one of ours that says what became of the call."""
        code, sentence = error.code(), error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == STATUS_DETAILS:
                known = error_of_status(status_pb2.Status.FromString(value))
                if known is not None:
                    return known
        about = {"server": self.server, "status": code.name}
        if code in LOST:
            return NoAnswerError(f"the call to {self.server} got no answer: {sentence}", **about)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TransportLimitError(f"{self.server} did not take the call: {sentence}", **about)
        return CallFailedError(f"the call to {self.server} failed with {code.name}: {sentence}", **about)


async def ended(call: Any) -> None:
    """Cancel a call and hear that it is over: what gRPC reports later could find its event loop closed."""
    call.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS_MAX):
            await call.code()


def _channel(server: str, tls: Tls | grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(server, OPTIONS)
    if isinstance(tls, Tls):
        tls = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
    return grpc.aio.secure_channel(server, tls, OPTIONS)


def _details(response: Any) -> dict[str, str]:
    """What a refusal in band says besides the sentence."""
    names = {"topic", "partition", "group_id", "end_offset"} & set(response.DESCRIPTOR.fields_by_name)
    return {name: str(getattr(response, name)) for name in names}


def _checked_host(server: str) -> str:
    try:
        host, port = split_address(server)
    except ValueError as error:
        raise InvalidArgumentError(f"server must be {error}, not {server!r}", field="server") from None
    if port == 0:
        raise InvalidArgumentError(
            f"server must be a broker's HOST:PORT, and port 0 is nobody's: {server!r}", field="server"
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
