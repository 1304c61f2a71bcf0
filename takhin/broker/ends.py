"""The verbs about where logs begin, and where in them a time is."""

from __future__ import annotations

from collections.abc import Sequence

from takhin import limits
from takhin.broker.topics import find_log
from takhin.errors import InvalidArgumentError
from takhin.model import OffsetAtTime, TopicPartition
from takhin.settings import ConsumeSettings
from takhin.storage.contract import Capability, Engine
from takhin.turns import in_turns, others_turn

UP_TO_THE_END = -1


class EndVerbs:
    """Removes the oldest records of a log, and finds offsets by time."""

    def __init__(self, engine: Engine, settings: ConsumeSettings) -> None:
        self._engine = engine
        self._settings = settings

    async def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Remove the records below an offset, or all up to the end as of now; returns where the log begins.

        Durable on return. Raises OffsetOutOfRangeError for an offset behind the end.
        """
        limits.check_range("before_offset", before_offset, UP_TO_THE_END)
        log = find_log(self._engine, limits.check_changeable(topic), partition)
        if Capability.TRIM not in self._engine.capabilities:
            raise InvalidArgumentError(
                "this broker's storage engine removes no records: it lacks the capability "
                f"{Capability.TRIM.value!r}",
                field="before_offset",
            )
        log.check_available()
        return await log.trim(log.end_offset if before_offset == UP_TO_THE_END else before_offset)

    async def offsets_for_times(
        self, queries: Sequence[tuple[TopicPartition, int]]
    ) -> list[tuple[TopicPartition, OffsetAtTime]]:
        """For each (partition, time in ms) the first record at or after the time, in the same order."""
        limits.check_range("queries", len(queries), 0, self._settings.time_queries_max)
        async for at, timestamp in in_turns(queries):
            limits.check_range("timestamp", timestamp, 0)
            find_log(self._engine, *at)
        found = []
        for at, timestamp in queries:
            found.append((at, await find_log(self._engine, *at).offset_for_time(timestamp)))
            await others_turn()
        return found
