"""A consume call, over the memory engine: what it waits for, where it continues, when it ends."""

import asyncio

import pytest

from broker.support import batch, create, produce
from takhin.errors import UnknownTopicError
from takhin.model import ConsumeRequest


async def offsets_of(chunks):
    """The offsets of each chunk, until the call ends."""
    return [[row[0] for row in chunk.records.rows] async for chunk in chunks]


def compact(engine, *offsets):
    """Remove records from the log, as compaction would."""
    (log,) = engine.topics["t"].partitions
    for offset in offsets:
        del log._rows[offset]


async def test_tailing_consumers_are_woken_by_an_append_and_not_before(session):
    """Every waiting consumer gets what is appended; a quiet log gives an empty chunk after the idle time."""
    await create(session, partitions=2)
    tails = [session.consume(ConsumeRequest("t", partition)) for partition in (0, 0, 1)]
    waits = [asyncio.ensure_future(anext(tail)) for tail in tails]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    await produce(session, "t", 0, batch(b"a"))
    chunks = await asyncio.gather(*waits)
    assert [[row[3] for row in chunk.records.rows] for chunk in chunks] == [[b"a"], [b"a"], []]
    for tail in tails:
        await tail.aclose()


async def test_gaps_are_passed_without_a_word(session, engine):
    """If records were removed, the call continues behind them and sends no empty chunk for them."""
    await create(session)
    await produce(session, "t", 0, batch(*[b"v"] * 10))
    compact(engine, 0, 3, 4, 5, 8, 9)
    assert await offsets_of(session.consume(ConsumeRequest("t", 0, stop_at_end=True))) == [[1, 2, 6, 7]]
    tail = session.consume(ConsumeRequest("t", 0, 8))
    waiting = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    await produce(session, "t", 0, batch(b"new"))
    assert [row[0] for row in (await waiting).records.rows] == [10]
    await tail.aclose()


@pytest.mark.parametrize("min_bytes", [0, 1 << 20])
async def test_a_stop_offset_holds_beyond_a_gap(session, engine, min_bytes):
    """If a read reaches past the stop in a log with gaps, the call neither sends what follows nor waits."""
    await create(session)
    await produce(session, "t", 0, batch(*[b"v"] * 10))
    compact(engine, 2, 3)
    request = ConsumeRequest("t", 0, 1, stop_offset=5, min_bytes=min_bytes, max_wait_ms=60_000)
    assert await offsets_of(session.consume(request)) == [[1, 4]]
    compact(engine, 4)
    request = ConsumeRequest("t", 0, 2, stop_offset=5, min_bytes=min_bytes, max_wait_ms=60_000)
    assert await offsets_of(session.consume(request)) == []


async def test_a_topic_that_is_deleted_ends_the_wait(session):
    """A consumer that waits for more of a deleted topic gets an error, in either kind of wait."""
    await create(session)
    await produce(session, "t", 0, batch(b"a"))
    tail = session.consume(ConsumeRequest("t", 0, 1))
    patient = session.consume(ConsumeRequest("t", 0, 0, min_bytes=1 << 20, max_wait_ms=60_000))
    waits = [asyncio.ensure_future(anext(chunks)) for chunks in (tail, patient)]
    await asyncio.sleep(0)
    await session.delete_topic("t")
    for wait in waits:
        with pytest.raises(UnknownTopicError):
            await wait


async def test_min_bytes_is_met_also_beside_another_consumer(session):
    """A read shared with another consumer, with less than there is now, does not end the wait too early."""
    await create(session)
    await produce(session, "t", 0, batch(b"a" * 100))
    impatient = session.consume(ConsumeRequest("t", 0))
    assert len((await anext(impatient)).records.rows) == 1
    patient = session.consume(ConsumeRequest("t", 0, min_bytes=300, max_wait_ms=60_000))
    waiting = asyncio.ensure_future(anext(patient))
    await produce(session, "t", 0, batch(b"b" * 100))
    assert len((await anext(impatient)).records.rows) == 1
    assert not waiting.done()
    await produce(session, "t", 0, batch(b"c" * 100))
    assert len((await waiting).records.rows) == 3
    await impatient.aclose()
    await patient.aclose()


async def test_what_waits_for_min_bytes_is_read_once_and_the_stream_stays_alive(session, engine, monkeypatch):
    """Records that wait for more are kept, and a quiet stream says that it is alive meanwhile."""
    await create(session)
    (log,) = engine.topics["t"].partitions
    read, begun = log.read, []

    async def noted(offset, **limits):
        begun.append(offset)
        return await read(offset, **limits)

    monkeypatch.setattr(log, "read", noted)
    await produce(session, "t", 0, batch(b"a" * 100))
    patient = session.consume(ConsumeRequest("t", 0, min_bytes=300, max_wait_ms=60_000))
    assert len((await anext(patient)).records.rows) == 0
    await produce(session, "t", 0, batch(b"b" * 100))
    assert len((await anext(patient)).records.rows) == 0
    await produce(session, "t", 0, batch(b"c" * 100))
    assert [row[0] for row in (await anext(patient)).records.rows] == [0, 1, 2]
    assert begun == [0, 1, 2]
    await patient.aclose()


async def test_a_response_that_waited_keeps_to_max_bytes(session):
    """What does not fit beside the records that wait comes in a response of its own."""
    await create(session)
    await produce(session, "t", 0, batch(b"a" * 100))
    patient = session.consume(ConsumeRequest("t", 0, max_bytes=200, min_bytes=190, max_wait_ms=60_000))
    waiting = asyncio.ensure_future(anext(patient))
    await asyncio.sleep(0)
    await produce(session, "t", 0, batch(b"b" * 150))
    assert [row[0] for row in (await waiting).records.rows] == [0]
    await patient.aclose()
