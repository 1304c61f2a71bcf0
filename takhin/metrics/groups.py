"""The series about consumer groups: what they have committed, how far they are behind, their members."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from takhin.broker.lag import UNKNOWN, Ages, lag
from takhin.groups.coordinator import Coordinator
from takhin.metrics.columns import Columns, Numbers
from takhin.metrics.detail import Cut, Detail
from takhin.metrics.sheet import Sheet, escaped
from takhin.model import GroupState, TopicPartition
from takhin.storage.contract import Engine
from takhin.turns import others_turn

OFFSETS_AT_ONCE = 500
"""Committed offsets that are looked at in one turn, in some µs each."""
LOOKED_AT_SHARE = 4
"""Of more than so many times metrics.series_max committed offsets no sums are made: that would take long."""
READ_SECONDS_MAX = 0.02
"""How long one answer waits for ages that have to be read from files, all together."""

COMMITTED, LAG, LAG_SECONDS = range(3)
OFFSET_SERIES = {
    "takhin_group_committed_offset": COMMITTED,
    "takhin_group_lag_records": LAG,
    "takhin_group_lag_seconds": LAG_SECONDS,
    "kafka_consumergroup_current_offset": COMMITTED,
    "kafka_consumergroup_lag": LAG,
}
MEMBER_SERIES = {"takhin_group_members": 0, "kafka_consumergroup_members": 0}


class GroupMetrics:
    """Writes the series about groups. kafka: also under kafka_exporter's names."""

    def __init__(self, engine: Engine, coordinator: Coordinator, ages: Ages, *, kafka: bool) -> None:
        self._engine = engine
        self._coordinator = coordinator
        self._ages = ages
        self._kafka = kafka

    def names(self) -> Sequence[str]:
        """All groups that have committed something or have members."""
        return list(dict.fromkeys((*self._engine.offsets.groups(), *self._coordinator.populated)))

    async def cuts(self, names: Sequence[str], series_max: int) -> dict[str, list[Cut]]:
        """How the series about these groups may be cut, and how many they are then."""
        of_offset = Columns.count(OFFSET_SERIES, kafka=self._kafka)
        of_members = Columns.count(MEMBER_SERIES, kafka=self._kafka)
        logs = topics = since = 0
        for group_id in names:
            committed = self._engine.offsets.of(group_id)
            logs += len(committed)
            if logs > LOOKED_AT_SHARE * series_max:
                break
            topics += len({at.topic for at in committed})
            since += 1 + len(committed)
            if since >= OFFSETS_AT_ONCE:
                since = 0
                await others_turn()
        summed = [
            Cut(Detail.PARTITION, of_offset * logs),
            Cut(Detail.TOPIC, of_offset * topics),
            Cut(Detail.GROUP, of_offset * len(names)),
        ]
        return {
            "groups": [*(summed if logs <= LOOKED_AT_SHARE * series_max else []), Cut(Detail.NOTHING, 0)],
            "members": [Cut(Detail.GROUP, of_members * len(names)), Cut(Detail.NOTHING, 0)],
        }

    async def write(self, sheet: Sheet, names: Sequence[str], *, groups: Detail, members: Detail) -> None:
        """Add them to a sheet, as finely cut as said."""
        states = Counter(dict.fromkeys(GroupState, 0))
        of_members = Columns(sheet, MEMBER_SERIES, kafka=self._kafka)
        for count, group_id in enumerate(names, 1):
            state, number = self._coordinator.state(group_id)
            states[state] += 1
            if members is Detail.GROUP:
                of_members.add(f'{{group="{escaped(group_id)}"}}', (number,))
            if count % OFFSETS_AT_ONCE == 0:
                await others_turn()
        for of_state, count in states.items():
            sheet.add("takhin_groups", count, of_state.value)
        if groups is not Detail.NOTHING:
            await self._write_offsets(Columns(sheet, OFFSET_SERIES, kafka=self._kafka), names, groups)

    async def _write_offsets(self, columns: Columns, names: Sequence[str], detail: Detail) -> None:
        deadline = asyncio.get_running_loop().time() + READ_SECONDS_MAX
        since = 0
        for group_id in names:
            before = f'{{group="{escaped(group_id)}"'
            sums: dict[str, Numbers] = {}
            async for at, numbers in self._offsets(group_id, deadline):
                of_topic = f'{before},topic="{escaped(at.topic)}"'
                if detail is Detail.PARTITION:
                    columns.add(f'{of_topic},partition="{at.partition}"}}', numbers)
                else:
                    labels = f"{of_topic if detail is Detail.TOPIC else before}}}"
                    sums[labels] = _added(sums.get(labels), numbers)
                since += 1
                if since >= OFFSETS_AT_ONCE:
                    since = 0
                    await others_turn()
            for labels, numbers in sums.items():
                columns.add(labels, numbers)
            since += 10  # what a group takes by itself

    async def _offsets(self, group_id: str, deadline: float) -> AsyncIterator[tuple[TopicPartition, Numbers]]:
        """What a group has committed in each partition, its lag in records, and in seconds if it is known."""
        committed = self._engine.offsets.of(group_id)
        ages = await self._ages.of(committed, deadline)
        for at, of in committed.items():
            topic = self._engine.topics.get(at.topic)
            if topic is None or at.partition >= len(topic.partitions):
                continue  # it is being deleted right now
            age_ms = ages[at]
            seconds = None if age_ms == UNKNOWN else age_ms / 1_000
            yield at, (of.offset, lag(topic.partitions[at.partition], of), seconds)


def _added(before: Numbers | None, numbers: Numbers) -> Numbers:
    """Offsets and lags of several partitions together, and the highest lag in seconds that is known."""
    if before is None:
        return numbers
    *sums, _ = (sum(filter(None, column)) for column in zip(before, numbers, strict=True))
    known = [of[LAG_SECONDS] for of in (before, numbers) if of[LAG_SECONDS] is not None]
    return (*sums, max(filter(None, known), default=0 if known else None))
