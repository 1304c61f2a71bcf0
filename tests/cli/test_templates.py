"""Output templates: what each verb prints, and what is not a template."""

from __future__ import annotations

import pytest

from takhin.cli.templates import compiled
from takhin.client import Header, Record

HEADERS = [Header("a", b"1"), Header("a", b"\xfe")]
RECORD = Record("orders", 3, 7, 1_767_225_600_001, b"k\xff", b"v v", HEADERS)


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        ("", b""),
        (r"%o %k %v\n", b"7 k\xff v v\n"),
        ("%t/%p", b"orders/3"),
        ("%K,%V,%H", b"2,3,2"),
        ("%k{hex} %v{base64}", b"6bff diB2"),
        ("%d %d{iso}", b"1767225600001 2026-01-01T00:00:00.001Z"),
        ("%h %h{hex}", b"a=1,a=\xfe a=31,a=fe"),
        (r"100%% \\ \t\r\0\x41\xff", b"100% \\ \t\r\x00A\xff"),
        ("ü{}\n", "ü{}\n".encode()),
        ("%%o", b"%o"),
    ],
)
def test_what_is_printed(template, printed):
    assert compiled(template)(RECORD) == printed


def test_what_is_not_there():
    """Nothing is printed for None; its length is -1, unlike that of an empty value."""
    record = RECORD._replace(key=None, value=b"", headers=[])
    assert compiled("[%k|%v|%h] %K %V %H")(record) == b"[||] -1 0 0"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("%x", "no verb %x"),
        ("%T", "no verb %T"),
        ("%", "'%' at 0"),
        ("ab %-5o", "'%-' at 3"),
        (r"\q", r"'\\q' at 0"),
        ("\\", r"'\\' at 0"),
        (r"\x4", r"'\\x' at 0"),
        ("%k{json}", "%k has no form 'json'"),
        ("%o{hex}", "%o has no form 'hex'"),
        ("%t{hex}", "%t has no form 'hex'"),
        ("%d{hex}", "%d has no form 'hex'"),
        ("%k{}", "%k has no form ''"),
    ],
)
def test_what_is_no_template(template, sentence):
    with pytest.raises(ValueError) as refused:
        compiled(template)
    assert sentence in str(refused.value)
