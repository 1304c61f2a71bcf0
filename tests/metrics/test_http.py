"""The HTTP server of the metrics: what it answers, and what slow, large and broken requests cannot do."""

import asyncio
import gzip
import socket
from contextlib import ExitStack, suppress

import pytest

from metrics.support import Metrics, get, send, server
from takhin.config import load
from takhin.errors import StartupError
from takhin.turns import others_turn


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_head_is_get_without_a_body(path):
    """HEAD has the status and the headers of GET."""
    async with server() as running:
        page = await get(running.metrics.address, path)
        head = await get(running.metrics.address, path, method="HEAD")
    assert (page.status, head.status, head.body) == (200, 200, b"")
    assert head.headers["Content-Type"] == page.headers["Content-Type"]
    assert int(page.headers["Content-Length"]) == len(page.body) > 0


async def test_a_large_answer_is_compressed_if_asked_for():
    """gzip for /metrics, not for the few bytes of /healthz, and not where the client does not take it."""
    async with server() as running:
        address = running.metrics.address
        zipped = await get(address, "/metrics", Accept_Encoding="br, gzip;q=1.0")
        plain = await get(address, "/metrics")
        small = await get(address, "/healthz", Accept_Encoding="gzip")
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert Metrics(gzip.decompress(zipped.body).decode(), openmetrics=False).value("takhin_ready") == 1
    assert "Content-Encoding" not in plain.headers
    assert (small.headers.get("Content-Encoding"), small.body) == (None, b"alive\n")


async def test_a_scraper_gets_the_format_it_asks_for():
    """OpenMetrics for those who name it, as Prometheus does, and the older text for all others."""
    async with server() as running:
        ask = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        modern = await get(running.metrics.address, "/metrics", Accept=ask)
        plain = await get(running.metrics.address, "/metrics", Accept="*/*")
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.body.endswith(b"# EOF\n")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in plain.body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\x00 \r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n:\r\nx\r\n\xff: \xff\r\n\r\n", 200),
        (b"GET /healthz?x=1 HTTP/1.0\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000, 431),
    ],
)
async def test_each_request_gets_one_answer(request_bytes, status):
    """Whatever is asked, there is one answer with a status, and then the connection is closed."""
    async with server() as running:
        answer = await send(running.metrics.address, request_bytes)
        assert answer.split()[1] == str(status).encode()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert (await get(running.metrics.address, "/healthz")).status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n"])
async def test_slow_clients_are_let_go(sent):
    """One that does not end its request, and one that does not read its answer, lose their connections."""
    async with server(metrics__request_ms_max=200) as running:
        host, _, port = running.metrics.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(sent)
        async with asyncio.timeout(10):
            connections = running.metrics._http._connections
            while not connections:
                await others_turn()
            await asyncio.wait(list(connections))
        writer.close()


async def test_slow_clients_make_room():
    """Beyond metrics.connections_max the oldest connection is closed: silent clients keep nobody out."""
    async with server(metrics__connections_max=2, metrics__request_ms_max=60_000) as running:
        host, _, port = running.metrics.address.rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        async with asyncio.timeout(10):
            assert (await get(running.metrics.address, "/healthz")).status == 200
            assert len(running.metrics._http._connections) <= 2
            for reader, _ in held[:4]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        for _, writer in held:
            writer.close()


async def test_clients_that_come_all_at_once():
    """Each beyond metrics.connections_max makes another one go, and none of them is an error in the log."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with server(metrics__connections_max=2, metrics__request_ms_max=60_000) as running:
        host, _, port = running.metrics.address.rpartition(":")
        with ExitStack() as held:
            for _ in range(50):  # the broker has no turn meanwhile
                held.enter_context(socket.create_connection((host, int(port))))
            async with asyncio.timeout(10):
                assert (await get(running.metrics.address, "/healthz")).status == 200
            assert len(running.metrics._http._connections) <= 2
    assert not errors


async def test_a_stop_waits_for_no_client():
    """A client that holds a connection open does not hold up the end of the broker."""
    async with server(metrics__request_ms_max=60_000) as running:
        host, _, port = running.metrics.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics")
        await writer.drain()
        async with asyncio.timeout(10):
            await running.stop()
        writer.close()


async def test_an_address_in_use_stops_the_start():
    """The broker says which setting is at fault, and leaves nothing open."""
    async with server() as running:
        with pytest.raises(StartupError, match=r"\(metrics\.listen\): another process listens there"):
            async with server(metrics__listen=running.metrics.address):
                pass


@pytest.mark.parametrize("address", ["9100", "localhost:", "127.0.0.1:70000", "unix:9"])
def test_a_bad_address_is_refused_by_name(address):
    """metrics.listen is HOST:PORT, or empty."""
    with pytest.raises(StartupError, match=r"metrics\.listen"):
        load({"metrics.listen": address}, environ={}, file=None)
