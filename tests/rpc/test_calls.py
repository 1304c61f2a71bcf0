"""The caller, as gRPC names the other end of a connection."""

import pytest

from takhin.model import Caller
from takhin.rpc.calls import caller_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:40000", "127.0.0.1:40000"),
        ("ipv6:%5B::1%5D:40000", "[::1]:40000"),
        ("unix:/run/takhin", "unix:/run/takhin"),
        ("unknown", "unknown"),
    ],
)
def test_a_caller_is_anonymous_at_an_address(peer, address):
    """An address reads HOST:PORT, as in a setting; anything else stays as gRPC reports it."""
    assert caller_of(peer) == Caller("anonymous", address)
