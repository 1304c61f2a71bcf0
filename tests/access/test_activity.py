"""The topic __activity: what is in it, what floods and a full disk do to it, and who may change it."""

from __future__ import annotations

import json

import pytest

from access.support import EVERYTHING, Keeper, bearer, channel_to, requests, settings_of
from access.test_streams import until
from takhin.access.rules import Need, Resource
from takhin.broker import activity
from takhin.broker.activity import Activity
from takhin.client import START, Admin, Consumer, Producer
from takhin.errors import (
    InvalidTopicNameError,
    PermissionDeniedError,
    ReadOnlyTopicError,
    StorageFullError,
    TakhinError,
    UnknownTopicError,
)
from takhin.limits import ACTIVITY_TOPIC
from takhin.model import ANONYMOUS, Caller
from takhin.storage.memory import MemoryEngine
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

WHO = Caller("me", "ipv4:1")


@pytest.fixture
async def keeper(tmp_path):
    keeper = Keeper(tmp_path)
    keeper.rules(*EVERYTHING, principal="boss")
    return keeper


async def entries(server, token, count):
    """The first entries, when there are so many."""
    found = []
    async with Consumer(server.address, token=token) as consumer:
        await consumer.assign_topics(ACTIVITY_TOPIC, start=START)
        async for record in consumer:
            found.append(json.loads(record.value))
            if len(found) == count:
                return found
    raise AssertionError


async def test_what_is_noted(serving, keeper):
    """Who changed what, from where, and whether it could; who was denied; and no token's text."""
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rule("allow write topic a")
    async with serving() as server:
        async with Admin(server.address, token=boss) as admin:
            await admin.create_topic("a", partitions=2)
            await admin.alter_topic("a", partitions=3)
            await admin.delete_records("a", 0, before_offset=0)
            with pytest.raises(UnknownTopicError):
                await admin.delete_topic("b")
            text, _ = await admin.create_token("new", note="n")
            await admin.change_access(drop=await admin.list_access("me"))
            await admin.revoke_tokens("new")
        async with Admin(server.address, token=token) as admin:
            with pytest.raises(PermissionDeniedError):
                await admin.delete_topic("a")
        found = await entries(server, boss, 8)
    actions = [(of["principal"], of["action"], of["outcome"]) for of in found]
    assert actions == [
        ("boss", "topic.created", "ok"),
        ("boss", "topic.altered", "ok"),
        ("boss", "records.deleted", "ok"),
        ("boss", "topic.deleted", "failed"),
        ("boss", "token.created", "ok"),
        ("boss", "rules.changed", "ok"),
        ("boss", "token.revoked", "ok"),
        ("me", "denied", "denied"),
    ]
    assert found[0]["topic"] == "a"
    assert found[0]["partitions"] == 2
    assert found[0]["address"].startswith("127.0.0.1:")
    assert found[3]["error"] == "there is no topic 'b'"
    assert found[5]["dropped"] == ["allow me write topic a"]
    assert (found[7]["method"], found[7]["need"], found[7]["count"]) == ("DeleteTopic", "do anything", 1)
    assert text not in json.dumps(found)


async def test_changes_in_the_folder_are_noted(serving, keeper):
    """Tokens and rules that another process has changed are noted, too; who it was is not known."""
    boss = keeper.token("boss")
    async with serving() as server:
        keeper.token("new")
        await until(lambda: server._broker.access.list_tokens("new"))
        keeper.rule("allow read topic a")
        found = await entries(server, boss, 2)
    assert [(of["principal"], of["address"], of["action"]) for of in found] == [
        ("", "data folder", "access.changed")
    ] * 2
    assert (found[0]["tokens_made"], found[1]["put"]) == (["new"], ["allow me read topic a"])


async def test_members_that_join_are_noted(serving, keeper):
    """A member that joins is noted with its group."""
    boss = keeper.token("boss")
    async with serving() as server, channel_to(server) as channel:
        call = TakhinServiceStub(channel).JoinConsumerGroup(metadata=bearer(boss))
        await call.write(requests()["JoinConsumerGroup"])
        await call.read()
        (entry,) = await entries(server, boss, 1)
        call.cancel()
    assert (entry["action"], entry["group"], entry["outcome"]) == ("group.joined", "billing", "ok")


async def test_it_is_the_brokers_own(serving, keeper):
    """No client makes, writes, alters, trims, compacts or deletes it, whatever its rights."""
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rule("allow read topic a*")
    async with serving() as server:
        async with Admin(server.address, token=boss) as admin:
            assert await admin.list_topics() == [ACTIVITY_TOPIC]
            for refused in (
                admin.create_topic(ACTIVITY_TOPIC),
                admin.alter_topic(ACTIVITY_TOPIC, configs={"read.only": "false"}),
                admin.delete_records(ACTIVITY_TOPIC, 0),
                admin.compact_topic(ACTIVITY_TOPIC),
                admin.delete_topic(ACTIVITY_TOPIC),
            ):
                with pytest.raises(InvalidTopicNameError, match="the broker's own"):
                    await refused
            assert (await admin.describe_topic(ACTIVITY_TOPIC)).configs["read.only"] == "true"
        async with Producer(server.address, token=boss) as producer:
            with pytest.raises(ReadOnlyTopicError):
                await (await producer.send(ACTIVITY_TOPIC, b"1"))
        async with Admin(server.address, token=token) as admin:
            assert await admin.list_topics() == []
            with pytest.raises(PermissionDeniedError):
                await admin.describe_topic(ACTIVITY_TOPIC)


@pytest.mark.parametrize(
    ("chosen", "access", "there"), [("auto", False, False), ("true", False, True), ("false", True, False)]
)
async def test_when_it_is_written(serving, keeper, chosen, access, there):
    """It is written with access.enabled, unless its own setting says otherwise."""
    async with serving(activity__enabled=chosen, access__enabled=access) as server:
        assert (ACTIVITY_TOPIC in server.engine.topics) is there


class Full(MemoryEngine):
    """A memory engine whose disk is full as long as that is wanted."""

    full = True

    async def create_topic(self, spec):
        if self.full:
            raise StorageFullError("full")
        return await super().create_topic(spec)


@pytest.fixture
async def writer(serving, tmp_path, monkeypatch):
    monkeypatch.setattr(activity, "STUMBLE_SECONDS", 0.01)
    engine = Full(producers_max=1, sources_max=1, clock=lambda: 1)
    await engine.open()
    settings = settings_of(tmp_path, activity__queue_max=10, activity__denials_per_minute_max=3)
    writer = Activity(engine, settings, lambda: 1)
    writer.engine = engine
    await writer.start()
    yield writer
    await writer.stop(1)
    await engine.close()


async def written(writer, count):
    await until(
        lambda: (
            ACTIVITY_TOPIC in writer.engine.topics
            and writer.engine.topics[ACTIVITY_TOPIC].partitions[0].end_offset >= count
        )
    )
    log = writer.engine.topics[ACTIVITY_TOPIC].partitions[0]
    rows = (await log.read(0, max_bytes=1 << 20, max_records=10_000)).rows
    return [json.loads(row[3]) for row in rows]


async def test_a_full_disk_loses_what_does_not_fit_and_says_so(writer):
    """While it cannot be written, a bounded number waits; the rest is counted, and an entry says how many."""
    for number in range(15):
        writer.note(WHO, "topic.created", {"topic": f"t{number}"})
    writer.engine.full = False
    found = await written(writer, 11)
    assert [of.get("topic") for of in found[:10]] == [f"t{number}" for number in range(10)]
    assert (found[10]["action"], found[10]["count"]) == ("activity.lost", 5)


async def test_a_flood_of_denials_is_counted(writer):
    """Of each kind of denied call there are two entries a minute, and of all kinds a bounded number."""
    writer.engine.full = False
    for number in range(1_000):
        writer.denied(WHO, "/s/DeleteTopic", "PERMISSION_DENIED")
        writer.denied(Caller(f"p{number}", f"h{number}:1"), "/s/DeleteTopic", "PERMISSION_DENIED")
    assert [of["count"] for of in await written(writer, 3)] == [1, 1, 1]
    writer._count_repeats()
    found = (await written(writer, 8))[3:]
    besides = [("p2", 1), ("p3", 1), ("p4", 1), ("", 995)]
    assert [(of["principal"], of["count"]) for of in found] == [("me", 999), *besides]


async def test_nobody_hides_what_others_try(writer):
    """Whoever is denied many different things takes up a share; what others are denied is told at once."""
    writer.engine.full = False
    for number in range(20):
        for who in (WHO, Caller(ANONYMOUS, "192.0.2.1:1"), Caller(ANONYMOUS, f"[2001:db8::{number}]:1")):
            writer.denied(
                who, "/s/DeleteTopic", "PERMISSION_DENIED", Need(None, Resource.TOPIC, f"t{number}")
            )
    writer.denied(Caller("other", "192.0.2.1:2"), "/s/DeleteTopic", "PERMISSION_DENIED")
    found = [(of["principal"], of["address"], of["count"]) for of in await written(writer, 3)]
    assert found == [("me", "ipv4:1", 1), (ANONYMOUS, "192.0.2.1", 1), ("other", "192.0.2.1", 1)]
    writer._count_repeats()
    found = [(of["principal"], of["count"]) for of in (await written(writer, 5))[3:]]
    assert found == [(ANONYMOUS, 39), ("me", 19)]


async def test_a_flood_of_joins_is_counted(writer):
    """Who joins a group over and over is noted twice a minute, and makes nothing else be lost."""
    writer.engine.full = False
    for number in range(100):
        writer.note(WHO, "group.joined", {"group": "g", "client_id": str(number)})
        writer.note(WHO, "group.joined", {"group": f"g{number}", "client_id": ""}, TakhinError("no"))
    writer.note(WHO, "topic.deleted", {"topic": "t"})
    found = await written(writer, 2)
    assert [of["action"] for of in found] == ["group.joined", "topic.deleted"]
    assert (found[0]["client_id"], found[0]["address"]) == ("0", "ipv4:1")
    writer._count_repeats()
    found = [(of["principal"], of.get("group"), of["count"]) for of in (await written(writer, 4))[2:]]
    assert found == [("me", "g", 99), ("me", None, 100)]


async def test_a_flood_of_failures_is_counted(writer):
    """Changes that fail over and over are noted twice a minute; what succeeds is noted each time."""
    writer.engine.full = False
    for number in range(100):
        writer.note(WHO, "topic.created", {"topic": "t"}, TakhinError(f"no {number}"))
        writer.note(WHO, "topic.deleted", {"topic": f"t{number}"}, TakhinError("no"))
    for _ in range(3):
        writer.note(WHO, "topic.deleted", {"topic": "t"})
    found = await written(writer, 4)
    assert [(of["action"], of["outcome"]) for of in found] == [
        ("topic.created", "failed"),
        *[("topic.deleted", "ok")] * 3,
    ]
    assert found[0]["error"] == "no 0"
    writer._count_repeats()
    found = (await written(writer, 6))[4:]
    assert [(of["action"], of["outcome"], of.get("topic"), of["count"]) for of in found] == [
        ("topic.created", "failed", "t", 99),
        ("failed", "failed", None, 100),
    ]


async def test_what_is_noted_last_is_written(writer):
    """What waits when the broker stops is written."""
    writer.engine.full = False
    writer.note(WHO, "topic.deleted", {"topic": "t"}, TakhinError("no"))
    writer.denied(WHO, "/s/DeleteTopic", "PERMISSION_DENIED")
    writer.denied(WHO, "/s/DeleteTopic", "PERMISSION_DENIED")
    await writer.stop(1)
    assert [of["action"] for of in await written(writer, 3)] == ["topic.deleted", "denied", "denied"]
