"""Keys go where Kafka's Java client sends them."""

import random

import pytest

from takhin import partitioner
from takhin.partitioner import partition_for_key, positive_hash


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", 1173551340),
        (b"foobar", 1357151166),
        (b"abc", 479470107),
        (b"", 275646681),
        (b"a-little-bit-long-string", 1161502112),
        (b"user-1", 1404122828),
        (b"\x00\xff", 1957035553),
    ],
)
def test_hash_is_that_of_kafka(key, expected):
    """The hash has the published values of Utils.toPositive(Utils.murmur2(key))."""
    assert positive_hash(key) == expected


def test_partition_is_the_hash_modulo_the_count():
    """A key's partition is its positive hash modulo the number of partitions."""
    assert [partition_for_key(b"foobar", n) for n in (1, 2, 7)] == [0, 1357151166 % 2, 1357151166 % 7]


def plainly(key):
    """Utils.murmur2 and toPositive, line by line, without what makes ours quick."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little")
        k = k * m & mask
        k ^= k >> 24
        k = k * m & mask
        h = h * m & mask
        h ^= k
    for at in reversed(range(whole, len(key))):
        h ^= key[at] << 8 * (at - whole)
    if whole < len(key):
        h = h * m & mask
    h ^= h >> 13
    h = h * m & mask
    h ^= h >> 15
    return h & 0x7FFFFFFF


def test_hash_of_keys_of_every_length():
    """Keys of 0 to 300 bytes, of any content, have the hash of the plain algorithm, also when asked again."""
    source = random.Random(2)
    keys = [source.randbytes(size) for size in range(300)] + [bytes([255]) * size for size in range(80)]
    for _ in range(2):
        assert [positive_hash(key) for key in keys] == [plainly(key) for key in keys]


def test_hashes_that_are_kept_take_bounded_memory(monkeypatch):
    """Only so many hashes are kept, none of a long key, and the answer does not depend on it."""
    monkeypatch.setattr(partitioner, "KEPT_MAX", 10)
    partitioner._hashes.clear()
    keys = [b"%d" % number for number in range(1_000)]
    for key in (*keys, *keys):
        assert positive_hash(key) == plainly(key)
        assert len(partitioner._hashes) <= 10
    long = bytes(partitioner.KEPT_KEY_BYTES_MAX + 1)
    assert positive_hash(long) == plainly(long)
    assert long not in partitioner._hashes
    assert long[1:] not in partitioner._hashes
    positive_hash(long[1:])
    assert long[1:] in partitioner._hashes
