"""The RPCs about tokens and rules, as calls.py has all others: each method is one attempt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from takhin.access.rules import Rule
from takhin.client.connection import Connection
from takhin.client.model import TokenInfo
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub
from takhin.wire import convert_access as convert

if TYPE_CHECKING:
    from takhin.v1.takhin_pb2_grpc import TakhinServiceAsyncStub  # only its stub file has it


class AccessCalls:
    """The base of Calls for these. Every method may raise what those of Calls may."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create_token(
        self, deadline: float, principal: str, expires_at: int, note: str
    ) -> tuple[str, TokenInfo]:
        """Make a token; returns its text, and what the broker keeps. Raises InvalidArgumentError."""
        request = pb.CreateTokenRequest(principal=principal, expires_at=expires_at, note=note)
        response = await self._connection.unary(self._stub.CreateToken, request, deadline)
        return response.token, _info(response.info)

    async def list_tokens(self, deadline: float, principal: str) -> list[TokenInfo]:
        request = pb.ListTokensRequest(principal=principal)
        response = await self._connection.unary(self._stub.ListTokens, request, deadline)
        return [_info(info) for info in response.tokens]

    async def revoke_tokens(self, deadline: float, id_or_principal: str) -> list[TokenInfo]:
        """Forget a token, or all of a principal; returns those that were."""
        request = pb.RevokeTokensRequest(id_or_principal=id_or_principal)
        response = await self._connection.unary(self._stub.RevokeTokens, request, deadline)
        return [_info(info) for info in response.revoked]

    async def change_access(self, deadline: float, put: Iterable[Rule], drop: Iterable[Rule]) -> int:
        """Put rules and drop others; returns how many were dropped. Raises InvalidArgumentError."""
        request = pb.ChangeAccessRequest(
            put=map(convert.rule_message, put), drop=map(convert.rule_message, drop)
        )
        return (await self._connection.unary(self._stub.ChangeAccess, request, deadline)).dropped

    async def list_access(self, deadline: float, principal: str) -> Sequence[Rule]:
        request = pb.ListAccessRequest(principal=principal)
        response = await self._connection.unary(self._stub.ListAccess, request, deadline)
        return convert.rules_of(response.rules)

    @property
    def _stub(self) -> TakhinServiceAsyncStub:
        return self._connection.made(TakhinServiceStub)


def _info(of: pb.TokenInfo) -> TokenInfo:
    return TokenInfo(of.token_id, of.principal, of.created_at, of.expires_at, of.last_used_at, of.note)
