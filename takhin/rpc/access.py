"""The methods about tokens and rules. Each decodes, calls the session, encodes."""

from __future__ import annotations

from takhin.access.rules import check_count
from takhin.rpc.calls import Context
from takhin.rpc.methods import Methods
from takhin.turns import in_turns
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert_access as convert


class AccessMethods(Methods):
    """Creates, lists and revokes tokens; changes and lists rules."""

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        text, token = await self._session().create_token(
            request.principal, expires_at=request.expires_at, note=request.note
        )
        return pb.CreateTokenResponse(token=text, info=convert.token_info(token))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        tokens = in_turns(self._session().list_tokens(request.principal))
        return pb.ListTokensResponse(tokens=[convert.token_info(token) async for token in tokens])

    async def RevokeTokens(
        self, request: pb.RevokeTokensRequest, context: Context
    ) -> pb.RevokeTokensResponse:
        revoked = in_turns(await self._session().revoke_tokens(request.id_or_principal))
        return pb.RevokeTokensResponse(revoked=[convert.token_info(token) async for token in revoked])

    async def ChangeAccess(
        self, request: pb.ChangeAccessRequest, context: Context
    ) -> pb.ChangeAccessResponse:
        check_count(len(request.put) + len(request.drop))
        put, drop = convert.rules_of(request.put), convert.rules_of(request.drop)
        dropped = await self._session().change_rules(put, drop)
        return pb.ChangeAccessResponse(success=True, dropped=dropped)

    async def ListAccess(self, request: pb.ListAccessRequest, context: Context) -> pb.ListAccessResponse:
        rules = in_turns(self._session().list_rules(request.principal))
        return pb.ListAccessResponse(rules=[convert.rule_message(rule) async for rule in rules])
