"""The contract, committed offsets: one for each group and partition; the last one counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from takhin.errors import UnknownPartitionError, UnknownTopicError
from takhin.model import CommittedOffset, TopicPartition
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs
from takhin.testing.contract.records import NOW, name_of, numbered, spec

ORDERS = TopicPartition("orders", 0)

ODD_GROUP_IDS = [
    "x",
    "x" * 255,
    "é" * 127,
    "🦆" * 63,
    " ",
    " padded ",
    'it\'s "quoted"; DROP TABLE log; --',
    "line\nbreak\r\ttab",
    "../../etc/passwd",
    "%s {} $1 ?1 :x \\",
    "e\u0301",
    "\u202eright to left",
    "nul\x00inside",
    "0",
    "NULL",
]

ODD_METADATA = ["", "plain", "x" * 4_096, "é🦆\n'\"\x00\u202e", '{"host": "a", "n": 1}', " "]


def at(offset: int, metadata: str = "") -> CommittedOffset:
    """An offset that is committed NOW."""
    return CommittedOffset(offset, metadata, NOW)


def committed(engine: Engine) -> Mapping[str, Mapping[TopicPartition, CommittedOffset]]:
    """All that is committed, by group. Fails if a group is listed out of order or without an offset."""
    groups = list(engine.offsets.groups())
    assert groups == sorted(set(groups))
    found = {group_id: dict(engine.offsets.of(group_id)) for group_id in groups}
    assert all(found.values())
    return found


class Offsets(Harness):
    """Tests of `Engine.offsets`."""

    async def test_a_group_without_commit_has_none(self, engine: Engine, log: PartitionLog) -> None:
        """A group that never committed has no offset, which differs from offset 0."""
        assert name_of(log) == ORDERS
        assert dict(engine.offsets.of("billing")) == {}
        assert list(engine.offsets.groups()) == []

    async def test_a_commit_is_read_back(self, engine: Engine, log: PartitionLog) -> None:
        """Offset, metadata and time come back as they were committed."""
        await log.append(numbered(5))
        await engine.offsets.commit("billing", {ORDERS: CommittedOffset(5, "host-1", NOW - 1)})
        assert committed(engine) == {"billing": {ORDERS: CommittedOffset(5, "host-1", NOW - 1)}}

    async def test_a_commit_of_nothing(self, engine: Engine, log: PartitionLog) -> None:
        """A commit without offsets makes no group, and takes nothing from one that is there."""
        await engine.offsets.commit("billing", {})
        assert committed(engine) == {}
        await engine.offsets.commit("billing", {ORDERS: at(0)})
        await engine.offsets.commit("billing", {})
        assert committed(engine) == {"billing": {ORDERS: at(0)}}

    async def test_the_last_commit_counts(self, engine: Engine, log: PartitionLog) -> None:
        """A commit replaces the whole of the one before it, also by a lower offset and empty metadata."""
        await log.append(numbered(5))
        await engine.offsets.commit("billing", {ORDERS: at(5, "host-1")})
        await engine.offsets.commit("billing", {ORDERS: CommittedOffset(0, "", NOW + 1)})
        assert committed(engine) == {"billing": {ORDERS: CommittedOffset(0, "", NOW + 1)}}

    async def test_of_pending_commits_the_last_call_counts(self, engine: Engine, log: PartitionLog) -> None:
        """Commits of one group that wait together take effect in the order of the calls."""
        await log.append(numbered(50))
        await asyncio.gather(*(engine.offsets.commit("billing", {ORDERS: at(n)}) for n in range(50)))
        assert committed(engine) == {"billing": {ORDERS: at(49)}}

    async def test_a_commit_behind_its_append(self, engine: Engine, log: PartitionLog) -> None:
        """A commit that waits with appends is durable beside them, and disturbs none."""
        first = log.append(numbered(3))
        commit = asyncio.create_task(engine.offsets.commit("billing", {ORDERS: at(3)}))
        await asyncio.sleep(0)
        last = log.append(numbered(2))
        await commit
        assert [(await one).offset for one in (first, last)] == [0, 3]
        assert committed(engine) == {"billing": {ORDERS: at(3)}}

    @pytest.mark.parametrize("group_id", ODD_GROUP_IDS, ids=ascii)
    async def test_group_ids_are_any_text(self, engine: Engine, log: PartitionLog, group_id: str) -> None:
        """A group id of any characters names its own offset and is forgotten alone."""
        await engine.offsets.commit(group_id, {ORDERS: at(0, "odd")})
        await engine.offsets.commit("billing", {ORDERS: at(0, "plain")})
        assert committed(engine) == {group_id: {ORDERS: at(0, "odd")}, "billing": {ORDERS: at(0, "plain")}}
        await engine.offsets.forget(group_id)
        assert committed(engine) == {"billing": {ORDERS: at(0, "plain")}}

    async def test_group_ids_that_resemble_each_other_differ(self, engine: Engine, log: PartitionLog) -> None:
        """Groups differ by case, spaces and how accents are composed; they are sorted by code point."""
        alike = ["a", "A", "a ", " a", "á", "a\u0301", "a\x00", "a\x00b", "\uffff", "🦆", "aa"]
        for n, group_id in enumerate(alike):
            await engine.offsets.commit(group_id, {ORDERS: at(0, str(n))})
        for n, group_id in enumerate(alike):
            assert dict(engine.offsets.of(group_id)) == {ORDERS: at(0, str(n))}
        assert list(engine.offsets.groups()) == sorted(alike)

    @pytest.mark.parametrize("metadata", ODD_METADATA, ids=lambda text: ascii(text[:20]))
    async def test_metadata_is_kept_as_given(self, engine: Engine, log: PartitionLog, metadata: str) -> None:
        """Metadata is any text up to its limit and comes back character for character."""
        await engine.offsets.commit("billing", {ORDERS: at(0, metadata)})
        assert committed(engine) == {"billing": {ORDERS: at(0, metadata)}}

    async def test_forgetting_a_group(self, engine: Engine, log: PartitionLog) -> None:
        """A forgotten group has no offset, may be forgotten again, and may commit again."""
        await engine.offsets.commit("billing", {ORDERS: at(0)})
        await engine.offsets.commit("audit", {ORDERS: at(0)})
        for _ in range(2):
            await engine.offsets.forget("billing")
            assert dict(engine.offsets.of("billing")) == {}
            assert committed(engine) == {"audit": {ORDERS: at(0)}}
        await engine.offsets.commit("billing", {ORDERS: at(0, "again")})
        assert committed(engine) == {"audit": {ORDERS: at(0)}, "billing": {ORDERS: at(0, "again")}}

    async def test_forgetting_an_unknown_group(self, engine: Engine, log: PartitionLog) -> None:
        """A group that never committed is forgotten without an error."""
        await engine.offsets.forget("billing")
        assert committed(engine) == {}

    async def test_commits_after_forgets_count(self, engine: Engine, log: PartitionLog) -> None:
        """Forgetting a group takes what it committed before, and not what it commits right after."""
        for group_id in ("gone", "back"):
            await engine.offsets.commit(group_id, {ORDERS: at(0)})
        await asyncio.gather(
            engine.offsets.forget("gone"),
            engine.offsets.forget("back"),
            engine.offsets.commit("back", {ORDERS: at(0, "again")}),
        )
        assert committed(engine) == {"back": {ORDERS: at(0, "again")}}

    async def test_partitions_keep_their_own_offsets(self, engine: Engine) -> None:
        """A group's offset in one partition says nothing about another partition."""
        first, second = (await engine.create_topic(spec("orders", 2))).partitions
        await first.append(numbered(5))
        await engine.offsets.commit("billing", {name_of(first): at(5)})
        assert name_of(second) not in engine.offsets.of("billing")

    async def test_a_commit_over_partitions_and_topics(self, engine: Engine) -> None:
        """One commit names any partitions of any topics; those that it does not name stay as they were."""
        topics = [await engine.create_topic(spec(name, 3)) for name in ("orders", "refunds")]
        logs = [log for topic in topics for log in topic.partitions]
        everywhere = {name_of(log): at(0, str(name_of(log))) for log in logs}
        await engine.offsets.commit("billing", everywhere)
        assert committed(engine) == {"billing": everywhere}
        some = {TopicPartition("orders", 1): at(0, "new"), TopicPartition("refunds", 2): at(0, "new")}
        await engine.offsets.commit("billing", some)
        assert committed(engine) == {"billing": everywhere | some}
        await engine.offsets.forget("billing")
        assert committed(engine) == {}

    async def test_answers_are_the_askers_own(self, engine: Engine, log: PartitionLog) -> None:
        """What was answered does not change when the group commits or is forgotten."""
        await engine.offsets.commit("billing", {ORDERS: at(0)})
        offsets, groups = engine.offsets.of("billing"), engine.offsets.groups()
        await engine.offsets.commit("billing", {ORDERS: at(0, "later")})
        await engine.offsets.forget("billing")
        assert (dict(offsets), list(groups)) == ({ORDERS: at(0)}, ["billing"])

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [
            (TopicPartition("refunds", 0), UnknownTopicError),
            (TopicPartition("Orders", 0), UnknownTopicError),
            (TopicPartition("orders", 2), UnknownPartitionError),
            (TopicPartition("orders", -1), UnknownPartitionError),
        ],
        ids=lambda value: f"{value.topic}-{value.partition}" if isinstance(value, TopicPartition) else "",
    )
    async def test_an_unknown_partition_is_refused(
        self, engine: Engine, wrong: TopicPartition, error: type[Exception]
    ) -> None:
        """A commit that names a partition that is not there is refused, and nothing of it is remembered."""
        await engine.create_topic(spec("orders", 2))
        for offsets in ({wrong: at(0)}, {ORDERS: at(0), wrong: at(0), TopicPartition("orders", 1): at(0)}):
            with pytest.raises(error):
                await engine.offsets.commit("billing", offsets)
            assert committed(engine) == {}
            assert dict(engine.offsets.of("billing")) == {}

    async def test_offsets_go_with_their_topic(self, engine: Engine) -> None:
        """Nothing is remembered of a deleted topic; a group that committed nowhere else is listed no more."""
        orders, refunds = [
            (await engine.create_topic(spec(name))).partitions[0] for name in ("orders", "refunds")
        ]
        await engine.offsets.commit("both", {name_of(orders): at(0), name_of(refunds): at(0)})
        await engine.offsets.commit("one", {name_of(orders): at(0)})
        await engine.delete_topic("orders")
        assert committed(engine) == {"both": {name_of(refunds): at(0)}}
        with pytest.raises(UnknownTopicError):
            await engine.offsets.commit("one", {name_of(orders): at(0)})
        await engine.offsets.forget("one")
        await engine.offsets.forget("both")
        assert committed(engine) == {}

    async def test_a_name_used_again_has_no_offsets(self, engine: Engine, log: PartitionLog) -> None:
        """What was committed in a deleted topic is not found under a topic that takes its name."""
        await log.append(numbered(5))
        await engine.offsets.commit("billing", {ORDERS: at(5)})
        await engine.delete_topic("orders")
        await engine.create_topic(spec("orders", 2))
        assert committed(engine) == {}
        await engine.offsets.commit("audit", {ORDERS: at(0)})
        assert committed(engine) == {"audit": {ORDERS: at(0)}}

    async def test_many_groups(self, engine: Engine, log: PartitionLog) -> None:
        """Hundreds of groups that commit at once are all there, sorted."""
        names = [f"group {n}" for n in range(500)]
        await asyncio.gather(*(engine.offsets.commit(name, {ORDERS: at(0, name)}) for name in names))
        assert committed(engine) == {name: {ORDERS: at(0, name)} for name in names}

    async def test_a_cancelled_commit_leaves_its_neighbours_alone(
        self, engine: Engine, log: PartitionLog
    ) -> None:
        """Cancelling one commit disturbs neither the others nor appends beside it."""
        cancelled = asyncio.create_task(engine.offsets.commit("cancelled", {ORDERS: at(0)}))
        await asyncio.sleep(0)
        appended = log.append(numbered(1))
        cancelled.cancel()
        await engine.offsets.commit("billing", {ORDERS: at(0)})
        assert (await appended).offset == 0
        assert "billing" in engine.offsets.groups()

    @needs(Capability.TRIM)
    async def test_a_trim_leaves_committed_offsets(self, engine: Engine, log: PartitionLog) -> None:
        """A committed offset below the new start stays as it was committed."""
        await log.append(numbered(10))
        await engine.offsets.commit("billing", {ORDERS: at(2)})
        await log.trim(10)
        assert committed(engine) == {"billing": {ORDERS: at(2)}}
