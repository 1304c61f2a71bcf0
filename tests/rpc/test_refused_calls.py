"""What gRPC holds of a call that was refused goes with it, without a look for cyclic garbage.

A connection counts each of its calls until then, and refuses others when there are too many.
"""

from __future__ import annotations

import asyncio
import gc

import grpc
import pytest

from takhin.testing import MemoryBroker

CALLS = 20
SERVICE = "/takhin.v1.TakhinService/"
REFUSED = {
    "a malformed request": (f"{SERVICE}GetTopic", [b"\xff"]),
    "no request": (f"{SERVICE}GetTopic", []),
    "a malformed request of a stream": (f"{SERVICE}ConsumeMessages", [b"\xff"]),
    "an unknown topic": (f"{SERVICE}ConsumeMessages", [b"\x0a\x01x"]),
    "a member without a group": (f"{SERVICE}JoinConsumerGroup", [b""]),
    "an unknown service": ("/grpc.health.v1.Health/Check", [b"\x0a\x01x"]),
}


def held() -> int:
    """How many calls gRPC's server holds something of."""
    return sum(type(each).__name__ == "RPCState" for each in gc.get_objects())


@pytest.fixture
def collecting():
    """Lets a test stop Python's looks for garbage."""
    yield
    gc.enable()


@pytest.mark.parametrize("why", REFUSED)
async def test_nothing_is_held_of_a_refused_call(collecting, why):
    """However it was refused."""
    method, messages = REFUSED[why]
    async with MemoryBroker() as broker, grpc.aio.insecure_channel(broker.address) as channel:
        before = 0
        for number in range(1 + CALLS):
            call = channel.stream_stream(method)(iter(messages))
            assert await call.code() not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)
            if not number:  # what is made once
                gc.collect()
                gc.disable()
                before = held()
        async with asyncio.timeout(10):
            while held() > before:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0.01)
