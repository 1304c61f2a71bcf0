"""Consumer groups as strangers use them: a real broker, and members over the generated stub."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import pairwise
from signal import SIGCONT, SIGSTOP

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS, connected, error_name, produce
from blackbox.members import Member, commit, describe, make_topic, wait_until_shared
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

REJOIN_MS = 3_000


@contextmanager
def members(stub, count, **join):
    """That many members of a group, which leave in the end, all at once."""
    joined = [Member(stub, **join) for _ in range(count)]
    yield joined
    for member in joined:
        member.end()
    for member in joined:
        assert member.wait_for_end() is None


def back(stub, member, **join):
    """The same member on a new stream, with what it had."""
    owned = [pb.TopicPartition(topic=topic, partition=partition) for topic, partition in member.owned]
    return Member(
        stub, member_id=member.member_id, member_epoch=member.epoch, owned=owned, group_id="g", **join
    )


def test_one_two_three_members(stub):
    """The partitions are shared out evenly as members come and go."""
    orders = make_topic(stub, "orders", 6)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        first.wait_for(orders)
        with Member(stub, group_id="g", topics=["orders"]) as second:
            wait_until_shared([first, second], orders)
            with Member(stub, group_id="g", topics=["orders"]) as third:
                wait_until_shared([first, second, third], orders)
            wait_until_shared([first, second], orders)
        first.wait_for(orders)
    assert [member.error for member in (first, second, third)] == [None] * 3
    assert error_name(describe(stub, "g")) == "UNKNOWN_GROUP"


def test_a_broker_that_stood_still(tmp_path):
    """Members that gave signs of life meanwhile are members still; a silent one goes all the same."""
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        orders = make_topic(stub, "orders", 2)
        join = {"group_id": "g", "topics": ["orders"], "session_timeout_ms": 1_000}
        with Member(stub, **join) as lively:
            silent = Member(stub, **join)
            wait_until_shared([lively, silent], orders)
            broker.send_signal(SIGSTOP)
            time.sleep(2)  # more than a session
            lively.heartbeat()
            broker.send_signal(SIGCONT)
            while not silent.ended:
                time.sleep(0.1)
                lively.heartbeat()
            assert silent.wait_for_end().reason == "FENCED_MEMBER"
            lively.wait_for(orders)
            assert lively.error is None


def test_what_is_kept_is_not_interrupted(stub):
    """While others join, a member lets go of what they get and keeps the rest, under epochs that rise."""
    orders = make_topic(stub, "orders", 12)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        first.wait_for(orders)
        with members(stub, 3, group_id="g", topics=["orders"]) as others:
            wait_until_shared([first, *others], orders)
            epochs, held = zip(*first.assignments, strict=True)
    assert all(after <= before for before, after in pairwise(held[held.index(frozenset(orders)) :]))
    assert all(before <= after for before, after in pairwise(epochs))


@pytest.mark.timed
def test_no_partition_is_given_before_it_is_let_go_of(stub):
    """A newcomer waits for one that lets go of nothing, until that one's revoke time is over."""
    orders = make_topic(stub, "orders", 2)
    slow = Member(stub, obedient=False, group_id="g", topics=["orders"], revoke_timeout_ms=1_000)
    slow.wait(lambda member: member.assignments and member.assignments[-1][1] == frozenset(orders))
    with Member(stub, group_id="g", topics=["orders"]) as second:
        slow.wait(lambda member: len(member.assignments[-1][1]) == 1)
        began = time.monotonic()
        second.wait_for(orders)
        assert time.monotonic() - began > 0.8
        assert slow.wait_for_end().reason == "FENCED_MEMBER"
        assert slow.error.code is grpc.StatusCode.ABORTED


@pytest.mark.timed
def test_a_client_that_is_killed(broker, stub):
    """A member whose connection is cut is removed when its time to come back is over."""
    orders = make_topic(stub, "orders", 4)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
            killed = Member(TakhinServiceStub(channel), group_id="g", topics=["orders"])
            wait_until_shared([first, killed], orders)
        began = time.monotonic()
        first.wait_for(orders)
        assert REJOIN_MS / 1_000 - 0.1 <= time.monotonic() - began <= REJOIN_MS / 1_000 + 1


@pytest.mark.timed
def test_a_broken_stream_that_comes_back(broker, stub):
    """A member that comes back in time keeps everything, and no other notices."""
    orders = make_topic(stub, "orders", 4)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
            second = Member(TakhinServiceStub(channel), group_id="g", topics=["orders"])
            wait_until_shared([first, second], orders)
        told = list(first.assignments)
        with back(stub, second, topics=["orders"]) as again:
            again.wait_for(second.owned)
            assert (again.member_id, again.epoch) == (second.member_id, second.epoch)
            assert commit(stub, "g", dict.fromkeys(again.owned, 0), again).success
            assert first.assignments == told


def test_a_second_stream_of_one_member(stub):
    """The newer stream is the member's; the older one ends with a reason."""
    orders = make_topic(stub, "orders", 2)
    first = Member(stub, group_id="g", topics=["orders"])
    first.wait_for(orders)
    with back(stub, first, topics=["orders"]) as again:
        assert first.wait_for_end().reason == "FENCED_MEMBER"
        again.wait_for(orders)
        again.heartbeat()
        again.wait(lambda member: len(member.heartbeats) >= 2)


@pytest.mark.timed
def test_a_member_that_gives_no_sign_of_life(stub):
    """It is removed after its session, though its stream is open; its commits are refused from then on."""
    orders = make_topic(stub, "orders", 2)
    silent = Member(stub, group_id="g", topics=["orders"], session_timeout_ms=1_000)
    silent.wait_for(orders)
    with Member(stub, group_id="g", topics=["orders"]) as second:
        wait_until_shared([silent, second], orders)
        assert commit(stub, "g", dict.fromkeys(silent.owned, 0), silent).success
        assert silent.wait_for_end().reason == "FENCED_MEMBER"
        second.wait_for(orders)
        refused = commit(stub, "g", dict.fromkeys(silent.owned, 0), silent)
        assert error_name(refused) == "UNKNOWN_MEMBER"


def test_a_zombies_commit(stub):
    """A commit of what a member has lost is refused by name, whole, and the offset of the new owner stays."""
    orders = make_topic(stub, "orders", 2)
    produce(stub, "orders", [b"a", b"b"], partition=0)
    produce(stub, "orders", [b"a", b"b"], partition=1)
    with Member(stub, group_id="g", topics=["orders"]) as first:
        first.wait_for(orders)
        old_epoch = first.epoch
        assert commit(stub, "g", dict.fromkeys(orders, 1), first).success
        with Member(stub, group_id="g", topics=["orders"]) as second:
            wait_until_shared([first, second], orders)
            assert commit(stub, "g", dict.fromkeys(second.owned, 2), second).success
            for epoch in (old_epoch, first.epoch):
                refused = commit(stub, "g", dict.fromkeys(orders, 0), first, epoch)
                assert error_name(refused) == "FENCED_MEMBER"
                assert [(each.topic, each.partition) for each in refused.refused] == sorted(second.owned)
            assert commit(stub, "g", dict.fromkeys(first.owned, 2), first, old_epoch).success
            (lost,) = second.owned
            ahead = commit(stub, "g", {lost: 0}, second, second.epoch + 1)
            assert error_name(ahead) == "FENCED_MEMBER"
            described = describe(stub, "g")
    assert {(of.topic, of.partition): of.committed_offset for of in described.offsets} == dict.fromkeys(
        orders, 2
    )


def test_a_group_with_members_is_theirs(stub):
    """Commits of nobody's, and the deletion of the group or of its topic's offsets, are refused by name."""
    orders = make_topic(stub, "orders", 1)
    make_topic(stub, "other", 1)
    both = {("orders", 0): 0, ("other", 0): 0}
    assert commit(stub, "g", both).success
    with Member(stub, group_id="g", topics=["orders"]) as member:
        member.wait_for(orders)
        assert error_name(commit(stub, "g", both)) == "GROUP_NOT_EMPTY"
        deleted = stub.DeleteConsumerGroup(pb.DeleteConsumerGroupRequest(group_id="g"), timeout=CALL_S_MAX)
        assert error_name(deleted) == "GROUP_NOT_EMPTY"

        def delete(*topics):
            request = pb.DeleteOffsetsRequest(group_id="g", topics=topics)
            return stub.DeleteOffsets(request, timeout=CALL_S_MAX)

        assert error_name(delete("other", "orders")) == "GROUP_NOT_EMPTY"
        assert len(describe(stub, "g").offsets) == 2
        assert delete("other").success
        assert [of.topic for of in describe(stub, "g").offsets] == ["orders"]
    assert commit(stub, "g", both).success
    assert delete("other", "orders").success
    assert error_name(delete("orders")) == "UNKNOWN_GROUP"
    assert error_name(delete()) == "INVALID_ARGUMENT"


def test_static_members(stub):
    """One that leaves for a restart finds its partitions under its instance id; a second one is refused."""
    orders = make_topic(stub, "orders", 4)
    with Member(stub, group_id="g", topics=["orders"], instance_id="a") as first:
        second = Member(stub, group_id="g", topics=["orders"], instance_id="b")
        wait_until_shared([first, second], orders)
        told = list(first.assignments)
        twin = Member(stub, group_id="g", topics=["orders"], instance_id="b")
        assert twin.wait_for_end().reason == "INSTANCE_IN_USE"
        assert twin.error.code is grpc.StatusCode.FAILED_PRECONDITION
        second.say(leave=pb.Leave(keep_for_restart=True))
        assert second.wait_for_end() is None
        assert [m.instance_id for m in describe(stub, "g").members] == ["a", "b"]
        with Member(stub, group_id="g", topics=["orders"], instance_id="b") as again:
            again.wait_for(second.owned)
            assert again.member_id != second.member_id
            assert first.assignments == told
            fenced = commit(stub, "g", dict.fromkeys(second.owned, 0), second)
            assert error_name(fenced) == "UNKNOWN_MEMBER"


def test_a_pattern_picks_up_topics(stub):
    """A pattern matches whole names, also of topics that are made later; deleted ones go away."""
    eu = make_topic(stub, "orders.eu", 2)
    make_topic(stub, "old.orders.eu", 1)
    with Member(stub, group_id="g", topic_pattern=r"orders\..*") as member:
        member.wait_for(eu)
        us = make_topic(stub, "orders.us", 2)
        member.wait_for(eu + us)
        stub.DeleteTopic(pb.DeleteTopicRequest(name="orders.eu"), timeout=CALL_S_MAX)
        member.wait_for(us)
        (described,) = describe(stub, "g").members
        assert list(described.topics) == ["orders.us"]
        member.say(subscribe=pb.Subscribe(topics=["old.orders.eu"]))
        member.wait_for([("old.orders.eu", 0)])


def test_topics_that_do_not_exist_yet_and_more_partitions(stub):
    """A topic is read when it is made, and a partition when it is added."""
    with members(stub, 2, group_id="g", topics=["later"]) as both:
        for member in both:
            member.wait_for([])
        wait_until_shared(both, make_topic(stub, "later", 2))
        request = pb.AlterTopicRequest(name="later", num_partitions=5)
        assert stub.AlterTopic(request, timeout=CALL_S_MAX).success
        wait_until_shared(both, [("later", partition) for partition in range(5)])


def test_a_group_is_described(stub):
    """Lists and descriptions say who has what, since when, and how far behind the group is."""
    orders = make_topic(stub, "orders", 2)
    produce(stub, "orders", [b"a", b"b", b"c"], partition=0)
    before = time.time() * 1_000 - 1
    with Member(
        stub, group_id="g", topics=["orders", "unheard-of"], client_id="reader", assignor="range"
    ) as it:
        it.wait_for(orders)
        it.wait(lambda member: member.heartbeats)
        (listed,) = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), timeout=CALL_S_MAX).groups
        # What is owned without a commit counts from the log's beginning.
        assert (listed.group_id, listed.state, listed.member_count, listed.lag) == ("g", "Stable", 1, 3)
        assert commit(stub, "g", {("orders", 0): 1}, it).success
        (listed,) = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), timeout=CALL_S_MAX).groups
        assert listed.lag == 2
        described = describe(stub, "g")
        assert (described.state, described.assignor, described.epoch) == ("Stable", "range", it.epoch)
        (offset,) = described.offsets
        assert (offset.committed_offset, offset.lag, offset.member_id) == (1, 2, it.member_id)
        (member,) = described.members
        assert (member.member_id, member.client_id, member.member_epoch) == (it.member_id, "reader", it.epoch)
        assert (member.state, list(member.topics), member.instance_id) == ("Stable", ["orders"], "")
        assert member.client_host.startswith("127.0.0.1:")
        assert [(a.partition, a.offset) for a in member.assignments] == [(0, 1), (1, -1)]
        assert before <= member.joined_at <= member.last_commit_at <= time.time() * 1_000 + 1
    (listed,) = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), timeout=CALL_S_MAX).groups
    assert (listed.state, listed.member_count, listed.lag) == ("Empty", 0, 2)
    described = describe(stub, "g")
    assert (described.state, described.epoch, described.assignor) == ("Empty", 0, "")
    assert list(described.members) == []


@pytest.mark.timed
def test_a_restart_of_the_broker_is_not_a_rebalance(data_dir):
    """Members that come back to a broker that has restarted keep what they had, and their commits count."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        orders = make_topic(stub, "orders", 6)
        before = [Member(stub, group_id="g", topics=["orders"]) for _ in range(3)]
        wait_until_shared(before, orders)
        broker.stop()
        assert [member.wait_for_end().reason for member in before] == ["SHUTTING_DOWN"] * 3
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        after = [back(stub, member, topics=["orders"]) for member in before]
        for old, new in zip(before, after, strict=True):
            new.wait_for(old.owned)
            assert new.epoch > old.epoch
            stale = commit(stub, "g", dict.fromkeys(old.owned, 0), old)
            assert error_name(stale) == "FENCED_MEMBER"
            assert commit(stub, "g", dict.fromkeys(new.owned, 0), new).success
        after[0].wait(lambda member: len({epoch for epoch, _ in member.assignments}) == 2)
        wait_until_shared(after, orders)
        for old, new in zip(before, after, strict=True):
            assert {partitions for _, partitions in new.assignments} == {old.owned}
            assert len(new.assignments) <= 2
        for member in after:
            member.say(leave=pb.Leave())
            assert member.wait_for_end() is None


def test_a_member_that_comes_back_too_late(broker, stub):
    """Its epoch is nobody's any more: it has to join from the start."""
    make_topic(stub, "orders", 1)
    late = Member(stub, group_id="g", topics=["orders"], member_id="m", member_epoch=7, owned=[])
    assert late.wait_for_end().reason == "UNKNOWN_MEMBER"
    with Member(stub, group_id="g", topics=["orders"], member_id="m") as member:
        member.wait_for([("orders", 0)])
        assert member.member_id == "m"


def test_full_groups(data_dir):
    """Who comes when a limit is reached is refused by name, and is taken when there is room."""
    limits = {"groups_members_max": 1, "groups_groups_max": 1}
    with Broker(data_dir, **limits) as broker, connected(broker.address) as stub:
        orders = make_topic(stub, "orders", 1)
        with Member(stub, group_id="g", topics=["orders"]) as first:
            first.wait_for(orders)
            for group_id, setting in (("g", "groups.members_max"), ("other", "groups.groups_max")):
                refused = Member(stub, group_id=group_id, topics=["orders"]).wait_for_end()
                assert (refused.code, refused.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "GROUP_FULL",
                )
                assert setting in refused.sentence
        with Member(stub, group_id="other", topics=["orders"]) as member:
            member.wait_for(orders)


@pytest.mark.timed
def test_three_hundred_members(memory, figures):
    """A group of 300 members comes to rest within 10 s."""
    with Broker(memory / "data") as broker, connected(broker.address) as stub:
        orders = make_topic(stub, "orders", 300)
        began = time.monotonic()
        joined = [Member(stub, group_id="g", topics=["orders"]) for _ in range(300)]
        wait_until_shared(joined, orders)
        took = time.monotonic() - began
        for member in joined:
            member.call.cancel()
    figures(f"300 members shared 300 partitions after {took:.1f} s")
    assert took < 10
