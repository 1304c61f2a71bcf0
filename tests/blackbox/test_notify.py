"""A service manager, here the test's own socket, hears that a broker serves, lives, stops: sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import contextmanager, suppress
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest
from structlog.testing import capture_logs

from blackbox.broker_process import Broker
from takhin.notify import ServiceManager

HEARD_S_MAX = 10
STOPPING = {"STOPPING": "1", "STATUS": "stopping"}


@contextmanager
def manager(name):
    """A service manager's socket. name: as in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(HEARD_S_MAX)
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        yield listening


def heard(listening):
    """The next datagram, as a dict of its lines."""
    return dict(line.split("=", 1) for line in listening.recv(4_096).decode().splitlines())


def drained(listening):
    """Hear what is under way, and then nothing: raises TimeoutError."""
    for _ in range(3):
        heard(listening)


async def told(seconds=0.0, **variables):
    """Serve for so long in this process; returns the events that were logged."""
    with capture_logs() as logged:
        async with ServiceManager(variables).told_that_we_serve("serving"):
            await asyncio.sleep(seconds)
    return [line["event"] for line in logged]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_broker_tells_its_service_manager(tmp_path, data_dir, monkeypatch, kind):
    """READY=1 comes when the broker serves, WATCHDOG=1 while its loop runs, STOPPING=1 at SIGTERM."""
    name = str(tmp_path / "notify") if kind == "path" else f"@takhin-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with manager(name) as listening, Broker(data_dir) as broker:
        assert heard(listening) == {"READY": "1", "STATUS": f"serving on {broker.address}"}
        began = time.monotonic()
        assert [heard(listening) for _ in range(5)] == [{"WATCHDOG": "1"}] * 5
        assert time.monotonic() - began > 0.45
        broker.send_signal(SIGSTOP)  # a loop that is stuck is silent
        listening.settimeout(0.5)
        with pytest.raises(TimeoutError):
            drained(listening)
        broker.send_signal(SIGCONT)
        listening.settimeout(HEARD_S_MAX)
        assert heard(listening) == {"WATCHDOG": "1"}
        broker.send_signal(SIGTERM)
        while (last := heard(listening)) == {"WATCHDOG": "1"}:
            pass
        assert last == STOPPING
        assert broker.wait(10) == 0


def test_a_broker_without_a_live_manager_serves(data_dir, monkeypatch):
    """A dead socket in the environment costs one line in the log."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens")
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    with Broker(data_dir) as broker:
        assert broker.stop() == 0
        assert broker.log().count("service_manager_not_told") == 1


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("@nobody-listens", "service_manager_not_told"),
        ("{tmp}/nobody", "service_manager_not_told"),
        ("{tmp}", "service_manager_not_told"),
        ("/" + "x" * 200, "service_manager_not_told"),
        ("relative", "service_manager_unknown"),
        ("vsock:2:1234", "service_manager_unknown"),
    ],
)
async def test_a_socket_that_nobody_reads_costs_a_line(tmp_path, name, event):
    """However often a manager cannot be told, the log says so once."""
    variables = {"NOTIFY_SOCKET": name.format(tmp=tmp_path), "WATCHDOG_USEC": "1000"}
    assert await told(0.02, **variables) == [event]


async def test_without_a_socket_nothing_is_said():
    """A broker that was started by hand looks for no manager."""
    assert await told(WATCHDOG_USEC="1000") == []


@pytest.mark.parametrize("usec", ["", "soon", "-5", "0", "1" * 30])
async def test_an_odd_watchdog_does_no_harm(tmp_path, usec):
    """What WATCHDOG_USEC says is believed only if it is a time."""
    name = str(tmp_path / "notify")
    with manager(name) as listening:
        events = await told(0.01, NOTIFY_SOCKET=name, WATCHDOG_USEC=usec)
        assert heard(listening) == {"READY": "1", "STATUS": "serving"}
        assert heard(listening) == STOPPING
        assert events == ([] if usec.lstrip("-").isdecimal() else ["watchdog_unknown"])


async def test_the_watchdog_of_another_process_is_not_ours(tmp_path):
    """With another WATCHDOG_PID, which a parent process leaves in the environment, nothing is sent."""
    name = str(tmp_path / "notify")
    with manager(name) as listening:
        await told(0.02, NOTIFY_SOCKET=name, WATCHDOG_USEC="1000", WATCHDOG_PID="1")
        assert heard(listening)["READY"] == "1"
        assert heard(listening) == STOPPING


async def test_a_manager_that_does_not_read_is_told_later(tmp_path):
    """A socket without room holds nobody up, and READY=1 comes once there is room."""
    name = str(tmp_path / "notify")
    with manager(name) as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(name)
        sent = 0
        with suppress(BlockingIOError):
            while other.send(b"noise"):
                sent += 1
        async with ServiceManager({"NOTIFY_SOCKET": name}).told_that_we_serve("serving"):
            await asyncio.sleep(0)
            assert [listening.recv(100) for _ in range(sent)] == [b"noise"] * sent
            listening.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(listening, 100) == b"READY=1\nSTATUS=serving"
