"""Compressed bytes on the wire: made small, and made large again within a bound and in steps.

Records may travel as one frame of zstd (RFC 8878), whole messages in gRPC's own gzip and deflate (RFC 1950 to
1952). Whoever decompresses says how large the result may be. It never becomes larger, whatever the bytes say
of themselves, and others have their turn after each step: a step takes in little and gives out little.
"""

from __future__ import annotations

import sys
import zlib
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Protocol

from takhin.turns import others_turn

ZSTD = "zstd"
"""What a client calls the only compression of records."""
LEVEL = 1
"""Higher levels of zstd take longer and gain little: level 3 takes 1.7 times as long, and is no smaller for
JSON lines."""
SMALL_BYTES = 1 << 10
"""What is smaller than this is not compressed: it fits into one packet as it is."""
FEED_BYTES = 128 << 10
"""So much is taken in at a time. Empty blocks, of which zstd reads 150,000 in a ms, are 3 bytes."""
GIVEN_BYTES = 256 << 10
"""So much is given out at a time, which takes 0.3 to 1 ms: several requests are decompressed side by side."""
STEP_BYTES = 1 << 20
"""So much is compressed at a time, which takes 2 to 4 ms."""
WINDOW_LOG_MIN = 23
"""What a decoder of zstd has to support (RFC 8878, 3.1.1.1.2): a window of 8 MiB."""
WINDOW_LOG_MAX = 31

GZIP_MAGIC = b"\x1f\x8b\x08"
DEFLATE = 0x78
"""The first byte of what gRPC compresses by deflate, in zlib's format."""


class BadCompressionError(ValueError):
    """The bytes do not decompress, or not within the bound. Its text ends a sentence."""


class MissingLibraryError(Exception):
    """This Python has no zstd."""


@cache
def zstd() -> ModuleType:
    """The library: Python's own since 3.14, and the same code for older ones. Raises MissingLibraryError."""
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise MissingLibraryError from error


async def compressed(plain: bytes) -> bytes:
    """One frame of zstd that says how large its content is."""
    compressor = zstd().ZstdCompressor(LEVEL)
    compressor.set_pledged_input_size(len(plain))
    if len(plain) <= STEP_BYTES:
        whole: bytes = compressor.compress(plain, compressor.FLUSH_FRAME)
        return whole
    parts: list[bytes] = []
    for start in range(0, len(plain), STEP_BYTES):
        parts.append(compressor.compress(plain[start : start + STEP_BYTES], compressor.CONTINUE))
        await others_turn()
    parts.append(compressor.flush())
    return b"".join(parts)


async def decompressed(frame: bytes, bytes_max: int) -> bytes:
    """The content of one frame of zstd. Raises BadCompressionError.

    Refused are also a second frame, anything else behind the first, and a frame that needs a dictionary.
    """
    library = zstd()
    window_log = min(max(WINDOW_LOG_MIN, bytes_max.bit_length()), WINDOW_LOG_MAX)
    options = {library.DecompressionParameter.window_log_max: window_log}
    try:
        return await _content(library.ZstdDecompressor(options=options), frame, bytes_max)
    except library.ZstdError as error:
        raise BadCompressionError(f"are no frame of zstd that can be read here: {error}") from error


def is_deflated(message: bytes) -> bool:
    """True for a message in gzip or deflate. No message of ours begins like that.

    A first byte of 0x1f would be of wire type 7, which does not exist, and 0x78 of field 15. Where a message
    has that and no field before it, a check sum decides, see `inflated`.
    """
    if not message:
        return False
    return message.startswith(GZIP_MAGIC) or (
        message[0] == DEFLATE and int.from_bytes(message[:2], "big") % 31 == 0
    )


async def inflated(message: bytes, bytes_max: int) -> bytes:
    """The message that was compressed by gzip or deflate. Raises BadCompressionError.

    One that only begins like deflate is returned as it is.
    """
    try:
        return await _content(_Inflater(), message, bytes_max)
    except zlib.error as error:
        if message[0] == DEFLATE:
            return message
        raise BadCompressionError(f"are no gzip: {error}") from error


class _Steps(Protocol):
    """A decompressor that is fed and emptied step by step, as that of zstd is."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflater:
    """A decompressor of zlib in the manner of zstd's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip's head and zlib's are both known

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


async def _content(steps: _Steps, data: bytes, bytes_max: int) -> bytes:
    """The content of `data`. Raises BadCompressionError, and what the library raises for wrong bytes."""
    parts: list[bytes] = []
    size = at = 0
    while not steps.eof:
        feed = data[at : at + FEED_BYTES] if steps.needs_input else b""
        at += len(feed)
        part = steps.decompress(feed, min(GIVEN_BYTES, bytes_max + 1 - size))
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise BadCompressionError(f"are more than {bytes_max} bytes when decompressed")
        if steps.eof:
            break
        if not part and not feed and steps.needs_input:
            raise BadCompressionError("end too early")
        await others_turn()
    if steps.unused_data or at < len(data):
        raise BadCompressionError("go on behind the end of what was compressed")
    return parts[0] if len(parts) == 1 else b"".join(parts)
