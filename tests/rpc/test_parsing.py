"""Compressed requests are the same requests as plain ones, or refused."""

import gzip

import pytest

from takhin.rpc.parsing import Parser, Refused
from takhin.settings import Settings
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.compression import zstd
from takhin.wire.crowd import bounds

ZSTD = pb.COMPRESSION_ZSTD
BYTES_MAX = 1 << 20
RECORDS = [pb.Record(key=b"k", value=b"v" * 100), pb.Record(value=b"")]
HEAD = pb.ProduceMessageRequest(
    topic="t",
    partition=3,
    required_acks=0,
    timeout_ms=7,
    producer_id=b"p" * 16,
    sequence=9,
    expected_offset=0,
    source=pb.SourceOffset(group_id="g", topic="in", partition=1, offset=5),
    topic_id="id",
    maybe_stored_from=0,
)


def with_fields(**fields):
    request = pb.ProduceMessageRequest()
    request.CopyFrom(HEAD)
    request.MergeFrom(pb.ProduceMessageRequest(**fields))
    return request


def content(records=RECORDS, **more):
    return pb.ProduceMessageRequest(records=records, **more).SerializeToString()


def packed(plain, **more):
    return with_fields(compression=ZSTD, compressed_records=zstd().compress(plain), **more)


async def parsed(raw, bytes_max=BYTES_MAX):
    """The request, its size, and whether there had to be room for it."""
    asked = False

    async def room():
        nonlocal asked
        asked = True

    parser = Parser(
        pb.ProduceMessageRequest.FromString, bounds(Settings())["ProduceMessage"], bytes_max=bytes_max
    )
    return *await parser(raw, room), asked


async def test_a_compressed_batch_is_the_same_request():
    """Every other field stays, also those whose value is that of an absent one."""
    plain = content()
    assert await parsed(packed(plain).SerializeToString()) == (with_fields(records=RECORDS), len(plain), True)


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
async def test_a_request_in_gzip_is_the_same_request(pack):
    """Its size is that of the plain one, and there has to be room for it."""
    request = with_fields(records=RECORDS)
    raw = request.SerializeToString()
    assert await parsed(pack(raw)) == (request, len(raw), pack is not bytes)


async def test_both_at_once():
    """A client whose gRPC compresses all, and which compresses records itself."""
    plain = content()
    request, size, _ = await parsed(gzip.compress(packed(plain).SerializeToString()))
    assert (request, size) == (with_fields(records=RECORDS), len(plain))


async def test_a_batch_of_no_records_is_left_to_the_broker():
    """It says of it what it says of a plain one."""
    request, _, _ = await parsed(packed(b"").SerializeToString())
    assert request == HEAD


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (with_fields(compression=7, compressed_records=b"x"), "compression 7 is none"),
        (with_fields(compression=ZSTD), "end too early"),
        (with_fields(compression=ZSTD, compressed_records=b"not zstd"), "no frame of zstd"),
        (with_fields(compression=ZSTD, compressed_records=zstd().compress(b"\xff\xff")), "no such protobuf"),
        (packed(content(), records=RECORDS), "besides"),
        (packed(content(), record=RECORDS[0]), "besides"),
        (packed(content(topic="another")), "more than records"),
        (packed(content(sequence=5)), "more than records"),
        (packed(content(compression=ZSTD, compressed_records=b"x")), "more than records"),
        (packed(bytes(BYTES_MAX + 1)), f"more than {BYTES_MAX} bytes"),
        (packed(b"\x32\x00" * 200_000), "at most 10000 records"),
        (packed(b"\x32\xf0\x93\x2e" + b"\x1a\x03\x0a\x01k" * 150_000), "at most 10000 headers"),
    ],
    ids=[
        *("unknown", "nothing", "garbage", "no-message", "records-too", "record-too", "topic", "sequence"),
        *("nested", "bomb", "crowd-of-records", "crowd-of-headers"),
    ],
)
async def test_what_is_refused(request_, reason):
    """The limits of a plain request hold before an object is made of anything."""
    request, _, _ = await parsed(request_.SerializeToString())
    assert isinstance(request, Refused)
    assert reason in str(request.error)


async def test_compressed_records_without_a_compression():
    """They are nothing that this broker knows: the request has no records."""
    request, _, _ = await parsed(with_fields(compressed_records=b"x").SerializeToString())
    assert not request.records


async def test_a_bomb_in_gzip():
    """Its bound is that of a message."""
    request, _, _ = await parsed(gzip.compress(bytes(64 << 20)))
    assert isinstance(request, Refused)
    assert f"more than {BYTES_MAX} bytes" in str(request.error)
