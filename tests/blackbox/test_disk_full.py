"""A broker on a full disk: a named error, reads and deletions go on, writes resume by themselves.

No call trims a log yet; tests/faults/test_small_disk.py does it through the engine.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from contextlib import contextmanager

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from blackbox.broker_process import Broker, looked_over
from blackbox.clients import (
    CALL_S_MAX,
    batch,
    connected,
    consume,
    create_topic,
    error_name,
    eventually,
    produce,
    read_all,
    refusal,
)
from blackbox.copies import digests
from blackbox.small_disk import filler, small_disk
from takhin.v1 import takhin_pb2 as pb

SETTINGS = {"storage_ballast_bytes": 8 << 20, "storage_free_bytes_low": 24 << 20}
RESUME_S_MAX = 5.0
FULL_S_MIN = 0.6
"""The broker checks for room every half second."""

PARTITIONS = 3
FILLER_BYTES = 28 << 20

CYCLES = [3, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


class Filling:
    """Sends batches to every partition of a topic at the same time; keeps what was acknowledged."""

    def __init__(self, stub, topic):
        self._stub = stub
        self._topic = topic
        self._number = itertools.count()
        self.acked = []  # (partition, offset, first value)
        create_topic(stub, topic, PARTITIONS)

    def until_full(self):
        """Go on until every partition refuses, again and again.

        After the first refusals the broker cuts its write-ahead logs, which can free enough room to go on.
        """
        began = None
        while began is None or time.monotonic() - began < FULL_S_MIN:
            errors = self._turn()
            for error in errors:
                assert_full(error)
            if len(errors) < PARTITIONS:
                began = None
            else:
                began = began or time.monotonic()
                time.sleep(0.02)

    def _turn(self):
        under_way = []
        for partition in range(PARTITIONS):
            values = [b"%d.%d " % (next(self._number), n) + bytes(10_000) for n in range(30)]
            call = self._stub.ProduceMessage.future(
                batch(self._topic, values, partition=partition), timeout=CALL_S_MAX
            )
            under_way.append((partition, values[0], call))
        errors = []
        for partition, value, call in under_way:
            if call.exception() is not None:
                errors.append(call.exception())
            else:
                self.acked.append((partition, call.result().offset, value))
        return errors

    def check(self):
        """Everything acknowledged is read back."""
        for partition, offset, value in self.acked:
            call = consume(self._stub, self._topic, partition=partition, offset=offset, max_records=1)
            assert next(call).records[0].value == value
            call.cancel()


def assert_full(error):
    """The error tells a program everything it needs."""
    refused = refusal(error)
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)
    assert retry.retry_delay.seconds > 0


def assert_serves_what_it_can(stub, kept):
    """On a full disk, reads and the catalogue work and other writes are refused by the same name."""
    assert [record.value for record in read_all(stub, "kept")] == kept
    health = stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
    assert health.status == "degraded"
    assert any("is full: no records are taken" in reason for reason in health.reasons)
    with pytest.raises(grpc.RpcError) as caught:
        produce(stub, "kept", [b"refused"])
    assert_full(caught.value)
    responses = stub.ProduceMessageStream(iter([batch("kept", [b"refused"])]), timeout=CALL_S_MAX)
    assert [error_name(response) for response in responses] == ["STORAGE_FULL"]


def resumed(stub, kept):
    """Wait until a record is accepted again; returns the seconds that took."""
    began = time.monotonic()
    while True:
        value = b"record %d" % len(kept)
        try:
            offset = produce(stub, "kept", [value])
        except grpc.RpcError as error:
            assert_full(error)
            assert time.monotonic() - began < RESUME_S_MAX, "no writes yet"
            time.sleep(0.05)
        else:
            assert offset == len(kept)
            kept.append(value)
            return time.monotonic() - began


def troubles(broker, event):
    lines = [json.loads(line) for line in broker.log().splitlines()]
    return [line["trouble"] for line in lines if line["event"] == event]


@pytest.mark.parametrize("cycles", CYCLES)
def test_filled_and_emptied(disk, cycles, figures):
    """A full disk is freed by removing a file, then by deleting a topic: writes resume, nothing is lost."""
    kept, waits, records = [], [], 0
    with looked_over(disk / "data") as folder:
        with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
            create_topic(stub, "kept")
            for number in range(cycles):
                filling = Filling(stub, f"filling-{number}")
                with filler(disk, FILLER_BYTES):
                    filling.until_full()
                    assert_serves_what_it_can(stub, kept)
                waits.append(resumed(stub, kept))
                filling.until_full()
                assert_serves_what_it_can(stub, kept)
                filling.check()
                records += len(filling.acked) * 30
                request = pb.DeleteTopicRequest(name=f"filling-{number}")
                assert stub.DeleteTopic(request, timeout=CALL_S_MAX).success
                waits.append(resumed(stub, kept))
            began = troubles(broker, "trouble_began")
            assert began.count("disk_full") >= 2 * cycles
            assert "disk_low" in began
        with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
            assert [record.value for record in read_all(stub, "kept")] == kept
    figures(
        f"disk full: {cycles} cycles, {records} acked, 0 lost, writes again after {max(waits):.1f} s at most"
    )


def test_killed_when_full(disk):
    """A broker killed on a full disk starts there again, has everything, and writes when there is room."""
    kept = []
    with looked_over(disk / "data") as folder:
        with filler(disk, FILLER_BYTES):
            with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
                create_topic(stub, "kept")
                filling = Filling(stub, "filling")
                filling.until_full()
                broker.kill()
            with Broker(folder, **SETTINGS) as broker, connected(broker.address) as filling._stub:
                filling.check()
        with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
            resumed(stub, kept)
            filling._stub = stub
            filling.check()


def test_a_start_on_a_full_disk(disk):
    """A broker that starts on a full disk serves, or refuses and says that the disk is full."""
    with looked_over(disk / "data") as folder:
        with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
            create_topic(stub, "kept", 30)
            produce(stub, "kept", [b"first"])
        room = os.statvfs(disk)
        with filler(disk, room.f_bavail * room.f_frsize):
            try:
                with Broker(folder, lent=False, **SETTINGS) as broker, connected(broker.address) as stub:
                    assert [record.value for record in read_all(stub, "kept")] == [b"first"]
            except AssertionError as refused:
                assert "ended with 2" in str(refused)  # noqa: PT017  it may refuse, but must say why
                assert "full" in str(refused)  # noqa: PT017
        with Broker(folder, **SETTINGS) as broker, connected(broker.address) as stub:
            resumed(stub, [b"first"])


@contextmanager
def served(disk):
    """A data folder on the small disk with a stub of its broker; the files are checked at the end."""
    with (
        looked_over(disk / "data") as folder,
        Broker(folder, **SETTINGS) as broker,
        connected(broker.address) as stub,
    ):
        yield folder, stub


def test_the_catalogue_and_hold_when_full(disk):
    """On a full disk a topic is created or refused by name, and a hold is answered after room is freed."""
    with served(disk) as (folder, stub):
        create_topic(stub, "kept")
        filling = Filling(stub, "filling")
        with filler(disk, FILLER_BYTES):
            filling.until_full()
            refused = refused_topic(stub)
            (folder / "hold").touch()
            time.sleep(1)
        kept = []
        resumed(stub, kept)
        eventually((folder / "held").exists, seconds_max=RESUME_S_MAX)
        assert produce(stub, "kept", [b"under hold"]) == len(kept)
        (folder / "hold").unlink()
        eventually(lambda: not (folder / "held").exists())
        create_topic(stub, refused, 2)
        filling.check()


def test_full_under_hold(disk):
    """When the disk fills up under hold, no `.db` file changes; writes resume when both are over."""
    with served(disk) as (folder, stub):
        create_topic(stub, "kept")
        filling = Filling(stub, "filling")
        with filler(disk, FILLER_BYTES):
            (folder / "hold").touch()
            eventually((folder / "held").exists)
            before = digests(folder)
            filling.until_full()
            assert_serves_what_it_can(stub, [])
            assert digests(folder) == before
            (folder / "hold").unlink()
        resumed(stub, [])
        eventually(lambda: not (folder / "held").exists())
        filling.check()


def refused_topic(stub):
    """The name of the first topic that there is no room for."""
    for number in itertools.count():
        try:
            create_topic(stub, f"new-{number}", 20)
        except grpc.RpcError as error:
            assert_full(error)
            return f"new-{number}"
    return None
