"""Commits of groups through a session: who may, how many, and what a caller leaves that goes away."""

from __future__ import annotations

import asyncio

import pytest

from broker.support import NOW, batch, broker_over, create, session_of
from takhin.broker.broker import Broker
from takhin.errors import FencedMemberError, GroupNotEmptyError, OverloadedError, UnknownMemberError
from takhin.groups.coordinator import BOOT_BITS
from takhin.members import NOBODY, Committer, JoinGroup
from takhin.model import CommittedOffset, OffsetCommit, TopicPartition
from takhin.settings import GroupSettings, Settings, StorageSettings
from takhin.storage.contract import NO_FENCES
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import spec

AT = TopicPartition("t", 0)
OFFSETS = [OffsetCommit(AT, 0)]


class SlowEngine(MemoryEngine):
    """A memory engine whose commits wait until they may land."""

    def __init__(self) -> None:
        super().__init__()
        self.may_land = asyncio.Event()
        self.waiting: asyncio.Queue[str] = asyncio.Queue()
        self.landed: asyncio.Queue[str] = asyncio.Queue()
        commit = self.offsets.commit

        async def slow(group_id, offsets, fences=NO_FENCES):
            self.waiting.put_nowait(group_id)
            await self.may_land.wait()
            await commit(group_id, offsets, fences)
            self.landed.put_nowait(group_id)

        self.offsets.commit = slow


@pytest.fixture
async def slow():
    engine = SlowEngine()
    await engine.open()
    yield engine
    engine.may_land.set()
    await engine.close()


@pytest.fixture
async def slow_session(slow):
    settings = Settings(groups=GroupSettings(commit_bytes_max=100))
    session = session_of(Broker(slow, settings, clock=lambda: 0, version="test"))
    await create(session)
    return session


async def begun(slow, session, size_bytes=0):
    """A commit that waits for the engine."""
    task = asyncio.create_task(session.commit_offsets("g", OFFSETS, size_bytes=size_bytes))
    await slow.waiting.get()
    return task


async def test_a_commit_goes_on_without_its_caller(slow, slow_session):
    """A caller that has gone takes nothing back: what was accepted lands."""
    task = await begun(slow, slow_session)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not slow.offsets.of("g")
    slow.may_land.set()
    await slow.landed.get()
    assert slow.offsets.of("g")


async def test_bytes_under_way_have_a_limit(slow, slow_session):
    """It counts commits whose callers have gone, too, and is passed by one at most."""
    tasks = [await begun(slow, slow_session, 60) for _ in range(2)]
    for task in tasks:
        task.cancel()
    with pytest.raises(OverloadedError, match="commit_bytes_max"):
        await slow_session.commit_offsets("g", OFFSETS, size_bytes=1)
    slow.may_land.set()
    for _ in tasks:
        await slow.landed.get()
    await asyncio.sleep(0.01)  # the tasks of the commits end right after they have landed
    await slow_session.commit_offsets("g", OFFSETS, size_bytes=60)


async def test_a_commit_of_nothing_beside_a_join(slow, slow_session):
    """It changes nothing of a group that has got its first member meanwhile."""
    commit = asyncio.create_task(slow_session.commit_offsets("g", []))
    await slow.waiting.get()
    member = await slow_session.join_group(JoinGroup("g", topics=frozenset({"t"})))
    slow.may_land.set()
    await commit
    (listed,) = await slow_session.list_groups()
    assert (listed.group_id, listed.member_count) == ("g", 1)
    with pytest.raises(GroupNotEmptyError):
        await slow_session.delete_group("g")
    member.leave()


async def test_a_commit_of_nothing(session):
    """Who may not commit is told so whatever the commit holds."""
    with pytest.raises(UnknownMemberError):
        await session.commit_offsets("g", [], Committer("nobody", 1))


async def test_a_commit_of_nobody(session):
    """A member that the group does not have commits nothing."""
    await create(session)
    with pytest.raises(UnknownMemberError):
        await session.commit_offsets("g", OFFSETS, Committer("m", 1))
    assert await session.list_groups() == []


async def test_right_after_a_start_no_member_moves_an_offset_back(tmp_path):
    """A zombie of the former run says that it owns a partition whose owner has committed more since."""
    engine = SqliteEngine(tmp_path / "data", StorageSettings(ballast_bytes=0), clock=lambda: NOW)
    await engine.open()
    await engine.create_topic(spec("t"))
    log = engine.topics["t"].partitions[0]
    await log.append(batch(*[b"v"] * 5))
    await engine.offsets.commit("g", {AT: CommittedOffset(3, "", NOW)})
    former = engine.boot << BOOT_BITS
    await engine.close()
    await engine.open()
    broker = broker_over(engine)
    await broker.coordinator.start()
    session = session_of(broker)
    join = JoinGroup("g", member_id="m", epoch=former + 1, topics=frozenset({"t"}), owned=frozenset({AT}))
    member = await session.join_group(join)
    epoch = broker.coordinator.live("g").value.members["m"].epoch
    me = Committer("m", epoch)
    with pytest.raises(FencedMemberError, match="move back from 3 to 2") as refused:
        await session.commit_offsets("g", [OffsetCommit(AT, 2)], me, size_bytes=1)
    assert refused.value.refused == (AT,)
    await session.commit_offsets("g", [OffsetCommit(AT, 4)], me, size_bytes=1)
    member.leave()
    await session.commit_offsets("g", [OffsetCommit(AT, 1)], NOBODY, size_bytes=1)
    assert engine.offsets.of("g")[AT].offset == 1
    await broker.coordinator.stop(0)
    await engine.close()
