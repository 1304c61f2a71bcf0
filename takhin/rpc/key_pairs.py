"""What the files of certificates hold, and what makes it fit for use.

gRPC itself tells none of this: with a pair that it cannot use, it ends each handshake without a word.
"""

from __future__ import annotations

import datetime as dt
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

Stamps = tuple[tuple[int, ...], ...]
"""How each file is known: another content has another stamp. Empty for one that cannot be seen."""

FILE_BYTES_MAX = 1 << 20
"""Bytes of one file. All authorities that browsers trust take a quarter of it."""
CURVES = (ec.SECP256R1, ec.SECP384R1)
"""The curves whose signatures gRPC offers in handshakes. With others, and Ed25519, it ends each one."""
SERVER_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


class UnfitError(ValueError):
    """A file cannot be used. The text is a sentence that names it."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its key, and the authorities of clients if they are asked for, ready for gRPC.

    expires_at: when the first of them expires, in seconds since 1970. expiring: that in a sentence.
    """

    contents: tuple[bytes, ...]
    stamps: Stamps
    configuration: Any
    expires_at: float
    expiring: str

    @property
    def expiry(self) -> str:
        return _utc(dt.datetime.fromtimestamp(self.expires_at, dt.UTC))


def look(paths: Sequence[Path | None]) -> Stamps:
    """The stamps of these files."""
    return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(paths: Sequence[Path | None]) -> KeyPair:
    """Read and check a certificate, its key, and the authorities of clients if a third path names them.

    Raises UnfitError.
    """
    files = [path for path in paths if path is not None]
    stamps = look(files)
    contents = tuple(map(_content, files))
    if look(files) != stamps:
        raise UnfitError(f"{files[0]} is being changed")
    now = dt.datetime.now(dt.UTC)
    chain = _certificates(files[0], contents[0])
    _check_chain(files[0], chain, now)
    _check_key(files[1], contents[1], chain[0])
    ends = [(certificate.not_valid_after_utc, files[0], certificate) for certificate in chain]
    for path, content in zip(files[2:], contents[2:], strict=True):
        authorities = [each for each in _certificates(path, content) if each.not_valid_after_utc > now]
        if not authorities:
            raise UnfitError(f"all certificates in {path} have expired")
        ends += [(certificate.not_valid_after_utc, path, certificate) for certificate in authorities]
    end, path, certificate = min(ends, key=lambda each: each[0])
    make: Any = grpc.ssl_server_certificate_configuration
    configuration = make([(contents[1], contents[0])], contents[2] if len(contents) > 2 else None)
    sentence = f"the certificate of {_name(certificate)} in {path} expires on {_utc(end)}"
    return KeyPair(contents, stamps, configuration, end.timestamp(), sentence)


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for its writer
            raise UnfitError(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UnfitError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise UnfitError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return content


def _certificates(path: Path, pem: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnfitError(f"{path} has no certificate in PEM that can be read ({_said(error)})") from error


def _check_chain(path: Path, chain: Sequence[x509.Certificate], now: dt.datetime) -> None:
    """Raise UnfitError unless all are valid now, each is signed by the next, and the first is for servers."""
    for certificate in chain:
        what = f"the certificate of {_name(certificate)} in {path}"
        if certificate.not_valid_after_utc <= now:
            raise UnfitError(f"{what} has expired on {_utc(certificate.not_valid_after_utc)}; renew it")
        if certificate.not_valid_before_utc > now:
            begins = _utc(certificate.not_valid_before_utc)
            raise UnfitError(f"{what} is not valid before {begins}, and here it is {_utc(now)}")
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise UnfitError(
                f"{path} is no chain: the certificate of {_name(certificate)} is not signed by the one "
                f"behind it, of {_name(issuer)}"
            ) from error
    if not _usages(chain[0]) & SERVER_USAGES:
        raise UnfitError(f"the certificate of {_name(chain[0])} in {path} is not for servers")


def _usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    """What a certificate may be used for."""
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, ValueError):  # it says nothing, or nothing that can be read
        return {ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def _check_key(path: Path, pem: bytes, certificate: x509.Certificate) -> None:
    """Raise UnfitError unless `pem` is the certificate's key, of a sort that gRPC takes."""
    try:
        public = serialization.load_pem_private_key(pem, None).public_key()
    except TypeError as error:
        raise UnfitError(f"the key in {path} has a passphrase; give one without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnfitError(f"{path} has no key in PEM that can be read ({_said(error)})") from error
    sort = type(public.curve) if isinstance(public, ec.EllipticCurvePublicKey) else None
    if not isinstance(public, rsa.RSAPublicKey) and sort not in CURVES:
        raise UnfitError(f"the key in {path} is of a sort that gRPC does not take; give RSA, P-256 or P-384")
    if public != certificate.public_key():
        raise UnfitError(f"the key in {path} does not belong to the certificate of {_name(certificate)}")


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}")


def _utc(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _said(error: Exception) -> str:
    return str(error).partition(".")[0] or type(error).__name__
