"""`takhin recover` and what a log has taken of sources: known again, unless its last outputs are lost."""

from __future__ import annotations

import pytest

from copies.folders import PAGE, TOPIC, file, flip, flip_value, value
from storage.support import check_files, run_sql, sqlite_engine
from takhin.copies.recover import recover
from takhin.model import Source
from takhin.testing.contract import batch, under


@pytest.mark.parametrize("lost", [300, 1_199])
async def test_what_was_taken_of_sources_comes_along(lost, data):
    """It is known as long as the last record is there; else the last outputs may be made again."""
    engine = sqlite_engine(data)
    await engine.open()
    source = Source("g", "in", 0, 5, "of")
    sent = under(batch(*(value(600 + n) for n in range(600))), source=source)
    await engine.topics[TOPIC].partitions[0].append(sent)
    await engine.close()
    flip_value(file(data), lost)
    (recovered,) = recover(data)
    assert (len(recovered.lost), recovered.lost_besides) == (1, [])
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics[TOPIC].partitions[0]
    assert (await log.append(sent)).duplicate == (lost == 300)
    assert not (await log.append(under(sent, source=source._replace(offset=6)))).duplicate
    await engine.close()
    check_files(data)


async def test_what_was_taken_of_sources_outlives_all_records(data):
    """A log whose records were all trimmed away has lost none of them."""
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics[TOPIC].partitions[0]
    sent = under(batch(b"v"), source=Source("g", "in", 0, 5, "of"))
    await log.append(sent)
    await log.trim(log.end_offset)
    await engine.close()
    page = int(run_sql(file(data), "SELECT rootpage FROM sqlite_master WHERE name = 'headers'"))
    flip(file(data), (page - 1) * PAGE + 100)
    (recovered,) = recover(data)
    assert (recovered.start_offset, recovered.end_offset, list(recovered.lost)) == (601, 601, [])
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics[TOPIC].partitions[0]
    assert (await log.append(sent)).duplicate
    await engine.close()
    check_files(data)
