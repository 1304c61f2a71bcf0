"""The floor of everything over gRPC: a server that takes produce requests, answers, and does nothing else.

Requests are parsed, and responses have all fields that Takhin's have, so that the messages are the same.
Run as a program, it serves until SIGTERM and prints its address as the broker does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc

from bench import common
from bench.loads import Load, Results
from bench.takhin_client import measure_echo
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc


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


class Echo(takhin_pb2_grpc.TakhinServiceServicer):
    async def ProduceMessage(  # noqa: N802  the interface's own name
        self, request: pb.ProduceMessageRequest, context: Any
    ) -> pb.ProduceMessageResponse:
        return answer(request)

    async def ProduceMessageStream(  # noqa: N802  the interface's own name
        self, requests: AsyncIterator[pb.ProduceMessageRequest], context: Any
    ) -> AsyncIterator[pb.ProduceMessageResponse]:
        async for request in requests:
            yield answer(request)


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    takhin_pb2_grpc.add_TakhinServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(f"echo ready on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
