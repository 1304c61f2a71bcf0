"""What changes while a call is on its way: a right or a proof that goes counts before anything is done."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer, channel_to, requests
from access.test_streams import until
from takhin.access.rules import Action, Need, Resource
from takhin.rpc.permissions import SERVICE, TABLE
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STATUS = grpc.StatusCode


async def test_a_revoked_token_makes_no_token(serving, tmp_path):
    """A call whose token is revoked before its request has come does nothing."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    release = asyncio.Event()

    async def held():
        await release.wait()
        yield pb.CreateTokenRequest(principal="me")

    async with serving() as server, channel_to(server) as channel:
        access = server._broker.access
        method = channel.stream_unary(f"{SERVICE}CreateToken", pb.CreateTokenRequest.SerializeToString)
        call = method(held(), metadata=bearer(token), timeout=10)
        await until(lambda: access._used)  # it was let in
        keeper.revoke("me")
        await until(lambda: not access.list_tokens("me"))
        release.set()
        assert await call.code() is STATUS.UNAUTHENTICATED
        assert access.list_tokens("me") == []


async def test_a_right_that_goes_while_it_is_looked_up(serving, tmp_path, monkeypatch):
    """Where rules change while the names of a request are being judged, all are judged again."""
    keeper = Keeper(tmp_path)
    token = keeper.token()
    keeper.rule("allow read topic orders")
    request = requests()["GetOffsetsForTimes"]
    need = Need(Action.READ, Resource.TOPIC, "orders")
    async with serving() as server, channel_to(server) as channel:
        access = server._broker.access
        changes = []

        def needs(_request):
            yield need
            if not changes:
                changes.append(asyncio.create_task(access.change_rules([], access.list_rules("me"))))
            while access.list_rules("me"):
                yield need

        monkeypatch.setitem(TABLE, f"{SERVICE}GetOffsetsForTimes", needs)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await TakhinServiceStub(channel).GetOffsetsForTimes(request, metadata=bearer(token))
        assert raised.value.code() is STATUS.PERMISSION_DENIED
        assert changes


async def test_what_is_open_answers_while_tokens_are_not_known(serving, tmp_path):
    """A method that needs no proof answers those who show a token, too, while tokens cannot be read."""
    token = Keeper(tmp_path).token()
    async with serving(access__open="health") as server, channel_to(server) as channel:
        (tmp_path / "access.db").unlink()
        await until(lambda: server._broker.access.trouble)
        health = TakhinServiceStub(channel).HealthCheck
        answer = await health(pb.HealthCheckRequest(), metadata=bearer(token))
    assert answer.status == "degraded"


async def test_lag_of_topics_that_one_sees(serving, tmp_path):
    """In a list of groups, the lag is that of the topics that the caller may see."""
    keeper = Keeper(tmp_path)
    boss, token = bearer(keeper.token("boss")), bearer(keeper.token())
    keeper.rules(*EVERYTHING, principal="boss")
    keeper.rules("allow read topic mine", "allow read group g")
    async with serving() as server, channel_to(server) as channel:
        stub = TakhinServiceStub(channel)
        for topic, count in (("mine", 2), ("secret", 3)):
            await stub.CreateTopic(pb.CreateTopicRequest(name=topic), metadata=boss)
            for _ in range(count):
                record = pb.ProduceMessageRequest(topic=topic, record=pb.Record(value=b"1"))
                await stub.ProduceMessage(record, metadata=boss)
            commit = pb.CommitOffsetRequest(group_id="g", offsets=[pb.TopicPartitionOffset(topic=topic)])
            assert (await stub.CommitOffset(commit, metadata=boss)).success
        lags = [
            (await stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), metadata=who)).groups[0].lag
            for who in (boss, token)
        ]
    assert lags == [5, 2]


async def test_a_call_changes_a_bounded_number_of_rules(serving, tmp_path):
    """More than 1,000 rules in one call are refused before any of them is looked at."""
    keeper = Keeper(tmp_path)
    boss = bearer(keeper.token("boss"))
    keeper.rules(*EVERYTHING, principal="boss")
    rules = [pb.AccessRule(principal="me", action="read", topic=f"t{n}") for n in range(1_000)]
    async with serving() as server, channel_to(server) as channel:
        change = TakhinServiceStub(channel).ChangeAccess
        assert (await change(pb.ChangeAccessRequest(put=rules), metadata=boss)).success
        refused = await change(pb.ChangeAccessRequest(put=rules, drop=rules[:1]), metadata=boss)
        assert "at most 1000 rules" in refused.error
