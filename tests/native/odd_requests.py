"""Produce requests as bytes: most are as generated code writes them, many are not, some make no sense."""

from __future__ import annotations

import random

from takhin.wire.encode import varint

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
TEXTS = (b"", b"t", b"topic", "é\0☃𝄞\U0010ffff".encode(), b"x" * 40)
BAD_TEXTS = (
    b"\x80",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x98",
    b"a\xff",
    b"\xf8\x88\x80\x80\x80",
)
"""No UTF-8: a lone continuation, an overlong zero, a surrogate, one above Unicode, one cut short, others."""
SIZES = (0, 0, 1, 5, 100, 127, 128, 300)
STAMPS = (0, 0, 1, 5, 1_700_000_000_000, (1 << 63) - 1)
RECORD_KEY, RECORD_VALUE, RECORD_HEADERS, RECORD_TIMESTAMP, RECORD_OFFSET, RECORD_PARTITION = 1, 2, 3, 4, 5, 6


def long_varint(number: int, size: int) -> bytes:
    """A number in more bytes than it needs, or in so many that nobody should read it."""
    out = bytearray((number >> 7 * i) & 0x7F | 0x80 for i in range(size))
    out[-1] &= 0x7F
    return bytes(out)


def field(number: int, value: bytes | int) -> bytes:
    """A field as every encoder writes it. A number below zero has ten bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | LENGTH) + varint(len(value)) + value
    return varint(number << 3 | VARINT) + varint(value % (1 << 64))


def odd_field(chance: random.Random) -> bytes:
    """A field that no encoder of ours writes, or no field at all."""
    number = chance.choice((1, 2, 3, 4, 5, 6, 7, 12, 15, 16, 100, (1 << 29) - 1))
    content = chance.randbytes(chance.choice(SIZES))
    depth = chance.choice((1, 2, 90, 99, 100, 101, 200))
    several = b"".join(varint(chance.getrandbits(20)) for _ in range(3))
    too_large = chance.choice((1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1))
    begin, end = varint(number << 3 | GROUP), varint(number << 3 | END_GROUP)
    tag = varint(number << 3 | LENGTH)
    return chance.choice(
        (
            # a tag or a length that is longer than it needs to be, or much too large
            long_varint(number << 3 | LENGTH, 5) + varint(len(content)) + content,
            tag + long_varint(len(content), chance.choice((3, 5, 6, 9, 10))) + content,
            tag + varint(too_large),
            # a number of ten bytes, or of eleven
            varint(number << 3) + long_varint(chance.getrandbits(70), chance.choice((9, 10, 11))),
            varint(number << 3 | FIXED64) + chance.randbytes(8),
            varint(number << 3 | FIXED32) + chance.randbytes(chance.choice((4, 4, 3))),
            # groups, of which proto3 has none: many in each other, one that does not end or has not begun
            begin * depth + end * depth,
            chance.choice((begin, end)),
            field(number, several),  # a list of numbers in one
            bytes((chance.choice((0, 2, 6, 7, 0x0E, 0x3F)),)),  # no number of a field, no kind of one
            field(number, content),
            field(number, chance.choice(STAMPS)),
        )
    )


def header(chance: random.Random) -> bytes:
    """A record's header, without its tag and length."""
    key = chance.choice(TEXTS[1:] if chance.random() < 0.9 else BAD_TEXTS + TEXTS[:1])
    parts = [field(1, key)] if chance.random() < 0.98 else []
    if chance.random() < 0.8:
        parts.append(field(2, chance.randbytes(chance.choice(SIZES))))
    if chance.random() < 0.02:
        parts.append(odd_field(chance))
    chance.shuffle(parts)
    return b"".join(parts)


def record(chance: random.Random, odds: float) -> bytes:
    """A record, without its tag and length. odds: of something odd in it."""
    parts = []
    if chance.random() < 0.5:
        parts.append(field(RECORD_KEY, chance.randbytes(chance.choice(SIZES))))
    if chance.random() < 0.9:
        parts.append(field(RECORD_VALUE, content(chance)))
    if chance.random() < 0.2:
        parts += [field(RECORD_HEADERS, header(chance)) for _ in range(chance.choice((1, 1, 2, 3, 8)))]
    if chance.random() < 0.5:
        stamp = chance.choice(STAMPS if chance.random() > odds else (-1, -(1 << 63)))
        parts.append(field(RECORD_TIMESTAMP, stamp))
    if chance.random() < 0.2:
        parts.append(field(RECORD_OFFSET, chance.choice(STAMPS)))
        parts.append(field(RECORD_PARTITION, chance.choice((0, 3))))
    if chance.random() < odds:
        parts.append(chance.choice(parts) if parts and chance.random() < 0.3 else odd_field(chance))
        chance.shuffle(parts)
    return b"".join(parts)


def content(chance: random.Random) -> bytes:
    """A value: most are short. Of the long ones some end in so many zeros that it matters on disk."""
    if chance.random() > 0.01:
        return chance.randbytes(chance.choice(SIZES))
    return chance.randbytes(chance.choice((1, 40))) + bytes(
        chance.choice((1_900, 1_999, 2_000, 2_060, 14_400, 40_000))
    )


def head_fields(chance: random.Random) -> list[bytes]:
    """All but the records."""
    parts = [field(1, chance.choice(TEXTS if chance.random() < 0.97 else BAD_TEXTS))]
    parts.append(field(2, chance.choice((0, 3, 3, -1))))
    choices = (
        *(field(4, chance.choice((0, 1, -1))), field(5, chance.choice((0, 1_000, -5)))),
        *(field(7, b"p" * chance.choice((0, 15, 16))), field(8, chance.choice(STAMPS))),
        *(field(9, 0), field(10, field(1, b"g") + field(2, b"in") + field(4, 7)), field(11, b"id")),
    )
    return parts + [part for part in choices if chance.random() < 0.15]


def request(chance: random.Random) -> bytes:
    """A whole request."""
    odds = chance.choice((0, 0, 0, 0.02, 0.3))
    count = chance.choice((0, 1, 1, 2, 3, 5, 10, 40))
    records = [field(6, record(chance, odds)) for _ in range(count)]
    parts = head_fields(chance)
    if chance.random() < odds:
        parts.append(chance.choice((field(3, record(chance, odds)), odd_field(chance), field(12, 1))))
    if chance.random() < 0.1:
        chance.shuffle(parts)
    at = chance.randrange(len(parts) + 1) if chance.random() < 0.2 else len(parts)
    parts[at:at] = records
    if chance.random() < odds:
        chance.shuffle(parts)
    whole = b"".join(parts)
    return damaged(chance, whole) if chance.random() < odds else whole


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """With some bytes changed, lost, repeated or added."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + chance.choice((1, 2, 30))]
            case 2:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 9)))
            case 3:
                data[at:at] = data[at : at + chance.choice((1, 2, 30))]
            case _ if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
    return bytes(data)
