"""Requests of some KB that would decompress to 128 MiB: refused within bounds, while others are served."""

from __future__ import annotations

import gzip
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import connected, create_topic, produce
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.compression import zstd

SERVICE = "/takhin.v1.TakhinService/"
RSS_GROWTH_MAX = 150 << 20
"""Eight requests at a time have up to 10 MiB each, and as much again when their parts are joined."""
BOMBS = 32


def large(pack) -> bytes:
    """128 MiB of zeros, by a compressor that takes it in pieces."""
    return b"".join([*(pack.compress(bytes(1 << 20)) for _ in range(128)), pack.flush()])


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    frame = large(zstd().ZstdCompressor())
    return {
        "zstd": pb.ProduceMessageRequest(
            topic="honest", compression=pb.COMPRESSION_ZSTD, compressed_records=frame
        ).SerializeToString(),
        "gzip": large(zlib.compressobj(1, zlib.DEFLATED, 31)),
        "gzip-of-gzip": gzip.compress(gzip.compress(bytes(64 << 20))),
    }


@pytest.mark.parametrize("method", ["ProduceMessage", "ProduceMessageStream"])
def test_bombs(data_dir, bombs, method):
    """Each gets INVALID_ARGUMENT in one way or the other, and an honest client its answers."""
    with Broker(data_dir) as broker, connected(broker.address) as honest:
        create_topic(honest, "honest")
        with grpc.insecure_channel(broker.address) as channel:
            before = resident_bytes(broker)

            def send(message: bytes) -> str:
                if method == "ProduceMessageStream":
                    call = channel.stream_stream(SERVICE + method, None, pb.ProduceMessageResponse.FromString)
                    (response,) = call(iter([message]), timeout=60)
                    return pb.ErrorCode.Name(response.error_code).removeprefix("ERROR_CODE_")
                try:
                    channel.unary_unary(SERVICE + method)(message, timeout=60)
                except grpc.RpcError as error:
                    return error.code().name
                return "OK"

            with ThreadPoolExecutor(16) as threads:
                sent = [threads.submit(send, list(bombs.values())[n % len(bombs)]) for n in range(BOMBS)]
                while not all(future.done() for future in sent):
                    produce(honest, "honest", [b"value"])
            assert {future.result() for future in sent} == {"INVALID_ARGUMENT"}
            assert resident_bytes(broker, "VmHWM") - before < RSS_GROWTH_MAX
