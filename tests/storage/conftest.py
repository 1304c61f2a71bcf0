"""Fixtures of the storage tests: a SQLite engine that opens its files again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.support import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The SQLite engine alone, for tests about files or about opening them again."""
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()
