"""What a client needs for TLS: certificates as values, or as files that are read again when they change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from takhin.errors import InvalidArgumentError

logger = logging.getLogger("takhin.client")

FILE_BYTES_MAX = 1 << 20
"""Bytes of one file. All authorities that browsers trust take a quarter of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates in PEM. root_certificates: whom to trust; None: what gRPC trusts by default.

    certificate_chain, private_key: the client's own, where the broker asks for them.
    """

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Files of certificates in PEM. When one changes, the client makes new connections for new calls.

    ca: whom to trust; None: what gRPC trusts by default. certificate, key: the client's own.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(given))  # equal files are equal values

    def read(self) -> Tls:
        """What is in the files now. Raises InvalidArgumentError if they cannot be used."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgumentError(
                "a certificate and its key are given together, or neither is", field="tls"
            )
        ca = self._content(self.ca)
        if ca is not None:
            self._check(ca)
        if self.certificate is not None and self.key is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:  # with a password of its own, because OpenSSL would ask on the terminal
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:  # ssl.SSLError is one
                said = getattr(error, "reason", None) or error.strerror
                what = "is not the key of" if said == "KEY_VALUES_MISMATCH" else "cannot be used with"
                raise InvalidArgumentError(
                    f"the key {str(self.key)!r} {what} the certificate {str(self.certificate)!r} ({said})",
                    field="tls",
                ) from error
        return Tls(
            root_certificates=ca,
            certificate_chain=self._content(self.certificate),
            private_key=self._content(self.key),
        )

    def stamps(self) -> tuple[tuple[int, ...], ...]:
        """How the files are known: when one has changed, so has this."""
        return tuple(_stamp(path) for path in (self.ca, self.certificate, self.key) if path is not None)

    def _content(self, path: Path | str | None) -> bytes | None:
        if path is None:
            return None
        try:
            with Path(path).open("rb") as file:
                return file.read(FILE_BYTES_MAX)
        except OSError as error:
            raise InvalidArgumentError(f"cannot read {str(path)!r}: {error.strerror}", field="tls") from error

    def _check(self, ca: bytes) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=ca.decode("ascii", "replace")
            )
        except ssl.SSLError as error:
            raise InvalidArgumentError(f"{str(self.ca)!r} has no certificate in PEM", field="tls") from error


def _stamp(path: Path | str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Credentials:
    """The credentials of new channels, which follow the files that they come from."""

    def __init__(self, tls: Tls | TlsFiles | grpc.ChannelCredentials | None) -> None:
        """Raises InvalidArgumentError for files that cannot be used."""
        self._files = tls if isinstance(tls, TlsFiles) else None
        self._stamps = () if self._files is None else self._files.stamps()
        self._tls = tls.read() if isinstance(tls, TlsFiles) else tls

    @property
    def tls(self) -> Tls | grpc.ChannelCredentials | None:
        """What they are now; None for plain traffic."""
        return self._tls

    def renew(self) -> bool:
        """Read the files again if they have changed. True if there is something new in them.

        Files that cannot be used change nothing, and are told in the log, once.
        """
        if self._files is None or (stamps := self._files.stamps()) == self._stamps:
            return False
        self._stamps = stamps
        try:
            tls = self._files.read()
        except InvalidArgumentError as error:
            logger.warning("the former certificates stay in use: %s", error)
            return False
        changed, self._tls = tls != self._tls, tls
        return changed

    def channel(self, target: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
        """A channel with what they are now."""
        if self._tls is None:
            return grpc.aio.insecure_channel(target, options)
        if isinstance(self._tls, Tls):
            return grpc.aio.secure_channel(target, _grpc_credentials(self._tls), options)
        return grpc.aio.secure_channel(target, self._tls, options)


def _grpc_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
