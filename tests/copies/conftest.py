"""Two data folders that are made once and copied for each test: a stopped broker's and a killed broker's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from copies.folders import fill, given, in_child


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folders made in a child process, because asyncio.run leaves its caller without an event loop."""
    folder = tmp_path_factory.mktemp("made")

    def make() -> None:
        asyncio.run(fill(folder / "stopped"))
        asyncio.run(fill(folder / "killed", killed=True))

    assert in_child(make) == 0
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A stopped broker's folder with the topic "orders", of two partitions with 600 records."""
    return given(made / "stopped", tmp_path / "data")


@pytest.fixture
def killed(made: Path, tmp_path: Path) -> Path:
    """The same folder of a killed broker: the records are in write-ahead logs."""
    return given(made / "killed", tmp_path / "killed")
