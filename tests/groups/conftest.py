"""Fixtures of the coordinator's tests: an engine of each kind, and a coordinator over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from groups.attendee import NOW, Attendee
from lending import lend_template
from takhin.groups.coordinator import Coordinator
from takhin.members import JoinGroup
from takhin.settings import GroupSettings, StorageSettings
from takhin.storage.contract import Engine
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine


@pytest.fixture(params=["memory", "sqlite"])
def new_engine(request, tmp_path) -> Callable[[], Engine]:
    """Makes engines, one after the other over the same data."""
    if request.param == "sqlite":
        settings = StorageSettings(ballast_bytes=0)
        return lambda: SqliteEngine(tmp_path / "data", settings, clock=lambda: NOW)
    engine = MemoryEngine()
    return lambda: engine


@pytest.fixture
async def engine(new_engine, tmp_path) -> AsyncIterator[Engine]:
    opened = new_engine()
    await opened.open()
    if isinstance(opened, SqliteEngine):
        lend_template(tmp_path / "data")
    yield opened
    await opened.close()


@pytest.fixture
def group_settings() -> GroupSettings:
    """Waits that are short, and limits that a test can reach."""
    return GroupSettings(
        members_max=4,
        members_total_max=6,
        groups_max=2,
        rejoin_ms=400,
        session_ms_min=50,
        revoke_ms_min=50,
        first_wait_ms=0,
        change_wait_ms=10,
        topics_max=10,
    )


@pytest.fixture
async def coordinator(engine, group_settings) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(engine, group_settings, lambda: NOW)
    await coordinator.start()
    yield coordinator
    await coordinator.stop(0)


@pytest.fixture
def join(coordinator) -> Callable[..., object]:
    """Joins a member: `await join(topics={"orders"})`."""

    async def joined(**fields) -> Attendee:
        request = JoinGroup(**{"group_id": "g", "topics": frozenset({"orders"})} | fields)
        return Attendee(await coordinator.join(request, "127.0.0.1:40000"))

    return joined
