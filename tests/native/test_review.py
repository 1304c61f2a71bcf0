"""What the review of the native path found. To be moved where it belongs."""

import asyncio
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from blackbox.clients import CHANNEL_OPTIONS
from blackbox.test_loop_turns import (
    MESSAGE_BYTES,
    SERVICE,
    TURN_MS_MAX,
    TakhinServiceStub,
    WatchedBroker,
    nested,
    send,
)
from native.odd_requests import field
from storage.support import Store
from takhin import native
from takhin.model import CleanupPolicy, Header
from takhin.native import Library, NativeMissingError
from takhin.settings import ProduceSettings
from takhin.storage.sqlite import commits, reader
from takhin.testing.contract import batch, spec
from takhin.topic_configs import DEFAULTS
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.packed import PlainRequests, packed_batch

TOPIC = field(1, b"t")
ROOT = Path(__file__).parents[2]


def plain(wire, **settings):
    return PlainRequests(native.library(), ProduceSettings(**settings))(wire)


def test_continuous_integration_runs_everything():
    """`.ci/run` is a program, and checks and tests before its second run."""
    path = ROOT / ".ci/run"
    text = path.read_text()
    assert text.startswith("#!")
    assert path.stat().st_mode & stat.S_IXUSR
    assert "\nset -euo pipefail\n" in text
    assert "\nmake check\nmake test\n" in text


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    broker = WatchedBroker(folder / "data", "storage.busy_wait_ms_max=20000")
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        request = pb.CreateTopicRequest(name="t", num_partitions=1)
        request.configs["max.message.bytes"] = "10400000"
        TakhinServiceStub(channel).CreateTopic(request, timeout=60)
        yield broker, channel, folder / "data/topics/t/0.db"
    broker.close()


@pytest.mark.parametrize(
    "wire",
    [
        TOPIC + nested(b"\x32", b"\x1a\0" * ((MESSAGE_BYTES - 100) // 2)),
        TOPIC + nested(b"\x32", field(3, field(1, b"k") + field(2, b"x" * 10_000)) * 1_000),
    ],
    ids=["empty-headers-of-one", "large-headers-of-one"],
)
def test_turns(watched, wire):
    """Of one request."""
    broker, channel, _ = watched
    turns = []
    for _ in range(3):
        broker.longest_turn()
        send(channel, "ProduceMessage", wire)
        turns.append(broker.longest_turn().busy_ms)
    assert min(turns) <= TURN_MS_MAX, turns


def test_the_turn_of_many_small_requests(watched):
    """What has waited for a lock is stored in one transaction, and not in one turn."""
    broker, channel, path = watched
    request = TOPIC + field(6, field(2, b"v"))
    call = channel.stream_stream(SERVICE + "ProduceMessageStream")
    turns = []
    for _ in range(3):
        with (
            subprocess.Popen(
                ["sqlite3", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as lock,
            ThreadPoolExecutor(5) as pool,
        ):
            lock.stdin.write("BEGIN IMMEDIATE; SELECT 1;\n")
            lock.stdin.flush()
            lock.stdout.readline()
            streams = [pool.submit(lambda: len(list(call(iter([request] * 1_000))))) for _ in range(5)]
            threading.Event().wait(2)
            broker.longest_turn()
            lock.stdin.write("ROLLBACK;\n")
            lock.stdin.close()
            assert sum(stream.result() for stream in streams) == 5_000
        turns.append(broker.longest_turn().busy_ms)
    assert min(turns) <= TURN_MS_MAX, turns


def test_many_fields_beside_the_records():
    """They are left to wire/crowd.py, which refuses such a request."""
    assert plain(TOPIC + b"\x78\x01" * 30 + field(6, field(2, b"2" * 5_000)) * 400)
    assert not plain(TOPIC + b"\x78\x01" * 30_000 + field(6, field(2, b"2" * 5_000)) * 400)


def test_a_library_that_lacks_a_function(tmp_path):
    """One that was built from older sources is reported, not raised through."""
    source, path = tmp_path / "old.c", tmp_path / "_native.so"
    source.write_text(f"int takhin_version(void) {{ return {native.VERSION}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", path], check=True)
    with pytest.raises(NativeMissingError):
        Library(path)


async def test_one_batch_that_cannot_be_stored(tmp_path):
    """It fails alone, whatever its bytes are: neighbours are stored, and the partition goes on."""
    store = Store(tmp_path / "data")
    await store.open()
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    request = plain(TOPIC + field(6, field(2, b"vvvv")) * 5)
    made = packed_batch(request, None)
    wire = bytearray(request.wire)
    wire[request.facts.begin + 2] = 0x7A  # a field that no record has
    bad = replace(made, packed=replace(made.packed, request=bytes(wire)))
    appends = (log.append(batch(b"1")), log.append(bad), log.append(batch(b"2")))
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False]
    await store.close()


async def test_a_read_while_a_compaction_commits(tmp_path, monkeypatch):
    """By Python: rows and headers are of one moment."""
    store = Store(tmp_path / "data", native="off")
    await store.open()
    config = type(DEFAULTS)(1 << 20, cleanup_policy=(CleanupPolicy.COMPACT,), min_cleanable_dirty_ratio=0.0)
    (log,) = (await store.engine.create_topic(spec("t", 1, config))).partitions
    headers = {at: [Header("h", b"x")] for at in range(10)}
    for _ in range(4):
        await log.append(batch(*[b"v"] * 10, keys=[b"k%d" % at for at in range(10)], headers=headers))
    pending, may, done = threading.Event(), threading.Event(), threading.Event()
    commit, with_headers = commits.Commits._commit, reader.Reader._with_headers

    def held(self, mark):
        may.clear()
        done.clear()
        pending.set()
        may.wait(0.5)
        seconds = commit(self, mark)
        pending.clear()
        done.set()
        return seconds

    def between(self, rows, max_bytes):
        if pending.is_set():
            may.set()
            assert done.wait(5)
        return with_headers(self, rows, max_bytes)

    monkeypatch.setattr(commits.Commits, "_commit", held)
    monkeypatch.setattr(reader.Reader, "_with_headers", between)
    compaction = asyncio.create_task(log.compact(config, 1 << 50))
    lacking = set()
    while not compaction.done():
        await asyncio.sleep(0.001)
        found = await log.read(0, max_bytes=1 << 20, max_records=100)
        lacking |= {row[0] for row in found.rows if row[0] not in found.headers}
    monkeypatch.undo()
    await store.close()
    assert not lacking
