"""Brokers that a test starts and stops. Importing this module loads neither gRPC nor SQLite.

A broker with files runs in a process of its own, for two reasons: it can be killed, and a test that looks
into the files with Python's sqlite3 would drop the locks of a broker in the same process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from takhin.config import OPTIONS, VARIABLE_PREFIX, load
from takhin.errors import StartupError
from takhin.settings import Settings
from takhin.settings.security import listen_address, main_address

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
"""How long `start` and `stop` wait before they give up: no broker of a test is so slow, so it hangs."""

READY = re.compile(r" ready on (?P<addresses>.+), data in ")
"""Where the addresses are in the line that `takhin serve` prints for people."""

SettingValues = Mapping[str, int | str]
"""Values by the keys of the README's table: {"consume.heartbeat_ms": 100}."""


class LocalBroker(ABC):
    """A broker on a free port of 127.0.0.1. It serves inside a `with` or `async with` block."""

    address: str
    """HOST:PORT of the first address that has a port; it stays the same if the broker is started again."""
    addresses: list[str]
    """All of the setting `listen`, with the ports taken: tls://HOST:PORT, unix:PATH."""

    def __init__(self, settings: SettingValues) -> None:
        for key in settings:
            if key not in OPTIONS:
                raise ValueError(f"there is no setting {key!r}")
        self._settings: dict[str, int | str] = {"listen": "127.0.0.1:0", "shutdown_grace_ms": 1_000}
        self._settings.update(settings)

    def _serves(self, addresses: list[str]) -> None:
        """Keep the addresses, for clients and for the next start."""
        self.addresses = addresses
        self.address = main_address([*map(listen_address, addresses)]).target
        self._settings["listen"] = ",".join(addresses)

    @abstractmethod
    def start(self) -> None:
        """Return when the broker serves. Raises StartupError, RuntimeError."""

    @abstractmethod
    def stop(self) -> None:
        """End the broker as SIGTERM does: calls under way are answered, streams end with UNAVAILABLE."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class MemoryBroker(LocalBroker):
    """A broker that keeps everything in memory and forgets it when it stops.

    It runs in a thread of this process, with an event loop of its own, and starts within some milliseconds.
    """

    def __init__(self, settings: SettingValues | None = None) -> None:
        super().__init__({**(settings or {}), "storage.engine": "memory"})
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        values = load(self._settings, environ={}, file=None).settings
        started: Future[list[str]] = Future()
        thread = threading.Thread(target=self._run, args=(values, started), name="takhin broker", daemon=True)
        thread.start()
        self._serves(started.result(START_SECONDS_MAX))
        self._thread = thread

    def stop(self) -> None:
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive():
            raise RuntimeError(f"the broker at {self.address} did not stop in {STOP_SECONDS_MAX:g} s")
        self._thread = None

    def _run(self, values: Settings, started: Future[list[str]]) -> None:  # on the thread
        asyncio.run(self._serve(values, started))
        # Free what is left of the server here. In a child that the test forks later, gRPC would wait for ever
        # for a thread that exists only in the parent.
        gc.collect()

    async def _serve(self, values: Settings, started: Future[list[str]]) -> None:  # on the thread
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            from takhin.server import Server  # noqa: PLC0415  not there if the client alone is installed

            server = Server(values)
            await server.start()
        except StartupError as error:
            started.set_exception(StartupError(str(error)))  # no traceback: it refers to the server
            return
        except BaseException as error:  # noqa: BLE001  it is raised by start()
            started.set_exception(error)
            return
        started.set_result(server.addresses)
        await self._stopping.wait()
        await server.stop()


class DiskBroker(LocalBroker):
    """A broker with a data folder, in a process of its own, which can be killed and started again.

    data_dir: created if it is missing. The broker's log goes to the file of that name with ".log" appended.
    """

    def __init__(self, data_dir: Path, settings: SettingValues | None = None) -> None:
        super().__init__(settings or {})
        self.data_dir = data_dir
        self.log_path = data_dir.with_name(f"{data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = [f"{OPTIONS[key].flag}={value}" for key, value in self._settings.items()]
        environ = {key: value for key, value in os.environ.items() if not key.startswith(VARIABLE_PREFIX)}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log_file:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter on our own module
                [sys.executable, "-m", "takhin", "serve", "--data-dir", str(self.data_dir), *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=environ,
            )
        assert self._process.stdout is not None  # noqa: S101  see above
        try:
            addresses = _addresses(_line(self._process.stdout, START_SECONDS_MAX))
            if not addresses:
                raise RuntimeError(f"the broker did not start: {self.log_path.read_text()}")
        except BaseException:
            self.kill()
            raise
        self._serves(addresses)

    def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        with process:
            process.terminate()
            try:
                code = process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError(
                    f"the broker at {self.address} did not stop: see {self.log_path}"
                ) from None
        if code:
            raise RuntimeError(f"the broker ended with exit code {code}: see {self.log_path}")

    def kill(self) -> None:
        """End the broker with SIGKILL, so that it cannot clean up. What it acknowledged is in the folder."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with process:
            process.kill()

    def restart(self) -> None:
        """Stop the broker if it runs, and start it at the same address on the same folder."""
        self.stop()
        self.start()


def _addresses(ready: str) -> list[str]:
    """The addresses in the line that `takhin serve` prints: a sentence, or JSON as its log."""
    if ready.startswith("{"):
        return list(json.loads(ready)["addresses"])
    sentence = READY.search(ready)
    return re.split(", | and ", sentence["addresses"]) if sentence else []


def _line(pipe: IO[bytes], seconds_max: float) -> str:
    """The first line of a pipe, or the part of it that came before the pipe's end or the deadline."""
    deadline = time.monotonic() + seconds_max
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if (
            left <= 0
            or not select.select([pipe], [], [], left)[0]
            or not (more := os.read(pipe.fileno(), 4_096))
        ):
            break
        line += more
    return line.decode()
