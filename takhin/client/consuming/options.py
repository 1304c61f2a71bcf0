"""What a consumer is told about its group when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from takhin.client.consuming.callbacks import Callbacks
from takhin.client.consuming.fetcher import FetchPlan
from takhin.client.model import END, START, Position
from takhin.client.retry import Retry
from takhin.client.streams import Subscription
from takhin.errors import InvalidArgumentError
from takhin.limits import check_topic_name


class Reset(StrEnum):
    """What to do where a position is lost: the log begins behind it, or is another one."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ERROR = "error"

    @property
    def place(self) -> Position:
        """Where to go on, and where to begin if nothing is committed."""
        return END if self is Reset.LATEST else START

    @classmethod
    def named(cls, name: str) -> Reset:
        """The one of that name. Raises InvalidArgumentError."""
        try:
            return cls(name)
        except ValueError:
            raise InvalidArgumentError(
                f"reset is earliest, latest or error, not {name!r}", field="reset"
            ) from None


class Places(NamedTuple):
    """Where a member begins. uncommitted: if the group has committed nothing; None: as after a reset."""

    reset: Reset
    uncommitted: Position | None

    @property
    def first(self) -> Position:
        """Where to begin if nothing is committed."""
        return self.reset.place if self.uncommitted is None else self.uncommitted


class Habits(NamedTuple):
    """What a member does by itself."""

    auto_commit: bool
    commit_interval_ms: int
    keep_for_restart: bool


class GroupOptions(NamedTuple):
    """How a consumer takes part in its group."""

    subscription: Subscription
    callbacks: Callbacks
    habits: Habits
    places: Places
    fetching: FetchPlan

    @property
    def revoke_s(self) -> float:
        return self.subscription.revoke_timeout_ms / 1_000

    @property
    def retry(self) -> Retry:
        return self.fetching.retry

    @property
    def outage_s_max(self) -> float:
        return self.fetching.outage_s_max


def check_subscribed(topics: Iterable[str] | None, pattern: str | None) -> tuple[str, ...]:
    """The topics as names. Raises InvalidArgumentError, InvalidTopicNameError."""
    if isinstance(topics, str):
        raise InvalidArgumentError(f"topics is a list of names, not {topics!r}", field="topics")
    if topics is not None and pattern is not None:
        raise InvalidArgumentError("give topics or a pattern, not both", field="pattern")
    names = tuple(dict.fromkeys(check_topic_name(name) for name in topics or ()))
    if not names and not pattern:
        raise InvalidArgumentError("a member reads some topics, or those of a pattern", field="topics")
    return names
