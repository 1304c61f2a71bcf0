"""The broker as a process: puts the parts together, and its life of start, serve, drain, close."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Protocol

import structlog

from takhin import topic_configs
from takhin.broker.broker import Broker
from takhin.broker.lag import Ages
from takhin.clock import Clock, system_clock
from takhin.disk import descriptors
from takhin.disk.access import limit_readers
from takhin.disk.connection import library_version
from takhin.errors import StartupError
from takhin.kinds import FilePath
from takhin.logs import configure, for_people, print_event
from takhin.memory import FreeMemory
from takhin.rpc.call_meter import CallMeter
from takhin.rpc.calls import Watcher
from takhin.rpc.certificates import Certificates
from takhin.rpc.connections import ConnectionWatch
from takhin.rpc.listener import Listener
from takhin.rpc.service import TakhinService
from takhin.sentences import listed
from takhin.settings import Settings
from takhin.settings.security import MTLS, ListenAddress, listen_address, main_address
from takhin.storage.contract import Capability, Engine
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine

if TYPE_CHECKING:
    from takhin.metrics.server import MetricsServer

FORCED_EXIT_CODE = 130
"""What a shell reports for a program that ended by SIGINT."""

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
        self._broker = Broker(self.engine, settings, clock=clock, version=self.version)
        self.metrics: MetricsServer | None = None
        watchers: list[Watcher] = []
        if (listen := settings.metrics.listen) is not None:
            calls = CallMeter()
            watchers.append(calls)
            self.metrics = self._metrics(listen, calls, clock)
        connections = ConnectionWatch(self._broker, settings.rpc.connections_max)
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
            EnginePart(self.engine),
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
        for address in map(listen_address, self.settings.listen):
            if (exposed := exposure(address)) is not None and not self.settings.allow_plaintext:
                raise StartupError(
                    f"other machines can reach {address}, and {exposed[0]}: {exposed[1]}, listen on "
                    "127.0.0.1 or unix:PATH, or allow it by --allow-plaintext (see docs/security.md)"
                )
        await self._parts.start()

    async def stop(self) -> None:
        """Drain and close: what was queued is committed and answered, only `.db` files are left."""
        self._broker.drain()
        await self._parts.stop()


def exposure(address: ListenAddress) -> tuple[str, str] | None:
    """What is unsafe about serving an address, and what to do about it; None if nothing is."""
    if address.local or address.kind == MTLS:
        return None
    if address.encrypted:
        return "clients there need not say who they are", f"listen on mtls://{address.target}"
    return (
        "traffic there is neither encrypted nor authenticated",
        f"listen on mtls://{address.target} or tls://{address.target}",
    )


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    SIGHUP makes it look at its certificates, unless it comes because the terminal has been closed.

    Prints one line on stdout when ready: a sentence where the log is for people, else JSON as the log's lines
    are. Raises StartupError if it cannot start.
    """
    configure(settings.log)
    limit_readers(settings.storage.readers)
    server = Server(settings)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("stop_forced")
            os._exit(FORCED_EXIT_CODE)  # what is acknowledged is on disk
        stop.set()

    on_terminal = _has_terminal()

    def on_hangup() -> None:
        if on_terminal and not _has_terminal():
            on_signal()
        else:
            server.certificates.reload()

    for number in (signal.SIGTERM, signal.SIGINT):  # before the start, which may take a while
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)
    _take_descriptors(settings)
    await server.start()
    _warn_of_exposure(server)
    if Capability.DURABLE not in server.engine.capabilities:
        logger.warning(
            "not_durable", engine=settings.storage.engine, reason="records are lost when the broker stops"
        )
    # What is there now stays: a full collection would look at all of it, which takes 20 ms or more.
    gc.collect()
    gc.freeze()
    try:
        _say_ready(server)
    except OSError as error:  # a broker whose caller does not listen serves all the same
        logger.warning("ready_line_not_printed", reason=error.strerror, address=server.address)
    await stop.wait()
    logger.info("stopping", grace_ms=settings.shutdown_grace_ms)
    await server.stop()
    logger.info("stopped")


def _warn_of_exposure(server: Server) -> None:
    """Say what other machines can reach that is not protected."""
    for address in map(listen_address, server.addresses):
        if (exposed := exposure(address)) is not None:
            logger.warning("plain_traffic", address=str(address), reason=exposed[0])
    if server.metrics is not None and not listen_address(server.metrics.address).local:
        reason = "whoever reaches it reads the names and sizes of topics and groups"
        logger.warning("metrics_exposed", address=server.metrics.address, reason=reason)


def _take_descriptors(settings: Settings) -> None:
    """Raise the process's limit on file descriptors, and warn if it is below what the settings allow."""
    limit = descriptors.raise_limit()
    connections = settings.rpc.connections_max * len(settings.listen)
    partitions = settings.storage.open_partitions_max
    needed = descriptors.needed(connections=connections, open_partitions=partitions)
    if limit < needed:
        logger.warning(
            "descriptors_few",
            limit=limit,
            needed=needed,
            reason=f"{connections} connections (rpc.connections_max, for each address) and {partitions} open "
            "partitions (storage.open_partitions_max) may need more: raise the limit (`ulimit -n`) or lower "
            "them",
        )


def _say_ready(server: Server) -> None:
    """Print the one line that scripts wait for."""
    settings = server.settings
    data = "memory" if settings.storage.engine == "memory" else FilePath().text(settings.data_dir)
    facts = {
        **server.versions,
        "address": server.address,
        "addresses": server.addresses,
        "data_dir": data,
        "topics": len(server.engine.topics),
        **({} if server.metrics is None else {"metrics_address": server.metrics.address}),
    }
    if not for_people(settings.log):
        print_event(sys.stdout, "ready", **facts)
        return
    line = (
        "takhin {version} ready on {listening}, data in {data_dir}, {topics} topics "
        "(SQLite {sqlite}, gRPC {grpc}, Python {python})"
    )
    print(line.format(**facts, listening=listed(server.addresses, "and")), flush=True)  # noqa: T201
    if server.metrics is not None:
        line += ", metrics on {metrics_address}"
    print(line.format(**facts), flush=True)  # noqa: T201


def _has_terminal() -> bool:
    """True if the process has a terminal that is there."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False
