"""Requests that have waited for a lock on the file are stored in one transaction, and not in one turn."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc

from blackbox.clients import CHANNEL_OPTIONS, create_topic
from blackbox.test_loop_turns import SERVICE, TRIES_MAX, WatchedBroker, nested, within_bound
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

REQUEST = b"\x0a\x01t" + nested(b"\x32", nested(b"\x12", b"v"))
STREAMS, REQUESTS = 5, 1_000
"""As many requests as may wait for their commit on a stream."""


class Sending:
    """The requests of one stream. sent: set when gRPC has taken them all."""

    def __init__(self) -> None:
        self.sent = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield from [REQUEST] * REQUESTS
        self.sent.set()


def test_many_small_requests(tmp_path):
    """Thousands of one record each, on a few streams."""
    broker = WatchedBroker(tmp_path / "data", "storage.busy_wait_ms_max=20000")
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        create_topic(TakhinServiceStub(channel), "t")
        call = channel.stream_stream(SERVICE + "ProduceMessageStream")
        for _ in range(TRIES_MAX):
            sendings = [Sending() for _ in range(STREAMS)]
            with (
                ThreadPoolExecutor(STREAMS) as pool,
                closing(sqlite3.connect(tmp_path / "data/topics/t/0.db", isolation_level=None)) as lock,
            ):
                lock.execute("BEGIN IMMEDIATE")
                answers = [pool.submit(lambda each=each: len(list(call(iter(each))))) for each in sendings]
                assert all(each.sent.wait(20) for each in sendings)
                broker.longest_turn()
                lock.execute("ROLLBACK")
                assert [answer.result() for answer in answers] == [REQUESTS] * STREAMS
            turn = broker.longest_turn()
            if fits := within_bound(turn):
                break
    broker.close()
    assert fits, turn
