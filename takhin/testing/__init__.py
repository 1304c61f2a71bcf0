"""Brokers for tests of programs that use Takhin: `MemoryBroker` in this process, `DiskBroker` beside it.

pytest has them as the fixtures `takhin_broker` and `takhin_disk_broker`; docs/testing.md shows both ways.
"""

from takhin.testing.brokers import DiskBroker, MemoryBroker

__all__ = ["DiskBroker", "MemoryBroker"]
