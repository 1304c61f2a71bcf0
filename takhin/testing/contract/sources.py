"""The contract, batches made of input records: repeats, whoever sends them, and what is forgotten when."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import EndOffsetMismatchError, InvalidArgumentError, OutOfSequenceError
from takhin.model import Appended, CommittedOffset, TopicConfig
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, Life, needs
from takhin.testing.contract.records import (
    NOW,
    batch,
    name_of,
    numbered,
    read_all,
    source_of,
    spec,
    timed,
    under,
)

TAKEN = Appended(0, -1, -1, 1, duplicate=True)
"""The answer to a batch of one record whose source was taken."""


async def made(log: PartitionLog, of: PartitionLog, offset: int, group_id: str = "g") -> Appended:
    """The answer to a batch of one record, made of a record of another log."""
    return await log.append(under(numbered(1, offset), source=source_of(of, offset, group_id)))


class Sources(Harness):
    """Tests of `PartitionLog.append` with a source."""

    @needs(Capability.SOURCES)
    async def test_what_was_taken_is_not_stored_again(self, engine: Engine, log: PartitionLog) -> None:
        """At or below the highest offset taken a batch is a duplicate; above it, it is stored."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        assert await made(log, came, 0) == Appended(0, 0, NOW, 1)
        for offset in (5, 6, 9):
            assert not (await made(log, came, offset)).duplicate
        for offset in (9, 0, 6, 7, 8):
            assert await made(log, came, offset) == TAKEN
        assert [row[3] for row in await read_all(log)] == [b"0", b"5", b"6", b"9"]

    @needs(Capability.SOURCES)
    async def test_sources_are_apart(self, engine: Engine, log: PartitionLog) -> None:
        """Each group, each input log and each output partition counts for itself."""
        inputs = (await engine.create_topic(spec("in", 2))).partitions
        outputs = [log, *(await engine.create_topic(spec("out", 2))).partitions]
        for group_id in ("g", "G", "g\x00", "🦆"):
            for came in inputs:
                for output in outputs:
                    assert not (await made(output, came, 3, group_id)).duplicate
                    assert (await made(output, came, 3, group_id)).duplicate
        assert [output.end_offset for output in outputs] == [8, 8, 8]

    @needs(Capability.SOURCES)
    async def test_a_name_used_again_is_another_source(self, engine: Engine, log: PartitionLog) -> None:
        """What was taken of a deleted topic says nothing about one that has its name."""
        for _ in range(2):
            came = (await engine.create_topic(spec("in"))).partitions[0]
            assert not (await made(log, came, 7)).duplicate
            await engine.delete_topic("in")
        assert log.end_offset == 2

    @needs(Capability.SOURCES)
    async def test_sources_in_one_group(self, engine: Engine, log: PartitionLog) -> None:
        """Batches that are sent before the first is durable count, too."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        landed = await asyncio.gather(*(made(log, came, offset) for offset in (0, 0, 1, 0, 2, 1, 2, 3)))
        assert [one.duplicate for one in landed] == [False, True, False, True, False, True, True, False]
        assert [row[3] for row in await read_all(log)] == [b"0", b"1", b"2", b"3"]

    @needs(Capability.SOURCES)
    async def test_of_many_who_make_the_same_one_lands(self, engine: Engine, log: PartitionLog) -> None:
        """Several who go through an input at the same time store each output once, in order."""
        came = (await engine.create_topic(spec("in"))).partitions[0]

        async def go() -> list[bool]:
            return [(await made(log, came, offset)).duplicate for offset in range(20)]

        await asyncio.gather(*(go() for _ in range(5)))
        assert [row[3] for row in await read_all(log)] == [b"%d" % n for n in range(20)]

    @needs(Capability.SOURCES, Capability.SEQUENCES)
    async def test_a_producers_repeat_has_its_offset(self, engine: Engine, log: PartitionLog) -> None:
        """A batch that its producer sends again is answered as the first time, by what is known of it."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        await log.append(numbered(4))
        sent = under(timed(70, 80), b"p", source=source_of(came, 3))
        assert await log.append(sent) == Appended(0, 4, 70, 2)
        assert await log.append(sent) == Appended(0, 4, 70, 2, duplicate=True)

    @needs(Capability.SOURCES, Capability.SEQUENCES)
    async def test_what_was_taken_uses_up_no_sequence(self, engine: Engine, log: PartitionLog) -> None:
        """Whatever sequence another producer's batch has, it is a duplicate; the next one has the same."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        await made(log, came, 3)
        for sequence in (0, 5):
            assert await log.append(under(numbered(1), b"q", sequence, source=source_of(came, 3))) == TAKEN
        assert (await log.append(under(numbered(1), b"q", source=source_of(came, 4)))).offset == 1
        with pytest.raises(OutOfSequenceError):
            await log.append(under(numbered(1), b"q", 5, source=source_of(came, 5)))
        assert not (await made(log, came, 5)).duplicate

    @needs(Capability.SOURCES, Capability.EXPECTED_OFFSET)
    async def test_an_expected_offset_with_a_source(self, engine: Engine, log: PartitionLog) -> None:
        """What is refused takes no source; what was taken is a duplicate wherever the log ends now."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        for expected in (1, 0, 0):
            sent = under(numbered(1), expected_offset=expected, source=source_of(came, 3))
            if expected:
                with pytest.raises(EndOffsetMismatchError):
                    await log.append(sent)
            else:
                landed = await log.append(sent)
        assert landed == TAKEN
        assert log.end_offset == 1

    @needs(Capability.SOURCES, Capability.TRIM, Capability.COMPACT)
    async def test_removing_records_leaves_what_was_taken(self, engine: Engine, log: PartitionLog) -> None:
        """Outputs that were trimmed or compacted away are not stored again."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        for offset in range(3):
            await log.append(under(batch(b"v", keys=[b"k"]), source=source_of(came, offset)))
        await log.compact(TopicConfig(1), NOW)
        await log.trim(3)
        for offset in range(3):
            assert await made(log, came, offset) == TAKEN
        assert not (await made(log, came, 3)).duplicate

    @needs(Capability.SOURCES)
    async def test_a_group_is_forgotten_with_its_sources(self, engine: Engine) -> None:
        """Forgetting a group forgets what was taken for it everywhere, and for no other group."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        outputs = (await engine.create_topic(spec("out", 3))).partitions
        for group_id in ("g", "other"):
            await engine.offsets.commit(group_id, {name_of(came): CommittedOffset(0, "", NOW)})
            for output in outputs:
                await made(output, came, 3, group_id)
        for _ in range(2):
            await engine.offsets.forget("g")
            for output in outputs:
                assert (await made(output, came, 3, "other")).duplicate
                assert not (await made(output, came, 3)).duplicate
                assert (await made(output, came, 3)).duplicate

    @needs(Capability.SOURCES)
    async def test_a_group_that_has_sources_alone(self, engine: Engine, log: PartitionLog) -> None:
        """Forgetting says whether anything is known of a group, be it nothing but a source."""
        came = (await engine.create_topic(spec("in"))).partitions[0]
        await made(log, came, 3)
        assert not await engine.offsets.forget("other")
        assert await engine.offsets.forget("g", {"elsewhere"})
        assert await engine.offsets.forget("g")
        assert not await engine.offsets.forget("g")
        assert not (await made(log, came, 3)).duplicate
        await engine.offsets.commit("other", {name_of(came): CommittedOffset(0, "", NOW)})
        assert await engine.offsets.forget("other")

    @needs(Capability.SOURCES)
    async def test_some_topics_of_a_group_are_forgotten(self, engine: Engine, log: PartitionLog) -> None:
        """What was taken of others, and for other groups, stays; the rest can be forgotten later."""
        inputs = {name: (await engine.create_topic(spec(name))).partitions[0] for name in "abc"}
        for came in inputs.values():
            for group_id in ("g", "other"):
                await made(log, came, 3, group_id)
        await engine.offsets.forget("g", {"a", "b", "nowhere"})
        assert [(await made(log, came, 3)).duplicate for came in inputs.values()] == [False, False, True]
        assert all([(await made(log, came, 3, "other")).duplicate for came in inputs.values()])
        await engine.offsets.forget("g")
        assert not any([(await made(log, came, 3)).duplicate for came in inputs.values()])

    @needs(Capability.SOURCES)
    async def test_one_source_too_many(self, forgetting: Engine, forgetful: PartitionLog) -> None:
        """It is refused by name, as long as all that are remembered may be needed; those go on."""
        log = forgetful
        inputs = (await forgetting.create_topic(spec("in", 4))).partitions
        for came in inputs[:3]:
            await made(log, came, 0)
        for _ in range(2):
            with pytest.raises(InvalidArgumentError, match=r"group 'g'.*storage\.sources_max") as refused:
                await made(log, inputs[3], 0)
            assert refused.value.details["field"] == "source"
        for came in inputs[:3]:
            assert (await made(log, came, 0)).duplicate
            assert not (await made(log, came, 1)).duplicate
        await forgetting.offsets.forget("g")
        assert not (await made(log, inputs[3], 0)).duplicate
        assert log.end_offset == 7

    @needs(Capability.SOURCES, Capability.SEQUENCES)
    async def test_a_refused_source_leaves_nothing(self, forgetting: Engine, forgetful: PartitionLog) -> None:
        """Its producer's batch is not remembered, and its neighbours in a group land."""
        log = forgetful
        inputs = (await forgetting.create_topic(spec("in", 4))).partitions
        for came in inputs[:3]:
            await made(log, came, 0)
        refused = under(numbered(1), b"p", source=source_of(inputs[3], 0))
        sent = [numbered(1), refused, under(numbered(1), b"p")]
        landed = await asyncio.gather(*map(log.append, sent), return_exceptions=True)
        assert [one.offset if isinstance(one, Appended) else type(one) for one in landed] == [
            *(3, InvalidArgumentError, 4),
        ]

    @needs(Capability.SOURCES)
    async def test_sources_that_are_gone_make_room(self, forgetting: Engine, forgetful: PartitionLog) -> None:
        """Input logs that were deleted are forgotten where there is no room for another, the others not."""
        log = forgetful
        kept, came = (await forgetting.create_topic(spec("kept", 2))).partitions
        await made(log, kept, 5)
        for _ in range(3):
            gone = (await forgetting.create_topic(spec("gone", 2))).partitions
            for each in gone:
                assert not (await made(log, each, 5)).duplicate
            await forgetting.delete_topic("gone")
        assert not (await made(log, came, 5)).duplicate
        assert (await made(log, kept, 5)).duplicate

    @needs(Capability.SOURCES, Capability.DURABLE)
    async def test_sources_are_there_again(self, life: Life) -> None:
        """What was taken is known after a start, and what was forgotten is not."""
        for name in ("in", "out"):
            await life.engine.create_topic(spec(name, 2))
        for group_id in ("g", "gone"):
            for n in range(2):
                await made(life.log("out", n), life.log("in", n), 5 + n, group_id)
        await life.engine.offsets.forget("gone")
        await life.reopen()
        for n in range(2):
            assert (await made(life.log("out", n), life.log("in", n), 5 + n)).duplicate
            assert not (await made(life.log("out", n), life.log("in", n), 6 + n)).duplicate
            assert not (await made(life.log("out", n), life.log("in", n), 0, "gone")).duplicate
        await life.engine.offsets.forget("g")  # which it has read of from the files
        await life.reopen()
        assert not (await made(life.log("out"), life.log("in"), 0)).duplicate
