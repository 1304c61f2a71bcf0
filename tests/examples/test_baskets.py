"""The example that reads, transforms and writes, killed again and again: it writes everything once."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, environment
from blackbox.clients import connected, create_topic, produce, read_all
from blackbox.load import Journal
from takhin.partitioner import partition_for_key
from takhin.v1 import takhin_pb2 as pb

EXAMPLE = Path(__file__).parents[2] / "examples" / "python" / "baskets.py"
WITH_SOURCE = ", source=consumer.source(basket)"
INPUTS, OUTPUTS = 2, 3
BASKETS, BASKETS_PER_KILL = 200, 40
"""More than it gets through between two kills."""
WAIT_S_MAX = 200.0


def baskets(count):
    """The values of so many baskets: every seventh is a tester's, every fifth is empty."""
    names = ("tea", "jam", "bread", "milk", "größer")
    chance = random.Random(count)
    for number in range(count):
        customer = "tester" if number % 7 == 0 else f"customer-{number}"
        things = [] if number % 5 == 0 else chance.choices(names, k=chance.randint(1, 5))
        yield json.dumps({"customer": customer, "things": things}).encode()


class Run:
    """A broker with so many baskets, and the example at work on them. made: its program."""

    def __init__(self, broker, stub, count, *, with_source):
        self._broker = broker
        self._stub = stub
        self._made = EXAMPLE.read_text() if with_source else EXAMPLE.read_text().replace(WITH_SOURCE, "")
        assert (WITH_SOURCE in self._made) == with_source
        create_topic(stub, "baskets", INPUTS)
        create_topic(stub, "things", OUTPUTS)
        self.expected = defaultdict(list)
        values = list(baskets(count))
        for partition in range(INPUTS):
            of_partition = values[partition::INPUTS]
            produce(stub, "baskets", of_partition, partition=partition)
            for basket in map(json.loads, of_partition):
                for thing in basket["things"] if basket["customer"] != "tester" else ():
                    output = partition_for_key(thing.encode(), OUTPUTS)
                    self.expected[partition, output].append((basket["customer"], thing))

    @contextmanager
    def program(self):
        """The example in a process of its own, which is killed at the end."""
        process = forked.Popen(
            [sys.executable, "-c", self._made], env=environment(server=self._broker.address)
        )
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def wait(self, partition, offset, records):
        """Return when so many records are there from an offset on. -2: from the end."""
        request = pb.ConsumeMessagesRequest(
            topic="things", partition=partition, offset=offset, max_records=records
        )
        for _ in self._stub.ConsumeMessages(request, timeout=WAIT_S_MAX):
            pass

    def finish(self):
        """Let it come to the end of the baskets."""
        with self.program():
            for output in range(OUTPUTS):
                expected = sum(len(self.expected[came, output]) for came in range(INPUTS))
                self.wait(output, 0, expected)

    def stored(self):
        """What was made of each input partition, by (input, output), in order."""
        of_partition = {customer: came for (came, _), made in self.expected.items() for customer, _ in made}
        found = defaultdict(list)
        for output in range(OUTPUTS):
            for record in read_all(self._stub, "things", output):
                made = json.loads(record.value)
                assert record.key.decode() == made["thing"]
                found[of_partition[made["customer"]], output].append((made["customer"], made["thing"]))
        return found


def killed(data_dir, kills, *, with_source):
    """(what should be there, what is there) after so many kills of the example, and one run to the end."""
    chance = random.Random(Journal.new().seed)
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        run = Run(broker, stub, BASKETS + kills * BASKETS_PER_KILL, with_source=with_source)
        for _ in range(kills):
            with run.program():
                run.wait(chance.randrange(OUTPUTS), -2, chance.randint(1, 25))
        run.finish()
        return run.expected, run.stored()


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(8, marks=pytest.mark.timeout(120)),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1_200)]),
    ],
)
def test_killed_again_and_again_it_writes_once(tmp_path, kills, figures):
    """Whatever is made of a basket is there once, in the order of its partition, and nothing else is."""
    expected, stored = killed(tmp_path / "data", kills, with_source=True)
    assert stored == expected
    figures(f"read, transform, write: {kills} kills, {sum(map(len, stored.values()))} outputs, each once")


def test_two_at_a_time_write_once(tmp_path):
    """Also where a program that should have ended still works beside the one in its place."""
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        run = Run(broker, stub, BASKETS, with_source=True)
        with run.program(), run.program():
            run.wait(0, 0, 20)
        run.finish()
        assert run.stored() == run.expected


@pytest.mark.control
def test_without_a_source_it_writes_twice(tmp_path, figures):
    """Control: the same program without its source stores some outputs twice, and the check sees it."""
    expected, stored = killed(tmp_path / "data", 3, with_source=False)
    doubles = sum((Counter(stored[at]) - Counter(made)).total() for at, made in expected.items())
    assert doubles > 0
    figures(f"read, transform, write without a source: 3 kills, {doubles} outputs twice")
