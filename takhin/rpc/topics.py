"""The methods about topics. Each decodes, calls the session, encodes. Errors are raised through."""

from __future__ import annotations

from collections.abc import Sequence

from takhin.broker.broker import Broker
from takhin.rpc.calls import Context
from takhin.rpc.methods import Methods
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert


class TopicMethods(Methods):
    """Creates, alters, deletes, lists and describes topics."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self._names: Sequence[str] = ()
        self._list = pb.ListTopicsResponse()

    async def CreateTopic(self, request: pb.CreateTopicRequest, context: Context) -> pb.CreateTopicResponse:
        warnings = await self._session().create_topic(
            request.name,
            num_partitions=request.num_partitions,
            replication_factor=request.replication_factor,
            configs=request.configs,
        )
        return pb.CreateTopicResponse(success=True, warnings=warnings)

    async def DeleteTopic(self, request: pb.DeleteTopicRequest, context: Context) -> pb.DeleteTopicResponse:
        await self._session().delete_topic(request.name)
        return pb.DeleteTopicResponse(success=True)

    async def CompactTopic(
        self, request: pb.CompactTopicRequest, context: Context
    ) -> pb.CompactTopicResponse:
        removed = await self._session().compact_topic(request.name)
        return pb.CompactTopicResponse(success=True, removed=removed)

    async def AlterTopic(self, request: pb.AlterTopicRequest, context: Context) -> pb.AlterTopicResponse:
        warnings = await self._session().alter_topic(
            request.name, configs=request.set, reset=request.reset, num_partitions=request.num_partitions
        )
        return pb.AlterTopicResponse(success=True, warnings=warnings)

    async def DescribeTopicConfigs(
        self, request: pb.DescribeTopicConfigsRequest, context: Context
    ) -> pb.DescribeTopicConfigsResponse:
        return convert.configs(self._session().describe_configs(request.name))

    async def ListTopics(self, request: pb.ListTopicsRequest, context: Context) -> pb.ListTopicsResponse:
        names = await self._session().list_topics()
        if names is not self._names:  # the catalogue has changed
            self._names = names
            self._list = pb.ListTopicsResponse(topics=names)
        return self._list

    async def GetTopic(self, request: pb.GetTopicRequest, context: Context) -> pb.GetTopicResponse:
        info = await self._session().describe_topic(request.name)
        return pb.GetTopicResponse(topic=convert.topic_info(info))

    async def DescribeTopics(
        self, request: pb.DescribeTopicsRequest, context: Context
    ) -> pb.DescribeTopicsResponse:
        infos = self._session().describe_topics(
            request.topics,
            without_partitions=request.without_partitions,
            without_sizes=request.without_sizes,
        )
        return pb.DescribeTopicsResponse(topics=[convert.topic_info(info) async for info in infos])

    async def GetPartitionOffsets(
        self, request: pb.GetPartitionOffsetsRequest, context: Context
    ) -> pb.GetPartitionOffsetsResponse:
        info = self._session().describe_partition(request.topic, request.partition)
        return pb.GetPartitionOffsetsResponse(
            topic=request.topic,
            partition=request.partition,
            beginning_offset=info.start_offset,
            end_offset=info.end_offset,
        )
