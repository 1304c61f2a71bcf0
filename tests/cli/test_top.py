"""`takhin top`: its numbers, its screen in terminals of any size, and how it leaves them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from blackbox.broker_process import Broker, command, environment
from cli.records import put
from takhin.cli.looks import GroupRow, Look, Picture, TopicRow, picture
from takhin.cli.top_screen import lines
from takhin.client import (
    Admin,
    GroupDescription,
    GroupListing,
    GroupOffset,
    Health,
    PartitionDescription,
    TopicDescription,
)
from takhin.v1 import takhin_pb2 as pb

HEALTHY = Health("healthy", "0.1.0", 100, ())
LEFT = b"\x1b[?1049l"
"""Leaves the second screen."""


def seen(at, end, committed, *, incarnation="a"):
    log = PartitionDescription(0, 0, end, incarnation, size_bytes=1_000, record_count=end)
    offset = GroupOffset("orders", 0, committed, end, end - committed, "", 0, "", 500)
    group = GroupDescription("shop", "Stable", [offset])
    listing = GroupListing("shop", "Stable", 1, end - committed)
    return Look(at, HEALTHY, [TopicDescription("orders", "id", {}, [log])], [listing], {"shop": group})


def test_rates_are_between_two_looks():
    """20 records in and 10 read within two seconds; without a look before nothing is known of rates."""
    found = picture(seen(10.0, 100, 50), seen(12.0, 120, 60))
    assert (found.produced_per_s, found.consumed_per_s) == (10.0, 5.0)
    assert found.topics == [TopicRow("orders", 1, 0, 10.0, 120, 1_000)]
    assert found.groups == [GroupRow("shop", "Stable", 1, 5.0, 60, 500)]
    first = picture(None, seen(10.0, 100, 50))
    assert (first.produced_per_s, first.topics[0].records_per_s) == (None, None)


def test_another_log_of_the_same_name_has_no_rate_yet():
    """A topic that was made again, or put back, did not grow by what the two logs differ."""
    found = picture(seen(10.0, 10, 10), seen(12.0, 1_000, 0, incarnation="b"))
    assert found.topics[0].records_per_s is None
    assert found.groups[0].records_per_s == 0.0


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TOPICS = st.builds(
    TopicRow,
    *(NAMES, st.integers(1, 4_000), st.integers(0, 9), st.none() | st.floats(0, 1e9)),
    *(st.integers(0, 1 << 60), st.integers(0, 1 << 60)),
)
GROUPS = st.builds(
    GroupRow,
    *(NAMES, st.sampled_from(["Stable", "Empty"]), st.integers(0, 999), st.none() | st.floats(0, 1e9)),
    *(st.integers(0, 1 << 60), st.none() | st.integers(0, 1 << 50)),
)


@given(
    st.lists(TOPICS, max_size=9),
    st.lists(GROUPS, max_size=9),
    st.lists(NAMES, max_size=5),
    st.integers(1, 150),
    st.integers(1, 50),
)
def test_the_screen_fits(topics, groups, reasons, width, height):
    """Whatever is shown, no line is longer than the terminal is wide, nor has any a control character."""
    health = HEALTHY._replace(status="degraded", reasons=reasons)
    drawn = lines(Picture(health, 1.0, None, topics, groups), "host:1", width=width, height=height)
    assert len(drawn) <= height
    for line in drawn:
        assert cell_len(line.text) <= width
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line.text)


def test_rows_that_have_no_room_are_counted():
    """Groups and topics share the room; the last row says how many more there are."""
    topics = [TopicRow(f"topic-{n}", 1, 0, None, 0, 0) for n in range(50)]
    groups = [GroupRow(f"group-{n}", "Empty", 0, None, 0, None) for n in range(3)]
    drawn = [line.text for line in lines(Picture(HEALTHY, 0, 0, topics, groups), "h:1", width=80, height=24)]
    assert len(drawn) == 24
    assert any("group-2" in line for line in drawn)
    assert any(re.match(r"… and \d+ more", line) for line in drawn)


@pytest.fixture
def busy(broker, topic):
    """A topic with records, and a group that has read some of them."""
    put(broker, topic, *(pb.Record(value=b"v") for _ in range(5)))

    async def committed() -> None:
        async with Admin(broker.address) as admin:
            await admin.commit_offsets("shop ☃\x1b[31m", {(topic, 0): 2})

    asyncio.run(committed())
    return topic


def test_one_picture_where_there_is_no_terminal(takhin, busy):
    """A pipe gets one picture, as --once prints it; nothing in it can drive a terminal."""
    for option in ([], ["--once"]):
        printed = takhin.output("top", "--interval", "0.1", *option).decode()
        assert printed.startswith("healthy: Takhin ")
        assert re.search(rf"^{busy} +0 +1 +5 ", printed, re.MULTILINE)
        assert re.search(r"^shop ☃\\x1b\[31m +3 ", printed, re.MULTILINE)
        assert "\x1b" not in printed


def test_json(takhin, busy):
    """One document with everything, for scripts."""
    found = json.loads(takhin.output("top", "--json", "--interval", "0.1"))
    assert found["health"]["status"] == "healthy"
    assert [row["records"] for row in found["topics"] if row["name"] == busy] == [5]
    assert [row["lag"] for row in found["groups"]] == [3]
    assert found["produced_per_s"] == 0.0


def test_no_broker_is_said_at_once(takhin):
    """As by any other command, with exit code 1."""
    assert "start one with `takhin serve`" in takhin.error("top", "--server", "127.0.0.1:1")


class Terminal:
    """`takhin top` in a terminal of some size."""

    def __init__(self, address, *, columns=80, rows=24):
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.output = b""
        self.process = subprocess.Popen(
            command("top", "--interval", "0.1"),
            env=environment(server=address) | {"TERM": "xterm-256color"},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)

    def wait_for(self, pattern, *, seconds_max=30.0):
        """Read until the output since the last time has the pattern."""
        deadline = time.monotonic() + seconds_max
        self.output = b""
        while not re.search(pattern, self.output):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} is not in {self.output!r}"
            if select.select([self._ours], [], [], left)[0]:
                self.output += os.read(self._ours, 65_536)

    def type(self, keys):
        os.write(self._ours, keys)

    def ended(self):
        """The exit code, once all it has written was read; the terminal must be as it was."""
        while self.process.poll() is None or select.select([self._ours], [], [], 0)[0]:
            if select.select([self._ours], [], [], 0.05)[0]:
                self.output += os.read(self._ours, 65_536)
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.output.rstrip().endswith(LEFT) or LEFT in self.output
        assert self.output.rindex(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l")
        assert b"Traceback" not in self.output
        return self.process.returncode


def test_q_ends_it(broker, busy):
    """Other keys do nothing."""
    with Terminal(broker.address) as terminal:
        terminal.wait_for(b"q quits")
        assert busy.encode()[:20] in terminal.output
        terminal.type(b"x\x1b[Ay")
        terminal.wait_for(b"q quits")
        terminal.type(b"q")
        assert terminal.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_terminal_clean(broker, number, code):
    """Ctrl-C and SIGTERM, with the exit codes of every command."""
    with Terminal(broker.address, columns=20, rows=5) as terminal:
        terminal.wait_for(b"q quits")
        terminal.process.send_signal(number)
        assert terminal.ended() == code


def test_a_broker_that_goes_away_and_comes_back(tmp_path):
    """The last picture stays with the reason, until the broker answers again."""
    with Broker(tmp_path / "data") as broker, Terminal(broker.address, columns=200) as terminal:
        terminal.wait_for(b"healthy: Takhin")
        broker.stop()
        terminal.wait_for(b"no answer for")
        with Broker(tmp_path / "data", listen=broker.address):
            for _ in range(2):  # what is read first may have been written before
                terminal.wait_for(b"healthy: Takhin")
            while b"no answer for" in terminal.output:
                terminal.wait_for(b"q quits")
            terminal.type(b"q")
            assert terminal.ended() == 0
