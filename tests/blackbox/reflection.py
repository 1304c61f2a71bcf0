"""Server reflection as a client uses it: which services there are, and the file that describes one.

Both versions of the protocol have the same messages, so the older one's are used for both.
"""

from __future__ import annotations

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from blackbox.clients import CALL_S_MAX

VERSIONS = ("v1", "v1alpha")


def _ask(channel: grpc.Channel, version: str, request: ServerReflectionRequest) -> ServerReflectionResponse:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    (response,) = call(iter([request]), timeout=CALL_S_MAX)
    return response


def service_names(channel: grpc.Channel, version: str) -> set[str]:
    response = _ask(channel, version, ServerReflectionRequest(list_services=""))
    return {service.name for service in response.list_services_response.service}


def file_of(channel: grpc.Channel, version: str, symbol: str) -> FileDescriptorProto:
    """The description of the file that defines `symbol`."""
    response = _ask(channel, version, ServerReflectionRequest(file_containing_symbol=symbol))
    assert response.original_request.file_containing_symbol == symbol
    (serialized,) = response.file_descriptor_response.file_descriptor_proto
    return FileDescriptorProto.FromString(serialized)


def error_code_of(channel: grpc.Channel, version: str, symbol: str) -> int:
    """The number of the gRPC status that the broker returns for `symbol`."""
    response = _ask(channel, version, ServerReflectionRequest(file_containing_symbol=symbol))
    assert response.WhichOneof("message_response") == "error_response"
    return response.error_response.error_code
