"""Fixtures of the storage tests: a SQLite engine that opens its files again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.support import Store
from takhin.storage.sqlite import key_map


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The SQLite engine alone, for tests about files or about opening them again."""
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction over a few records takes many steps."""
    monkeypatch.setattr(key_map, "SLICE_RECORDS", 4)
    monkeypatch.setattr(key_map, "STEP_RECORDS", 2)
