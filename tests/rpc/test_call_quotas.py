"""How many calls may be under way, and whose are refused when few more may."""

from __future__ import annotations

import pytest

from takhin.errors import OverloadedError
from takhin.quotas import Quotas
from takhin.rpc.call_quotas import CallQuotas
from takhin.rpc.calls import Call
from takhin.settings import QuotaSettings

CALLS_MAX = 2_000
STREAMS_MAX = 1_000


def quotas(calls_max=CALLS_MAX, **settings):
    return CallQuotas(Quotas(QuotaSettings(**settings)), calls_max)


def a_call(connection=0, address="10.0.0.1"):
    return Call("/METHOD", f"ipv4:{address}:{1_000 + connection}", streams=False)


def entered(calls, connection=0, address="10.0.0.1", number=STREAMS_MAX):
    """Those of so many calls that were not refused; no refusal has been read yet."""
    taken = []
    for _ in range(number):
        call = a_call(connection, address)
        try:
            calls.enter(call)
        except OverloadedError:
            continue
        taken.append(call)
    return taken


def test_a_refused_call_is_not_under_way():
    """Nor when its end is heard of later, which is when its client has read the refusal."""
    calls = quotas(8)
    taken = entered(calls, number=8)
    late = a_call()
    for _ in range(20):
        with pytest.raises(OverloadedError):
            calls.enter(late)
    calls.ended(late)
    assert len(taken) == 7
    assert len(entered(calls, address="10.0.0.2", number=20)) == 1
    assert not entered(calls, address="10.0.0.3", number=20)
    calls.ended(taken[0])
    calls.enter(a_call(address="10.0.0.4"))


def test_a_call_beyond_a_quota_is_not_under_way():
    """Its place is free at once."""
    calls = quotas(8, address_calls=1)
    for call in (first := a_call(), second := a_call()):
        calls.enter(call)
    calls.admit(first)
    with pytest.raises(OverloadedError):
        calls.admit(second)
    assert len(entered(calls, number=20)) == 6
    calls.ended(second)
    assert not entered(calls, number=1)


def test_connections_that_open_what_they_can_leave_room_for_another():
    """Whichever has come first, and when some of them come again."""
    calls = quotas()
    of = [entered(calls, connection) for connection in range(4)]
    assert len(of[0]) == STREAMS_MAX
    assert all(of)
    for connection in range(4, 16):
        assert len(entered(calls, connection)) < 50
    for _ in range(100):
        (honest,) = entered(calls, 99, number=1)
        calls.ended(honest)
    assert len(entered(calls, address="10.0.0.2")) > 100
