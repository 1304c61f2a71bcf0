"""Certificates: which principal one is for."""

from __future__ import annotations

import pytest

from access.support import settings_of
from takhin.access.principals import parsed_mapping, principal_of
from takhin.access.rules import checked_rule
from takhin.access.tokens import new_token
from takhin.errors import InvalidArgumentError, StartupError


@pytest.mark.parametrize(
    ("names", "mappings", "principal"),
    [
        (["spiffe://x/a", "cn"], [], "spiffe://x/a"),
        (["", "cn"], [], "cn"),
        ([], [], None),
        (["a\nb"], [], None),
        (["*"], [], None),
        (["spiffe://x/a", "cn"], ["spiffe://x/*=*"], "a"),
        (["other", "spiffe://x/a"], ["spiffe://x/*=svc-*"], "svc-a"),
        (["a.x.example", "cn"], ["*.x.example=*"], "a"),
        (["a.b.x.example"], ["*.x.example=*"], "a.b.x.example"),
        (["spiffe://x/a/b"], ["spiffe://x/*=boss"], "spiffe://x/a/b"),
        (["anonymous"], [], None),
        (["x-anonymous"], ["x-*=*"], None),
        ([".x.example"], ["*.x.example=*"], ".x.example"),
        (["a", "cn"], ["cn=boss"], "boss"),
        (["b", "a"], ["a=one", "b=two"], "two"),
        (["x=1"], ["x=1=me"], "me"),
    ],
)
def test_principal(names, mappings, principal):
    """The first name with a mapping counts, else the first name; one that no principal may have is none."""
    assert principal_of(names, [parsed_mapping(text) for text in mappings]) == principal


@pytest.mark.parametrize("text", ["", "a", "=a", "a=", "*x*=a", "a=*", "*=**"])
def test_mappings_that_make_no_sense(text):
    """A mapping without two sides, or with stars that stand for nothing, is refused."""
    with pytest.raises(ValueError, match="PATTERN=PRINCIPAL"):
        parsed_mapping(text)


def test_nobody_is_called_anonymous(tmp_path):
    """No token, rule or socket has the name of those who have not proved who they are: they have no quota."""
    with pytest.raises(InvalidArgumentError, match="anonymous"):
        new_token("anonymous", expires_at=0, note="", now=1)
    with pytest.raises(InvalidArgumentError, match="anonymous"):
        checked_rule("anonymous", "read", "topic", "*", allow=True)
    with pytest.raises(StartupError, match="anonymous"):
        settings_of(tmp_path, access__unix_principal="anonymous")
