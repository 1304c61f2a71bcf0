"""Every error that Takhin raises on purpose. Owns the tree and what errors say; knows no transport.

    TakhinError
    ├── RefusedError             the request cannot be granted as it stands; nothing was done
    │   ├── InvalidArgumentError
    │   ├── InvalidTopicNameError
    │   ├── InvalidGroupIdError
    │   ├── InvalidConfigError
    │   ├── InvalidRecordError
    │   ├── InvalidBatchError
    │   ├── RecordTooLargeError
    │   ├── UnsupportedReplicationError
    │   ├── UnknownTopicError
    │   ├── UnknownPartitionError
    │   ├── UnknownGroupError
    │   ├── TopicExistsError
    │   ├── ReadOnlyTopicError
    │   ├── GroupNotEmptyError
    │   ├── OffsetOutOfRangeError
    │   ├── EndOffsetMismatchError
    │   ├── OutOfSequenceError
    │   ├── LogReplacedError
    │   ├── UnauthenticatedError
    │   ├── PermissionDeniedError
    │   ├── FencedMemberError
    │   ├── UnknownMemberError
    │   ├── InstanceInUseError
    │   └── GroupFullError
    ├── UnavailableError         the broker cannot do it now; the same request may succeed later
    │   ├── OverloadedError
    │   ├── StorageFullError
    │   ├── PartitionUnavailableError
    │   ├── AccessUnavailableError
    │   ├── OutcomeUnknownError
    │   └── ShuttingDownError
    ├── InternalError            a fault of the broker's own, logged under an id
    ├── CopyError                a copy cannot be made, put back or repaired
    ├── QueryError               a query over a topic's files cannot be answered
    └── StartupError             the broker cannot start: data folder, files, address or config

The table of `takhin.wire.status` says how each error goes over the wire; a test keeps it complete. It has no
row for the inner nodes, nor for CopyError, QueryError and StartupError, which never reach a client.
"""

from __future__ import annotations

from typing import Self


class TakhinError(Exception):
    """Base of all. `str(error)` is a sentence for a person; `details` are its values for a program.

    `details` maps lower-case names (topic, partition, offset, …) to text; it becomes the metadata of
    google.rpc.ErrorInfo.
    """

    def __init__(self, sentence: str, /, **details: object) -> None:
        super().__init__(sentence)
        self.details: dict[str, str] = {name: str(value) for name, value in details.items()}

    @classmethod
    def as_sent(cls, sentence: str, details: dict[str, str]) -> Self:
        """An error that came over the wire. The __init__ of its class is not called: arguments differ."""
        error = cls.__new__(cls)
        TakhinError.__init__(error, sentence, **details)
        return error


class RefusedError(TakhinError):
    """The request cannot be granted as it stands. Nothing was queued or written."""


class UnavailableError(TakhinError):
    """The broker cannot do it now. Except for OutcomeUnknownError, nothing was written.

    retry_ms: how long the broker asks to wait before the next attempt; 0: as `takhin.wire.status` says for
    all errors of the class.
    """

    retry_ms: int = 0


class StartupError(TakhinError):
    """The broker cannot start. The programs print the sentence and exit with code 2."""


class CopyError(TakhinError):
    """A backup, a restore or a recovery cannot go on. The programs print the sentence."""


class QueryError(TakhinError):
    """A query over a topic's files cannot be answered. The programs print the sentence."""


class InternalError(TakhinError):
    """A fault of the broker's own. The sentence says only the id under which it was logged."""

    def __init__(self, incident: str) -> None:
        super().__init__(f"internal error; the broker logged it under {incident}", incident=incident)


class InvalidArgumentError(RefusedError):
    """A field is outside its range."""


class InvalidTopicNameError(RefusedError):
    """A topic name outside `[a-zA-Z0-9._-]{1,249}`, `.`, `..`, or reserved."""


class InvalidGroupIdError(RefusedError):
    """A consumer group id that is empty or above 255 bytes of UTF-8."""


class InvalidConfigError(RefusedError):
    """An unknown topic config, a value that a config does not take, or values that contradict each other."""


class InvalidRecordError(RefusedError):
    """A record with an impossible timestamp, or with a header that has no key or is too large."""


class InvalidBatchError(RefusedError):
    """A request whose records do not form one batch for one partition."""


class RecordTooLargeError(RefusedError):
    """A record above the topic's max.message.bytes."""


class UnsupportedReplicationError(RefusedError):
    """A replication_factor above 1: a broker on one machine keeps one copy."""


class UnknownTopicError(RefusedError):
    """No topic of that name."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"there is no topic {topic!r}", topic=topic)


class UnknownPartitionError(RefusedError):
    """The topic has no partition of that number."""

    def __init__(self, topic: str, partition: int, num_partitions: int) -> None:
        super().__init__(
            f"topic {topic!r} has partitions 0 to {num_partitions - 1}, not {partition}",
            topic=topic,
            partition=partition,
            num_partitions=num_partitions,
        )


class UnknownGroupError(RefusedError):
    """No consumer group of that id: it has neither members nor committed offsets."""

    def __init__(self, group_id: str) -> None:
        super().__init__(f"there is no consumer group {group_id!r}", group_id=group_id)


class TopicExistsError(RefusedError):
    """A topic of that name exists already."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} exists already", topic=topic)


class ReadOnlyTopicError(RefusedError):
    """The topic's config read.only is true, so it takes no records."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} takes no records: its read.only is true", topic=topic)


class GroupNotEmptyError(RefusedError):
    """A consumer group that still has members cannot be deleted."""


class OffsetOutOfRangeError(RefusedError):
    """An offset outside the log's range, both ends of which are in `details`."""

    @property
    def beginning_offset(self) -> int:
        """The first offset of the log; -1 if the error came over the wire without it (a refused commit)."""
        return int(self.details.get("beginning_offset", -1))

    @property
    def end_offset(self) -> int:
        """The offset after the last one of the log; -1 as above."""
        return int(self.details.get("end_offset", -1))

    def __init__(self, topic: str, partition: int, offset: int, start: int, end: int) -> None:
        super().__init__(
            f"offset {offset} is outside the log of topic {topic!r} partition {partition}, "
            f"which reaches from {start} to {end}",
            topic=topic,
            partition=partition,
            offset=offset,
            beginning_offset=start,
            end_offset=end,
        )


class EndOffsetMismatchError(RefusedError):
    """The log does not end where an append expected it to; `details` say where it does."""

    def __init__(self, topic: str, partition: int, expected: int, end: int) -> None:
        super().__init__(
            f"the log of topic {topic!r} partition {partition} ends at {end}, not at the expected {expected}",
            topic=topic,
            partition=partition,
            expected_offset=expected,
            end_offset=end,
        )

    @property
    def end_offset(self) -> int:
        """Where the log ends."""
        return int(self.details["end_offset"])


class OutOfSequenceError(RefusedError):
    """A batch that is neither its producer's next one nor one that the log remembers."""


class LogReplacedError(RefusedError):
    """The log is another one than the request names.

    An older copy of it was put back, or the topic was deleted and created again. So an offset of the former
    log may stand for another record now, and records that were meant for the former topic are not taken.
    """


class UnauthenticatedError(RefusedError):
    """The caller has not proved who it is: no token and no certificate, or a token that does not hold."""


class PermissionDeniedError(RefusedError):
    """The caller may not do that. Whether what the call names exists is not said."""


class FencedMemberError(RefusedError):
    """A member of a consumer group is not what it was: its epoch has passed, or it owns a partition no more.

    refused: of a commit, the (topic, partition) of all that the member does not own at that epoch.
    """

    refused: tuple[tuple[str, int], ...] = ()

    def __init__(
        self, sentence: str, /, *, refused: tuple[tuple[str, int], ...] = (), **details: object
    ) -> None:
        super().__init__(sentence, **details)
        self.refused = refused


class UnknownMemberError(RefusedError):
    """The consumer group has no member of that id, or no longer."""


class InstanceInUseError(RefusedError):
    """A living member of the consumer group has that instance id."""


class GroupFullError(RefusedError):
    """The group has as many members, or the broker as many groups with members, as the settings allow."""


class OverloadedError(UnavailableError):
    """A limit of the broker is reached, or a quota of the caller. Try again after a pause."""


class StorageFullError(UnavailableError):
    """The disk has no room for the write."""


class PartitionUnavailableError(UnavailableError):
    """This partition's file cannot be written or read now; other partitions go on."""


class AccessUnavailableError(UnavailableError):
    """The broker cannot read or change its tokens and rules now, so nobody is let in by them."""


class OutcomeUnknownError(UnavailableError):
    """The wait ended before the write did: records, or another change, may or may not become durable."""


class ShuttingDownError(UnavailableError):
    """The broker is draining."""

    def __init__(self) -> None:
        super().__init__("the broker is shutting down")
