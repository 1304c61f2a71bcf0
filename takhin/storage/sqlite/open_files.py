"""Which partitions may have their files open: a bound on all of them together.

An open file takes five descriptors and its page caches, and a broker may have thousands of partitions of
which few are busy. Whoever needs a file asks for a slot; when all are taken, the one unused for longest among
those at rest gives way, or else the next one that ends a commit group. What a log is (its range, its times)
stays known while its file is closed. All page caches share one budget, by how many files are open.
"""

from __future__ import annotations

from typing import Protocol

CACHE_KIB_MAX = 4 << 10
"""The page caches of one file at most. Larger ones gain nothing."""


class Tenant(Protocol):
    """Whoever holds a slot, or waits for one."""

    @property
    def can_close(self) -> bool:
        """True while its file is open and nobody uses it."""

    def wake(self) -> None:
        """Look again: a slot was granted, or the file is to be closed for another."""


class OpenFiles:
    """The slots. Pure bookkeeping on the loop."""

    def __init__(self, files_max: int, *, cache_bytes_max: int) -> None:
        self.held = False
        """True while copies are made: `.db` files do not change then, and `-wal` files only grow."""
        self._files_max = files_max
        self._cache_kib_max = cache_bytes_max >> 10
        self._slots: dict[Tenant, None] = {}  # the one unused for longest comes first
        self._giving_way: set[Tenant] = set()
        self._waiting: dict[Tenant, None] = {}  # in the order of asking

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def has_room(self) -> bool:
        return len(self._slots) < self._files_max

    @property
    def cache_kib(self) -> int:
        """The page caches of one open file: its share of the budget, in steps so that it seldom changes."""
        share = self._cache_kib_max // max(1, len(self._slots))
        return int(min(CACHE_KIB_MAX, 1 << max(0, share.bit_length() - 1)))

    @property
    def wanted(self) -> bool:
        """True if more callers wait for a slot than files are being closed."""
        return len(self._waiting) > len(self._giving_way)

    def has_slot(self, tenant: Tenant) -> bool:
        return tenant in self._slots

    def gives_way(self, tenant: Tenant) -> bool:
        """True if the tenant is to close its file for another."""
        return tenant in self._giving_way

    def ask(self, tenant: Tenant) -> None:
        """Give the tenant a slot, now or when its turn comes; it is woken then."""
        if tenant in self._slots or tenant in self._waiting:
            return
        if self.has_room and not self._waiting:
            self._slots[tenant] = None
            return
        self._waiting[tenant] = None
        resting = (each for each in self._slots if each.can_close and each not in self._giving_way)
        if self.wanted and (longest := next(resting, None)) is not None:
            self._giving_way.add(longest)
            longest.wake()

    def withdraw(self, tenant: Tenant) -> None:
        """The tenant needs no slot any more."""
        self._waiting.pop(tenant, None)

    def used(self, tenant: Tenant) -> None:
        """The tenant's file is used now: it is the last one to be closed for another."""
        if tenant in self._slots:
            del self._slots[tenant]
            self._slots[tenant] = None

    def offer(self, tenant: Tenant) -> bool:
        """True if the tenant is to close its file, as somebody waits.

        Call it between two groups, and at rest.
        """
        if self.wanted and tenant in self._slots:
            self._giving_way.add(tenant)
        return tenant in self._giving_way

    def release(self, tenant: Tenant) -> None:
        """Take the tenant's slot back: its file is closed, or stays open whatever else needs opening."""
        self._giving_way.discard(tenant)
        self._slots.pop(tenant, None)
        while self._waiting and self.has_room:
            granted = next(iter(self._waiting))
            del self._waiting[granted]
            self._slots[granted] = None
            granted.wake()
