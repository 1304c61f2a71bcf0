"""Consumer groups as strangers use them: a real broker, and members over the generated stub."""

from __future__ import annotations

from blackbox.clients import CALL_S_MAX
from blackbox.members import Member, wait_until_shared
from takhin.v1 import takhin_pb2 as pb


def make_topic(stub, name, partitions):
    """Create a topic; returns its partitions."""
    request = pb.CreateTopicRequest(name=name, num_partitions=partitions)
    assert stub.CreateTopic(request, timeout=CALL_S_MAX).success
    return [(name, partition) for partition in range(partitions)]


def commit(stub, group_id, offsets, member=None, epoch=None):
    """Commit {(topic, partition): offset}, as a member if one is given."""
    request = pb.CommitOffsetRequest(group_id=group_id)
    for (topic, partition), offset in offsets.items():
        request.offsets.add(topic=topic, partition=partition, offset=offset)
    if member is not None:
        request.member_id = member.member_id
        request.member_epoch = member.epoch if epoch is None else epoch
    return stub.CommitOffset(request, timeout=CALL_S_MAX)


def test_one_two_three_members(stub):
    """The partitions are shared out evenly as members come and go, and what is kept is not interrupted."""
    orders = make_topic(stub, "orders", 6)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        first.wait_for(orders)
        with Member(stub, group_id="g", topics=["orders"]) as second:
            wait_until_shared([first, second], orders)
            with Member(stub, group_id="g", topics=["orders"]) as third:
                wait_until_shared([first, second, third], orders)
            wait_until_shared([first, second], orders)
        first.wait_for(orders)
    for member in (first, second, third):
        assert member.error is None
