"""What a member may ask for: each function returns the checked value or raises a RefusedError."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from takhin.errors import InvalidArgumentError
from takhin.limits import check_group_id, check_range, check_topic_name
from takhin.members import JoinGroup
from takhin.sentences import listed, shown
from takhin.settings import GroupSettings

NAME_BYTES_MAX = 255
"""Bytes of UTF-8 of the ids of members, instances and clients. Not a setting: the interface promises it."""
ASSIGNORS = ("uniform", "range")
"""The first one is the default."""


def checked_join(join: JoinGroup, settings: GroupSettings) -> JoinGroup:
    """The request with its defaults filled in. What it wants to read is checked by `checked_topics`."""
    check_group_id(join.group_id)
    for name in ("client_id", "member_id", "instance_id"):
        _check_name(name, getattr(join, name))
    check_range("member_epoch", join.epoch, 0)
    if join.assignor and join.assignor not in ASSIGNORS:
        raise InvalidArgumentError(
            f"assignor must be {listed(ASSIGNORS, 'or')}, not {shown(join.assignor)}", field="assignor"
        )
    session_ms, revoke_ms = join.session_timeout_ms, join.revoke_timeout_ms
    if session_ms:
        least, most = settings.session_ms_min, settings.session_ms_max
        check_range("session_timeout_ms", session_ms, least, most, setting="groups.session_ms_min and _max")
    if revoke_ms:
        least, most = settings.revoke_ms_min, settings.revoke_ms_max
        check_range("revoke_timeout_ms", revoke_ms, least, most, setting="groups.revoke_ms_min and _max")
    return replace(
        join,
        assignor=join.assignor or ASSIGNORS[0],
        session_timeout_ms=session_ms or settings.session_ms,
        revoke_timeout_ms=revoke_ms or settings.revoke_ms,
    )


def checked_topics(topics: Collection[str], pattern: str, topics_max: int) -> frozenset[str]:
    """The names of a subscription. It has some, or a pattern. They need not exist."""
    if bool(topics) == bool(pattern):
        both = "both topics and a topic_pattern" if topics else "neither topics nor a topic_pattern"
        raise InvalidArgumentError(f"the subscription has {both}; set one of them", field="topics")
    check_range("topics", len(topics), 0, topics_max, setting="groups.topics_max")
    return frozenset(map(check_topic_name, topics))


def _check_name(field: str, name: str) -> None:
    size = len(name.encode())
    if size > NAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"{field} has at most {NAME_BYTES_MAX} bytes, not {size}: {shown(name)}", field=field
        )
