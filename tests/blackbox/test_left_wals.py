"""Write-ahead logs beside closed files: a shell that opened and closed such a file would damage it."""

from __future__ import annotations

import subprocess
import sys

from blackbox.broker_process import Broker
from blackbox.clients import connected, create_topic, eventually, produce, read_all

PARTITIONS = 12
OPEN_MAX = 2
SHELL = """
import sqlite3, sys
for path in sys.argv[1:]:
    db = sqlite3.connect(path)
    db.execute("SELECT count(*) FROM records").fetchall()
    db.close()
"""


def test_after_a_kill(data_dir):
    """More files than may be open have a WAL: soon none is closed with one, and shells do no harm."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "t", PARTITIONS)
        for partition in range(PARTITIONS):
            produce(stub, "t", [b"before"], partition=partition)
        broker.kill()
    paths = [data_dir / "topics/t" / f"{number}.db" for number in range(PARTITIONS)]
    assert all(path.with_name(f"{path.name}-wal").exists() for path in paths)
    with Broker(data_dir, storage_open_partitions_max=OPEN_MAX) as broker, connected(broker.address) as stub:
        eventually(lambda: len(list(data_dir.glob("topics/t/*-wal"))) <= OPEN_MAX)
        subprocess.run([sys.executable, "-c", SHELL, *paths], check=True)
        for partition in range(PARTITIONS):
            produce(stub, "t", [b"after"], partition=partition)
            found = [record.value for record in read_all(stub, "t", partition=partition)]
            assert found == [b"before", b"after"]
