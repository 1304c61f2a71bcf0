"""The contract, committed offsets: one for each group and log, the last one counts."""

from __future__ import annotations

import asyncio

import pytest

from storage.support import NOW, numbered, spec
from takhin.model import CommittedOffset
from takhin.storage.contract import Engine, PartitionLog

ODD_GROUP_IDS = [
    "x",
    "x" * 255,
    "é" * 127,
    "🦆" * 63,
    " ",
    " padded ",
    'it\'s "quoted"; DROP TABLE log; --',
    "line\nbreak\r\ttab",
    "../../etc/passwd",
    "%s {} $1 ?1 :x \\",
    "e\u0301",
    "\u202eright to left",
    "nul\x00inside",
    "0",
    "NULL",
]

ODD_METADATA = ["", "plain", "x" * 4_096, "é🦆\n'\"\x00\u202e", '{"host": "a", "n": 1}', " "]


async def test_a_group_without_commit_has_none(log: PartitionLog):
    """A group that never committed has no offset, which differs from offset 0."""
    assert await log.committed_offset("billing") is None
    assert list(await log.group_ids()) == []


async def test_a_commit_is_read_back(log: PartitionLog):
    """Offset, metadata and time come back as they were committed."""
    await log.append(numbered(5))
    await log.commit_offset("billing", CommittedOffset(5, "host-1", NOW))
    assert await log.committed_offset("billing") == CommittedOffset(5, "host-1", NOW)
    assert list(await log.group_ids()) == ["billing"]


async def test_the_last_commit_counts(log: PartitionLog):
    """A commit takes the place of the one before it whole, a lower offset and empty metadata too."""
    await log.append(numbered(5))
    await log.commit_offset("billing", CommittedOffset(5, "host-1", NOW))
    await log.commit_offset("billing", CommittedOffset(0, "", NOW + 1))
    assert await log.committed_offset("billing") == CommittedOffset(0, "", NOW + 1)
    assert list(await log.group_ids()) == ["billing"]


async def test_of_pending_commits_the_last_call_counts(log: PartitionLog):
    """Commits of one group that wait together take effect in the order of the calls."""
    await log.append(numbered(50))
    await asyncio.gather(*(log.commit_offset("billing", CommittedOffset(n, "", NOW)) for n in range(50)))
    assert await log.committed_offset("billing") == CommittedOffset(49, "", NOW)


async def test_a_commit_behind_its_append(log: PartitionLog):
    """A commit that waits with appends is durable beside them, and disturbs none."""
    _, done, last = await asyncio.gather(
        log.append(numbered(3)),
        log.commit_offset("billing", CommittedOffset(3, "", NOW)),
        log.append(numbered(2)),
    )
    assert (done, last.offset) == (None, 3)
    assert await log.committed_offset("billing") == CommittedOffset(3, "", NOW)


@pytest.mark.parametrize("group_id", ODD_GROUP_IDS, ids=ascii)
async def test_group_ids_are_any_text(log: PartitionLog, group_id: str):
    """A group id of any characters names its own offset and is forgotten alone."""
    await log.commit_offset(group_id, CommittedOffset(0, "odd", NOW))
    await log.commit_offset("billing", CommittedOffset(0, "plain", NOW))
    assert await log.committed_offset(group_id) == CommittedOffset(0, "odd", NOW)
    assert set(await log.group_ids()) == {group_id, "billing"}
    await log.forget_group(group_id)
    assert await log.committed_offset(group_id) is None
    assert list(await log.group_ids()) == ["billing"]


async def test_group_ids_that_resemble_each_other_differ(log: PartitionLog):
    """Case, spaces, accents and how they are composed tell groups apart; they are sorted by code point."""
    alike = ["a", "A", "a ", " a", "á", "a\u0301", "a\x00", "a\x00b", "\uffff", "🦆", "aa"]
    for n, group_id in enumerate(alike):
        await log.commit_offset(group_id, CommittedOffset(0, str(n), NOW))
    for n, group_id in enumerate(alike):
        assert await log.committed_offset(group_id) == CommittedOffset(0, str(n), NOW)
    assert list(await log.group_ids()) == sorted(alike)


@pytest.mark.parametrize("metadata", ODD_METADATA, ids=lambda text: ascii(text[:20]))
async def test_metadata_is_kept_as_given(log: PartitionLog, metadata: str):
    """Metadata is any text up to its limit and comes back character for character."""
    await log.commit_offset("billing", CommittedOffset(0, metadata, NOW))
    assert await log.committed_offset("billing") == CommittedOffset(0, metadata, NOW)


async def test_forgetting_a_group(log: PartitionLog):
    """A forgotten group has no offset, may be forgotten again, and may commit anew."""
    await log.commit_offset("billing", CommittedOffset(0, "", NOW))
    await log.commit_offset("audit", CommittedOffset(0, "", NOW))
    for _ in range(2):
        await log.forget_group("billing")
        assert await log.committed_offset("billing") is None
        assert list(await log.group_ids()) == ["audit"]
    await log.commit_offset("billing", CommittedOffset(0, "again", NOW))
    assert await log.committed_offset("billing") == CommittedOffset(0, "again", NOW)


async def test_commits_and_forgets_pending_together(log: PartitionLog):
    """Commits and forgets that wait together take effect in the order of the calls."""
    zero = CommittedOffset(0, "", NOW)
    await asyncio.gather(
        log.commit_offset("gone", zero),
        log.forget_group("gone"),
        log.commit_offset("back", zero),
        log.forget_group("back"),
        log.commit_offset("back", zero),
    )
    assert list(await log.group_ids()) == ["back"]


async def test_partitions_keep_their_own_offsets(engine: Engine):
    """A group's offset in one partition says nothing about another partition."""
    first, second = (await engine.create_topic(spec("orders", 2))).partitions
    await first.append(numbered(5))
    await first.commit_offset("billing", CommittedOffset(5, "", NOW))
    assert await second.committed_offset("billing") is None
    assert list(await second.group_ids()) == []


async def test_many_groups(log: PartitionLog):
    """Hundreds of groups that commit at once are all there, sorted."""
    names = [f"group {n}" for n in range(500)]
    await asyncio.gather(*(log.commit_offset(name, CommittedOffset(0, name, NOW)) for name in names))
    assert list(await log.group_ids()) == sorted(names)


async def test_a_cancelled_commit_leaves_its_neighbours_alone(log: PartitionLog):
    """Cancelling the future of one commit disturbs neither the others nor appends beside it."""
    cancelled = log.commit_offset("cancelled", CommittedOffset(0, "", NOW))
    appended = log.append(numbered(1))
    cancelled.cancel()
    await log.commit_offset("billing", CommittedOffset(0, "", NOW))
    assert (await appended).offset == 0
    assert "billing" in await log.group_ids()
