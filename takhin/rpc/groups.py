"""The methods about consumer groups and their offsets. Each decodes, calls the session, encodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from takhin.broker.broker import Broker
from takhin.errors import OverloadedError
from takhin.rpc.arrivals import taken_over
from takhin.rpc.interceptors import Context
from takhin.rpc.methods import Methods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert


class CommitsUnderWay:
    """Counts the bytes of commits that wait for their partitions. No queue does: one commit is for many."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0

    @contextmanager
    def counted(self, size_bytes: int) -> Iterator[None]:
        """Count them meanwhile. The bound is passed by at most one, so that any allowed commit gets through.

        Raises OverloadedError.
        """
        if self._bytes >= self._bytes_max:
            raise OverloadedError(
                f"{self._bytes} bytes of commits are under way; the limit is {self._bytes_max} "
                "(groups.commit_bytes_max)"
            )
        self._bytes += size_bytes
        try:
            yield
        finally:
            self._bytes -= size_bytes


class GroupMethods(Methods):
    """Commits and returns offsets; lists, describes and deletes groups."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self._commits = CommitsUnderWay(broker.settings.groups.commit_bytes_max)

    async def CommitOffset(
        self, request: pb.CommitOffsetRequest, context: Context
    ) -> pb.CommitOffsetResponse:
        group_id, size_bytes = request.group_id, convert.commits_bytes(request)
        offsets = await convert.commits(request)
        del request
        with self._commits.counted(size_bytes):
            taken_over()
            await self._session(context).commit_offsets(group_id, offsets)
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
