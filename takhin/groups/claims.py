"""What members claim that come back to a broker which has restarted: it knows what they say, and no more."""

from __future__ import annotations

from takhin.errors import FencedMemberError
from takhin.groups.draft import Draft, unknown
from takhin.groups.events import Join
from takhin.groups.group import JOINING, Partitions
from takhin.sentences import shown


def settled_claims(draft: Draft, event: Join) -> Partitions:
    """What a member gets that comes back: of what it claims, what exists and nobody else has.

    Of two that claim a partition, the one with the higher epoch has been given it later, and the other one
    was fenced before the restart: all of its partitions may be others' own, so it is fenced again. With the
    same epoch, the first one has it. Raises UnknownMemberError.
    """
    claimed = event.subscription.of(event.owned)
    for rival in list(draft.members.values()):
        if rival.former in (JOINING, event.epoch) or claimed.isdisjoint(rival.held):
            continue
        if rival.former > event.epoch:
            unknown(event.member_id)
        sentence = f"member {shown(rival.member_id)} was fenced before the broker restarted"
        draft.remove(rival.member_id, FencedMemberError(sentence, member_id=rival.member_id))
    catalogue, taken = draft.before.catalogue, draft.owned(claimed)
    return frozenset(
        each for each in claimed if 0 <= each.partition < catalogue.get(each.topic, 0) and each not in taken
    )
