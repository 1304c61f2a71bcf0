"""SIGKILL under load loses, moves, alters and doubles nothing acknowledged. Controls show a failing check."""

from __future__ import annotations

import asyncio
import random
import shutil
import time

import pytest

from blackbox.broker_process import Broker
from blackbox.clients import connected, create_topic, end_offset, eventually, produce, read_all
from blackbox.load import PARTITIONS, TOPIC, Journal, Log, Record, Sent, losses, produce_and_kill, read_back

ROUNDS, ROUNDS_SOAK = 5, 20
"""Rounds of a series, which shares a data folder; the growing log is read back in each round."""

CHECKPOINT_PAGES = (8, 64, 1_000)
"""Settings to choose from: with the smallest, checkpoints are under way most of the time."""

PAGE_BYTES = 16 << 10

FULL = [pytest.mark.soak, pytest.mark.timeout(600)]
SERIES = [(0, ROUNDS), *(pytest.param(n, ROUNDS_SOAK, marks=FULL) for n in range(1, 26))]


@pytest.mark.parametrize(("series", "rounds"), SERIES)
async def test_nothing_acknowledged_is_lost(data_dir, series, rounds, figures):
    """Sixteen producers, a SIGKILL at a random moment, a restart and a full read: nothing is lost."""
    journal = Journal.new()
    chance = random.Random(journal.seed)
    began = time.monotonic()
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, PARTITIONS)
    for number in range(rounds):
        with Broker(data_dir, storage_checkpoint_pages=chance.choice(CHECKPOINT_PAGES)) as broker:
            if number:
                assert not losses(journal, read_back(broker))
            await produce_and_kill(
                broker, journal, f"round {number}", asyncio.sleep(chance.uniform(0.02, 0.4))
            )
    with Broker(data_dir) as broker:
        logs = read_back(broker)
    assert not losses(journal, logs)
    acked, found = journal.acked_records(), sum(map(len, logs.values()))
    assert acked > 1_000
    took = time.monotonic() - began
    figures(f"SIGKILL series {series}: {rounds} rounds, {acked} acked, {found} found, 0 lost, {took:.0f} s")


def cut_a_checkpoint_short(path):
    """Copy the newest page 1 from the WAL into the file, and no other page.

    A checkpoint that is killed after its first write leaves this state (sqlite.org/walformat.html): the
    file's header refers to pages that are only in the WAL.
    """
    wal = path.with_name(f"{path.name}-wal").read_bytes()
    page_size, salts = int.from_bytes(wal[8:12], "big"), wal[16:24]
    newest = None
    for frame in range(32, len(wal), 24 + page_size):
        if wal[frame + 8 : frame + 16] == salts and int.from_bytes(wal[frame : frame + 4], "big") == 1:
            newest = wal[frame + 24 : frame + 24 + page_size]
    assert newest is not None
    with path.open("r+b") as file:
        file.write(newest)
    assert int.from_bytes(newest[28:32], "big") * page_size > path.stat().st_size


def test_sigkill_within_a_checkpoint_is_no_reason_to_refuse_the_file(data_dir):
    """After a checkpoint that was killed after its first page, the next start has everything."""
    values = [b"%0*d" % (1_000, number) for number in range(2_000)]
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC)
        produce(stub, TOPIC, values)
        broker.kill()
    cut_a_checkpoint_short(broker.partition_file(TOPIC))
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        assert [record.value for record in read_all(stub, TOPIC)] == values


def test_the_wal_of_killed_brokers_does_not_add_up(data_dir):
    """A WAL that a killed broker left counts towards the next checkpoint, so it does not grow for ever."""
    pages = 40
    for number in range(8):  # each adds less than a checkpoint needs
        with Broker(data_dir, storage_checkpoint_pages=pages) as broker, connected(broker.address) as stub:
            if number == 0:
                create_topic(stub, TOPIC)
            for first in range(5):
                produce(stub, TOPIC, [b"%d" % first * 1_000] * 20)
            wal = broker.partition_file(TOPIC).with_name("0.db-wal")
            eventually(lambda wal=wal: wal.stat().st_size < 3 * pages * PAGE_BYTES)
            broker.kill()
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        assert end_offset(stub, TOPIC) == 800


@pytest.mark.control
async def test_a_folder_that_was_put_back_is_seen(data_dir, tmp_path):
    """Control: if the folder is replaced by an older copy of it, the same check reports losses."""
    journal = Journal.new()
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, PARTITIONS)
    shutil.copytree(data_dir, tmp_path / "older")
    with Broker(data_dir) as broker:
        await produce_and_kill(broker, journal, "round 0", asyncio.sleep(0.5))
    with Broker(data_dir) as broker:
        assert not losses(journal, read_back(broker))
    shutil.rmtree(data_dir)
    shutil.copytree(tmp_path / "older", data_dir)
    with Broker(data_dir) as broker:
        found = losses(journal, read_back(broker))
    assert len(found) >= sum(sent.acked is not None for of in journal.sent.values() for sent in of) > 0


def small_run() -> tuple[Journal, dict[int, Log]]:
    """One producer: batches of 1, 2, 1 and 3 records acknowledged, and one of 2 that was never answered."""
    journal, log = Journal(seed=0), []
    requests = journal.sent.setdefault("producer", [])
    for number, size in enumerate((1, 2, 1, 3, 2)):
        records = [Record(b"key", b"%d.%d" % (number, n), (("h", b"v"),)) for n in range(size)]
        requests.append(Sent(records, (0, len(log)) if number < 4 else None))
        if number < 4:
            log += records
    return journal, {0: log, 1: [], 2: []}


def drop_one(log, unanswered):
    del log[5]


def drop_the_last(log, unanswered):
    del log[-1]


def drop_all(log, unanswered):
    del log[:]


def swap_two(log, unanswered):
    log[3], log[4] = log[4], log[3]


def alter_a_byte(log, unanswered):
    log[6] = log[6]._replace(value=log[6].value[:-1] + b"?")


def forget_a_header(log, unanswered):
    log[2] = log[2]._replace(headers=())


def empty_for_null(log, unanswered):
    log[2] = log[2]._replace(key=b"")


def double_one(log, unanswered):
    log.append(log[0])


def invent_one(log, unanswered):
    log.append(Record(None, b"nobody sent this", ()))


def break_a_batch(log, unanswered):
    log.append(unanswered[0])


def turn_a_batch(log, unanswered):
    log += reversed(unanswered)


def move_to_the_front(log, unanswered):
    log[:0] = unanswered


DAMAGES = [
    drop_one,
    drop_the_last,
    drop_all,
    swap_two,
    alter_a_byte,
    forget_a_header,
    empty_for_null,
    double_one,
    invent_one,
    break_a_batch,
    turn_a_batch,
    move_to_the_front,
]


@pytest.mark.control
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_is_seen(damage):
    """Control: the check reports damage of each kind, and nothing if there is no damage."""
    journal, logs = small_run()
    assert losses(journal, logs) == []
    damage(logs[0], journal.sent["producer"][-1].records)
    assert losses(journal, logs)


def test_an_unanswered_request_may_be_there():
    """A request that was never answered may be found, whole and once, or not at all."""
    journal, logs = small_run()
    logs[0] += journal.sent["producer"][-1].records
    assert losses(journal, logs) == []
