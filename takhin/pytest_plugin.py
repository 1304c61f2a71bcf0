"""pytest fixtures. pytest finds them by the entry point `pytest11` wherever Takhin is installed.

Every run of pytest loads this module, so a fixture imports what it needs only when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from takhin.testing.brokers import DiskBroker, MemoryBroker, SettingValues


@pytest.fixture
def takhin_settings() -> SettingValues:
    """Settings for the brokers of a test, by key. Override it: {"consume.heartbeat_ms": 100}."""
    return {}


@pytest.fixture
def takhin_broker(takhin_settings: SettingValues) -> Iterator[MemoryBroker]:
    """A broker for this test alone, in memory. Clients connect to its `address`."""
    from takhin.testing.brokers import MemoryBroker  # noqa: PLC0415

    with MemoryBroker(takhin_settings) as broker:
        yield broker


@pytest.fixture
def takhin_disk_broker(tmp_path: Path, takhin_settings: SettingValues) -> Iterator[DiskBroker]:
    """A broker for this test alone, with files in `data_dir`. It can be killed and started again."""
    from takhin.testing.brokers import DiskBroker  # noqa: PLC0415

    with DiskBroker(tmp_path / "takhin", takhin_settings) as broker:
        yield broker
