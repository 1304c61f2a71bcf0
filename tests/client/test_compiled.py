"""Sending by the compiled part of the client: the same results and errors as in Python, whatever comes."""

from __future__ import annotations

import copy
import gc
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.reading import AT, seen, wire_of
from client.sending import Sending, carried_out, in_python
from client.support import in_collection
from takhin import partitioner
from takhin.client import Delivery, Record, RecordMetadata, compiled
from takhin.client.producing import per_record
from takhin.client.unread import ordinary
from takhin.v1 import takhin_pb2 as pb

pytestmark = pytest.mark.skipif(compiled.module is None, reason="the compiled part was not built, or is off")

EXAMPLES = int(os.environ.get("COMPILED_EXAMPLES", "300"))
"""Of each differential test."""


@pytest.fixture(scope="module")
def python():
    """A process in which Python does everything."""
    before = os.environ.get("TAKHIN_STORAGE_NATIVE")
    os.environ["TAKHIN_STORAGE_NATIVE"] = "off"
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(int).result()
            if before is None:
                del os.environ["TAKHIN_STORAGE_NATIVE"]
            yield lambda *args: pool.submit(in_python, *args).result()
    finally:
        if before is not None:
            os.environ["TAKHIN_STORAGE_NATIVE"] = before


SIZES = st.sampled_from((0, 1, 100, 127, 128, 4_080, 4_095, 4_096, 4_990, 5_000, 5_001, 20_000))
BYTES = st.binary(max_size=40) | SIZES.map(bytes)
HOSTILE = st.sampled_from(("own", "list", "object", "view", "inf")) | st.integers() | st.booleans()
HEADERS = st.just(()) | st.just([]) | st.lists(st.tuples(st.text(max_size=2), BYTES), max_size=2) | HOSTILE
SEND = st.tuples(
    st.just("send"),
    BYTES | st.none() | HOSTILE,
    st.none() | BYTES | HOSTILE,
    st.just(()) | HEADERS,
    st.none() | st.integers(-2, 1 << 65) | HOSTILE,
    st.none() | st.integers(-1, 4) | HOSTILE,
)
ORDINARY = st.tuples(
    st.just("send"), BYTES, st.none() | BYTES, st.just(()), st.none(), st.none() | st.integers(0, 2)
)
KINDS = ("plain", "named", "adds", "none", "raises", "exits", "interrupts", "is cancelled")
OTHER = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("settle"), st.integers(0, 1 << 62)),
    st.lists(st.integers(0, 1 << 62) | st.none(), min_size=1, max_size=4).map(lambda of: ("settle", *of)),
    st.tuples(st.just("watch"), st.integers(0, 9), st.sampled_from(KINDS)),
    st.tuples(st.just("result"), st.integers(0, 9)),
    st.tuples(st.just("compare"), st.integers(0, 9), st.integers(0, 9)),
)
SETTLED_AT_THE_END = [("settle", (1 << 63) - 1), ("result", 0), ("result", 1)]
LIMITS = st.tuples(st.sampled_from((1, 300, 1 << 20)), st.integers(1, 4))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 4), LIMITS, st.lists(SEND | ORDINARY | OTHER, max_size=25))
@example(1, (1 << 20, 9), [("send", "text", None, (), None, None), ("send", b"v", "key", (), None, None)])
@example(1, (1 << 20, 9), [*[("send", b"v", None, (), None, None)] * 2, ("take", 0), *SETTLED_AT_THE_END])
def test_whatever_is_sent_has_the_same_outcome(python, partitions, limits, calls):
    """Records, batches, deliveries, callbacks and errors are the same to the byte and to the word."""
    is_python, expected = python(partitions, limits, calls)
    assert is_python
    assert carried_out(partitions, limits, calls) == expected


def test_this_process_uses_the_compiled_part():
    """Else the test above would compare Python with itself."""
    assert per_record.Router is compiled.module.Router
    assert issubclass(Delivery, compiled.module.Outcome)


@given(st.binary(max_size=70), st.integers(2, 1_000))
def test_a_key_has_the_same_partition(key, partitions):
    """The hash in C is the one in Python, whose vectors are those of Kafka."""

    class Queue(compiled.module.Queue):
        def _begin_growing(self, _type):
            self._growing = Batch()

        def _wake(self):
            """Nobody waits."""

    class Batch(compiled.module.Batch):
        def __init__(self):
            self.records = []

    router = compiled.module.Router()
    router._queues = tuple(Queue() for _ in range(partitions))
    buffer = compiled.module.Counted()
    router._plain_bytes_max = 1_000
    for queue in router._queues:
        queue._buffer, queue._batch_bytes_max, queue._batch_records_max = buffer, 1_000, 9
    router.put(Delivery, b"", key, (), None, None)
    (found,) = [number for number, queue in enumerate(router._queues) if queue._growing is not None]
    assert found == partitioner.partition_for_key(key, partitions)


def test_documentation_and_signatures_are_the_same():
    """`help` and editors show what they show without the compiled part."""
    for name in ("result", "add_done_callback"):
        ours, theirs = getattr(compiled.module.Outcome, name), getattr(per_record.PythonOutcome, name)
        assert inspect.getdoc(ours) == inspect.getdoc(theirs)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3), (b"", int), ("", Delivery), (b"", Delivery)])
def test_parts_that_nobody_has_prepared_raise(args):
    """What no code of ours does to them is an error, and no crash."""
    module = compiled.module
    for part in (module.Queue(), module.Router()):
        with pytest.raises((TypeError, AttributeError)):
            part.put(*args)
    with pytest.raises((TypeError, AttributeError)):
        module.Router().put(Delivery, b"", None, (), None, None)
    with pytest.raises((TypeError, AttributeError)):
        module.Batch().call_each(*args)
    with pytest.raises((TypeError, AttributeError)):
        module.Batch().metadata(*args)
    entry = module.Outcome()
    for call in (entry.result, lambda: entry.add_done_callback(print), lambda: entry._batch):
        with pytest.raises(AttributeError):
            call()
    with pytest.raises(TypeError):
        entry.add_done_callback(*args, other=1)
    with pytest.raises(TypeError):
        module.unread(*args)
    assert entry == entry  # noqa: PLR0124  it has no batch
    assert {entry: 1}[entry]


# Memory.

LIMIT_BYTES = 50_000


def test_failed_deliveries_are_no_cycle_that_stays():
    """A frame that holds a delivery whose error holds the frame goes away, as without the compiled part."""
    gc.collect()
    before = sum(isinstance(of, Delivery) for of in gc.get_objects())
    for _ in range(100):
        carried_out(
            1, (1 << 20, 2), [*SENDS, ("take", 0), ("settle", None, 5), ("watch", 0, "raises"), ("result", 0)]
        )
    gc.collect()
    assert sum(isinstance(of, Delivery) for of in gc.get_objects()) == before


SENDS = [
    ("send", b"v" * 90, None, (), None, None),
    ("send", b"v", b"k", (), None, None),
    ("send", 5, 5, (), None, None),
]
WIRE = wire_of(
    pb.Record(key=b"k", value=b"v" * 90, timestamp=5, offset=number, partition=3).SerializeToString()
    for number in range(1, 200)
)


def work(times):
    """All that is done in C, also where it fails."""
    kinds = [("watch", number, kind) for number, kind in enumerate(KINDS)]
    calls = [*SENDS * 10, *kinds, ("take", 0), ("settle", 7), ("result", 0), ("compare", 0, 1)]
    calls += [*SENDS, ("take", 0), ("settle", 7, None), ("result", 20), ("result", 21)]
    for _ in range(times):
        carried_out(1, (1 << 20, 100), calls)
        for steps in ([("next",)] * 200, [("take", 5), ("clear",)], [("take", None)]):
            seen(ordinary(AT, WIRE), steps)
        ordinary(AT, WIRE + b"\x01")


def test_nothing_leaks():
    """Neither memory nor references to what everything shares."""
    shared = (None, (), Delivery, RecordMetadata, Record, AT, per_record.Batch, compiled.module.Unread)
    tracemalloc.start()
    try:
        work(3)
        gc.collect()
        memory, references = tracemalloc.get_traced_memory()[0], [sys.getrefcount(of) for of in shared]
        work(40)
        gc.collect()
        grown = [sys.getrefcount(of) - before for of, before in zip(shared, references, strict=True)]
        assert tracemalloc.get_traced_memory()[0] - memory < LIMIT_BYTES
    finally:
        tracemalloc.stop()
    assert max(grown) < 40  # of 40 times some hundred


def test_a_delivery_is_copied_as_without_the_compiled_part():
    """`copy.copy` of one gives an equal one; `pickle` and `copy.deepcopy` one with the same outcome."""
    sent = per_record.PythonOutcome()
    sent._batch, sent._position = None, 3
    assert copy.copy(sent) == sent
    delivery = Delivery()
    delivery._batch, delivery._position = None, 3
    assert copy.copy(delivery) == delivery
    assert copy.copy(delivery)._position == 3
    sending = Sending(1, 1 << 20, 9)
    for call in (*SENDS[:2], ("take", 0), ("settle", 7)):
        getattr(sending, call[0])(*call[1:])
    kept = sending.deliveries[1]
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert other.result() == kept.result() == RecordMetadata("t", 0, 8)


def test_a_batch_that_is_dropped_while_a_record_is_put_in_is_not_used():
    """Python's garbage collector may run any code when a delivery is made."""
    sending = Sending(1, 1 << 20, 9)
    (queue,) = sending.queues
    queue.put(b"first", Delivery)

    def drop():
        queue._growing = None

    delivery = in_collection(drop, lambda: queue.put(b"second", Delivery))
    assert delivery._batch is queue._growing or sys.version_info >= (3, 12)  # dropped behind it
    assert delivery._batch.records[delivery._position] == b"second"


def test_a_part_of_another_version_is_not_used(monkeypatch, caplog):
    """It would not fit the classes of Python; the log says what to do."""
    monkeypatch.setattr(compiled, "VERSION", -1)
    assert compiled._found() is None
    assert "install takhin again" in caplog.text
    monkeypatch.setenv(compiled.SWITCH, "off")
    caplog.clear()
    assert (compiled._found(), caplog.text) == (None, "")


@pytest.mark.parametrize(
    "error", [ImportError("odd"), AttributeError("odd"), ModuleNotFoundError("odd", name="takhin.odd")]
)
def test_a_part_that_cannot_be_loaded_is_not_used(error, monkeypatch, caplog):
    """Also one of another version that looks for what is not there any more."""

    def fail(_name):
        raise error

    monkeypatch.setattr(compiled, "import_module", fail)
    assert compiled._found() is None
    assert "cannot be loaded, and Python does its work: odd" in caplog.text


def test_who_imports_takhin_again_gets_records_of_their_own():
    """The compiled part knows the classes of the first import only."""
    code = (
        "import sys, takhin.client\n"
        "assert takhin.client.compiled.module is not None\n"
        "for name in [of for of in sys.modules if of.startswith('takhin.client')]: del sys.modules[name]\n"
        "import takhin.client.compiled\n"
        "assert takhin.client.compiled.module is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
