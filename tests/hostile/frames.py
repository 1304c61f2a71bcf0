"""Frames of HTTP/2, written by hand, for clients that do what no library does (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS = 0x1, 0x4
ACK = 0x1
"""Of SETTINGS and PING."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CANCEL = struct.pack(">I", 8)
CONNECT_S_MAX = 20


def frame(kind: int, *, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field that is not indexed, both of its texts shorter than 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def headers(path: str, *others: tuple[str, str]) -> bytes:
    """The header block of a call."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"))
    more = (("te", "trailers"), ("content-type", "application/grpc"), *others)
    return b"".join(literal(*field) for field in (*fields, *more))


def message(body: bytes) -> bytes:
    """One gRPC message, as it stands in DATA frames."""
    return b"\x00" + struct.pack(">I", len(body)) + body


def connect(address: str, hello: bytes = PREFACE + frame(SETTINGS)) -> socket.socket:
    """A connection to HOST:PORT that has said hello."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=CONNECT_S_MAX)
    connection.sendall(hello)
    return connection


def streams() -> Iterator[int]:
    """The numbers that a client may give its streams."""
    return iter(range(1, 1 << 31, 2))
