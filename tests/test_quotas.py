"""What principals and addresses may use, by a clock that the tests set."""

import random

import pytest

from takhin.errors import OverloadedError
from takhin.model import ANONYMOUS, Caller
from takhin.quotas import PRODUCED, RESPONSES_IN_BURST, Quotas, address_of
from takhin.settings import QuotaSettings
from takhin.settings.quotas import split_override

NOW = 1_000.0
ALICE, BOB = Caller("alice", "10.0.0.1:5"), Caller("bob", "10.0.0.1:6")
NOBODY = Caller(ANONYMOUS, "10.0.0.2:5")


def allowance(caller=ALICE, now=NOW, **settings):
    return Quotas(QuotaSettings(**settings)).of(caller, now)


def test_nothing_is_limited_unless_somebody_says_so():
    """Without a limit there is nothing to count with."""
    assert Quotas(QuotaSettings()).off
    assert Quotas(QuotaSettings(overrides=("alice:calls=-1",))).off
    quotas = Quotas(QuotaSettings(overrides=("alice:calls=1",)))
    assert not quotas.off
    assert quotas.of(BOB, NOW) is None
    assert quotas.of(NOBODY, NOW) is None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1:5", "10.0.0.1"),
        ("[2001:db8:1:2:3:4:5:6]:7", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::]:7", "2001:db8:1:2::/64"),
        ("[::ffff:10.0.0.1]:7", "10.0.0.1"),
        ("[fe80::1%eth0]:7", "fe80::/64"),
        ("unix:/run/takhin", "unix:/run/takhin"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address, counted):
    """A client has as many IPv6 addresses as it likes within its network."""
    assert address_of(address) == counted


def test_calls_under_way():
    """Those of one principal have a bound, whatever address they come from; those of others do not count."""
    quotas = Quotas(QuotaSettings(principal_calls=2))
    alice = [quotas.of(Caller("alice", f"10.0.0.{n}:1"), NOW) for n in range(3)]
    alice[0].begin("a", NOW)
    alice[1].begin("b", NOW)
    with pytest.raises(OverloadedError, match="principal 'alice' is at its quota of 2 calls") as refused:
        alice[2].begin("c", NOW)
    assert refused.value.details == {"quota": "calls", "limit": "2"}
    quotas.of(BOB, NOW).begin("d", NOW)
    alice[0].end("a")
    alice[2].begin("c", NOW)


def test_connections_with_calls():
    """Another call of a connection is none of another connection."""
    alice = allowance(principal_connections=1)
    alice.begin("a", NOW)
    alice.begin("a", NOW)
    with pytest.raises(OverloadedError, match="1 connections"):
        alice.begin("b", NOW)
    alice.end("a")
    with pytest.raises(OverloadedError):
        alice.begin("b", NOW)
    alice.end("a")
    alice.begin("b", NOW)


def test_a_refused_call_is_counted_nowhere():
    """Neither with its principal nor with its address, whichever refuses it."""
    quotas = Quotas(QuotaSettings(principal_calls=5, address_calls=1))
    quotas.of(ALICE, NOW).begin("a", NOW)
    for _ in range(10):
        with pytest.raises(OverloadedError, match="address"):
            quotas.of(BOB, NOW).begin("b", NOW)
    quotas.of(ALICE, NOW).end("a")
    for _ in range(5):
        quotas.of(BOB._replace(address=f"10.0.1.{_}:1"), NOW).begin("b", NOW)


def test_a_refusal_says_how_long_to_wait():
    """After that time the same call is taken, and not a moment before."""
    alice = allowance(principal_produced_bytes_per_s=1_000)
    alice.produce(records=1, size_bytes=3_500, now=NOW)  # a burst of a second is free
    with pytest.raises(OverloadedError, match="after 2500 ms") as refused:
        alice.produce(records=1, size_bytes=1, now=NOW)
    assert refused.value.retry_ms == 2_500
    with pytest.raises(OverloadedError):
        alice.check_produce(NOW + 2.4)
    alice.produce(records=1, size_bytes=1, now=NOW + 2.5)


@pytest.mark.parametrize("limit", ["requests_per_s", "produced_bytes_per_s", "produced_records_per_s"])
def test_what_streams_owe(limit):
    """What a message takes beyond the burst has to be paid before the next one is read."""
    alice = allowance(**{f"principal_{limit}": 10})
    owed = []
    for _ in range(31):
        owed.append(alice.owed_s(PRODUCED, NOW))
        alice.stream_message(NOW, size_bytes=1)
        alice.stream_message(NOW, records=1, requests=0)
    assert owed[:10] == [0.0] * 10
    assert owed[30] == pytest.approx(2.0)
    assert owed == sorted(owed)
    assert alice.owed_s(PRODUCED, NOW + 2.2) == 0.0


def test_responses_wait_one_after_the_other_and_are_given_back():
    """A response that was not sent is as if it had not been read."""
    alice = allowance(principal_consumed_records_per_s=10)
    assert alice.response_max("consumed_records_per_s") == 10 // RESPONSES_IN_BURST
    assert alice.response_max("consumed_bytes_per_s") is None
    assert alice.consume(records=30, size_bytes=1, now=NOW) == 0
    assert alice.consume(records=30, size_bytes=1, now=NOW) == pytest.approx(2)
    alice.consumed_not(records=30, size_bytes=1)
    assert alice.consume(records=30, size_bytes=1, now=NOW) == pytest.approx(2)


def test_an_override_is_in_place_of_one_limit():
    """The others hold on; -1 lifts the limit; who has no name may be given one of its own."""
    settings = QuotaSettings(
        principal_calls=1,
        principal_connections=7,
        overrides=("alice:calls=2", "ann:calls=-1", "anonymous:calls=1", "a:b=c:calls=3"),
    )
    quotas = Quotas(settings)
    for principal, most in (("alice", 2), ("bob", 1), (ANONYMOUS, 1), ("a:b=c", 3), ("ann", 50)):
        for _ in range(most):
            quotas.of(Caller(principal, "10.0.0.1:5"), NOW).begin("a", NOW)
    for principal in ("alice", "bob", ANONYMOUS, "a:b=c"):
        with pytest.raises(OverloadedError, match="calls"):
            quotas.of(Caller(principal, "10.0.0.1:5"), NOW).begin("a", NOW)
    for n in range(6):
        quotas.of(Caller("ann", "10.0.0.1:5"), NOW).begin(f"b{n}", NOW)
    with pytest.raises(OverloadedError, match="connections"):
        quotas.of(Caller("ann", "10.0.0.1:5"), NOW).begin("c", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "alice:calls",
        "alice:calls=0",
        "alice:calls=-2",
        ":calls=1",
        "alice:call=1",
        "a:calls=1\n",
    ],
)
def test_an_override_that_is_none(text):
    """It is refused with its form."""
    with pytest.raises(ValueError, match="PRINCIPAL:LIMIT=N"):
        split_override(text)


@pytest.mark.parametrize("busy", [1, 2, 9])
def test_who_is_forgotten_first(busy):
    """None with calls under way, and none in debt, while there are others."""
    quotas = Quotas(QuotaSettings(address_calls=1, address_requests_per_s=1, remembered_max=10))
    callers = [Caller(ANONYMOUS, f"10.1.0.{n}:1") for n in range(busy)]
    for number, caller in enumerate(callers):
        account = quotas.of(caller, NOW)
        account.begin("a", NOW)
        if number % 2:  # its call is over, but it owes seconds
            account.end("a")
            for _ in range(2 + number):
                account.stream_message(NOW)
    for n in range(1_000):
        quotas.of(Caller(ANONYMOUS, f"10.0.{n // 250}.{n % 250}:1"), NOW)
    for caller in callers:
        with pytest.raises(OverloadedError):
            quotas.of(caller, NOW).begin("b", NOW)
    assert quotas.remembered == 10


def test_of_those_in_debt_the_least_is_forgotten():
    """Whoever owes most is remembered."""
    quotas = Quotas(QuotaSettings(address_requests_per_s=1, remembered_max=3))
    for number in range(1, 5):
        account = quotas.of(Caller(ANONYMOUS, f"10.1.0.{number}:1"), NOW)
        for _ in range(10 - number if number < 4 else 1):
            account.stream_message(NOW)
    assert quotas.of(Caller(ANONYMOUS, "10.1.0.3:1"), NOW).owed_s(PRODUCED, NOW) == 0
    assert quotas.of(Caller(ANONYMOUS, "10.1.0.1:1"), NOW).owed_s(PRODUCED, NOW) == 8


def test_what_is_remembered_has_a_bound():
    """The longest unused is forgotten; one with calls under way, or in debt, comes after those without."""
    quotas = Quotas(QuotaSettings(address_calls=1, address_requests_per_s=1, remembered_max=10))
    busy = Caller(ANONYMOUS, "10.1.0.1:1")
    quotas.of(busy, NOW).begin("a", NOW)
    for n in range(1_000):
        quotas.of(Caller(ANONYMOUS, f"10.0.{n // 250}.{n % 250}:1"), NOW)
        if n % 5 == 0:
            with pytest.raises(OverloadedError):
                quotas.of(busy, NOW).begin("a", NOW)
    assert quotas.remembered == 10


def test_a_rate_is_kept_whatever_the_requests():
    """In 100 s, of requests of any size at any time: no more than the rate, a burst and a request."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for rate in (1, 1_000, 10_000_000):
        alice = allowance(principal_produced_bytes_per_s=rate)
        now, taken, largest = NOW, 0, 0
        while now < NOW + 100:
            size = chance.randrange(3 * rate)
            try:
                alice.produce(records=1, size_bytes=size, now=now)
                taken, largest = taken + size, max(largest, size)
            except OverloadedError as refused:
                now += chance.choice((0, refused.retry_ms / 1_000))
            now += chance.random() / 100
        assert taken <= 101 * rate + largest, seed
        assert taken >= 98 * rate - largest, seed
