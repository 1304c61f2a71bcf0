"""Takes a data folder or a backup out of a tar archive, which may have been made to do harm.

Nothing is extracted by the archive's own names: each must be a plain relative path to a file or a folder, and
the few files that matter are written under names made here.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from takhin.copies.folders import BESIDE, PARTITION_FILE, checked_topic
from takhin.copies.manifest import NAME
from takhin.errors import CopyError
from takhin.sentences import shown

COPY_BYTES = 1 << 20


def unpack(archive: Path, into: Path) -> None:
    """Write what matters of the archive's data folder below the new folder `into`.

    The data folder may be the archive's root or lie somewhere in it. Raises CopyError for anything else, and
    for whatever has no place in such an archive.
    """
    into.mkdir()
    try:
        with tarfile.open(archive, "r|*") as tar:
            roots = {root for member in tar if (root := _take(tar, member, into)) is not None}
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise CopyError(f"{archive} is no tar archive, or a damaged one: {error}") from error
    except CopyError as error:
        raise CopyError(f"{archive} is refused: {error}") from error
    if not (into / "topics").is_dir():
        raise CopyError(f"{archive} holds no data folder and no backup: there is nothing at topics/*/*.db")
    if len(roots) != 1:
        found = ", ".join(sorted(shown(root) for root in roots))
        raise CopyError(f"{archive} holds more than one data folder ({found}): restore takes one")


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> str | None:
    """Write a member if it matters, refuse it if it is hostile; the data folder it belongs to."""
    parts = _parts(member)
    if member.isdir():
        return None
    for root, name in _files(parts):
        path = into / name
        if path.exists():
            raise CopyError(f"it has {shown(member.name)} twice, or more than one data folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101  it is a file
        with path.open("xb") as file:
            shutil.copyfileobj(content, file, COPY_BYTES)
        return root
    return None


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of a member's name. Raises CopyError for what could reach out of a folder."""
    name = member.name
    if not (member.isreg() or member.isdir()):
        raise CopyError(f"{shown(name)} is a link, a device or the like")
    if name.startswith("/") or "\\" in name or not name.isprintable() or ".." in name.split("/"):
        raise CopyError(f"{shown(name)} is no plain name in a folder")
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
        try:
            tarfile.data_filter(member, "/nowhere")
        except tarfile.FilterError as error:
            raise CopyError(str(error)) from error
    return PurePosixPath(name).parts


def _files(parts: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(data folder, path in it) of a file that matters, else nothing."""
    *before, last = parts or ("",)
    if len(before) >= 2 and before[-2] == "topics":
        topic = checked_topic(before[-1])
        beside = BESIDE.fullmatch(last)
        if not beside and not PARTITION_FILE.fullmatch(last):
            raise CopyError(f"{shown('/'.join(parts))} does not belong in a topic's folder")
        if not last.endswith("-shm"):
            yield "/".join(before[:-2]), Path("topics", topic, last)
    elif last in (NAME, "witness") and "aside" not in before:
        yield "/".join(before), Path(last)
