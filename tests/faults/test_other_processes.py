"""Other processes that use the files cause bounded, named errors in their partition alone."""

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from blackbox.clients import CALL_S_MAX, eventually
from blackbox.copies import until
from blackbox.foreign_lock import ForeignLock
from faults.failing_disk import Gate, failing_disk
from storage.support import check_files, sqlite_engine
from takhin.clock import system_clock
from takhin.errors import OverloadedError, PartitionUnavailableError
from takhin.model import Batch, TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.sizes import size_bytes
from takhin.storage.sqlite.admission import Admission
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import ALL, as_stored, spec

HOLDER = Path(__file__).with_name("holder.py")


def batch(*values):
    keys = [None] * len(values)
    return Batch(keys, values, [1] * len(values), {}, size_bytes(keys, values, ()))


@contextmanager
def beside(path, *statements):
    """Hold the file in another process while the block runs."""
    command = [sys.executable, str(HOLDER), str(path), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield
        process.stdin.close()


@pytest.fixture
async def engine(tmp_path):
    settings = StorageSettings(busy_wait_ms_max=300, checkpoint_pages=20)
    made = SqliteEngine(tmp_path / "data", settings, clock=system_clock)
    await made.open()
    await made.create_topic(TopicSpec("t", 2, TopicConfig(1 << 20)))
    yield made
    await made.close()


async def test_a_shell_that_locks_one_file_stops_only_that_partition(engine, tmp_path):
    """BEGIN IMMEDIATE in another process causes a named error after the wait; the neighbour is not slowed."""
    locked, free = engine.topics["t"].partitions
    with beside(tmp_path / "data/topics/t/0.db", "BEGIN IMMEDIATE"):
        started = time.monotonic()
        waiting = locked.append(batch(b"locked out"))
        for _ in range(20):
            await free.append(batch(b"free"))
        assert not waiting.done()
        with pytest.raises(
            PartitionUnavailableError, match="another process keeps the file of topic 't' part"
        ):
            await waiting
        assert 0.25 < time.monotonic() - started < 5
    assert (await locked.append(batch(b"later"))).offset == 0
    assert free.end_offset == 20


async def test_locked_files_stop_retention_of_their_partitions_alone(tmp_path):
    """While shells have five files locked, the other partitions lose what is past their limits."""
    engine = sqlite_engine(tmp_path / "data", busy_wait_ms_max=60_000)
    await engine.open()
    logs = (await engine.create_topic(spec("t", 10))).partitions
    for log in logs:
        await log.append(batch(*[b"v"] * 5))
    locked, free = logs[1:6], [logs[0], *logs[6:]]
    with ExitStack() as shells:
        for log in locked:
            shells.enter_context(beside(log.path, "BEGIN IMMEDIATE"))
        limited = TopicConfig(1 << 20, retention_records=1)
        await engine.alter_topic("t", lambda _: TopicSpec("t", 10, limited))
        async with asyncio.timeout(10):
            while any(log.start_offset < 4 for log in free):  # noqa: ASYNC110  nobody tells of a trim
                await asyncio.sleep(0.01)
        assert not any(log.start_offset for log in locked)
    await engine.close()


async def test_a_lock_shorter_than_the_wait_is_not_an_error(engine, tmp_path):
    """A write that waits for a lock is committed when the lock goes, in order."""
    log = engine.topics["t"].partitions[0]
    with beside(tmp_path / "data/topics/t/0.db", "BEGIN IMMEDIATE"):
        waiting = [log.append(batch(b"a")), log.append(batch(b"b", b"c"))]
    assert [appended.offset for appended in await asyncio.gather(*waiting)] == [0, 1]


async def test_a_reader_that_holds_a_snapshot_holds_nobody_up(engine, tmp_path):
    """Beside a shell's read transaction, commits and checkpoints go on, and the file is whole afterwards."""
    log = engine.topics["t"].partitions[0]
    await log.append(batch(b"first"))
    with beside(tmp_path / "data/topics/t/0.db", "BEGIN", "SELECT count(*) FROM records"):
        for _ in range(50):
            await log.append(batch(bytes(50_000)))
    await log.append(batch(b"last"))
    assert log.end_offset == 52


async def test_a_dropped_table_fails_that_partition_by_name(engine, tmp_path):
    """After DROP TABLE in a shell nothing is acknowledged any more, and the neighbour serves."""
    broken, sound = engine.topics["t"].partitions
    with beside(tmp_path / "data/topics/t/0.db", "DROP TABLE records"):
        pass
    for _ in range(2):
        with pytest.raises(
            PartitionUnavailableError,
            match=r"another program has changed the tables in the file.*no such table: records",
        ):
            await broken.append(batch(b"a"))
    assert (await sound.append(batch(b"b"))).offset == 0


async def test_records_deleted_by_hand_are_missed(engine, tmp_path):
    """A read ends before a hole in the log, and one that begins in it is an error."""
    log = engine.topics["t"].partitions[0]
    await log.append(batch(*(b"%d" % number for number in range(10))))
    with beside(tmp_path / "data/topics/t/0.db", "DELETE FROM records WHERE offset BETWEEN 4 AND 6"):
        pass
    assert [row[0] for row in as_stored(await log.read(0, **ALL))] == [0, 1, 2, 3]
    for offset in (4, 6):
        with pytest.raises(PartitionUnavailableError, match=f"'t' partition 0 has no record {offset}: "):
            await log.read(offset, **ALL)
    assert [row[0] for row in as_stored(await log.read(7, **ALL))] == [7, 8, 9]


async def test_the_queue_lets_producers_in_one_by_one():
    """Producers get room in order of arrival, and the bound is exceeded by one batch at most."""
    queue = Admission(bytes_max=100, wait_ms_max=10_000)
    admitted = []

    async def produce(name):
        await queue.room()
        queue.add(90)
        admitted.append(name)

    await produce("first")
    await produce("second")
    waiting = [asyncio.ensure_future(produce(name)) for name in ("third", "fourth", "fifth")]
    for name in ("third", "fourth", "fifth"):
        queue.remove(90)
        for _ in range(5):  # more turns of the loop than admitting one takes
            await asyncio.sleep(0)
        assert admitted[-1] == name
    await asyncio.gather(*waiting)


async def test_a_queue_without_room_says_so_in_time():
    """OverloadedError names how much is waiting, and the limit."""
    queue = Admission(bytes_max=10, wait_ms_max=20)
    queue.add(25)
    with pytest.raises(OverloadedError, match=r"25 bytes wait for their commit \(the limit is 10\)"):
        await queue.room()
    queue.remove(25)
    await queue.room()


async def test_a_long_lock_fails_all_that_waits_at_once(tmp_path):
    """The wait of each write is limited, so that a deep queue is not failed group after group."""
    settings = StorageSettings(busy_wait_ms_max=300, commit_group_records_max=1)
    made = SqliteEngine(tmp_path / "data", settings, clock=system_clock)
    await made.open()
    await made.create_topic(TopicSpec("t", 1, TopicConfig(1 << 20)))
    log = made.topics["t"].partitions[0]
    with beside(tmp_path / "data/topics/t/0.db", "BEGIN IMMEDIATE"):
        started = time.monotonic()
        waiting = [log.append(batch(b"x")) for _ in range(1_000)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - started < 3
    assert all(isinstance(outcome, PartitionUnavailableError) for outcome in outcomes)
    assert (await log.append(batch(b"later"))).offset == 0
    await made.close()


def head_of_wal(path):
    """The header of a write-ahead log, which changes whenever SQLite restarts the log."""
    wal = path.with_name(f"{path.name}-wal")
    return subprocess.run(["head", "-c", "32", wal], capture_output=True, check=True).stdout


async def test_a_hold_asked_for_while_a_lock_delays_a_checkpoint(tmp_path):
    """A checkpoint's last bit that is due runs before the hold's own commit: after it the log only grows."""
    data = tmp_path / "data"
    path = data / "topics/t/0.db"
    with failing_disk() as disk:
        made = sqlite_engine(data, checkpoint_pages=6, busy_wait_ms_max=20_000)
        await made.open()
        log = (await made.create_topic(spec("t"))).partitions[0]
        disk.gate = gate = Gate("write", path)
        await log.append(batch(bytes(200_000)))  # alone: a pass beside a commit may find nothing to copy
        assert await asyncio.to_thread(gate.reached.wait, CALL_S_MAX)  # a checkpoint's pass
        with ForeignLock(path) as lock:
            waiting = log.append(batch(b"locked out"))
            gate.opened.set()
            await made._parts.shared.threads.checkpoint.quiet()  # the pass is over, and the last bit is due
            (data / "hold").touch()
            await asyncio.to_thread(
                eventually, lambda: len(log.life._commits.waiting) == 2
            )  # with the hold's own commit
            lock.release()
        await waiting
        await until(data / "held", there=True)
        before = head_of_wal(path)
        for _ in range(10):
            await log.append(batch(bytes(5_000)))
        assert head_of_wal(path) == before
        (data / "hold").unlink()
        await until(data / "held", there=False)
        await made.close()
    check_files(data)
