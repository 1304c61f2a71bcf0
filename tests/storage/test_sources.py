"""What the SQLite engine remembers of sources: which logs know a group, and what a full one costs."""

from __future__ import annotations

import asyncio

import pytest

from storage.support import Store, alter, run_sql
from takhin.disk import statements as sql
from takhin.errors import InvalidArgumentError, PartitionUnavailableError
from takhin.model import Source, TopicPartition
from takhin.storage.sources import SourceIndex
from takhin.testing.contract import numbered, source_of, spec, under

AT = TopicPartition("out", 0)


class Log:
    def __init__(self, incarnation_id: str) -> None:
        self.incarnation_id = incarnation_id


class Topic:
    def __init__(self, *incarnation_ids: str) -> None:
        self.partitions = [Log(each) for each in incarnation_ids]


def test_nothing_is_gone_while_a_log_is_unknown():
    """A file that cannot be read may hold any log; once all are known, those that are nowhere are gone."""
    index = SourceIndex()
    index.catalogue_changed({"in": Topic("a", "")})
    assert index.gone(AT, ["a", "b"]) == []
    assert index.is_full(AT)
    index.catalogue_changed({"in": Topic("a", "c")})
    assert not index.is_full(AT)
    assert index.gone(AT, ["a", "b"]) == ["b"]
    assert not index.is_full(AT)


@pytest.fixture
async def store(tmp_path):
    opened = Store(tmp_path / "data", sources_max=50)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_full_log_is_looked_through_once(store: Store):
    """Many batches with a source too many read the table of sources once, until the catalogue changes."""
    log = (await store.engine.create_topic(spec("out"))).partitions[0]
    inputs = (await store.engine.create_topic(spec("in", 51))).partitions
    for came in inputs[:50]:
        await log.append(under(numbered(1), source=source_of(came, 0)))
    asked: list[str] = []
    writer = log._file.writer
    writer.exec_trace = lambda _, statement, __: asked.append(statement) or True
    refused = [under(numbered(1), source=source_of(inputs[50], n)) for n in range(20)]
    for _ in range(2):
        outcomes = await asyncio.gather(*map(log.append, refused), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InvalidArgumentError}
    assert asked.count(sql.SOURCE_LOGS) == 1
    await store.engine.create_topic(spec("another"))
    with pytest.raises(InvalidArgumentError):
        await log.append(refused[0])
    assert asked.count(sql.SOURCE_LOGS) == 2
    writer.exec_trace = None


async def test_a_group_whose_sources_cannot_be_forgotten_stays(store: Store, tmp_path):
    """While a partition is not served that knows its sources, deleting the group is refused."""
    logs = (await store.engine.create_topic(spec("out", 2))).partitions
    came = (await store.engine.create_topic(spec("in"))).partitions[0]
    await logs[1].append(under(numbered(1), source=source_of(came, 0)))
    await store.close()
    path = store.data_dir / "topics/out/1.db"
    alter(path, "CREATE TRIGGER t AFTER INSERT ON headers BEGIN SELECT 1; END")
    await store.open()
    with pytest.raises(PartitionUnavailableError):
        await store.engine.offsets.forget("g")
    await store.close()
    alter(path, "DROP TRIGGER t")
    await store.open()
    await store.engine.offsets.forget("g")
    assert store.engine._parts.shared.sources.of("g") == []


async def test_what_people_see(store: Store):
    """A row says which record of which input was taken last, and the group that it was taken for."""
    log = (await store.engine.create_topic(spec("out"))).partitions[0]
    source = Source("billing", "orders", 3, 41, "of-orders")
    for offset in (40, 41):
        await log.append(under(numbered(1), source=source._replace(offset=offset)))
    await store.close()
    shown = run_sql(store.data_dir / "topics/out/0.db", "SELECT * FROM sources")
    assert shown == "billing|of-orders|41|orders|3"
    await store.open()
