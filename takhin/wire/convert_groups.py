"""Messages about consumer groups to values and back: what members say and are told, commits, descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from takhin.errors import FencedMemberError, InvalidArgumentError
from takhin.group_views import DescribedGroup, DescribedMember, ListedGroup
from takhin.members import (
    Assignment,
    Committer,
    Heartbeat,
    HeartbeatAnswer,
    Joined,
    JoinGroup,
    Leave,
    MemberRequest,
    MemberResponse,
    Partitions,
    Subscribe,
)
from takhin.model import CommittedOffset, OffsetCommit, TopicPartition
from takhin.turns import IN_ONE_TURN, in_turns, others_turn
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.status import TABLE

PROTOCOL_TYPE = "consumer"
COMMIT_BYTES = 1_000
"""What an offset to be committed takes besides its bytes on the wire, until it is durable."""


async def member_request(request: pb.MemberRequest) -> MemberRequest:
    """What a member says. Raises InvalidArgumentError if it says nothing that is known."""
    kind = request.WhichOneof("request")
    if kind == "join":
        return await _join(request.join)
    if kind == "heartbeat":
        heartbeat = request.heartbeat
        says = heartbeat.HasField("owned")
        owned = await _partitions(heartbeat.owned.partitions) if says else None
        return Heartbeat(heartbeat.member_epoch, owned)
    if kind == "subscribe":
        return Subscribe(frozenset(request.subscribe.topics), request.subscribe.topic_pattern)
    if kind == "leave":
        return Leave(request.leave.keep_for_restart)
    raise InvalidArgumentError(
        "the request has none of join, heartbeat, subscribe and leave", field="request"
    )


async def _join(join: pb.Join) -> JoinGroup:
    return JoinGroup(
        join.group_id,
        join.client_id,
        join.member_id,
        join.member_epoch,
        join.instance_id,
        frozenset(join.topics),
        join.topic_pattern,
        join.assignor,
        join.session_timeout_ms,
        join.revoke_timeout_ms,
        await _partitions(join.owned),
    )


async def _partitions(found: Iterable[pb.TopicPartition]) -> Partitions:
    return frozenset([TopicPartition(of.topic, of.partition) async for of in in_turns(found)])


async def member_response(response: MemberResponse) -> pb.MemberResponse:
    """What a member is told."""
    match response:
        case Joined():
            return pb.MemberResponse(
                joined=pb.Joined(
                    member_id=response.member_id,
                    member_epoch=response.epoch,
                    heartbeat_interval_ms=response.heartbeat_interval_ms,
                    session_timeout_ms=response.session_timeout_ms,
                )
            )
        case HeartbeatAnswer():
            return pb.MemberResponse(heartbeat=pb.HeartbeatAnswer(member_epoch=response.epoch))
        case Assignment():
            told = pb.MemberResponse(assignment=pb.Assignment(member_epoch=response.epoch))
            async for topic, partition in in_turns(sorted(response.partitions)):
                told.assignment.partitions.add(topic=topic, partition=partition)
            return told


def committer(request: pb.CommitOffsetRequest) -> Committer:
    return Committer(request.member_id, request.member_epoch)


def commits_bytes(request: pb.CommitOffsetRequest) -> int:
    """About what the request takes in memory once it is converted."""
    return request.ByteSize() + COMMIT_BYTES * len(request.offsets)


async def commits(request: pb.CommitOffsetRequest) -> list[OffsetCommit]:
    return [
        OffsetCommit(TopicPartition(of.topic, of.partition), of.offset, of.metadata, of.incarnation_id)
        async for of in in_turns(request.offsets)
    ]


async def fenced(error: FencedMemberError) -> pb.CommitOffsetResponse:
    """The answer to a commit of which the member does not own everything."""
    response = pb.CommitOffsetResponse(error=str(error), error_code=TABLE[FencedMemberError].code)
    async for topic, partition in in_turns(error.refused):
        response.refused.add(topic=topic, partition=partition)
    return response


async def topic_partitions(request: pb.GetCommittedOffsetsRequest) -> list[TopicPartition]:
    return [TopicPartition(asked.topic, asked.partition) async for asked in in_turns(request.partitions)]


async def committed(
    found: Sequence[tuple[TopicPartition, CommittedOffset | None]],
) -> pb.GetCommittedOffsetsResponse:
    response = pb.GetCommittedOffsetsResponse()
    async for (topic, partition), offset in in_turns(found):
        response.offsets.add(
            topic=topic,
            partition=partition,
            offset=-1 if offset is None else offset.offset,
            metadata="" if offset is None else offset.metadata,
        )
    return response


async def groups(listed: Sequence[ListedGroup]) -> pb.ListConsumerGroupsResponse:
    response = pb.ListConsumerGroupsResponse()
    async for of in in_turns(listed):
        response.groups.add(
            group_id=of.group_id,
            state=of.state.value,
            protocol_type=PROTOCOL_TYPE,
            member_count=of.member_count,
            lag=of.lag,
        )
    return response


async def group(described: DescribedGroup) -> pb.DescribeConsumerGroupResponse:
    response = pb.DescribeConsumerGroupResponse(
        group_id=described.group_id,
        state=described.state.value,
        protocol_type=PROTOCOL_TYPE,
        epoch=described.epoch,
        assignor=described.assignor,
    )
    async for of in in_turns(described.offsets):
        response.offsets.add(
            topic=of.topic,
            partition=of.partition,
            committed_offset=of.committed.offset,
            end_offset=of.end_offset,
            lag=of.lag,
            metadata=of.committed.metadata,
            committed_at=of.committed.committed_at,
            member_id=of.member_id,
            lag_ms=of.lag_ms,
        )
    added = 0
    for member in described.members:
        await _add_member(response, member)
        added += 1 + len(member.topics) + len(member.assigned)
        if added >= IN_ONE_TURN:
            added = 0
            await others_turn()
    return response


async def _add_member(response: pb.DescribeConsumerGroupResponse, member: DescribedMember) -> None:
    added = response.members.add(
        member_id=member.member_id,
        client_id=member.client_id,
        client_host=member.client_host,
        member_epoch=member.epoch,
        instance_id=member.instance_id,
        state=member.state,
        topics=member.topics,
        joined_at=member.joined_at,
        last_commit_at=member.last_commit_at,
    )
    async for (topic, partition), of in in_turns(member.assigned):
        offset, metadata = (-1, "") if of is None else (of.offset, of.metadata)
        added.assignments.add(topic=topic, partition=partition, offset=offset, metadata=metadata)
