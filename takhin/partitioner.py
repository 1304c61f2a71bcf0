"""Which partition a key belongs to. Kafka's Java client chooses the same one."""

from __future__ import annotations

import struct

# Constants of Kafka's murmur2. With others, a key would go to another partition.
SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
MASK32 = 0xFFFFFFFF

KEPT_MAX = 8_192
KEPT_KEY_BYTES_MAX = 64
"""The hashes of so many keys are kept, as the same keys come again; long ones would take much memory."""

_hashes: dict[bytes, int] = {}
_words = [struct.Struct(f"<{count}I").unpack_from for count in range(KEPT_KEY_BYTES_MAX // 4 + 1)]
"""Functions that read so many words of four bytes."""


def positive_hash(key: bytes) -> int:
    """The murmur2 hash of `key` without its sign bit. Any thread may ask.

    In Kafka: murmur2 and toPositive of org.apache.kafka.common.utils.Utils.
    """
    found = _hashes.get(key)
    if found is None:
        found = _murmur2(key) & 0x7FFFFFFF
        if len(key) <= KEPT_KEY_BYTES_MAX:
            if len(_hashes) >= KEPT_MAX:
                _hashes.clear()
            _hashes[key] = found
    return found


def _murmur2(key: bytes) -> int:
    length = len(key)
    h = SEED ^ length
    count = length >> 2
    for k in _words[count](key) if count < len(_words) else struct.unpack_from(f"<{count}I", key):
        k = k * MULTIPLIER & MASK32  # noqa: PLW2901  as in the original
        h = (h * MULTIPLIER ^ (k ^ k >> 24) * MULTIPLIER) & MASK32
    if rest := length & 3:
        h = (h ^ int.from_bytes(key[-rest:], "little")) * MULTIPLIER & MASK32
    h = (h ^ h >> 13) * MULTIPLIER & MASK32
    return h ^ h >> 15


def partition_for_key(key: bytes, num_partitions: int) -> int:
    """The partition of [0, num_partitions) for a key. An empty key is a key."""
    return positive_hash(key) % num_partitions
