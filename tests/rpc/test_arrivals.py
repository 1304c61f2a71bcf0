"""Places for requests on their way in."""

import asyncio

from takhin.rpc.arrivals import Places


async def test_connections_take_turns():
    """One connection with many calls does not keep another from its place."""
    places = Places(1)
    await places.take("busy")
    order = []

    async def call(peer):
        await places.take(peer)
        order.append(peer)
        places.give_back()

    calls = [asyncio.create_task(call(peer)) for peer in ("busy", "busy", "busy", "other", "third")]
    await asyncio.sleep(0)
    places.give_back()
    await asyncio.gather(*calls)
    assert order == ["busy", "other", "third", "busy", "busy"]


async def test_a_place_given_to_one_who_has_gone_is_given_on():
    """A call that is cancelled while it waits, or just as its turn comes, takes no place with it."""
    places = Places(1)
    await places.take("a")
    gone, also_gone, waits = (asyncio.create_task(places.take(peer)) for peer in "abc")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    places.give_back()
    also_gone.cancel()
    async with asyncio.timeout(5):
        await waits
