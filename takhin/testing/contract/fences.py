"""The contract, commits of a group's members: each partition's is judged by its fence when it is written."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import FencedMemberError
from takhin.model import TopicPartition
from takhin.storage.contract import Capability, Engine, Fence
from takhin.testing.contract.harness import Harness, Life, needs
from takhin.testing.contract.offsets import at, committed
from takhin.testing.contract.records import numbered, spec

PARTITIONS = [TopicPartition("orders", partition) for partition in range(3)]


def closed() -> Fence:
    """The fence of a partition that the member has lost."""
    fence = Fence()
    fence.close("orders/1 is another member's now")
    return fence


class Fences(Harness):
    """Tests of the fences of `Engine.offsets.commit`, and of the engine's number for each time it is open."""

    async def test_an_open_fence_lets_a_commit_through(self, engine: Engine) -> None:
        """A member that owns its partitions commits like anybody."""
        await engine.create_topic(spec("orders", 3))
        offsets = {name: at(0, str(name)) for name in PARTITIONS}
        await engine.offsets.commit("billing", offsets, dict.fromkeys(PARTITIONS, Fence()))
        assert committed(engine) == {"billing": offsets}

    async def test_a_closed_fence_refuses_its_partition_alone(self, engine: Engine) -> None:
        """What the member has lost is refused by name and stays as it was; the rest is durable."""
        await engine.create_topic(spec("orders", 3))
        first, second, third = PARTITIONS
        await engine.offsets.commit("billing", {second: at(0, "of the new owner")})
        with pytest.raises(FencedMemberError, match="another member's now") as refused:
            await engine.offsets.commit(
                "billing", dict.fromkeys(PARTITIONS, at(0)), {first: Fence(), second: closed()}
            )
        assert list(refused.value.refused) == [second]
        assert committed(engine) == {
            "billing": {first: at(0), second: at(0, "of the new owner"), third: at(0)}
        }

    async def test_a_refused_commit_makes_no_group(self, engine: Engine) -> None:
        """A group of which nothing was taken is not listed."""
        await engine.create_topic(spec("orders", 3))
        fences = {name: closed() for name in PARTITIONS}
        with pytest.raises(FencedMemberError) as refused:
            await engine.offsets.commit("billing", dict.fromkeys(PARTITIONS, at(0)), fences)
        assert list(refused.value.refused) == PARTITIONS
        assert committed(engine) == {}

    @needs(Capability.DURABLE)
    async def test_a_fence_that_closes_while_a_commit_waits(self, engine: Engine) -> None:
        """A commit that was queued behind others is judged when it is written, not when it was made."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        fence = Fence()
        appended = log.append(numbered(100))
        waiting = asyncio.create_task(
            engine.offsets.commit("billing", {PARTITIONS[0]: at(0)}, {PARTITIONS[0]: fence})
        )
        await asyncio.sleep(0)
        fence.close("the member is gone")
        with pytest.raises(FencedMemberError, match="the member is gone"):
            await waiting
        await appended
        assert committed(engine) == {}

    async def test_forgetting_some_topics_of_a_group(self, engine: Engine) -> None:
        """A group that forgets a topic keeps what it has in others, and other groups keep theirs."""
        for name in ("orders", "refunds", "stock"):
            await engine.create_topic(spec(name))
        everywhere = {TopicPartition(name, 0): at(0) for name in ("orders", "refunds", "stock")}
        for group_id in ("audit", "billing"):
            await engine.offsets.commit(group_id, everywhere)
        await engine.offsets.forget("billing", ["orders", "stock", "unheard-of"])
        assert committed(engine) == {
            "audit": everywhere,
            "billing": {TopicPartition("refunds", 0): at(0)},
        }
        await engine.offsets.forget("billing", ["refunds"])
        assert committed(engine) == {"audit": everywhere}

    async def test_the_first_boot(self, engine: Engine) -> None:
        """An engine that is open has been opened at least once."""
        assert engine.boot >= 1

    @needs(Capability.DURABLE)
    async def test_each_boot_has_a_larger_number(self, life: Life) -> None:
        """An engine that is opened again over the same data has a larger number each time."""
        boots = [life.engine.boot, *[(await life.reopen()).boot for _ in range(3)]]
        assert boots == sorted(set(boots))
