"""Two data folders that are made once, and copied for each test: of a stopped broker, and of a killed one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from copies.folders import fill, given, in_child


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a child process, as asyncio.run leaves its caller without an event loop."""
    folder = tmp_path_factory.mktemp("made")

    def make() -> None:
        asyncio.run(fill(folder / "stopped"))
        asyncio.run(fill(folder / "killed", killed=True))

    assert in_child(make) == 0
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """Topic "orders", two partitions of 600 records, of a stopped broker."""
    return given(made / "stopped", tmp_path / "data")


@pytest.fixture
def killed(made: Path, tmp_path: Path) -> Path:
    """The same, of a broker that was killed: the records are in write-ahead logs."""
    return given(made / "killed", tmp_path / "killed")
