"""What the tests of access share: a folder's tokens and rules, callers, and a request for each method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from takhin import config
from takhin.access import tokens
from takhin.access.rules import checked_rule
from takhin.access.tokens import Token
from takhin.disk.access_file import AccessFile
from takhin.settings import Settings
from takhin.v1 import takhin_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["TakhinService"]
MANY = 1_000
NOW = 1_700_000_000_000


def settings_of(folder: Path, **settings: object) -> Settings:
    """access__enabled=False for access.enabled."""
    chosen = {
        "listen": "127.0.0.1:0",
        "data_dir": str(folder),
        "storage.engine": "memory",
        "shutdown_grace_ms": "1000",
        "access.enabled": "true",
        "access.look_ms": "20",
        "consume.heartbeat_ms": "50",
    }
    given = {key.replace("__", "."): str(value).lower() for key, value in settings.items()}
    return config.load({**chosen, **given}, {}, None).settings


class Keeper:
    """Changes a folder's tokens and rules as another process does. It may do so while a broker runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _with(self, change: Callable[[AccessFile], Any]) -> Any:
        file = AccessFile(self._folder)
        file.open()
        try:
            return change(file)
        finally:
            file.close()

    def token(self, principal: str = "me", *, expires_at: int = 0) -> str:
        text, token = tokens.new_token(principal, expires_at=0, note="", now=NOW)
        token = token._replace(expires_at=expires_at)
        self._with(lambda file: file.add_token(token, MANY))
        return text

    def revoke(self, id_or_principal: str) -> list[Token]:
        return self._with(lambda file: file.remove_tokens(id_or_principal))

    def rule(self, words: str, principal: str = "me") -> None:
        """words: such as "allow read topic orders*"; drop takes a rule away."""
        verb, action, resource, pattern = words.split(maxsplit=3)
        rule = checked_rule(principal, action, resource, pattern, allow=verb == "allow")
        put, drop = ((), (rule,)) if verb == "drop" else ((rule,), ())
        self._with(lambda file: file.change_rules(put, drop, MANY))

    def rules(self, *words: str, principal: str = "me") -> None:
        for each in words:
            self.rule(each, principal)


EVERYTHING = (
    "allow read topic *",
    "allow write topic *",
    "allow admin topic *",
    "allow read group *",
    "allow group group *",
    "allow admin group *",
)


class Recorder(grpc.aio.ServerInterceptor):
    """The innermost interceptor: notes each method whose handler is called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        if handler is None:
            return None
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            if (inner := getattr(handler, kind)) is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                noted = self._noted(details.method, inner)
                return make(noted, handler.request_deserializer, handler.response_serializer)
        raise AssertionError

    def _noted(self, method, inner):
        def run(*args):
            self.called.append(method)
            return inner(*args)

        return run


class Method:
    """A method of the server with a request for it."""

    def __init__(
        self, path: str, request: Any, *, streams_in: bool, streams_out: bool, response: Any
    ) -> None:
        self.path = path
        self.request = request
        self.streams_in = streams_in
        self.streams_out = streams_out
        self._response = response

    async def call(self, channel: grpc.aio.Channel, metadata: Iterable[tuple[str, str]] = ()) -> Any:
        """The first response. Raises AioRpcError.

        Where the call is over while its request is being written, grpc.aio says INTERNAL of its own instead
        of the status that came; then it is made again.
        """
        while True:
            try:
                return await self._call(channel, metadata)
            except grpc.aio.AioRpcError as error:
                if "execute_batch" not in (error.debug_error_string() or ""):
                    raise

    async def _call(self, channel: grpc.aio.Channel, metadata: Iterable[tuple[str, str]]) -> Any:
        kind = f"{'stream' if self.streams_in else 'unary'}_{'stream' if self.streams_out else 'unary'}"
        rpc = getattr(channel, kind)(
            self.path,
            request_serializer=type(self.request).SerializeToString,
            response_deserializer=self._response.FromString,
        )
        given = () if self.streams_in else (self.request,)
        call = rpc(*given, metadata=tuple(metadata), timeout=10)
        try:
            if self.streams_in:
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it may be over already
                    await call.write(self.request)
            if not self.streams_out:
                return await call
            first = await call.read()
            if first is grpc.aio.EOF:
                await asyncio.wait_for(call.code(), 5)
                raise AssertionError("the stream ended without a response")
            return first
        finally:
            call.cancel()


def requests() -> dict[str, Any]:
    """A request for each method that names something."""
    return {
        "CreateTopic": pb.CreateTopicRequest(name="orders"),
        "DeleteTopic": pb.DeleteTopicRequest(name="orders"),
        "ListTopics": pb.ListTopicsRequest(),
        "GetTopic": pb.GetTopicRequest(name="orders"),
        "DescribeTopics": pb.DescribeTopicsRequest(topics=["orders"]),
        "AlterTopic": pb.AlterTopicRequest(name="orders"),
        "DescribeTopicConfigs": pb.DescribeTopicConfigsRequest(name="orders"),
        "ProduceMessage": pb.ProduceMessageRequest(topic="orders", record=pb.Record(value=b"1")),
        "ProduceMessageStream": pb.ProduceMessageRequest(topic="orders", record=pb.Record(value=b"1")),
        "ConsumeMessages": pb.ConsumeMessagesRequest(topic="orders"),
        "GetPartitionOffsets": pb.GetPartitionOffsetsRequest(topic="orders"),
        "GetOffsetsForTimes": pb.GetOffsetsForTimesRequest(queries=[pb.TopicPartitionTime(topic="orders")]),
        "DeleteRecords": pb.DeleteRecordsRequest(topic="orders"),
        "CompactTopic": pb.CompactTopicRequest(name="orders"),
        "JoinConsumerGroup": pb.MemberRequest(join=pb.Join(group_id="billing", topics=["orders"])),
        "CommitOffset": pb.CommitOffsetRequest(
            group_id="billing", offsets=[pb.TopicPartitionOffset(topic="orders")]
        ),
        "GetCommittedOffsets": pb.GetCommittedOffsetsRequest(group_id="billing"),
        "ListConsumerGroups": pb.ListConsumerGroupsRequest(),
        "DescribeConsumerGroup": pb.DescribeConsumerGroupRequest(group_id="billing"),
        "DeleteConsumerGroup": pb.DeleteConsumerGroupRequest(group_id="billing"),
        "DeleteOffsets": pb.DeleteOffsetsRequest(group_id="billing", topics=["orders"]),
        "CreateToken": pb.CreateTokenRequest(principal="x"),
        "ListTokens": pb.ListTokensRequest(),
        "RevokeTokens": pb.RevokeTokensRequest(id_or_principal="x"),
        "ChangeAccess": pb.ChangeAccessRequest(),
        "ListAccess": pb.ListAccessRequest(),
        "HealthCheck": pb.HealthCheckRequest(),
    }


def methods() -> list[Method]:
    """Every method of the server: ours by the descriptor, and those of health and reflection."""
    asked = requests()
    services = [SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"]]
    found = []
    for service in services:
        for of in service.methods:
            request = asked.get(of.name) if service is SERVICE else health_pb2.HealthCheckRequest()
            if of.name == "List":
                request = health_pb2.HealthListRequest()
            assert request is not None, f"give {of.name} a request in tests/access/support.py"
            response = message_factory.GetMessageClass(of.output_type)
            streams = {"streams_in": of.client_streaming, "streams_out": of.server_streaming}
            found.append(Method(f"/{service.full_name}/{of.name}", request, **streams, response=response))
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        streams = {"streams_in": True, "streams_out": True}
        found.append(Method(path, request, **streams, response=reflection_pb2.ServerReflectionResponse))
    return found


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


@asynccontextmanager
async def channel_to(server: Any):
    async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel
