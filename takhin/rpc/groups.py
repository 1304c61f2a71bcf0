"""The methods about consumer groups and their offsets. Each decodes, calls the session, encodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from takhin.errors import FencedMemberError
from takhin.rpc.arrivals import taken_over
from takhin.rpc.calls import Context
from takhin.rpc.member_stream import member_responses
from takhin.rpc.methods import Methods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert_groups as convert


class GroupMethods(Methods):
    """Takes members in; commits and returns offsets; lists, describes and deletes groups."""

    def JoinConsumerGroup(
        self, request_iterator: AsyncIterator[pb.MemberRequest], context: Context
    ) -> AsyncGenerator[pb.MemberResponse, None]:
        return member_responses(self._session(), request_iterator)

    async def CommitOffset(
        self, request: pb.CommitOffsetRequest, context: Context
    ) -> pb.CommitOffsetResponse:
        group_id, size_bytes = request.group_id, convert.commits_bytes(request)
        committer, offsets = convert.committer(request), await convert.commits(request)
        del request
        taken_over()
        try:
            await self._session().commit_offsets(group_id, offsets, committer, size_bytes=size_bytes)
        except FencedMemberError as error:
            return await convert.fenced(error)
        return pb.CommitOffsetResponse(success=True)

    async def GetCommittedOffsets(
        self, request: pb.GetCommittedOffsetsRequest, context: Context
    ) -> pb.GetCommittedOffsetsResponse:
        partitions = await convert.topic_partitions(request)
        found = await self._session().committed_offsets(request.group_id, partitions)
        return await convert.committed(found)

    async def ListConsumerGroups(
        self, request: pb.ListConsumerGroupsRequest, context: Context
    ) -> pb.ListConsumerGroupsResponse:
        return await convert.groups(await self._session().list_groups())

    async def DescribeConsumerGroup(
        self, request: pb.DescribeConsumerGroupRequest, context: Context
    ) -> pb.DescribeConsumerGroupResponse:
        return await convert.group(await self._session().describe_group(request.group_id))

    async def DeleteConsumerGroup(
        self, request: pb.DeleteConsumerGroupRequest, context: Context
    ) -> pb.DeleteConsumerGroupResponse:
        await self._session().delete_group(request.group_id)
        return pb.DeleteConsumerGroupResponse(success=True)

    async def DeleteOffsets(
        self, request: pb.DeleteOffsetsRequest, context: Context
    ) -> pb.DeleteOffsetsResponse:
        await self._session().delete_offsets(request.group_id, request.topics)
        return pb.DeleteOffsetsResponse(success=True)
