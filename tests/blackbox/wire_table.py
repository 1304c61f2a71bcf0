"""A client that knows the interface's published table and nothing else.

It stands for every client that was generated before today: the table is written down here as data, the
messages are built from it at run time in a descriptor pool of their own, and takhin.v1 is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "takhin.v1"
SERVICE = f"{PACKAGE}.TakhinService"

MESSAGES = """
CreateTopicRequest: name=1 string, num_partitions=2 int32, replication_factor=3 int32, configs=4 map<string,string>
CreateTopicResponse: success=1 bool, error=2 string
DeleteTopicRequest: name=1 string
DeleteTopicResponse: success=1 bool, error=2 string
ListTopicsRequest:
ListTopicsResponse: topics=1 repeated string
GetTopicRequest: name=1 string
GetTopicResponse: topic=1 TopicInfo, error=2 string
DescribeTopicsRequest: topics=1 repeated string
DescribeTopicsResponse: topics=1 repeated TopicInfo
ProduceMessageRequest: topic=1 string, partition=2 int32, record=3 Record, required_acks=4 int32, timeout_ms=5 int32, records=6 repeated Record
ProduceMessageResponse: topic=1 string, partition=2 int32, offset=3 int64, timestamp=4 int64, error=5 string
ConsumeMessagesRequest: topic=1 string, partition=2 int32, offset=3 int64, max_bytes=4 int32, min_bytes=5 int32, max_wait_ms=6 int32
ConsumeMessagesResponse: topic=1 string, partition=2 int32, high_watermark=3 int64, records=4 repeated Record, error=5 string
CommitOffsetRequest: group_id=1 string, offsets=2 repeated TopicPartitionOffset
CommitOffsetResponse: success=1 bool, error=2 string
ListConsumerGroupsRequest:
ListConsumerGroupsResponse: groups=1 repeated ConsumerGroupInfo
DescribeConsumerGroupRequest: group_id=1 string
DescribeConsumerGroupResponse: group_id=1 string, state=2 string, protocol_type=3 string, members=4 repeated ConsumerGroupMember, error=5 string
DeleteConsumerGroupRequest: group_id=1 string
DeleteConsumerGroupResponse: success=1 bool, error=2 string
GetPartitionOffsetsRequest: topic=1 string, partition=2 int32
GetPartitionOffsetsResponse: topic=1 string, partition=2 int32, beginning_offset=3 int64, end_offset=4 int64, error=5 string
HealthCheckRequest:
HealthCheckResponse: status=1 string, version=2 string, uptime_seconds=3 int64, reasons=4 repeated string
Record: key=1 bytes, value=2 bytes, headers=3 repeated RecordHeader, timestamp=4 int64, offset=5 int64, partition=6 int32
RecordHeader: key=1 string, value=2 bytes
TopicPartitionOffset: topic=1 string, partition=2 int32, offset=3 int64
TopicInfo: name=1 string, num_partitions=2 int32, replication_factor=3 int32, partitions=4 map<int32,PartitionInfo>
PartitionInfo: partition_id=1 int32, beginning_offset=2 int64, end_offset=3 int64, leader=4 int32, replicas=5 repeated int32, isr=6 repeated int32
ConsumerGroupInfo: group_id=1 string, state=2 string, protocol_type=3 string, member_count=4 int32
ConsumerGroupMember: member_id=1 string, client_id=2 string, client_host=3 string, assignments=4 repeated TopicPartitionOffset
"""  # noqa: E501  a row of the table is a line

METHODS = """
CreateTopic: CreateTopicRequest -> CreateTopicResponse
DeleteTopic: DeleteTopicRequest -> DeleteTopicResponse
ListTopics: ListTopicsRequest -> ListTopicsResponse
GetTopic: GetTopicRequest -> GetTopicResponse
DescribeTopics: DescribeTopicsRequest -> DescribeTopicsResponse
ProduceMessage: ProduceMessageRequest -> ProduceMessageResponse
ProduceMessageStream: stream ProduceMessageRequest -> stream ProduceMessageResponse
ConsumeMessages: ConsumeMessagesRequest -> stream ConsumeMessagesResponse
CommitOffset: CommitOffsetRequest -> CommitOffsetResponse
ListConsumerGroups: ListConsumerGroupsRequest -> ListConsumerGroupsResponse
DescribeConsumerGroup: DescribeConsumerGroupRequest -> DescribeConsumerGroupResponse
DeleteConsumerGroup: DeleteConsumerGroupRequest -> DeleteConsumerGroupResponse
GetPartitionOffsets: GetPartitionOffsetsRequest -> GetPartitionOffsetsResponse
HealthCheck: HealthCheckRequest -> HealthCheckResponse
"""

FIELD = re.compile(r"(\w+)=(\d+) (repeated )?(?:map<(\w+),(\w+)>|(\w+))(?:, |$)")
METHOD = re.compile(r"(\w+): (stream )?(\w+) -> (stream )?(\w+)")


def table_file() -> FileDescriptorProto:
    """The published table as the descriptor of a .proto file."""
    return described_file(PACKAGE, "TakhinService", MESSAGES, METHODS)


def described_file(package: str, service_name: str, messages: str, methods: str) -> FileDescriptorProto:
    """The descriptor of a .proto file, from a row for each message and one for each method."""
    file = FileDescriptorProto(name=f"{service_name}.table.proto", package=package, syntax="proto3")
    for line in messages.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for match in FIELD.finditer(fields.strip()):
            _add_field(message, package, match.groups())
    service = file.service.add(name=service_name)
    for name, streams_in, takes, streams_out, gives in METHOD.findall(methods):
        service.method.add(
            name=name,
            input_type=f".{package}.{takes}",
            output_type=f".{package}.{gives}",
            client_streaming=bool(streams_in),
            server_streaming=bool(streams_out),
        )
    return file


def _add_field(message: DescriptorProto, package: str, cells: Sequence[str | None]) -> None:
    """Add a field. cells: the groups of FIELD: name, number, repeated, key and value type of a map, type."""
    name, number, repeated, map_key, map_value, type_name = cells
    if map_key:
        entry = message.nested_type.add(name="".join(map(str.title, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, package, ("key", "1", None, None, None, map_key))
        _add_field(entry, package, ("value", "2", None, None, None, map_value))
        type_name, repeated = f"{message.name}.{entry.name}", "repeated"
    field = message.field.add(name=name, number=int(number))
    field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if type_name in ("string", "bytes", "bool", "int32", "int64"):
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{type_name.upper()}")
    else:
        field.type_name = f".{package}.{type_name}"
        field.type = FieldDescriptorProto.TYPE_MESSAGE


class DescribedClient:
    """Calls the service as a file descriptor describes it, and builds its messages.

    client.CreateTopic(...) is the call on `channel`; client.messages.CreateTopicRequest the class.
    """

    def __init__(self, channel: grpc.Channel, file: FileDescriptorProto) -> None:
        pool = DescriptorPool()
        pool.Add(file)
        self.messages = SimpleNamespace(
            **{
                message.name: GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))
                for message in file.message_type
            }
        )
        (service,) = file.service
        for method in service.method:
            path = f"/{file.package}.{service.name}/{method.name}"
            setattr(self, method.name, self._callable(channel, path, method))

    def _callable(self, channel: grpc.Channel, path: str, method: Any) -> Any:
        kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        takes, gives = (
            getattr(self.messages, name.rpartition(".")[2])
            for name in (method.input_type, method.output_type)
        )
        return kinds[method.client_streaming, method.server_streaming](
            path,
            request_serializer=takes.SerializeToString,
            response_deserializer=gives.FromString,
        )
