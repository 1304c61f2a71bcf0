"""Members of consumer groups as strangers write them, over the generated stub alone.

A member does what the interface asks: it lets go of what is missing from an assignment, and says so.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import grpc

from blackbox.clients import CALL_S_MAX, Refusal, refusal
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

At = tuple[str, int]
"""A topic and a partition."""


def owned_of(partitions: Iterable[At]) -> pb.OwnedPartitions:
    return pb.OwnedPartitions(partitions=[pb.TopicPartition(topic=t, partition=p) for t, p in partitions])


class Member:
    """A member on a stream of its own, which a thread reads. `with Member(…)` leaves in the end.

    obedient: False: it never lets go of anything, nor says what it holds.
    join: fields of Join.
    """

    def __init__(self, stub: TakhinServiceStub, *, obedient: bool = True, **join: Any) -> None:
        self.member_id = ""
        self.epoch = 0
        self.owned: frozenset[At] = frozenset()
        self.assignments: list[tuple[int, frozenset[At]]] = []
        self.heartbeats: list[int] = []
        self.joined: pb.Joined | None = None
        self.ended = False
        self.error: Refusal | None = None
        self._obedient = obedient
        self._news = threading.Condition()
        self._requests: queue.SimpleQueue[pb.MemberRequest | None] = queue.SimpleQueue()
        self.say(join=pb.Join(**join))
        self.call = stub.JoinConsumerGroup(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def say(self, **request: Any) -> None:
        """Send a request."""
        self._requests.put(pb.MemberRequest(**request))

    def heartbeat(self, *, owned: Iterable[At] | None = None, epoch: int | None = None) -> None:
        """Give a sign of life. owned: what it says that it holds; None: it does not say."""
        says = None if owned is None else owned_of(owned)
        self.say(heartbeat=pb.Heartbeat(member_epoch=self.epoch if epoch is None else epoch, owned=says))

    def end(self) -> None:
        """End its side of the stream in order."""
        self._requests.put(None)

    def wait(self, until: Callable[[Member], object], what: str = "") -> None:
        """Wait until that holds of the member."""
        with self._news:
            met = self._news.wait_for(lambda: until(self), CALL_S_MAX)
        assert met, f"{what}: {self}"

    def wait_for(self, owned: Iterable[At]) -> None:
        """Wait until it owns just that."""
        wanted = frozenset(owned)
        self.wait(
            lambda member: member.assignments and member.owned == wanted, f"waited for {sorted(wanted)}"
        )

    def wait_for_end(self) -> Refusal | None:
        """Wait until its stream has ended; returns the error that it ended with, if any."""
        self.wait(lambda member: member.ended, "waited for the end")
        return self.error

    def _read(self) -> None:
        try:
            for response in self.call:
                with self._news:
                    self._take(response)
                    self._news.notify_all()
        except grpc.RpcError as error:
            self.error = refusal(error)
        with self._news:
            self.ended = True
            self._news.notify_all()

    def _take(self, response: pb.MemberResponse) -> None:
        if response.HasField("joined"):
            self.joined = response.joined
            self.member_id, self.epoch = response.joined.member_id, response.joined.member_epoch
        elif response.HasField("heartbeat"):
            self.heartbeats.append(response.heartbeat.member_epoch)
        else:
            told = response.assignment
            partitions = frozenset((each.topic, each.partition) for each in told.partitions)
            self.assignments.append((told.member_epoch, partitions))
            self.epoch = told.member_epoch
            if self._obedient:
                self.owned = partitions
                self.heartbeat(owned=partitions)

    def __str__(self) -> str:
        return (
            f"member {self.member_id} at epoch {self.epoch} with {sorted(self.owned)}, ended: {self.ended}, "
            f"{self.error}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()
        self.call.cancel() if exc[0] is not None else self.wait_for_end()


def make_topic(stub: TakhinServiceStub, name: str, partitions: int) -> list[At]:
    """Create a topic; returns its partitions."""
    request = pb.CreateTopicRequest(name=name, num_partitions=partitions)
    assert stub.CreateTopic(request, timeout=CALL_S_MAX).success
    return [(name, partition) for partition in range(partitions)]


def commit(
    stub: TakhinServiceStub,
    group_id: str,
    offsets: Mapping[At, int],
    member: Member | None = None,
    epoch: int | None = None,
) -> pb.CommitOffsetResponse:
    """Commit offsets, as a member if one is given. epoch: None: the member's own."""
    request = pb.CommitOffsetRequest(group_id=group_id)
    for (topic, partition), offset in offsets.items():
        request.offsets.add(topic=topic, partition=partition, offset=offset)
    if member is not None:
        request.member_id = member.member_id
        request.member_epoch = member.epoch if epoch is None else epoch
    return stub.CommitOffset(request, timeout=CALL_S_MAX)


def describe(stub: TakhinServiceStub, group_id: str) -> pb.DescribeConsumerGroupResponse:
    request = pb.DescribeConsumerGroupRequest(group_id=group_id)
    return stub.DescribeConsumerGroup(request, timeout=CALL_S_MAX)


def wait_until_shared(members: Sequence[Member], partitions: Iterable[At]) -> None:
    """Wait until the members own all of the partitions, evenly, and none has two owners."""
    wanted = sorted(partitions)
    deadline = time.monotonic() + CALL_S_MAX
    while True:
        owned = [member.owned for member in members]
        sizes = [len(each) for each in owned]
        if sorted(at for each in owned for at in each) == wanted and max(sizes) - min(sizes) <= 1:
            return
        assert time.monotonic() < deadline, "\n".join(map(str, members))
        time.sleep(0.005)
