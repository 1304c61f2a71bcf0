"""Processes that use clients: how they end, and how they fork. Each test runs a function of scripts.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from blackbox.broker_process import Broker
from client.support import values
from takhin.client import Admin

SCRIPTS = Path(__file__).with_name("scripts.py")


def start(script, server, topic):
    return subprocess.Popen(
        [sys.executable, SCRIPTS, script, server, topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script, server, topic):
    """What the script prints to stdout and stderr. It ends in time, with exit code 0."""
    with start(script, server, topic) as process:
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return printed, said


@pytest.mark.parametrize("script", ["forgets_to_close", "forgets_the_producer"])
async def test_what_was_sent_is_stored_when_a_program_ends(server, topic, script):
    """A blocking producer that is never closed sends the rest at the end of the program, and says so."""
    _, said = run(script, server, topic)
    assert len(await values(server, topic)) == 1_000
    assert re.fullmatch("the program ends with a Producer that was not closed.*\n", said)


async def test_what_cannot_be_sent_at_the_end_is_told(data_dir):
    """Without a broker a program ends after its producer's delivery_timeout_ms, and says what is lost."""
    with Broker(data_dir) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t")
        process = start("leaves_without_a_broker", broker.address, "t")
        assert process.stdout.readline() == "stored\n"
    with process:
        _, said = process.communicate("\n", timeout=60)
    assert "records were lost at the program's end: 1000 records were not stored" in said


async def test_a_program_does_not_wait_for_a_loop_that_has_stopped(server, topic):
    """At its end a program sends the rest of its blocking producers; an asyncio one has a loop of its own."""
    printed, said = run("leaves_an_asyncio_producer", server, topic)
    assert printed == "the loop stops 1\n"
    assert "the program ends with a Producer" not in said


async def test_a_program_ends_although_a_callback_does_not(server, topic):
    """The wait at the end of a program is bounded, and what it could not do is told."""
    _, said = run("leaves_a_stuck_callback", server, topic)
    assert "records may be lost at the program's end: the clients' thread does not answer" in said


async def test_an_asyncio_producer_that_is_not_closed_says_so(server, topic):
    """asyncio.run cancels what is left; the records that were not sent are counted on stderr."""
    _, said = run("forgets_to_close_asyncio", server, topic)
    lost = sum(map(int, re.findall(r"(\d+) records for topic", said)))
    assert 1_001 - len(await values(server, topic)) <= lost <= 1_000
    assert "interrupted by CancelledError" in said


@pytest.mark.parametrize("script", ["forks", "forks_within_a_loop"])
async def test_a_forked_child_is_told_at_once(server, topic, script):
    """In a forked child, inherited clients and new ones raise ForkedError at once; the parent goes on."""
    printed, said = run(script, server, topic)
    assert printed.splitlines() == ["child True", "parent 1"]
    assert "Traceback" not in said


async def test_a_forked_child_leaves_open_clients_in_order(server, topic):
    """Closing inherited asyncio clients does nothing: no flush of the parent's records, and no hang."""
    printed, said = run("forks_within_open_clients", server, topic)
    assert printed.splitlines() == ["child 0", "parent 3001"], said
    assert "FlushError" not in said


async def test_a_forked_child_gets_no_records(server, topic):
    """What a consumer has read ahead is handed out by the parent alone, by either face."""
    printed, said = run("forks_with_records_read_ahead", server, topic)
    assert printed.splitlines() == ["child", "child", "child", "child async"], said


@pytest.mark.parametrize("script", ["forks_before", "spawns"])
async def test_what_works_with_processes(server, topic, script):
    """A child that is forked before the first client, or spawned, has clients of its own."""
    printed, _ = run(script, server, topic)
    assert sorted(line.split()[0] for line in printed.splitlines()) == ["child", "parent"]


async def test_a_frozen_clock_stops_no_blocking_client(server, topic):
    """Waits and timeouts end although the clocks of the module time stand still."""
    printed, _ = run("freezes_time", server, topic)
    assert printed.splitlines() == ["0", "b'cold' None", "in time"]
