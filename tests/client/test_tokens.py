"""Tokens as clients are given them, and as they send them."""

from __future__ import annotations

import grpc
import pytest

from takhin.client import Admin
from takhin.errors import InvalidArgumentError
from takhin.v1 import takhin_pb2 as pb


async def test_a_token_goes_with_every_call():
    """Every call carries `authorization: Bearer …`, without the newline that a token's file ends with."""
    seen = []

    class Noting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):
            seen.append(dict(details.invocation_metadata).get("authorization"))
            return await continuation(details)

    async def health(request, context):
        return pb.HealthCheckResponse(status="healthy")

    handler = grpc.unary_unary_rpc_method_handler(
        health, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
    )
    listening = grpc.aio.server(interceptors=[Noting()])
    listening.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("takhin.v1.TakhinService", {"HealthCheck": handler})]
    )
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    given = ["secret", "secret\n", " secret\r\n", None]
    for token in given:
        async with Admin(f"127.0.0.1:{port}", token=token) as admin:
            assert (await admin.health()).status == "healthy"
    await listening.stop(None)
    assert seen == ["Bearer secret"] * 3 + [None]


@pytest.mark.parametrize("token", ["two words", "a\nb", "", "\n", "schlüssel", b"secret"])
def test_what_is_no_token(token):
    """What no header can carry is refused before anything is sent, and not repeated."""
    with pytest.raises(InvalidArgumentError, match="the token must be") as caught:
        Admin("127.0.0.1:1", token=token)
    assert "words" not in str(caught.value)
