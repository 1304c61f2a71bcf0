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
from takhin.model import TimestampType, TopicConfig
from takhin.settings import RpcSettings, Settings, TopicSettings
from takhin.sizes import MESSAGE_ROOM_BYTES
from takhin.topic_configs import MAX_MESSAGE_BYTES, TABLE, ConfigRow

COMMANDS = Path(__file__).parents[1] / "docs/commands.md"
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
    assert config() == TopicConfig(1_000, TimestampType.CREATE_TIME)
    assert topic_configs.parse({}, broker(default=9_000)) == TopicConfig(5_000)


@pytest.mark.parametrize("order", [1, -1])
def test_configs_that_are_given(order: int):
    """Each known config is accepted, in any order, and does not change the other."""
    raw = {MAX_MESSAGE_BYTES: "17", "message.timestamp.type": "LogAppendTime"}
    shuffled = dict(list(raw.items())[::order])
    made = topic_configs.parse(shuffled, broker())
    assert made == TopicConfig(17, TimestampType.LOG_APPEND_TIME)
    assert topic_configs.as_texts(made) == raw


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
        *((key, "") for key in ("retention.ms", "cleanup.policy", "", "x" * 10_000)),
    ],
    ids=lambda text: text[:20],
)
def test_unknown_configs(key: str, near: str):
    """The error for an unknown config names all known ones, and before them one that resembles it."""
    with pytest.raises(
        InvalidConfigError, match=r"max\.message\.bytes and message\.timestamp\.type"
    ) as refused:
        topic_configs.parse({key: "1"}, broker())
    assert ("the nearest is" in str(refused.value)) == bool(near)
    assert not near or f"; the nearest is {near}, and known are " in str(refused.value)
    assert len(str(refused.value)) < 300


@given(st.dictionaries(st.text() | st.sampled_from(list(topic_configs.ROWS)), st.text(), max_size=3))
def test_nothing_but_refusals(raw: dict[str, str]):
    """Whatever arrives is parsed or refused; nothing else is raised."""
    with suppress(RefusedError):
        topic_configs.parse(raw, broker())


configs = st.builds(TopicConfig, st.integers(1, 1 << 40), st.sampled_from(TimestampType))


@given(configs)
def test_what_is_stored_is_read(made: TopicConfig):
    """Every config comes back as stored, even if the broker's settings no longer allow it."""
    rows = list(topic_configs.as_texts(made).items())
    assert [key for key, _ in rows] == [row.name for row in TABLE]
    assert topic_configs.from_stored(rows) == made


@given(configs, st.sampled_from(TABLE))
def test_a_config_without_a_row_has_its_default(made: TopicConfig, missing: ConfigRow):
    """A topic that is older than a config has its default, and keeps its other values."""
    rows = [(key, value) for key, value in topic_configs.as_texts(made).items() if key != missing.name]
    default = getattr(topic_configs.parse({}, Settings()), missing.field)
    assert topic_configs.from_stored(rows) == dataclasses.replace(made, **{missing.field: default})


def test_a_stored_key_that_is_unknown_is_ignored():
    """An unknown stored key is ignored, because a later version may have written it."""
    rows = [*topic_configs.as_texts(TopicConfig(7)).items(), ("of.tomorrow", "1")]
    assert topic_configs.from_stored(rows) == TopicConfig(7)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_stored_value_that_makes_no_sense(row: ConfigRow):
    """The error names the config, the rule and the value."""
    with pytest.raises(ValueError, match=f"{re.escape(row.name)} must be .*, not 'x y'"):
        topic_configs.from_stored([(row.name, "x y")])


def test_rows_and_fields_belong_together():
    """Each row fills a field of TopicConfig, each field has a row, and each default may be given."""
    assert [row.field for row in TABLE] == [field.name for field in dataclasses.fields(TopicConfig)]
    defaults = topic_configs.as_texts(topic_configs.parse({}, Settings()))
    assert topic_configs.as_texts(topic_configs.parse(defaults, Settings())) == defaults


def test_the_docs_list_every_config():
    """docs/commands.md has a row for each config with its default, its allowed values and its doc."""
    defaults = topic_configs.as_texts(topic_configs.parse({}, Settings()))
    rows = [f"| `{row.name}` | `{defaults[row.name]}` | {row.kind.note} | {row.doc} |" for row in TABLE]
    assert LISTED.findall(COMMANDS.read_text()) == rows, "\n".join(["the table should be:", *rows])
