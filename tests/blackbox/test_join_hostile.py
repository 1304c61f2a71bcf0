"""What members may get wrong, or do to harm: each gets a named error, and the group goes on."""

from __future__ import annotations

import os

import grpc
import pytest

from blackbox.clients import CALL_S_MAX, connected, error_name, refusal
from blackbox.members import Member, commit, describe, make_topic, owned_of
from takhin.v1 import takhin_pb2 as pb

LONG = "x" * 300


@pytest.fixture(scope="module")
def stub(shared_broker):
    with connected(shared_broker.address) as stub:
        yield stub


@pytest.fixture
def group(request):
    """A group of the test's own."""
    return request.node.name


@pytest.fixture(scope="module")
def topic(stub):
    make_topic(stub, "good", 2)
    return "good"


def ends_with(stub, *requests):
    """The error that a stream of these requests ends with."""
    with pytest.raises(grpc.RpcError) as ended:
        list(stub.JoinConsumerGroup(iter(requests), timeout=CALL_S_MAX))
    return refusal(ended.value)


def join(**fields):
    return pb.MemberRequest(join=pb.Join(**{"group_id": "hostile", "topics": ["good"]} | fields))


HEARTBEAT = pb.MemberRequest(heartbeat=pb.Heartbeat(member_epoch=1))

BAD_JOINS = {
    "group-empty": ({"group_id": ""}, "INVALID_GROUP_ID", "1 to 255 bytes"),
    "group-long": ({"group_id": LONG}, "INVALID_GROUP_ID", "300"),
    "client-long": ({"client_id": LONG}, "INVALID_ARGUMENT", "client_id"),
    "member-long": ({"member_id": LONG}, "INVALID_ARGUMENT", "member_id"),
    "instance-long": ({"instance_id": LONG}, "INVALID_ARGUMENT", "instance_id"),
    "epoch-negative": ({"member_epoch": -1}, "INVALID_ARGUMENT", "member_epoch"),
    "epoch-away": ({"member_id": "m", "member_epoch": -2}, "INVALID_ARGUMENT", "-2"),
    "epoch-of-nobody": ({"member_id": "m", "member_epoch": 5}, "UNKNOWN_MEMBER", "no member 'm'"),
    "owned-with-epoch-0": ({"owned": [pb.TopicPartition(topic="good")]}, "INVALID_ARGUMENT", "owns nothing"),
    "assignor": ({"assignor": "greedy"}, "INVALID_ARGUMENT", "uniform or range"),
    "session-short": ({"session_timeout_ms": 999}, "INVALID_ARGUMENT", "session_timeout_ms"),
    "session-long": ({"session_timeout_ms": 3_600_001}, "INVALID_ARGUMENT", "session_timeout_ms"),
    "session-negative": ({"session_timeout_ms": -1}, "INVALID_ARGUMENT", "-1"),
    "revoke-short": ({"revoke_timeout_ms": 499}, "INVALID_ARGUMENT", "revoke_timeout_ms"),
    "revoke-long": ({"revoke_timeout_ms": 3_600_001}, "INVALID_ARGUMENT", "revoke_timeout_ms"),
    "no-topics": ({"topics": []}, "INVALID_ARGUMENT", "neither"),
    "both": ({"topic_pattern": "a"}, "INVALID_ARGUMENT", "both"),
    "topic-name": ({"topics": ["../etc"]}, "INVALID_TOPIC_NAME", "../etc"),
    "topics-many": ({"topics": [f"t{n}" for n in range(1_001)]}, "INVALID_ARGUMENT", "groups.topics_max"),
    "pattern-syntax": ({"topics": [], "topic_pattern": "a(b"}, "INVALID_ARGUMENT", "missing )"),
    "pattern-lookahead": ({"topics": [], "topic_pattern": "(?=a)b"}, "INVALID_ARGUMENT", "RE2"),
    "pattern-unicode": ({"topics": [], "topic_pattern": "заказы"}, "INVALID_ARGUMENT", "such characters"),
    "pattern-long": ({"topics": [], "topic_pattern": "a" * 501}, "INVALID_ARGUMENT", "500"),
    "pattern-giant": ({"topics": [], "topic_pattern": "((a{99}){99}){99}"}, "INVALID_ARGUMENT", "RE2"),
    "pattern-large": ({"topics": [], "topic_pattern": r"(\pL{10}){90}"}, "INVALID_ARGUMENT", "too large"),
}


@pytest.mark.parametrize("kind", BAD_JOINS)
def test_a_join_that_is_refused(stub, topic, kind):
    """The error names what is wrong, and there is no group afterwards."""
    fields, reason, said = BAD_JOINS[kind]
    found = ends_with(stub, join(**fields))
    assert (found.reason, found.domain) == (reason, "takhin")
    assert said in found.sentence
    assert error_name(describe(stub, "hostile")) == "UNKNOWN_GROUP"


def test_a_thousand_topics(stub, topic, group):
    """As many as are allowed are taken."""
    names = [f"t{n}" for n in range(999)]
    with Member(stub, group_id=group, topics=[*names, topic]) as member:
        member.wait_for([(topic, 0), (topic, 1)])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (HEARTBEAT, "has to be a join"),
        (pb.MemberRequest(leave=pb.Leave()), "has to be a join"),
        (pb.MemberRequest(subscribe=pb.Subscribe(topics=["good"])), "has to be a join"),
        (pb.MemberRequest(), "none of join"),
        (pb.MemberRequest.FromString(b"\x7a\x03abc"), "none of join"),
    ],
    ids=["heartbeat", "leave", "subscribe", "empty", "unknown"],
)
def test_a_first_request_that_is_no_join(stub, request_, said):
    """A stream begins with a join."""
    found = ends_with(stub, request_)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert said in found.sentence


def test_a_stream_without_a_request(stub):
    """It ends with a reason."""
    assert ends_with(stub).reason == "INVALID_ARGUMENT"


def test_bytes_that_are_no_request(shared_broker):
    """They are refused as the first request and as a later one."""
    with grpc.insecure_channel(shared_broker.address) as channel:
        call = channel.stream_stream("/takhin.v1.TakhinService/JoinConsumerGroup")
        for first in ([], [join(group_id="bytes").SerializeToString()]):
            with pytest.raises(grpc.RpcError) as ended:
                list(call(iter([*first, b"\xff" * 100]), timeout=CALL_S_MAX))
            assert refusal(ended.value).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (join(), "INVALID_ARGUMENT"),
        (pb.MemberRequest(), "INVALID_ARGUMENT"),
        (pb.MemberRequest(heartbeat=pb.Heartbeat(member_epoch=-1)), "FENCED_MEMBER"),
        (pb.MemberRequest(heartbeat=pb.Heartbeat(member_epoch=(1 << 63) - 1)), "FENCED_MEMBER"),
        (pb.MemberRequest(subscribe=pb.Subscribe()), "INVALID_ARGUMENT"),
        (pb.MemberRequest(subscribe=pb.Subscribe(topics=["a"], topic_pattern="a")), "INVALID_ARGUMENT"),
        (pb.MemberRequest(subscribe=pb.Subscribe(topic_pattern="(")), "INVALID_ARGUMENT"),
    ],
    ids=["join", "empty", "epoch-low", "epoch-high", "subscribe-empty", "subscribe-both", "pattern"],
)
def test_a_later_request_that_is_refused(stub, topic, group, later, reason):
    """It ends the stream; the member may come back with what it has."""
    member = Member(stub, group_id=group, topics=[topic])
    member.wait_for([(topic, 0), (topic, 1)])
    kind = later.WhichOneof("request")
    member.say(**({kind: getattr(later, kind)} if kind else {}))
    assert member.wait_for_end().reason == reason
    owned = owned_of(member.owned).partitions
    with Member(
        stub,
        group_id=group,
        topics=[topic],
        member_id=member.member_id,
        member_epoch=member.epoch,
        owned=owned,
    ) as again:
        again.wait_for(member.owned)


def test_heartbeats_of_strange_holdings(stub, topic, group):
    """What a member says that it holds, and is not its own, changes nothing."""
    with Member(stub, group_id=group, topics=[topic]) as member:
        member.wait_for([(topic, 0), (topic, 1)])
        for owned in ([(topic, -1)], [("no such topic", 1 << 30)], [(topic, 7)], [(topic, 0)] * 1_000):
            member.heartbeat(owned=owned)
        member.heartbeat(owned=member.owned)
        member.wait(lambda member: len(member.heartbeats) >= 2)
        with Member(stub, group_id=group, topics=[topic]) as second:
            second.wait(lambda member: len(member.owned) == 1)


def test_commits_of_strangers(stub, topic, group):
    """Commits in the name of members that are not there are refused by name."""
    everything = {(topic, 0): 0}
    stranger = pb.CommitOffsetRequest(group_id=group, member_id=LONG, member_epoch=1)
    stranger.offsets.add(topic=topic, partition=0, offset=0)
    assert error_name(stub.CommitOffset(stranger, timeout=CALL_S_MAX)) == "UNKNOWN_MEMBER"
    stranger.member_id = ""
    assert error_name(stub.CommitOffset(stranger, timeout=CALL_S_MAX)) == "INVALID_ARGUMENT"
    with Member(stub, group_id=group, topics=[topic]) as member:
        member.wait_for([(topic, 0), (topic, 1)])
        for epoch in (-(1 << 63), -2, -1, 0, 1, member.epoch - 1, member.epoch + 1, (1 << 63) - 1):
            assert error_name(commit(stub, group, everything, member, epoch)) == "FENCED_MEMBER"
        assert commit(stub, group, everything, member).success


@pytest.mark.parametrize("steps", range(5))
def test_a_stream_that_is_cancelled(stub, topic, group, steps):
    """Wherever that happens, the member is removed when its time to come back is over, and another joins."""
    call = None
    for _ in range(20):
        requests = [join(group_id=group), HEARTBEAT, pb.MemberRequest(subscribe=pb.Subscribe(topics=[topic]))]
        call = stub.JoinConsumerGroup(iter(requests[: 1 + steps // 2]), timeout=CALL_S_MAX)
        for _ in range(steps):
            try:
                next(call)
            except (grpc.RpcError, StopIteration):
                break
        call.cancel()
    with Member(stub, group_id=group, topics=[topic]) as member:
        member.wait_for([(topic, 0), (topic, 1)])
        assert len(describe(stub, group).members) == 1


def test_garbage_after_a_join(stub, topic, group):
    """Unknown fields are passed over, as everywhere."""
    request = pb.MemberRequest.FromString(join(group_id=group).SerializeToString() + b"\x7a\x03abc")
    call = stub.JoinConsumerGroup(iter([request]), timeout=CALL_S_MAX)
    assert next(call).joined.member_id
    list(call)


def test_groups_of_any_name(stub, topic):
    """A group id is any text."""
    for name in ("\x00", "../../etc", "ж" * 127, "a\nb", os.sep):
        with Member(stub, group_id=name, topics=[topic]) as member:
            member.wait_for([(topic, 0), (topic, 1)])
            assert describe(stub, name).group_id == name
