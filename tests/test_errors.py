"""The error tree: its drawing matches the tree, and each error says what a person and a program need."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from takhin import errors
from takhin.errors import (
    EndOffsetMismatchError,
    OffsetOutOfRangeError,
    RefusedError,
    ShuttingDownError,
    TakhinError,
    TopicExistsError,
    UnknownGroupError,
    UnknownPartitionError,
    UnknownTopicError,
)

ERRORS = [value for value in vars(errors).values() if isinstance(value, type)]


def drawn() -> Iterator[tuple[str, str]]:
    """(error, its base) of each line of the drawing in the module's docstring, in order."""
    above: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"( {4}[│├└─ ]*)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            above[depth] = found[2]
            yield found[2], above.get(depth - 1, "Exception")


def test_the_drawing_is_the_tree():
    """The drawing at the top of errors.py shows every error once, under its base."""
    assert sorted(drawn()) == sorted((error.__name__, error.__base__.__name__) for error in ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_explained(error: type):
    """Each error has a docstring of one sentence or more, and is derived from ours."""
    assert error.__doc__.strip()
    assert issubclass(error, TakhinError)
    assert error.__name__.endswith("Error")


def test_details_are_text():
    """The values of an error are text for google.rpc.ErrorInfo, beside the sentence."""
    error = RefusedError("three are too many", count=3, limit=2)
    assert (str(error), error.details) == ("three are too many", {"count": "3", "limit": "2"})
    assert TakhinError("nothing to add").details == {}


@pytest.mark.parametrize(
    ("error", "sentence", "details"),
    [
        (UnknownTopicError("a"), "there is no topic 'a'", {"topic": "a"}),
        (TopicExistsError("a"), "topic 'a' exists already", {"topic": "a"}),
        (UnknownGroupError("g"), "there is no consumer group 'g'", {"group_id": "g"}),
        (ShuttingDownError(), "the broker is shutting down", {}),
        (
            UnknownPartitionError("a", 7, 3),
            "topic 'a' has partitions 0 to 2, not 7",
            {"topic": "a", "partition": "7", "num_partitions": "3"},
        ),
        (
            OffsetOutOfRangeError("a", 1, 9, 2, 5),
            "offset 9 is outside the log of topic 'a' partition 1, which reaches from 2 to 5",
            {"topic": "a", "partition": "1", "offset": "9", "beginning_offset": "2", "end_offset": "5"},
        ),
        (
            EndOffsetMismatchError("a", 1, 9, 5),
            "the log of topic 'a' partition 1 ends at 5, not at the expected 9",
            {"topic": "a", "partition": "1", "expected_offset": "9", "end_offset": "5"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_sentences_and_values(error: TakhinError, sentence: str, details: dict[str, str]):
    """Errors that build their own sentence name the offending value in it and in their details."""
    assert (str(error), error.details) == (sentence, details)
