"""The methods about consumer groups and their offsets. Each decodes, calls the session, encodes."""

from __future__ import annotations

from takhin.rpc.interceptors import Context
from takhin.rpc.methods import Methods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert


class GroupMethods(Methods):
    """Commits and returns offsets; lists, describes and deletes groups."""

    async def CommitOffset(
        self, request: pb.CommitOffsetRequest, context: Context
    ) -> pb.CommitOffsetResponse:
        await self._session(context).commit_offsets(request.group_id, await convert.commits(request))
        return pb.CommitOffsetResponse(success=True)

    async def GetCommittedOffsets(
        self, request: pb.GetCommittedOffsetsRequest, context: Context
    ) -> pb.GetCommittedOffsetsResponse:
        partitions = await convert.topic_partitions(request)
        found = await self._session(context).committed_offsets(request.group_id, partitions)
        return await convert.committed(found)

    async def ListConsumerGroups(
        self, request: pb.ListConsumerGroupsRequest, context: Context
    ) -> pb.ListConsumerGroupsResponse:
        return await convert.groups(self._session(context).list_groups())

    async def DescribeConsumerGroup(
        self, request: pb.DescribeConsumerGroupRequest, context: Context
    ) -> pb.DescribeConsumerGroupResponse:
        return await convert.group(await self._session(context).describe_group(request.group_id))

    async def DeleteConsumerGroup(
        self, request: pb.DeleteConsumerGroupRequest, context: Context
    ) -> pb.DeleteConsumerGroupResponse:
        await self._session(context).delete_group(request.group_id)
        return pb.DeleteConsumerGroupResponse(success=True)
