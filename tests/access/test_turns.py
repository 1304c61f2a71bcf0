"""Hundreds of streams that lose their right at one moment, and long lists, leave the loop to others, too.

blackbox/test_loop_turns.py says how that is measured.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest

from access.support import EVERYTHING, MANY, Keeper, bearer
from blackbox.clients import CHANNEL_OPTIONS
from blackbox.test_loop_turns import WatchedBroker, within_bound
from takhin.access.rules import Rights, checked_rule
from takhin.broker.session import SEEN_AT_ONCE, seen
from takhin.disk.access_file import AccessFile
from takhin.group_views import DescribedGroup, DescribedMember, GroupLag
from takhin.model import CommittedOffset, GroupState, TopicPartition
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STREAMS = 600


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


@pytest.fixture
def tokens(keeper):
    """Those of the boss and of another; the broker finds them when it starts."""
    keeper.rules(*EVERYTHING, principal="boss")
    return bearer(keeper.token("boss")), bearer(keeper.token())


@pytest.fixture
def broker(tmp_path, tokens):
    broker = WatchedBroker(tmp_path, "storage.engine=memory", "access.enabled=true", "access.look_ms=20")
    yield broker
    broker.close()


def many_rules(folder) -> None:
    """Rules with many beginnings of different lengths, none of which is about the topics of the test."""
    rules = [
        checked_rule("me", "read", kind, f"{'x' * (n % 200)}{n}*", allow=True)
        for n in range(MANY // 2)
        for kind in ("topic", "group")
    ]
    file = AccessFile(folder)
    file.open()
    file.change_rules(rules, [], 10 * MANY)
    file.close()


async def test_many_streams_and_names(broker, keeper, tokens, tmp_path, figures):
    """600 streams end with their token; 2,000 names are judged by 500 rules; then 2,000 offsets are."""
    boss, token = tokens
    keeper.rules("allow read topic t0", "allow read topic name*", "allow group group g")
    many_rules(tmp_path)
    turns = {}
    async with (
        grpc.aio.insecure_channel(broker.address, CHANNEL_OPTIONS) as channel,
        grpc.aio.insecure_channel(broker.address, CHANNEL_OPTIONS) as other,
    ):
        stub, of_boss = TakhinServiceStub(channel), TakhinServiceStub(other)
        for name in ("t0", "t1"):
            await of_boss.CreateTopic(pb.CreateTopicRequest(name=name), metadata=boss)
        record = pb.ProduceMessageRequest(topic="t0", record=pb.Record(value=b"1"))
        await of_boss.ProduceMessage(record, metadata=boss)
        request = pb.ConsumeMessagesRequest(topic="t0")
        tails = [stub.ConsumeMessages(request, metadata=token) for _ in range(STREAMS)]
        await asyncio.gather(*(tail.read() for tail in tails))
        names = [f"name-{n}" for n in range(2_000)]
        broker.longest_turn()
        found = await stub.DescribeTopics(pb.DescribeTopicsRequest(topics=[*names, "t0"]), metadata=token)
        assert [topic.name for topic in found.topics] == ["t0"]
        turns["names"] = broker.longest_turn()
        offsets = [pb.TopicPartitionOffset(topic=name) for name in names]
        commit = pb.CommitOffsetRequest(group_id="g", offsets=offsets)
        assert (await stub.CommitOffset(commit, metadata=token)).error_code == pb.ERROR_CODE_UNKNOWN_TOPIC
        turns["offsets"] = broker.longest_turn()
        keeper.revoke("me")
        codes = await asyncio.gather(*(tail.code() for tail in tails))
        turns["revoked"] = broker.longest_turn()
    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
    figures(", ".join(f"{name} {turn.busy_ms} ms of {turn.late_ms}" for name, turn in turns.items()))
    assert within_bound(*turns.values()), turns


async def test_a_described_group_leaves_turns_to_others():
    """What a caller may see of a group is judged some names at a time: its offsets, and those of a member."""
    places = [TopicPartition(f"t{n}", 0) for n in range(MANY)]
    committed = CommittedOffset(0, "", 0)
    member = DescribedMember("", "", "", "", 0, "", (), [(at, committed) for at in places], 0, 0)
    group = DescribedGroup(
        "g", GroupState.STABLE, [GroupLag(*at, committed, 0, 0) for at in places], [member]
    )
    judging = asyncio.create_task(seen(group, Rights()))
    turns = 0
    while not judging.done():
        await asyncio.sleep(0)
        turns += 1
    assert (judging.result().offsets, judging.result().members[0].assigned) == ([], [])
    assert turns >= 2 * MANY // SEEN_AT_ONCE
