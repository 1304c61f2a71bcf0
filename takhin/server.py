"""The broker as a process: puts the parts together, and its life of start, serve, drain, close."""

from __future__ import annotations

import asyncio
import importlib.metadata
import ipaddress
import os
import platform
import signal

import structlog

from takhin.broker import Broker
from takhin.clock import Clock, system_clock
from takhin.kinds import FilePath
from takhin.logs import configure
from takhin.rpc.listener import Listener
from takhin.rpc.service import TakhinService
from takhin.settings import Settings
from takhin.signals import Signals
from takhin.storage.connection import library_version
from takhin.storage.engine import Engine
from takhin.storage.memory_engine import MemoryEngine
from takhin.storage.sqlite_engine import SqliteEngine

FORCED_EXIT_CODE = 130
"""What a shell reports for a program that ended by SIGINT."""

log = structlog.get_logger()


class Server:
    """A broker that serves. Life: `start`, then `stop`; both on one running event loop."""

    address: str
    """HOST:PORT, once started."""

    def __init__(self, settings: Settings, *, clock: Clock = system_clock, in_memory: bool = False) -> None:
        """in_memory: for tests of programs; there is no data folder, and everything is forgotten."""
        self.settings = settings
        self.version = importlib.metadata.version("takhin")
        signals = Signals()
        self.engine: Engine
        if in_memory:
            self.engine = MemoryEngine(clock=clock, end_moved=signals.notify)
        else:
            self.engine = SqliteEngine(
                settings.data_dir, settings.storage, clock=clock, end_moved=signals.notify
            )
        self._broker = Broker(self.engine, settings, clock=clock, signals=signals)
        service = TakhinService(self._broker, settings.produce, version=self.version)
        self._listener = Listener(service, settings.rpc)

    async def start(self) -> None:
        """Open the data folder and serve. Raises StartupError, with nothing left open."""
        await self.engine.open()
        try:
            self.address = await self._listener.start(self.settings.listen)
        except BaseException:
            await self.engine.close()
            raise

    async def stop(self) -> None:
        """Drain and close: what was queued is committed and answered, only `.db` files are left."""
        self._broker.drain()
        await self._listener.stop(self.settings.shutdown_grace_ms / 1_000)
        await self.engine.close()


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    Prints one line on stdout when ready. Raises StartupError if it cannot start.
    """
    configure(settings.log)
    server = Server(settings)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stop_forced")
            os._exit(FORCED_EXIT_CODE)  # what is acknowledged is on disk
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):  # before the start, which may take its time
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    await server.start()
    if not _is_loopback(server.address):
        log.warning(
            "plain_traffic", address=server.address, reason="traffic is neither encrypted nor authenticated"
        )
    print(_ready_line(server), flush=True)  # noqa: T201  the one line that scripts wait for
    await stop.wait()
    log.info("stopping", grace_ms=settings.shutdown_grace_ms)
    await server.stop()
    log.info("stopped")


def _ready_line(server: Server) -> str:
    grpc_version = importlib.metadata.version("grpcio")
    versions = f"SQLite {library_version()}, gRPC {grpc_version}, Python {platform.python_version()}"
    data_dir = FilePath().text(server.settings.data_dir)
    return (
        f"takhin {server.version} ready on {server.address}, data in {data_dir}, "
        f"{len(server.engine.topics)} topics ({versions})"
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
