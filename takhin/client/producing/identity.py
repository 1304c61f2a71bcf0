"""Where a producer id comes from, and which sequence number is next. Pure but for the random bytes.

The rule is Kafka's (org.apache.kafka.clients.producer.internals.TransactionManager): the broker stores a
batch once for each (producer id, sequence), so a pair must never be used for two different batches.
"""

from __future__ import annotations

import os

from takhin.limits import PRODUCER_ID_BYTES


class Identity:
    """Who the broker takes the sender of one partition's batches for.

    producer_id: random; empty without idempotence: the broker then does not look for repeats.
    sequence: the number of the next record under that id.
    """

    def __init__(self, *, idempotent: bool) -> None:
        self._idempotent = idempotent
        self.renew()

    def renew(self) -> None:
        """Take a new producer id, whose first record comes next."""
        self.producer_id = os.urandom(PRODUCER_ID_BYTES) if self._idempotent else b""
        self.sequence = 0

    def advance(self, records: int) -> None:
        """The next `records` numbers are used up: a batch was stored under them."""
        if self._idempotent:
            self.sequence += records

    @property
    def is_new(self) -> bool:
        """No batch was stored under this id yet."""
        return self.sequence == 0
