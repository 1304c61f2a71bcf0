"""A produce stream's end."""

import asyncio

import pytest

from takhin.errors import ShuttingDownError
from takhin.rpc.produce_stream import ProduceStreams
from takhin.settings import Settings


async def never():
    """The requests of a client that sends none."""
    await asyncio.Event().wait()
    yield


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_stream_that_has_just_begun_ends_with_the_others(turns):
    """Also if its reader has not had its first turn yet."""
    streams = ProduceStreams(Settings().produce)
    stream = asyncio.create_task(anext(streams.answers(None, never())))
    for _ in range(turns):
        await asyncio.sleep(0)
    streams.drain()
    with pytest.raises(ShuttingDownError):
        async with asyncio.timeout(5):
            await stream
