"""The coordinator over real engines: what it holds around the state machine, and that it lets go of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest

from groups.attendee import NOW, WAIT_SECONDS, Attendee, create, shared, until
from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    GroupNotEmptyError,
    InvalidArgumentError,
    ShuttingDownError,
    UnknownMemberError,
)
from takhin.groups.coordinator import BOOT_BITS, Coordinator
from takhin.members import NOBODY, Committer, Heartbeat, JoinGroup, Leave, Subscribe
from takhin.model import CommittedOffset, GroupState, TopicConfig, TopicPartition, TopicSpec
from takhin.turns import others_turn

AT_0 = CommittedOffset(0, "", NOW)


def committer(member: Attendee, epoch: int | None = None) -> Committer:
    return Committer(member.member_id, member.epoch if epoch is None else epoch)


async def test_members_come_and_go(engine, join, coordinator):
    """The partitions are shared out again each time; the group is known as long as it has members."""
    orders = await create(engine, "orders", 6)
    first = await join()
    await first.owns(orders)
    second, third = await join(), await join()
    await shared([first, second, third], orders)
    assert coordinator.state("g") == (GroupState.STABLE, 3)
    second.leave()
    assert await second.ended() is None
    await shared([first, third], orders)
    for member in (first, third):
        member.leave()
    assert list(coordinator.populated) == []
    assert coordinator.state("g") == (GroupState.EMPTY, 0)


async def test_epochs_begin_with_the_boot_and_never_repeat(engine, join):
    """A group that has lost all its members and gets new ones goes on above its former epochs."""
    await create(engine, "orders", 1)
    last = (engine.boot << BOOT_BITS) - 1
    for _ in range(3):
        member = await join()
        await member.owns([TopicPartition("orders", 0)])
        assert last < min(told.epoch for told in member.told)
        last = max(told.epoch for told in member.told)
        member.leave()
    assert last >> BOOT_BITS == engine.boot


async def test_a_broken_stream(engine, join, coordinator):
    """A member that comes back keeps its partitions; one that does not is removed after rejoin_ms."""
    orders = await create(engine, "orders", 4)
    first, second = await join(), await join()
    await shared([first, second], orders)
    told = len(first.told)
    second.break_off()
    again = await join(member_id=second.member_id, epoch=second.epoch, owned=second.owned)
    await again.owns(second.owned)
    again.break_off()
    again.break_off()
    await first.owns(orders)
    assert len(first.told) == told + 1
    assert coordinator.state("g")[1] == 1


async def test_a_group_that_empties_while_members_are_behind(engine, group_settings):
    """What was to be done for its members is no business of the next group of its name."""
    settings = replace(group_settings, members_max=200, members_total_max=200)
    coordinator = Coordinator(engine, settings, lambda: NOW)
    await coordinator.start()
    await create(engine, "orders", 1)
    request = JoinGroup("g", topics=frozenset({"orders"}))
    memberships = [await coordinator.join(request, "127.0.0.1:40000") for _ in range(101)]
    async with asyncio.timeout(WAIT_SECONDS):
        while not coordinator.live("g").value.behind:
            await others_turn()
    for membership in memberships:
        membership.leave()
    assert list(coordinator.populated) == []
    await coordinator.join(request, "127.0.0.1:40000")
    for _ in range(3):
        await others_turn()
    assert coordinator.state("g") == (GroupState.PREPARING_REBALANCE, 1)
    await coordinator.stop(0)


async def test_a_stream_that_breaks_after_another_took_over(engine, join, coordinator):
    """The end of the older stream means nothing for the member."""
    orders = await create(engine, "orders", 2)
    first = await join()
    await first.owns(orders)
    again = await join(member_id=first.member_id, epoch=first.epoch, owned=first.owned)
    assert isinstance(await first.ended(), FencedMemberError)
    first.break_off()
    first.leave()
    await first.membership.hear(Leave())
    await again.owns(orders)
    await asyncio.sleep(0.5)  # past rejoin_ms: there is nothing to wait for if nothing happens
    assert coordinator.state("g") == (GroupState.STABLE, 1)


async def test_sessions_and_revocations_end(engine, join):
    """A silent member is removed after its session, and one that lets go of nothing after its revoke time."""
    orders = await create(engine, "orders", 4)
    silent = await join(session_timeout_ms=1_000)
    await silent.owns(orders)
    second = await join(revoke_timeout_ms=300)
    await shared([silent, second], orders)
    assert isinstance(await silent.ended(), FencedMemberError)
    await second.owns(orders)
    second.obedient = False
    third = await join()
    assert isinstance(await second.ended(), FencedMemberError)
    await third.owns(orders)


async def test_a_commit_under_way_holds_a_hand_over_up(engine, join, coordinator):
    """A partition is its next owner's when the commits of the former one have ended, and not before."""
    orders = await create(engine, "orders", 2)
    first = await join()
    await first.owns(orders)
    second = await join()
    await shared([first, second], orders)
    lost = next(iter(first.owned))
    async with coordinator.committing("g", committer(first), [lost]) as fences:
        fences[lost].check()
        first.leave()
        with pytest.raises(FencedMemberError, match="does not own"):
            fences[lost].check()
        await until(lambda: second.epoch > first.epoch)
        await asyncio.sleep(0.05)  # there is nothing to wait for if nothing happens
        assert lost not in second.owned
    await second.owns(orders)


async def test_a_commit_that_is_written_too_late(engine, join, coordinator):
    """What is accepted, and waits while its member loses the partition, is refused when it is written."""
    orders = await create(engine, "orders", 2)
    first = await join()
    await first.owns(orders)
    async with coordinator.committing("g", committer(first), orders) as fences:
        first.leave()
        with pytest.raises(FencedMemberError) as refused:
            await engine.offsets.commit("g", dict.fromkeys(orders, AT_0), fences)
    assert list(refused.value.refused) == orders
    assert dict(engine.offsets.of("g")) == {}


async def test_who_may_commit(engine, join, coordinator):
    """A member commits what it owns, at its epochs; nobody else does, nor anybody without being a member."""
    orders = await create(engine, "orders", 2)

    async def commits(of: Committer, *partitions: TopicPartition) -> None:
        async with coordinator.committing("g", of, partitions) as fences:
            await engine.offsets.commit("g", dict.fromkeys(partitions, AT_0), fences)

    await commits(NOBODY, *orders)
    with pytest.raises(UnknownMemberError):
        await commits(Committer("m", 1), *orders)
    with pytest.raises(InvalidArgumentError, match="member_epoch"):
        await commits(Committer("", 1), *orders)
    first = await join()
    await first.owns(orders)
    old = first.epoch
    with pytest.raises(GroupNotEmptyError):
        await commits(NOBODY, *orders)
    second = await join()
    await shared([first, second], orders)
    for epoch in (old, first.epoch):
        await commits(committer(first, epoch), *first.owned)
        with pytest.raises(FencedMemberError) as refused:
            await commits(committer(first, epoch), *orders)
        assert set(refused.value.refused) == second.owned
    with pytest.raises(FencedMemberError):
        await commits(committer(first, first.epoch + 1), *first.owned)
    with pytest.raises(GroupNotEmptyError, match="orders"):
        coordinator.check_empty("g", ["other", "orders"])
    coordinator.check_empty("g", ["other"])


async def test_a_plain_commit_under_way(engine, join, coordinator):
    """The first member of a group waits for the commits of nobody's, too."""
    orders = await create(engine, "orders", 2)
    async with coordinator.committing("g", NOBODY, orders[:1]):
        first = await join()
        await first.owns(orders[1:])
    await first.owns(orders)
    assert list(coordinator.populated) == ["g"]


async def test_limits(engine, join):
    """Members of a group and groups with members have limits; what leaves makes room."""
    await create(engine, "orders", 2)
    four = [await join() for _ in range(4)]
    with pytest.raises(GroupFullError, match="members_max"):
        await join()
    second = await join(group_id="second")
    with pytest.raises(GroupFullError, match="groups_max"):
        await join(group_id="third")
    four[0].leave()
    second.leave()
    await join()
    await join(group_id="third")


async def test_members_of_all_groups_have_a_limit(engine, join):
    """It counts neither a member that comes back nor one that takes the place of a static one."""
    await create(engine, "orders", 2)
    members = [await join() for _ in range(4)] + [await join(group_id="second")]
    static = await join(group_id="second", instance_id="static")
    with pytest.raises(GroupFullError, match="members_total_max"):
        await join(group_id="second")
    static.membership.leave(Leave(keep_for_restart=True))
    static = await join(group_id="second", instance_id="static")
    await until(lambda: static.told)
    static.break_off()
    await join(group_id="second", member_id=static.member_id, instance_id="static", epoch=static.epoch)
    with pytest.raises(GroupFullError, match="members_total_max"):
        await join(group_id="second")
    members[0].leave()
    await join(group_id="second")


async def test_patterns_follow_the_catalogue(engine, join):
    """Topics that a pattern matches are read from when they are there, and given up when they are gone."""
    eu = await create(engine, "orders.eu", 2)
    await create(engine, "stock", 1)
    member = await join(topics=frozenset(), pattern=r"orders\..+")
    await member.owns(eu)
    us = await create(engine, "orders.us", 1)
    await member.owns(eu + us)
    await engine.delete_topic("orders.eu")
    await member.owns(us)
    await member.membership.hear(Subscribe(frozenset(), "st.*"))
    await member.owns([TopicPartition("stock", 0)])
    await create(engine, "orders.asia", 1)
    more = await create(engine, "statistics", 1)
    await member.owns([TopicPartition("stock", 0), *more])


async def test_more_partitions(engine, join):
    """New partitions of a topic are shared out."""
    orders = await create(engine, "orders", 2)
    member = await join()
    await member.owns(orders)
    spec = TopicSpec("orders", 4, TopicConfig(max_message_bytes=1_000))
    await engine.alter_topic("orders", lambda _: spec)
    await member.owns(TopicPartition("orders", partition) for partition in range(4))


async def test_a_large_group_is_assigned_beside_the_loop(engine, coordinator, join, request):
    """A target that takes long is made in a thread, for the group as it is when that begins."""
    if "sqlite" in request.node.name:
        pytest.skip("2,001 files take long, and the engine does not matter here")
    many = await create(engine, "orders", 2_001)
    first = await join()
    await first.owns(many)
    others = [await join() for _ in range(3)]
    await shared([first, *others], many)


@pytest.mark.parametrize("committed", [True, False])
async def test_a_restart_of_the_broker(new_engine, group_settings, committed):
    """Members that come back within rejoin_ms keep what they had, and who is new waits for them.

    So it is also with a group that has committed nothing, of which nothing is known.
    """
    engine = new_engine()
    await engine.open()
    orders = await create(engine, "orders", 4)
    held = [frozenset(orders[:3]), frozenset(orders[3:])]
    former = engine.boot << BOOT_BITS
    if committed:
        await engine.offsets.commit("g", dict.fromkeys(orders, AT_0))
    await engine.close()
    engine = new_engine()
    await engine.open()
    coordinator = Coordinator(engine, group_settings, lambda: NOW)
    await coordinator.start()

    async def join(**fields):
        request = JoinGroup("g", topics=frozenset({"orders"}), **fields)
        return Attendee(await coordinator.join(request, "127.0.0.1:40000"))

    fresh = await join()
    first, second = [await join(member_id=str(n), epoch=former + 5, owned=held[n]) for n in range(2)]
    await first.owns(held[0])
    await second.owns(held[1])
    assert first.epoch > former + 5
    assert not fresh.owned
    thief = await join(member_id="thief", epoch=former + 5, owned=held[0])
    await shared([fresh, first, second, thief], orders)
    assert all(told.partitions <= held[0] for told in first.told)
    assert {told.partitions for told in second.told} == {held[1]}
    with pytest.raises(UnknownMemberError):
        await join(member_id="late", epoch=former + 5, owned=held[0])
    await coordinator.stop(0)
    await engine.close()


async def test_a_new_broker_waits_for_nobody(engine, join):
    """Nobody can come back to a broker that starts for the first time, so nobody waits for that."""
    orders = await create(engine, "orders", 1)
    began = asyncio.get_running_loop().time()
    member = await join()
    await member.owns(orders)
    assert asyncio.get_running_loop().time() - began < 0.3


async def test_a_broker_that_stops(engine, coordinator, join):
    """It takes no members, and changes no group that the next run may find again."""
    orders = await create(engine, "orders", 2)
    member = await join()
    await member.owns(orders)
    told = len(member.told)
    coordinator.drain()
    with pytest.raises(ShuttingDownError):
        await join()
    await member.membership.hear(Heartbeat(member.epoch))
    member.break_off()
    assert await member.ended() is None
    assert (len(member.told), coordinator.state("g")) == (told, (GroupState.STABLE, 1))


async def test_nothing_is_left_of_members_that_are_gone(engine, coordinator, join):
    """However they went: no task, no timer that holds them, no group, no stream."""
    orders = await create(engine, "orders", 2)
    gone = []
    for ending in (Attendee.leave, Attendee.break_off):
        for _ in range(5):
            member = await join(topics=frozenset(), pattern="ord.*")
            await member.owns(orders)
            gone += [weakref.ref(each) for each in (member, member.membership)]
            ending(member)
            await member.ended()
            await until(lambda: not coordinator.populated)
            del member
    await until(lambda: gc.collect() >= 0 and not any(ref() for ref in gone))
    running = [task.get_coro().cr_code.co_filename for task in asyncio.all_tasks()]
    assert len([path for path in running if path.endswith("takhin/groups/coordinator.py")]) == 1
    assert not [path for path in running if path.endswith(("live_group.py", "support.py"))]


async def test_an_answer_tells_of_no_new_epoch(engine, join):
    """A heartbeat is answered with its own epoch: a new one comes with the assignment that belongs to it."""
    orders = await create(engine, "orders", 2)
    member = await join()
    await member.owns(orders)
    member.obedient = False
    before = member.epoch
    await join(topics=frozenset({"other"}))
    await until(lambda: member.told[-1].epoch > before)
    answers = len(member.answers)
    await member.membership.hear(Heartbeat(before))
    await until(lambda: len(member.answers) > answers)
    assert member.answers[-1] == before
