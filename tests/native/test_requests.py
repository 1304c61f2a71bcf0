"""A request that the native library takes is what protobuf says, and is stored as Python stores it."""

import random
from itertools import pairwise

import apsw
import pytest

from native.comparing import SETTINGS, Comparison, database, stored
from native.odd_requests import BAD_TEXTS, field, long_varint, odd_field, record, request
from takhin import native
from takhin.disk.overflow import HEADER_LAST_BYTES_MIN, RECORD_LAST_BYTES_MIN
from takhin.settings import ProduceSettings
from takhin.storage.sqlite.inserting import PackedRows, insert_all
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.crowd import SMALL_BYTES
from takhin.wire.packed import RECORD_BYTES_MAX, RECORDS_MIN, PlainRequests, packed_batch

pytestmark = pytest.mark.skipif(isinstance(native.found(), Exception), reason=str(native.found()))

HEAD = field(1, b"t") + field(2, 3)
PLAIN = field(1, b"key") + field(2, b"value") + field(4, 5)


@pytest.fixture
def comparison():
    return Comparison(native.library())


@pytest.mark.parametrize(
    "runs", [2_500, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])]
)
def test_requests_of_every_shape(comparison, runs, seed, figures):
    """Whatever bytes arrive: both ways take, refuse and store the same."""
    for run in range(runs):
        chance = random.Random(f"{seed} {run}")
        wire = request(chance)
        try:
            comparison.check(wire, chance)
        except AssertionError as error:
            raise AssertionError(f"SEED={seed} run {run}: {wire.hex()}") from error
    assert comparison.plain > runs / 4, "most of them were left to Python"
    figures(f"native library: {runs} requests, {comparison.plain} of them plain: no difference")


def is_plain(wire):
    return PlainRequests(native.library(), SETTINGS)(wire) is not None


def of(*records):
    return HEAD + b"".join(field(6, each) for each in records)


def test_ordinary_requests_are_plain():
    """What generated code writes is stored natively, whichever of the fields it has."""
    records = [
        pb.Record(key=b"k", value=b"v", timestamp=5, headers=[pb.RecordHeader(key="h", value=b"v")]),
        pb.Record(),
        pb.Record(value=b""),
        pb.Record(key=b"", headers=[pb.RecordHeader(key="é")], offset=7, partition=9),
    ]
    request_ = pb.ProduceMessageRequest(topic="t", partition=1, records=records, required_acks=1, sequence=5)
    assert is_plain(request_.SerializeToString())


@pytest.mark.parametrize(
    "wire",
    [
        *(HEAD, b"", of(PLAIN) + b"\x80"),
        *(
            of(PLAIN + each)
            for each in (field(1, b"twice"), field(4, 6), field(4, b"\x05"), field(7, 1), b"\x3b\x3c")
        ),
        *(of(field(3, field(1, text))) for text in (*BAD_TEXTS, b"")),
        *(
            of(field(3, each))
            for each in (b"", field(2, b"v"), field(1, b"a") * 2, field(1, b"a") + field(3, 1))
        ),
        of(PLAIN) + field(5, 1) + field(6, PLAIN),
        of(PLAIN) + field(3, PLAIN),
        of(PLAIN) + field(100, 1),
        of(PLAIN) + field(100, b"hello"),
        of(PLAIN)[:-1],
        HEAD + long_varint(0x32, 2) + b"\x00",
        of(b"\x20" + long_varint(5, 10)),
        *(of(b"\x12" + long_varint(1, size) + b"v") for size in (6, 9)),
        *(HEAD + b"\x32" + long_varint(len(PLAIN), size) + PLAIN for size in (6, 9)),
        field(2, -1) + field(6, PLAIN),
        of(*[PLAIN] * 31),
        of(field(3, field(1, b"h")) * 6),
        of(*[field(3, field(1, b"h")) * 5] * 5),
        of(PLAIN) + field(1, b"t" * (65 << 10)),
    ],
)
def test_what_is_not_plain(wire):
    """What is odd, over a limit, or is to be judged by its keys, is left to protobuf and Python."""
    assert not is_plain(wire)


def test_many_fields_beside_the_records():
    """They are left to wire/crowd.py, which refuses such a request."""
    few, many = (field(15, 1) * count for count in (30, 30_000))
    assert is_plain(HEAD + few + field(6, PLAIN))
    assert not is_plain(HEAD + many + field(6, PLAIN))


def test_few_records_are_not_worth_it():
    """They are faster among those of other requests, unless they are large."""
    worth_it = PlainRequests(native.library(), ProduceSettings(), records_min=RECORDS_MIN)
    header = field(3, field(1, b"h") + field(2, b"v" * (RECORD_BYTES_MAX // 2)))
    assert worth_it(of(*[PLAIN] * RECORDS_MIN))
    assert not worth_it(of(*[PLAIN] * (RECORDS_MIN - 1)))
    assert worth_it(of(field(2, b"v" * (SMALL_BYTES + 1))))
    assert worth_it(of(header))
    assert not worth_it(of(header * 2))


def test_a_large_header():
    """One is plain up to produce.header_bytes_max, its key and its value; Python refuses more."""
    settings = ProduceSettings(header_bytes_max=10)
    plain = PlainRequests(native.library(), settings)
    assert plain(of(field(3, field(1, b"h" * 4) + field(2, b"v" * 6))))
    assert not plain(of(field(3, field(1, b"h" * 5) + field(2, b"v" * 6))))


@pytest.mark.parametrize(
    ("batches", "records", "headers"), [(40, 10, 980), (300, 10, 30), (3, 10_000, 1), (1, 10, 1_000)]
)
def test_headers_take_turns(batches, records, headers):
    """Those of many small batches, too, which may be in one commit group: 4,000 of them take some 2 ms."""
    of_each = field(2, b"v") + field(3, field(1, b"h")) * headers
    wire = HEAD + field(6, of_each) * records
    request_ = PlainRequests(native.library(), ProduceSettings())(wire)
    packed = packed_batch(request_, None).packed
    db = database()
    rows = [PackedRows(at * records, packed) for at in range(batches)]
    inserted = [0, *(db.total_changes() for _ in insert_all(db, rows)), db.total_changes()]
    assert max(after - before for before, after in pairwise(inserted)) < 10_000
    assert db.execute("SELECT count(*) FROM headers").get == batches * records * headers


@pytest.mark.parametrize(("count", "size"), [(100, 1), (10_000, 300)])
async def test_bytes_count_alike(count, size):
    """Metrics, quotas and queues count the same bytes whichever way records go, also of large requests."""
    wire = of(*[field(2, b"x" * size)] * count)
    packed = PlainRequests(native.library(), ProduceSettings())(wire)
    parsed = pb.ProduceMessageRequest.FromString(wire)
    ours, theirs = [
        (await convert.produce_request(each, len(wire), lambda *_: None)).batch for each in (packed, parsed)
    ]
    assert ours.size_bytes == theirs.size_bytes == len(wire)


def test_the_broker_chooses_without_keys():
    """A request that leaves the partition to the broker is plain if none of its records has a key."""
    keyless, keyed = field(6, field(2, b"v")), field(6, PLAIN)
    assert is_plain(field(2, -1) + keyless * 3)
    assert not is_plain(field(2, -1) + keyless * 2 + keyed)
    assert is_plain(field(2, 0) + keyless * 2 + keyed)


def test_the_edges_of_the_limits(comparison):
    """As many records and headers as may be are plain; so are numbers where they get longer."""
    chance = random.Random(1)
    for wire in (
        of(*[PLAIN] * 30),
        of(field(3, field(1, b"h")) * 5, *[field(3, field(1, b"h")) * 5] * 3),
        *(of(field(2, bytes(size))) for size in (127, 128, 1_999)),
        *(of(field(4, (1 << 7 * size) + more)) for size in range(1, 9) for more in (-1, 0)),
        of(field(4, (1 << 63) - 1)),
        of(field(1, b"k" * 40_000) + field(2, b"")),
    ):
        before = comparison.plain
        comparison.check(wire, chance)
        assert comparison.plain == before + 1


def test_zeros_that_matter_on_disk():
    """What ends in so many that it may need another row is not plain: a value, a key, a header."""
    assert max(native.ZEROS_MAX, HEADER_LAST_BYTES_MIN) == HEADER_LAST_BYTES_MIN < RECORD_LAST_BYTES_MIN
    few, many = bytes(native.ZEROS_MAX - 1), bytes(native.ZEROS_MAX)
    for zeros, plain in ((few, True), (many, False)):
        assert is_plain(of(field(2, b"v" + zeros))) is plain
        assert is_plain(of(field(1, b"k" + zeros))) is plain
        assert is_plain(of(field(1, b"k" + zeros[:-7]) + field(2, zeros[:7]))) is plain
        assert is_plain(of(field(3, field(1, b"h") + field(2, zeros)))) is plain
    assert is_plain(of(field(1, many) + field(2, b"v")))


def test_nothing_is_kept_of_a_request():
    """SQLite has no copy of its records once they are in the table: there may be a thousand partitions."""
    large, small = (of(*[field(2, b"v" * size)] * 10) for size in (100_000, 1))
    db = database()
    kept = []
    for wire in (large, small):
        found = PlainRequests(native.library(), SETTINGS)(wire)
        stored(db, PackedRows(0, packed_batch(found, None).packed))
        kept.append(apsw.memory_used())
    assert kept[0] - kept[1] < 100_000
    db.close()


def test_the_odd_ones_are_odd():
    """The fuzz makes every kind of odd field, and many of them make a request that is not plain."""
    chance = random.Random(1)
    odd = sum(not is_plain(of(record(chance, 0) + odd_field(chance))) for _ in range(500))
    assert odd > 400
