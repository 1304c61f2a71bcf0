"""Tokens: their form, their hash, and that finding one tells nothing of others."""

from __future__ import annotations

import re

import pytest

from takhin.access import tokens
from takhin.access.tokens import Token


def test_the_form():
    """A token is tkn_, 49 characters of base62, the last six of which are a checksum; no two are alike."""
    made = {tokens.new_text() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(re.fullmatch("tkn_[0-9A-Za-z]{49}", text) and tokens.is_token(text) for text in made)


@pytest.mark.parametrize("position", [0, 4, 20, 46, 47, 52])
def test_the_checksum(position):
    """A token with another character anywhere is recognised as none, as are other texts."""
    text = tokens.new_text()
    other = "0" if text[position] != "0" else "1"
    assert not tokens.is_token(text[:position] + other + text[position + 1 :])
    assert not any(map(tokens.is_token, ("", "tkn_", text[:-1], text + "0", "x" * 53)))


def test_only_the_hash_is_kept():
    """What is kept of a token does not have its text."""
    text = tokens.new_text()
    kept = Token("1", "me", tokens.digest_of(text), 0)
    assert text not in repr(kept)
    assert tokens.find({kept.digest: kept}, text) is kept
    assert tokens.find({kept.digest: kept}, tokens.new_text()) is None


def test_expiry():
    """A token expires at its time; one without never does."""
    kept = Token("1", "me", b"", 0, expires_at=10)
    assert not kept.has_expired(9)
    assert kept.has_expired(10)
    assert not kept._replace(expires_at=tokens.NEVER).has_expired(1 << 62)
