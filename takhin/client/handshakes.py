"""Why a connection does not come about: one handshake of our own, after gRPC's has failed.

gRPC tells a client hardly more than "Socket closed". Nothing is sent here but the beginning of HTTP/2.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import inf

import grpc

from takhin.client.clock import monotonic
from takhin.client.tls import Tls
from takhin.settings.security import UNIX, ListenAddress

SECONDS_MAX = 2.0
"""How long one look may take."""
AGAIN_SECONDS = 1.0
"""How long its result is good for all who ask."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client begins with: the preface of HTTP/2, and settings that change nothing (RFC 9113, 3.4)."""
SETTINGS = 4
"""The type of the frame that a server begins with, in its fourth byte."""

# X509_V_ERR_… of OpenSSL, in x509_vfy.h.
NOT_YET_VALID, EXPIRED = 9, 10
NAMES = (62, 64)
UNKNOWN_AUTHORITIES = (2, 7, 18, 19, 20, 21)
"""7: signed by an authority that has the name of a trusted one and another key, as if made again."""
MISSING, REFUSED = "CLIENT_CERTIFICATE_MISSING", "CLIENT_CERTIFICATE_REFUSED"
CERTAIN_SECONDS = {
    "SERVER_WANTS_TLS": 0.0,
    "SERVER_IS_PLAIN": 0.0,
    "SERVER_AUTHORITY": 0.0,
    "SERVER_NAME": 0.0,
    "SERVER_CERTIFICATE": 0.0,
    "SERVER_CERTIFICATE_EXPIRED": 0.0,
    "CLIENT_UNFIT": 0.0,
    MISSING: 2.0,
    REFUSED: 2.0,
}
"""How long a fault must last before it is certain that waiting does not mend it. A broker that is about to
stop, or has too many connections, looks for a moment as if it turned the client away. Others may pass."""


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong. reason: for a program, "" where no handshake has begun. text: ends a sentence."""

    reason: str
    text: str


NO_BROKER = Fault("", "what listens there does not speak HTTP/2")


class Diagnosis:
    """Finds out what is wrong with connections to one address: one look at a time, for all who ask."""

    def __init__(self, address: ListenAddress) -> None:
        self._address = address
        self._looking: asyncio.Task[Fault | None] | None = None
        self._until = 0.0
        self._reason = ""
        self._since = 0.0  # when the first of the last looks with that reason ended

    async def fault(self, tls: Tls | grpc.ChannelCredentials | None) -> Fault | None:
        """What is wrong, or None if nothing was found. Raises nothing, and takes SECONDS_MAX at most."""
        if self._looking is None or (self._looking.done() and monotonic() >= self._until):
            self._looking = asyncio.create_task(self._look(tls))
        return await asyncio.shield(self._looking)

    def is_certain(self, fault: Fault) -> bool:
        """True if `fault`, which was found last, does not end before somebody changes a setting."""
        return monotonic() - self._since >= CERTAIN_SECONDS.get(fault.reason, inf)

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self, tls: Tls | grpc.ChannelCredentials | None) -> Fault | None:
        fault: Fault | None
        try:
            async with asyncio.timeout(SECONDS_MAX):
                fault = await self._found(tls)
        except TimeoutError:
            fault = Fault("", "it did not answer in time")
        except (OSError, UnicodeError) as error:
            fault = _unconnected(error)
        now = monotonic()
        self._until = now + AGAIN_SECONDS
        reason = "" if fault is None else fault.reason
        if reason != self._reason:
            self._reason, self._since = reason, now
        return fault

    async def _found(self, tls: Tls | grpc.ChannelCredentials | None) -> Fault | None:
        if tls is None:
            return await self._plain()
        if isinstance(tls, Tls):
            return await self._encrypted(tls)
        await self._greeted(None)  # nobody but gRPC knows what is in them
        return None

    async def _plain(self) -> Fault | None:
        """Whether a server speaks plain HTTP/2, as the client does."""
        if _is_http2(await self._greeted(None)) or self._address.kind == UNIX:
            return None
        if await self._speaks_tls():
            return Fault("SERVER_WANTS_TLS", "it takes TLS alone, and this client was not told to use it")
        return NO_BROKER

    async def _encrypted(self, tls: Tls) -> Fault | None:
        """How far a handshake gets. What the server does not like of a client shows when it is over."""
        try:
            context = await asyncio.to_thread(_context, tls)
        except (ssl.SSLError, ValueError) as error:
            return Fault("CLIENT_UNFIT", f"the certificates of this client cannot be used: {error}")
        try:
            greeting = await self._greeted(context)
        except ssl.SSLCertVerificationError as error:
            return self._distrusted(error)
        except (ssl.SSLError, ConnectionResetError) as error:
            if _is_http2(await self._greeted(None)):
                return Fault("SERVER_IS_PLAIN", "it does not take TLS, which this client was told to use")
            said = getattr(error, "reason", None) or str(error)
            return Fault("HANDSHAKE_FAILED", f"the TLS handshake failed: {said}")
        if greeting:
            return None if _is_http2(greeting) else NO_BROKER
        return await self._turned_away(tls)

    async def _turned_away(self, tls: Tls) -> Fault:
        """What a server has against a client to which it closes the connection after the handshake."""
        if tls.certificate_chain is None:
            return Fault(MISSING, "the broker asks for a certificate of the client, and this client has none")
        wrong = await asyncio.to_thread(_wrong_with_own, tls)
        why = wrong or "it is not signed by an authority that the broker trusts"
        return Fault(REFUSED, f"the broker refused the certificate of this client: {why}")

    def _distrusted(self, error: ssl.SSLCertVerificationError) -> Fault:
        if error.verify_code in NAMES:
            reason, why = "SERVER_NAME", f"it is not made out to {self._address.host}"
        elif error.verify_code in UNKNOWN_AUTHORITIES:
            reason, why = "SERVER_AUTHORITY", "it is not signed by an authority that this client trusts"
        elif error.verify_code == EXPIRED:
            reason, why = "SERVER_CERTIFICATE_EXPIRED", "it has expired"
        elif error.verify_code == NOT_YET_VALID:
            reason, why = "SERVER_CERTIFICATE_EARLY", "it is not valid yet; is this machine's clock right?"
        else:
            reason, why = "SERVER_CERTIFICATE", error.verify_message
        return Fault(reason, f"this client refused the broker's certificate: {why}")

    async def _greeted(self, context: ssl.SSLContext | None) -> bytes:
        """The first bytes of what a server says to a client of HTTP/2; b"" if it closes the connection."""
        async with self._connected(context) as (reader, writer):
            try:
                writer.write(HELLO)
                await writer.drain()
                return await reader.read(9)
            except (ConnectionResetError, BrokenPipeError):
                return b""

    async def _speaks_tls(self) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        try:
            async with self._connected(context):
                return True
        except (ssl.SSLError, ConnectionResetError):
            return False

    @asynccontextmanager
    async def _connected(self, context: ssl.SSLContext | None) -> AsyncIterator[Streams]:
        address = self._address
        if address.kind == UNIX:
            reader, writer = await asyncio.open_unix_connection(address.path)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _is_http2(greeting: bytes) -> bool:
    return len(greeting) > 3 and greeting[3] == SETTINGS


def _unconnected(error: OSError | UnicodeError) -> Fault | None:
    if isinstance(error, ConnectionRefusedError):
        return None  # nobody listens: what "no broker answers" says
    if isinstance(error, socket.gaierror | UnicodeError):  # or it cannot be a name: a label is too long
        return Fault("", "no machine has that name")
    return Fault("", error.strerror or str(error))


def _context(tls: Tls) -> ssl.SSLContext:
    """What a client of these certificates does in a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls.root_certificates is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=tls.root_certificates.decode("ascii", "replace"))
    _show_own(context, tls)
    return context


def _show_own(context: ssl.SSLContext, tls: Tls) -> None:
    if tls.certificate_chain is not None and tls.private_key is not None:
        with _as_file(tls.certificate_chain) as chain, _as_file(tls.private_key) as key:
            context.load_cert_chain(chain, key, password="")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A file that only its owner may read: Python's ssl takes a key from nowhere else."""
    if hasattr(os, "memfd_create"):  # Linux has files that are on no disk
        descriptor = os.memfd_create("pem")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name


def _wrong_with_own(tls: Tls) -> str | None:
    """What anybody would say against the client's own certificate, apart from who signed it."""
    assert tls.certificate_chain is not None  # noqa: S101  the caller has looked
    judge = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.load_verify_locations(cadata=tls.certificate_chain.decode("ascii", "replace"))
    _show_own(judge, tls)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    shown.check_hostname, shown.verify_mode = False, ssl.CERT_NONE
    _show_own(shown, tls)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [shown.wrap_bio(back, there), judge.wrap_bio(there, back, server_side=True)]
    for side in sides * 3:  # client, server, client, server: two of each are needed
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return "it has expired" if error.verify_code == EXPIRED else error.verify_message
    return None
