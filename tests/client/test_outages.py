"""What a client says in the log while it has no connection to a broker."""

from __future__ import annotations

import logging
import socket

import pytest

from takhin.client import Admin, Producer, outage
from takhin.client.errors import UnreachableError


async def test_a_wait_is_told_once(monkeypatch, caplog):
    """Where nobody answers, the log has one warning that says so, and the client goes on to wait."""
    monkeypatch.setattr(outage, "TELL_SECONDS", 0.2)
    async with Producer("127.0.0.1:1", delivery_timeout_ms=900) as producer:
        with pytest.raises(UnreachableError):
            await producer.send("topic", b"value")
    told = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.getMessage() for each in told] == ["still waiting: no broker answers at 127.0.0.1:1"]
    assert told[0].name == "takhin.client.outage"


async def test_a_wait_for_one_that_says_nothing_is_told(monkeypatch, caplog):
    """One that takes the connection and never answers, as a stopped process, is named in time."""
    monkeypatch.setattr(outage, "TELL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with Admin(address, timeout_ms=700) as admin:
            with pytest.raises(UnreachableError, match="connecting took too long"):
                await admin.health()
    assert caplog.text.count(f"still waiting: no broker answers at {address}") == 1
