"""A second address for clients on loopback: their connections reach the broker from another one."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

PIECE_BYTES = 1 << 16


class Relay:
    """Forwards connections to `server`, HOST:PORT, from the address `source`; it listens at `address`."""

    def __init__(self, server: str, source: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._source = source
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.address = "{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for connection in (self._listener, *self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client = self._listener.accept()[0]
                broker = socket.create_connection(self._server, source_address=(self._source, 0))
                self._connections += (client, broker)
                for pair in ((client, broker), (broker, client)):
                    threading.Thread(target=_forward, args=pair, daemon=True).start()


def _forward(from_: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while piece := from_.recv(PIECE_BYTES):
            to.sendall(piece)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)
