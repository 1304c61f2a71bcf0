"""The assignors: whatever groups Hypothesis invents, they are balanced, sticky and deterministic."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groups.support import join, of, reading, settled
from takhin.groups.assignors import ASSIGNORS, Reader, assign, range_, uniform
from takhin.groups.events import Leave
from takhin.model import TopicPartition

names = st.sampled_from(["a", "b", "c", "d"])
catalogues = st.dictionaries(names, st.integers(0, 7), max_size=4)
subscriptions = st.frozensets(names | st.just("missing"), max_size=4)
member_ids = st.sampled_from(["m1", "m2", "m3", "m4", "m5"])


@st.composite
def readers_with(draw, subscription):
    """Members with subscriptions, some of them static, in any order."""
    ids = draw(st.lists(member_ids, unique=True, min_size=1))
    instances = draw(st.permutations(["z", "y", "", "", ""]))
    return [
        Reader(instance or one, one, draw(subscription))
        for one, instance in zip(ids, instances, strict=False)
    ]


@st.composite
def old_targets(draw):
    """A target from before: of members that may have left, with partitions that may not be there any more."""
    target = {}
    for name in draw(st.lists(names, unique=True)):
        for number, one in enumerate(draw(st.lists(member_ids | st.none(), max_size=8))):
            if one is not None:
                target[one] = target.get(one, frozenset()) | of(name, number)
    return target


few = settings(max_examples=30)
any_readers = readers_with(subscriptions)
both = pytest.mark.parametrize("assignor", [uniform, range_])


def existing(catalogue):
    return [TopicPartition(name, number) for name, count in catalogue.items() for number in range(count)]


def audience(readers, name):
    return [reader.member_id for reader in readers if name in reader.topics]


def stayed(old, new):
    """How many partitions have the owner that they had."""
    return sum(len(partitions & new.get(one, frozenset())) for one, partitions in old.items())


@both
@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets())
def test_everything_is_given_to_one_who_reads_it(assignor, readers, catalogue, old):
    """Each partition that anybody reads has exactly one reader, and nobody has what is not there."""
    target = assignor(readers, catalogue, old)
    assert target.keys() == {reader.member_id for reader in readers}
    given_ = [each for partitions in target.values() for each in partitions]
    assert Counter(given_) == Counter(each for each in existing(catalogue) if audience(readers, each.topic))
    for reader in readers:
        assert {each.topic for each in target[reader.member_id]} <= reader.topics


@both
@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets(), data=st.data())
def test_order_does_not_matter(assignor, readers, catalogue, old, data):
    """The same input in another order gives the same target."""
    shuffled = data.draw(st.permutations(readers))
    other_catalogue = dict(data.draw(st.permutations(list(catalogue.items()))))
    other_old = dict(data.draw(st.permutations(list(old.items()))))
    assert assignor(shuffled, other_catalogue, other_old) == assignor(readers, catalogue, old)


@both
@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets())
def test_a_good_target_stays(assignor, readers, catalogue, old):
    """Assigning again changes nothing, so a group comes to rest."""
    target = assignor(readers, catalogue, old)
    assert assignor(readers, catalogue, target) == target


@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets())
def test_uniform_is_balanced(readers, catalogue, old):
    """Nobody has two more than another who reads something of it."""
    target = uniform(readers, catalogue, old)
    for giver, taker in product(readers, repeat=2):
        more, less = target[giver.member_id], target[taker.member_id]
        if any(each.topic in taker.topics for each in more):
            assert len(more) - len(less) < 2


@few
@given(
    readers=readers_with(st.just(frozenset("ab"))),
    catalogue=st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.integers(0, 2)}),
    old=old_targets(),
)
def test_uniform_moves_as_little_as_possible(readers, catalogue, old):
    """Of all balanced targets of members that read the same, none leaves more where it was."""
    ids, partitions = [reader.member_id for reader in readers], existing(catalogue)
    most = 0
    for owners in product(ids, repeat=len(partitions)):
        counts = [owners.count(one) for one in ids]
        if max(counts) - min(counts) < 2:
            kept = sum(each in old.get(owner, ()) for each, owner in zip(partitions, owners, strict=True))
            most = max(most, kept)
    assert stayed(old, uniform(readers, catalogue, old)) == most


@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets())
def test_range_is_contiguous(readers, catalogue, old):
    """Of each topic a reader has numbers in a row, by names, and as many as the others or one more."""
    target = range_(readers, catalogue, old)
    for name, count in catalogue.items():
        expected, sizes = 0, []
        for reader in sorted(reader for reader in readers if name in reader.topics):
            numbers = sorted(each.partition for each in target[reader.member_id] if each.topic == name)
            assert numbers == list(range(expected, expected + len(numbers)))
            expected += len(numbers)
            sizes.append(len(numbers))
        assert not sizes or (expected == count and max(sizes) - min(sizes) < 2)


@few
@given(readers=any_readers, catalogue=catalogues, old=old_targets())
def test_range_brings_the_same_numbers_together(readers, catalogue, old):
    """Topics with the same readers and as many partitions are divided in the same way."""
    target = range_(readers, catalogue, old)
    for one, other in combinations(catalogue, 2):
        alike = catalogue[one] == catalogue[other] and audience(readers, one) == audience(readers, other)
        for partitions in target.values() if alike else ():
            numbers = [{each.partition for each in partitions if each.topic == name} for name in (one, other)]
            assert numbers[0] == numbers[1]


@few
@given(
    readers=readers_with(st.just(frozenset("ab"))),
    count=st.integers(0, 7),
    old=old_targets(),
)
def test_range_moves_as_little_as_possible(readers, count, old):
    """Of all ways to choose those who get one more, none leaves more where it was."""
    order, most = [reader.member_id for reader in sorted(readers)], 0
    size, more = divmod(count, len(order))
    for lucky in combinations(order, more):
        start, kept = 0, 0
        for one in order:
            end = start + size + (one in lucky)
            kept += len(
                old.get(one, frozenset()) & (of("a", *range(start, end)) | of("b", *range(start, end)))
            )
            start = end
        most = max(most, kept)
    assert stayed(old, range_(readers, {"a": count, "b": count}, old)) == most


def test_uniform_takes_only_what_a_newcomer_gets():
    """When one comes, nobody else gets anything; when one leaves, nobody else loses anything."""
    three = [Reader(one, one, frozenset("t")) for one in ("m1", "m2", "m3")]
    catalogue = {"t": 20}
    of_two = uniform(three[:2], catalogue, {})
    of_three = uniform(three, catalogue, of_two)
    assert all(of_three[one] < of_two[one] for one in ("m1", "m2"))
    back = uniform(three[:2], catalogue, of_three)
    assert all(of_three[one] < back[one] for one in ("m1", "m2"))


def test_range_goes_by_instances():
    """Members are in the order of instance ids, so one that restarts under another id keeps its place."""
    readers = [
        Reader("1", "x", frozenset("t")),
        Reader("2", "b", frozenset("t")),
        Reader("3", "a", frozenset("t")),
    ]
    expected = {"x": of("t", 0, 1), "b": of("t", 2, 3), "a": of("t", 4)}
    assert range_(readers, {"t": 5}, {}) == expected


def test_a_group_is_assigned_as_its_first_member_asked():
    """`assign` passes on what the members read, what exists and what was, and says which instances it saw."""
    case = settled(
        join("a", reading("t", "u"), assignor="range", instance_id="i"), join("b", reading("t", "u"))
    )
    made = assign(case.group)
    assert made.epoch == case.group.epoch
    assert made.target == {"b": of("t", 0, 1) | of("u", 0), "a": of("t", 2, 3) | of("u", 1)}
    assert made.instances == {"a": "i"}
    assert set(ASSIGNORS) == {"uniform", "range"}
    case.do(Leave("a"))
    case.do(Leave("b"))
    assert assign(case.group).target == {}
