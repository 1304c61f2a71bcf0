"""Which partition a key belongs to. Kafka's Java client chooses the same one. Pure."""

from __future__ import annotations

# Constants of Kafka's murmur2. With others, a key would go to another partition.
SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
MASK32 = 0xFFFFFFFF


def positive_hash(key: bytes) -> int:
    """The murmur2 hash of `key` without its sign bit.

    In Kafka: murmur2 and toPositive of org.apache.kafka.common.utils.Utils.
    """
    length = len(key)
    h = SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * MULTIPLIER & MASK32
        k = (k ^ k >> 24) * MULTIPLIER & MASK32
        h = h * MULTIPLIER & MASK32 ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * MULTIPLIER & MASK32
    h = (h ^ h >> 13) * MULTIPLIER & MASK32
    return (h ^ h >> 15) & 0x7FFFFFFF


def partition_for_key(key: bytes, num_partitions: int) -> int:
    """The partition of [0, num_partitions) for a key. An empty key is a key."""
    return positive_hash(key) % num_partitions
