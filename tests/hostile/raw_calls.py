"""Many calls at once on one connection, in frames written by hand: several times as fast as a client library.

It says that it keeps no table of headers, so the server writes each header out, and it never keeps the server
waiting for windows.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from hostile import frames

AT_ONCE = 64
ANSWERS_MAX = 20
"""A call with more is cancelled."""
CALL_S_MAX = 0.25
"""As is one that takes longer: a tail, which a request happens to begin, goes on until then."""
FRAME_BYTES_MAX = 16_384
WINDOW_BYTES = (1 << 31) - 1
FIRST_WINDOW_BYTES = (1 << 16) - 1
READ_BYTES = 1 << 20
STATUS = re.compile(rb"\x0bgrpc-status[\x01\x02]([0-9]{1,2})")
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
HELLO = (
    frames.PREFACE
    + frames.frame(
        frames.SETTINGS,
        payload=b"\x00\x01" + bytes(4) + b"\x00\x04" + WINDOW_BYTES.to_bytes(4, "big"),
    )
    + frames.frame(frames.WINDOW_UPDATE, payload=(WINDOW_BYTES - FIRST_WINDOW_BYTES).to_bytes(4, "big"))
)
"""No table of headers, and windows as wide as they may be."""


@dataclass(slots=True)
class Open:
    """A call that has not ended. status: what its last headers said."""

    began: float = field(default_factory=time.monotonic)
    answers: int = 0
    status: str = ""


class RawCalls:
    """Makes calls, AT_ONCE at a time, and counts how they end."""

    def __init__(self, address: str) -> None:
        self.outcomes: Counter[str] = Counter()
        """By status; RESET n for one that the server has reset, LOST for one whose connection went."""
        self._address = address
        self._connect()

    def _connect(self) -> None:
        self._socket = frames.connect(self._address, HELLO)
        self._streams = frames.streams()
        self._open: dict[int, Open] = {}  # the oldest first
        self._received = b""
        self._unsaid = 0  # bytes that were received since the last WINDOW_UPDATE
        self._window = FIRST_WINDOW_BYTES
        self._out = bytearray()

    def make(self, calls: Iterator[tuple[str, list[bytes]]]) -> None:
        """Make all these calls: a path, and messages. Returns when each has ended."""
        later = next(calls, None)
        while later is not None or self._open:
            while later is not None and len(self._open) < AT_ONCE and self._begin(*later):
                later = next(calls, None)
            try:
                self._socket.sendall(self._out)
                self._out.clear()
                self._read()
            except ConnectionError:
                self._lost()
            self._cancel_old()

    def close(self) -> None:
        self._socket.close()

    def _begin(self, path: str, messages: list[bytes]) -> bool:
        """Write a call if there is a window for it."""
        body = b"".join(map(frames.message, messages))
        if len(body) > self._window:
            return False
        self._window -= len(body)
        stream = next(self._streams)
        self._open[stream] = Open()
        block = frames.headers(path)
        self._out += frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)
        for at in range(0, len(body), FRAME_BYTES_MAX):
            self._out += frames.frame(frames.DATA, stream=stream, payload=body[at : at + FRAME_BYTES_MAX])
        self._out += frames.frame(frames.DATA, flags=frames.END_STREAM, stream=stream)
        return True

    def _read(self) -> None:
        self._socket.settimeout(CALL_S_MAX / 5)
        try:
            piece = self._socket.recv(READ_BYTES)
        except TimeoutError:
            return
        if not piece:
            raise ConnectionResetError
        received, at = self._received + piece, 0
        while len(received) - at >= 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if len(received) - at < 9 + size:
                break
            stream = int.from_bytes(received[at + 5 : at + 9], "big") & 0x7FFFFFFF
            payload = received[at + 9 : at + 9 + size]
            self._take(received[at + 3], received[at + 4], stream, payload)
            at += 9 + size
        self._received = received[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
            answer = b"" if kind == frames.SETTINGS else payload
            self._out += frames.frame(kind, flags=frames.ACK, payload=answer)
        elif kind == frames.WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            raise ConnectionResetError
        elif kind == frames.DATA:
            self._give_window(len(payload))
        if stream in self._open:
            self._hear(stream, self._open[stream], kind, payload, ended=bool(flags & frames.END_STREAM))

    def _give_window(self, size_bytes: int) -> None:
        """Let the server send on, now and then."""
        self._unsaid += size_bytes
        if self._unsaid > READ_BYTES:
            self._out += frames.frame(frames.WINDOW_UPDATE, payload=self._unsaid.to_bytes(4, "big"))
            self._unsaid = 0

    def _hear(self, stream: int, call: Open, kind: int, payload: bytes, *, ended: bool) -> None:
        if kind == frames.HEADERS and (found := STATUS.search(payload)) is not None:
            call.status = NAMES[int(found[1])]
        elif kind == frames.RST_STREAM:
            call.status = call.status or f"RESET {int.from_bytes(payload, 'big')}"
        call.answers += kind == frames.DATA
        if kind == frames.RST_STREAM or (kind in (frames.HEADERS, frames.DATA) and ended):
            self._end(stream, call.status)
        elif call.answers > ANSWERS_MAX:
            self._cancel(stream)

    def _end(self, stream: int, status: str) -> None:
        del self._open[stream]
        self.outcomes[status] += 1

    def _cancel(self, stream: int) -> None:
        self._out += frames.frame(frames.RST_STREAM, stream=stream, payload=frames.CANCEL)
        self._end(stream, "CANCELLED")

    def _cancel_old(self) -> None:
        began_before = time.monotonic() - CALL_S_MAX
        while self._open and self._open[oldest := next(iter(self._open))].began < began_before:
            self._cancel(oldest)

    def _lost(self) -> None:
        self.outcomes["LOST"] += len(self._open)
        self._socket.close()
        self._connect()
