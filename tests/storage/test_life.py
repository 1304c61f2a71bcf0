"""The life of a partition, in what its steps must not do: spin, forget who waits, wake for nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
import uvloop
from takhin.schema import PAGE_BYTES

from storage.support import Store, sqlite_engine
from takhin.disk.witness import Mark
from takhin.errors import PartitionUnavailableError, UnknownTopicError
from takhin.model import CommittedOffset
from takhin.storage.sqlite import life
from takhin.storage.sqlite.checkpoint import Phase
from takhin.storage.sqlite.steps import Step
from takhin.storage.sqlite.writes import Append, CommitOnly
from takhin.testing.contract import NOW, batch, numbered, spec
from takhin.testing.contract.harness import turns

STEPS_PER_GROUP_MAX = 8


async def steps_per_group(data: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """How often a step is chosen for a commit group, when small batches wait for company."""
    engine = sqlite_engine(data)
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    chosen = 0
    choose = life.due

    def counting(facts: life.Facts) -> life.Step:
        nonlocal chosen
        chosen += 1
        return choose(facts)

    monkeypatch.setattr(life, "due", counting)

    async def produce() -> None:
        for _ in range(40):
            await log.append(batch(b"v"))

    await asyncio.gather(*(produce() for _ in range(8)))
    groups = log._state.mark.commits
    await engine.close()
    return chosen / groups


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_wait_takes_few_steps(tmp_path: Path, monkeypatch, loop: Callable[[], asyncio.AbstractEventLoop]):
    """A wait for company ends at its alarm, also by a clock that is cached in whole milliseconds."""
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(steps_per_group(tmp_path / "data", monkeypatch)) < STEPS_PER_GROUP_MAX


async def test_a_write_put_back_into_a_failed_file_is_answered(tmp_path: Path):
    """A checkpoint fails the file while a COMMIT meets a full disk: its offset commit gets an answer.

    Without one, a hold would wait for the partition to rest, and every change of the catalogue for the hold.
    """
    engine = sqlite_engine(tmp_path / "data")
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(1))
    commits = log.life._commits

    def full(mark: object) -> None:
        raise apsw.FullError("full")

    commits._commit = full
    waiting = log.commit_offset("billing", CommittedOffset(0, "", NOW))
    await turns()
    log.life.fail_closed(apsw.CorruptError("a checkpoint met a damaged page"))
    with pytest.raises(PartitionUnavailableError):
        await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(log.life.rested(), 10)
    await asyncio.wait_for(engine.create_topic(spec("another")), 10)
    await asyncio.wait_for(engine.close(), 10)


async def test_what_lands_while_a_checkpoint_fails_counts(tmp_path: Path):
    """A COMMIT goes through beside a checkpoint that fails the file: its offset and its end are known."""
    engine = sqlite_engine(tmp_path / "data")
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(1))
    growing = asyncio.create_task(log.grown(1))
    committed = CommittedOffset(1, "", NOW)
    commit, failed = log.life._commits._commit, threading.Event()

    def waiting(mark: Mark) -> float:  # on a commit thread
        failed.wait(10)
        return commit(mark)

    log.life._commits._commit = waiting
    landing = asyncio.gather(log.append(numbered(1)), log.commit_offset("billing", committed))
    while log.life.step is not Step.GROUP:
        await turns()
    log.life.fail_closed(apsw.CorruptError("a checkpoint met a damaged page"))
    failed.set()
    await asyncio.wait_for(landing, 10)
    await asyncio.wait_for(growing, 10)
    assert engine.offsets.of("billing") == {("orders", 0): committed}
    assert log.end_offset == 2
    await engine.close()


async def test_only_growth_is_announced(store: Store):
    """Whoever waits for a log to grow is not woken by a commit that appends nothing."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    woken = 0
    wake = log.life.growth.wake

    def counting() -> None:
        nonlocal woken
        woken += 1
        wake()

    log.life.growth.wake = counting
    await log.commit_offset("billing", CommittedOffset(0, "", NOW))
    await log.life.submit(CommitOnly())
    assert woken == 0
    await log.life.submit(Append(numbered(1)))
    assert woken == 1


async def test_an_old_wait_for_a_lock_does_not_count(store: Store):
    """The wait for a lock is bounded from its own start, also if writes were refused meanwhile."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    commits = log.life._commits
    commits.locked(apsw.BusyError("locked"))
    assert commits._locked_since is not None
    await log.append(numbered(1))
    assert commits._locked_since is None


async def test_a_large_wal_is_forgotten_with_the_next_commit(tmp_path: Path):
    """A WAL that was copied when its file was closed is no trouble any more once the file is used again."""
    engine = sqlite_engine(tmp_path / "data", wal_bytes_max=1 << 20, checkpoint_pages=10_000)
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    log.life.checkpoint.add(1_000)
    await log.append(numbered(1))
    assert ["write-ahead log" in trouble for trouble in engine.troubles] == [True]
    log.life.checkpoint.reset_page_count(0)
    await log.append(numbered(1))
    assert engine.troubles == []
    await engine.close()


async def test_a_slow_checkpoint_bounds_the_wal(tmp_path: Path):
    """While a pass waits for a slow disk, a WAL grows to twice its usual length; then the commits wait."""
    engine = sqlite_engine(tmp_path / "data", checkpoint_pages=20)
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    disk_is_slow = threading.Event()
    log._shared.threads.checkpoint.submit(disk_is_slow.wait, lambda _, __: None)
    page = bytes(PAGE_BYTES)
    for _ in range(200):
        written = asyncio.ensure_future(log.append(batch(page)))
        while not (log.life.checkpoint.full or written.done()):
            await turns()
        if log.life.checkpoint.full:
            break
    assert log.life.checkpoint.full
    while log.life.step is not Step.REST:
        await turns()
    waiting = [asyncio.ensure_future(log.append(batch(page))) for _ in range(20)]
    await turns()
    end = log.end_offset
    assert log.life._file.wal_bytes <= 60 * PAGE_BYTES
    assert not any(future.done() for future in waiting)
    disk_is_slow.set()
    await asyncio.wait_for(asyncio.gather(written, *waiting), 10)
    assert log.end_offset >= end + 20
    await engine.close()


async def test_a_wal_that_others_made_long_holds_nobody_up(tmp_path: Path):
    """A program's open transaction stops checkpoints. Commits go on, also while the long WAL is copied."""
    engine = sqlite_engine(tmp_path / "data", checkpoint_pages=20)
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(1))
    reader = apsw.Connection(str(log.life._file.path), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchall()
    page = bytes(PAGE_BYTES)
    for _ in range(100):
        await asyncio.wait_for(log.append(batch(page)), 10)
    reader.execute("COMMIT")
    reader.close()
    disk_is_slow = threading.Event()
    log._shared.threads.checkpoint.submit(disk_is_slow.wait, lambda _, __: None)
    while log.life.checkpoint.phase is not Phase.COPYING:
        await asyncio.wait_for(log.append(batch(page)), 10)
    for _ in range(100):
        await asyncio.wait_for(log.append(batch(page)), 10)
    disk_is_slow.set()
    await engine.close()


async def test_a_trim_that_waits_its_turn_hears_of_the_end(store: Store):
    """Trims wait for each other on a full disk. One whose topic is deleted meanwhile is refused."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(10))
    space = log._shared.space
    space.ran_out()
    async with space.in_turn():
        trimming = asyncio.ensure_future(log.trim(5))
        await turns()
        await store.engine.delete_topic("orders")
    with pytest.raises(UnknownTopicError):
        await asyncio.wait_for(trimming, 10)
