"""The interface that clients were generated from, written by hand. Names and numbers never change."""

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from takhin.v1 import takhin_pb2

SERVICE = "takhin.v1.TakhinService"

RPCS = {
    "CreateTopic": "CreateTopicRequest -> CreateTopicResponse",
    "DeleteTopic": "DeleteTopicRequest -> DeleteTopicResponse",
    "ListTopics": "ListTopicsRequest -> ListTopicsResponse",
    "GetTopic": "GetTopicRequest -> GetTopicResponse",
    "DescribeTopics": "DescribeTopicsRequest -> DescribeTopicsResponse",
    "ProduceMessage": "ProduceMessageRequest -> ProduceMessageResponse",
    "ProduceMessageStream": "stream ProduceMessageRequest -> stream ProduceMessageResponse",
    "ConsumeMessages": "ConsumeMessagesRequest -> stream ConsumeMessagesResponse",
    "CommitOffset": "CommitOffsetRequest -> CommitOffsetResponse",
    "ListConsumerGroups": "ListConsumerGroupsRequest -> ListConsumerGroupsResponse",
    "DescribeConsumerGroup": "DescribeConsumerGroupRequest -> DescribeConsumerGroupResponse",
    "DeleteConsumerGroup": "DeleteConsumerGroupRequest -> DeleteConsumerGroupResponse",
    "GetPartitionOffsets": "GetPartitionOffsetsRequest -> GetPartitionOffsetsResponse",
    "GetOffsetsForTimes": "GetOffsetsForTimesRequest -> GetOffsetsForTimesResponse",
    "DeleteRecords": "DeleteRecordsRequest -> DeleteRecordsResponse",
    "CompactTopic": "CompactTopicRequest -> CompactTopicResponse",
    "HealthCheck": "HealthCheckRequest -> HealthCheckResponse",
    "JoinConsumerGroup": "stream MemberRequest -> stream MemberResponse",
    "DeleteOffsets": "DeleteOffsetsRequest -> DeleteOffsetsResponse",
    "AlterTopic": "AlterTopicRequest -> AlterTopicResponse",
    "DescribeTopicConfigs": "DescribeTopicConfigsRequest -> DescribeTopicConfigsResponse",
    "CreateToken": "CreateTokenRequest -> CreateTokenResponse",
    "ListTokens": "ListTokensRequest -> ListTokensResponse",
    "RevokeTokens": "RevokeTokensRequest -> RevokeTokensResponse",
    "ChangeAccess": "ChangeAccessRequest -> ChangeAccessResponse",
    "ListAccess": "ListAccessRequest -> ListAccessResponse",
}

MESSAGES = {
    "Record": """
        optional bytes key = 1; optional bytes value = 2; repeated RecordHeader headers = 3;
        int64 timestamp = 4; int64 offset = 5; int32 partition = 6""",
    "RecordHeader": "string key = 1; bytes value = 2",
    "TopicPartitionOffset": """
        string topic = 1; int32 partition = 2; int64 offset = 3; string incarnation_id = 5""",
    "TopicInfo": """
        string name = 1; int32 num_partitions = 2; int32 replication_factor = 3;
        map<int32, PartitionInfo> partitions = 4""",
    "PartitionInfo": """
        int32 partition_id = 1; int64 beginning_offset = 2; int64 end_offset = 3; int32 leader = 4;
        repeated int32 replicas = 5; repeated int32 isr = 6; int64 size_bytes = 8;
        int64 first_timestamp = 9; int64 last_timestamp = 10; int64 record_count = 11;
        string unavailable_reason = 12""",
    "ConsumerGroupInfo": """
        string group_id = 1; string state = 2; string protocol_type = 3; int32 member_count = 4;
        int64 lag = 5""",
    "ConsumerGroupMember": """
        string member_id = 1; string client_id = 2; string client_host = 3;
        repeated TopicPartitionOffset assignments = 4; int64 member_epoch = 5; string instance_id = 6;
        string state = 7; repeated string topics = 8; int64 joined_at = 9; int64 last_commit_at = 10""",
    "CreateTopicRequest": """
        string name = 1; int32 num_partitions = 2; int32 replication_factor = 3;
        map<string, string> configs = 4""",
    "CreateTopicResponse": """
        bool success = 1; string error = 2; ErrorCode error_code = 3; repeated string warnings = 4""",
    "DeleteTopicRequest": "string name = 1",
    "DeleteTopicResponse": "bool success = 1; string error = 2",
    "ListTopicsRequest": "",
    "ListTopicsResponse": "repeated string topics = 1",
    "GetTopicRequest": "string name = 1",
    "GetTopicResponse": "TopicInfo topic = 1; string error = 2",
    "DescribeTopicsRequest": """
        repeated string topics = 1; bool without_partitions = 2; bool without_sizes = 3""",
    "AlterTopicRequest": """
        string name = 1; map<string, string> set = 2; repeated string reset = 3; int32 num_partitions = 4""",
    "AlterTopicResponse": """
        bool success = 1; string error = 2; ErrorCode error_code = 3; repeated string warnings = 4""",
    "DescribeTopicConfigsRequest": "string name = 1",
    "DescribeTopicConfigsResponse": """
        repeated TopicConfigEntry configs = 1; string error = 2; ErrorCode error_code = 3""",
    "TopicConfigEntry": "string name = 1; string value = 2; string origin = 3; string doc = 4",
    "DescribeTopicsResponse": "repeated TopicInfo topics = 1",
    "ProduceMessageRequest": """
        string topic = 1; int32 partition = 2; Record record = 3; optional int32 required_acks = 4;
        int32 timeout_ms = 5; repeated Record records = 6; bytes producer_id = 7; int64 sequence = 8;
        optional int64 expected_offset = 9; SourceOffset source = 10; string topic_id = 11;
        optional int64 maybe_stored_from = 12; Compression compression = 13;
        bytes compressed_records = 14""",
    "SourceOffset": """
        string group_id = 1; string topic = 2; int32 partition = 3; int64 offset = 4;
        string incarnation_id = 5""",
    "ProduceMessageResponse": """
        string topic = 1; int32 partition = 2; int64 offset = 3; int64 timestamp = 4; string error = 5;
        int64 end_offset = 8; bool duplicate = 9; int32 num_partitions = 10""",
    "ConsumeMessagesRequest": """
        string topic = 1; int32 partition = 2; int64 offset = 3; int32 max_bytes = 4; int32 min_bytes = 5;
        int32 max_wait_ms = 6; string incarnation_id = 11; repeated Compression accept = 12""",
    "ConsumeMessagesResponse": """
        string topic = 1; int32 partition = 2; int64 high_watermark = 3; repeated Record records = 4;
        string error = 5; Compression compression = 7; bytes compressed_records = 8""",
    "CommitOffsetRequest": """
        string group_id = 1; repeated TopicPartitionOffset offsets = 2; string member_id = 3;
        int64 member_epoch = 4""",
    "CommitOffsetResponse": "bool success = 1; string error = 2; repeated TopicPartition refused = 4",
    "TopicPartition": "string topic = 1; int32 partition = 2",
    "Join": """
        string group_id = 1; string client_id = 2; string member_id = 3; int64 member_epoch = 4;
        string instance_id = 5; repeated string topics = 6; string topic_pattern = 7; string assignor = 8;
        int32 session_timeout_ms = 9; int32 revoke_timeout_ms = 10; repeated TopicPartition owned = 11""",
    "Heartbeat": "int64 member_epoch = 1; OwnedPartitions owned = 2",
    "OwnedPartitions": "repeated TopicPartition partitions = 1",
    "Subscribe": "repeated string topics = 1; string topic_pattern = 2",
    "Leave": "bool keep_for_restart = 1",
    "Joined": """
        string member_id = 1; int64 member_epoch = 2; int32 heartbeat_interval_ms = 3;
        int32 session_timeout_ms = 4""",
    "Assignment": "int64 member_epoch = 1; repeated TopicPartition partitions = 2",
    "HeartbeatAnswer": "int64 member_epoch = 1",
    "ListConsumerGroupsRequest": "",
    "ListConsumerGroupsResponse": "repeated ConsumerGroupInfo groups = 1",
    "DescribeConsumerGroupRequest": "string group_id = 1",
    "DescribeConsumerGroupResponse": """
        string group_id = 1; string state = 2; string protocol_type = 3;
        repeated ConsumerGroupMember members = 4; string error = 5; int64 epoch = 8; string assignor = 9""",
    "GroupOffset": """
        string topic = 1; int32 partition = 2; int64 committed_offset = 3; int64 end_offset = 4;
        int64 lag = 5; string metadata = 6; int64 committed_at = 7; string member_id = 8;
        int64 lag_ms = 9""",
    "DeleteOffsetsRequest": "string group_id = 1; repeated string topics = 2",
    "DeleteOffsetsResponse": "bool success = 1; string error = 2; ErrorCode error_code = 3",
    "DeleteConsumerGroupRequest": "string group_id = 1",
    "DeleteConsumerGroupResponse": "bool success = 1; string error = 2",
    "GetPartitionOffsetsRequest": "string topic = 1; int32 partition = 2",
    "GetPartitionOffsetsResponse": """
        string topic = 1; int32 partition = 2; int64 beginning_offset = 3; int64 end_offset = 4;
        string error = 5""",
    "TopicPartitionTime": "string topic = 1; int32 partition = 2; int64 timestamp = 3",
    "TopicPartitionTimeOffset": """
        string topic = 1; int32 partition = 2; int64 timestamp = 3; int64 offset = 4""",
    "GetOffsetsForTimesRequest": "repeated TopicPartitionTime queries = 1",
    "GetOffsetsForTimesResponse": "repeated TopicPartitionTimeOffset offsets = 1; string error = 2",
    "DeleteRecordsRequest": "string topic = 1; int32 partition = 2; int64 before_offset = 3",
    "DeleteRecordsResponse": "int64 beginning_offset = 1; string error = 2",
    "CompactTopicRequest": "string name = 1",
    "CompactTopicResponse": "bool success = 1; string error = 2; int64 removed = 4",
    "CreateTokenRequest": "string principal = 1; int64 expires_at = 2; string note = 3",
    "CreateTokenResponse": "string token = 1; TokenInfo info = 2; string error = 3; ErrorCode error_code = 4",
    "TokenInfo": """
        string token_id = 1; string principal = 2; int64 created_at = 3; int64 expires_at = 4;
        int64 last_used_at = 5; string note = 6""",
    "ListTokensRequest": "string principal = 1",
    "ListTokensResponse": "repeated TokenInfo tokens = 1; string error = 2; ErrorCode error_code = 3",
    "RevokeTokensRequest": "string id_or_principal = 1",
    "RevokeTokensResponse": "repeated TokenInfo revoked = 1; string error = 2; ErrorCode error_code = 3",
    "ChangeAccessRequest": "repeated AccessRule put = 1; repeated AccessRule drop = 2",
    "ChangeAccessResponse": """
        bool success = 1; string error = 2; ErrorCode error_code = 3; int32 dropped = 4""",
    "ListAccessRequest": "string principal = 1",
    "ListAccessResponse": "repeated AccessRule rules = 1; string error = 2; ErrorCode error_code = 3",
    "HealthCheckRequest": "",
    "HealthCheckResponse": """
        string status = 1; string version = 2; int64 uptime_seconds = 3; repeated string reasons = 4""",
}


def rpc_line(rpc: MethodDescriptor) -> str:
    """An RPC as the table writes it."""
    request = "stream " * rpc.client_streaming + rpc.input_type.name
    return f"{request} -> {'stream ' * rpc.server_streaming}{rpc.output_type.name}"


def type_name(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    if named is not None:
        return named.name
    names = {v: k for k, v in vars(FieldDescriptor).items() if k.startswith("TYPE_")}
    return names[field.type].removeprefix("TYPE_").lower()


def field_line(field: FieldDescriptor) -> str:
    """A field as a proto file writes it."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (type_name(message.fields_by_name[part]) for part in ("key", "value"))
        kind = f"map<{key}, {value}>"
    elif field.is_repeated:
        kind = f"repeated {type_name(field)}"
    elif field.containing_oneof is not None:  # proto3's optional is a oneof with one field
        kind = f"optional {type_name(field)}"
    else:
        kind = type_name(field)
    return f"{kind} {field.name} = {field.number}"


def field_lines(message: Descriptor) -> set[str]:
    return {field_line(field) for field in message.fields}


def test_rpcs_are_as_published() -> None:
    """Every published RPC has its name, its request, its response and its kind of streaming."""
    service = takhin_pb2.DESCRIPTOR.services_by_name["TakhinService"]
    assert service.full_name == SERVICE
    assert RPCS.items() <= {rpc.name: rpc_line(rpc) for rpc in service.methods}.items()


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_as_published(name: str) -> None:
    """Every published field has its name, number, type and label; new ones may be added."""
    message = takhin_pb2.DESCRIPTOR.message_types_by_name[name]
    published = {" ".join(line.split()) for line in MESSAGES[name].split(";")} - {""}
    assert message.full_name == f"takhin.v1.{name}"
    assert published <= field_lines(message)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("MemberRequest", "Join join = 1; Heartbeat heartbeat = 2; Subscribe subscribe = 3; Leave leave = 4"),
        (
            "MemberResponse",
            "Joined joined = 1; Assignment assignment = 2; HeartbeatAnswer heartbeat = 3",
        ),
    ],
)
def test_one_of_them_is_as_published(name: str, fields: str) -> None:
    """What a member and the broker say to each other is one of these at a time."""
    message = takhin_pb2.DESCRIPTOR.message_types_by_name[name]
    (choice,) = message.oneofs
    found = [f"{type_name(field)} {field.name} = {field.number}" for field in choice.fields]
    assert found[: fields.count(";") + 1] == fields.split("; ")


def test_optional_fields_tell_absent_from_default() -> None:
    """key, value and required_acks know whether they were sent."""
    record = takhin_pb2.Record.FromString(takhin_pb2.Record(key=b"").SerializeToString())
    request = takhin_pb2.ProduceMessageRequest(required_acks=0)
    request = takhin_pb2.ProduceMessageRequest.FromString(request.SerializeToString())
    assert (record.HasField("key"), record.HasField("value")) == (True, False)
    assert request.HasField("required_acks")
    assert not takhin_pb2.ProduceMessageRequest().HasField("required_acks")
