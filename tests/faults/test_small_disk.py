"""Trimming on a full disk, through the engine: it works there and frees room."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import suppress

import pytest

from blackbox.clients import eventually
from blackbox.small_disk import filler, small_disk
from storage.support import check_files, sqlite_engine
from takhin.errors import StorageFullError
from takhin.model import CommittedOffset, TopicConfig
from takhin.testing.contract import ALL, NOW, as_stored, batch, name_of, numbered, read_all, spec

SETTINGS = {"ballast_bytes": 12 << 20, "free_bytes_low": 32 << 20}
RESUME_S_MAX = 5.0
FULL_S_MIN = 0.6
"""The engine checks for room every half second."""
STOPS = 4
STOP_S_MAX = 5.0
LEFT = 10
"""The number of records that a trim leaves."""


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


async def append(engine, log, sent):
    """Append a batch as the broker does: first room in the queue, then the log."""
    await engine.room()
    return await log.append(sent)


async def fill(engine, logs):
    """Append to all logs until every append fails, again and again; errors and troubles say why."""
    began, told = None, False
    while began is None or time.monotonic() - began < FULL_S_MIN:
        sent = batch(*[bytes(10_000)] * 30)
        done = await asyncio.gather(*(append(engine, log, sent) for log in logs), return_exceptions=True)
        failed = [each for each in done if isinstance(each, BaseException)]
        assert all(isinstance(each, StorageFullError) for each in failed), failed
        if len(failed) < len(logs):
            began = None
        else:
            began = began or time.monotonic()
            told = told or any("is full" in sentence for sentence in engine.troubles)
            await asyncio.sleep(0.02)
    assert told


async def resumed(engine, log, sent):
    """Wait until a batch is accepted; returns the seconds that took."""
    began = time.monotonic()
    while True:
        try:
            await append(engine, log, sent)
        except StorageFullError:
            assert time.monotonic() - began < RESUME_S_MAX, "no writes yet"
            await asyncio.sleep(0.05)
        else:
            return time.monotonic() - began


@pytest.mark.parametrize(
    "cycles", [2, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]
)
async def test_a_trim_makes_room(disk, cycles, figures):
    """Trimming nearly everything on a full disk succeeds, the rest is whole, and writes resume."""
    engine = sqlite_engine(disk / "data", **SETTINGS)
    await engine.open()
    kept = (await engine.create_topic(spec("kept"))).partitions[0]
    logs = (await engine.create_topic(spec("filling", 3))).partitions
    waits, trims = [], []
    for number in range(cycles):
        await fill(engine, logs)
        ends = [log.end_offset for log in logs]
        last = [as_stored(await log.read(log.end_offset - LEFT, **ALL)) for log in logs]
        began = time.monotonic()
        await asyncio.gather(*(log.trim(log.end_offset - LEFT) for log in logs))
        trims.append(time.monotonic() - began)
        waits.append(await resumed(engine, kept, numbered(1, number)))
        assert [log.end_offset for log in logs] == ends
        assert [await read_all(log) for log in logs] == last
    await engine.close()
    check_files(disk / "data")
    engine = sqlite_engine(disk / "data", **SETTINGS)
    await engine.open()
    kept, logs = engine.topics["kept"].partitions[0], engine.topics["filling"].partitions
    assert [row[3] for row in await read_all(kept)] == [b"%d" % n for n in range(cycles)]
    assert [await read_all(log) for log in logs] == last
    await engine.close()
    figures(
        f"disk full, trimmed: {cycles} cycles, trims of {max(trims):.1f} s at most, "
        f"writes again {max(waits):.1f} s after them at most"
    )


@pytest.mark.parametrize("cycles", [2, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_retention_makes_room(disk, cycles, figures):
    """On a full disk the limits of a topic hold as ever: what is past them goes, and writes resume."""
    engine = sqlite_engine(disk / "data", **SETTINGS)
    await engine.open()
    kept = (await engine.create_topic(spec("kept"))).partitions[0]
    logs = (await engine.create_topic(spec("filling", 3))).partitions
    limited = TopicConfig(1 << 20, retention_records=LEFT)
    waits = []
    for number in range(cycles):
        await fill(engine, logs)
        ends = [log.end_offset for log in logs]
        last = [as_stored(await log.read(log.end_offset - LEFT, **ALL)) for log in logs]
        await engine.alter_topic("filling", lambda _: spec("filling", 3, limited))
        waits.append(await resumed(engine, kept, numbered(1, number)))
        await engine.retain()
        assert [log.end_offset for log in logs] == ends
        assert [await read_all(log) for log in logs] == last
        await engine.alter_topic("filling", lambda _: spec("filling", 3))
    await engine.close()
    check_files(disk / "data")
    figures(f"disk full, retained: {cycles} cycles, writes again {max(waits):.1f} s after the limit at most")


async def test_a_stop_while_an_offset_waits_for_room(disk):
    """A stop frees the ballast at once: the waiting offset is stored, and the stop is quick."""
    engine = sqlite_engine(disk / "data", **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec("t"))).partitions[0]
    await log.append(numbered(LEFT))
    committed = CommittedOffset(LEFT, "", NOW)
    room = os.statvfs(disk)
    with filler(disk, room.f_bavail * room.f_frsize):
        waiting = asyncio.create_task(engine.offsets.commit("group", {name_of(log): committed}))
        await asyncio.sleep(0)
        await asyncio.to_thread(
            eventually, lambda: engine._parts.shared.space.full
        )  # it has met the full disk, and waits
        async with asyncio.timeout(STOP_S_MAX):
            await engine.close()
        await waiting
    check_files(disk / "data")
    engine = sqlite_engine(disk / "data", **SETTINGS)
    await engine.open()
    log = engine.topics["t"].partitions[0]
    assert len(await read_all(log)) == LEFT
    assert engine.offsets.of("group") == {name_of(log): committed}
    await engine.close()


async def test_a_stop_while_a_trim_gives_pages_back(disk):
    """A stop while a trim gives pages back keeps the trim, and does not open the closed file again."""
    for number in range(STOPS):
        engine = sqlite_engine(disk / f"data {number}", **SETTINGS)
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        await log.append(numbered(LEFT))
        room = os.statvfs(disk)
        with filler(disk, room.f_bavail * room.f_frsize):
            trim = asyncio.ensure_future(log.trim(LEFT - 1))
            await asyncio.sleep(0)
            async with asyncio.timeout(STOP_S_MAX):
                await engine.close()
                with suppress(StorageFullError):  # the ballast may have been freed too late
                    await trim
        check_files(disk / f"data {number}")
        shutil.rmtree(disk / f"data {number}")
