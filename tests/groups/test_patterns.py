"""Patterns of topic names: what they match, what is refused, and that matching is done once for each name."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from groups.attendee import create
from takhin.errors import InvalidArgumentError
from takhin.groups.patterns import MATCHED_AT_ONCE, Pattern, Patterns

NAMES = ["orders", "orders.eu", "old.orders", "Orders", "a", "_x", "x" * 249]


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("orders", ["orders"]),
        (r"orders\..*", ["orders.eu"]),
        (r".*orders.*", ["orders", "orders.eu", "old.orders"]),
        ("(?i)orders", ["orders", "Orders"]),
        ("a|_x", ["a", "_x"]),
        ("x+", ["x" * 249]),
        ("^orders$", ["orders"]),
        ("", []),
        ("[^o]*", ["Orders", "a", "_x", "x" * 249]),
    ],
)
async def test_whole_names_are_matched(text, matched):
    """A pattern matches a name from its beginning to its end."""
    pattern = Pattern(text)
    await pattern.look_at(NAMES)
    assert pattern.topics == frozenset(matched)


@pytest.mark.parametrize(
    "text",
    ["(", "a**", "[z-a]", "(?=a)", r"\1", "(?<name>a", "a{1001}", "((a{99}){99}){99}", r"\pL{500}", "ж"],
)
def test_what_is_no_pattern(text):
    """It is refused with its reason, not repeated at length."""
    with pytest.raises(InvalidArgumentError, match="topic_pattern") as refused:
        Pattern(text)
    assert refused.value.details["field"] == "topic_pattern"


@pytest.mark.parametrize("text", ["(a+)+b", "(a*)*(b*)*(.?){300}", "(a|a)*c", "(.*a){100}"])
async def test_no_pattern_takes_long(text):
    """Those that keep a backtracking matcher busy for years take some ms for a thousand names."""
    pattern = Pattern(text)
    began = time.thread_time()
    await pattern.look_at([f"{'a' * 240}{n}" for n in range(1_000)])
    assert time.thread_time() - began < 0.5


async def test_others_have_turns():
    """Many names are matched in several turns of the loop."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await Pattern("a+").look_at([f"a{n}" for n in range(10 * MATCHED_AT_ONCE)])
    counting.cancel()
    assert turns >= 9


async def test_names_come_and_go(engine):
    """A pattern that is kept is matched against new names, and forgets those that are gone."""
    patterns = Patterns(engine, 100)
    await create(engine, "orders.eu", 1)
    found = await patterns.find("orders.*")
    assert found.topics == {"orders.eu"}
    assert await patterns.find("orders.*") is found
    await create(engine, "orders.us", 1)
    await create(engine, "stock", 1)
    await patterns.look_again()
    assert found.topics == {"orders.eu", "orders.us"}
    await engine.delete_topic("orders.eu")
    assert (await patterns.find("orders.*")).topics == {"orders.us"}


async def test_the_catalogue_changes_meanwhile(engine):
    """What is found is true of the topics as they are in the end."""
    await create(engine, "orders.0", 1)
    patterns = Patterns(engine, 100)
    found, *_ = await asyncio.gather(
        patterns.find("orders.*"), *(create(engine, f"orders.{n}", 1) for n in range(1, 5))
    )
    assert found.topics <= set(engine.topics)
    await patterns.look_again()
    assert found.topics == set(engine.topics)


async def test_a_pattern_that_nobody_keeps_is_forgotten(engine):
    """Members come with patterns of all kinds; none stays in memory without them."""
    patterns = Patterns(engine, 100)
    kept = await patterns.find("kept")
    for n in range(10):
        await patterns.find(f"gone{n}")
    gc.collect()
    assert list(patterns._patterns) == [kept.text]


async def test_a_look_that_is_cancelled():
    """The next one begins again."""
    pattern = Pattern("a+")
    names = dict.fromkeys("a" * n for n in range(1, 3 * MATCHED_AT_ONCE))
    task = asyncio.create_task(pattern.look_at(names))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not pattern.topics
    await pattern.look_at(names)
    assert pattern.topics == frozenset(names)


async def test_patterns_share_what_they_match(engine):
    """Members may come with a thousand patterns that match everything: that takes the memory of one."""
    for n in range(3):
        await create(engine, f"orders.{n}", 1)
    patterns = Patterns(engine, 100)
    found = [await patterns.find(f"orders.*|x{n}") for n in range(10)]
    assert len({id(pattern.topics) for pattern in found}) == 1
    before = found[0].topics
    await patterns.look_again()
    assert all(pattern.topics is before for pattern in found)
    await create(engine, "x3", 1)
    await patterns.look_again()
    assert [pattern.topics is before for pattern in found] == [n != 3 for n in range(10)]


async def test_a_long_pattern_is_refused(engine):
    """The error names the setting."""
    with pytest.raises(InvalidArgumentError, match="pattern_chars_max"):
        await Patterns(engine, 10).find("a" * 11)
