"""What is compressed comes out as it was, within its bound, or is refused; others have turns meanwhile."""

import asyncio
import gzip
import os
import zlib

import pytest

from takhin.wire import compression
from takhin.wire.compression import BadCompressionError, compressed, decompressed, inflated, is_deflated

LIBRARY = compression.zstd()
MIB = 1 << 20
HEAD = b"\x28\xb5\x2f\xfd\x00\x58"
"""Of a frame whose window is 2 MiB, and which does not say how large its content is."""


def block(kind, size, *, last=False, content=b""):
    """kind: 0 for bytes as they are, 1 for one byte that is repeated."""
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


def streamed(plain):
    """A frame that does not say how large it is."""
    compressor = LIBRARY.ZstdCompressor()
    return compressor.compress(plain) + compressor.flush()


async def turns_during(work):
    """How many turns of the loop others had, and the result or the error of the work."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    counting.cancel()
    return turns, outcome


@pytest.mark.parametrize("size", [0, 1, 1_000, MIB - 1, MIB, MIB + 1, 3 * MIB, 10 * MIB])
@pytest.mark.parametrize("content", [bytes, os.urandom], ids=["zeros", "random"])
async def test_zstd_there_and_back(size, content):
    """Also where the content is exactly as large as it may be."""
    plain = content(size)
    frame = await compressed(plain)
    assert LIBRARY.get_frame_info(frame).decompressed_size == size
    assert await decompressed(frame, size) == plain
    assert await decompressed(streamed(plain), size) == plain
    if size:
        for of in (frame, streamed(plain)):
            with pytest.raises(BadCompressionError, match=f"more than {size - 1} bytes"):
                await decompressed(of, size - 1)


@pytest.mark.parametrize("size", [0, 1, 100_000, MIB, 3 * MIB + 1])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_messages_of_grpc(size, pack):
    """Gzip and deflate, of any level, also where the content is exactly as large as it may be."""
    plain = (b"a line of a log, or two; " * (size // 25 + 1))[:size]
    for level in (0, 1, 9):
        message = pack(plain, level)
        assert is_deflated(message)
        assert await inflated(message, size) == plain
        if size:
            with pytest.raises(BadCompressionError, match="more than"):
                await inflated(message, size - 1)


CONTENT = b"some content, some content, some content" * 100
FRAME = LIBRARY.compress(CONTENT)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "too early"),
        (FRAME[:4], "too early"),
        (FRAME[:-1], "too early"),
        (FRAME + b"x", "behind the end"),
        (FRAME + FRAME, "behind the end"),
        (FRAME + b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "behind the end"),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + FRAME, "behind the end"),
        (b"nothing of the kind", "no frame"),
        (CONTENT, "no frame"),
        (FRAME[:10] + b"\xff\xff\xff" + FRAME[13:], "no frame"),
        (b"\x28\xb5\x2f\xfd\x00\xf8" + block(1, 100, last=True, content=b"x"), "too much memory"),
        (
            LIBRARY.compress(CONTENT, zstd_dict=LIBRARY.ZstdDict(b"some content" * 9, is_raw=True)),
            "no frame",
        ),
    ],
    ids=[
        *("nothing", "a-head", "cut", "one-byte-more", "two-frames", "skippable-behind", "skippable-before"),
        *("words", "plain", "damaged", "window-of-2-GiB", "dictionary"),
    ],
)
async def test_frames_that_are_refused(frame, reason):
    """Whatever is no single whole frame."""
    with pytest.raises(BadCompressionError, match=reason):
        await decompressed(frame, 10 * MIB)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (gzip.compress(CONTENT)[:-1], "too early"),
        (gzip.compress(CONTENT) + b"x", "behind the end"),
        (gzip.compress(CONTENT)[:-8] + bytes(8), "no gzip"),
        (b"\x1f\x8b\x08" + bytes(100), "no gzip|too early"),
    ],
    ids=["cut", "one-byte-more", "check-sum", "zeros"],
)
async def test_gzip_that_is_refused(message, reason):
    """Whatever is no single whole stream."""
    with pytest.raises(BadCompressionError, match=reason):
        await inflated(message, 10 * MIB)


@pytest.mark.parametrize("message", [b"\x78\x01" * 1_000, b"\x78\x9c" + bytes(50), b"\x78\x5e"])
async def test_a_message_that_begins_like_deflate(message):
    """It is left as it is: field 15 of a message begins like that."""
    assert is_deflated(message)
    try:
        assert await inflated(message, MIB) == message
    except BadCompressionError as error:
        assert "too early" in str(error)  # noqa: PT017  two bytes are the beginning of any


@pytest.mark.parametrize("message", [b"", b"\x0a\x01t", b"\x1f\x8b", b"\x78\x02"])
def test_messages_that_are_plain(message):
    assert not is_deflated(message)


@pytest.mark.parametrize(
    ("frame", "bytes_max", "turns_min"),
    [
        (HEAD + block(0, 0) * 3_000_000 + block(0, 0, last=True), 10 * MIB, 60),
        (HEAD + block(1, 1 << 17, content=b"x") * 8_192 + block(0, 0, last=True), 10 * MIB, 10),
        (LIBRARY.compress(bytes(1 << 28)), 10 * MIB, 10),
    ],
    ids=["nothing-in-9-MB", "1-GiB-in-40-KB", "256-MiB-in-8-KB"],
)
async def test_a_bomb_is_read_in_steps_up_to_its_bound(frame, bytes_max, turns_min):
    """It neither takes more than it may nor keeps the others from their turns."""
    turns, outcome = await turns_during(decompressed(frame, bytes_max))
    assert turns >= turns_min
    assert outcome == b"" or isinstance(outcome, BadCompressionError)


async def test_the_same_of_gzip():
    """A stream of empty blocks, and one of zeros."""
    empty = b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\0\0\0\xff\xff" * 1_000_000
    for message, turns_min in ((empty, 35), (gzip.compress(bytes(1 << 26)), 9)):
        turns, outcome = await turns_during(inflated(message, 10 * MIB))
        assert turns >= turns_min
        assert isinstance(outcome, BadCompressionError)
