"""Members of a group through broken connections, restarts, long silences, slow work and kills."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blackbox.broker_process import Broker
from client.members import Member
from client.relay import Relay
from client.support import produce
from client.test_cancelled import cancel_all
from takhin.client import Admin, Consumer, Producer
from takhin.client.errors import UnreachableError
from takhin.errors import FencedMemberError, InstanceInUseError
from takhin.testing import MemoryBroker

SCRIPTS = Path(__file__).with_name("scripts.py")


async def test_a_cut_connection_changes_nothing(server, admin, wide, name):
    """Members come back on new connections with what they hold: nothing is taken away or read twice."""
    async with Relay(server) as relay, Member(relay.address, name, wide) as one:
        await one.holds(3)
        async with Member(relay.address, name, wide) as two:
            await two.holds(1)
            told = [list(one.told), list(two.told)]
            for partition in range(3):
                await produce(server, wide, [b"0"] * 5, partition=partition)
            await one.until(lambda: len(one.records + two.records) == 15)
            relay.cut()
            for partition in range(3):
                await produce(server, wide, [b"1"] * 5, partition=partition)
            await one.until(lambda: len(one.records + two.records) == 30)
            assert [one.told, two.told] == told
            await one.consumer.commit()
    found = await admin.committed_offsets(name)
    assert {of.offset for of in found.values()} == {10}


async def test_connections_that_grow_old(data_dir, name):
    """Members outlive their connections: nothing is taken away, read twice or left out."""
    with Broker(data_dir, rpc_connection_age_ms=300, rpc_connection_age_grace_ms=100) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t", partitions=2)
        async with Member(broker.address, name, "t") as one, Member(broker.address, name, "t") as two:
            await one.until(lambda: len(one.held) == len(two.held) == 1)
            told = [list(one.told), list(two.told)]
            for number in range(10):
                for partition in range(2):
                    await produce(broker.address, "t", [b"%d" % number], partition=partition)
                await asyncio.sleep(0.2)
            await one.until(lambda: len(one.records + two.records) == 20)
            assert [one.told, two.told] == told
        async with Admin(broker.address) as admin:
            found = await admin.committed_offsets(name)
        assert {of.offset for of in found.values()} == {10}


async def test_a_stream_that_lived_longer_than_an_outage_may(server, topic, name):
    """How long an outage may last counts from its begin, not from when the member has joined."""
    options = {"outage_timeout_ms": 1_000}
    async with Relay(server) as relay, Member(relay.address, name, topic, **options) as one:
        await one.holds(1)
        sent, until = 0, time.monotonic() + 1.2
        while time.monotonic() < until:
            await produce(server, topic, [b"0"])
            sent += 1
            await one.has_read(sent)
        relay.cut()
        await produce(server, topic, [b"1"])
        await one.until(lambda: one.values[-1:] == [b"1"])


async def test_a_restart_of_the_broker_is_no_rebalance(data_dir, name, caplog):
    """Everybody owns what it owned, nothing is read twice, and no commit of what was processed is lost."""
    with Broker(data_dir) as broker:
        address = broker.address
        async with Admin(address) as admin:
            await admin.create_topic("t", partitions=4)
        for partition in range(4):
            await produce(address, "t", [b"0"] * 3, partition=partition)
        one, two = [await Member(address, name, "t", commit_interval_ms=50).__aenter__() for _ in range(2)]
        await two.holds(2)
        await one.until(lambda: len(one.records + two.records) == 12)
        told = [list(one.told), list(two.told)]
    with Broker(data_dir, listen=address):
        for partition in range(4):
            await produce(address, "t", [b"1"] * 3, partition=partition)
        await one.until(lambda: len(one.records + two.records) == 24)
        assert [one.told, two.told] == told
        await asyncio.gather(one.__aexit__(), two.__aexit__())
        async with Admin(address) as admin:
            found = await admin.committed_offsets(name)
        assert {of.offset for of in found.values()} == {6}
    assert "a commit failed" not in caplog.text


async def test_a_fenced_member_drops_everything_and_joins_again(server, admin, topic, name):
    """It tells on_lost, commits nothing of what it held, and reads again from what is committed."""
    await produce(server, topic, [b"0", b"1", b"2"])
    options = {"session_timeout_ms": 1_000, "auto_commit": False}
    async with Relay(server) as relay, Member(relay.address, name, topic, **options) as zombie:
        await zombie.has_read(3)
        await zombie.consumer.commit({(topic, 0): 1})
        relay.hold_requests()
        async with Member(server, name, topic) as other:
            await other.holds(1)
            await other.has_read(2)
            relay.cut()
            await zombie.until(lambda: ("lost", [0]) in zombie.told)
            with pytest.raises(FencedMemberError):
                await zombie.consumer.commit(zombie.records[2])
            assert [record.offset for record in other.records] == [1, 2]
        await zombie.until(lambda: zombie.told[-1] == ("assigned", [0]))
        await produce(server, topic, [b"3"])
        await zombie.has_read(4)
        assert zombie.records[-1].offset == 3
    assert (await admin.committed_offsets(name))[topic, 0].offset == 3


async def test_slow_processing_is_no_eviction(server, topic, name):
    """A record that takes three sessions, and a program that never asks for a record, stay in the group."""
    await produce(server, topic, [b"0", b"1"])
    async with Member(server, name, topic, session_timeout_ms=1_000) as member:
        member.go.clear()
        await member.has_read(1)
        await asyncio.sleep(3)
        member.go.set()
        await member.has_read(2)
        assert member.told == [("assigned", [0])]
        await member.consumer.commit(member.records[0])


async def test_work_that_never_awaits(server, admin, topic, name):
    """A program that blocks the loop with each record, for three sessions in all, stays and commits."""
    await produce(server, topic, [b"%d" % number for number in range(60)])
    told = []
    options = {"session_timeout_ms": 1_000, "commit_interval_ms": 200, "on_lost": told.append}
    async with Consumer(server, group_id=name, topics=[topic], **options) as consumer:
        async for record in consumer:
            time.sleep(0.05)  # noqa: ASYNC251  that is the point
            if record.offset == 59:
                break
        found = await admin.committed_offsets(name)
        assert 30 < found[topic, 0].offset <= 59
    assert told == []


async def test_one_record_that_blocks_the_loop(server, topic, name, caplog):
    """A member whose program gives it no turn for a session is none any more; the reason says so."""
    await produce(server, topic, [b"0", b"1"])
    told = []
    options = {"session_timeout_ms": 1_000, "on_lost": told.append}
    async with Consumer(server, group_id=name, topics=[topic], **options) as consumer:
        record = await consumer.poll(20)
        time.sleep(2.5)  # noqa: ASYNC251  that is the point
        with pytest.raises(FencedMemberError, match="event loop stood still"):
            await consumer.commit(record)
        assert (await consumer.poll(20)).offset == 0
    assert told == [[(topic, 0)]]
    (warning,) = [of.getMessage() for of in caplog.records if "joins again" in of.getMessage()]
    assert re.search(r"event loop stood still for \d\.\d s.*asyncio\.to_thread", warning)


async def test_work_beyond_the_revoke_time(server, admin, topic, name):
    """A record that is processed for longer goes to the next member, too; the slow one stays a member."""
    await produce(server, topic, [b"0"])
    first, second = ({"instance_id": of, "assignor": "range", "keep_for_restart": False} for of in "ba")
    async with Member(server, name, topic, revoke_timeout_ms=1_000, **first) as slow:
        slow.go.clear()
        await slow.has_read(1)
        await admin.alter_topic(topic, partitions=2)
        await slow.holds(2)
        async with Member(server, name, topic, **second) as other:
            await other.holds(1)
            assert "lost" not in {what for what, _ in slow.told}
            slow.go.set()
            await slow.until(lambda: len(slow.records + other.records) >= 1)
            assert len(slow.held) == 1


async def test_a_static_member_that_restarts_keeps_its_partitions(server, wide, name):
    """Nobody else notices when it leaves for a restart and comes back; without that they take over."""
    async with Member(server, name, wide) as other:
        await other.holds(3)
        static = {"instance_id": "a", "session_timeout_ms": 20_000}
        async with Member(server, name, wide, **static) as member:
            await member.holds(1)
            await other.holds(2)
            held, told = member.held, list(other.told)
        async with Member(server, name, wide, **static) as member:
            await member.holds(1)
            assert member.held == held
            assert other.told == told
        async with Member(server, name, wide, **static, keep_for_restart=False) as member:
            await member.holds(1)
        await other.holds(3)


async def test_two_of_one_instance(server, topic, name, monkeypatch):
    """The second one of an instance is refused by name once it is clear that the first one lives."""
    monkeypatch.setattr("takhin.client.consuming.membership.INSTANCE_S_MAX", 0.5)
    async with Member(server, name, topic, instance_id="a") as first:
        await first.holds(1)
        async with Consumer(server, group_id=name, topics=[topic], instance_id="a") as second:
            with pytest.raises(InstanceInUseError, match="instance 'a'"):
                await asyncio.wait_for(anext(second), 20)
        assert first.held == {0}


async def test_a_killed_member_is_followed_soon(server, topic, name):
    """The partition of a process that was killed goes to the next member, which begins at its last commit."""
    await produce(server, topic, [b"0", b"1", b"2"])
    command = [sys.executable, SCRIPTS, "reads_as_a_member", server, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  it is killed below
        assert await asyncio.to_thread(process.stdout.readline) == b"2\n"
        async with Member(server, topic, topic) as other:
            process.send_signal(signal.SIGKILL)
            began = time.monotonic()
            await other.has_read(1)
            assert time.monotonic() - began < 6  # groups.rejoin_ms, and some time on a busy machine
            assert other.records[0].offset == 1


async def test_stop_from_a_signal_handler(server, admin, topic, name):
    """It ends a wait, and a loop over records that are at hand; `close` commits what was iterated past."""
    await produce(server, topic, [b"0"] * 100)
    former = signal.getsignal(signal.SIGUSR1)
    try:
        async with Consumer(server, group_id=name, topics=[topic]) as consumer:
            signal.signal(signal.SIGUSR1, lambda *_: consumer.stop())
            async for record in consumer:
                if record.offset == 10:
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            assert record.offset == 10
            assert await consumer.poll() is None
        assert (await admin.committed_offsets(name))[topic, 0].offset == 11
        async with Consumer(server, group_id=name, topics=[topic]) as consumer:
            assert len([await anext(consumer) for _ in range(89)]) == 89
            asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGUSR1)
            assert [record async for record in consumer] == []
        assert (await admin.committed_offsets(name))[topic, 0].offset == 100
    finally:
        signal.signal(signal.SIGUSR1, former)


async def test_a_member_survives_that_all_tasks_are_cancelled(server, admin, topic, name):
    """Whoever iterates again starts its tasks again, as the same member: nothing is lost or repeated."""
    await produce(server, topic, [b"%d" % number for number in range(1_000)])
    async with Consumer(server, group_id=name, topics=[topic], prefetch_bytes_max=1_000) as consumer:
        offsets = []
        for _ in range(4):
            offsets += [(await asyncio.wait_for(anext(consumer), 20)).offset for _ in range(250)]
            await cancel_all()
        assert offsets == list(range(1_000))
        assert await consumer.poll(0.1) is None
    assert (await admin.committed_offsets(name))[topic, 0].offset == 1_000


async def test_without_a_broker_iterating_raises(name):
    """After outage_timeout_ms, and `close` does not hang."""
    async with Consumer("127.0.0.1:1", group_id=name, topics=["t"], outage_timeout_ms=300) as consumer:
        with pytest.raises(UnreachableError):
            await asyncio.wait_for(anext(consumer), 20)


async def test_close_without_a_broker_says_that_nothing_is_committed(data_dir, name):
    """What was processed and cannot be committed is no secret."""
    with Broker(data_dir) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t")
        await produce(broker.address, "t", [b"0", b"1"])
        options = {"group_id": name, "topics": ["t"], "outage_timeout_ms": 300}
        consumer = await Consumer(broker.address, **options).open()
        assert [(await anext(consumer)).offset for _ in range(2)] == [0, 1]
    with pytest.raises(Exception, match="no broker answers"):
        await asyncio.wait_for(consumer.close(), 20)


@pytest.mark.parametrize("partitions", [900, pytest.param(3_000, marks=pytest.mark.soak)])
async def test_thousands_of_partitions(name, partitions):
    """Two members read and commit all of them, and heartbeats and commits pass beside the reading."""
    with MemoryBroker({"topics.partitions_per_topic_max": partitions}) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t", partitions=partitions)
            options = {"session_timeout_ms": 2_000, "commit_interval_ms": 500}
            async with Member(broker.address, name, "t", **options) as one:
                await one.holds(partitions)
                async with Member(broker.address, name, "t", **options) as two:
                    await two.holds(partitions // 2)
                    assert len(one.held) == partitions // 2
                    async with Producer(broker.address) as producer:
                        for partition in range(0, partitions, 3):
                            await producer.send("t", b"0", partition=partition)
                    await one.until(lambda: len(one.records + two.records) == partitions // 3)
                    assert "lost" not in {what for what, _ in one.told + two.told}
            found = await admin.committed_offsets(name)
            assert sum(of.offset for of in found.values()) == partitions // 3
