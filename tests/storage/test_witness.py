"""The witness: what it remembers of each log, and when it is not believed."""

from __future__ import annotations

import os
import uuid

import pytest

from takhin.disk.witness import HEAD, MAGIC, SLOT_BYTES, Mark, Witness

LOCK_CHANGED = 1_700_000_000_123_456_789


@pytest.fixture
def path(tmp_path):
    return tmp_path / "witness"


@pytest.fixture
def topic_id():
    return str(uuid.uuid4())


class Opened:
    """`with Opened(path) as witness`: the witness at a start; LOCK was last changed at `lock_changed`."""

    def __init__(self, path, *, lock_changed=LOCK_CHANGED):
        self._witness = Witness(path, lock_changed_before=lock_changed)

    def __enter__(self):
        return self._witness

    def __exit__(self, *exc):
        self._witness.close()


def marks(path, topic_id, partitions, **how):
    """The marks that a start finds, by partition."""
    with Opened(path, **how) as witness:
        return [witness.slot(topic_id, partition).mark for partition in range(partitions)]


def note(path, topic_id, *noted):
    """Note a mark for each partition."""
    with Opened(path) as witness:
        for partition, mark in enumerate(noted):
            witness.slot(topic_id, partition).note(mark)


def test_a_new_witness_knows_nothing(path, topic_id):
    """A missing file is created with its head, and has no mark of any log."""
    assert marks(path, topic_id, 2) == [None, None]
    assert path.read_bytes().startswith(HEAD.pack(MAGIC, 0, 0, 1))
    assert path.stat().st_size == 3 * SLOT_BYTES


def test_the_last_note_of_each_is_found_again(path, topic_id):
    """A new start finds each partition's own latest mark."""
    last = [Mark(7, 70), Mark((1 << 64) - 1, (1 << 63) - 1), Mark(0, 0)]
    with Opened(path) as witness:
        slots = [witness.slot(topic_id, partition) for partition in range(3)]
        for n in range(7):
            slots[0].note(Mark(n, n * 10))
        for slot, mark in zip(slots, last, strict=True):
            slot.note(mark)
    assert marks(path, topic_id, 3) == last
    other = str(uuid.uuid4())
    assert marks(path, other, 3) == [None] * 3
    assert marks(path, topic_id, 3) == last


def test_a_partition_has_one_slot(path, topic_id):
    """A partition gets the same slot again, in this start or the next."""
    with Opened(path) as witness:
        first = witness.slot(topic_id, 0)
        first.note(Mark(1, 1))
        again = witness.slot(topic_id, 0)
        again.note(Mark(2, 2))
    size = path.stat().st_size
    assert marks(path, topic_id, 1) == [Mark(2, 2)]
    assert path.stat().st_size == size == 2 * SLOT_BYTES


def test_it_grows_by_a_slot_for_each_partition(path, topic_id):
    """Hundreds of partitions find their marks again, and the file has the size that they need."""
    noted = [Mark(n, n * n) for n in range(1, 400)]
    note(path, topic_id, *noted)
    assert path.stat().st_size == (len(noted) + 1) * SLOT_BYTES
    assert marks(path, topic_id, len(noted)) == noted


def test_places_of_a_deleted_topic_are_used_again(path, topic_id):
    """Forgotten marks are gone for the next start, too, and their slots are given to others."""
    other = str(uuid.uuid4())
    note(path, topic_id, Mark(1, 1), Mark(2, 2))
    note(path, other, Mark(3, 3))
    size = path.stat().st_size
    with Opened(path) as witness:
        witness.forget(topic_id)
        witness.forget(topic_id)  # the others have no slot any more
    third = str(uuid.uuid4())
    with Opened(path) as witness:
        assert [witness.slot(topic_id, n).mark for n in range(2)] == [None, None]
        witness.forget(topic_id)
        for partition in range(2):
            witness.slot(third, partition).note(Mark(9, 9))
    assert path.stat().st_size == size
    assert marks(path, other, 1) == [Mark(3, 3)]
    assert marks(path, third, 2) == [Mark(9, 9)] * 2


@pytest.mark.parametrize("at", [*range(44), 63])
def test_a_torn_slot_is_not_believed(path, topic_id, at):
    """If any byte of a slot is altered, that log has no mark, and its neighbours keep theirs."""
    note(path, topic_id, Mark(0x0102030405060708, 0x1112131415161718), Mark(2, 20), Mark(3, 30))
    content = bytearray(path.read_bytes())
    content[2 * SLOT_BYTES + at] ^= 0x40
    path.write_bytes(content)
    expected = [Mark(0x0102030405060708, 0x1112131415161718), None, Mark(3, 30)]
    if at >= 40:  # behind the mark
        expected[1] = Mark(2, 20)
    assert marks(path, topic_id, 3) == expected


@pytest.mark.parametrize("cut", [1, 20, 60, SLOT_BYTES])
def test_a_file_cut_short(path, topic_id, cut):
    """A witness without its last bytes has no mark of its last log, and takes new ones."""
    note(path, topic_id, Mark(1, 10), Mark(2, 20))
    os.truncate(path, path.stat().st_size - cut)
    assert marks(path, topic_id, 2) == [Mark(1, 10), None]
    note(path, topic_id, Mark(1, 10), Mark(3, 30))
    assert marks(path, topic_id, 2) == [Mark(1, 10), Mark(3, 30)]


@pytest.mark.parametrize("content", [b"", b"\0" * 10, b"\0" * 64, b"nothing of the kind " * 50])
def test_what_is_no_witness_says_nothing(path, topic_id, content):
    """A file with other content is not believed, and is a witness afterwards."""
    path.write_bytes(content)
    assert marks(path, topic_id, 1) == [None]
    note(path, topic_id, Mark(1, 10))
    assert marks(path, topic_id, 1) == [Mark(1, 10)]


def test_under_hold_its_own_folder_believes_it(path, topic_id):
    """A broker that was killed under hold finds its marks: LOCK is unchanged since they were made."""
    note(path, topic_id, Mark(1, 10))
    with Opened(path) as witness:
        witness.hold(LOCK_CHANGED)
    with Opened(path) as witness:
        assert not witness.is_copy
        assert witness.slot(topic_id, 0).mark == Mark(1, 10)


def test_a_copy_is_told_by_the_change_time_of_lock(path, topic_id):
    """Marks made under hold in a folder whose LOCK has another time belong to a copy and are not believed."""
    note(path, topic_id, Mark(1, 10), Mark(2, 20))
    with Opened(path) as witness:
        witness.hold(LOCK_CHANGED)
    size = path.stat().st_size
    with Opened(path, lock_changed=LOCK_CHANGED + 1) as witness:
        assert witness.is_copy
        assert [witness.slot(topic_id, n).mark for n in range(2)] == [None, None]
    with Opened(path, lock_changed=LOCK_CHANGED + 2) as witness:
        assert witness.is_copy  # until a start has opened its logs
        witness.slot(topic_id, 0).note(Mark(5, 50))
        witness.settle(0)
    with Opened(path, lock_changed=LOCK_CHANGED + 3) as witness:
        assert not witness.is_copy
        assert witness.was_copy  # for good: a log without a note has not been opened here
        assert [witness.slot(topic_id, n).mark for n in range(2)] == [Mark(5, 50), None]
    assert path.stat().st_size == size


def test_a_copy_without_hold_is_none(path, topic_id):
    """The folder of a stopped broker may be moved or copied: its marks are believed."""
    note(path, topic_id, Mark(1, 10))
    with Opened(path, lock_changed=LOCK_CHANGED + 1) as witness:
        assert not witness.is_copy
        assert not witness.was_copy
        assert witness.slot(topic_id, 0).mark == Mark(1, 10)


def boot(path, **how):
    with Opened(path, **how) as witness:
        return witness.boot


def test_each_start_has_a_larger_number(path):
    """It is on disk when the witness is open, also in a file of an older Takhin, and survives holds."""
    path.write_bytes(HEAD.pack(MAGIC, 0, 0, 0))
    assert [boot(path) for _ in range(3)] == [1, 2, 3]
    with Opened(path) as witness:
        assert witness.boot == 4
        witness.hold(0)
    assert HEAD.unpack(path.read_bytes()[: HEAD.size])[3] == 4
    with Opened(path) as witness:
        assert witness.boot == 5
        path.unlink()
        assert witness.keep()
    assert boot(path) == 6


def test_a_copy_goes_on_with_the_number(path):
    """A folder that was copied during a hold counts on from the original's number, once it is settled."""
    with Opened(path) as witness:
        witness.hold(LOCK_CHANGED)
    with Opened(path, lock_changed=1) as copied:
        assert (copied.is_copy, copied.boot) == (True, 2)
        copied.settle(0)
    assert boot(path, lock_changed=1) == 3


@pytest.mark.parametrize("head", [b"", b"no witness", bytes(64), HEAD.pack(b"other", 0, 0, 7)])
def test_no_number(path, head):
    """A file that is no witness says nothing of former starts."""
    path.write_bytes(head)
    assert boot(path) == 1


def test_a_damaged_number(path):
    """A number that no folder can have reached is not gone on from: epochs must fit into 64 bits."""
    path.write_bytes(HEAD.pack(MAGIC, 0, 0, (1 << 64) - 1))
    assert 1 <= boot(path) <= 1 << 30
