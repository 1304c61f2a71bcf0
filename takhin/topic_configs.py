"""The configs of a topic: TABLE has one row a config. Owns their names, kinds, defaults, checks and docs.

To add a config, add a row to TABLE and its field to `takhin.model.TopicConfig`. Create calls, the SQL table
topic_configs of a partition's file and a topic's description follow from the row; a test holds the list in
docs/commands.md to it. An older topic has no stored value for a new config, so the default holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from takhin.errors import InvalidConfigError
from takhin.kinds import Choice, Kind, Whole
from takhin.model import TimestampType, TopicConfig
from takhin.sentences import NEAR, SHOWN_CHARS_MAX, listed, nearest, shown
from takhin.settings import Settings
from takhin.sizes import MESSAGE_ROOM_BYTES

MAX_MESSAGE_BYTES = "max.message.bytes"


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One config.

    name: as in Kafka.
    field: its field in TopicConfig.
    kind: what its value may be, in every broker.
    doc: one line for people.
    default: if it depends on the broker's settings. Otherwise the field's own default holds.
    narrowed: the kind, if the broker's settings narrow what a create call may ask for. Stored values may lie
    outside, since settings change and topics stay.
    """

    name: str
    field: str
    kind: Kind[Any]
    doc: str
    default: Callable[[Settings], object] | None = None
    narrowed: Callable[[Settings], Kind[Any]] | None = None

    def default_in(self, settings: Settings) -> object:
        """The value of a topic that does not say."""
        return FIELD_DEFAULTS[self.field] if self.default is None else self.default(settings)

    def kind_in(self, settings: Settings) -> Kind[Any]:
        """What a create call may ask for."""
        return self.kind if self.narrowed is None else self.narrowed(settings)


def _record_bytes_max(settings: Settings) -> int:
    """The largest record that fits into a gRPC message."""
    return settings.rpc.message_bytes_max - MESSAGE_ROOM_BYTES


FIELD_DEFAULTS = {field.name: field.default for field in fields(TopicConfig)}

TABLE = (
    ConfigRow(
        MAX_MESSAGE_BYTES,
        "max_message_bytes",
        Whole(least=1),
        "bytes of the largest record: key, value and headers together",
        default=lambda settings: min(settings.topics.max_message_bytes, _record_bytes_max(settings)),
        narrowed=lambda settings: Whole(least=1, most=_record_bytes_max(settings)),
    ),
    ConfigRow(
        "message.timestamp.type",
        "timestamp_type",
        Choice(tuple(TimestampType)),
        "whose clock stamps records: the producer's, or the broker's when it stores them",
    ),
)

ROWS = {row.name: row for row in TABLE}


def parse(given: Mapping[str, str], settings: Settings) -> TopicConfig:
    """The configs of a create call, by name; the default of each that is not given.

    Raises InvalidConfigError for an unknown name and for a value that is not allowed.
    """
    values: dict[str, Any] = {row.field: row.default_in(settings) for row in TABLE}
    for name, text in given.items():
        row = ROWS.get(name)
        if row is None:
            raise _unknown(name)
        try:
            values[row.field] = row.kind_in(settings).parse(text)
        except ValueError as error:
            raise InvalidConfigError(f"{name} takes {error}, not {shown(text)}", key=name) from None
    return TopicConfig(**values)


def as_texts(config: TopicConfig) -> dict[str, str]:
    """Every config by name, with the value in force as text: what a client sees and what a file stores.

    Defaults are stored as well, so that a topic keeps them when the broker's settings change.
    """
    return {row.name: row.kind.text(getattr(config, row.field)) for row in TABLE}


def from_stored(rows: Iterable[tuple[str, str]]) -> TopicConfig:
    """The configs of a topic from its rows (key, value) of topic_configs.

    A config without a row did not exist when the topic was created. It has its default under the default
    settings. A row with an unknown key is ignored: a later version may have written it.
    Raises ValueError for a value that is not of the config's kind.
    """
    stored = dict(rows)
    settings = Settings()
    values: dict[str, Any] = {}
    for row in TABLE:
        text = stored.get(row.name)
        try:
            values[row.field] = row.default_in(settings) if text is None else row.kind.parse(text)
        except ValueError as error:
            raise ValueError(f"its {row.name} must be {error}, not {shown(str(text))}") from None
    return TopicConfig(**values)


def _unknown(name: str) -> InvalidConfigError:
    near = nearest(name, ROWS, cutoff=NEAR)
    meant = "" if near is None else f"the nearest is {near}, and "
    return InvalidConfigError(
        f"unknown topic config {shown(name)}; {meant}known are {listed(list(ROWS), 'and')}",
        key=name[:SHOWN_CHARS_MAX],
    )
