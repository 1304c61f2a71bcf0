"""No request, whatever its shape, keeps the broker's event loop from the others for more than 10 ms.

The broker runs in a process that watches its own loop (watched_broker.py). The bound is one of processor
time: what the loop's thread used between two ticks. It grows with the machine's noise, which is measured by
work that is always the same.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from blackbox.broker_process import environment
from blackbox.clients import CHANNEL_OPTIONS, create_topic
from storage.support import MEMORY
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub
from takhin.wire.compression import zstd

TURN_MS_MAX = 10.0
MESSAGE_BYTES = 10 << 20
WIDE = 300
"""Partitions of the wide topic."""
SERVICE = "/takhin.v1.TakhinService/"


class Turn(NamedTuple):
    late_ms: float
    busy_ms: float


class WatchedBroker:
    """A broker that tells how long the longest turn of its loop was."""

    def __init__(self, folder: Path, *flags: str) -> None:
        script = Path(__file__).with_name("watched_broker.py")
        self._process = subprocess.Popen(
            [sys.executable, script, folder, "storage.ballast_bytes=0", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.address = self._process.stdout.readline().strip()

    def longest_turn(self) -> Turn:
        """Since the last time."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Turn(*map(float, self._process.stdout.readline().split()))

    def close(self) -> None:
        with self._process:
            self._process.stdin.close()
            self._process.wait(30)


@pytest.fixture(scope="module")
def broker() -> Iterator[WatchedBroker]:
    """One whose files are in memory, if there is a place: a disk takes time, but none of the loop's."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        broker = WatchedBroker(Path(folder, "data"))
        yield broker
        broker.close()


@pytest.fixture(scope="module")
def channel(broker) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        stub = TakhinServiceStub(channel)
        for name in ("wide", "wide2"):
            stub.CreateTopic(pb.CreateTopicRequest(name=name, num_partitions=WIDE), timeout=60)
        create_topic(stub, "narrow")
        create_topic(stub, "deep", max_message_bytes="10400000")
        for partition in range(WIDE):
            stub.ProduceMessage(
                pb.ProduceMessageRequest(topic="wide", partition=partition, record=pb.Record(value=b"v"))
            )
        yield channel


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def nested(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def full_of(element: bytes, head: bytes = b"") -> bytes:
    """A request of the largest size that is full of an element."""
    return head + element * ((MESSAGE_BYTES - len(head) - 16) // len(element))


HEADER = b"\x1a\x03\x0a\x01k"
TOPIC = b"\x0a\x06narrow"


DEEP = b"\x0a\x04deep"
"""The head of a request for a topic that takes the largest records."""


def one_record_of_headers() -> bytes:
    return TOPIC + nested(b"\x32", HEADER * 1_980_000)


def header_keys(count: int, size: int) -> bytes:
    """Records of one header each, the key of which is so large."""
    return nested(b"\x32", nested(b"\x1a", nested(b"\x0a", b"k" * size))) * count


def records(count: int, size: int, headers: int = 0, value: bytes | None = None) -> bytes:
    request = pb.ProduceMessageRequest(topic="narrow")
    value = os.urandom(size) if value is None else value
    for _ in range(count):
        record = request.records.add(value=value)
        for number in range(headers):
            record.headers.add(key=f"key{number}", value=b"value")
    return request.SerializeToString()


ZSTD_HEAD = b"\x28\xb5\x2f\xfd\x00\x58"
GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


def framed(frame: bytes) -> bytes:
    """A request whose records are compressed."""
    return TOPIC + b"\x68\x01" + nested(b"\x72", frame[: MESSAGE_BYTES - 100])


def zstd_of(request: bytes) -> bytes:
    """The same request, whose records are compressed."""
    return framed(zstd().compress(request.removeprefix(TOPIC), 1))


LOOKS_LIKE_HEADERS = b"\x1a"
LONG_NUMBER = b"\x20" + b"\x81" * 9 + b"\x01"


def record_fields(fields: bytes, size: int) -> bytes:
    """A record of these fields, and of a value that looks like headers."""
    return nested(b"\x32", fields + nested(b"\x12", LOOKS_LIKE_HEADERS * size))


def commit(topics: dict[str, int], group: str = "g", metadata: str = "") -> bytes:
    request = pb.CommitOffsetRequest(group_id=group)
    for topic, partitions in topics.items():
        for partition in range(partitions):
            request.offsets.add(topic=topic, partition=partition, offset=0, metadata=metadata)
    return request.SerializeToString()


def same_offset(count: int) -> bytes:
    request = pb.CommitOffsetRequest(group_id="g")
    for _ in range(count):
        request.offsets.add(topic="wide", partition=0, offset=0)
    return request.SerializeToString()


def committed(count: int) -> bytes:
    request = pb.GetCommittedOffsetsRequest(group_id="g")
    for number in range(count):
        request.partitions.add(topic="wide", partition=number % WIDE)
    return request.SerializeToString()


def times(count: int) -> bytes:
    request = pb.GetOffsetsForTimesRequest()
    for number in range(count):
        request.queries.add(topic="wide", partition=number % WIDE, timestamp=1)
    return request.SerializeToString()


def described(*names: str) -> bytes:
    return pb.DescribeTopicsRequest(topics=names).SerializeToString()


def consume(**fields: object) -> bytes:
    return pb.ConsumeMessagesRequest(
        **{"topic": "narrow", "offset": -1, "stop_at_end": True} | fields
    ).SerializeToString()


def join(inner: bytes = b"", **fields: object) -> bytes:
    """A join. inner: more fields of it, as they are on the wire."""
    wire = pb.Join(**{"group_id": "members"} | fields).SerializeToString()
    return nested(b"\x0a", wire + inner)


def heartbeat(owned: bytes) -> bytes:
    """A heartbeat, behind the join that makes it one. owned: the elements of what it owns, on the wire."""
    return nested(b"\x12", nested(b"\x12", owned))


def partitions(count: int, tag: bytes) -> bytes:
    named = pb.TopicPartition(topic="wide", partition=1).SerializeToString()
    return nested(tag, named) * count


SLOW_PATTERN = "(a*)*(b*)*(.?){300}"

MEMBERS = {
    "join-empty-owned": [join(b"\x5a\x00" * 4_000_000, topics=["wide"])],
    "join-empty-topics": [join(b"\x32\x00" * 4_000_000)],
    "join-empty-and-few": [join(b"\x5a\x00" * 30_000, topics=["wide"])],
    "join-most-topics": [join(topics=[f"topic-{n}" for n in range(1_000)])],
    "join-too-many-topics": [join(topics=[f"topic-{n}" for n in range(1_001)])],
    "join-wide": [join(topics=["wide", "wide2"])],
    "join-slow-pattern": [join(topic_pattern=SLOW_PATTERN)],
    "join-large-pattern": [join(topic_pattern="(((a?){100}){100}){100}")],
    "join-long-pattern": [join(topic_pattern="a" * 60_000)],
    "join-with-owned": [join(partitions(4_000, b"\x5a"), topics=["wide"], member_epoch=1)],
    "heartbeat-empty-owned": [join(topics=["wide"]), heartbeat(b"\x0a\x00" * 4_000_000)],
    "heartbeat-owned": [join(topics=["wide"]), heartbeat(partitions(4_000, b"\x0a"))],
    "subscribe-empty": [join(topics=["wide"]), nested(b"\x1a", b"\x0a\x00" * 4_000_000)],
    "nothing-of-members": [join(topics=["wide"]), b"\x78\x01" * 4_000_000],
}
"""What a member sends, one after the other."""

SHAPES = {
    "empty-records": ("ProduceMessage", lambda: full_of(b"\x32\x00", TOPIC)),
    "empty-records-long-tags": ("ProduceMessage", lambda: full_of(b"\xb2\x00\x00", TOPIC)),
    "headers-of-one": ("ProduceMessage", one_record_of_headers),
    "empty-headers-of-one": ("ProduceMessage", lambda: DEEP + nested(b"\x32", b"\x1a\0" * 5_200_000)),
    "large-headers-of-one": (
        "ProduceMessage",
        lambda: (
            DEEP + nested(b"\x32", nested(b"\x1a", b"\x0a\x01k" + nested(b"\x12", b"x" * 10_000)) * 1_000)
        ),
    ),
    "large-header-keys": ("ProduceMessage", lambda: DEEP + header_keys(9, 1_000_000)),
    "headers-behind-large-ones": ("ProduceMessage", lambda: DEEP + header_keys(1, 3) * 10_000),
    "a-header-that-is-too-large": ("ProduceMessage", lambda: DEEP + header_keys(1, 9_000_000)),
    "headers-of-the-record": ("ProduceMessage", lambda: TOPIC + nested(b"\x1a", HEADER * 1_980_000)),
    "headers-of-ten-thousand": ("ProduceMessage", lambda: full_of(nested(b"\x32", HEADER * 200), TOPIC)),
    "headers-on-a-stream": ("ProduceMessageStream", one_record_of_headers),
    "most-headers": ("ProduceMessage", lambda: records(1_000, 100, headers=10)),
    "most-headers-of-one": ("ProduceMessage", lambda: records(10, 100, headers=1_000)),
    "most-records": ("ProduceMessage", lambda: records(10_000, 100)),
    "most-records-on-a-stream": ("ProduceMessageStream", lambda: records(10_000, 100)),
    "most-bytes": ("ProduceMessage", lambda: records(10_000, 1_000)),
    "large-records": ("ProduceMessage", lambda: records(10, 1_000_000)),
    "digits": ("ProduceMessage", lambda: records(10_000, 1_000, value=b"2" * 1_000)),
    "fields-of-many": (
        "ProduceMessage",
        lambda: TOPIC + record_fields(b"\x20\x01\x28\x01\x30\x01", 900) * 9_900,
    ),
    "fields-of-one": ("ProduceMessage", lambda: TOPIC + record_fields(LONG_NUMBER * 39_000, 9_000_000)),
    "fields-of-the-request": ("ProduceMessage", lambda: full_of(b"\x1a\x00", TOPIC)),
    "fields-on-a-stream": (
        "ProduceMessageStream",
        lambda: TOPIC + record_fields(LONG_NUMBER * 39_000, 9_000_000),
    ),
    "too-many-records": ("ProduceMessage", lambda: records(40_000, 100)),
    "zstd-most-bytes": ("ProduceMessage", lambda: zstd_of(records(10_000, 1_000))),
    "zstd-zeros": ("ProduceMessage", lambda: zstd_of(records(10, 1_000_000, value=bytes(1_000_000)))),
    "zstd-on-a-stream": ("ProduceMessageStream", lambda: zstd_of(records(10, 1_000_000))),
    "zstd-most-headers": ("ProduceMessage", lambda: zstd_of(records(1_000, 100, headers=10))),
    "zstd-empty-records": ("ProduceMessage", lambda: zstd_of(full_of(b"\x32\x00"))),
    "zstd-bomb": ("ProduceMessage", lambda: zstd_of(bytes(1 << 28))),
    "zstd-empty-blocks": ("ProduceMessage", lambda: framed(ZSTD_HEAD + full_of(b"\0\0\0"))),
    "gzip-most-bytes": ("ProduceMessage", lambda: gzip.compress(records(10_000, 1_000), 1)),
    "gzip-bomb": ("ProduceMessage", lambda: gzip.compress(bytes(1 << 28), 1)),
    "gzip-empty-records": ("ProduceMessage", lambda: gzip.compress(full_of(b"\x32\x00", TOPIC))),
    "gzip-empty-blocks": ("ProduceMessage", lambda: GZIP_HEAD + full_of(b"\0\0\0\xff\xff")),
    "read-headers": ("ConsumeMessages", consume),
    "read-headers-large": ("ConsumeMessages", lambda: consume(max_bytes=MESSAGE_BYTES)),
    "read-min-bytes": ("ConsumeMessages", lambda: consume(min_bytes=MESSAGE_BYTES, max_wait_ms=100)),
    "read-zstd": ("ConsumeMessages", lambda: consume(accept=[pb.COMPRESSION_ZSTD])),
    "read-zstd-large": (
        "ConsumeMessages",
        lambda: consume(accept=[pb.COMPRESSION_ZSTD], max_bytes=MESSAGE_BYTES),
    ),
    "read-by-time": ("ConsumeMessages", lambda: consume(start_timestamp=1)),
    "empty-offsets": ("CommitOffset", lambda: full_of(b"\x12\x00", b"\x0a\x01g")),
    "offsets-of-one-partition": ("CommitOffset", lambda: same_offset(10_000)),
    "commit-200": ("CommitOffset", lambda: commit({"wide": 200})),
    "commit-both": ("CommitOffset", lambda: commit({"wide": WIDE, "wide2": WIDE})),
    "commit-metadata": ("CommitOffset", lambda: commit({"wide": WIDE, "wide2": WIDE}, "m", "m" * 4_000)),
    "committed-empty": ("GetCommittedOffsets", lambda: full_of(b"\x12\x00", b"\x0a\x01g")),
    "committed-all": ("GetCommittedOffsets", lambda: committed(0)),
    "committed-ten-thousand": ("GetCommittedOffsets", lambda: committed(10_000)),
    "times-empty": ("GetOffsetsForTimes", lambda: full_of(b"\x0a\x00")),
    "times-empty-and-few": ("GetOffsetsForTimes", lambda: b"\x0a\x00" * 32_000),
    "times-most": ("GetOffsetsForTimes", lambda: times(1_000)),
    "times-too-many": ("GetOffsetsForTimes", lambda: times(1_001)),
    "delete-some": ("DeleteRecords", lambda: TOPIC + b"\x18" + varint(5_000)),
    "delete-all": ("DeleteRecords", lambda: TOPIC + b"\x18" + varint(2**64 - 1)),
    "delete-long-name": ("DeleteRecords", lambda: nested(b"\x0a", b"x" * (MESSAGE_BYTES - 16))),
    "describe-group": ("DescribeConsumerGroup", lambda: b"\x0a\x01g"),
    "describe-group-metadata": ("DescribeConsumerGroup", lambda: b"\x0a\x01m"),
    "list-groups": ("ListConsumerGroups", lambda: b""),
    "describe-empty-names": ("DescribeTopics", lambda: full_of(b"\x0a\x00")),
    "describe-wide": ("DescribeTopics", lambda: described("wide", "wide2")),
    "get-wide": ("GetTopic", lambda: b"\x0a\x04wide"),
    "configs": ("CreateTopic", lambda: full_of(b"\x22\x00", b"\x0a\x03abc")),
    "create-wide": ("CreateTopic", lambda: b"\x0a\x05wide3\x10" + varint(WIDE)),
    "alter-wide": ("AlterTopic", lambda: b"\x0a\x05wide3\x20" + varint(2 * WIDE)),
    "alter-many-unknown": (
        "AlterTopic",
        lambda: TOPIC + b"".join(nested(b"\x12", nested(b"\x0a", b"%x" % n)) for n in range(7_000)),
    ),
    "alter-resets-and-few": ("AlterTopic", lambda: TOPIC + b"\x1a\x00" * 32_000),
    "alter-long-value": (
        "AlterTopic",
        lambda: TOPIC + nested(b"\x12", b"\x0a\x0eretention.ms" + nested(b"\x12", b"1" * 60_000)),
    ),
    "compact": ("CompactTopic", lambda: TOPIC),
    "alter-configs": ("AlterTopic", lambda: full_of(b"\x12\x00", TOPIC)),
    "alter-resets": ("AlterTopic", lambda: full_of(nested(b"\x1a", b"read.only"), TOPIC)),
    "configs-of-a-topic": ("DescribeTopicConfigs", lambda: TOPIC),
    "delete-wide": ("DeleteTopic", lambda: b"\x0a\x05wide3"),
    "delete-group": ("DeleteConsumerGroup", lambda: b"\x0a\x01g"),
    "delete-offsets": ("DeleteOffsets", lambda: full_of(b"\x12\x00", b"\x0a\x01g")),
    "delete-offsets-most": ("DeleteOffsets", lambda: b"\x0a\x01g" + nested(b"\x12", b"wide2") * 10_000),
    **{name: ("JoinConsumerGroup", lambda sent=sent: sent) for name, sent in MEMBERS.items()},
    "long-name": ("GetTopic", lambda: nested(b"\x0a", b"x" * (MESSAGE_BYTES - 16))),
    "long-name-to-consume": ("ConsumeMessages", lambda: nested(b"\x0a", b"x" * (MESSAGE_BYTES - 16))),
    "unknown-fields": ("HealthCheck", lambda: full_of(b"\x78\x01")),
}


ONCE = {
    *("create-wide", "alter-wide", "delete-wide", "delete-some", "delete-all", "compact"),
    *("delete-group", "delete-offsets", "delete-offsets-most"),
}
"""Shapes that ask for less the second time. The others are tried again if something else took the time."""
TRIES_MAX = 3


@pytest.mark.parametrize("shape", SHAPES)
def test_the_longest_turn(broker, channel, shape, figures):
    """The loop turns within 10 ms, whatever one request asks for."""
    method, wire = SHAPES[shape]
    message = wire()
    for _ in range(1 if shape in ONCE else TRIES_MAX):
        broker.longest_turn()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(send, channel, method, message).result()
        turn = broker.longest_turn()
        if fits := within_bound(turn):
            break
    figures(f"turn {shape}: {turn.busy_ms} ms of {turn.late_ms}")
    assert fits, turn


def within_bound(*turns: Turn) -> bool:
    """True if none was longer than TURN_MS_MAX times the noise, which is measured only if one was."""
    longest = max(turn.busy_ms for turn in turns)
    return longest <= TURN_MS_MAX or longest <= TURN_MS_MAX * noise()


def noise() -> float:
    """How much longer the same work takes now and then on this machine, in processor time: at least 1."""
    times = []
    message = bytearray(MESSAGE_BYTES)
    for _ in range(100):
        begin = time.thread_time()
        bytes(message)  # fresh memory, as every large message takes
        times.append(time.thread_time() - begin)
    return max(times) / min(times)


EXPECTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,  # a member that nobody knows
)


def send(channel: grpc.Channel, method: str, message: Any) -> None:
    """Make the call, whatever comes of it. message: of JoinConsumerGroup a list of them."""
    try:
        if method == "ProduceMessageStream":
            list(channel.stream_stream(SERVICE + method)(iter([message]), timeout=60))
        elif method == "JoinConsumerGroup":
            list(channel.stream_stream(SERVICE + method)(iter(message), timeout=60))
        elif method == "ConsumeMessages":
            list(channel.unary_stream(SERVICE + method)(message, timeout=60))
        else:
            channel.unary_unary(SERVICE + method)(message, timeout=60)
    except grpc.RpcError as error:
        if error.code() not in EXPECTED:
            raise
