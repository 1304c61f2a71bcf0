"""The series about topics and their partitions: where logs begin and end, their sizes, states and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

from takhin.metrics.columns import Columns, Numbers
from takhin.metrics.detail import Cut, Detail
from takhin.metrics.sheet import Sheet, escaped
from takhin.model import PartitionState
from takhin.storage.contract import Engine, PartitionLog, Topic
from takhin.turns import others_turn

LOGS_AT_ONCE = 100
"""Partitions that are looked at in one turn: for each, the file system is asked for two sizes, in 5 µs."""
STATES = {
    PartitionState.CLOSED: 0,
    PartitionState.OPEN: 1,
    PartitionState.FAILED: 2,
    PartitionState.RECOVERING: 3,
}
"""The numbers of takhin_partition_state. The worst is what a topic has whose partitions are summed."""

BEGINNING, END, RECORDS, SIZE, STATE = range(5)
LOG_SERIES = {
    "takhin_partition_beginning_offset": BEGINNING,
    "takhin_partition_end_offset": END,
    "takhin_partition_records": RECORDS,
    "takhin_partition_size_bytes": SIZE,
    "takhin_partition_state": STATE,
    "kafka_topic_partition_oldest_offset": BEGINNING,
    "kafka_topic_partition_current_offset": END,
}
PARTITIONS, *_OF_METER = range(5)
TOPIC_SERIES = {
    "takhin_topic_partitions": PARTITIONS,
    "takhin_topic_produced_records_total": 1,
    "takhin_topic_produced_bytes_total": 2,
    "takhin_topic_consumed_records_total": 3,
    "takhin_topic_consumed_bytes_total": 4,
    "kafka_topic_partitions": PARTITIONS,
}


class LogMetrics:
    """Writes the series about an engine's topics. kafka: also under kafka_exporter's names."""

    def __init__(self, engine: Engine, *, kafka: bool) -> None:
        self._engine = engine
        self._kafka = kafka

    def cuts(self) -> dict[str, list[Cut]]:
        """How the series may be cut, and how many they are then."""
        topics = self._engine.topics.values()
        of_log, of_topic = (Columns.count(series, kafka=self._kafka) for series in (LOG_SERIES, TOPIC_SERIES))
        return {
            "partitions": [
                Cut(Detail.PARTITION, of_log * sum(len(topic.partitions) for topic in topics)),
                Cut(Detail.TOPIC, of_log * len(topics)),
                Cut(Detail.NOTHING, 0),
            ],
            "topics": [Cut(Detail.TOPIC, of_topic * len(topics)), Cut(Detail.NOTHING, 0)],
        }

    async def write(self, sheet: Sheet, *, partitions: Detail, topics: Detail) -> None:
        """Add them to a sheet, as finely cut as said."""
        states = Counter(dict.fromkeys(PartitionState, 0))
        of_log = Columns(sheet, LOG_SERIES, kafka=self._kafka)
        sums: dict[str, Numbers] = {}
        async for topic, logs in _in_pieces(self._engine.topics.values()):
            states.update(log.state for log in logs)
            if partitions is Detail.PARTITION:
                before = f'{{topic="{escaped(topic.name)}",partition="'
                for log in logs:
                    of_log.add(f'{before}{log.partition}"}}', _numbers(log))
            elif partitions is Detail.TOPIC:
                sums[topic.name] = _summed(sums.get(topic.name), map(_numbers, logs))
        for name, numbers in sums.items():
            of_log.add(f'{{topic="{escaped(name)}"}}', numbers)
        for state, count in states.items():
            sheet.add("takhin_partitions", count, state.value)
        sheet.add("takhin_topics", len(self._engine.topics))
        if topics is Detail.TOPIC:
            await self._write_topics(Columns(sheet, TOPIC_SERIES, kafka=self._kafka))

    async def _write_topics(self, columns: Columns) -> None:
        async for topic, logs in _in_pieces(self._engine.topics.values()):
            if logs[0].partition == 0:  # the first piece of its partitions
                meter = self._engine.meters.topic(topic.name)
                produced = meter.appended_records, meter.appended_bytes
                consumed = meter.consumed_records, meter.consumed_bytes
                labels = f'{{topic="{escaped(topic.name)}"}}'
                columns.add(labels, (len(topic.partitions), *produced, *consumed))


async def _in_pieces(topics: Iterable[Topic]) -> AsyncIterator[tuple[Topic, Sequence[PartitionLog]]]:
    """Some partitions of a topic at a time; after LOGS_AT_ONCE of them others have their turn."""
    looked_at = 0
    for topic in list(topics):
        for at in range(0, len(topic.partitions), LOGS_AT_ONCE):
            piece = topic.partitions[at : at + LOGS_AT_ONCE]
            yield topic, piece
            looked_at += len(piece)
            if looked_at >= LOGS_AT_ONCE:
                looked_at = 0
                await others_turn()


def _numbers(log: PartitionLog) -> Numbers:
    try:
        size: int | None = log.size_bytes
    except OSError:  # it is not known now; all else is
        size = None
    return log.start_offset, log.end_offset, log.record_count, size, STATES[log.state]


def _summed(before: Numbers | None, logs: Iterable[Numbers]) -> Numbers:
    """The numbers of several logs together, and the worst of their states."""
    all_of_them = [*([] if before is None else [before]), *logs]
    *columns, states = zip(*all_of_them, strict=True)
    return (*(sum(number or 0 for number in column) for column in columns), max(states))
