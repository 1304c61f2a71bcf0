"""How requests are pulled: who gives way to whom, and what of it is refused."""

import asyncio
from dataclasses import replace

import pytest

from takhin.errors import OverloadedError, ShuttingDownError
from takhin.rpc.arrivals import Arrivals
from takhin.rpc.parsing import Parsed
from takhin.rpc.places import Source
from takhin.settings import Settings

WAIT_S_MAX = 5
RPC = replace(Settings().rpc, arrivals_max=2, slow_arrivals_max=4)


class Call:
    """A call at a server, whose message comes when it is sent. The part of gRPC's context that is used."""

    def __init__(self, arrivals, host=1, port=1):
        self._source = Source(f"10.0.0.{host}", f"ipv4:10.0.0.{host}:{port}")
        self._message = asyncio.get_running_loop().create_future()
        self.asked_for = asyncio.Event()
        self.answered = asyncio.create_task(self._answer(arrivals))

    async def read(self):
        self.asked_for.set()
        return await self._message

    def send(self, message=b"m"):
        self._message.set_result(message)

    async def _answer(self, arrivals):
        async with arrivals.request(self, self._source, parsed) as request:
            return request.pop()


async def parsed(message, _room):
    return Parsed(message, len(message))


@pytest.fixture(autouse=True)
async def in_time():
    """No test waits for long."""
    async with asyncio.timeout(WAIT_S_MAX):
        yield


async def test_messages_that_do_not_come_hold_nobody_up():
    """While another waits they have little time; and not all places, once they are known to be slow."""
    arrivals = Arrivals(2, replace(RPC, slow_arrivals_max=16))
    silent = [Call(arrivals, 1) for _ in range(4)]
    for call in silent[:2]:
        await call.asked_for.wait()
    begin = asyncio.get_running_loop().time()
    for _ in range(10):
        honest = Call(arrivals, 2)
        honest.send()
        assert await honest.answered == b"m"
    assert asyncio.get_running_loop().time() - begin < 0.4
    for call in silent:
        call.send()
        assert await call.answered == b"m"


async def test_of_too_many_slow_ones_the_newest_of_the_worst_is_refused():
    """A host with few of them is not refused for another that has many."""
    arrivals = Arrivals(2, RPC)
    patient = Call(arrivals, 2)
    crowd = [Call(arrivals, 1) for _ in range(4)]
    with pytest.raises(OverloadedError, match="slow_arrivals_max"):
        await crowd[3].answered
    for call in (patient, *crowd[:3]):
        call.send(bytes(100_000))
        assert len(await call.answered) == 100_000


async def test_the_end_refuses_calls_whose_message_is_not_there():
    """Those that wait for it, with a place or without, and those that wait for a place."""
    arrivals = Arrivals(1, RPC)
    begun = Call(arrivals)
    await begun.asked_for.wait()
    waits, waits_too = Call(arrivals), Call(arrivals, 2)
    await waits_too.asked_for.wait()
    arrivals.end()
    for call in (begun, waits, waits_too):
        with pytest.raises(ShuttingDownError):
            await call.answered


async def test_many_clients_on_slow_links():
    """As many as may be slow get through, whatever time each one takes."""
    arrivals = Arrivals(8, replace(RPC, slow_arrivals_max=30))
    slow = [Call(arrivals, 1, number) for number in range(30)]
    while not all(call.asked_for.is_set() for call in slow):
        await slow[-1].asked_for.wait()
    for call in slow:
        call.send(bytes(100_000))
        assert len(await call.answered) == 100_000


async def test_a_slow_message_that_is_there_waits_for_a_place():
    """However many were slow, few at a time are more than bytes."""
    arrivals = Arrivals(1, RPC)
    slow, other = Call(arrivals, 1), Call(arrivals, 2)
    await other.asked_for.wait()  # so the first one is slow
    slow.send(bytes(100_000))
    await asyncio.sleep(0)
    assert not slow.answered.done()
    other.send()
    assert await other.answered == b"m"
    assert len(await slow.answered) == 100_000
