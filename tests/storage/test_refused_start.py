"""A refused start leaves everything unchanged, and the next one is refused for the same reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.support import sqlite_engine
from takhin.errors import StartupError

KILLED_UNDER_HOLD = """
import asyncio, os, sys
from pathlib import Path
from storage.support import sqlite_engine
from takhin.testing.contract import numbered, spec

async def main():
    engine = sqlite_engine(Path(sys.argv[1]))
    await engine.open()
    log = (await engine.create_topic(spec("orders"))).partitions[0]
    for number in range(50):
        await log.append(numbered(1, number))
    await engine._parts.upkeep._take_hold()
    os._exit(0)

asyncio.run(main())
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A folder left by SIGKILL under a hold, whose write-ahead log has lost its second half since."""
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests}
    child = [sys.executable, "-c", KILLED_UNDER_HOLD, str(tmp_path / "data")]
    subprocess.run(child, env=environment, check=True)
    wal = tmp_path / "data/topics/orders/0.db-wal"
    os.truncate(wal, wal.stat().st_size // 2)
    return tmp_path / "data"


async def test_a_short_log_is_refused_again_and_again(short: Path):
    """No start treats the folder as a copy, or removes the rest of the write-ahead log."""
    wal = short / "topics/orders/0.db-wal"
    left = wal.read_bytes()
    for _ in range(3):
        with pytest.raises(StartupError, match=r"acknowledged offsets \d+ to 49 are missing"):
            await sqlite_engine(short, strict=True).open()
        assert wal.read_bytes() == left
