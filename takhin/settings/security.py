"""Settings of where a broker listens, and of the certificates that it shows and asks for."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from takhin.settings.fields import setting, split_address

PLAIN, TLS, MTLS, UNIX = "plain", "tls", "mtls", "unix"
"""What a listener does: TCP without encryption, with it, with certificates of clients, too; a socket file."""

SOCKET_PATH_BYTES_MAX = 107
"""Bytes of the path of a Unix socket (unix(7): sun_path, with a zero at its end)."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address of the setting `listen`, or of a client's broker.

    host: without brackets; "" for a socket file. port: 0 for a free one, or a socket file.
    path: of a socket file; "" for the others.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def encrypted(self) -> bool:
        return self.kind in (TLS, MTLS)

    @property
    def local(self) -> bool:
        """True if only this machine can reach it."""
        return self.kind == UNIX or is_loopback(self.host)

    @property
    def target(self) -> str:
        """The same without what comes before HOST:PORT, as gRPC takes it."""
        if self.kind == UNIX:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.kind}://{self.target}" if self.encrypted else self.target


def listen_address(text: str) -> ListenAddress:
    """The address that HOST:PORT, tls://HOST:PORT, mtls://HOST:PORT or unix:PATH stands for.

    Raises ValueError with the rest of the sentence "the address must be …".
    """
    scheme, colon, rest = text.partition(":")
    if scheme == UNIX and colon and not rest.isdecimal():
        return ListenAddress(UNIX, path=_socket_path(rest))
    if scheme in (TLS, MTLS) and rest.startswith("//"):
        return ListenAddress(scheme, *split_address(rest.removeprefix("//")))
    if "://" in text:
        raise ValueError("HOST:PORT, tls://HOST:PORT, mtls://HOST:PORT or unix:PATH")
    try:
        return ListenAddress(PLAIN, *split_address(text))
    except ValueError as error:
        raise ValueError(f"{error}, or tls://HOST:PORT, mtls://HOST:PORT or unix:PATH") from None


def main_address(addresses: Sequence[ListenAddress]) -> ListenAddress:
    """The first address that has a port, or the first one if none has."""
    return next((each for each in addresses if each.kind != UNIX), addresses[0])


def _socket_path(path: str) -> str:
    path = f"/{path.lstrip('/')}" if path.startswith("//") else path  # unix:///run/x, as gRPC has it, too
    if not path or path.endswith("/"):
        raise ValueError("unix:PATH with the path of a socket file")
    if len(path.encode()) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"unix:PATH with a path of at most {SOCKET_PATH_BYTES_MAX} bytes")
    return path


def is_loopback(host: str) -> bool:
    """True if a host is certain to be this machine alone: localhost, or an address of its loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates, in PEM. They are read again when a file changes."""

    certificate_file: Path | None = setting(  # noqa: RUF009  makes a field
        None, "the broker's certificate, followed by those of its issuers up to, not including, a known one"
    )
    key_file: Path | None = setting(  # noqa: RUF009  makes a field
        None, "the key of that certificate, without a passphrase"
    )
    client_ca_file: Path | None = setting(  # noqa: RUF009  makes a field
        None, "certificates of the authorities whose clients may connect to mtls:// addresses"
    )
    look_ms: int = setting(
        2_000,
        "how long until it is looked again whether one of these files has changed",
        least=10,
        most=10_000,
    )
    expiry_warning_days: int = setting(
        14, "days before a certificate expires from which on the broker warns, in its log and in HealthCheck"
    )
