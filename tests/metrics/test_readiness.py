"""/healthz while the process lives, /readyz while it serves; and nothing of it where nobody asked for it."""

import subprocess
import sys

from metrics.support import Metrics, get, server
from takhin.config import load
from takhin.server import Server


async def test_a_broker_that_starts_is_alive_and_not_ready(tmp_path):
    """While its files are opened there are metrics already, of the process."""
    values = {"data_dir": str(tmp_path / "data"), "listen": "127.0.0.1:0", "metrics.listen": "127.0.0.1:0"}
    starting = Server(load(values, environ={}, file=None).settings)
    await starting.metrics.start()
    try:
        address = starting.metrics.address
        assert (await get(address, "/healthz")).status == 200
        ready = await get(address, "/readyz")
        assert (ready.status, ready.body) == (503, b"starting\n")
        found = Metrics((await get(address, "/metrics")).body.decode(), openmetrics=False)
        assert found.value("takhin_ready") == 0
        assert found.value("process_resident_memory_bytes") > 0
    finally:
        await starting.metrics.stop(0)


async def test_a_broker_that_serves_is_ready_and_says_what_is_wrong():
    """A trouble is a line of the answer and no reason to send clients elsewhere: there is no elsewhere."""
    async with server() as running:
        assert (await get(running.metrics.address, "/readyz")).body == b"serving\n"
        running._broker.concerns["crowd"] = "all 3 connections are taken"
        answer = await get(running.metrics.address, "/readyz")
        assert (answer.status, answer.body) == (200, b"serving\nall 3 connections are taken\n")
        metrics = Metrics((await get(running.metrics.address, "/metrics")).body.decode(), openmetrics=False)
        assert metrics.value("takhin_health_reasons") == 1


async def test_a_broker_that_stops_is_not_ready():
    """From the first moment of its stop, until the last of its parts has ended."""
    async with server() as running:
        await running.metrics.readiness.stop(0)
        answer = await get(running.metrics.address, "/readyz")
        assert (answer.status, answer.body) == (503, b"stopping\n")
        metrics = Metrics((await get(running.metrics.address, "/metrics")).body.decode(), openmetrics=False)
        assert metrics.value("takhin_ready") == 0
        assert (await get(running.metrics.address, "/healthz")).status == 200


def test_nothing_is_imported_where_nobody_asked():
    """A broker without metrics.listen loads neither prometheus-client nor our own package."""
    code = (
        "import sys; from takhin.server import Server; from takhin.settings import Settings\n"
        "import asyncio\n"
        "async def made(): return Server(Settings())\n"
        "asyncio.run(made())\n"
        "print([name for name in sys.modules if name.startswith(('prometheus_client', 'takhin.metrics'))])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
