"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.failing_disk import Disk, failing_disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that fails when the test says so; files that are opened during the test are on it."""
    with failing_disk() as made:
        yield made
