"""Brokers with access.enabled in this process, so that a test sees which handlers run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from access.support import Recorder, settings_of
from takhin.clock import Clock, system_clock
from takhin.server import Server


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    """Sees which methods' handlers run in the servers of the test."""
    recorder = Recorder()
    make = grpc.aio.server

    def recording(*, interceptors: Any, **options: Any) -> Any:
        return make(interceptors=[*interceptors, recorder], **options)

    monkeypatch.setattr(grpc.aio, "server", recording)
    return recorder


@pytest.fixture
def serving(tmp_path):
    """Starts servers in memory with tokens and rules in tmp_path."""

    @asynccontextmanager
    async def serve(
        folder: Path = tmp_path, clock: Clock = system_clock, **settings: object
    ) -> AsyncIterator[Server]:
        server = Server(settings_of(folder, **settings), clock=clock)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    return serve
