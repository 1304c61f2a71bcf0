"""A broker is killed and started again under many groups: all own what they owned, and no commit is lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack, suppress

import pytest

from blackbox.broker_process import Broker
from client.members import Member
from takhin.client import Admin, Producer, Retry
from takhin.errors import UnknownGroupError

MEMBERS, PARTITIONS, TOPIC = 6, 12, "t"
RETRY = Retry(wait_ms_max=100)
SETTLE_S_MAX = 30.0
SESSION_MS = 20_000


async def settled(admin, groups):
    """Wait until every group is stable with all of its members."""
    return await looked(admin, groups, is_settled)


async def looked(admin, groups, is_so):
    """Look at the groups again and again until each of them is so."""
    async with asyncio.timeout(SETTLE_S_MAX):
        while True:
            with suppress(UnknownGroupError):  # nobody has joined it yet
                described = [await admin.describe_group(group) for group in groups]
                if all(map(is_so, described)):
                    return described
            await asyncio.sleep(0.05)


def is_settled(of):
    owned = sum(len(member.partitions) for member in of.members)
    return of.state == "Stable" and len(of.members) == MEMBERS and owned == PARTITIONS


def is_committed(of):
    return len(of.offsets) == PARTITIONS and not sum(each.lag for each in of.offsets)


def owners(described):
    """Which member owns what, by group."""
    return {
        of.group_id: {member.member_id: sorted(member.partitions) for member in of.members}
        for of in described
    }


@pytest.mark.parametrize(
    ("groups", "restarts"),
    [(2, 1), pytest.param(10, 100, marks=[pytest.mark.soak, pytest.mark.timeout(3_000)])],
)
async def test_restarts(tmp_path, groups, restarts, figures):
    """After each restart everyone owns what it owned, without a rebalance, and commits all that it reads."""
    names = [f"g{number}" for number in range(groups)]
    with ExitStack() as brokers:
        broker = brokers.enter_context(Broker(tmp_path / "data"))
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(Admin(broker.address, retry=RETRY))
            await admin.create_topic(TOPIC, partitions=PARTITIONS)
            producer = await stack.enter_async_context(Producer(broker.address, retry=RETRY))
            options = {"retry": RETRY, "commit_interval_ms": 50, "session_timeout_ms": SESSION_MS}
            members = [
                await stack.enter_async_context(Member(broker.address, name, TOPIC, **options))
                for name in names
                for _ in range(MEMBERS)
            ]
            before = await settled(admin, names)
            all_held = groups * PARTITIONS
            await members[0].until(lambda: sum(len(member.held) for member in members) == all_held)
            told = [list(member.told) for member in members]
            for number in range(restarts):
                for partition in range(PARTITIONS):
                    await (await producer.send(TOPIC, b"%d" % number, partition=partition))
                broker.kill()
                broker = brokers.enter_context(Broker(tmp_path / "data", listen=broker.address))
                after = await settled(admin, names)
                assert owners(after) == owners(before)
                before = after
            await looked(admin, names, is_committed)
            assert [member.told for member in members] == told  # no callback: nothing was given up, or given
            read = {
                (at // MEMBERS, record.partition, record.offset)
                for at, member in enumerate(members)
                for record in member.records
            }
            assert len(read) == groups * PARTITIONS * restarts
    figures(f"{restarts} restarts under {groups} groups of {MEMBERS} members: 0 partitions moved")
