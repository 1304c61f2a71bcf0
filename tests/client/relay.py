"""A TCP relay between clients and a broker, which can hold back what either side says."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Self


class Relay:
    """Forwards bytes in both directions; hangs up on a client if the broker cannot be reached.

    server: the broker's HOST:PORT. address: the relay's own, once it is entered.
    asked_bytes, answered_bytes: what clients and the broker have said.
    tls: what the relay speaks to clients; it speaks plain text to the broker.
    """

    def __init__(self, server: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked_bytes = self.answered_bytes = 0
        self._tls = tls
        self._host, _, self._port = server.rpartition(":")
        self._answers = asyncio.Event()
        self._answers.set()
        self._requests = asyncio.Event()
        self._requests.set()
        self._request_held = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.address = "{}:{}".format(*self._listener.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listener.close()
        self.cut()

    def hold_answers(self) -> None:
        """Hold back everything that the broker says from now on."""
        self._answers.clear()

    def hold_requests(self) -> None:
        """Hold back everything that clients say from now on."""
        self._request_held.clear()
        self._requests.clear()

    async def holds_requests(self) -> None:
        """Return when something that a client says is being held back."""
        await self._request_held.wait()

    def cut(self) -> None:
        """Hang up on all clients and drop what was held; later connections are forwarded as before."""
        for connection in self._connections:
            connection.cancel()
        self._answers.set()
        self._requests.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(self._host, self._port)
        asking = asyncio.create_task(self._ask(reader, to_broker))
        answering = asyncio.create_task(self._answer(from_broker, writer))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            answering.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            to_broker.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.asked_bytes += len(data)
            if not self._requests.is_set():
                self._request_held.set()
            await self._pass_on(data, writer, self._requests)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.answered_bytes += len(data)
            await self._pass_on(data, writer, self._answers)

    @staticmethod
    async def _pass_on(data: bytes, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        await passing.wait()
        writer.write(data)
        await writer.drain()
