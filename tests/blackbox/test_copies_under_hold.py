"""DATA/hold and DATA/held: a copy made by any tool under full produce load is whole."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from signal import SIGTERM

import grpc
import pytest

from blackbox.broker_process import Broker, looked_over
from blackbox.clients import (
    CALL_S_MAX,
    connected,
    create_topic,
    end_offset,
    eventually,
    produce,
    read_all,
    refusal,
)
from blackbox.copies import (
    PAGE_BYTES,
    Copy,
    counted,
    cp,
    digests,
    end_hold,
    incarnations,
    slow_copy,
    take_hold,
    until,
    wal_bytes_in_use,
    wholly_copied,
)
from blackbox.foreign_lock import ForeignLock
from blackbox.load import PARTITIONS, TOPIC, Journal, losses, producing, read_back
from storage import checker
from takhin.v1 import takhin_pb2 as pb

CHECKPOINT_PAGES = 8
"""Few enough that write-ahead logs are copied and restarted all the time."""

ROUND = 5
"""Copies per broker, which are checked after it has ended; few, so that its logs stay short."""

CONTROL_COPIES_MAX = 100


def rounds(copies):
    """Two counts of copies: the short form, and the full count that `make soak` runs."""
    full = [pytest.mark.soak, pytest.mark.timeout(3_600)]
    return pytest.mark.parametrize("copies", [copies[0], pytest.param(copies[1], marks=full)])


def ends(stub):
    return [end_offset(stub, TOPIC, partition) for partition in range(PARTITIONS)]


def commit_ends(stub):
    """Commit a group's offsets at the current ends."""
    at = enumerate(ends(stub))
    offsets = [pb.TopicPartitionOffset(topic=TOPIC, partition=n, offset=end) for n, end in at]
    request = pb.CommitOffsetRequest(group_id="group", offsets=offsets)
    assert stub.CommitOffset(request, timeout=CALL_S_MAX).success


@contextmanager
def topic_of_load(folder, **settings):
    """A broker with the load's topic and small checkpoints, and a stub."""
    settings = {"storage_checkpoint_pages": CHECKPOINT_PAGES, "storage_ballast_bytes": 0} | settings
    with (
        looked_over(folder),
        Broker(folder, **settings) as broker,
        connected(broker.address) as stub,
    ):
        create_topic(stub, TOPIC, PARTITIONS)
        yield broker, stub


async def copy_once(folder, copy, journal, stub, *, hold):
    """Make one `cp -r` under load: the copy, the seconds until `held`, True if every partition grew."""
    took = await take_hold(folder) if hold else 0.0
    before, was = journal.as_of_now(), await asyncio.to_thread(ends, stub)
    await cp(folder, copy, may_fail=not hold)
    after = journal.as_of_now()
    is_ = await asyncio.to_thread(ends, stub)
    beside = all(a < b for a, b in zip(was, is_, strict=True))
    originals = await asyncio.to_thread(incarnations, stub, TOPIC) if hold else []
    if hold:
        await end_hold(folder)
    return Copy(copy, before, after, originals), took, beside


async def copy_under_load(tmp_path, number, copies, *, hold):
    """Run a broker under load and copy its folder: (copies, seconds until `held` appeared)."""
    journal, made, waits, busy = Journal.new(), [], [], 0
    folder = tmp_path / f"data {number}"
    with topic_of_load(folder) as (broker, stub):
        async with producing(broker.address, journal, f"round {number}"):
            await asyncio.sleep(0.3)
            for n in range(copies):
                await asyncio.to_thread(commit_ends, stub)
                path = tmp_path / f"copy {number}.{n}"
                copy, took, beside = await copy_once(folder, path, journal, stub, hold=hold)
                busy += beside
                made.append(copy)
                waits.append(took)
                await asyncio.sleep(0.1)
        logs = await asyncio.to_thread(read_back, broker)
    assert losses(journal, logs) == []
    assert busy >= copies / 2, "hardly any writes beside the copies"
    return made, waits


@rounds((2, 300))
async def test_cp_under_held_is_whole(tmp_path, copies, figures):
    """A copy by `touch hold`, wait for held, `cp -r`, `rm hold` is whole under the load of sixteen."""
    began, bad, waits = time.monotonic(), 0, []
    for number, first in enumerate(range(0, copies, ROUND)):
        made, waited = await copy_under_load(tmp_path, number, min(ROUND, copies - first), hold=True)
        bad += await asyncio.to_thread(counted, made)
        waits += waited
    took, wait = time.monotonic() - began, max(waits)
    figures(f"cp -r under held: {copies} copies, {bad} bad, held after {wait:.2f} s at most, {took:.0f} s")
    assert bad == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_cp_without_hold_is_not(tmp_path, figures):
    """Control: the same without a hold damages or shortens some copies."""
    copies = bad = 0
    while not bad:  # one in two on a quiet machine, one in ten on a shared one
        assert copies < CONTROL_COPIES_MAX
        made, _ = await copy_under_load(tmp_path, copies, ROUND, hold=False)
        bad += await asyncio.to_thread(counted, made)
        copies += ROUND
    figures(f"cp -r without hold (control): {bad} of {copies} bad")


def values(first, count):
    return [b"%0*d" % (1_000, number) for number in range(first, first + count)]


async def slow_copies(tmp_path, number, copies, *, hold):
    """Make slow copies of a broker's folder under load; returns how many of them were bad.

    hold: "held" if each copy waits for the answer to its hold, "asked" if it does not, "no" without a hold.
    Each begins when every write-ahead log has just been copied completely, and pauses in it for commits.
    """
    folder, made, sent = tmp_path / f"data {number}", [], 0
    with topic_of_load(folder) as (broker, stub):
        paths = [broker.partition_file(TOPIC, partition) for partition in range(PARTITIONS)]

        def more(count):
            nonlocal sent
            for partition, _ in enumerate(paths):
                produce(stub, TOPIC, values(sent, count), partition=partition)
            sent += count

        for n in range(copies):
            more(30)
            eventually(lambda: (more(10), time.sleep(0.1), all(map(wholly_copied, paths)))[-1])
            if hold == "held":
                await take_hold(folder)
            elif hold == "asked":
                (folder / "hold").touch()
            before, copy = sent, tmp_path / f"copy {number}.{n}"
            with slow_copy(folder, copy):
                for _ in range(8):
                    more(20)
            if hold != "no":
                await until(folder / "held", there=True)
                await end_hold(folder)
            made.append((copy, before))
        all_values = values(0, sent)
        for partition in range(PARTITIONS):
            assert [record.value for record in read_all(stub, TOPIC, partition)] == all_values
    return sum([bool(prefix_faults(copy, before, all_values)) for copy, before in made])


def prefix_faults(copy, before, all_values):
    """What is wrong with a copy whose partitions must have equal beginnings and at least `before` records."""
    (copy / "hold").unlink(missing_ok=True)
    found = []
    try:
        with Broker(copy) as broker, connected(broker.address) as stub:
            for partition in range(PARTITIONS):
                held = [record.value for record in read_all(stub, TOPIC, partition)]
                if not (len(held) >= before and held == all_values[: len(held)]):
                    found.append(f"partition {partition}: {len(held)} of {before} acknowledged records")
    except (AssertionError, grpc.RpcError) as error:  # the broker did not start, or the copy cannot be read
        return [str(error)]
    return found + checker.faults_of(copy)


@rounds((2, 100))
async def test_a_slow_copy_under_held_is_whole(tmp_path, copies, figures):
    """A copy is whole although its copier pauses in each WAL after a full checkpoint, while commits go on."""
    began, bad = time.monotonic(), 0
    for number, first in enumerate(range(0, copies, ROUND)):
        bad += await slow_copies(tmp_path, number, min(ROUND, copies - first), hold="held")
    figures(f"slow copies under held: {copies} copies, {bad} bad, {time.monotonic() - began:.0f} s")
    assert bad == 0


@pytest.mark.control
@rounds((1, 10))
async def test_a_slow_copy_without_hold_is_not(tmp_path, copies, figures):
    """Control: without a hold the same copier loses acknowledged records."""
    bad = await slow_copies(tmp_path, 0, copies, hold="no")
    figures(f"slow copies without hold (control): {bad} of {copies} bad")
    assert bad == copies


@pytest.mark.soak
async def test_a_slow_copy_that_does_not_wait_is_not(tmp_path, figures):
    """Control: a copier that asks for a hold but does not wait for held makes bad copies too."""
    bad = await slow_copies(tmp_path, 0, ROUND, hold="asked")
    figures(f"slow copies without waiting for held (control): {bad} of {ROUND} bad")
    assert bad > 0


def have_commits(folder):
    """True if each file has a write-ahead log with a commit in it: none that is still being begun."""
    try:
        return all(wal_bytes_in_use(path) > PAGE_BYTES for path in folder.glob("topics/*/*.db"))
    except FileNotFoundError:
        return False


def valid_beginnings(folder):
    """The valid part of each write-ahead log: its header and frames."""
    found = {}
    for path in folder.glob("topics/*/*.db"):
        bytes_ = wal_bytes_in_use(path)
        with path.with_name(f"{path.name}-wal").open("rb") as wal:
            found[path] = wal.read(bytes_)
    return found


async def test_topics_under_hold(tmp_path):
    """Under a hold a topic can be created but not deleted, by a named error; afterwards it can be deleted."""
    folder = tmp_path / "data"
    with topic_of_load(folder) as (_, stub):
        await take_hold(folder)
        with pytest.raises(grpc.RpcError) as caught:
            stub.DeleteTopic(pb.DeleteTopicRequest(name=TOPIC), timeout=CALL_S_MAX)
        refused = refusal(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "PARTITION_UNAVAILABLE")
        assert "hold is there" in refused.sentence
        assert produce(stub, TOPIC, [b"still there"]) == 0
        create_topic(stub, "new", 2)
        produce(stub, "new", [b"taken"], partition=1)
        before = digests(folder)
        for _ in range(10):
            produce(stub, "new", values(0, 50), partition=1)
        assert digests(folder) == before
        await cp(folder, tmp_path / "copy")
        await end_hold(folder)
        assert stub.DeleteTopic(pb.DeleteTopicRequest(name=TOPIC), timeout=CALL_S_MAX).success
    (tmp_path / "copy" / "hold").unlink(missing_ok=True)
    with looked_over(tmp_path / "copy") as copy, Broker(copy) as broker, connected(broker.address) as stub:
        assert [end_offset(stub, "new", 1), end_offset(stub, TOPIC)] == [501, 1]


@pytest.mark.parametrize("left", ["stopped", "killed"])
async def test_hold_is_there_at_the_start(tmp_path, left):
    """A broker that finds `hold` at its start answers it at once, whatever the last broker left behind."""
    folder, copy = tmp_path / "data", tmp_path / "copy"
    with topic_of_load(folder) as (first, _):
        produce_all(first)
        (first.kill if left == "killed" else first.stop)()
        (folder / "hold").touch()
        (folder / "held").touch()  # as a killed broker leaves it
        with (
            Broker(folder, storage_checkpoint_pages=CHECKPOINT_PAGES) as second,
            connected(second.address) as stub,
        ):
            await until(folder / "held", there=True)
            before, ids = digests(folder), incarnations(stub, TOPIC)
            produce_all(second)
            await cp(folder, copy)
            assert digests(folder) == before
            await end_hold(folder)
    (copy / "hold").unlink(missing_ok=True)
    with looked_over(copy), Broker(copy) as third, connected(third.address) as stub:
        for partition in range(PARTITIONS):
            assert [record.value for record in read_all(stub, TOPIC, partition)] == 2 * values(0, 100)
        assert not set(ids) & set(incarnations(stub, TOPIC))


def produce_all(broker):
    """Produce to every partition."""
    with connected(broker.address) as stub:
        for partition in range(PARTITIONS):
            produce(stub, TOPIC, values(0, 100), partition=partition)


@pytest.mark.parametrize(("end", "files_max"), [("SIGTERM", 128), ("SIGKILL", 2)])
async def test_the_end_under_hold_changes_no_db_file(tmp_path, end, files_max):
    """A broker stopped or killed under hold changes no `.db` file: its WALs have grown, nothing is lost.

    files_max: if there are more partitions than that, they are closed and opened all the time.
    """
    folder, journal = tmp_path / "data", Journal.new()
    with topic_of_load(folder, storage_open_partitions_max=files_max) as (broker, stub):
        ids = incarnations(stub, TOPIC)
        async with producing(broker.address, journal, "first"):
            await asyncio.sleep(0.3)
            await take_hold(folder)
            before = digests(folder)
            await asyncio.to_thread(eventually, lambda: have_commits(folder))
            wals = valid_beginnings(folder)
            await asyncio.sleep(0.3)
        if end == "SIGTERM":
            assert broker.stop(SIGTERM) == 0
            assert not (folder / "held").exists()
        else:
            broker.kill()
        assert digests(folder) == before
        for path, beginning in wals.items():
            assert path.with_name(f"{path.name}-wal").read_bytes().startswith(beginning)
        await cp(folder, tmp_path / "copy")
        (folder / "hold").unlink()
        for each in (folder, tmp_path / "copy"):
            (each / "hold").unlink(missing_ok=True)
            with looked_over(each), Broker(each) as again, connected(again.address) as its:
                assert not (each / "held").exists()
                assert losses(journal, read_back(again)) == []
                assert incarnations(its, TOPIC) == ids or each != folder


def test_an_old_hold_is_told(data_dir):
    """A hold that is older than storage.hold_age_ms_max appears in the log and the health until it goes."""
    with Broker(data_dir, storage_hold_age_ms_max=200) as broker, connected(broker.address) as stub:

        def health():
            response = stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
            return response.status, list(response.reasons)

        def events(name):
            lines = [json.loads(line) for line in broker.log().splitlines()]
            return [line for line in lines if line["event"] == name and line.get("trouble") == "hold_old"]

        assert health() == ("healthy", [])
        (data_dir / "hold").touch()
        eventually(lambda: health()[0] == "degraded")
        assert "hold is there for" in health()[1][0]
        (data_dir / "hold").unlink()
        eventually(lambda: health() == ("healthy", []))
        assert [len(events("trouble_began")), len(events("trouble_ended"))] == [1, 1]


def test_a_hold_that_cannot_be_answered_is_told(data_dir):
    """If another program's lock delays `held`, the health says so once, and `held` comes after the lock."""
    settings = {"storage_busy_wait_ms_max": 200}
    with Broker(data_dir, **settings) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC)
        produce(stub, TOPIC, [b"in the write-ahead log"])
        with ForeignLock(broker.partition_file(TOPIC)):
            (data_dir / "hold").touch()
            eventually(lambda: "hold_failed" in broker.log())
            health = stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
            assert "hold cannot be answered yet: another process keeps the file" in health.reasons[0]
            assert not (data_dir / "held").exists()
        eventually((data_dir / "held").exists)
        assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).status == "healthy"
        assert broker.log().count('"trouble": "hold_failed", "reason"') == 1
        (data_dir / "hold").unlink()
        eventually(lambda: not (data_dir / "held").exists())
