"""Whether the limits on free space fit the disk: on a small one some of them can never be met."""

from __future__ import annotations

from collections.abc import Iterator

from takhin.sentences import sized
from takhin.settings import StorageSettings

SHARE_MAX = 4
"""A ballast larger than one in so many bytes of the disk leaves too little for records."""


def wanted_after_full(settings: StorageSettings, least: int) -> int:
    """Free bytes at which records are taken again: room for the ballast and as much again, for records."""
    return max(2 * settings.ballast_bytes, least)


def unfit(settings: StorageSettings, total_bytes: int) -> Iterator[tuple[str, str]]:
    """Each limit that does not fit a disk of that size, as a sentence, and what to do about it."""
    ballast, low = settings.ballast_bytes, settings.free_bytes_low
    disk = f"the disk has {sized(total_bytes)}"
    do = "lower storage.ballast_bytes, or use a larger disk"
    if 2 * ballast > total_bytes:
        never = f"after it was full, it never has the {sized(2 * ballast)} free with which records are taken"
        yield f"storage.ballast_bytes is {sized(ballast)}, and {disk}: {never}", do
    elif SHARE_MAX * ballast > total_bytes:
        yield f"storage.ballast_bytes is {sized(ballast)}, and {disk}", do
    if low > total_bytes:
        do = "lower storage.free_bytes_low, or use a larger disk"
        yield f"storage.free_bytes_low is {sized(low)}, and {disk}: it always counts as low", do
