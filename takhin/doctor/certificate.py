"""The certificate that a broker shows: whether it could be used now, for how long, and for which names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

from cryptography import x509

from takhin.disk.access import UMASKS
from takhin.doctor.findings import Finding, Level
from takhin.rpc.key_pairs import KeyPair, UnfitError, read
from takhin.settings import Settings
from takhin.settings.security import MTLS, listen_address

ABOUT = "certificate"
DAY_SECONDS = 86_400


def certificate(settings: Settings) -> Iterator[Finding]:
    """Look at the files of settings.tls as a start does, if an address needs them. Raises OSError."""
    encrypted = [address for address in map(listen_address, settings.listen) if address.encrypted]
    if not encrypted:
        return
    tls = settings.tls
    needed = {"certificate_file": tls.certificate_file, "key_file": tls.key_file}
    if any(address.kind == MTLS for address in encrypted):
        needed["client_ca_file"] = tls.client_ca_file
    missing = [f"tls.{name}" for name, path in needed.items() if path is None]
    if missing:
        what = f"{encrypted[0]} needs a certificate"
        yield Finding(Level.BAD, ABOUT, what, f"set {' and '.join(missing)}")
        return
    try:
        pair = read(list(needed.values()))
    except UnfitError as error:
        yield Finding(Level.BAD, ABOUT, str(error), "no broker starts with it: docs/security.md")
        return
    yield from _fitness(pair, tls.expiry_warning_days)
    if tls.key_file is not None:
        yield from _secrecy(tls.key_file)


def _fitness(pair: KeyPair, warning_days: int) -> Iterator[Finding]:
    names = _names(pair)
    if pair.expires_at - time.time() < warning_days * DAY_SECONDS:
        do = "renew it: a running broker takes the new one by itself"
        yield Finding(Level.WARN, ABOUT, pair.expiring, do)
    elif not names:
        do = "issue one with subjectAltName: clients look at nothing else"
        yield Finding(Level.WARN, ABOUT, f"it names no host; {pair.expiring}", do)
    else:
        yield Finding(Level.OK, ABOUT, f"for {', '.join(names)}; {pair.expiring}")


def _names(pair: KeyPair) -> list[str]:
    """The hosts that the broker's certificate is for."""
    shown = x509.load_pem_x509_certificates(pair.contents[0])[0]
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _secrecy(key: Path) -> Iterator[Finding]:
    mode = S_IMODE(key.stat().st_mode)
    if mode & UMASKS["group"]:  # a group for the keys of several services is usual
        what = f"others may read or change the key {key} (mode {mode:04o})"
        yield Finding(
            Level.WARN, ABOUT, what, "chmod 0600 it, or 0640 with a group that has the broker's user"
        )
