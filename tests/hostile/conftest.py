"""Brokers for the hostile tests, whose files are checked when they have stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbox.broker_process import looked_over


@pytest.fixture
def data_dir(tmp_path) -> Iterator[Path]:
    """The folder where the brokers of this test keep their data."""
    with looked_over(tmp_path / "data") as folder:
        yield folder
