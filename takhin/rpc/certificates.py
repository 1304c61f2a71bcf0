"""The broker's certificates: read, checked, replaced while it serves, and watched for their end.

gRPC asks for them at every handshake, on a thread of its own; what it gets has been checked before.
Connections that exist keep the certificates they began with.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from takhin.broker.broker import Broker
from takhin.errors import StartupError
from takhin.settings import TlsSettings
from takhin.settings.security import MTLS, ListenAddress

if TYPE_CHECKING:  # see `_pairs`
    from takhin.rpc.key_pairs import KeyPair, Stamps

logger = structlog.get_logger()

DAY_SECONDS = 86_400.0
"""Also how long until the log tells again of what expires soon."""
FILES = ("certificate_file", "key_file", "client_ca_file")
"""The settings that name them, in the order in which they are read."""
REFUSED = "certificates_refused"
EXPIRY = "certificates_expire"
"""The names of events, and of what the broker's health has to say of them."""


class Certificates:
    """The certificates of all listeners with TLS, as a part of the server.

    Life: `start`, then `credentials` for listeners, `stop`.
    """

    def __init__(self, listen: Sequence[ListenAddress], settings: TlsSettings, broker: Broker) -> None:
        self._listen = [address for address in listen if address.encrypted]
        self._settings = settings
        self._broker = broker
        self._paths = [settings.certificate_file, settings.key_file]
        if any(address.kind == MTLS for address in self._listen):
            self._paths.append(settings.client_ca_file)
        self._current: KeyPair | None = None
        self._seen: Stamps = ()
        """How the files were at the last look, if they were unfit then."""
        self._told: Stamps = ()
        """How they were when that was told."""
        self._warned = -DAY_SECONDS
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def used(self) -> bool:
        """True if a listener shows certificates."""
        return bool(self._listen)

    @property
    def expires_at(self) -> float | None:
        """When the first of those in use expires, in seconds since 1970; None if none is in use."""
        return None if self._current is None else self._current.expires_at

    async def start(self) -> None:
        """Read the files and watch them. Raises StartupError if one is missing or unfit."""
        if not self.used:
            if self._settings.certificate_file is not None:
                logger.warning("certificate_unused", reason="no address begins with tls:// or mtls://")
            return
        for path, name in zip(self._paths, FILES, strict=False):
            if path is None:
                raise StartupError(f"{self._listen[0]} needs a certificate: set tls.{name}")
        pairs = _pairs()
        try:
            self._current = await asyncio.to_thread(pairs.read, self._paths)
        except pairs.UnfitError as error:
            raise StartupError(str(error)) from error
        self._warn()
        self._task = asyncio.create_task(self._watch())

    async def stop(self, _grace_seconds: float = 0.0) -> None:
        """Watch no longer. Raises nothing, whatever has become of the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def credentials(self, *, ask_clients: bool) -> grpc.ServerCredentials:
        """What a listener shows, now and later. ask_clients: a client, too, must show a certificate."""
        assert self._current is not None  # noqa: S101  it was read by `start`
        shown, choosing = self._current, threading.Lock()

        def renewed() -> Any:
            # Called on a thread of gRPC at every handshake. It must not raise: gRPC would only log that. It
            # must say None where nothing is new: for what it is given, gRPC frees what handshakes under way
            # may still use, and crashes once in a while (github.com/grpc/grpc/issues/36693).
            nonlocal shown
            with choosing:
                if self._current is None or self._current.contents == shown.contents:
                    return None
                shown = self._current
                return shown.configuration

        make: Any = grpc.dynamic_ssl_server_credentials
        credentials: grpc.ServerCredentials = make(shown.configuration, renewed, ask_clients)
        return credentials

    def reload(self) -> None:
        """Look at the files now, and tell again of what is unfit."""
        self._seen = self._told = ()
        self._asked.set()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.look_ms / 1_000):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._look(asked=asked)
                self._warn()
            except Exception:  # the broker serves on with what it has
                logger.exception("certificates_not_looked_at")

    async def _look(self, *, asked: bool) -> None:
        """Use the files from now on if they have changed and are fit. Tell if they are not."""
        pairs = _pairs()
        stamps = await asyncio.to_thread(pairs.look, self._paths)
        if self._current is not None and stamps == self._current.stamps and not asked:
            self._broker.concerns.pop(REFUSED, None)
            return
        if stamps == self._told:
            return
        try:
            found = await asyncio.to_thread(pairs.read, self._paths)
        except pairs.UnfitError as error:
            # A renewal replaces one file after the other, so a pair may be torn. It is told if it stays so.
            if asked or stamps == self._seen:
                self._told = stamps
                reason = f"{error}; the former certificates stay in use"
                self._broker.concerns[REFUSED] = reason
                logger.error(REFUSED, reason=reason)  # noqa: TRY400  the sentence says it all
            self._seen = stamps
            return
        renewed = self._current is None or found.contents != self._current.contents
        self._current = found
        self._seen = self._told = ()
        self._broker.concerns.pop(REFUSED, None)
        if renewed or asked:
            self._warned = -DAY_SECONDS
            logger.info("certificates_loaded", renewed=renewed, expires=found.expiry)

    def _warn(self) -> None:
        """Tell of certificates that expire soon: in health all the time, in the log once a day."""
        assert self._current is not None  # noqa: S101  it was read by `start`
        self._broker.meters.certificates["listeners"] = self._current.expires_at
        left_s = self._current.expires_at - time.time()
        if left_s > self._settings.expiry_warning_days * DAY_SECONDS:
            self._broker.concerns.pop(EXPIRY, None)
            return
        reason = f"{self._current.expiring}; renew it (the broker takes a new one without a restart)"
        self._broker.concerns[EXPIRY] = reason
        if time.monotonic() - self._warned >= DAY_SECONDS:
            self._warned = time.monotonic()
            logger.warning(EXPIRY, days=int(left_s // DAY_SECONDS), reason=reason)


def _pairs() -> ModuleType:
    """What reads certificates. A broker without TLS does not load it: its library takes 0.1 s to import."""
    from takhin.rpc import key_pairs  # noqa: PLC0415

    return key_pairs
