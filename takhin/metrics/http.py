"""A small HTTP/1.1 server for GET: one request for each connection, all of it bounded.

Who watches a broker asks a few times a minute and reads what comes. So a connection is closed after its
answer, and there is neither a body to read nor a next request to wait for. What a slow client can hold is one
of a few connections, for a few seconds, or until others need it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import structlog

from takhin.errors import StartupError
from takhin.listening import trouble
from takhin.settings import split_address

logger = structlog.get_logger()

HEAD_BYTES_MAX = 16 << 10
"""Bytes of a request's line and headers together: more than any client of ours sends. Not a setting."""
END = b"\r\n\r\n"
GZIP_BYTES_MIN = 2_048
GZIP_LEVEL = 3
"""Eight times smaller than the text, in a fifth of the time that the usual level takes."""
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """A request for a page. headers: by their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """What a page answers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT


Page = Callable[[Request], Awaitable[Response]]


class RefusedRequestError(Exception):
    """The request gets this status instead of a page."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class HttpServer:
    """Serves some pages at one address. Life: `start`, serve, `stop`.

    listen: HOST:PORT. seconds_max: for a request to arrive, and again for its answer to be read.
    """

    address: str
    """HOST:PORT with the port taken, once started."""

    def __init__(
        self, pages: Mapping[str, Page], listen: str, *, connections_max: int, seconds_max: float
    ) -> None:
        self._pages = pages
        self._listen = listen
        self._connections_max = connections_max
        self._seconds_max = seconds_max
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first

    async def start(self) -> None:
        """Bind and serve. Raises StartupError."""
        host, port = split_address(self._listen)
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            why = trouble(host, port) or error.strerror
            raise StartupError(f"cannot listen on {self._listen} (metrics.listen): {why}") from error
        taken = self._server.sockets[0].getsockname()[1]
        self.address = f"{self._listen.rpartition(':')[0]}:{taken}"

    async def stop(self) -> None:
        """Close the listener and all connections."""
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        if len(self._connections) >= self._connections_max:  # whoever is slow makes room for the next one
            oldest = next(iter(self._connections))
            del self._connections[oldest]  # others may come before it has ended, and need another's room
            oldest.cancel()
        self._connections[task] = None
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            logger.debug("metrics_client_gone", error=repr(error))
        except asyncio.CancelledError:  # the task ends here anyway; asyncio would log it as an error
            logger.debug("metrics_client_closed")
        finally:
            self._connections.pop(task, None)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, write its answer, and see that it was read."""
        method = "GET"
        try:
            async with asyncio.timeout(self._seconds_max):
                request = await _request(reader)
            method = request.method
            response = await self._page(request)
            headers, body = await _encoded(request, response)
        except RefusedRequestError as refused:
            response = Response(f"{refused.status.phrase}\n".encode(), refused.status)
            headers, body = {}, response.body
        writer.write(_head(response, headers, len(body)) + (b"" if method == "HEAD" else body))
        writer.transport.set_write_buffer_limits(0)
        async with asyncio.timeout(self._seconds_max):
            await writer.drain()
            writer.write_eof()
            await reader.read(1)  # until the client has closed: an early close could cut the answer off

    async def _page(self, request: Request) -> Response:
        page = self._pages.get(request.path)
        if page is None:
            raise RefusedRequestError(HTTPStatus.NOT_FOUND)
        if request.method not in {"GET", "HEAD"}:
            raise RefusedRequestError(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return await page(request)
        except Exception:  # whoever watches has to see that something is wrong, and so has the log
            logger.exception("metrics_page_failed", path=request.path)
            raise RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR) from None


async def _request(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises RefusedRequestError, and EOFError if there is none."""
    try:
        head = await reader.readuntil(END)
    except asyncio.LimitOverrunError:
        raise RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    line, *fields = head.removesuffix(END).decode("latin-1").split("\r\n")
    match line.split(" "):
        case [method, target, version] if version.startswith("HTTP/1."):
            pairs = (field.partition(":") for field in fields)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            return Request(method, target.partition("?")[0], headers)
    raise RefusedRequestError(HTTPStatus.BAD_REQUEST)


async def _encoded(request: Request, response: Response) -> tuple[dict[str, str], bytes]:
    """The body as it is sent, and the headers that say how: compressed if it is worth it and asked for."""
    accepted = request.headers.get("accept-encoding", "").split(",")
    names = {each.partition(";")[0].strip() for each in accepted}
    if "gzip" not in names or len(response.body) < GZIP_BYTES_MIN:
        return {}, response.body
    body = await asyncio.to_thread(gzip.compress, response.body, GZIP_LEVEL)
    return {"Content-Encoding": "gzip"}, body


def _head(response: Response, headers: Mapping[str, str], body_bytes: int) -> bytes:
    lines = {
        "Content-Type": response.content_type,
        "Content-Length": str(body_bytes),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept, Accept-Encoding",
        **({"Allow": "GET, HEAD"} if response.status is HTTPStatus.METHOD_NOT_ALLOWED else {}),
        **headers,
        "Connection": "close",
    }
    first = f"HTTP/1.1 {response.status.value} {response.status.phrase}"
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode()
