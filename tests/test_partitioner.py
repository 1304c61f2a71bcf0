"""Keys go where Kafka's Java client sends them."""

import pytest

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
