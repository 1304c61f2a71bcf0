"""The configs of topics: what create calls may set, what is stored, and what older topics have."""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin import topic_configs
from takhin.errors import InvalidConfigError, RefusedError
from takhin.kinds import Whole
from takhin.model import INT64_MAX, NO_LIMIT, CleanupPolicy, TimestampType, TopicConfig
from takhin.settings import RpcSettings, Settings, TopicSettings
from takhin.sizes import MESSAGE_ROOM_BYTES
from takhin.topic_configs import DEFAULTS, MAX_MESSAGE_BYTES, TABLE, ConfigRow

PAGE = Path(__file__).parents[1] / "docs/keeping-data.md"
LISTED = re.compile(r"^\| `[a-z]+\.[a-z.]+` \| .* \|$", re.MULTILINE)


def broker(default: int = 1_000, most: int = 5_000) -> Settings:
    """The settings of a broker. most: the largest record that fits into a message."""
    return Settings(
        topics=TopicSettings(max_message_bytes=default),
        rpc=RpcSettings(message_bytes_max=most + MESSAGE_ROOM_BYTES),
    )


def config(**raw: str) -> TopicConfig:
    """A config with raw values; underscores stand for dots."""
    return topic_configs.parse({key.replace("_", "."): value for key, value in raw.items()}, broker())


def test_configs_that_are_not_given():
    """Missing configs get their defaults, but never more than a message can carry."""
    assert config() == topic_configs.defaults(broker())
    assert config().max_message_bytes == 1_000
    assert topic_configs.parse({}, broker(default=9_000)).max_message_bytes == 5_000


@pytest.mark.parametrize("order", [1, -1])
def test_configs_that_are_given(order: int):
    """Each known config is accepted, in any order, and does not change the other."""
    raw = {MAX_MESSAGE_BYTES: "17", "message.timestamp.type": "LogAppendTime"}
    shuffled = dict(list(raw.items())[::order])
    made = topic_configs.parse(shuffled, broker())
    assert (made.max_message_bytes, made.timestamp_type) == (17, TimestampType.LOG_APPEND_TIME)
    assert topic_configs.stored_texts(made) == raw
    assert topic_configs.as_texts(made) == topic_configs.as_texts(topic_configs.defaults(broker())) | raw


@pytest.mark.parametrize("value", ["1", "5000", "0005"])
def test_good_max_message_bytes(value: str):
    """A whole number from 1 to what a message can carry is accepted."""
    assert config(max_message_bytes=value).max_message_bytes == int(value)


@pytest.mark.parametrize(
    "value", ["0", "5001", "-1", "+5", "", " 5", "5\n", "1e3", "1_0", "٣", "five", "9" * 5_000]
)
def test_bad_max_message_bytes(value: str):
    """Anything else is refused, and the error names the config and the bounds."""
    with pytest.raises(InvalidConfigError, match=r"max\.message\.bytes .*1 to 5000") as refused:
        config(max_message_bytes=value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("value", ["", "createtime", "CreateTime ", "NoTimestampType"])
def test_bad_timestamp_type(value: str):
    """The error for an unknown timestamp type names the known ones."""
    with pytest.raises(InvalidConfigError, match="CreateTime or LogAppendTime"):
        config(message_timestamp_type=value)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("max.message.byte", "max.message.bytes"),
        ("max.mesage.bytes", "max.message.bytes"),
        ("max_message_bytes", "max.message.bytes"),
        ("timestamp.type", "message.timestamp.type"),
        ("Max.Message.Bytes", "max.message.bytes"),
        ("retention.mss", "retention.ms"),
        *((key, "") for key in ("replicas", "", "x" * 10_000)),
    ],
    ids=lambda text: text[:20],
)
def test_unknown_configs(key: str, near: str):
    """The error for an unknown config names all known ones, and before them one that resembles it."""
    with pytest.raises(
        InvalidConfigError, match=r"known are max\.message\.bytes, message\.timestamp\.type, .* and "
    ) as refused:
        topic_configs.parse({key: "1"}, broker())
    assert ("the nearest is" in str(refused.value)) == bool(near)
    assert not near or f"; the nearest is {near}, and known are " in str(refused.value)
    assert len(str(refused.value)) < 600


@given(st.dictionaries(st.text() | st.sampled_from(list(topic_configs.ROWS)), st.text(), max_size=3))
def test_nothing_but_refusals(raw: dict[str, str]):
    """Whatever arrives is parsed or refused; nothing else is raised."""
    with suppress(RefusedError):
        topic_configs.parse(raw, broker())


limits_ = st.just(NO_LIMIT) | st.integers(1, INT64_MAX)
configs = st.builds(
    TopicConfig,
    st.integers(1, 1 << 40),
    st.sampled_from(TimestampType),
    st.integers(0, INT64_MAX),
    st.integers(0, INT64_MAX),
    st.booleans(),
    st.lists(st.sampled_from(CleanupPolicy), unique=True).map(tuple),
    limits_,
    limits_,
    limits_,
    st.booleans(),
    st.integers(0, INT64_MAX),
    st.integers(0, INT64_MAX),
    st.integers(1, INT64_MAX),
    st.integers(0, 1_000_000).map(lambda millionths: millionths / 1_000_000),
)


@given(configs)
def test_what_is_stored_is_read(made: TopicConfig):
    """Every config comes back as stored, even if the broker's settings no longer allow it."""
    rows = list(topic_configs.stored_texts(made).items())
    assert [key for key, _ in rows] == [row.name for row in TABLE]
    assert topic_configs.from_stored(rows, DEFAULTS) == made


@given(configs, configs, st.sampled_from(TABLE))
def test_a_config_without_a_row_has_its_default(
    made: TopicConfig, of_broker: TopicConfig, missing: ConfigRow
):
    """What a topic does not say follows the broker's defaults and is not stored; its other values stay."""
    default = getattr(of_broker, missing.field)
    expected = dataclasses.replace(made, **{missing.field: default}, inherited=frozenset({missing.field}))
    rows = topic_configs.stored_texts(expected)
    assert missing.name not in rows
    assert topic_configs.from_stored(rows.items(), of_broker) == expected


def test_a_stored_key_that_is_unknown_is_ignored():
    """An unknown stored key is ignored, because a later version may have written it."""
    rows = [*topic_configs.stored_texts(TopicConfig(7)).items(), ("of.tomorrow", "1")]
    assert topic_configs.from_stored(rows, DEFAULTS) == TopicConfig(7)


@pytest.mark.parametrize(
    ("setting", "value", "field", "expected"),
    [
        ("message_timestamp_type", "LogAppendTime", "timestamp_type", TimestampType.LOG_APPEND_TIME),
        ("message_timestamp_before_max_ms", 5, "timestamp_before_max_ms", 5),
        ("message_timestamp_after_max_ms", 6, "timestamp_after_max_ms", 6),
        ("cleanup_policy", ("compact",), "cleanup_policy", (CleanupPolicy.COMPACT,)),
        ("cleanup_policy", (), "cleanup_policy", ()),
        ("retention_ms", 7, "retention_ms", 7),
        ("retention_bytes", 8, "retention_bytes", 8),
        ("retention_records", 9, "retention_records", 9),
        ("retention_consumed", True, "retention_consumed", True),
        ("delete_retention_ms", 10, "delete_retention_ms", 10),
        ("min_compaction_lag_ms", 11, "min_compaction_lag_ms", 11),
        ("max_compaction_lag_ms", 12, "max_compaction_lag_ms", 12),
        ("min_cleanable_dirty_ratio", 0.25, "min_cleanable_dirty_ratio", 0.25),
    ],
)
def test_defaults_of_the_broker(setting: str, value: object, field: str, expected: object):
    """A broker-wide default holds for topics that do not say, and what a topic says goes before it."""
    settings = Settings(topics=dataclasses.replace(TopicSettings(), **{setting: value}))
    assert getattr(topic_configs.parse({}, settings), field) == expected
    [row] = [row for row in TABLE if row.field == field]
    default = getattr(DEFAULTS, field)
    assert default != expected
    said = topic_configs.parse({row.name: row.kind.text(default)}, settings)
    assert getattr(said, field) == default
    assert topic_configs.stored_texts(said) == {row.name: row.kind.text(default)}


@pytest.mark.parametrize(
    "row", [row for row in TABLE if isinstance(row.kind, Whole)], ids=lambda row: row.name
)
def test_no_number_is_negative(row: ConfigRow):
    """A negative number is refused by name, -1 where it does not stand for "no limit"; so is one too long."""
    for text in ("-2", "-9223372036854775808", str(INT64_MAX + 1), *(() if row.kind.no_limit else ("-1",))):
        with pytest.raises(
            InvalidConfigError, match=f"{re.escape(row.name)} takes a whole number from"
        ) as refused:
            topic_configs.parse({row.name: text}, Settings())
        assert refused.value.details["key"] == row.name
    if row.kind.no_limit:
        assert getattr(topic_configs.parse({row.name: "-1"}, Settings()), row.field) == NO_LIMIT


@pytest.mark.parametrize("text", ["compact", "delete", "compact,delete", "delete, compact", ""])
def test_good_cleanup_policies(text: str):
    """A policy is any of the two, both, or none."""
    made = config(cleanup_policy=text)
    assert (made.deletes, made.compacts) == ("delete" in text, "compact" in text)


@pytest.mark.parametrize("text", ["keep", "compact;delete", "Delete", ",", "delete,"])
def test_bad_cleanup_policies(text: str):
    """Another word is refused, with those that there are."""
    with pytest.raises(InvalidConfigError, match="each item delete or compact"):
        config(cleanup_policy=text)


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        (
            {"cleanup.policy": "compact", "retention.consumed": "true"},
            "retention.consumed=true deletes records, but cleanup.policy is 'compact', which deletes none",
        ),
        (
            {"cleanup.policy": "", "retention.consumed": "true"},
            "retention.consumed=true deletes records, but cleanup.policy is '', which deletes none",
        ),
        (
            {"cleanup.policy": "compact,delete", "retention.consumed": "true"},
            "keeps the last record of each key, and retention.consumed=true alone deletes it",
        ),
        (
            {"min.compaction.lag.ms": "2", "max.compaction.lag.ms": "1"},
            r"min.compaction.lag.ms \(2\) must not be above max.compaction.lag.ms \(1\)",
        ),
    ],
)
def test_contradictions_are_refused(given_: dict[str, str], sentence: str):
    """Values that contradict each other are refused with a sentence."""
    with pytest.raises(InvalidConfigError, match=sentence):
        topic_configs.parse(given_, Settings())


def test_what_is_no_contradiction():
    """Consumed records may go from a compacted topic when another limit says how long the others stay."""
    both = {"cleanup.policy": "compact,delete", "retention.consumed": "true", "retention.ms": "1"}
    assert topic_configs.parse(both, Settings()).retention_consumed
    assert topic_configs.parse({"retention.consumed": "true"}, Settings()).retention_consumed


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_stored_value_that_makes_no_sense(row: ConfigRow):
    """The error names the config, the rule and the value."""
    with pytest.raises(ValueError, match=f"{re.escape(row.name)} must be .*, not 'x y'"):
        topic_configs.from_stored([(row.name, "x y")], DEFAULTS)


def test_rows_and_fields_belong_together():
    """Each row fills a field of TopicConfig, each field has a row, and each default may be given."""
    assert [*(row.field for row in TABLE), "inherited"] == [
        field.name for field in dataclasses.fields(TopicConfig)
    ]
    defaults = topic_configs.as_texts(DEFAULTS)
    said = topic_configs.parse(defaults, Settings())
    assert topic_configs.as_texts(said) == defaults
    assert (said.inherited, DEFAULTS.inherited) == (set(), {row.field for row in TABLE})


def test_settings_and_rows_belong_together():
    """Each broker-wide default has the name of a config; of the configs only read.only has none."""
    names = {row.name.replace(".", "_") for row in TABLE}
    settings = {field.name for field in dataclasses.fields(TopicSettings)}
    assert settings - names == {"partitions_per_topic_max", "partitions_max", "compaction_look_ms"}
    assert names - settings == {"read_only"}


def test_the_docs_list_every_config():
    """docs/keeping-data.md has a row for each config with its default, its allowed values and its doc."""
    defaults = topic_configs.as_texts(DEFAULTS)
    rows = [
        f"| `{row.name}` | `{defaults[row.name]}` | {row.kind.note or row.kind.allowed} | {row.doc} |"
        for row in TABLE
    ]
    assert LISTED.findall(PAGE.read_text()) == rows, "\n".join(["the table should be:", *rows])


def test_what_is_altered():
    """What is set is said by the topic from then on, what is reset no longer; all else stays as it was."""
    settings = Settings(topics=TopicSettings(retention_ms=70))
    before = topic_configs.parse({"retention.bytes": "5", "retention.ms": "6"}, settings)
    after = topic_configs.altered(before, {"retention.records": "7"}, ["retention.ms"], settings)
    assert topic_configs.stored_texts(after) == {"retention.bytes": "5", "retention.records": "7"}
    assert (after.retention_ms, after.retention_bytes, after.retention_records) == (70, 5, 7)
    assert topic_configs.altered(before, {}, [], settings) == before
    assert topic_configs.altered(before, {}, ["read.only"], settings) == before


@pytest.mark.parametrize(
    ("given_", "reset", "sentence"),
    [
        ({"retention.ms": "1"}, ["retention.ms"], "retention.ms cannot be both set and reset"),
        ({}, ["retention.mss"], "unknown topic config 'retention.mss'; the nearest is retention.ms"),
        ({"retention.ms": "0"}, [], "retention.ms takes a whole number from 1"),
        ({"cleanup.policy": "compact"}, [], "retention.consumed=true deletes records"),
        ({}, ["max.compaction.lag.ms"], r"min.compaction.lag.ms \(5\) must not be above .* \(3\)"),
    ],
)
def test_alterations_that_are_refused(given_: dict[str, str], reset: list[str], sentence: str):
    """A name that is not known, a bad value, and a contradiction to what is there already are refused."""
    said = {"retention.consumed": "true", "min.compaction.lag.ms": "5", "max.compaction.lag.ms": "9"}
    config = topic_configs.parse(said, Settings())
    with pytest.raises(InvalidConfigError, match=sentence):
        topic_configs.altered(config, given_, reset, Settings(topics=TopicSettings(max_compaction_lag_ms=3)))


def test_what_was_said_before_is_not_checked_again():
    """What the broker's settings no longer allow stays, and so does what only these contradict."""
    config = topic_configs.parse({MAX_MESSAGE_BYTES: "4000"}, broker())
    altered = topic_configs.altered(config, {"retention.ms": "1"}, [], broker(most=3_000))
    assert altered.max_message_bytes == 4_000
    odd = Settings(
        topics=TopicSettings(min_compaction_lag_ms=5, max_compaction_lag_ms=3, retention_consumed=True)
    )
    assert topic_configs.parse({"cleanup.policy": "compact"}, odd).compacts


def test_entries_say_who_says_so():
    """The origin of a value is the topic, one of the broker's settings, or the default."""
    settings = Settings(topics=TopicSettings(retention_ms=70, retention_bytes=80))
    entries = topic_configs.entries(topic_configs.parse({"retention.ms": "70"}, settings), settings)
    said = {entry.name: (entry.value, str(entry.origin)) for entry in entries}
    assert list(said) == [row.name for row in TABLE]
    assert said["retention.ms"] == ("70", "topic")
    assert said["retention.bytes"] == ("80", "broker")
    assert said["retention.records"] == ("-1", "default")
    assert said["min.cleanable.dirty.ratio"] == ("0.5", "default")
    assert [entry.doc for entry in entries] == [row.doc for row in TABLE]


def test_limits_without_effect_are_told():
    """A limit that a topic says itself while its policy deletes nothing is warned of, with the policy."""
    settings = Settings(topics=TopicSettings(retention_bytes=80))
    kept = topic_configs.parse({"retention.ms": "70", "cleanup.policy": ""}, settings)
    assert topic_configs.without_effect(kept) == [
        "retention.ms has no effect while cleanup.policy is '': nothing is deleted"
    ]
    assert topic_configs.without_effect(topic_configs.parse({"retention.ms": "70"}, settings)) == []


@pytest.mark.parametrize("text", ["delete,delete", "compact,delete,compact", ",".join(["delete"] * 9_000)])
def test_no_policy_is_named_twice(text: str):
    """A list with repeats is refused in a short sentence: else it would be stored and sent with the topic."""
    with pytest.raises(InvalidConfigError, match=r"cleanup\.policy takes a list without repeats") as refused:
        config(cleanup_policy=text)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("key", "text", "hint"),
    [
        ("retention_ms", "7d", "not '7d'; in ms: 604800000"),
        ("delete_retention_ms", "1h30m", "; in ms: 5400000"),
        ("retention_bytes", "100MB", "; in bytes: 100000000"),
        ("max_message_bytes", "4 KiB", "; in bytes: 4096"),
        ("retention_bytes", "7d", "not '7d'"),
        ("retention_ms", "1y", "not '1y'"),
        ("retention_records", "7d", "not '7d'"),
        ("retention_ms", "9" * 70_000 + "d", "characters)"),
    ],
)
def test_a_number_with_a_unit(key: str, text: str, hint: str):
    """The refusal of a time or a size with a unit says which number to write."""
    with pytest.raises(InvalidConfigError) as refused:
        config(**{key: text})
    assert str(refused.value).endswith(hint)
