"""Rules: default deny, deny wins, patterns, and what is seen."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from takhin.access.rules import (
    ACTIONS,
    EVERYTHING,
    Action,
    Grants,
    Need,
    Patterns,
    Resource,
    Rights,
    Rule,
    checked_rule,
)
from takhin.errors import InvalidArgumentError

TOPIC, GROUP = Resource.TOPIC, Resource.GROUP


def rights(*words: str) -> Rights:
    """Rights by words such as "allow read topic orders*"."""
    split = [each.split() for each in words]
    return Rights(
        Grants(
            checked_rule("me", action, resource, pattern, allow=verb == "allow")
            for verb, action, resource, pattern in split
        )
    )


def test_what_no_rule_allows_is_denied():
    """Without rules nothing is allowed, nothing is seen, nothing is allowed anywhere."""
    none = rights()
    for resource, actions in ACTIONS.items():
        for action in (*actions, None):
            assert not none.permit(Need(action, resource, "a"))
            assert not none.permit(Need(action, resource))
    assert not none.permit(Need())


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a", "A", False),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ba", False),
        ("*", "", True),
        ("*", "anything", True),
        ("a.b*", "axb", False),
    ],
)
def test_patterns(pattern, name, covered):
    """A pattern is a whole name, or a beginning with a star; other characters mean themselves."""
    assert rights(f"allow read topic {pattern}").permit(Need(Action.READ, TOPIC, name)) is covered


def test_deny_wins():
    """A rule that denies wins over one that allows, whichever is more exact and whichever came first."""
    for words in (
        ("allow read topic secret", "deny read topic *"),
        ("deny read topic sec*", "allow read topic secret"),
        ("allow read topic *", "deny read topic secret"),
    ):
        assert not rights(*words).permit(Need(Action.READ, TOPIC, "secret"))
    assert rights("allow read topic *", "deny write topic *").permit(Need(Action.READ, TOPIC, "secret"))


def test_actions_and_resources_are_apart():
    """A right is one action on one kind of resource: none implies another."""
    admin = rights("allow admin topic a")
    assert admin.permit(Need(Action.ADMIN, TOPIC, "a"))
    for action in (Action.READ, Action.WRITE):
        assert not admin.permit(Need(action, TOPIC, "a"))
    assert not admin.permit(Need(Action.ADMIN, GROUP, "a"))


def test_any_right_lets_see():
    """Whoever has any right on a topic sees it; one that is denied again counts for nothing."""
    assert rights("allow write topic a").see(TOPIC, "a")
    assert not rights("allow write topic a").see(GROUP, "a")
    assert not rights("allow write topic a", "deny write topic a").see(TOPIC, "a")


def test_somewhere():
    """A right somewhere is one that is not wholly denied."""
    need = Need(Action.WRITE, TOPIC)
    assert rights("allow write topic a").permit(need)
    assert rights("allow write topic a*", "deny write topic a").permit(need)
    assert rights("allow write topic *", "deny write topic a*").permit(need)
    assert not rights("allow write topic a*", "deny write topic a*").permit(need)
    assert not rights("allow write topic ab*", "allow write topic ac", "deny write topic a*").permit(need)
    assert not rights("allow write topic ab*", "deny write topic *").permit(need)


def test_rules_for_everybody():
    """Rules for everybody hold besides one's own; either may deny what the other allows."""
    need = Need(Action.READ, TOPIC, "a")
    allow = Grants([Rule("*", Action.READ, TOPIC, "a")])
    deny = Grants([Rule("me", Action.READ, TOPIC, "*", allow=False)])
    assert Rights(Grants(), allow).permit(need)
    assert not Rights(deny, allow).permit(need)
    assert not Rights(allow, deny).permit(need)
    assert not Rights(allow, deny).permit(Need(Action.READ, TOPIC))


def test_all_rights():
    """The rights of a caller who may do everything do not depend on rules."""
    assert EVERYTHING.permit(Need(Action.ADMIN, TOPIC, "a"))
    assert EVERYTHING.see(GROUP, "a")


@pytest.mark.parametrize(
    ("principal", "action", "resource", "pattern"),
    [
        ("", "read", "topic", "a"),
        (" me", "read", "topic", "a"),
        ("m\ne", "read", "topic", "a"),
        ("x" * 256, "read", "topic", "a"),
        ("me", "eat", "topic", "a"),
        ("me", "", "topic", "a"),
        ("me", "group", "topic", "a"),
        ("me", "write", "group", "a"),
        ("me", "read", "topic", ""),
        ("me", "read", "topic", "a*b"),
        ("me", "read", "topic", "**"),
        ("me", "read", "group", "x" * 257),
    ],
)
def test_rules_that_make_no_sense(principal, action, resource, pattern):
    """A rule with an impossible principal, action or pattern is refused with a sentence."""
    with pytest.raises(InvalidArgumentError):
        checked_rule(principal, action, resource, pattern, allow=True)


names = st.text("ab*", max_size=5)
patterns = st.lists(names, max_size=5)


def compiled(given_patterns) -> Patterns:
    found = Patterns()
    for pattern in given_patterns:
        found.add(pattern)
    return found


@settings(max_examples=40)
@given(patterns, names)
def test_patterns_as_one_would_write_them(given_patterns, name):
    """Looking names up by lengths finds what comparing with each pattern finds."""
    covered = any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in given_patterns
    )
    assert compiled(given_patterns).cover(name) is covered


@settings(max_examples=40)
@given(patterns, patterns)
def test_what_reaches_beyond(allowed, denied):
    """If no allowed pattern reaches beyond the denied ones, no allowed name is left."""
    if not compiled(allowed).reach_beyond([compiled(denied)]):
        for pattern in allowed:
            for name in (pattern.removesuffix("*"), pattern.removesuffix("*") + "zz"):
                assert not compiled([pattern]).cover(name) or compiled(denied).cover(name)


@pytest.mark.timed
def test_what_a_verdict_costs():
    """A known verdict takes less than a microsecond, and one among 10,000 rules little more than that."""
    mine = Rights(Grants(Rule("me", Action.READ, TOPIC, f"topic-{n}*") for n in range(10_000)))
    need = Need(Action.READ, TOPIC, "topic-77-x")
    assert mine.permit(need)

    def seconds(call, times):
        begun = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - begun) / times

    assert min(seconds(lambda: mine.permit(need), 10_000) for _ in range(5)) < 1e-6
    assert min(seconds(lambda: mine._judge(need), 100) for _ in range(5)) < 100e-6
