"""The bound on open files: a file closed for another is opened again when needed, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.support import Store, alter
from takhin.errors import PartitionUnavailableError
from takhin.model import CommittedOffset, TopicPartition
from takhin.testing.contract import as_expected, numbered, read_all, spec

OPEN_MAX = 3
PARTITIONS = 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    # Every wait here ends by itself; on a slow disk it may take longer than the default allows.
    opened = Store(tmp_path / "data", open_partitions_max=OPEN_MAX, busy_wait_ms_max=20_000)
    await opened.open()
    yield opened
    await opened.close()


def open_files(store: Store) -> set[str]:
    """The partition files that this process has open, from the links of its descriptors."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return {
        link for link in links if link.startswith(str(store.data_dir / "topics")) and link.endswith(".db")
    }


async def fill(store: Store, rounds: int) -> None:
    """Append to all partitions at once, this many times."""
    logs = store.engine.topics["orders"].partitions
    for n in range(rounds):
        await asyncio.gather(*(log.append(numbered(5, n)) for log in logs))


async def expect(store: Store, rounds: int) -> None:
    """Check that everything that `fill` appended is read from all partitions at once."""
    logs = store.engine.topics["orders"].partitions
    expected = [row for n in range(rounds) for row in as_expected(numbered(5, n), 5 * n)]
    for found in await asyncio.gather(*(read_all(log) for log in logs)):
        assert found == expected


async def test_more_partitions_than_files_may_be_open(store: Store):
    """Writes and reads of all partitions at once succeed, and no more files are open than allowed."""
    await store.engine.create_topic(spec("orders", PARTITIONS))
    for _ in range(3):
        await fill(store, 1)
        assert 1 <= len(open_files(store)) <= OPEN_MAX
    logs = store.engine.topics["orders"].partitions
    assert {log.end_offset for log in logs} == {15}
    await asyncio.gather(*(read_all(log) for log in logs))
    assert 1 <= len(open_files(store)) <= OPEN_MAX


@pytest.mark.parametrize("end", [Store.reopen, Store.crash], ids=["closed", "crashed"])
async def test_records_of_closed_files_are_there_again(store: Store, end):
    """Partitions that start closed, after a crash with a WAL beside them, have all their records."""
    await store.engine.create_topic(spec("orders", PARTITIONS))
    await fill(store, 2)
    await end(store)
    assert len(open_files(store)) <= OPEN_MAX
    await expect(store, 2)


async def test_a_clean_stop_copies_what_a_crash_left_in_closed_files(tmp_path: Path):
    """A crash's WAL is gone after a clean stop, even if nobody has used its partition."""
    store = Store(tmp_path / "data")
    await store.open()
    await store.engine.create_topic(spec("orders", PARTITIONS))
    await fill(store, 2)
    store._settings = {"open_partitions_max": OPEN_MAX}
    await store.crash()
    left = [path for path in store.data_dir.rglob("*-wal") if path.stat().st_size]
    assert len(left) >= PARTITIONS - OPEN_MAX
    await store.close()
    assert not list(store.data_dir.rglob("*-wal"))
    await store.open()
    await expect(store, 2)
    await store.close()


async def test_a_list_of_groups_opens_no_file(store: Store):
    """The offsets of all groups, in open and closed files, are answered without opening or closing a file."""
    await store.engine.create_topic(spec("orders", PARTITIONS))
    committed = {TopicPartition("orders", n): CommittedOffset(0, "", 1) for n in range(0, PARTITIONS, 3)}
    await store.engine.offsets.commit("billing", committed)
    await store.engine.offsets.commit("audit", {TopicPartition("orders", 7): CommittedOffset(0, "", 1)})
    await fill(store, 1)
    await store.reopen()
    before = open_files(store)
    assert len(before) == OPEN_MAX
    for _ in range(2):
        assert list(store.engine.offsets.groups()) == ["audit", "billing"]
        assert store.engine.offsets.of("billing") == committed
        await asyncio.sleep(0)
    assert open_files(store) == before


async def test_a_file_that_was_changed_while_closed_is_refused(store: Store):
    """An older copy in place of a closed file is named, takes no write, and harms no other partition."""
    logs = (await store.engine.create_topic(spec("orders", OPEN_MAX + 1))).partitions
    await asyncio.gather(*(log.append(numbered(5)) for log in logs))
    closed = next(log for log in logs if not log.life._file.is_open)
    path = closed.path
    await asyncio.to_thread(alter, path, "UPDATE log SET end_offset = 4")
    for attempt in (closed.append(numbered(1)), closed.read(0, max_bytes=1, max_records=1)):
        with pytest.raises(PartitionUnavailableError, match=r"changed by another program.* 5, .* 4,"):
            await attempt
    others = [log for log in logs if log is not closed]
    assert [(await log.append(numbered(1))).offset for log in others] == [5] * OPEN_MAX
    await asyncio.to_thread(alter, path, "UPDATE log SET end_offset = 5")
    assert (await closed.append(numbered(1))).offset == 5


async def test_a_closed_file_that_became_garbage_is_refused(store: Store):
    """Whatever SQLite reports about the file, callers get an error, nobody hangs, and a close succeeds."""
    logs = (await store.engine.create_topic(spec("orders", OPEN_MAX + 1))).partitions
    await asyncio.gather(*(log.append(numbered(5)) for log in logs))
    closed = next(log for log in logs if not log.life._file.is_open)
    whole = closed.path.with_suffix(".aside")
    closed.path.rename(whole)
    closed.path.write_bytes(b"garbage" * 4_096)
    for attempt in (closed.append(numbered(1)), closed.read(0, max_bytes=1, max_records=1)):
        with pytest.raises(PartitionUnavailableError):
            await attempt
    whole.rename(closed.path)
    assert (await closed.append(numbered(1))).offset == 5


async def test_partitions_that_are_never_idle_give_way(store: Store):
    """Others get their turn although all partitions that may be open always have something queued."""
    logs = (await store.engine.create_topic(spec("orders", OPEN_MAX + 2))).partitions
    served = asyncio.Event()

    async def keep_busy(log):
        while not served.is_set():
            await asyncio.gather(*(log.append(numbered(1)) for _ in range(2)))
            assert len(open_files(store)) <= OPEN_MAX

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for log in logs[:OPEN_MAX]:
            tasks.create_task(keep_busy(log))
            tasks.create_task(keep_busy(log))
        for _ in range(20):
            for log in logs[OPEN_MAX:]:
                await log.append(numbered(1))
            # A waiting reader uses no room before its turn, so what gave way may open again meanwhile.
            await asyncio.gather(*(log.read(0, max_bytes=1, max_records=1) for log in logs))
        served.set()
    assert [log.end_offset for log in logs[OPEN_MAX:]] == [20, 20]


async def test_a_first_read_leaves_the_writing_connection_alone(store: Store):
    """A read that has to open its connection succeeds while a thread is in the midst of the other one."""
    (log,) = (await store.engine.create_topic(spec("orders", 1))).partitions
    await log.append(numbered(1))
    file = log.life._file
    assert file._reader is None
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        leave.wait(20)

    file.writer.create_scalar_function("wait", wait)
    writing = asyncio.create_task(asyncio.to_thread(lambda: file.writer.execute("SELECT wait()").get))
    await asyncio.to_thread(entered.wait, 20)
    try:
        assert len((await log.read(0, max_bytes=1, max_records=1)).rows) == 1
    finally:
        leave.set()
        await writing
