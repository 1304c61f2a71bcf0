"""Brokers for other people's tests: in memory and on disk, from tests with and without an event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from signal import SIGABRT

import grpc
import pytest

from blackbox.clients import CALL_S_MAX, connected, create_topic, end_offset, produce
from takhin.errors import StartupError
from takhin.testing import DiskBroker, MemoryBroker
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

pytest_plugins = ["pytester"]


def is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            TakhinServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def values(stub, topic):
    request = pb.ConsumeMessagesRequest(topic=topic, offset=0, stop_offset=end_offset(stub, topic, 0))
    responses = stub.ConsumeMessages(request, timeout=CALL_S_MAX)
    return [record.value for response in responses for record in response.records]


def test_in_memory():
    """The broker serves within the block, forgets everything after it, and leaves no thread behind."""
    broker = MemoryBroker()
    with broker, connected(broker.address) as stub:
        create_topic(stub, "orders")
        produce(stub, "orders", [b"1", b"2"])
        assert values(stub, "orders") == [b"1", b"2"]
    assert not is_serving(broker.address)
    assert "takhin broker" not in [thread.name for thread in threading.enumerate()]
    with broker, connected(broker.address) as stub:
        assert list(stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics) == []


async def test_in_memory_beside_a_loop(caplog):
    """Many calls from the test's own event loop work: gRPC serves two loops in a process without warnings."""
    async with MemoryBroker() as broker, grpc.aio.insecure_channel(broker.address) as channel:
        stub = TakhinServiceStub(channel)
        assert (await stub.CreateTopic(pb.CreateTopicRequest(name="orders"))).success

        async def one(number: int) -> None:
            record = pb.Record(value=b"%d" % number)
            response = await stub.ProduceMessage(pb.ProduceMessageRequest(topic="orders", record=record))
            assert response.error == ""

        await asyncio.gather(*map(one, range(1_000)))
        found = await stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic="orders"))
    assert found.end_offset == 1_000
    assert caplog.records == []


def test_a_consumer_that_tails_does_not_hold_it_up():
    """The end of the block ends streams, too."""
    with MemoryBroker() as broker, connected(broker.address) as stub:
        create_topic(stub, "orders")
        produce(stub, "orders", [b"1"])
        stream = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="orders", offset=0))
        assert next(stream).records[0].value == b"1"
        broker.stop()
        with pytest.raises(grpc.RpcError, match="shutting down"):
            next(stream)


def test_on_disk(tmp_path):
    """A killed or stopped broker comes back at the same address with what it had acknowledged."""
    with DiskBroker(tmp_path / "data") as broker, connected(broker.address) as stub:
        address = broker.address
        create_topic(stub, "orders")
        produce(stub, "orders", [b"1"])
        broker.kill()
        assert not is_serving(address)
        broker.start()
        assert broker.address == address
        with connected(address) as again:
            produce(again, "orders", [b"2"])
        broker.restart()
        with connected(address) as again:
            assert values(again, "orders") == [b"1", b"2"]
        with closing(sqlite3.connect(f"file:{broker.data_dir}/topics/orders/0.db?mode=ro", uri=True)) as db:
            assert db.execute("SELECT count(*) FROM records").fetchall() == [(2,)]
    assert sorted(path.name for path in (tmp_path / "data/topics/orders").iterdir()) == ["0.db"]


def test_settings():
    """The settings are those of the broker; an unknown or impossible one is named."""
    with MemoryBroker({"produce.batch_records_max": 1}) as broker, connected(broker.address) as stub:
        create_topic(stub, "orders")
        request = pb.ProduceMessageRequest(topic="orders", records=[pb.Record(), pb.Record()])
        refused = stub.ProduceMessage(request, timeout=CALL_S_MAX)
        assert refused.error_code == pb.ERROR_CODE_INVALID_ARGUMENT, refused.error
    with pytest.raises(ValueError, match=r"no setting 'produce\.nothing'"):
        MemoryBroker({"produce.nothing": 1})
    with pytest.raises(StartupError, match=r"rpc\.calls_max must be a whole number"):
        MemoryBroker({"rpc.calls_max": 0}).start()


def test_an_address_that_is_taken(tmp_path):
    """The reason for a failed start is raised, and nothing is left running."""
    with MemoryBroker() as broker:
        taken = {"listen": broker.address}
        with pytest.raises(StartupError, match="cannot listen on"):
            MemoryBroker(taken).start()
        with pytest.raises(RuntimeError, match="the broker did not start: takhin: cannot listen on"):
            DiskBroker(tmp_path / "data", taken).start()


def test_a_broker_that_died_is_not_silent(tmp_path):
    """Stopping a broker that has died raises an error that says so, and where to look."""
    broker = DiskBroker(tmp_path / "data")
    broker.start()
    broker._process.send_signal(SIGABRT)
    broker._process.wait(CALL_S_MAX)
    with pytest.raises(RuntimeError, match=r"ended with exit code -6: see .*data\.log"):
        broker.stop()


def test_each_test_has_a_broker_of_its_own(pytester):
    """The fixture needs no import; docs/testing.md, which is run as a test, has the others."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error")
    pytester.makepyfile(
        """
        import grpc
        import pytest
        from takhin.v1 import takhin_pb2 as pb
        from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

        @pytest.mark.parametrize("run", [1, 2])
        def test_in_memory(takhin_broker, run):
            with grpc.insecure_channel(takhin_broker.address) as channel:
                assert TakhinServiceStub(channel).CreateTopic(pb.CreateTopicRequest(name="orders")).success
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


FORKS = """
import gc, os, signal
import grpc
from takhin.errors import StartupError
from takhin.testing import MemoryBroker
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

gc.disable()
with MemoryBroker() as broker, grpc.insecure_channel(broker.address) as channel:
    stub = TakhinServiceStub(channel)
    stub.CreateTopic(pb.CreateTopicRequest(name="orders"))
    stream = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="orders"))
    try:
        MemoryBroker({"listen": broker.address}).start()
    except StartupError as error:
        kept = error
if os.fork() == 0:
    signal.alarm(5)
    gc.collect()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_test_may_fork_afterwards():
    """A broker that was stopped, or did not start, leaves nothing that a forked child would wait for."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr


def test_the_plugin_costs_other_tests_nothing():
    """Loading the plugin imports neither gRPC nor SQLite."""
    code = "import sys, takhin.pytest_plugin, takhin.testing; print({'grpc', 'apsw'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
