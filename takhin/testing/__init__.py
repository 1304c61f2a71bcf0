"""Brokers for tests of programs that use Takhin: `MemoryBroker` in this process, `DiskBroker` in its own.

For pytest they are the fixtures `takhin_broker` and `takhin_disk_broker`; docs/testing.md shows both ways.
"""

from takhin.testing.brokers import DiskBroker, MemoryBroker

__all__ = ["DiskBroker", "MemoryBroker"]
