"""Topics whose files were written before a config existed open with the default of that config."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lending import lend_template
from storage.fixture import TOPIC
from storage.support import Store, alter, run_sql
from takhin.model import TimestampType, TopicConfig
from takhin.settings import StorageSettings
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import clock, spec
from takhin.topic_configs import DEFAULTS, TABLE, ConfigRow

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("schema-*.tar.xz"))
EACH_CONFIG = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def without(data: Path, *rows: ConfigRow) -> None:
    """Delete the rows of configs from the closed file of the topic."""
    path = data / "topics" / TOPIC / "0.db"
    which = "WHERE key IN ({})".format(", ".join(f"'{row.name}'" for row in rows))
    alter(path, f"DELETE FROM topic_configs {which}")
    assert run_sql(path, f"SELECT count(*) FROM topic_configs {which}") == "0"


@EACH_CONFIG
async def test_a_topic_of_today(tmp_path, row):
    """Without its row a config has the default; the others and the file are unchanged."""
    made = TopicConfig(7, TimestampType.LOG_APPEND_TIME)
    store = Store(tmp_path / "data")
    await store.open()
    await store.engine.create_topic(spec(TOPIC, config=made))
    await store.close()
    without(store.data_dir, row)
    rows = run_sql(store.data_dir / "topics" / TOPIC / "0.db", "SELECT key, value FROM topic_configs")
    await store.open()
    default = getattr(DEFAULTS, row.field)
    expected = replace(made, **{row.field: default}, inherited=frozenset({row.field}))
    assert store.engine.topics[TOPIC].config == expected
    await store.close()
    assert run_sql(store.data_dir / "topics" / TOPIC / "0.db", "SELECT key, value FROM topic_configs") == rows


@pytest.mark.parametrize("rows", [TABLE, *(pytest.param([row], marks=pytest.mark.soak) for row in TABLE)])
@pytest.mark.parametrize("archive", FIXTURES, ids=lambda path: path.name.partition(".")[0])
async def test_a_topic_of_an_earlier_version(tmp_path, archive, rows):
    """A topic of an earlier version is upgraded, and without rows it has the defaults as well."""
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    without(tmp_path / "data", *rows)
    store = Store(tmp_path / "data")
    await store.open()
    config = store.engine.topics[TOPIC].config
    assert [getattr(config, row.field) for row in rows] == [getattr(DEFAULTS, row.field) for row in rows]
    await store.close()


async def test_an_unknown_config_is_left_alone(tmp_path):
    """A row that a later version has written is ignored and stays in the file."""
    store = Store(tmp_path / "data")
    await store.open()
    await store.engine.create_topic(spec(TOPIC, config=TopicConfig(7)))
    await store.close()
    path = store.data_dir / "topics" / TOPIC / "0.db"
    alter(path, "INSERT INTO topic_configs (key, value) VALUES ('of.tomorrow', '1')")
    await store.open()
    assert store.engine.topics[TOPIC].config == TopicConfig(7)
    await store.close()
    assert "of.tomorrow" in run_sql(path, "SELECT group_concat(key) FROM topic_configs")


async def test_what_a_topic_leaves_open_follows_the_broker(tmp_path):
    """Only what a topic says itself is in its file; for the rest the engine's defaults of today hold."""
    path = tmp_path / "data"
    left_open = replace(DEFAULTS, retention_ms=5, inherited=DEFAULTS.inherited - {"retention_ms"})
    for before, now in (
        (DEFAULTS, DEFAULTS),
        (DEFAULTS, replace(DEFAULTS, retention_bytes=7, read_only=True)),
    ):
        engine = SqliteEngine(path, StorageSettings(), clock=clock, topic_defaults=now)
        await engine.open()
        if now is before:
            lend_template(path)
            await engine.create_topic(spec(TOPIC, config=left_open))
        made = replace(now, retention_ms=5, inherited=left_open.inherited)
        assert engine.topics[TOPIC].config == made
        await engine.close()
    rows = run_sql(path / "topics" / TOPIC / "0.db", "SELECT key, value FROM topic_configs")
    assert rows == "retention.ms|5"
