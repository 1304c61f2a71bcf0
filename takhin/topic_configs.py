"""The configs of a topic: TABLE has one row a config. Owns their names, kinds, defaults, checks and docs.

To add a config, add a row to TABLE and its field to `takhin.model.TopicConfig`, and its default to
`takhin.settings.TopicSettings` unless a broker-wide default makes no sense. Create and alter calls, the SQL
table topic_configs of a partition's file and a topic's description follow from the row; a test holds the list
in docs/keeping-data.md to it. Only what a topic says itself is stored, so the default holds for all else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple

from takhin import units
from takhin.errors import InvalidConfigError
from takhin.kinds import Bool, Choice, Kind, ListOf, Share, Whole
from takhin.model import NO_LIMIT, CleanupPolicy, TimestampType, TopicConfig
from takhin.sentences import NEAR, SHOWN_CHARS_MAX, listed, nearest, shown
from takhin.settings import Settings, TopicSettings
from takhin.sizes import MESSAGE_ROOM_BYTES

MAX_MESSAGE_BYTES = "max.message.bytes"
CLEANUP_POLICY = "cleanup.policy"
RETENTION_CONSUMED = "retention.consumed"
RETENTION_LIMITS = ("retention.ms", "retention.bytes", "retention.records")


class Origin(StrEnum):
    """Who says what the value of a config is."""

    TOPIC = "topic"
    BROKER = "broker"
    """One of the broker's settings."""
    DEFAULT = "default"


class ConfigEntry(NamedTuple):
    """One config of a topic as described to clients. value: as text. doc: one line for people."""

    name: str
    value: str
    origin: Origin
    doc: str


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One config.

    name: as in Kafka.
    field: its field in TopicConfig.
    kind: what its value may be.
    doc: one line for people.
    """

    name: str
    field: str
    kind: Kind[Any]
    doc: str

    def default_in(self, settings: Settings) -> object:
        """The value for topics that do not say: the broker's setting of that name, or the field's default."""
        setting = self.name.replace(".", "_")
        if setting not in BROKER_DEFAULTS:
            return FIELD_DEFAULTS[self.field]
        value = self.kind.parse(getattr(settings.topics, setting))
        return min(value, _record_bytes_max(settings)) if self.name == MAX_MESSAGE_BYTES else value

    def kind_in(self, settings: Settings) -> Kind[Any]:
        """What a caller may ask for. Stored values may lie outside, since settings change and topics stay."""
        if self.name == MAX_MESSAGE_BYTES:
            return Whole(least=1, most=_record_bytes_max(settings))
        return self.kind


def _record_bytes_max(settings: Settings) -> int:
    """The largest record that fits into a gRPC message."""
    return settings.rpc.message_bytes_max - MESSAGE_ROOM_BYTES


FIELD_DEFAULTS = {field.name: field.default for field in fields(TopicConfig)}
BROKER_DEFAULTS = frozenset(field.name for field in fields(TopicSettings))

TABLE = (
    ConfigRow(
        MAX_MESSAGE_BYTES,
        "max_message_bytes",
        Whole(least=1),
        "bytes of the largest record: key, value and headers together",
    ),
    ConfigRow(
        "message.timestamp.type",
        "timestamp_type",
        Choice(tuple(TimestampType)),
        "whose clock stamps records: the producer's, or the broker's when it stores them",
    ),
    ConfigRow(
        "message.timestamp.before.max.ms",
        "timestamp_before_max_ms",
        Whole(),
        "how far a producer's timestamp may be behind the broker's clock; records beyond it are refused",
    ),
    ConfigRow(
        "message.timestamp.after.max.ms",
        "timestamp_after_max_ms",
        Whole(),
        "how far a producer's timestamp may be ahead of the broker's clock; records beyond it are refused",
    ),
    ConfigRow(
        "read.only", "read_only", Bool(), "true: new records are refused; reading and committing go on"
    ),
    ConfigRow(
        CLEANUP_POLICY,
        "cleanup_policy",
        ListOf(Choice(tuple(CleanupPolicy))),
        "delete: what is past a limit goes; compact: each key keeps its last record; empty: all is kept",
    ),
    ConfigRow(
        "retention.ms",
        "retention_ms",
        Whole(1, no_limit=True),
        "age at which a record is deleted, by its timestamp",
    ),
    ConfigRow(
        "retention.bytes",
        "retention_bytes",
        Whole(1, no_limit=True),
        "bytes of one partition above which its oldest records are deleted",
    ),
    ConfigRow(
        "retention.records",
        "retention_records",
        Whole(1, no_limit=True),
        "records of one partition above which its oldest are deleted",
    ),
    ConfigRow(
        RETENTION_CONSUMED,
        "retention_consumed",
        Bool(),
        "true: what every group has committed past is deleted, and all else by the limits above",
    ),
    ConfigRow(
        "delete.retention.ms",
        "delete_retention_ms",
        Whole(),
        "how long compaction keeps a tombstone (a record without a value) after it first saw it",
    ),
    ConfigRow(
        "min.compaction.lag.ms",
        "min_compaction_lag_ms",
        Whole(),
        "age below which compaction leaves a record alone",
    ),
    ConfigRow(
        "max.compaction.lag.ms",
        "max_compaction_lag_ms",
        Whole(1),
        "age of a record at which a compaction is due, however little there is to remove",
    ),
    ConfigRow(
        "min.cleanable.dirty.ratio",
        "min_cleanable_dirty_ratio",
        Share(),
        "the share of a log that must be new since its last compaction before the next one is due",
    ),
)

ROWS = {row.name: row for row in TABLE}


def parse(given: Mapping[str, str], settings: Settings) -> TopicConfig:
    """The config of a topic that says `given`, by name; for all else the broker's defaults hold.

    Raises InvalidConfigError for an unknown name, for a value that is not allowed, and for values that
    contradict each other.
    """
    return altered(defaults(settings), given, (), settings)


def altered(
    config: TopicConfig, given: Mapping[str, str], reset: Collection[str], settings: Settings
) -> TopicConfig:
    """The config of a topic that says `given` besides what it said before, and no longer what is in `reset`.

    Raises as `parse` does, also for a name that is in both. What the topic said before is not checked
    by itself again: settings change, and topics stay.
    """
    said: dict[str, Any] = {}
    for name, text in given.items():
        row = known(name)
        try:
            said[row.field] = row.kind_in(settings).parse(text)
        except ValueError as error:
            hint = units.plain(name, text)
            raise InvalidConfigError(
                f"{name} takes {error}, not {shown(text)}{hint and f'; {hint}'}", key=name
            ) from None
    if len(reset) > len(TABLE):  # else a request could keep the loop busy for long
        raise InvalidConfigError(f"{len(reset)} configs cannot be reset: there are only {len(TABLE)}")
    left = {known(name).field: name for name in reset}
    for field in left.keys() & said.keys():
        raise InvalidConfigError(f"{left[field]} cannot be both set and reset", key=left[field])
    default = defaults(settings)
    inherited = (config.inherited | left.keys()) - said.keys()
    values = {row.field: getattr(default if row.field in inherited else config, row.field) for row in TABLE}
    result = TopicConfig(**(values | said), inherited=inherited)
    _check_together(result)
    return result


def defaults(settings: Settings) -> TopicConfig:
    """The config of a topic that says nothing."""
    values: dict[str, Any] = {row.field: row.default_in(settings) for row in TABLE}
    return TopicConfig(**values, inherited=frozenset(values))


DEFAULTS = defaults(Settings())
"""The config of a topic that says nothing, in a broker whose settings say nothing."""


def known(name: str) -> ConfigRow:
    """The row of a config. Raises InvalidConfigError if there is none of that name."""
    row = ROWS.get(name)
    if row is None:
        near = nearest(name, ROWS, cutoff=NEAR)
        meant = "" if near is None else f"the nearest is {near}, and "
        raise InvalidConfigError(
            f"unknown topic config {shown(name)}; {meant}known are {listed(list(ROWS), 'and')}",
            key=name[:SHOWN_CHARS_MAX],
        )
    return row


def as_texts(config: TopicConfig) -> dict[str, str]:
    """Every config by name, with the value in force as text."""
    return {row.name: row.kind.text(getattr(config, row.field)) for row in TABLE}


def stored_texts(config: TopicConfig) -> dict[str, str]:
    """The configs that the topic says itself, by name, with their values as text: what its file stores."""
    texts = as_texts(config)
    return {row.name: texts[row.name] for row in TABLE if row.field not in config.inherited}


def from_stored(rows: Iterable[tuple[str, str]], defaults: TopicConfig) -> TopicConfig:
    """The configs of a topic from its rows (key, value) of topic_configs; `defaults` for those without a row.

    A row with an unknown key is ignored: a later version may have written it.
    Raises ValueError for a value that is not of the config's kind.
    """
    stored = dict(rows)
    values: dict[str, Any] = {}
    for row in TABLE:
        text = stored.get(row.name)
        try:
            values[row.field] = getattr(defaults, row.field) if text is None else row.kind.parse(text)
        except ValueError as error:
            raise ValueError(f"its {row.name} must be {error}, not {shown(str(text))}") from None
    inherited = frozenset(row.field for row in TABLE if row.name not in stored)
    return TopicConfig(**values, inherited=inherited)


def entries(config: TopicConfig, settings: Settings) -> list[ConfigEntry]:
    """Every config with its value in force, and who says so."""
    broker = as_texts(defaults(settings))
    builtin = as_texts(DEFAULTS)
    found = []
    for name, value in as_texts(config).items():
        row = ROWS[name]
        inherited = Origin.DEFAULT if broker[name] == builtin[name] else Origin.BROKER
        origin = inherited if row.field in config.inherited else Origin.TOPIC
        found.append(ConfigEntry(name, value, origin, row.doc))
    return found


def without_effect(config: TopicConfig) -> list[str]:
    """A sentence for each retention limit that the topic says itself, and that nothing is deleted by."""
    if config.deletes:
        return []
    policy = shown(ROWS[CLEANUP_POLICY].kind.text(config.cleanup_policy))
    return [
        f"{name} has no effect while {CLEANUP_POLICY} is {policy}: nothing is deleted"
        for name in RETENTION_LIMITS
        if getattr(config, ROWS[name].field) != NO_LIMIT and ROWS[name].field not in config.inherited
    ]


def _check_together(config: TopicConfig) -> None:
    """Refuse values that contradict each other, unless the topic says none of them itself.

    The rule about lags is that of Kafka's LogConfig.validateValues.
    """
    said = {row.field for row in TABLE} - config.inherited
    policy = ROWS[CLEANUP_POLICY].kind.text(config.cleanup_policy)
    limits = (config.retention_ms, config.retention_bytes, config.retention_records)
    if config.retention_consumed and not config.deletes and "retention_consumed" in said:
        raise InvalidConfigError(
            f"{RETENTION_CONSUMED}=true deletes records, but {CLEANUP_POLICY} is {shown(policy)}, which "
            "deletes none: add delete to it",
            key=RETENTION_CONSUMED,
        )
    consumed_alone = config.retention_consumed and all(limit == NO_LIMIT for limit in limits)
    if (
        consumed_alone
        and config.deletes
        and config.compacts
        and said & {"retention_consumed", "cleanup_policy"}
    ):
        raise InvalidConfigError(
            f"{CLEANUP_POLICY}={policy} keeps the last record of each key, and {RETENTION_CONSUMED}=true "
            f"alone deletes it as soon as every group has read it: set {listed(RETENTION_LIMITS, 'or')}, or "
            f"leave compact or {RETENTION_CONSUMED} out",
            key=RETENTION_CONSUMED,
        )
    lags = {"min_compaction_lag_ms", "max_compaction_lag_ms"}
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms and said & lags:
        raise InvalidConfigError(
            f"min.compaction.lag.ms ({config.min_compaction_lag_ms}) must not be above max.compaction.lag.ms "
            f"({config.max_compaction_lag_ms}): a record would have to be compacted before it may be",
            key="min.compaction.lag.ms",
        )
