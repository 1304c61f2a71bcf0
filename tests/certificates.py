"""Certificates for tests, made in memory: authorities, and what they issue.

It knows nothing of Takhin.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, with those of its issuers behind it if there are any, and its key, in PEM."""

    certificate: bytes
    key: bytes

    def save(self, folder: Path, name: str = "broker") -> Pair:
        """Write NAME.pem and NAME.key, each put into place at once; the key is for its owner alone."""
        put(folder / f"{name}.pem", self.certificate)
        put(folder / f"{name}.key", self.key)
        return self


def put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a file beside its place, then rename it, as whoever renews certificates should."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(mode)
    beside.replace(path)
    return path


class Authority:
    """A certificate authority. `pem` is its certificate, to be trusted by others.

    parent: who signed it; None: itself.
    """

    def __init__(self, name: str = "Takhin tests", *, parent: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._parent = parent
        above = parent or self
        self.certificate = _signed(
            _builder(self._name, self._key, above._name, days=3650).add_extension(
                x509.BasicConstraints(ca=True, path_length=None), critical=True
            ),
            above._key,
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def chain(self) -> bytes:
        """What goes behind a certificate that it has issued: nothing if everybody trusts it by itself."""
        return b"" if self._parent is None else self.pem + self._parent.chain

    def issue(
        self,
        name: str = "localhost",
        *,
        names: Sequence[str] = LOCAL_NAMES,
        days: float = 90,
        begins_in_days: float = -1,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        usages: Sequence[x509.ObjectIdentifier] = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
    ) -> Pair:
        """A certificate of this common name, and its key.

        names: host names, addresses and URIs (spiffe://…) it is valid for. days: from now until it expires,
        which may be negative. begins_in_days: when it begins to be valid.
        key: its key; None makes one on the curve P-256.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), key, self._name, days=days, begins_in_days=begins_in_days)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([*map(_alternative, names)]), critical=False
            )
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = _signed(builder, self._key)
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM) + self.chain,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def encrypted(key: bytes, passphrase: bytes = b"a passphrase") -> bytes:
    """The same key, to be opened with a passphrase."""
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _alternative(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: x509.Name,
    *,
    days: float,
    begins_in_days: float = -1,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    expires = now + days * DAY
    begins = min(now + begins_in_days * DAY, expires - DAY)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(os.urandom(8)) | 1)
        .not_valid_before(begins)
        .not_valid_after(expires)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())
