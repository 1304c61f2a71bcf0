"""Clients that flood a connection with frames, or speak no HTTP/2: the broker lives, others are served."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import CALL_S_MAX, connected, eventually
from hostile import frames
from hostile.honest import Honest
from hostile.peaks import forget_peak
from takhin.v1 import takhin_pb2 as pb

CONNECTIONS = 4
SECONDS = 30.0
SECONDS_EACH = 0.3
RSS_MORE_MAX = 100 << 20
RSS_LARGE_HEADERS_MAX = 400 << 20
"""As long as a client has not acknowledged the settings gRPC takes metadata of any size from it, in as many
calls as a connection may have: 4,000 here, of some 45 KB each. No option of gRPC bounds that further."""
RSS_AFTER_MAX = 64 << 20
METHOD = "/takhin.v1.TakhinService/"
PIECE = 200
"""Frames, or so, in one write."""


def rapid_reset() -> Iterator[bytes]:
    """Calls that are cancelled as soon as they have begun (CVE-2023-44487)."""
    block = frames.headers(METHOD + "ListTopics")
    for stream in frames.streams():
        yield frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)
        yield frames.frame(frames.RST_STREAM, stream=stream, payload=frames.CANCEL)


def rapid_reset_acknowledged() -> Iterator[bytes]:
    """The same by a client that acknowledges the settings: before it does gRPC takes 1,000 calls of it."""
    yield frames.frame(frames.SETTINGS, flags=frames.ACK)
    yield from rapid_reset()


def made_you_reset() -> Iterator[bytes]:
    """Calls that the server has to reset, because of a WINDOW_UPDATE of nothing (CVE-2025-8671)."""
    block = frames.headers(METHOD + "ListTopics")
    body = frames.message(b"")
    for stream in frames.streams():
        yield frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)
        yield frames.frame(frames.DATA, flags=frames.END_STREAM, stream=stream, payload=body)
        yield frames.frame(frames.WINDOW_UPDATE, stream=stream, payload=bytes(4))


def pings() -> Iterator[bytes]:
    """Pings, each of which asks for an answer (CVE-2019-9512)."""
    while True:
        yield frames.frame(frames.PING, payload=os.urandom(8))


def settings() -> Iterator[bytes]:
    """Settings, each of which asks for an answer (CVE-2019-9515)."""
    while True:
        yield frames.frame(frames.SETTINGS)


def empty_data() -> Iterator[bytes]:
    """Frames of a call that bring nothing (CVE-2019-9518)."""
    block = frames.headers(METHOD + "ProduceMessage")
    yield frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=1, payload=block)
    while True:
        yield frames.frame(frames.DATA, stream=1)


def priorities() -> Iterator[bytes]:
    """Streams that are shuffled about (CVE-2019-9513)."""
    while True:
        yield frames.frame(frames.PRIORITY, stream=random.randrange(1, 1 << 20, 2), payload=os.urandom(5))


def unanswered_calls() -> Iterator[bytes]:
    """Calls whose answers are not read."""
    block = frames.headers(METHOD + "ListTopics")
    body = frames.message(b"")
    for stream in frames.streams():
        yield frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)
        yield frames.frame(frames.DATA, flags=frames.END_STREAM, stream=stream, payload=body)


def large_headers() -> Iterator[bytes]:
    """Calls with as many headers as fit into a frame."""
    block = frames.headers(METHOD + "ListTopics", *((f"x-{n}", "v" * 100) for n in range(140)))
    for stream in frames.streams():
        yield frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=block)


def garbage_frames() -> Iterator[bytes]:
    """Frames of random kinds, flags, streams and content."""
    while True:
        yield frames.frame(
            random.randrange(12),
            flags=random.randrange(256),
            stream=random.choice((0, 1, 3, random.randrange(1 << 31))),
            payload=os.urandom(random.randrange(300)),
        )


FLOODS = (
    rapid_reset,
    rapid_reset_acknowledged,
    made_you_reset,
    pings,
    settings,
    empty_data,
    priorities,
    unanswered_calls,
    large_headers,
    garbage_frames,
)


class Flood:
    """Connections that send a flood until the block ends; each is made again when the broker closes it."""

    def __init__(self, address: str, flood: Callable[[], Iterator[bytes]], *, hello: bool = True) -> None:
        self._address = address
        self._flood = flood
        self._hello = hello
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CONNECTIONS)]
        self.sent = [0, 0]
        """Connections and bytes."""

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(OSError):  # the broker has closed it, or does not read
                hello = (frames.connect(self._address),) if self._hello else ()
                with hello[0] if hello else frames.connect(self._address, b"") as connection:
                    connection.settimeout(0.2)
                    self.sent[0] += 1
                    self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        flood = self._flood()
        while not self._stopping.is_set():
            piece = b"".join(each for each, _ in zip(flood, range(PIECE), strict=False))
            connection.sendall(piece)
            self.sent[1] += len(piece)


def random_bytes() -> Iterator[bytes]:
    """Bytes of any kind."""
    while True:
        yield os.urandom(random.randrange(1, 5_000))


def http_1() -> Iterator[bytes]:
    """Requests of another time."""
    while True:
        yield b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


def tls_hello() -> Iterator[bytes]:
    """The hello of a client that expects TLS."""
    out = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    yield out.read()


TALKS = (random_bytes, http_1, tls_hello)


def assert_lives(broker, honest, attacks, seconds, figures, *, more_max=RSS_MORE_MAX):
    """While the attacks last an honest client is served, and memory has a bound. Returns what it was."""
    eventually(lambda: len(honest.times) >= 20)
    before = forget_peak(broker)
    sent = [0, 0]
    for attack in attacks:
        with Flood(broker.address, attack, hello=attack not in TALKS) as flood:
            time.sleep(seconds)
        sent = [sum(pair) for pair in zip(sent, flood.sent, strict=True)]
    more = resident_bytes(broker, "VmHWM") - before
    with connected(broker.address) as stub:
        assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).status == "healthy"
    assert "internal_error" not in broker.log()
    figures(
        f"{', '.join(attack.__name__ for attack in attacks)}, {seconds} s each: {sent[0]} connections, "
        f"{sent[1] >> 20} MiB, +{more >> 20} MiB; {honest.line()}"
    )
    assert more <= more_max
    return before


@pytest.mark.parametrize(
    ("floods", "more_max"),
    [
        ([flood for flood in (*FLOODS, *TALKS) if flood is not large_headers], RSS_MORE_MAX),
        ([large_headers], RSS_LARGE_HEADERS_MAX),
    ],
    ids=["all others", "large headers"],
)
def test_each_flood_for_a_moment(data_dir, figures, floods, more_max):
    """The broker lives, an honest client has no errors, and memory grows by 100 MiB at most."""
    with Broker(data_dir) as broker, Honest(broker.address) as honest:
        assert_lives(broker, honest, floods, SECONDS_EACH, figures, more_max=more_max)
    assert not honest.failures


@pytest.mark.soak
@pytest.mark.parametrize("flood", [*FLOODS, *TALKS], ids=lambda flood: flood.__name__)
def test_a_flood(data_dir, figures, flood):
    """The same for half a minute. Where calls pile up, one honest call of a hundred may be refused.

    What it took is given back, however it stayed at the end.
    """
    more_max = RSS_LARGE_HEADERS_MAX if flood is large_headers else RSS_MORE_MAX
    with Broker(data_dir) as broker, Honest(broker.address) as honest:
        before = assert_lives(broker, honest, [flood], SECONDS, figures, more_max=more_max)
        eventually(lambda: resident_bytes(broker) <= before + RSS_AFTER_MAX, seconds_max=30)
    refused_max = len(honest.times) // 100 if flood in (large_headers, unanswered_calls) else 0
    assert len(honest.failures) <= refused_max, honest.failures
