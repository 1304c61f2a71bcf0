"""The one retry policy: how long it waits, and when it gives up."""

import random
from collections.abc import Mapping

import pytest

from takhin.client import Admin, Consumer, Retry
from takhin.errors import OverloadedError, UnavailableError

NOBODY = "127.0.0.1:1"
"""No broker listens there."""


@pytest.fixture(autouse=True)
def seeded():
    random.seed(7)


@pytest.mark.parametrize(("failures", "most_ms"), [(1, 50), (2, 100), (3, 200), (6, 1_000), (10_000, 1_000)])
def test_waits_grow_and_are_spread(failures, most_ms):
    """Waits are spread evenly over [0, min(wait_ms_max, first_wait_ms * 2**n)]."""
    waits = [Retry().wait_s(failures, OverloadedError("")) * 1_000 for _ in range(2_000)]
    assert 0 <= min(waits) < 0.02 * most_ms
    assert 0.98 * most_ms < max(waits) <= most_ms
    assert abs(sum(waits) / len(waits) - most_ms / 2) < 0.05 * most_ms


def test_what_the_broker_asks_for_is_waited_besides():
    error = OverloadedError("")
    error.retry_ms = 500
    waits = [Retry().wait_s(1, error) for _ in range(100)]
    assert all(0.5 <= wait <= 0.55 for wait in waits)


def test_attempts_have_a_limit():
    """The wait after the last attempt is None; 0 means no limit."""
    retry = Retry(attempts_max=3)
    assert [retry.wait_s(failures, OverloadedError("")) is None for failures in (1, 2, 3)] == [
        False,
        False,
        True,
    ]


class Counted(Mapping):
    """A mapping that counts how often somebody goes through it."""

    def __init__(self, items):
        self._items = items
        self.readings = 0

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        self.readings += 1
        return iter(self._items)

    def __len__(self):
        return len(self._items)


@pytest.mark.parametrize("call", ["create_topic", "commit_offsets", "commit"])
async def test_what_is_given_is_read_once(call):
    """All attempts send the same, whatever the caller does to a mapping meanwhile."""
    offsets, configs = Counted({("t", 0): 1}), Counted({"max.message.bytes": "9"})
    retry = Retry(first_wait_ms=1, attempts_max=3)
    async with Admin(NOBODY, retry=retry) as admin, Consumer(NOBODY, group_id="g", retry=retry) as consumer:
        attempts = {
            "create_topic": admin.create_topic("t", configs=configs),
            "commit_offsets": admin.commit_offsets("g", offsets),
            "commit": consumer.commit(offsets),
        }
        chosen = attempts.pop(call)
        for other in attempts.values():
            other.close()
        with pytest.raises(UnavailableError):
            await chosen
    assert offsets.readings + configs.readings == 1
