"""Places for requests on their way in, and whose turn it is."""

import asyncio

import pytest

from takhin.model import Caller
from takhin.rpc.calls import Call
from takhin.rpc.places import Places, Source, source_of

SECONDS = 60
BUSY, OTHER, THIRD = Source("one", "1"), Source("one", "2"), Source("one", "3")
ELSEWHERE = Source("another", "4")


async def waiting(places, *sources):
    """Tasks that wait for places, in this order."""
    order = []

    async def call(source):
        place = await places.wait(source)
        order.append(source)
        place.give_up()

    calls = [asyncio.create_task(call(source)) for source in sources]
    await asyncio.sleep(0)
    return calls, order


async def test_connections_take_turns():
    """One connection with many calls does not keep another from its place."""
    places = Places(1, SECONDS)
    taken = places.take(BUSY)
    calls, order = await waiting(places, BUSY, BUSY, BUSY, OTHER, THIRD)
    taken.give_up()
    await asyncio.gather(*calls)
    assert order == [BUSY, OTHER, THIRD, BUSY, BUSY]


async def test_owners_take_turns():
    """One owner of many connections does not keep another from its place."""
    places = Places(1, SECONDS)
    taken = places.take(BUSY)
    calls, order = await waiting(places, BUSY, OTHER, THIRD, ELSEWHERE, ELSEWHERE)
    taken.give_up()
    await asyncio.gather(*calls)
    assert order == [BUSY, ELSEWHERE, OTHER, ELSEWHERE, THIRD]


async def test_those_who_keep_others_waiting_come_last():
    """Other owners come before them, and other connections of their own; those that wait already, too."""
    places = Places(1, SECONDS)
    taken = places.take(BUSY)
    calls, order = await waiting(places, BUSY, OTHER, BUSY)
    places.trouble(BUSY)
    more, later = await waiting(places, ELSEWHERE, ELSEWHERE)
    taken.give_up()
    await asyncio.gather(*calls, *more)
    assert later + order == [ELSEWHERE, ELSEWHERE, OTHER, BUSY, BUSY]


async def test_those_who_keep_others_waiting_never_have_all_places():
    """Half of the places are left for other connections, and one for other owners."""
    places = Places(8, SECONDS)
    places.trouble(BUSY)
    assert sum(places.take(BUSY) is not None for _ in range(8)) == 4
    assert sum(places.take(OTHER) is not None for _ in range(8)) == 3
    assert sum(places.take(ELSEWHERE) is not None for _ in range(8)) == 1


async def test_trouble_is_forgotten():
    """After its time a connection has the places that others have."""
    places = Places(2, 0)
    places.trouble(BUSY)
    assert [places.take(BUSY) is not None for _ in range(3)] == [True, True, False]


async def test_a_place_given_to_one_who_has_gone_is_given_on():
    """A call that is cancelled while it waits, or just as its turn comes, takes no place with it."""
    places = Places(1, SECONDS)
    taken = places.take(BUSY)
    gone, also_gone, waits = (asyncio.create_task(places.wait(source)) for source in (BUSY, OTHER, THIRD))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    taken.give_up()
    also_gone.cancel()
    async with asyncio.timeout(5):
        await waits


async def test_a_connection_whose_first_call_has_gone_keeps_its_turn():
    """Its next call has it, also if the first one is cancelled in the same turn of the loop."""
    for turns in (0, 1):
        places = Places(1, SECONDS)
        taken = places.take(BUSY)
        calls, order = await waiting(places, BUSY, BUSY, OTHER)
        calls[0].cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        taken.give_up()
        await asyncio.gather(*calls[1:])
        assert order == [BUSY, OTHER]


async def test_the_end_refuses_all_who_wait():
    """They fail with its error; who has a place keeps it."""
    places = Places(1, SECONDS)
    taken = places.take(BUSY)
    calls, order = await waiting(places, BUSY, ELSEWHERE)
    places.refuse(KeyError("end"))
    assert all(isinstance(each, KeyError) for each in await asyncio.gather(*calls, return_exceptions=True))
    assert not order
    assert places.take(BUSY) is None
    taken.give_up()
    assert places.take(BUSY) is not None


async def test_a_call_that_is_cancelled_as_the_end_comes():
    """It leaves no error that nobody looks at."""
    places = Places(1, SECONDS)
    places.take(BUSY)
    calls, _ = await waiting(places, BUSY)
    places.refuse(KeyError("end"))
    calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert not places.awaited


def test_a_connection_belongs_to_its_principal_or_else_to_its_address():
    """One principal has one turn wherever it calls from; without one, all of an address have one."""
    owners = []
    for principal, address in (("a", "10.0.0.1:1"), ("a", "10.0.0.2:1"), ("anonymous", "10.0.0.1:2")):
        call = Call("/x", "ipv4:10.0.0.1:1", streams=False)
        call.caller = Caller(principal, address)
        owners.append(source_of(call).owner)
    assert owners == ["principal a", "principal a", "10.0.0.1"]
