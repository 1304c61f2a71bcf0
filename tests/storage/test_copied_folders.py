"""A folder that was copied from a held one: each of its logs gets an incarnation of its own, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import children
from blackbox.clients import eventually
from storage.support import check_files, sqlite_engine
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import numbered, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "recover_wait_ms": 10}


def incarnations(engine: SqliteEngine) -> list[str]:
    return [log.incarnation_id for log in engine.topics["t"].partitions]


@pytest.fixture
async def copied(tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy made under a hold, of a topic of two partitions, and the incarnations of the original."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    for log in (await engine.create_topic(spec("t", 2))).partitions:
        await log.append(numbered(5))
    (tmp_path / "data/hold").touch()
    await asyncio.to_thread(eventually, (tmp_path / "data/held").exists)
    await children.run("cp", "-r", tmp_path / "data", tmp_path / "copy")
    (tmp_path / "data/hold").unlink()
    originals = incarnations(engine)
    await engine.close()
    return tmp_path / "copy", originals


def moved(files: Path, to: Path) -> None:
    """Move partition 1's files from one folder to the other."""
    to.mkdir(exist_ok=True)
    for path in files.glob("1.db*"):
        path.rename(to / path.name)


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_log_that_was_not_served_at_first(
    copied: tuple[Path, list[str]], tmp_path: Path, *, restarted: bool
) -> None:
    """A partition that comes back later gets a new incarnation then; nothing gets another one after that."""
    data, originals = copied
    folder = data / "topics/t"
    moved(folder, tmp_path / "away")
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    first = incarnations(engine)[0]
    assert first != originals[0]
    if restarted:
        await engine.close()
    moved(tmp_path / "away", folder)
    if restarted:
        engine = sqlite_engine(data, **SETTINGS)
        await engine.open()
    await asyncio.to_thread(eventually, lambda: not engine.troubles)
    found = incarnations(engine)
    assert found[0] == first
    assert found[1] not in originals
    await engine.close()
    await engine.open()
    assert incarnations(engine) == found
    await engine.close()
    check_files(data)
