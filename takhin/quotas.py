"""What each principal and each address has used of its limits. Pure: the time is passed in, in seconds.

A rate is a bucket that may go into debt: what begins while it is paid goes through whole, however large,
and what comes next waits until it is paid again. So the rate is kept but for a burst and one request.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice

from takhin.errors import OverloadedError
from takhin.meters import Tally
from takhin.model import ANONYMOUS, NO_LIMIT, Caller
from takhin.settings.quotas import LIMITS, RATES, QuotaSettings, split_override

Limits = Mapping[str, int]
"""By name, one of LIMITS. What is not limited is left out."""

REQUESTS = "requests_per_s"
PRODUCED = (REQUESTS, "produced_bytes_per_s", "produced_records_per_s")
CONSUMED = ("consumed_bytes_per_s", "consumed_records_per_s")
REFUSED, DELAYED = "refused", "delayed"
"""What becomes of a request that is over a limit, as the tally has it."""
ADDRESSES_PARSED = 4_096
LOOKED_AT = 16
"""Accounts that are looked at when one has to be forgotten."""
NOTHING_LOST = (0, 0.0)
RESPONSES_IN_BURST = 4
IPV6_PREFIX_BITS = 64
"""Whoever has one IPv6 address usually has all that share so many bits with it (RFC 6177)."""


@lru_cache(ADDRESSES_PARSED)
def address_of(peer: str) -> str:
    """What counts as one address: the host of HOST:PORT, for IPv6 its network; anything else as it is."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX_BITS), strict=False))


class Bucket:
    """One rate. `paid_at` is when all that was taken is paid for; it lies in the past while there is more."""

    __slots__ = ("_burst_s", "_paid_at", "rate")

    def __init__(self, rate: int, burst_s: float, now: float) -> None:
        self.rate = rate
        self._burst_s = burst_s
        self._paid_at = now - burst_s

    def wait_s(self, now: float) -> float:
        """How long until what was taken is paid for."""
        return max(0.0, self._paid_at - now)

    def take(self, amount: int, now: float) -> None:
        """Take it, also into debt."""
        self._paid_at = max(self._paid_at, now - self._burst_s) + amount / self.rate

    def give_back(self, amount: int) -> None:
        """Undo a `take`."""
        self._paid_at -= amount / self.rate


class Account:
    """What one principal or one address has under way, and its rates."""

    def __init__(self, owner: str, limits: Limits, burst_s: float, now: float, throttled: Tally) -> None:
        self._owner = owner
        self._throttled = throttled
        self._limits = limits
        self._calls = 0
        self._calls_of: Counter[str] = Counter()  # by connection
        self.buckets = {name: Bucket(limits[name], burst_s, now) for name in RATES if name in limits}

    def begin(self, connection: str) -> None:
        self._calls += 1
        self._calls_of[connection] += 1

    def end(self, connection: str) -> None:
        self._calls -= 1
        self._calls_of[connection] -= 1
        if not self._calls_of[connection]:
            del self._calls_of[connection]

    def check_call(self, connection: str) -> None:
        """Raise OverloadedError if no other call may begin."""
        if self._calls >= self._limits.get("calls", self._calls + 1):
            raise self._over("calls")
        connections = len(self._calls_of)
        if connection not in self._calls_of and connections >= self._limits.get(
            "connections", connections + 1
        ):
            raise self._over("connections")

    def check_rate(self, name: str, now: float) -> None:
        """Raise OverloadedError if the rate is used up."""
        bucket = self.buckets.get(name)
        if bucket is not None and (wait_s := bucket.wait_s(now)) > 0:
            raise self._over(name, retry_ms=max(1, round(wait_s * 1_000)))

    def loss(self, now: float) -> tuple[int, float]:
        """What is lost when the account is forgotten: calls under way, and seconds of debt."""
        return self._calls, max((bucket.wait_s(now) for bucket in self.buckets.values()), default=0.0)

    def _over(self, limit: str, *, retry_ms: int = 0) -> OverloadedError:
        self._throttled.add(limit, REFUSED)
        most = self._limits[limit]
        again = f": try again after {retry_ms} ms" if retry_ms else ""
        error = OverloadedError(
            f"{self._owner} is at its quota of {most} {limit}{again}", quota=limit, limit=most
        )
        error.retry_ms = retry_ms
        return error


class Allowance:
    """The accounts that one caller's calls are counted in."""

    __slots__ = ("_accounts", "_burst_s", "_throttled")

    def __init__(self, accounts: tuple[Account, ...], burst_s: float, throttled: Tally) -> None:
        self._accounts = accounts
        self._burst_s = burst_s
        self._throttled = throttled

    def begin(self, connection: str, now: float) -> None:
        """Count a call that begins. Raises OverloadedError if it may not; then it is not counted."""
        for account in self._accounts:
            account.check_call(connection)
            account.check_rate(REQUESTS, now)
        for account in self._accounts:
            account.begin(connection)
        self._take({REQUESTS: 1}, now)

    def end(self, connection: str) -> None:
        """The call has ended."""
        for account in self._accounts:
            account.end(connection)

    def check_produce(self, now: float) -> None:
        """Raise OverloadedError if no records can be taken now."""
        for account in self._accounts:
            for name in PRODUCED[1:]:
                account.check_rate(name, now)

    def produce(self, *, records: int, size_bytes: int, now: float) -> None:
        """Count a produce call's records. Raises OverloadedError, and counts none, if they have to wait."""
        self.check_produce(now)
        self._take(dict(zip(PRODUCED[1:], (size_bytes, records), strict=True)), now)

    def owed_s(self, names: Iterable[str], now: float) -> float:
        """How long until what was taken of these rates is paid for."""
        return self._owed(names, now)[0]

    def delayed(self, names: Iterable[str], now: float) -> None:
        """Count a message of a stream that waits until these rates are paid for."""
        if limit := self._owed(names, now)[1]:
            self._throttled.add(limit, DELAYED)

    def stream_message(self, now: float, *, size_bytes: int = 0, records: int = 0, requests: int = 1) -> None:
        """Count what a stream brings, or a part of it. It was waited for before that."""
        self._take(dict(zip(PRODUCED, (requests, size_bytes, records), strict=True)), now)

    def consume(self, *, records: int, size_bytes: int, now: float) -> float:
        """Count a response of a consume call. Returns the seconds that it has to wait."""
        wait_s, limit = self._owed(CONSUMED, now)
        if limit:
            self._throttled.add(limit, DELAYED)
        self._take(dict(zip(CONSUMED, (size_bytes, records), strict=True)), now)
        return wait_s

    def consumed_not(self, *, records: int, size_bytes: int) -> None:
        """Undo a `consume` whose response was not sent."""
        for name, amount in zip(CONSUMED, (size_bytes, records), strict=True):
            for bucket in self._buckets(name):
                bucket.give_back(amount)

    def response_max(self, name: str) -> int | None:
        """How much one response should take of a rate at most; None: any amount.

        It is a part of a burst, so that the streams of one caller take turns in short steps.
        """
        rates = [bucket.rate for bucket in self._buckets(name)]
        return max(1, int(min(rates) * self._burst_s / RESPONSES_IN_BURST)) if rates else None

    def _owed(self, names: Iterable[str], now: float) -> tuple[float, str]:
        """How long until all of these rates are paid for, and which takes longest; "" if all are."""
        longest_s, limit = 0.0, ""
        for name in names:
            for bucket in self._buckets(name):
                if (wait_s := bucket.wait_s(now)) > longest_s:
                    longest_s, limit = wait_s, name
        return longest_s, limit

    def _take(self, amounts: Mapping[str, int], now: float) -> None:
        for name, amount in amounts.items():
            for bucket in self._buckets(name):
                bucket.take(amount, now)

    def _buckets(self, name: str) -> Iterator[Bucket]:
        for account in self._accounts:
            if (bucket := account.buckets.get(name)) is not None:
                yield bucket


class Accounts:
    """The accounts of principals, or of addresses: at most `most` of them."""

    def __init__(
        self,
        kind: str,
        limits: Limits,
        overrides: Mapping[str, Limits],
        burst_s: float,
        most: int,
        *,
        throttled: Tally,
    ) -> None:
        self._throttled = throttled
        self._kind = kind
        self._limits = limits
        self._overrides = overrides
        self._burst_s = burst_s
        self._most = most
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def of(self, name: str, now: float) -> Account | None:
        """The account of that name, made if need be; None: nothing is limited."""
        account = self._accounts.get(name)
        if account is not None:
            self._accounts.move_to_end(name)
            return account
        limits = self._overrides.get(name, self._limits)
        if not limits:
            return None
        owner = f"{self._kind} {name!r}"
        account = self._accounts[name] = Account(owner, limits, self._burst_s, now, self._throttled)
        self._forget(now)
        return account

    def __len__(self) -> int:
        return len(self._accounts)

    def _forget(self, now: float) -> None:
        """Forget the one of which least is lost, of those that were not used for longest.

        The others of them have another chance, as newer ones: so those that are in use are seldom looked at.
        """
        if len(self._accounts) <= self._most:
            return
        looked_at: dict[str, tuple[int, float]] = {}
        for name, account in islice(self._accounts.items(), min(LOOKED_AT, self._most)):
            looked_at[name] = account.loss(now)
            if looked_at[name] == NOTHING_LOST:
                break
        least = min(looked_at, key=looked_at.__getitem__)
        del self._accounts[least], looked_at[least]
        for name in looked_at:
            self._accounts.move_to_end(name)


class Quotas:
    """The limits of a broker, and what was used of them.

    throttled: what was delayed or refused, by limit.
    """

    def __init__(self, settings: QuotaSettings) -> None:
        self.throttled = throttled = Tally("limit", "action")
        self._burst_s = settings.burst_ms / 1_000
        principals, most = _limits(settings, "principal"), settings.remembered_max
        overrides: dict[str, Limits] = {ANONYMOUS: {}}  # those without a name are limited by address alone
        for text in settings.overrides:
            principal, limit, value = split_override(text)
            known = overrides.get(principal, principals)
            others = {name: of for name, of in known.items() if name != limit}
            overrides[principal] = others if value == NO_LIMIT else others | {limit: value}
        addresses = _limits(settings, "address")
        self._principals = Accounts(
            "principal", principals, overrides, self._burst_s, most, throttled=throttled
        )
        self._addresses = Accounts("address", addresses, {}, self._burst_s, most, throttled=throttled)
        self.off = not (principals or addresses or any(overrides.values()))
        """Nothing is limited for anybody."""

    @property
    def remembered(self) -> int:
        """How many principals and addresses are remembered."""
        return len(self._principals) + len(self._addresses)

    def of(self, caller: Caller, now: float) -> Allowance | None:
        """What the caller's calls are counted with; None: nothing is limited for it."""
        found = (
            self._principals.of(caller.principal, now),
            self._addresses.of(address_of(caller.address), now),
        )
        accounts = tuple(account for account in found if account is not None)
        return Allowance(accounts, self._burst_s, self.throttled) if accounts else None


def _limits(settings: QuotaSettings, kind: str) -> Limits:
    values = {name: getattr(settings, f"{kind}_{name}") for name in LIMITS}
    return {name: value for name, value in values.items() if value != NO_LIMIT}
