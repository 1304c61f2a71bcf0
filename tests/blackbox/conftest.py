"""Brokers for the black-box tests: one per test, or one that a file's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, looked_over
from blackbox.clients import connected


@pytest.fixture
def data_dir(tmp_path) -> Iterator[Path]:
    """The folder where the brokers of this test keep their data. At the beginning nothing lies beside it."""
    with looked_over(tmp_path / "data") as folder:
        yield folder


@pytest.fixture
def broker(data_dir) -> Iterator[Broker]:
    """A broker of the test's own. It sends a heartbeat on idle streams every 100 ms."""
    with Broker(data_dir, consume_heartbeat_ms=100) as broker:
        yield broker


@pytest.fixture
def stub(broker):
    with connected(broker.address) as stub:
        yield stub


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory) -> Iterator[Broker]:
    """A broker that the tests of a file share; each test has topics of its own."""
    with (
        looked_over(tmp_path_factory.mktemp("shared") / "data") as folder,
        Broker(folder, consume_heartbeat_ms=100) as broker,
    ):
        yield broker
