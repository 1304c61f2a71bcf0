"""A broker that all of these tests share, and topics for single tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, looked_over
from takhin.client import Admin


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Iterator[Broker]:
    """A broker that sends a heartbeat on idle streams every 100 ms."""
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
    """The data folder for a test's own brokers."""
    with looked_over(tmp_path / "data") as folder:
        yield folder


@pytest.fixture
async def admin(server):
    async with Admin(server) as admin:
        yield admin


@pytest.fixture
def name(request) -> str:
    """A name that is unique to the test, for a topic or a group."""
    return re.sub("[^a-zA-Z0-9._-]", "-", f"{request.module.__name__}-{request.node.name}")


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
