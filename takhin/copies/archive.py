"""Unpacks a data folder or a backup from a tar archive, which may have been made to do harm.

Nothing is written under a name from the archive: each must be a plain relative path to a file or a folder,
and the few files that matter are written under names of takhin/disk/layout.py.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from takhin.disk.finding import checked_topic
from takhin.disk.layout import (
    ASIDE,
    MANIFEST,
    NAMES,
    SHM,
    TOPICS,
    WITNESS,
    Layout,
    is_beside_partition,
    partition_number,
)
from takhin.errors import CopyError
from takhin.sentences import shown

COPY_BYTES = 1 << 20


def unpack(archive: Path, into: Path) -> None:
    """Write the files that matter of the archive's data folder into the new folder `into`.

    The data folder may be the archive's root or any folder in it. Raises CopyError if there is none or more
    than one, and for every member that does not belong into such an archive.
    """
    into.mkdir()
    try:
        # Not as a stream ("r|*"): that skips a file in steps of 10 KB, and copies what is unpacked for each.
        with tarfile.open(archive, "r:*") as tar:
            roots = {root for member in tar if (root := _take(tar, member, into)) is not None}
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # by the disk; what gzip and bz2 say of damage has no number
        raise CopyError(f"{archive} is not a tar archive, or a damaged one: {error}") from error
    except CopyError as error:
        raise CopyError(f"{archive} is refused: {error}") from error
    if not Layout(into).topics.is_dir():
        raise CopyError(
            f"{archive} holds neither a data folder nor a backup: it has no {NAMES.topics}/*/*.db"
        )
    if len(roots) != 1:
        found = ", ".join(sorted(shown(root) for root in roots))
        raise CopyError(f"{archive} holds more than one data folder ({found}): restore takes one")


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> str | None:
    """Write a member if it matters, and return the data folder that it belongs to; else None.

    Raises CopyError for a hostile one.
    """
    parts = _parts(member)
    if member.isdir():
        return None
    for root, name in _files(parts):
        path = into / name
        if path.exists():
            raise CopyError(f"it has {shown(member.name)} twice, or more than one data folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101  `_parts` let only files and folders through
        with path.open("xb") as file:
            shutil.copyfileobj(content, file, COPY_BYTES)
        return root
    return None


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of a member's name. Raises CopyError for a name that could lead out of the folder."""
    name = member.name
    if not (member.isreg() or member.isdir()):
        raise CopyError(f"{shown(name)} is a link, a device or the like")
    if name.startswith("/") or "\\" in name or not name.isprintable() or ".." in name.split("/"):
        raise CopyError(f"{shown(name)} is not a plain name in a folder")
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
        try:
            tarfile.data_filter(member, "/nowhere")
        except tarfile.FilterError as error:
            raise CopyError(str(error)) from error
    return PurePosixPath(name).parts


def _files(parts: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(data folder, path in it) of a file that matters; nothing for other files."""
    *before, last = parts or ("",)
    if len(before) >= 2 and before[-2] == TOPICS:
        topic = checked_topic(before[-1])
        if partition_number(last) is None and not is_beside_partition(last):
            raise CopyError(f"{shown('/'.join(parts))} does not belong in a topic's folder")
        if not last.endswith(SHM):
            yield "/".join(before[:-2]), NAMES.topic(topic) / last
    elif last in (MANIFEST, WITNESS) and ASIDE not in before:
        yield "/".join(before), Path(last)
