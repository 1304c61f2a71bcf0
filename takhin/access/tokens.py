"""Tokens: their text, what is kept of them, and finding one. Pure.

A token is `tkn_`, 32 random bytes in base62, and a checksum by which scanners for secrets recognise one that
was published by mistake. Only the SHA-256 of the whole text is kept. With as many random bytes a plain hash
is safe: there is nothing to guess (the reason for slow hashes is passwords, which people choose).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from takhin.access.rules import check_principal
from takhin.errors import InvalidArgumentError

PREFIX = "tkn_"
RANDOM_BYTES = 32
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_CHARS, CHECKSUM_CHARS = 43, 6
"""How many characters of base62 the random bytes and the CRC-32 take; with leading zeros."""
TOKEN_CHARS = len(PREFIX) + SECRET_CHARS + CHECKSUM_CHARS
ID_BYTES = 6
NEVER = 0
"""As a time: a token that does not expire, or was not used."""
NOTE_BYTES_MAX = 1_000
"""Bytes of UTF-8. Not a setting: the interface promises it."""


class Token(NamedTuple):
    """What is kept of a token.

    token_id: by which people name it; it is no secret. principal: who has proved to be that by it.
    created_at, expires_at, last_used_at: ms since 1970, or NEVER.
    """

    token_id: str
    principal: str
    digest: bytes
    created_at: int
    expires_at: int = NEVER
    note: str = ""
    last_used_at: int = NEVER

    def has_expired(self, now: int) -> bool:
        """now: ms since 1970."""
        return self.expires_at != NEVER and self.expires_at <= now


def new_token(principal: str, *, expires_at: int, note: str, now: int) -> tuple[str, Token]:
    """A new token's text, and what is kept of it. Times are ms since 1970. Raises InvalidArgumentError."""
    check_principal(principal)
    if expires_at != NEVER and expires_at <= now:
        raise InvalidArgumentError("expires_at lies in the past", field="expires_at", value=expires_at)
    size = len(note.encode())
    if size > NOTE_BYTES_MAX:
        raise InvalidArgumentError(f"a note has at most {NOTE_BYTES_MAX} bytes, not {size}", field="note")
    text = new_text()
    return text, Token(new_id(), principal, digest_of(text), now, expires_at, note)


def new_text() -> str:
    """A new token."""
    secret = PREFIX + _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), SECRET_CHARS)
    return secret + _checksum(secret)


def new_id() -> str:
    """A new token's id."""
    return secrets.token_hex(ID_BYTES)


def digest_of(text: str) -> bytes:
    """What is kept of a token's text."""
    return hashlib.sha256(text.encode()).digest()


def is_token(text: str) -> bool:
    """True if the text has the form and the checksum of a token. There need not be one like it."""
    secret, checksum = text[:-CHECKSUM_CHARS], text[-CHECKSUM_CHARS:]
    return len(text) == TOKEN_CHARS and text.startswith(PREFIX) and checksum == _checksum(secret)


def find(tokens: Mapping[bytes, Token], text: str) -> Token | None:
    """The token of this text, among tokens by digest. How long it takes tells nothing of any token.

    It is found by its hash, which nobody can choose so that it is near another one.
    """
    digest = digest_of(text)
    found = tokens.get(digest)
    if found is None or not hmac.compare_digest(found.digest, digest):
        return None
    return found


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), CHECKSUM_CHARS)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits.rjust(width, ALPHABET[0])
