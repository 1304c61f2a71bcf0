"""What is left on disk of a change of a topic that fails, or that a crash interrupts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blackbox.foreign_lock import ForeignLock
from storage.support import Store
from takhin.copies.verify import verify
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError
from takhin.model import CommittedOffset, TopicPartition
from takhin.query.topic import TopicFiles
from takhin.testing.contract import NOW, changed, numbered, read_all, spec
from takhin.testing.contract.harness import turns


def files(store: Store) -> list[str]:
    return sorted(path.name for path in (store.data_dir / "topics/orders").iterdir() if path.suffix == ".db")


async def test_a_change_that_fails_leaves_no_files(tmp_path: Path):
    """Another program's lock on partition 0 refuses the change: no new partition is left behind."""
    store = Store(tmp_path / "data", busy_wait_ms_max=200)
    await store.open()
    topic = await store.engine.create_topic(spec("orders", 2))
    await topic.partitions[0].append(numbered(1))
    with ForeignLock(store.data_dir / "topics/orders/0.db"), pytest.raises(PartitionUnavailableError):
        await changed(store.engine, spec("orders", 4))
    assert files(store) == ["0.db", "1.db"]
    assert len((await changed(store.engine, spec("orders", 4))).partitions) == 4
    await store.close()


async def test_an_interrupted_change_is_swept_at_start(store: Store, monkeypatch):
    """The new files are there and do not count: commands ignore them, and the next start removes them."""
    topic = await store.engine.create_topic(spec("orders", 1))
    await topic.partitions[0].append(numbered(3))
    first = topic.partitions[0]

    def interrupt(num_partitions: int, configs: object) -> asyncio.Future[None]:
        raise OutcomeUnknownError("as far as a crash is concerned")

    monkeypatch.setattr(first, "alter_topic", interrupt)
    with pytest.raises(OutcomeUnknownError):
        await changed(store.engine, spec("orders", 3))
    assert files(store) == ["0.db", "1.db", "2.db"]
    await store.engine.close()
    assert verify(store.data_dir).ok
    assert len(TopicFiles(store.data_dir, "orders").paths) == 1
    await store.open()
    assert files(store) == ["0.db"]
    assert len(store.engine.topics["orders"].partitions) == 1
    assert len(await read_all(store.log("orders"))) == 3


async def test_a_group_is_forgotten_while_its_topic_is_deleted(store: Store):
    """What the topic takes along needs no forgetting, and what other topics hold is forgotten."""
    kept, doomed = [(await store.engine.create_topic(spec(name))) for name in ("kept", "doomed")]
    at = {TopicPartition(topic.name, 0): CommittedOffset(0, "", NOW) for topic in (kept, doomed)}
    await store.engine.offsets.commit("billing", at)
    deleting = asyncio.create_task(store.engine.delete_topic("doomed"))
    await turns()
    assert "doomed" not in store.engine.topics
    assert not deleting.done()
    await store.engine.offsets.forget("billing")
    await deleting
    assert store.engine.offsets.groups() == []
