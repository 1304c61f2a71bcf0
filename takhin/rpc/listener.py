"""The gRPC server: its options, its addresses, its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import structlog

from takhin.errors import StartupError
from takhin.listening import trouble
from takhin.rpc.calls import Watcher
from takhin.rpc.certificates import Certificates
from takhin.rpc.connections import ConnectionWatch
from takhin.rpc.health import add_health, add_reflection
from takhin.rpc.interceptors import CallInterceptor
from takhin.rpc.service import TakhinService
from takhin.rpc.unix_sockets import free_place
from takhin.settings import RpcSettings, Settings
from takhin.settings.security import MTLS, UNIX, ListenAddress, listen_address
from takhin.v1 import takhin_pb2_grpc

logger = structlog.get_logger()

GOODBYE_SECONDS_MIN, GOODBYE_SECONDS = 0.1, 1.0
"""How long the stop waits for last answers to be on their way, when no call is at work any more."""

CLOSING_SECONDS_MAX = 3.0
"""How long the stop waits for gRPC to close its connections: a flood of pings keeps it busy for longer."""

READ_BYTES_MAX = 64 << 10
"""How much of a connection gRPC reads at once. By itself it doubles that for as long as there is always more,
so that a flood of frames makes it hundreds of MB. Messages of 100 kB and of 4 MB take as much CPU time with
64 KiB as without a bound."""

PING_JITTER = 2
"""A client that pings every 10 s is late with one and in time with the next. So pings are too many where they
arrive so many times as often as they may be sent: gRPC closes the connection at the third."""

PENDING_MIN = 1_000
"""gRPC cancels calls that come faster than they are taken in, without a reason: by itself some of them from
so many on, and all from 3,000. Here it is none up to three quarters of rpc.calls_max, and all beyond. What
waits takes memory: with all of rpc.calls_max a flood of calls with unread answers takes 115 MiB, so 88."""


class Listener:
    """Serves one TakhinService at its addresses, as a part of the server. Life: `start`, serve, `stop`."""

    addresses: list[ListenAddress]
    """Those of the setting `listen` with the ports taken, once started."""

    def __init__(
        self,
        service: TakhinService,
        settings: Settings,
        connections: ConnectionWatch,
        certificates: Certificates,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """watchers: see every call."""
        self._service = service
        self._listen = list(map(listen_address, settings.listen))
        self._socket_mode = int(settings.socket_mode, 8)
        self._connections = connections
        self._certificates = certificates
        self._interceptor = CallInterceptor(settings, service.gate, service.quotas, watchers, service.plain)
        self._server = grpc.aio.server(interceptors=[self._interceptor], options=options(settings.rpc))
        takhin_pb2_grpc.add_TakhinServiceServicer_to_server(service, self._server)
        add_reflection(self._server)

    async def start(self) -> None:
        """Bind and serve. Raises StartupError."""
        self._health = await add_health(self._server)
        self.addresses = []
        try:
            for address in self._listen:
                self.addresses.append(self._bind(address))
        except StartupError:
            self._remove_sockets()
            raise
        await self._server.start()
        self._connections.start(self.addresses)

    def _remove_sockets(self) -> None:
        """Remove the files that were made. gRPC does it for a server that was started."""
        for address in self.addresses:
            if address.kind == UNIX:
                Path(address.path).unlink(missing_ok=True)

    def _bind(self, address: ListenAddress) -> ListenAddress:
        """Listen on an address. Returns it with the port taken."""
        if address.kind == UNIX:
            with free_place(Path(address.path), self._socket_mode):
                self._add(address)
            return address
        return replace(address, port=self._add(address))

    def _add(self, address: ListenAddress) -> int:
        try:
            if not address.encrypted:
                return self._server.add_insecure_port(address.target)
            credentials = self._certificates.credentials(ask_clients=address.kind == MTLS)
            return self._server.add_secure_port(address.target, credentials)
        except RuntimeError as error:
            why = trouble(address.host, address.port) if address.kind != UNIX else None
            raise StartupError(f"cannot listen on {address}: {why or error}") from error

    async def stop(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, refuse new calls, answer what is queued, end streams, then close.

        Calls that have not ended after `grace_seconds` are cut off. gRPC's server stops last: it would refuse
        new calls as CANCELLED, or leave them unanswered for as long as another one is at work.
        """
        deadline = asyncio.get_running_loop().time() + grace_seconds
        await self._health.enter_graceful_shutdown()
        self._service.drain()
        await self._interceptor.end_calls(grace_seconds)
        await self._interceptor.last_calls.hold()
        left = max(GOODBYE_SECONDS_MIN, deadline - asyncio.get_running_loop().time())
        closing = asyncio.create_task(self._server.stop(min(left, GOODBYE_SECONDS)))
        self._interceptor.last_calls.release()  # in the next turn, when clients have been told
        if not (await asyncio.wait({closing}, timeout=CLOSING_SECONDS_MAX))[0]:
            logger.warning("connections_left", reason="gRPC is busy with some; they end with the broker")
        await self._connections.stop()


def options(settings: RpcSettings) -> list[tuple[str, int]]:
    """Channel arguments (grpc_types.h). Without them gRPC bounds neither connections nor idle time."""
    pending_max = max(settings.calls_max * 3 // 4, PENDING_MIN)
    return [
        ("grpc.so_reuseport", 0),  # else a second broker could listen on the same port
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        # parsing.py decompresses what is compressed, once the call has a place. gRPC would do it at once.
        ("grpc.per_message_decompression", 0),
        # A call of which no message is asked for yet may send this much. Probes for the speed of a connection
        # would make it megabytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", settings.lookahead_bytes),
        ("grpc.experimental.tcp_max_read_buffer_size", READ_BYTES_MAX),
        # From the first to the second gRPC would refuse some calls and take others.
        ("grpc.max_metadata_size", settings.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", settings.metadata_bytes_max),
        ("grpc.max_concurrent_streams", settings.streams_per_connection_max),
        # It would refuse calls of a client that keeps this limit: it counts those that are answered and not
        # yet forgotten. call_quotas.py bounds what is under way.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", pending_max),
        ("grpc.server.max_pending_requests_hard_limit", pending_max),
        ("grpc.max_allowed_incoming_connections", settings.connections_max),
        ("grpc.server_handshake_timeout_ms", settings.handshake_ms_max),
        ("grpc.max_connection_idle_ms", settings.connection_idle_ms),
        ("grpc.max_connection_age_ms", settings.connection_age_ms),
        ("grpc.max_connection_age_grace_ms", settings.connection_age_grace_ms),
        ("grpc.keepalive_time_ms", settings.keepalive_ms),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", settings.ping_interval_ms_min // PING_JITTER),
    ]
