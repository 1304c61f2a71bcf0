"""Hundreds of members that say something at one moment leave the broker's loop to others, too.

test_loop_turns.py says how that is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from blackbox.clients import CHANNEL_OPTIONS
from blackbox.test_loop_turns import WatchedBroker, within_bound
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

COME_BACK_S = 0.5
TOPIC_PARTITIONS_MAX = 1_000


@pytest.fixture
def broker(tmp_path):
    broker = WatchedBroker(
        tmp_path / "data", "storage.engine=memory", f"groups.rejoin_ms={COME_BACK_S * 1_000:.0f}"
    )
    yield broker
    broker.close()


class Crowd:
    """Members that say at once what they own."""

    def __init__(self, stub: TakhinServiceStub, topics: Sequence[str], partitions: int) -> None:
        """topics: what they read; together it has so many partitions."""
        self._stub = stub
        self._topics = topics
        self._partitions = partitions
        self._owned: dict[int, tuple[int, int]] = {}
        self._changed = asyncio.Condition()

    async def attend(self, number: int) -> None:
        call = self._stub.JoinConsumerGroup()
        await call.write(pb.MemberRequest(join=pb.Join(group_id="g", topics=self._topics)))
        async for said in call:
            if said.HasField("assignment"):
                epoch, owned = said.assignment.member_epoch, said.assignment.partitions
                async with self._changed:
                    self._owned[number] = epoch, len(owned)
                    self._changed.notify_all()
                heartbeat = pb.Heartbeat(member_epoch=epoch, owned=pb.OwnedPartitions(partitions=owned))
                await call.write(pb.MemberRequest(heartbeat=heartbeat))

    async def settled(self, members: int) -> None:
        """Return when so many members own everything, in one epoch."""

        def settled() -> bool:
            epochs, owned = zip(*self._owned.values(), strict=True) if self._owned else ((), ())
            all_own = len(owned) == members and min(owned) > 0 and sum(owned) == self._partitions
            return all_own and len(set(epochs)) == 1

        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(settled)


@asynccontextmanager
async def crowd(address: str, topics: Sequence[str], partitions: int) -> AsyncIterator[Crowd]:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield Crowd(TakhinServiceStub(channel), topics, partitions)


async def nobody_left(stub: TakhinServiceStub) -> None:
    while (await stub.ListConsumerGroups(pb.ListConsumerGroupsRequest())).groups:  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # no event tells of it


@pytest.mark.parametrize(
    ("members_max", "partitions"), [(301, 600), (301, 1_000), (1_000, 1_000), (1_000, 4_000)]
)
async def test_the_members_of_a_large_group(broker, figures, members_max, partitions):
    """All but one join over one connection at once, give way to one more, and are cut off together."""
    async with asyncio.TaskGroup() as tasks, grpc.aio.insecure_channel(broker.address) as other:
        stub = TakhinServiceStub(other)
        topics = [f"t{number}" for number in range(-(-partitions // TOPIC_PARTITIONS_MAX))]
        for name in topics:
            of_one = partitions // len(topics)
            await stub.CreateTopic(pb.CreateTopicRequest(name=name, num_partitions=of_one), timeout=60)
        turns = {}
        broker.longest_turn()
        async with crowd(broker.address, topics, partitions) as members:
            attending = [tasks.create_task(members.attend(number)) for number in range(1, members_max)]
            await members.settled(members_max - 1)
            turns["join"] = broker.longest_turn()
            attending.append(tasks.create_task(members.attend(members_max)))
            await members.settled(members_max)
            turns["one more"] = broker.longest_turn()
            for task in attending:
                task.cancel()
        await nobody_left(stub)
        turns["cut off"] = broker.longest_turn()
    figures(
        f"{members_max} members, {partitions} partitions: "
        + ", ".join(f"{name} {turn.busy_ms} ms of {turn.late_ms}" for name, turn in turns.items())
    )
    assert within_bound(*turns.values()), turns
