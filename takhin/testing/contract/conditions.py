"""The contract, appends under a condition: repeats, gaps, forgotten producers, an expected offset."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import EndOffsetMismatchError, OutOfSequenceError
from takhin.model import Appended
from takhin.storage.conditions import BATCHES_REMEMBERED
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs
from takhin.testing.contract.records import NOW, batch, numbered, read_all, spec, timed, under


async def refused(log: PartitionLog, sequence: int, count: int = 1) -> str:
    """The reason for which a batch of the producer "p" is out of sequence."""
    end = log.end_offset
    with pytest.raises(OutOfSequenceError) as mismatch:
        await log.append(under(numbered(count), b"p", sequence))
    assert log.end_offset == end
    assert mismatch.value.details["sequence"] == str(sequence)
    return str(mismatch.value)


class Conditions(Harness):
    """Tests of `PartitionLog.append` under a condition."""

    @needs(Capability.SEQUENCES)
    async def test_a_producers_batches_land_one_behind_the_other(self, log: PartitionLog) -> None:
        """With the sequences that it must have each batch is appended, as one without a producer is."""
        sizes, sent = (3, 1, 700, 2), 0
        for size in sizes:
            assert await log.append(under(numbered(size), b"p", sent)) == (
                0,
                sent,
                NOW,
                size,
                False,
            )
            sent += size
        assert log.end_offset == sum(sizes)

    @needs(Capability.SEQUENCES)
    async def test_a_repeat_is_answered_as_the_first_time(self, log: PartitionLog) -> None:
        """The answer has the offset and the timestamp of the first time, and nothing is stored again."""
        await log.append(numbered(4))
        first = await log.append(under(timed(70, 80), b"p"))
        await log.append(under(timed(90), b"p", 2))
        assert first == Appended(0, 4, 70, 2)
        assert await log.append(under(timed(70, 80), b"p")) == Appended(0, 4, 70, 2, duplicate=True)
        assert log.end_offset == 7

    @needs(Capability.SEQUENCES)
    @pytest.mark.parametrize("times", [1, 2, 5])
    async def test_repeats_in_one_group(self, log: PartitionLog, times: int) -> None:
        """A batch that is sent again before the first is durable is a repeat too: all get the same offset."""
        sent = [under(numbered(2), b"p")] * times + [under(numbered(2), b"p", 2)] * times
        landed = await asyncio.gather(*map(log.append, [*sent, numbered(1)]))
        assert [one.offset for one in landed] == [0] * times + [2] * times + [4]
        assert [one.duplicate for one in landed[:-1]] == [False, *[True] * (times - 1)] * 2
        assert [row[3] for row in await read_all(log)] == [b"0", b"1", b"0", b"1", b"0"]

    @needs(Capability.SEQUENCES)
    async def test_a_repeat_while_the_first_is_on_its_way(self, log: PartitionLog) -> None:
        """A repeat is known as one at whatever turn of the event loop it comes."""
        for turns in range(40):
            first = log.append(under(numbered(1), b"p", turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            again = await log.append(under(numbered(1), b"p", turns))
            assert again == (await first)._replace(duplicate=True)
        assert log.end_offset == 40

    @needs(Capability.SEQUENCES)
    async def test_producers_and_partitions_are_apart(self, engine: Engine) -> None:
        """Each producer counts for itself, and in each partition."""
        for log in (await engine.create_topic(spec("orders", 2))).partitions:
            for producer_id in (b"p", b"q", b"\x00", b"\xff" * 16):
                assert not (await log.append(under(numbered(2), producer_id))).duplicate
                assert (await log.append(under(numbered(2), producer_id))).duplicate
            assert log.end_offset == 8

    @needs(Capability.SEQUENCES, Capability.EXPECTED_OFFSET)
    async def test_neighbours_are_left_alone(self, log: PartitionLog) -> None:
        """Refused batches and repeats take no offset from those before and after them in a group."""
        sent = [
            batch(b"a"),
            under(batch(b"gap"), b"p", 5),
            under(batch(b"b"), b"p"),
            under(batch(b"wrong end"), expected_offset=9),
            under(batch(b"b"), b"p"),
            under(batch(b"c", b"d"), b"p", 1, expected_offset=2),
            batch(b"e"),
        ]
        landed = await asyncio.gather(*map(log.append, sent), return_exceptions=True)
        assert [one.offset if isinstance(one, Appended) else type(one) for one in landed] == [
            *(0, OutOfSequenceError, 1, EndOffsetMismatchError, 1, 2, 4),
        ]
        assert [row[3] for row in await read_all(log)] == [b"a", b"b", b"c", b"d", b"e"]

    @needs(Capability.SEQUENCES)
    async def test_out_of_sequence(self, log: PartitionLog) -> None:
        """The sentence says whether it is a gap, an unknown producer, too old a repeat, or another batch."""
        assert "knows nothing of this producer" in await refused(log, 3)
        for n in range(BATCHES_REMEMBERED + 1):
            await log.append(under(numbered(2), b"p", 2 * n))
        assert "there is a gap: the producer's next record is 12" in await refused(log, 13)
        assert (
            "too old a repeat: the producer is at 12 already, and only its last 5 batches, from 2 on, are"
            in await refused(log, 0, 2)
        )
        assert "this is none of its batches" in await refused(log, 2, 1)
        assert "this is none of its batches" in await refused(log, 3, 2)
        assert "this is none of its batches" in await refused(log, 10, 3)
        assert (await log.append(under(numbered(1), b"p", 12))).offset == 12

    @needs(Capability.SEQUENCES)
    async def test_as_many_repeats_are_known_as_may_be_under_way(self, log: PartitionLog) -> None:
        """The last five batches are known, however long each is, and whatever others send meanwhile."""
        for n in range(20):
            await log.append(under(numbered(3), b"p", 3 * n))
            await log.append(under(numbered(1), b"q", n))
        for n in range(20 - BATCHES_REMEMBERED, 20):
            again = await log.append(under(numbered(3), b"p", 3 * n))
            assert (again.offset, again.duplicate) == (4 * n, True)
        assert "too old a repeat" in await refused(log, 3 * (19 - BATCHES_REMEMBERED), 3)

    @needs(Capability.SEQUENCES, Capability.EXPECTED_OFFSET)
    async def test_a_refused_batch_uses_up_no_sequence(self, log: PartitionLog) -> None:
        """After a mismatch the same sequence is sent again, with another expectation."""
        await log.append(numbered(3))
        with pytest.raises(EndOffsetMismatchError):
            await log.append(under(numbered(2), b"p", 0, expected_offset=2))
        assert (await log.append(under(numbered(2), b"p", 0, expected_offset=3))).offset == 3

    @needs(Capability.SEQUENCES, Capability.EXPECTED_OFFSET)
    async def test_a_repeat_whose_expectation_was_met_the_first_time(self, log: PartitionLog) -> None:
        """The log has gone on since, by this very batch: the repeat is answered as the first time."""
        sent = under(numbered(2), b"p", 0, expected_offset=0)
        first = await log.append(sent)
        await log.append(numbered(1))
        assert await log.append(sent) == first._replace(duplicate=True)

    @needs(Capability.SEQUENCES, Capability.TRIM)
    async def test_a_repeat_of_what_has_been_trimmed(self, log: PartitionLog) -> None:
        """A repeat of trimmed records is not stored again, though they are gone."""
        await log.append(under(numbered(5), b"p"))
        await log.trim(5)
        assert (await log.append(under(numbered(5), b"p"))).offset == 0
        assert (log.start_offset, log.end_offset) == (5, 5)

    @needs(Capability.EXPECTED_OFFSET, Capability.TRIM)
    async def test_an_expected_offset(self, log: PartitionLog) -> None:
        """The batch lands if the log ends there; otherwise the error says where it ends."""
        assert (await log.append(under(numbered(2), expected_offset=0))).offset == 0
        await log.trim(2)
        for expected in (0, 1, 3, (1 << 63) - 1):
            with pytest.raises(
                EndOffsetMismatchError, match=f"ends at 2, not at the expected {expected}"
            ) as mismatch:
                await log.append(under(numbered(1), expected_offset=expected))
            assert mismatch.value.end_offset == 2
        assert (await log.append(under(numbered(1), expected_offset=2))).offset == 2

    @needs(Capability.EXPECTED_OFFSET)
    async def test_of_many_writers_one_wins(self, log: PartitionLog) -> None:
        """Of several appends that expect the same end at the same time, exactly one lands."""
        for n in range(10):
            outcomes = await asyncio.gather(
                *(log.append(under(numbered(1), expected_offset=n)) for _ in range(8)), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [Appended, *[EndOffsetMismatchError] * 7]
        assert log.end_offset == 10

    @needs(Capability.SEQUENCES)
    async def test_the_producer_silent_for_longest_is_forgotten(self, forgetful: PartitionLog) -> None:
        """A new producer takes its place; those that have sent since are still known."""
        log = forgetful
        await asyncio.gather(
            *(log.append(under(numbered(1), producer_id)) for producer_id in (b"p", b"q", b"r"))
        )
        await log.append(under(numbered(1), b"p", 1))
        await log.append(under(numbered(1), b"s"))  # q is forgotten
        with pytest.raises(OutOfSequenceError, match="knows nothing of this producer"):
            await log.append(under(numbered(1), b"q", 1))
        for producer_id, sequence in ((b"p", 1), (b"r", 0), (b"s", 0)):
            assert (await log.append(under(numbered(1), producer_id, sequence))).duplicate
        landed = await asyncio.gather(*(log.append(under(numbered(1), b"%d" % n)) for n in range(10)))
        assert [one.offset for one in landed] == list(range(5, 15))
        assert not (await log.append(under(numbered(1), b"p"))).duplicate

    @needs(Capability.SEQUENCES)
    async def test_a_first_batch_that_may_be_forgotten(self, forgetful: PartitionLog) -> None:
        """A repeat that says so is refused if the first one may have been stored and forgotten since."""
        log = forgetful
        await log.append(under(numbered(1), b"lost answer"))
        again = under(numbered(1), b"lost answer", maybe_stored_from=0)
        assert (await log.append(again)).duplicate
        for n in range(3):
            await log.append(under(numbered(1), b"%d" % n))  # the last of them takes its place
        with pytest.raises(OutOfSequenceError, match="knows nothing of this producer"):
            await log.append(again)
        with pytest.raises(OutOfSequenceError, match="knows nothing of this producer"):
            await log.append(under(numbered(1), b"new", maybe_stored_from=0))
        assert log.end_offset == 4

    @needs(Capability.SEQUENCES)
    async def test_a_first_batch_that_cannot_be_forgotten(self, forgetful: PartitionLog) -> None:
        """It is stored if the log remembers all producers since the attempt, whatever it forgot before."""
        log = forgetful
        assert not (await log.append(under(numbered(1), b"first", maybe_stored_from=0))).duplicate
        for n in range(10):
            await log.append(under(numbered(1), b"%d" % n))
            sent = under(numbered(1), b"never arrived %d" % n, maybe_stored_from=log.end_offset)
            assert not (await log.append(sent)).duplicate
            assert (await log.append(sent)).duplicate
        assert log.end_offset == 21

    @needs(Capability.SEQUENCES, Capability.EXPECTED_OFFSET)
    async def test_a_refused_producer_takes_nobodys_place(self, forgetful: PartitionLog) -> None:
        """Nobody is forgotten for a producer that begins with a gap, or whose expectation is wrong."""
        log = forgetful
        for producer_id in (b"p", b"q", b"r"):
            await log.append(under(numbered(1), producer_id))
        for wrong in (under(numbered(1), b"s", 1), under(numbered(1), b"s", expected_offset=0)):
            with pytest.raises((OutOfSequenceError, EndOffsetMismatchError)):
                await log.append(wrong)
        assert (await log.append(under(numbered(1), b"p"))).duplicate
