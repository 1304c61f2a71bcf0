"""The broker as a process: its signals, its limits, the line that says it is ready, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

import structlog

from takhin import garbage
from takhin.disk import descriptors
from takhin.disk.access import limit_readers
from takhin.kinds import FilePath
from takhin.logs import configure, for_people, print_event
from takhin.notify import ServiceManager
from takhin.sentences import listed
from takhin.server import Server, exposure
from takhin.settings import Settings
from takhin.settings.security import listen_address
from takhin.storage.contract import Capability

FORCED_EXIT_CODE = 130
"""What a shell reports for a program that ended by SIGINT."""

logger = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    SIGHUP makes it look at its certificates, unless it comes because the terminal has been closed.

    Prints one line on stdout when ready: a sentence where the log is for people, else JSON as the log's lines
    are. Raises StartupError if it cannot start.
    """
    configure(settings.log)
    limit_readers(settings.storage.readers)
    server, manager = Server(settings), ServiceManager(os.environ)
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
    garbage.spare_old_objects()
    try:
        _say_ready(server)
    except OSError as error:  # a broker whose caller does not listen serves all the same
        logger.warning("ready_line_not_printed", reason=error.strerror, address=server.address)
    collecting = [asyncio.create_task(each) for each in (garbage.collect(), garbage.look_at_young())]
    async with manager.told_that_we_serve(f"serving on {server.address}"):
        await stop.wait()
    for each in collecting:
        each.cancel()
    logger.info("stopping", grace_ms=settings.shutdown_grace_ms)
    await server.stop()
    logger.info("stopped")


def _warn_of_exposure(server: Server) -> None:
    """Say what other machines can reach that is not protected."""
    for address in map(listen_address, server.addresses):
        if (exposed := exposure(address, identified=server.settings.access.enabled)) is not None:
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
        "native": Capability.PACKED in server.engine.capabilities,
        **({} if server.metrics is None else {"metrics_address": server.metrics.address}),
    }
    if not for_people(settings.log):
        print_event(sys.stdout, "ready", **facts)
        return
    line = (
        "takhin {version} ready on {listening}, data in {data_dir}, {topics} topics "
        "(SQLite {sqlite}, gRPC {grpc}, Python {python}, {path})"
    )
    if server.metrics is not None:
        line += ", metrics on {metrics_address}"
    path = "records in C" if facts["native"] else "records in Python"
    print(line.format(**facts, path=path, listening=listed(server.addresses, "and")), flush=True)  # noqa: T201


def _has_terminal() -> bool:
    """True if the process has a terminal that is there."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False
