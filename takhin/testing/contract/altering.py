"""The contract, changes of a topic: more partitions and another config, under whoever uses its logs."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import InvalidArgumentError, TakhinError, UnknownTopicError
from takhin.model import (
    Appended,
    CommittedOffset,
    TimestampType,
    TopicConfig,
    TopicPartition,
    TopicSpec,
)
from takhin.storage.contract import Engine, PartitionLog, Topic
from takhin.testing.contract.harness import Harness, turns
from takhin.testing.contract.records import NOW, as_expected, changed, numbered, read_all, spec

OTHER_CONFIG = TopicConfig(7, TimestampType.LOG_APPEND_TIME)


def facts(topic: Topic) -> object:
    """All that tells a topic from another."""
    return topic.name, topic.topic_id, topic.config, list(topic.partitions)


class Altering(Harness):
    """Tests of `Engine.alter_topic`."""

    async def test_more_partitions(self, engine: Engine) -> None:
        """The logs that were there are the same objects; new ones behind them are empty and take records."""
        topic = await engine.create_topic(spec("orders", 2))
        for log in topic.partitions:
            await log.append(numbered(3))
        altered = await changed(engine, spec("orders", 5))
        assert facts(engine.topics["orders"]) == facts(altered)
        assert altered.topic_id == topic.topic_id
        assert all(old is new for old, new in zip(topic.partitions, altered.partitions[:2], strict=True))
        assert [(log.topic, log.partition) for log in altered.partitions] == [("orders", n) for n in range(5)]
        assert len({log.incarnation_id for log in altered.partitions}) == 5
        for log in altered.partitions[2:]:
            assert (log.start_offset, log.end_offset, log.closed) == (0, 0, False)
            assert (await log.append(numbered(2))).offset == 0
        for log in altered.partitions[:2]:
            assert (await log.append(numbered(2, 3))).offset == 3
            assert await read_all(log) == as_expected(numbered(5), 0)

    async def test_another_config(self, engine: Engine) -> None:
        """The config is seen at once in the answer and in the catalogue; the logs stay as they are."""
        topic = await engine.create_topic(spec("orders", 2))
        altered = await changed(engine, spec("orders", 2, OTHER_CONFIG))
        assert (altered.config, engine.topics["orders"].config) == (OTHER_CONFIG, OTHER_CONFIG)
        assert list(altered.partitions) == list(topic.partitions)
        again = await changed(engine, spec("orders", 2, topic.config))
        assert facts(again) == facts(topic)

    async def test_a_change_that_changes_nothing(self, engine: Engine) -> None:
        """Asking for what is there already is granted."""
        topic = await engine.create_topic(spec("orders", 2))
        assert facts(await changed(engine, spec("orders", 2))) == facts(topic)

    async def test_changes_one_after_the_other(self, engine: Engine) -> None:
        """A topic grows as often as it is asked to, and every log keeps its place."""
        logs = list((await engine.create_topic(spec("orders"))).partitions)
        for count in range(2, 6):
            altered = await changed(engine, spec("orders", count, TopicConfig(count)))
            assert altered.config == TopicConfig(count)
            assert list(altered.partitions)[: len(logs)] == logs
            logs = list(altered.partitions)
            assert (await logs[-1].append(numbered(count))).partition == count - 1
        assert [log.end_offset for log in logs] == [0, 2, 3, 4, 5]

    async def test_fewer_partitions_are_refused(self, engine: Engine) -> None:
        """The number of partitions only grows: nothing is changed, the config in the request neither."""
        topic = await engine.create_topic(spec("orders", 3))
        await topic.partitions[2].append(numbered(3))
        before = facts(engine.topics["orders"])
        for count in (2, 1):
            with pytest.raises(InvalidArgumentError):
                await changed(engine, spec("orders", count, OTHER_CONFIG))
        assert facts(engine.topics["orders"]) == before
        assert await read_all(topic.partitions[2]) == as_expected(numbered(3), 0)

    async def test_a_change_is_made_of_what_the_one_before_it_made(self, engine: Engine) -> None:
        """Each change is decided when its turn has come, so none undoes another one."""
        await engine.create_topic(spec("orders", 1, TopicConfig(1)))

        def one_more(topic: Topic) -> TopicSpec:
            more = topic.config.max_message_bytes + 1
            return TopicSpec("orders", len(topic.partitions) + 1, TopicConfig(more))

        await asyncio.gather(*(engine.alter_topic("orders", one_more) for _ in range(5)))
        topic = engine.topics["orders"]
        assert (len(topic.partitions), topic.config) == (6, TopicConfig(6))

    async def test_a_change_that_is_given_up_changes_nothing(self, engine: Engine) -> None:
        """What decides about the change may refuse it: the caller gets that error, and others go on."""
        before = facts(await engine.create_topic(spec("orders")))

        def refuse(_: Topic) -> TopicSpec:
            raise InvalidArgumentError("not today")

        with pytest.raises(InvalidArgumentError, match="not today"):
            await engine.alter_topic("orders", refuse)
        assert facts(engine.topics["orders"]) == before
        assert len((await changed(engine, spec("orders", 2))).partitions) == 2

    async def test_a_topic_that_becomes_read_only_has_all_that_was_appended(self, engine: Engine) -> None:
        """Appends of before have landed when the change is answered, in every partition."""
        topic = await engine.create_topic(spec("orders", 3))
        pending = [log.append(numbered(500, 500 * n)) for log in topic.partitions for n in range(10)]
        await changed(engine, spec("orders", 3, TopicConfig(1 << 20, read_only=True)))
        assert all(future.done() for future in pending)
        assert [log.end_offset for log in topic.partitions] == [5_000] * 3

    async def test_an_unknown_topic_is_refused(self, engine: Engine) -> None:
        """A topic that is not there, or no longer, cannot be changed, and none is made."""
        await engine.create_topic(spec("orders"))
        await engine.delete_topic("orders")
        for name in ("orders", "refunds"):
            with pytest.raises(UnknownTopicError):
                await changed(engine, spec(name, 2))
        assert dict(engine.topics) == {}

    async def test_other_topics_are_left_alone(self, engine: Engine) -> None:
        """A change is of the topic that it names."""
        refunds = await engine.create_topic(spec("refunds", 2))
        await engine.create_topic(spec("orders"))
        await changed(engine, spec("orders", 4, OTHER_CONFIG))
        assert facts(engine.topics["refunds"]) == facts(refunds)

    async def test_the_catalogue_before_is_a_snapshot(self, engine: Engine) -> None:
        """Who looked at the catalogue before a change goes on seeing what was there."""
        await engine.create_topic(spec("orders"))
        before = engine.topics
        config = before["orders"].config
        await changed(engine, spec("orders", 3, OTHER_CONFIG))
        assert (len(before["orders"].partitions), before["orders"].config) == (1, config)
        assert len(engine.topics["orders"].partitions) == 3

    async def test_who_waits_goes_on_waiting(self, engine: Engine) -> None:
        """A change wakes nobody who waits for growth; the next append does, also in a new partition."""
        old = (await engine.create_topic(spec("orders"))).partitions[0]
        waiting = asyncio.create_task(old.grown(0))
        await turns()
        altered = await changed(engine, spec("orders", 2, OTHER_CONFIG))
        waiting_for_new = asyncio.create_task(altered.partitions[1].grown(0))
        await turns()
        assert not waiting.done()
        assert not waiting_for_new.done()
        await asyncio.gather(*(log.append(numbered(1)) for log in altered.partitions))
        async with asyncio.timeout(self.wait_seconds):
            await asyncio.gather(waiting, waiting_for_new)

    async def test_committed_offsets_stay(self, engine: Engine) -> None:
        """Groups keep what they have committed, and commit in new partitions as soon as these are there."""
        await engine.create_topic(spec("orders", 2))
        committed = CommittedOffset(0, "kept", NOW)
        await engine.offsets.commit("billing", {TopicPartition("orders", 1): committed})
        await changed(engine, spec("orders", 3))
        assert dict(engine.offsets.of("billing")) == {TopicPartition("orders", 1): committed}
        await engine.offsets.commit("billing", {TopicPartition("orders", 2): committed})
        assert sorted(engine.offsets.of("billing")) == [("orders", 1), ("orders", 2)]

    async def test_a_changed_topic_is_deleted_whole(self, engine: Engine) -> None:
        """A delete closes old and new logs alike, and the name is free again."""
        await engine.create_topic(spec("orders", 2))
        altered = await changed(engine, spec("orders", 4))
        await asyncio.gather(*(log.append(numbered(1)) for log in altered.partitions))
        await engine.delete_topic("orders")
        assert all(log.closed for log in altered.partitions)
        again = await engine.create_topic(spec("orders", 4))
        assert [log.end_offset for log in again.partitions] == [0] * 4

    async def test_appends_in_flight(self, engine: Engine) -> None:
        """Appends under way while their topic is changed land in their order, as if nothing had happened."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        pending = [log.append(numbered(10, 10 * n)) for n in range(20)]
        change = asyncio.create_task(changed(engine, spec("orders", 4, OTHER_CONFIG)))
        for n in range(20, 40):
            pending.append(log.append(numbered(10, 10 * n)))
            await asyncio.sleep(0)
        await change
        landed = await asyncio.gather(*pending)
        assert [one.offset for one in landed] == list(range(0, 400, 10))
        assert await read_all(log) == as_expected(numbered(400), 0)

    async def test_of_concurrent_changes_the_largest_stays(self, engine: Engine) -> None:
        """Changes at the same time are made one after the other; one that would then shrink is refused."""
        await engine.create_topic(spec("orders"))
        answers = await asyncio.gather(
            *(changed(engine, spec("orders", count)) for count in (2, 5, 3, 4)), return_exceptions=True
        )
        granted = [answer for answer in answers if not isinstance(answer, BaseException)]
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert len(granted) + len(refused) == 4
        assert all(isinstance(error, InvalidArgumentError) for error in refused)
        logs = engine.topics["orders"].partitions
        assert len(logs) == 5
        assert all(log is logs[log.partition] for topic in granted for log in topic.partitions)

    async def test_concurrent_changes_and_a_delete(self, engine: Engine) -> None:
        """Each change is granted or finds no topic; in the end there is none, and all logs are closed."""
        topic = await engine.create_topic(spec("orders"))
        logs: list[PartitionLog] = list(topic.partitions)

        async def alter(count: int) -> str:
            try:
                logs.extend((await changed(engine, spec("orders", count))).partitions)
            except UnknownTopicError:
                return "refused"
            return "granted"

        pending = topic.partitions[0].append(numbered(5))
        async with asyncio.timeout(self.wait_seconds):
            before, _, after = await asyncio.gather(alter(2), engine.delete_topic("orders"), alter(3))
            [answer] = await asyncio.gather(pending, return_exceptions=True)
        assert {before, after} <= {"granted", "refused"}
        assert isinstance(answer, Appended | TakhinError)
        assert dict(engine.topics) == {}
        assert all(log.closed for log in logs)
        assert len((await engine.create_topic(spec("orders", 1))).partitions) == 1
