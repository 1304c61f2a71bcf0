"""What the tests of the suite stand on: the author's engine, opened, closed and opened again.

Owns the hooks that an author overrides and the fixtures that the tests ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from takhin.clock import Clock
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.records import spec

TURNS = 20
"""Turns of the event loop after which a task that waits for nothing has ended."""


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Skip the test, with a reason that names the capability, where the engine lacks one of these.

    Mark tests by it, never a class: a class hands its marks down to all that inherit from it.
    """
    return pytest.mark.usefixtures(*(f"needs_{capability}" for capability in capabilities))


async def turns() -> None:
    """Let everyone who can go on do so."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Life:
    """The engines of one test, one after the other over the same folder. `engine` is the one in use."""

    def __init__(self, engine: Engine, again: Callable[[], Engine], check: Callable[[], None]) -> None:
        self.engine = engine
        self._again = again
        self._check = check

    async def reopen(self) -> Engine:
        """Close the engine, check what it left, and open another one over it."""
        await self.engine.close()
        self._check()
        self.engine = self._again()
        await self.engine.open()
        return self.engine

    def log(self, topic: str, partition: int = 0) -> PartitionLog:
        """The log of that name in the engine in use."""
        return self.engine.topics[topic].partitions[partition]


class Harness:
    """Hooks for the author of an engine, and fixtures for the tests."""

    pytestmark = pytest.mark.asyncio(loop_scope="function")

    wait_seconds = 10.0
    """How long a test waits for what must happen before it fails."""

    def new_engine(self, folder: Path) -> Engine:
        """Return an engine that is not open yet. This is the one hook that has to be overridden.

        It may never be opened: its `capabilities` are asked for before.

        folder: the test's own, not made yet. An engine that is DURABLE finds in it what an earlier engine
        of the same test has left; an engine that keeps its records elsewhere derives a name from it.
        """
        raise NotImplementedError(f"{type(self).__name__} has to override new_engine()")

    def forgetful_engine(self, folder: Path) -> Engine | None:
        """Return an engine whose logs remember three producers and three sources each.

        None skips the tests that need it.
        """
        return None

    def clocked_engine(self, folder: Path, clock: Clock) -> Engine | None:
        """Return an engine that goes by `clock`; None skips the tests of retention, which need it."""
        return None

    def check(self, folder: Path) -> None:
        """Look over what a closed engine left. Called whenever a test's engine was closed."""

    @pytest.fixture
    def unopened(self, tmp_path: Path) -> Iterator[Engine]:
        """The author's engine, for a test that opens and closes it itself."""
        folder = tmp_path / "engine"
        yield self.new_engine(folder)
        self.check(folder)

    @pytest_asyncio.fixture(loop_scope="function")
    async def life(self, unopened: Engine, tmp_path: Path) -> AsyncIterator[Life]:
        """The author's engine, open, for a test that opens it again."""
        folder = tmp_path / "engine"
        life = Life(unopened, lambda: self.new_engine(folder), lambda: self.check(folder))
        await unopened.open()
        yield life
        await life.engine.close()

    @pytest.fixture
    def engine(self, life: Life) -> Engine:
        """The author's engine, open."""
        return life.engine

    @pytest_asyncio.fixture(loop_scope="function")
    async def log(self, engine: Engine) -> PartitionLog:
        """The only partition of a new topic."""
        return (await engine.create_topic(spec("orders"))).partitions[0]

    @pytest_asyncio.fixture(loop_scope="function")
    async def forgetting(self, tmp_path: Path) -> AsyncIterator[Engine]:
        """An open engine whose logs remember three producers and three sources."""
        folder = tmp_path / "forgetful"
        engine = self.forgetful_engine(folder)
        if engine is None:
            pytest.skip("forgetful_engine() returns no engine that remembers so few")
        await engine.open()
        yield engine
        await engine.close()
        self.check(folder)

    @pytest_asyncio.fixture(loop_scope="function")
    async def forgetful(self, forgetting: Engine) -> PartitionLog:
        """A log that remembers three producers and three sources."""
        return (await forgetting.create_topic(spec("orders"))).partitions[0]

    @pytest.fixture
    def never_opened(self, tmp_path: Path) -> Engine:
        """The author's engine, to be asked for its capabilities."""
        return self.new_engine(tmp_path / "never_opened")

    @pytest.fixture
    def needs_durable(self, never_opened: Engine) -> None:
        _skip_without(Capability.DURABLE, never_opened)

    @pytest.fixture
    def needs_sequences(self, never_opened: Engine) -> None:
        _skip_without(Capability.SEQUENCES, never_opened)

    @pytest.fixture
    def needs_sources(self, never_opened: Engine) -> None:
        _skip_without(Capability.SOURCES, never_opened)

    @pytest.fixture
    def needs_expected_offset(self, never_opened: Engine) -> None:
        _skip_without(Capability.EXPECTED_OFFSET, never_opened)

    @pytest.fixture
    def needs_compact(self, never_opened: Engine) -> None:
        _skip_without(Capability.COMPACT, never_opened)

    @pytest.fixture
    def needs_trim(self, never_opened: Engine) -> None:
        _skip_without(Capability.TRIM, never_opened)


def _skip_without(capability: Capability, engine: Engine) -> None:
    if capability not in engine.capabilities:
        pytest.skip(f"{type(engine).__name__} lacks the capability {capability.name}")
