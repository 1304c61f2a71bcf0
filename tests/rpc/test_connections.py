"""The watch over connections."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from takhin.rpc.connections import DESCRIPTORS, ConnectionWatch
from takhin.settings.security import listen_address


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="nobody looks where there is no table of connections")
async def test_a_watch_that_fails_goes_on_and_is_stopped():
    """It says so in the log, and the stop of the broker goes on."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    asyncio.get_running_loop().set_default_executor(executor)  # as where no thread can be started
    watch = ConnectionWatch(SimpleNamespace(concerns={}), 1)
    with capture_logs() as logs:
        watch.start([listen_address("127.0.0.1:9092")])
        async with asyncio.timeout(5):
            while not logs:  # noqa: ASYNC110  a log line sets no event
                await asyncio.sleep(0)
        await watch.stop()
    assert [line["event"] for line in logs] == ["connections_not_counted"]
