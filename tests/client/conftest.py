"""A broker that the tests of a file share, and a topic of each test's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, looked_over
from takhin.client import Admin


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Broker]:
    """Streams that are quiet say so every 100 ms."""
    with (
        looked_over(tmp_path_factory.mktemp("shared") / "data") as folder,
        Broker(folder, consume_heartbeat_ms=100) as broker,
    ):
        yield broker


@pytest.fixture
def server(shared) -> str:
    return shared.address


@pytest.fixture
def data_dir(tmp_path) -> Iterator[Path]:
    """For brokers of the test's own."""
    with looked_over(tmp_path / "data") as folder:
        yield folder


@pytest.fixture
async def admin(server):
    async with Admin(server) as admin:
        yield admin


@pytest.fixture
def name(request) -> str:
    """What a test may call its topic, its group."""
    return re.sub("[^a-zA-Z0-9._-]", "-", request.node.name)


@pytest.fixture
async def topic(admin, name) -> str:
    """A topic with one partition."""
    await admin.create_topic(name)
    return name


@pytest.fixture
async def wide(admin, name) -> str:
    """A topic with three partitions."""
    await admin.create_topic(f"{name}-wide", partitions=3)
    return f"{name}-wide"
