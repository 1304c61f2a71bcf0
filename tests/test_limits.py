"""The limits: what is allowed is returned unchanged, and what is not raises the named error."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin import limits
from takhin.errors import (
    InvalidArgumentError,
    InvalidGroupIdError,
    InvalidRecordError,
    InvalidTopicNameError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    RefusedError,
    UnsupportedReplicationError,
)
from takhin.model import Batch, Header, TopicConfig
from takhin.sentences import shown
from takhin.sizes import size_bytes

NOW = 1_700_000_000_000
AHEAD_MS_MAX = 1_000
BEHIND_MS_MAX = 2_000

GOOD_NAMES = ["a", "orders", "a.b-c_D.9", "x" * 249, "...", "-rf", "_one", ".hidden", "a__b"]
BAD_NAMES = [
    *(
        "",
        ".",
        "..",
        "__",
        "__x",
        "x" * 250,
        " ",
        "a b",
        "a/b",
        "../up",
        "/etc",
        "a\\b",
        "a\n",
        "\na",
        "a\x00",
    ),
    *("é", "\uff41", "🦆", "a:b", "a*", "٣", "x" * 10_000, "a\u202eb"),
]


def batch_of(
    *values: bytes | None, timestamp: int = NOW, headers: dict[int, list[Header]] | None = None
) -> Batch:
    """A batch without keys, with its size counted."""
    headers = headers or {}
    size = size_bytes([], values, headers.values())
    return Batch([None] * len(values), values, [timestamp] * len(values), headers, size)


def check_batch(batch: Batch, max_message_bytes: int = 100) -> Batch:
    config = TopicConfig(
        max_message_bytes, timestamp_before_max_ms=BEHIND_MS_MAX, timestamp_after_max_ms=AHEAD_MS_MAX
    )
    return limits.check_batch(batch, config, now=NOW)


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: name[:12])
def test_good_topic_names(name: str):
    """Names of the allowed characters and length are returned unchanged."""
    assert limits.check_topic_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:12]))
def test_bad_topic_names(name: str):
    """Names that are empty, long, reserved, or dangerous in a path are refused in a short, plain sentence."""
    with pytest.raises(InvalidTopicNameError) as refused:
        limits.check_topic_name(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
    assert len(refused.value.details["topic"]) <= 249


@given(st.text(max_size=260))
def test_an_allowed_topic_name_is_one_plain_path_component(name: str):
    """Any accepted text names one folder below its parent: no separator, no step up, ASCII alone."""
    try:
        limits.check_topic_name(name)
    except InvalidTopicNameError:
        return
    assert name.isascii()
    assert name.isprintable()
    assert not {"/", "\\", " "} & set(name)
    assert name not in {"", ".", ".."}
    assert len(name) <= 249


@pytest.mark.parametrize("group_id", ["a", "x" * 255, "é" * 127, " ", "\n", "nul\x00", "🦆" * 63])
def test_good_group_ids(group_id: str):
    """Any text of 1 to 255 bytes is a group id."""
    assert limits.check_group_id(group_id) == group_id


@pytest.mark.parametrize("group_id", ["", "x" * 256, "é" * 128, "🦆" * 64, "x" * 10_000], ids=len)
def test_bad_group_ids(group_id: str):
    """The bytes of UTF-8 are counted, not characters; the error does not repeat a long id."""
    with pytest.raises(InvalidGroupIdError, match=str(len(group_id.encode()))) as refused:
        limits.check_group_id(group_id)
    assert len(str(refused.value)) < 1_200


@pytest.mark.parametrize("value", [1, 2, 3])
def test_values_within_a_range(value: int):
    """Both ends belong to a range."""
    assert limits.check_range("n", value, 1, 3) == value


@pytest.mark.parametrize("value", [0, 4, -(1 << 31), 1 << 62])
def test_values_outside_a_range(value: int):
    """The error names the field, the value and the bounds."""
    with pytest.raises(InvalidArgumentError, match=f"^n must be 1 to 3, not {value}$") as refused:
        limits.check_range("n", value, 1, 3)
    assert refused.value.details == {"field": "n", "value": str(value)}


def test_a_range_without_upper_end():
    """The error for a range up to the largest 64-bit number names its lower end alone."""
    assert limits.check_range("n", (1 << 63) - 1, 0) == (1 << 63) - 1
    with pytest.raises(InvalidArgumentError, match=r"^n must be at least 0, not -1$"):
        limits.check_range("n", -1, 0)


def test_metadata():
    """Metadata may have 4,096 bytes of UTF-8, whatever they are."""
    for metadata in ("", "x" * 4_096, "é" * 2_048, "\x00\n"):
        assert limits.check_metadata(metadata) == metadata
    for metadata in ("x" * 4_097, "é" * 2_049):
        with pytest.raises(InvalidArgumentError, match="4096 bytes"):
            limits.check_metadata(metadata)


def test_replication():
    """One machine has one copy, so 0 and 1 are accepted, and anything else is refused with the reason."""
    limits.check_replication(0)
    limits.check_replication(1)
    for factor in (2, 3, (1 << 31) - 1):
        with pytest.raises(UnsupportedReplicationError, match=f"{factor} .*one machine"):
            limits.check_replication(factor)
    with pytest.raises(InvalidArgumentError):
        limits.check_replication(-1)


def test_commit_offset():
    """A committed offset is anything from 0 to the end, the end included."""
    assert [limits.check_commit_offset("t", 0, offset, 5) for offset in (0, 3, 5)] == [0, 3, 5]
    for offset in (-1, 6):
        with pytest.raises(OffsetOutOfRangeError) as refused:
            limits.check_commit_offset("t", 0, offset, 5)
        assert refused.value.details["end_offset"] == "5"


def test_size_counts_keys_values_and_headers():
    """A record's size is its key, value and headers, plus 16 bytes per header; None counts nothing."""
    assert size_bytes([b"k" * 3, None, b""], [None, b"v" * 5, b""], [[Header("é", b"12")], []]) == 28
    assert size_bytes([], [], []) == 0


def test_a_good_batch_comes_back():
    """A batch within the limits is returned unchanged, however large it is as a whole."""
    for batch in (batch_of(b""), batch_of(None), batch_of(*[b"x" * 100] * 50)):
        assert check_batch(batch) is batch


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_record_that_is_too_large(position: int):
    """One byte too many in one record refuses the batch, naming the record, its size and the limit."""
    values = [b"x"] * 3
    values[position] = b"x" * 101
    with pytest.raises(RecordTooLargeError) as refused:
        check_batch(batch_of(*values))
    assert refused.value.details == {
        "record": str(position),
        "size_bytes": "101",
        "max_message_bytes": "100",
    }


def test_headers_count_towards_the_size():
    """Headers alone can make a record too large."""
    with pytest.raises(RecordTooLargeError):
        check_batch(batch_of(b"x" * 44, headers={0: [Header("é" * 10, b"x" * 21)]}))
    assert check_batch(batch_of(b"x" * 44, headers={0: [Header("é" * 10, b"x" * 20)]}))


@pytest.mark.parametrize("timestamp", [NOW - BEHIND_MS_MAX, NOW, NOW + AHEAD_MS_MAX])
def test_good_timestamps(timestamp: int):
    """A timestamp may be as far from the broker's clock as the topic's configs say."""
    assert check_batch(batch_of(b"x", timestamp=timestamp))


def test_the_oldest_timestamp():
    """Without a bound on how far it may lie back, a timestamp may be anything from 1970 on."""
    assert limits.check_batch(batch_of(b"x", timestamp=0), TopicConfig(100), now=NOW)


@pytest.mark.parametrize(
    ("timestamp", "rule"),
    [
        (-1, "it must not lie before 0"),
        (-(1 << 63), "it must not lie before 0"),
        (NOW + AHEAD_MS_MAX + 1, "the topic's message.timestamp.after.max.ms is 1000"),
        ((1 << 63) - 1, "the topic's message.timestamp.after.max.ms is 1000"),
        (NOW - BEHIND_MS_MAX - 1, "the topic's message.timestamp.before.max.ms is 2000"),
        (0, "the topic's message.timestamp.before.max.ms is 2000"),
    ],
)
def test_bad_timestamps(timestamp: int, rule: str):
    """A timestamp beyond the bounds refuses the batch, naming record, timestamp and config."""
    batch = batch_of(b"a", b"b", b"c")
    timestamps = [NOW, timestamp, NOW]
    with pytest.raises(InvalidRecordError, match=f"record 1 has timestamp {timestamp}: {rule}"):
        check_batch(Batch(batch.keys, batch.values, timestamps, {}, batch.size_bytes))


def test_a_header_without_a_key():
    """A header needs a key, and its value may be empty; the error names record and header."""
    headers = {1: [Header("a", b""), Header("", b"x")]}
    with pytest.raises(InvalidRecordError, match="header 1 of record 1"):
        check_batch(batch_of(b"a", b"b", headers=headers))
    with pytest.raises(InvalidRecordError, match="header 0 of the record has no key"):  # it is alone
        check_batch(batch_of(b"a", headers={0: [Header("", b"")]}))
    assert check_batch(batch_of(b"a", headers={0: [Header("a", b"")]}))


def test_long_texts_are_cut_where_errors_repeat_them():
    """Errors show a caller's text as ASCII, quoted and shortened."""
    assert shown("a\n🦆") == r"'a\n\U0001f986'"
    assert shown("x" * 80) == repr("x" * 80)
    assert shown("x" * 81) == f"{'x' * 80!r}… (81 characters)"


@given(st.text(), st.integers())
def test_nothing_but_refusals(text: str, number: int):
    """Whatever arrives, a check returns or raises a RefusedError, and never anything else."""
    checks = (
        lambda: limits.check_topic_name(text),
        lambda: limits.check_group_id(text),
        lambda: limits.check_metadata(text),
        lambda: limits.check_replication(number),
        lambda: limits.check_range("n", number, 0, 9),
    )
    for check in checks:
        with suppress(RefusedError):
            check()
