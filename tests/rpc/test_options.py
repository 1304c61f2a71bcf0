"""The options that gRPC is given. It says nothing of one whose name it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from takhin.client.connection import OPTIONS
from takhin.rpc.listener import options
from takhin.settings import RpcSettings


@pytest.fixture(scope="module")
def library():
    """The bytes of gRPC's library, where each name that it knows ends with a zero."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("given", [options(RpcSettings()), OPTIONS], ids=["broker", "client"])
def test_grpc_knows_every_option(library, given):
    """Else it would have no effect, and nobody would hear of it."""
    assert [name for name, _ in given if name.encode() + b"\0" not in library] == []
