"""Settings of how much each principal and each address may do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from takhin.model import INT64_MAX, NO_LIMIT
from takhin.settings.fields import HOUR_MS, setting

RATES = (
    "requests_per_s",
    "produced_bytes_per_s",
    "produced_records_per_s",
    "consumed_bytes_per_s",
    "consumed_records_per_s",
)
LIMITS = ("connections", "calls", *RATES)
"""What can be limited. The settings are principal_… and address_… of each."""

OVERRIDE = re.compile(rf"(?P<principal>.+):(?P<limit>{'|'.join(LIMITS)})=(?P<value>-1|[1-9][0-9]{{0,18}})")


def split_override(text: str) -> tuple[str, str, int]:
    """The principal, the limit and its value of PRINCIPAL:LIMIT=N.

    Raises ValueError with the rest of the sentence "quotas.overrides must be …".
    """
    match = OVERRIDE.fullmatch(text)
    if match is None or int(match["value"]) > INT64_MAX:
        raise ValueError(
            f"PRINCIPAL:LIMIT=N with N from 1, or {NO_LIMIT} for no limit, and LIMIT one of "
            f"{', '.join(LIMITS)}"
        )
    return match["principal"], match["limit"], int(match["value"])


def _limit(doc: str) -> int:
    """A limit that is off unless somebody sets it."""
    limit: int = setting(NO_LIMIT, doc, least=1, most=INT64_MAX, no_limit=True)
    return limit


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings:
    """What each principal and each address may do. An address is an IPv4 host or the /64 of an IPv6 host."""

    principal_connections: int = _limit("connections of one principal that have calls under way")
    principal_calls: int = _limit("calls under way of one principal, streams included")
    principal_requests_per_s: int = _limit("calls and produce requests of one principal, streams included")
    principal_produced_bytes_per_s: int = _limit("bytes of one principal's produce requests")
    principal_produced_records_per_s: int = _limit("records of one principal's produce requests")
    principal_consumed_bytes_per_s: int = _limit("bytes of records in responses to one principal")
    principal_consumed_records_per_s: int = _limit("records in responses to one principal")
    address_connections: int = _limit("connections of one address; on Linux those beyond it are closed")
    address_calls: int = _limit("calls under way of one address, streams included")
    address_requests_per_s: int = _limit("calls and produce requests of one address, streams included")
    address_produced_bytes_per_s: int = _limit("bytes of one address's produce requests")
    address_produced_records_per_s: int = _limit("records of one address's produce requests")
    address_consumed_bytes_per_s: int = _limit("bytes of records in responses to one address")
    address_consumed_records_per_s: int = _limit("records in responses to one address")
    overrides: tuple[str, ...] = setting(
        (),
        "limits of single principals in place of those above, each PRINCIPAL:LIMIT=N, as in "
        "batch:produced_bytes_per_s=5000000; of callers without a name the principal is anonymous",
        check=split_override,
    )
    burst_ms: int = setting(
        1_000, "how much may come at once after a pause, as time at the full rate", least=1, most=HOUR_MS
    )
    remembered_max: int = setting(
        10_000, "principals, and addresses, whose use is remembered; the longest unused goes first", least=1
    )
