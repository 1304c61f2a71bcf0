"""Messages about tokens and rules to values and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from takhin.access.rules import Resource, Rule, checked_rule
from takhin.access.tokens import Token
from takhin.errors import InvalidArgumentError
from takhin.v1 import takhin_pb2 as pb


def token_info(token: Token) -> pb.TokenInfo:
    return pb.TokenInfo(
        token_id=token.token_id,
        principal=token.principal,
        created_at=token.created_at,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
        note=token.note,
    )


def rules_of(messages: Iterable[pb.AccessRule]) -> Sequence[Rule]:
    """The rules. Raises InvalidArgumentError for one that makes no sense."""
    return [_rule(message) for message in messages]


def _rule(message: pb.AccessRule) -> Rule:
    resource = message.WhichOneof("resource")
    if resource is None:
        raise InvalidArgumentError("a rule has a topic or a group", field="resource")
    pattern = getattr(message, resource)
    return checked_rule(message.principal, message.action, resource, pattern, allow=not message.deny)


def rule_message(rule: Rule) -> pb.AccessRule:
    message = pb.AccessRule(principal=rule.principal, action=str(rule.action), deny=not rule.allow)
    if rule.resource is Resource.TOPIC:
        message.topic = rule.pattern
    else:
        message.group = rule.pattern
    return message
