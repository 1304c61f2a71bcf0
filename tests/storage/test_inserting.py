"""What is left in memory when records are in the table."""

from __future__ import annotations

import apsw
import pytest
from takhin.schema.tables import TABLES
from takhin.schema.upgrades import ZERO_TAILS

from takhin.model import Header
from takhin.storage.sqlite.inserting import KEPT_BYTES_MAX, Columns, insert_all
from takhin.testing.contract import batch

LARGE = b"v" * 100_000
BATCHES = {
    "values": batch(*[LARGE] * 40),
    "one-of-many": batch(*[b"v"] * 1_000, LARGE * 50, *[b"v"] * 1_000),
    "headers": batch(*[b"v"] * 40, headers={at: [Header("h", LARGE)] for at in range(40)}),
    "one-header-of-many": batch(
        *[b"v"] * 1_000, headers={at: [Header("h", LARGE * 9 if at == 500 else b"")] for at in range(1_000)}
    ),
}


@pytest.mark.parametrize("sent", BATCHES.values(), ids=BATCHES)
def test_statements_keep_little(sent):
    """Those that stay prepared have no copy of large records: there may be a thousand partitions."""
    db = apsw.Connection(":memory:")
    db.execute(TABLES)
    db.execute(ZERO_TAILS)
    rows = Columns(0)
    rows.add(sent)
    for _ in insert_all(db, [rows]):
        pass
    assert db.execute("SELECT count(*) FROM records").get == len(sent)
    assert db.execute("SELECT count(*) FROM headers").get == len(sent.headers)
    kept, _ = db.status(apsw.SQLITE_DBSTATUS_STMT_USED)
    assert kept < 2 * KEPT_BYTES_MAX
    db.close()
