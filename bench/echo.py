"""The floor of everything over gRPC: a server that takes requests, answers, and does nothing else.

Requests are parsed, and responses have all fields that Takhin's have, so that the messages are the same. Who
consumes gets the same response again and again, which is made and serialized beforehand.
Run as a program, it serves until SIGTERM and prints its address as the broker does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc

from bench import common
from bench.loads import Load, Results
from bench.takhin_client import measure_echo
from takhin.v1 import takhin_pb2 as pb

RESPONSE_RECORDS, RESPONSE_BYTES = 2_000, 1 << 20
"""As many as Takhin puts into a response at most."""


def serve(_folder: Path, _program: str) -> AbstractContextManager[str]:
    """Run the server in a process of its own; yields its address."""
    return common.server([sys.executable, "-m", "bench.echo"])


def measure(address: str, load: Load) -> Results:
    return measure_echo(address, load)


def version(_address: str) -> str:
    return grpc.__version__


def answer(request: pb.ProduceMessageRequest) -> pb.ProduceMessageResponse:
    return pb.ProduceMessageResponse(
        topic=request.topic,
        partition=request.partition,
        offset=1 << 20,
        timestamp=time.time_ns() // 1_000_000,
        record_count=len(request.records) or 1,
    )


def responses(request: pb.ConsumeMessagesRequest) -> Iterator[bytes]:
    """As many records as are asked for, serialized. The topic's name ends in the size of their values."""
    value_bytes = int(request.topic.rpartition("-")[2])
    most = min(RESPONSE_RECORDS, RESPONSE_BYTES // value_bytes)
    whole, rest = divmod(request.max_records, most)
    for count, times in ((most, whole), (rest, 1 if rest else 0)):
        payload = common.payload(count, value_bytes)
        response = pb.ConsumeMessagesResponse(topic=request.topic, high_watermark=request.max_records)
        for offset, (key, value) in enumerate(zip(payload.keys, payload.values, strict=True)):
            response.records.add(key=key, value=value, offset=offset, timestamp=time.time_ns() // 1_000_000)
        yield from repeat(response.SerializeToString(), times)


async def produce(request: pb.ProduceMessageRequest, _context: Any) -> pb.ProduceMessageResponse:
    return answer(request)


async def produce_stream(
    requests: AsyncIterator[pb.ProduceMessageRequest], _context: Any
) -> AsyncIterator[pb.ProduceMessageResponse]:
    async for request in requests:
        yield answer(request)


async def consume(request: pb.ConsumeMessagesRequest, _context: Any) -> AsyncIterator[bytes]:
    for response in responses(request):
        yield response


PARSE, SERIALIZE = pb.ProduceMessageRequest.FromString, pb.ProduceMessageResponse.SerializeToString
METHODS = {
    "ProduceMessage": grpc.unary_unary_rpc_method_handler(produce, PARSE, SERIALIZE),
    "ProduceMessageStream": grpc.stream_stream_rpc_method_handler(produce_stream, PARSE, SERIALIZE),
    "ConsumeMessages": grpc.unary_stream_rpc_method_handler(consume, pb.ConsumeMessagesRequest.FromString),
}


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = pb.DESCRIPTOR.services_by_name["TakhinService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, METHODS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(f"echo ready on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
