"""How a producer sends: the arguments of `Producer`, checked, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.client.retry import Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """The options, as `Producer` describes them. Times that it takes in ms are in seconds here (`_s`)."""

    batch_records_max: int
    batch_bytes_max: int
    buffer_bytes_max: int
    in_flight_max: int
    linger_s: float
    delivery_s_max: float
    idempotent: bool
    retry: Retry
