"""grpc.health.v1 and server reflection, so that grpcurl, `buf curl`, ghz and Kubernetes probes just work."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from takhin.errors import ShuttingDownError
from takhin.rpc.calls import Context, running
from takhin.rpc.interceptors import SERVICE

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]  # no stub has List yet
    """The library's servicer, which here also answers List and ends its watches when the broker stops."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = False

    async def enter_graceful_shutdown(self) -> None:
        self.stopping = True
        for service in self._server_watchers:  # of a name that is none of ours, too: else they never wake
            self._server_status.setdefault(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        await super().enter_graceful_shutdown()

    async def Watch(self, request: Any, context: Any) -> None:
        await super().Watch(request, _Watcher(self, context))

    async def List(self, request: Any, context: Any) -> Any:
        response = health_pb2.HealthListResponse()
        for service, status in self._server_status.items():
            response.statuses[service].status = status
        return response


class _Watcher:
    """One Watch call. When the broker stops it sends NOT_SERVING, then ends with UNAVAILABLE."""

    def __init__(self, servicer: HealthService, context: Context) -> None:
        self._servicer = servicer
        self._context = context

    async def write(self, response: Any) -> None:
        await self._context.write(response)
        running().sent += 1
        if not self._servicer.stopping:
            return
        if response.status != NOT_SERVING:  # the stop began within the write
            await self._context.write(health_pb2.HealthCheckResponse(status=NOT_SERVING))
        raise ShuttingDownError


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library has no stubs
    """The library's servicer, which finds the files of methods, too.

    ghz asks for the file of the method that it calls, `grpcurl describe` for that of any symbol. The library
    looks in protobuf's descriptor pool, whose FindFileContainingSymbol finds all symbols but methods.
    """

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        symbol = _service_of(fully_qualified_name) or fully_qualified_name
        return super()._file_containing_symbol(request, symbol)


def _service_of(method: str) -> str | None:
    """The full name of the service that has this method, or None if there is no such method."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method)
    except KeyError:
        return None
    return str(found.containing_service.full_name)


async def add_health(server: grpc.aio.Server) -> HealthService:
    servicer = HealthService()
    await servicer.set(SERVICE.full_name, SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def add_reflection(server: grpc.aio.Server) -> None:
    """Serve reflection as v1alpha, which the library has, and as v1, which is the same under another name."""
    _describe_reflection_v1()
    names = [
        SERVICE.full_name,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        REFLECTION_V1,
        reflection.SERVICE_NAME,
    ]
    servicer = Reflection(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (REFLECTION_V1, reflection.SERVICE_NAME):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


def _describe_reflection_v1() -> None:
    """Add a description of v1, which is v1alpha's renamed, to the pool that reflection reads."""
    described = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(described)
    renamed = text_format.MessageToString(described).replace("v1alpha", "v1")
    described = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(described.SerializeToString())
