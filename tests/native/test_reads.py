"""The native library reads and encodes what Python reads and encodes, byte for byte."""

import random
import time
from dataclasses import replace

import apsw
import pytest

from native.comparing import database
from storage.support import Store, alter
from takhin import native
from takhin.broker.consumption import consume
from takhin.broker.shared_reads import SharedReads
from takhin.broker.throttling import throttled
from takhin.broker.unsent import Unsent
from takhin.disk import statements as sql
from takhin.model import Caller, CleanupPolicy, ConsumeRequest, Header, Records
from takhin.packed import joined
from takhin.quotas import Quotas
from takhin.settings import QuotaSettings, Settings
from takhin.sizes import response_bytes
from takhin.storage.sqlite.inserting import Columns
from takhin.storage.sqlite.reader import Reader
from takhin.testing.contract import NOW, batch, spec
from takhin.topic_configs import DEFAULTS
from takhin.wire.encode import encoded

pytestmark = pytest.mark.skipif(isinstance(native.found(), Exception), reason=str(native.found()))

SIZES = (0, 1, 5, 90, 127, 128, 300, 16_400)
DECODED = 10
"""Of so many reads, the bytes of one are made values again, which takes longest."""
BOUNDS = (0, 1, 32, 33, 100, 500, 5_000, 1 << 20)


@pytest.fixture
async def store(tmp_path):
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


def some_headers(chance):
    values = (b"", b"v", b"v" * 200, b"\0" * 15_000)
    return [
        Header(chance.choice("hé\0☃"), chance.choice(values)) for _ in range(chance.choice((1, 2, 5, 600)))
    ]


def some_batch(chance):
    """Records of all sizes, some without a key or a value, some with headers, some that end in many zeros."""
    count = chance.choice((1, 3, 40))
    values = [chance.choice((None, b"\0" * 20_000, *map(chance.randbytes, SIZES * 4))) for _ in range(count)]
    keys = [chance.choice((b"", b"a", b"b", b"c" * 130)) for _ in range(count)]
    headers = {at: some_headers(chance) for at in range(count) if chance.random() < 0.1}
    return batch(
        *values, keys=keys, timestamps=[chance.choice((0, 127, 128, 1 << 40))] * count, headers=headers
    )


async def some_log(store, chance):
    """A log that has gaps at its beginning, where compaction has been, and does not begin at 0."""
    config = DEFAULTS
    if chance.random() < 0.5:
        config = type(config)(1 << 20, cleanup_policy=(CleanupPolicy.COMPACT,), min_cleanable_dirty_ratio=0.0)
    (log,) = (await store.engine.create_topic(spec(f"t{chance.getrandbits(60)}", 1, config))).partitions
    for _ in range(6):
        await log.append(some_batch(chance))
    if config.compacts:
        await log.compact(config, 1 << 50)
    await log.trim(chance.randrange(log.end_offset // 2 + 1))
    for _ in range(2):
        await log.append(some_batch(chance))
    return log


class Both:
    """Reads a log both ways. natively: how many reads the library has done. shorter: how many of them ended
    before a record that only Python reads."""

    def __init__(self, log):
        self._log = log
        self._native, self._python = (
            Reader(log._file, log._state, native=native) for native in (True, False)
        )
        self.natively = self.shorter = 0

    def read(self, offset, below=None, **limits):
        """Fail if they differ in anything but that the library's may end earlier. Returns where to go on."""
        end = below or self._log.end_offset
        ours = self._native.read(offset, end, **limits)
        theirs = self._python.read(offset, end, **limits)
        assert theirs.encoded is None
        if ours.next_offset < theirs.next_offset:
            assert ours.rows
            assert ours.next_offset == ours.rows[-1][0] + 1
            self.shorter += 1
            theirs = self._python.read(offset, end, **limits | {"max_records": len(ours.rows)})
        assert ours.next_offset == theirs.next_offset
        if ours.encoded is None or self.natively % DECODED == 0:
            assert (list(ours.rows), dict(ours.headers)) == (list(theirs.rows), theirs.headers)
        if ours.encoded is not None:
            self.natively += 1
            assert ours.encoded.wire == encoded(self._log.partition, theirs)
            assert ours.size_bytes == response_bytes(theirs.rows, theirs.headers)
            assert ours.first_offset == theirs.first_offset
        return ours.next_offset

    def walk(self, below, **limits):
        """Read from the log's start to `below`, page by page: nothing is skipped."""
        found, at = [], self._log.start_offset
        while at < below:
            records = self._native.read(at, below, **limits)
            found += records.rows
            assert records.next_offset > at
            at = records.next_offset
        assert at == below
        expected = self._python.read(self._log.start_offset, below, max_bytes=1 << 40, max_records=1 << 40)
        while expected.next_offset < below:
            more = self._python.read(expected.next_offset, below, max_bytes=1 << 40, max_records=1 << 40)
            expected = Records([*expected.rows, *more.rows], {}, more.next_offset)
        assert found == list(expected.rows)


@pytest.mark.parametrize(
    ("logs", "reads"),
    [(3, 300), pytest.param(200, 5_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])],
)
async def test_reads_of_every_kind(store, logs, reads, seed, figures):
    """From any offset, within any limits, over records of every kind."""
    chance = random.Random(seed)
    natively = shorter = 0
    for _ in range(logs):
        log = await some_log(store, chance)
        await log.ready()
        both = Both(log)
        for _ in range(reads):
            offset = chance.randrange(log.start_offset, log.end_offset)
            below = chance.choice((None, chance.randrange(offset + 1, log.end_offset + 1)))
            limits = {"max_bytes": chance.choice(BOUNDS), "max_records": chance.choice((1, 2, 7, 2_000))}
            both.read(offset, below, **limits)
        both.walk(log.end_offset, max_bytes=chance.choice(BOUNDS[3:]), max_records=2_000)
        both.walk(below or log.end_offset, max_bytes=1 << 20, max_records=7)
        natively += both.natively
        shorter += both.shorter
        await store.engine.delete_topic(log.topic)
    assert natively > logs * reads / 4, "most of them were left to Python"
    assert shorter, "none ended before a record that only Python reads"
    figures(f"native library: {logs * reads} reads, {natively} of them natively: no difference")


@pytest.mark.parametrize("zeros", [0, 20_000])
async def test_reads_that_become_one_response(store, zeros):
    """They are joined as they are, or made values if one of them was done by Python."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    middle = batch(b"v" + bytes(zeros), headers={0: [Header("h", b"")]})
    for each in (batch(b"1", b"2"), middle, batch(b"3")):
        await log.append(each)
    pieces = [
        await log.read(at, max_bytes=1 << 20, max_records=count) for at, count in ((0, 2), (2, 1), (3, 9))
    ]
    assert [piece.encoded is None for piece in pieces] == [False, zeros > 0, False]
    whole = joined(pieces)
    expected = Reader(log._file, log._state, native=False).read(0, 4, max_bytes=1 << 20, max_records=9)
    assert (whole.encoded is None) is (zeros > 0)
    assert whole.encoded is None or whole.encoded.wire == encoded(0, expected)
    assert (list(whole.rows), dict(whole.headers)) == (expected.rows, expected.headers)
    assert (whole.next_offset, whole.size_bytes) == (4, expected.size_bytes)


async def test_nobody_decodes_what_is_handed_on(store):
    """A consumer that stops within a compacted log, over its quota, is given what C has encoded."""
    config = replace(DEFAULTS, cleanup_policy=(CleanupPolicy.COMPACT,), min_cleanable_dirty_ratio=0.0)
    (log,) = (await store.engine.create_topic(spec("t", 1, config))).partitions
    for _ in range(2):
        for at in range(0, 100, 10):
            keys = [b"%d" % number for number in range(at, at + 10)]
            headers = {number: [Header("h", b"v")] for number in range(10)}
            await log.append(batch(*[b"v" * 100] * 10, keys=keys, headers=headers))
    await log.compact(config, 1 << 50)
    settings = Settings()
    quotas = Quotas(QuotaSettings(address_consumed_bytes_per_s=100_000, burst_ms=20))
    allowance = quotas.of(Caller("anonymous", "127.0.0.1:1"), time.monotonic())
    allowance.consume(records=1, size_bytes=10_000, now=time.monotonic())
    consume_settings = replace(settings.consume, heartbeat_ms=10)
    reads, unsent = SharedReads(bytes_max=0, records_max=2_000), Unsent(1 << 20)
    request = ConsumeRequest("t", 0, 0, stop_offset=150)
    chunks = throttled(consume(log, request, reads, unsent, settings), allowance, consume_settings)
    found = [chunk.records async for chunk in chunks]
    (records,) = [each for each in found if each.rows]
    assert "_made" not in vars(records.rows)
    assert {each.next_offset for each in found if not each.rows} == {100}
    assert [row[0] for row in records.rows] == list(range(100, 150))


async def test_a_record_that_is_missing(store):
    """A read ends before it, however it is done; what lies behind is not taken for the log's next record."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    await log.append(batch(*[b"v"] * 10))
    await store.close()
    alter(log.path, "DELETE FROM records WHERE offset IN (4, 5)")
    await store.open()
    log = store.engine.topics["t"].partitions[0]
    await log.ready()
    both = Both(log)
    for offset in range(10):
        both.read(offset, max_bytes=1_000, max_records=100)
    assert both.natively == 8  # at 4 and 5 there is nothing to give
    await store.engine.delete_topic("t")


def asked(db, **limits):
    """What the library gives of a table from offset 4 on: its row, or none."""
    most = {"records_max": 100, "bytes_max": 1_000, "headers_max": 10}
    where = {"first": 4, "below": 10, "gaps_below": 0, "partition": 0}
    return db.execute(sql.READ_ENCODED, most | where | limits).fetchall()


@pytest.fixture
def db():
    """A table with ten records, of which one has a header."""
    made = database()
    rows = Columns(0)
    rows.add(batch(*[b"v"] * 10, headers={5: [Header("h", b"v")]}))
    for _ in rows.insert(made):
        pass
    yield made
    made.close()


@pytest.mark.parametrize("partition", [0, 1, 127, 128, 16_384, (1 << 31) - 1])
def test_the_partition_is_in_each_record(db, partition):
    """Whatever its number is."""
    rows = [(offset, NOW, None, b"v") for offset in range(4, 10)]
    wire = encoded(partition, Records(rows, {5: [Header("h", b"v")]}, 10))
    assert asked(db, partition=partition) == [(wire, 6, 6 * 33 + 16 + 2, 4, 10)]


@pytest.mark.parametrize(
    ("limits", "records"),
    [
        ({}, 6),
        ({"records_max": 2}, 2),
        ({"headers_max": 1}, 3),  # the header of 7 is the second one
        ({"headers_max": 0}, 1),
        ({"bytes_max": 2 * 33 + 17}, 1),  # the header of 5 takes 18
        ({"bytes_max": 2 * 33 + 18}, 2),
        ({"bytes_max": 0}, 1),
        ({"below": 5}, 1),
    ],
)
def test_it_ends_at_a_limit(db, limits, records):
    """Whichever comes first; the first record comes in any case."""
    db.execute("INSERT INTO headers VALUES (7, 0, 'h', x'')")
    ((_, found, _, _, next_offset),) = asked(db, **limits)
    assert (found, next_offset) == (records, 4 + records)


def test_headers_of_no_record(db):
    """They are not taken for those of the next record: the read ends before that one."""
    db.execute("DELETE FROM records WHERE offset = 5")
    assert asked(db, gaps_below=10)[0][1:] == (1, 33, 4, 5)
    assert not asked(db, first=5, gaps_below=10)
    db.execute("DELETE FROM headers")
    assert asked(db, gaps_below=10)[0][1:] == (5, 5 * 33, 4, 10)


def test_the_first_offset_is_that_of_the_first_record(db):
    """Not the one that was asked for, where that record was removed."""
    db.execute("DELETE FROM records WHERE offset IN (4, 5)")
    db.execute("DELETE FROM headers")
    assert asked(db, gaps_below=10)[0][1:] == (4, 4 * 33, 6, 10)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE offset = 4",
        "DELETE FROM records",
        "UPDATE headers SET key = CAST(x'80' AS TEXT)",
        "UPDATE headers SET key = ''",
        "UPDATE headers SET value = zeroblob(20000)",
        "UPDATE records SET timestamp = -1 WHERE offset = 5",
        "UPDATE records SET value = zeroblob(20000) WHERE offset = 5",
    ],
)
def test_what_python_has_to_read(db, statement):
    """What no broker has written, or may have lost a page, is left to Python, which says what is wrong.

    The read ends before such a record. If that is the first one, there is none.
    """
    assert asked(db)[0][1] == 6
    db.execute(statement)
    assert [row[1] for row in asked(db)] in ([], [1])
    assert not asked(db, first=5) or "= 4" in statement


@pytest.mark.parametrize("header_of", [None, 1])
def test_a_response_without_memory(tmp_path, header_of):
    """It is an error, not a read that found nothing, also where all headers were read before."""
    made = database()
    rows = Columns(0)
    headers = {} if header_of is None else {header_of: [Header("h", b"v")]}
    rows.add(batch(b"v", bytes([1]) * (3 << 20), headers=headers))
    for _ in rows.insert(made):
        pass
    made.execute("COMMIT")
    made.execute("VACUUM INTO ?", (str(tmp_path / "t.db"),))
    made.close()
    db = apsw.Connection(str(tmp_path / "t.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert asked(db, first=0, bytes_max=1 << 30)[0][1] == 2
    apsw.hard_heap_limit(apsw.memory_used() + (5 << 20))  # enough for the row, and not for its copy, too
    try:
        with pytest.raises(apsw.NoMemError):
            asked(db, first=0, bytes_max=1 << 30)
    finally:
        apsw.hard_heap_limit(0)
        db.close()
