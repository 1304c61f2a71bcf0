"""The broker put together from its parts, and its life of start, serve, drain, close."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import structlog

from takhin import topic_configs
from takhin.broker.broker import Broker
from takhin.broker.lag import Ages
from takhin.clock import Clock, system_clock
from takhin.disk.access_file import AccessFile
from takhin.disk.connection import library_version
from takhin.errors import StartupError
from takhin.memory import FreeMemory
from takhin.rpc.call_meter import CallMeter
from takhin.rpc.calls import Watcher
from takhin.rpc.certificates import Certificates
from takhin.rpc.connections import ConnectionWatch
from takhin.rpc.listener import Listener
from takhin.rpc.service import TakhinService
from takhin.settings import Settings
from takhin.settings.security import MTLS, ListenAddress, listen_address, main_address
from takhin.storage.contract import Engine
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine

if TYPE_CHECKING:
    from takhin.metrics.server import MetricsServer
    from takhin.tracing.traces import Traces

logger = structlog.get_logger()


def _sqlite(settings: Settings, clock: Clock) -> Engine:
    return SqliteEngine(
        settings.data_dir, settings.storage, clock=clock, topic_defaults=topic_configs.defaults(settings)
    )


def _memory(settings: Settings, clock: Clock) -> Engine:
    return MemoryEngine(
        producers_max=settings.storage.producers_max, sources_max=settings.storage.sources_max, clock=clock
    )


ENGINES: Mapping[str, Callable[[Settings, Clock], Engine]] = {"sqlite": _sqlite, "memory": _memory}
"""How to make the engine that the setting storage.engine names."""


class Part(Protocol):
    """Something that runs as long as the server does."""

    async def start(self) -> None:
        """Run. Raises StartupError, with nothing left open."""

    async def stop(self, grace_seconds: float) -> None:
        """End; what is under way gets `grace_seconds` for it."""


class EnginePart:
    """The storage engine as a part of the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self) -> None:
        await self._engine.open()

    async def stop(self, _grace_seconds: float) -> None:
        await self._engine.close()


class Parts:
    """Starts parts in order and stops them in the opposite order."""

    def __init__(self, *parts: Part, grace_seconds: float) -> None:
        self._parts = parts
        self._grace_seconds = grace_seconds
        self._started = AsyncExitStack()

    async def start(self) -> None:
        """Start every part. If one fails, those before it are stopped before the error is raised."""
        async with AsyncExitStack() as started:
            for part in self._parts:
                await part.start()
                started.push_async_callback(part.stop, self._grace_seconds)
            self._started = started.pop_all()

    async def stop(self) -> None:
        """Stop every part that was started, also when one of them fails to stop."""
        await self._started.aclose()


class Server:
    """A broker that serves. Life: `start`, then `stop`; both on one running event loop."""

    def __init__(self, settings: Settings, *, clock: Clock = system_clock) -> None:
        self.settings = settings
        self.version = importlib.metadata.version("takhin")
        self.engine = ENGINES[settings.storage.engine](settings, clock)
        access = AccessFile(settings.data_dir) if settings.access.enabled else None
        self._broker = Broker(self.engine, settings, clock=clock, version=self.version, access=access)
        self.metrics: MetricsServer | None = None
        watchers: list[Watcher] = []
        if (listen := settings.metrics.listen) is not None:
            calls = CallMeter()
            watchers.append(calls)
            self.metrics = self._metrics(listen, calls, clock)
        traces = self._traces() if settings.traces.enabled else None
        if traces is not None:
            watchers.append(traces.spans)
        connections = ConnectionWatch(
            self._broker, settings.rpc.connections_max, settings.quotas.address_connections
        )
        self.certificates = Certificates(
            list(map(listen_address, settings.listen)), settings.tls, self._broker
        )
        self._listener = Listener(
            TakhinService(self._broker), settings, connections, self.certificates, watchers
        )
        self._parts = Parts(
            FreeMemory(),
            self.certificates,
            *([] if self.metrics is None else [self.metrics]),
            *([] if traces is None else [traces]),
            EnginePart(self.engine),
            self._broker.access,
            self._broker.activity,
            self._broker.compaction,
            self._broker.coordinator,
            self._listener,
            *([] if self.metrics is None else [self.metrics.readiness]),
            grace_seconds=settings.shutdown_grace_ms / 1_000,
        )

    def _metrics(self, listen: str, calls: CallMeter, clock: Clock) -> MetricsServer:
        """What shows the numbers of this server. Nothing of it is imported where nobody wants them."""
        from takhin.metrics.scrape import Watched  # noqa: PLC0415
        from takhin.metrics.server import MetricsServer  # noqa: PLC0415

        ages = Ages(self.engine, clock)
        watched = Watched(self.engine, self._broker, ages, calls, self.versions)
        return MetricsServer(listen, watched, self.settings.metrics)

    def _traces(self) -> Traces:
        """What makes spans of calls and sends them. Raises StartupError where OpenTelemetry is missing."""
        try:
            from takhin.tracing.traces import Traces  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise StartupError(
                f"traces.enabled is true, but {error.name} is not installed: in a checkout of Takhin, "
                "pip install '.[server,otel]'"
            ) from error
        return Traces(self.settings.traces, self.version, identified=self.settings.access.enabled)

    @property
    def versions(self) -> dict[str, str]:
        """Of the program and of what it stands on."""
        return {
            "version": self.version,
            "sqlite": library_version(),
            "grpc": importlib.metadata.version("grpcio"),
            "python": platform.python_version(),
        }

    @property
    def addresses(self) -> list[str]:
        """Those of the setting `listen` with the ports taken, once started."""
        return list(map(str, self._listener.addresses))

    @property
    def address(self) -> str:
        """HOST:PORT of the first address that has a port, once started; of a socket file if none has."""
        return main_address(self._listener.addresses).target

    async def start(self) -> None:
        """Open the engine and serve. Raises StartupError, with nothing left open."""
        identified = self.settings.access.enabled
        for address in map(listen_address, self.settings.listen):
            if (
                exposed := exposure(address, identified=identified)
            ) is not None and not self.settings.allow_plaintext:
                raise StartupError(
                    f"other machines can reach {address}, and {exposed[0]}: {exposed[1]}, listen on "
                    "127.0.0.1 or unix:PATH, or allow it by --allow-plaintext (see docs/security.md)"
                )
        await self._parts.start()

    async def stop(self) -> None:
        """Drain and close: what was queued is committed and answered, only `.db` files are left."""
        self._broker.drain()
        await self._parts.stop()


def exposure(address: ListenAddress, *, identified: bool) -> tuple[str, str] | None:
    """What is unsafe about serving an address, and what to do about it; None if nothing is.

    identified: every caller has to prove who it is.
    """
    if address.local or address.kind == MTLS or (address.encrypted and identified):
        return None
    if address.encrypted:
        advice = f"set access.enabled, listen on mtls://{address.target}"
        return "clients there need not say who they are", advice
    if identified:
        return "traffic there, tokens included, is not encrypted", f"listen on tls://{address.target}"
    return (
        "traffic there is neither encrypted nor authenticated",
        f"listen on mtls://{address.target} or tls://{address.target}",
    )
