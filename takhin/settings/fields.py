"""How a setting is declared: its default, bounds and doc, and the kind of value that follows from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from takhin.kinds import (
    Bool,
    Choice,
    FilePath,
    Kind,
    ListOf,
    NoneOr,
    Secret,
    SecretText,
    Share,
    Text,
    Whole,
)

INT32_MAX = (1 << 31) - 1
"""The most that a number may be unless its setting says otherwise: gRPC and SQLite take most as int32."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

GRPC_SCHEMES = {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "google-c2p"}
ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def setting(
    default: Any,
    doc: str,
    *,
    least: int = 0,
    most: int = INT32_MAX,
    no_limit: bool = False,
    choices: Sequence[str] = (),
    check: Callable[[str], object] | None = None,
) -> Any:
    """A field of the tree. Its kind follows from its default: see `kind_of`.

    doc: one line for people.
    least, most: the bounds of a whole number; least also of how many items a list has.
    no_limit: a number may also be -1, which means that there is none.
    choices: all that a text, or each item of a list, may be.
    check: raises ValueError with the rest of the sentence "KEY must be …" for a text that will not do, or for
    an item of a list. With it, a default of None stands for no text.
    """
    text = Choice(tuple(choices)) if choices else Text(check)
    kind = kind_of(default, Whole(least, most, no_limit), text)
    if default is None and check is not None:
        kind = NoneOr(text)
    if isinstance(kind, ListOf):
        kind = ListOf(text, least)
    return field(default=default, metadata={"doc": doc, "kind": kind})


def kind_of(default: object, number: Kind[int], text: Kind[str]) -> Kind[Any]:
    """The kind of a setting by its default: bool, int, float (a share), Path, Secret, tuple (a list) or str.

    A list has texts as items. The default of a secret is the empty Secret, that of a path that need not be
    given is None.
    """
    kinds: dict[type, Kind[Any]] = {
        bool: Bool(),
        int: number,
        float: Share(),
        Path: FilePath(),
        type(None): NoneOr(FilePath()),
        Secret: SecretText(),
        tuple: ListOf(text),
        str: text,
    }
    return next(kind for type_, kind in kinds.items() if isinstance(default, type_))


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. An IPv6 host is written in brackets, which are not part of the result.

    Raises ValueError with the rest of the sentence "the address must be …".
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError("HOST:PORT, an IPv6 host in brackets")
    if match["host"] in GRPC_SCHEMES:  # gRPC would read unix:9092 as a socket file of that name
        raise ValueError(f"HOST:PORT with a host other than {match['host']!r}, which gRPC takes for a scheme")
    port = int(match["port"])
    if port > 65_535:
        raise ValueError("HOST:PORT with a port of at most 65535")
    return match["ipv6"] or match["host"], port
