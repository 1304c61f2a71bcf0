"""Clients whose link goes down without a word: what they held is free again soon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, connected, create_topic, eventually, produce
from takhin.v1 import takhin_pb2 as pb

KEEPALIVE_MS, TIMEOUT_MS = 2_000, 1_000
FREED_S_MAX = (KEEPALIVE_MS + TIMEOUT_MS) / 1_000 + 1
NETWORK = f"10.203.{os.getpid() % 256}"
SERVER, CLIENT = f"{NETWORK}.1", f"{NETWORK}.2"
"""Of this process: the link of one that was killed may still be there."""
IP = shutil.which("ip")

HOLDER = """
import sys, grpc
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub
stub = TakhinServiceStub(grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)]))
join = pb.MemberRequest(join=pb.Join(group_id="g", client_id="c", topics=["t"], session_timeout_ms=3_600_000))
def requests():
    yield join
    sys.stdin.read()
member = stub.JoinConsumerGroup(requests(), wait_for_ready=True)
next(member)
tail = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", offset=-1))
next(tail)
print("held", flush=True)
sys.stdin.read()
"""
"""A client that is a member of a group and tails a topic."""


def ip(*words: str) -> None:
    subprocess.run([str(IP), *words], check=True, capture_output=True)


@contextmanager
def link() -> Iterator[tuple[str, str]]:
    """A pair of linked interfaces, one of them in a namespace of its own: its namespace and its name."""
    namespace, ours, theirs = f"takhin-{os.getpid()}", f"tk{os.getpid()}a", f"tk{os.getpid()}b"
    try:
        ip("netns", "add", namespace)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', error)!r}")
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", namespace)
        ip("addr", "add", f"{SERVER}/24", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", namespace, "addr", "add", f"{CLIENT}/24", "dev", theirs)
        ip("-n", namespace, "link", "set", theirs, "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        yield namespace, theirs
    finally:
        ip("netns", "del", namespace)  # and with it both interfaces


def members(stub) -> int:
    described = stub.DescribeConsumerGroup(pb.DescribeConsumerGroupRequest(group_id="g"), timeout=CALL_S_MAX)
    return len(described.members)


def connections(broker: Broker) -> int:
    """The broker's connections with the other side of the link."""
    ours = f":{int(broker.address.rpartition(':')[2]):04X} "
    remote = "".join(f"{int(part):02X}" for part in reversed(CLIENT.split(".")))
    tables = (Path(f"/proc/{broker.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = "".join(tables).splitlines()
    return sum(ours in line and f"{remote}:" in line and " 01 " in line for line in lines)


@pytest.mark.skipif(
    IP is None or os.geteuid() != 0, reason="needs iproute2 and root, for a network namespace"
)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_half_open_links_are_freed(data_dir, figures, rounds):
    """Connection and member are gone within keepalive, timeout and a second, every time."""
    settings = {
        "rpc_keepalive_ms": KEEPALIVE_MS,
        "rpc_keepalive_timeout_ms": TIMEOUT_MS,
        "groups_rejoin_ms": 1,
        "consume_heartbeat_ms": 60_000,
        "allow_plaintext": "true",
    }
    took = []
    with (
        link() as (namespace, theirs),
        Broker(data_dir, listen=f"{SERVER}:0", **settings) as broker,
        connected(broker.address) as stub,
    ):
        create_topic(stub, "t")
        produce(stub, "t", [b"v"])
        for _ in range(rounds):
            holder = subprocess.Popen(
                [str(IP), "netns", "exec", namespace, sys.executable, "-c", HOLDER, broker.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            try:
                assert holder.stdout.readline() == b"held\n"
                assert (members(stub), connections(broker)) == (1, 1)
                ip("-n", namespace, "link", "set", theirs, "down")
                begin = time.monotonic()
                eventually(lambda: members(stub) + connections(broker) == 0, seconds_max=FREED_S_MAX)
                took.append(time.monotonic() - begin)
            finally:
                holder.send_signal(signal.SIGKILL)
                holder.communicate()
                ip("-n", namespace, "link", "set", theirs, "up")
    figures(f"{rounds} of {rounds} half-open links freed, within {max(took):.1f} s")
