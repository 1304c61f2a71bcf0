"""The contract, topics: the catalogue, and logs that end with their topic or their engine."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import TakhinError, TopicExistsError, UnknownTopicError
from takhin.model import Appended, TimestampType, TopicConfig
from takhin.storage.contract import Capability, Engine, Topic
from takhin.testing.contract.harness import Harness, needs, turns
from takhin.testing.contract.records import ALL, as_stored, numbered, read_all, spec

ODD_NAMES = ["a", "x" * 249, "...", ".hidden", "-rf", "0", "0.db", "LOCK", "topics", "tmp", "a-b_c.D", "_one"]


class Topics(Harness):
    """Tests of the catalogue, and of the end of logs and engines."""

    async def test_a_created_topic_is_in_the_catalogue(self, engine: Engine) -> None:
        """A topic comes back with its name, config and partitions, and the catalogue shows the same."""
        topic = await engine.create_topic(spec("orders", 3))
        assert list(engine.topics) == ["orders"]
        for shown in (topic, engine.topics["orders"]):
            assert (shown.name, shown.topic_id, shown.described) == ("orders", topic.topic_id, True)
            assert [(log.topic, log.partition) for log in shown.partitions] == [
                ("orders", n) for n in range(3)
            ]
            assert all(log.incarnation_id for log in shown.partitions)

    @pytest.mark.parametrize(
        "config",
        [TopicConfig(1), TopicConfig(10 << 20, TimestampType.LOG_APPEND_TIME), TopicConfig(1 << 20)],
        ids=str,
    )
    async def test_configs_are_kept(self, engine: Engine, config: TopicConfig) -> None:
        """A topic has the configs it was created with."""
        assert (await engine.create_topic(spec("orders", config=config))).config == config
        assert engine.topics["orders"].config == config

    @pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: name[:12])
    async def test_every_allowed_name_works(self, engine: Engine, name: str) -> None:
        """A name that is allowed names a topic, however it looks to a file system, and only that topic."""
        log = (await engine.create_topic(spec(name))).partitions[0]
        await log.append(numbered(2))
        assert list(engine.topics) == [name]
        await engine.delete_topic(name)
        assert list(engine.topics) == []

    async def test_names_that_differ_in_case_are_two_topics(self, engine: Engine) -> None:
        """Topic names that differ in case name two topics."""
        upper, lower = await asyncio.gather(*map(engine.create_topic, (spec("Orders"), spec("orders"))))
        await upper.partitions[0].append(numbered(1))
        assert upper.topic_id != lower.topic_id
        assert lower.partitions[0].end_offset == 0

    async def test_creating_a_topic_twice_is_refused(self, engine: Engine) -> None:
        """A topic that exists is not touched by another create, whatever it asks for."""
        topic = await engine.create_topic(spec("orders", 2))
        await topic.partitions[0].append(numbered(3))
        with pytest.raises(TopicExistsError):
            await engine.create_topic(spec("orders", 5, TopicConfig(7)))
        same = engine.topics["orders"]
        assert (same.topic_id, same.config, len(same.partitions)) == (topic.topic_id, topic.config, 2)
        assert len(await read_all(same.partitions[0])) == 3

    async def test_of_concurrent_creates_one_wins(self, engine: Engine) -> None:
        """Of creates of one name at the same time exactly one succeeds, and its topic is the one in place."""
        answers = await asyncio.gather(
            *(engine.create_topic(spec("orders", n)) for n in range(1, 9)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, TopicExistsError)]
        [winner] = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(refused) == 7
        assert engine.topics["orders"].topic_id == winner.topic_id
        assert len(engine.topics["orders"].partitions) == len(winner.partitions)
        assert (await winner.partitions[0].append(numbered(1))).offset == 0

    async def test_concurrent_creates_of_different_names(self, engine: Engine) -> None:
        """Topics created at the same time are all there, each with its own id."""
        topics = await asyncio.gather(*(engine.create_topic(spec(f"t{n}", 2)) for n in range(8)))
        assert sorted(engine.topics) == [f"t{n}" for n in range(8)]
        assert len({topic.topic_id for topic in topics}) == 8

    async def test_of_concurrent_deletes_one_wins(self, engine: Engine) -> None:
        """Of deletes of one topic at the same time exactly one succeeds; the others find no topic."""
        await engine.create_topic(spec("orders"))
        answers = await asyncio.gather(
            *(engine.delete_topic("orders") for _ in range(4)), return_exceptions=True
        )
        assert sum(answer is None for answer in answers) == 1
        assert sum(isinstance(answer, UnknownTopicError) for answer in answers) == 3
        assert list(engine.topics) == []

    async def test_deleting_an_unknown_topic_is_refused(self, engine: Engine) -> None:
        """A topic that is not there cannot be deleted, nor twice."""
        with pytest.raises(UnknownTopicError):
            await engine.delete_topic("orders")
        await engine.create_topic(spec("orders"))
        await engine.delete_topic("orders")
        with pytest.raises(UnknownTopicError):
            await engine.delete_topic("orders")

    async def test_delete_leaves_other_topics(self, engine: Engine) -> None:
        """Deleting a topic takes its own records only, also from topics whose names begin alike."""
        for name in ("order", "orders", "orders.eu"):
            await (await engine.create_topic(spec(name))).partitions[0].append(numbered(2))
        await engine.delete_topic("orders")
        assert sorted(engine.topics) == ["order", "orders.eu"]
        for topic in engine.topics.values():
            assert len(await read_all(topic.partitions[0])) == 2

    async def test_a_name_used_again_is_a_new_topic(self, engine: Engine) -> None:
        """A topic created under a former name has a new id and empty logs."""
        old = await engine.create_topic(spec("orders", 2))
        await old.partitions[0].append(numbered(5))
        await engine.delete_topic("orders")
        new = await engine.create_topic(spec("orders", 3, TopicConfig(9)))
        assert new.topic_id != old.topic_id
        assert (len(new.partitions), new.config) == (3, TopicConfig(9))
        log = new.partitions[0]
        assert log.incarnation_id != old.partitions[0].incarnation_id
        assert (log.start_offset, log.end_offset, log.closed) == (0, 0, False)
        assert as_stored(await log.read(0, **ALL)) == []
        assert (await log.append(numbered(1))).offset == 0
        assert old.partitions[0].closed

    async def test_a_deleted_log_takes_no_records(self, engine: Engine) -> None:
        """Whoever still holds a log of a deleted topic learns at once that the topic is gone."""
        topic = await engine.create_topic(spec("orders", 2))
        await engine.delete_topic("orders")
        for log in topic.partitions:
            assert log.closed
            with pytest.raises(UnknownTopicError):
                log.append(numbered(1))

    async def test_a_deleted_log_is_not_read(self, engine: Engine) -> None:
        """Reads of a deleted topic's log are refused as well: its records are gone."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        await log.append(numbered(3))
        await engine.delete_topic("orders")
        for question in (log.read(0, **ALL), log.offset_for_time(0)):
            with pytest.raises(UnknownTopicError):
                await question

    @needs(Capability.TRIM)
    async def test_a_deleted_log_is_not_trimmed(self, engine: Engine) -> None:
        """A trim of a deleted topic's log is refused, also one that would change nothing."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        await log.append(numbered(3))
        await engine.delete_topic("orders")
        for offset in (0, 2):
            with pytest.raises(UnknownTopicError):
                await log.trim(offset)

    async def test_delete_under_pending_appends(self, engine: Engine) -> None:
        """Each append under way when its topic is deleted is answered, one way or the other."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        pending = [log.append(numbered(10)) for _ in range(50)]
        await engine.delete_topic("orders")
        async with asyncio.timeout(self.wait_seconds):
            answers = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(answer, Appended | TakhinError) for answer in answers)

    async def test_close_finishes_what_was_queued(self, unopened: Engine) -> None:
        """Closing the engine while appends wait for their commit completes every one of them."""
        await unopened.open()
        logs = (await unopened.create_topic(spec("orders", 2))).partitions
        pending = [log.append(numbered(10)) for log in logs for _ in range(50)]
        await unopened.close()
        assert all(future.done() and future.exception() is None for future in pending)
        assert [future.result().offset for future in pending] == [*range(0, 500, 10)] * 2

    async def test_close_closes_every_log(self, unopened: Engine) -> None:
        """After close each log is closed, and refuses records."""
        await unopened.open()
        topics: list[Topic] = [await unopened.create_topic(spec(name, 2)) for name in ("orders", "refunds")]
        await unopened.close()
        logs = [log for topic in topics for log in topic.partitions]
        assert all(log.closed for log in logs)
        for log in logs:
            with pytest.raises(UnknownTopicError):
                log.append(numbered(1))

    async def test_the_catalogue_is_a_snapshot(self, engine: Engine) -> None:
        """Who goes through the catalogue while topics come and go sees it as it was when they asked."""
        await engine.create_topic(spec("orders"))
        before = engine.topics
        await engine.create_topic(spec("refunds"))
        await engine.delete_topic("orders")
        assert list(before) == ["orders"]
        assert list(engine.topics) == ["refunds"]

    async def test_changes_of_the_catalogue_are_told(self, engine: Engine) -> None:
        """Who knows a former snapshot is told at once, and who knows the newest at the next change."""
        before = engine.topics
        waiting = asyncio.create_task(engine.catalogue_changed(before))
        await turns()
        assert not waiting.done()
        await engine.create_topic(spec("orders"))
        async with asyncio.timeout(self.wait_seconds):
            await waiting
            await engine.catalogue_changed(before)
        waiting = asyncio.create_task(engine.catalogue_changed(engine.topics))
        await turns()
        assert not waiting.done()
        await engine.delete_topic("orders")
        async with asyncio.timeout(self.wait_seconds):
            await waiting

    async def test_an_engine_without_topics_closes(self, unopened: Engine) -> None:
        """An engine that nobody used opens on nothing and closes."""
        await unopened.open()
        assert dict(unopened.topics) == {}
        await unopened.close()
