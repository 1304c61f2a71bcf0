"""Producer ids and sequence numbers."""

from takhin.client.producing.identity import Identity
from takhin.limits import PRODUCER_ID_BYTES


def test_numbers_go_on_until_the_id_is_renewed():
    """Stored records use up sequence numbers; a new id begins at 0."""
    identity = Identity(idempotent=True)
    before = identity.producer_id
    assert (len(before), identity.sequence, identity.is_new) == (PRODUCER_ID_BYTES, 0, True)
    identity.advance(3)
    assert (identity.producer_id, identity.sequence, identity.is_new) == (before, 3, False)
    identity.renew()
    assert identity.producer_id != before
    assert (identity.sequence, identity.is_new) == (0, True)


def test_without_idempotence_there_is_no_id():
    """Without idempotence a request has nothing by which the broker could recognise a repeat."""
    identity = Identity(idempotent=False)
    identity.advance(3)
    assert (identity.producer_id, identity.sequence) == (b"", 0)
