"""Fixtures of the broker's tests: a memory engine, a broker over it, and a caller's session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.support import broker_over, session_of
from takhin.broker.broker import Broker
from takhin.broker.session import Session
from takhin.storage.memory import MemoryEngine


@pytest.fixture
async def engine() -> AsyncIterator[MemoryEngine]:
    opened = MemoryEngine()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def broker(engine: MemoryEngine) -> Broker:
    return broker_over(engine)


@pytest.fixture
def session(broker: Broker) -> Session:
    return session_of(broker)
