"""A broker that stops while a partition is opened or closed beside it waits until that has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blackbox.clients import eventually
from faults.failing_disk import GATE_S_MAX, Disk, Gate
from storage.support import check_files, sqlite_engine
from takhin.disk.folder import is_locked
from takhin.disk.layout import Layout, wal_of
from takhin.disk.repairs import released
from takhin.errors import CopyError
from takhin.model import TopicPartition
from takhin.testing.contract import numbered, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "recover_wait_ms": 10}
BESIDE_SECONDS = 0.3
"""Time enough for a stop that does not wait."""


@pytest.fixture
async def data(tmp_path: Path, disk: Disk) -> Path:
    """A stopped broker's folder with a topic of two partitions."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    for log in (await engine.create_topic(spec("t", 2))).partitions:
        await log.append(numbered(5))
    await engine.close()
    return tmp_path / "data"


def names(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "topics/t").iterdir())


async def waits_for(gate: Gate, data: Path, stopping: asyncio.Task[None]) -> None:
    """That the folder stays locked as long as the gate is shut."""
    assert not (await asyncio.wait({stopping}, timeout=BESIDE_SECONDS))[0]
    assert is_locked(data)
    gate.opened.set()
    await asyncio.wait({stopping})
    assert not is_locked(data)
    assert names(data) == ["0.db", "1.db"]
    check_files(data)


def ask(data: Path) -> None:
    """Ask for a partition as `takhin recover` does, until the broker is gone."""
    with pytest.raises(CopyError), released(Layout(data), [TopicPartition("t", 0)]):
        pass


async def test_while_it_lets_go(data: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was queued when `takhin recover` asked for the partition is written and answered."""
    monkeypatch.setattr("takhin.disk.repairs.WAIT_SECONDS", 2.0)
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    log = engine.topics["t"].partitions[0]
    disk.gate = gate = Gate("sync", wal_of(data / "topics/t/0.db"))
    answers = [log.append(numbered(1))]
    assert await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    answers.append(log.append(numbered(1)))
    asked = asyncio.create_task(asyncio.to_thread(ask, data))
    await asyncio.to_thread(eventually, lambda: log.closed)
    await waits_for(gate, data, asyncio.create_task(engine.close()))
    assert [answer.result().offset for answer in answers] == [5, 6]
    await asked


async def test_while_it_takes_back(data: Path, disk: Disk, tmp_path: Path) -> None:
    """A file that is being opened again is closed before the folder is unlocked."""
    path = data / "topics/t/1.db"
    path.rename(tmp_path / "away.db")
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    disk.gate = gate = Gate("open", path)
    (tmp_path / "away.db").rename(path)
    assert await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    await waits_for(gate, data, asyncio.create_task(engine.close()))


async def test_while_it_starts(data: Path, disk: Disk) -> None:
    """A start that is cancelled has nothing open, and opens nothing any more, when it ends."""
    disk.gate = gate = Gate("open", data / "topics/t/0.db")
    starting = asyncio.create_task(sqlite_engine(data, **SETTINGS).open())
    assert await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    starting.cancel()
    await waits_for(gate, data, starting)
    assert starting.cancelled()
