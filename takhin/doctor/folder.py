"""The files of a data folder: whose they are, who may read them, what was left behind, what is damaged.

Partitions' files are looked at by size, time and first page, as `takhin verify` begins; it reads the rest.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISLNK, S_ISREG

import apsw

from takhin.disk.access import UMASKS
from takhin.disk.beside import check_header
from takhin.disk.finding import partition_files, strangers, topic_folders
from takhin.disk.folder import is_locked
from takhin.disk.layout import (
    ACCESS,
    ASIDE,
    BALLAST,
    HELD,
    HOLD,
    LOCK,
    TMP,
    WITNESS,
    Layout,
    shm_of,
    wal_bytes,
)
from takhin.disk.plain import read_plain
from takhin.doctor.findings import Finding, Level, gb, some
from takhin.errors import CopyError
from takhin.settings import Settings

PROC = Path("/proc")
PID_BYTES_MAX = 32
KNOWN = {ACCESS, LOCK, TMP, WITNESS, BALLAST, HOLD, HELD, ASIDE, "lost+found"}
"""What a folder may have that is not used yet; a file system makes the last one."""


@dataclass(slots=True)
class Files:
    """What is in the folder, as one walk through it finds it."""

    all: list[tuple[Path, os.stat_result]] = field(default_factory=list)
    """All files and folders but those in DATA/aside."""
    aside_bytes: int = 0
    unread: list[Path] = field(default_factory=list)
    """Folders that may not be read."""
    newest: tuple[float, Path] | None = None
    """When a file was last changed (s), and which."""

    @classmethod
    def of(cls, data_dir: Path) -> Files:
        """Walk through a folder. What is removed meanwhile, by a broker, is not there."""
        files = cls()
        aside = Layout(data_dir).aside
        walk = os.walk(data_dir, onerror=lambda error: files.unread.append(Path(str(error.filename))))
        for folder, names, others in walk:
            for name in (*names, *others):
                path = Path(folder, name)
                try:
                    files._add(path, path.lstat(), is_aside=path.is_relative_to(aside))
                except FileNotFoundError:
                    continue
        files.all.append((data_dir, data_dir.stat()))
        return files

    def _add(self, path: Path, found: os.stat_result, *, is_aside: bool) -> None:
        if is_aside:
            self.aside_bytes += found.st_blocks * 512
            return
        self.all.append((path, found))
        if S_ISREG(found.st_mode) and (self.newest is None or found.st_mtime > self.newest[0]):
            self.newest = found.st_mtime, path


def holder(data_dir: Path) -> tuple[bool, int | None]:
    """(whether a broker, or a command that changes it, has the folder; its pid if it is known)."""
    if not is_locked(data_dir):
        return False, None
    try:
        said = read_plain(Layout(data_dir).lock, PID_BYTES_MAX).strip()
    except OSError:
        return True, None
    pid = int(said) if said.isdigit() else 0
    # In another container the number is another process's here, or nobody's.
    return True, pid if pid and (PROC / str(pid)).exists() else None


def usable(settings: Settings) -> Iterator[Finding]:
    """Whether it is a data folder, or may become one."""
    data_dir, layout = settings.data_dir, Layout(settings.data_dir)
    if not os.path.lexists(data_dir):
        above = next(each for each in data_dir.absolute().parents if each.exists())
        if os.access(above, os.W_OK | os.X_OK):
            yield Finding(Level.OK, "folder", f"{data_dir} is not there: the first start makes it")
        else:
            do = f"make it, and give it to the broker's user: {above} cannot be written to by this one"
            yield Finding(Level.BAD, "folder", f"{data_dir} is not there", do)
    elif not data_dir.is_dir():
        yield Finding(Level.BAD, "folder", f"{data_dir} is not a folder", "set data_dir to one")
    elif not os.access(data_dir, os.R_OK | os.X_OK):
        do = "run this as the broker's user, or as root"
        yield Finding(Level.BAD, "folder", f"{data_dir} may not be read by this user", do)
    elif layout.manifest.exists():
        do = "leave it as it is, and `takhin restore` it into a data folder"
        yield Finding(Level.BAD, "folder", f"{data_dir} is a backup", do)
    elif not layout.topics.is_dir() and (
        others := sorted({path.name for path in data_dir.iterdir()} - KNOWN)
    ):
        what = f"{data_dir} has no topics, but {some(others, 'other thing')}: is it the right folder?"
        yield Finding(Level.BAD, "folder", what, "set data_dir to a folder that is the broker's alone")
    else:
        yield Finding(Level.OK, "folder", str(data_dir.absolute()))


def broker(data_dir: Path, *, running: bool, pid: int | None) -> Iterator[Finding]:
    """Whether one runs, and how the last one ended. Raises OSError."""
    if running:
        who = f"pid {pid}" if pid is not None else "its pid is not one of this machine, or not known"
        yield Finding(Level.OK, "broker", f"one has the folder ({who}); `takhin health` asks it how it is")
        return
    layout = Layout(data_dir)
    left = [path for _, _, path in partitions(data_dir) if wal_bytes(path) or shm_of(path).exists()]
    if left:
        size = gb(sum(map(wal_bytes, left)))
        what = f"none has the folder, and the last one did not end by itself: write-ahead logs ({len(left)}) "
        what += f"with {size} are left"
        do = "nothing is lost: start it. Until then, copy no .db file without its -wal"
        yield Finding(Level.WARN, "broker", what, do)
    else:
        yield Finding(Level.OK, "broker", "none has the folder")
    if not layout.witness.exists() and any(True for _ in partitions(data_dir)):
        do = "put it back if you have it: without it no start can see that a log has lost its last records"
        yield Finding(Level.WARN, "broker", f"{layout.witness} is gone", do)


def leftovers(settings: Settings, files: Files, *, running: bool) -> Iterator[Finding]:
    """What somebody has forgotten. Raises OSError."""
    layout = Layout(settings.data_dir)
    well = True
    if os.path.lexists(layout.hold):
        age = time.time() - layout.hold.lstat().st_mtime
        if not running or age * 1_000 > settings.storage.hold_age_ms_max:
            what = f"{layout.hold} is there for {age:,.0f} s: while it is, all write-ahead logs grow"
            yield Finding(Level.WARN, "leftovers", what, "remove it if nobody is copying the folder")
            well = False
    made = list(layout.tmp.iterdir()) if layout.tmp.is_dir() else []
    made = [path for path in made if path != layout.template]
    if made and not running:
        what = f"{layout.tmp} has {some([path.name for path in made], 'thing')} of topics that were being "
        yield Finding(Level.OK, "leftovers", f"{what}made or removed", "the next start removes them")
    if files.aside_bytes:
        what = f"{layout.aside} holds {gb(files.aside_bytes)} that restore and recover have replaced"
        yield Finding(Level.OK, "leftovers", what, "remove it when you no longer need it")
    odd = list(_strangers(layout))
    if odd:
        do = "move them elsewhere: the broker leaves them alone"
        yield Finding(
            Level.WARN, "leftovers", f"{some(odd, 'file')} in {layout.topics} belong to no topic", do
        )
        well = False
    if well:
        yield Finding(Level.OK, "leftovers", "nothing was forgotten")


def _strangers(layout: Layout) -> Iterator[str]:
    if not layout.topics.is_dir():
        return
    known = topic_folders(layout)
    yield from sorted({path.name for path in layout.topics.iterdir()} - set(known))
    for name in known:
        if os.access(layout.topic(name), os.R_OK | os.X_OK):
            yield from (f"{name}/{stranger}" for stranger in strangers(layout.topic(name)))


def partitions(data_dir: Path) -> Iterator[tuple[str, int, Path]]:
    """(topic, partition, its file) of all that can be seen. Raises OSError."""
    layout = Layout(data_dir)
    for name in topic_folders(layout) if layout.topics.is_dir() else []:
        try:
            found = partition_files(layout.topic(name))
        except OSError:  # not ours to read, or deleted meanwhile: `permissions` says the former
            continue
        yield from ((name, number, path) for number, path in found)


def headers(data_dir: Path) -> Iterator[Finding]:
    """Whether each partition's file is one, by its first page. Raises OSError."""
    count, bad = 0, []
    for _, _, path in partitions(data_dir):
        count += 1
        try:
            check_header(path)
        except (CopyError, apsw.Error) as error:
            if path.exists():
                bad.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    if bad:
        do = (
            "see how far it goes (`takhin verify`), then `takhin restore` or `takhin recover`: docs/backup.md"
        )
        what = f"{len(bad)} of {count} partitions' files cannot be used: {bad[0]}"
        yield Finding(Level.BAD, "files", what, do)
    else:
        what = f"the first page of each partition's file ({count}) is sound; `takhin verify` reads the rest"
        yield Finding(Level.OK, "files", what)


def permissions(settings: Settings, files: Files) -> Iterator[Finding]:
    """Whose the files are, and who may read them."""
    data_dir = settings.data_dir
    quoted, owner = shlex.quote(str(data_dir)), data_dir.stat().st_uid
    found = []
    if files.unread:
        what = f"{some(files.unread, 'folder')} may not be read by this user"
        found.append((Level.WARN, what, "run this as the broker's user, or as root"))
    if others := [path for path, of in files.all if of.st_uid != owner]:
        what = f"{some(others, 'file')} belong to another user than {data_dir}: the broker may not open them"
        do = f"somebody else, root perhaps, has run a command: chown -R --reference={quoted} {quoted}"
        found.append((Level.BAD, what, do))
    readers = settings.storage.readers
    secret = Layout(data_dir).access  # whoever may read the records, tokens are for the broker alone
    if wide := [
        path
        for path, of in files.all
        if not S_ISLNK(of.st_mode) and of.st_mode & UMASKS["owner" if path == secret else readers]
    ]:
        what = f"others than storage.readers ({readers}) may read or write {some(wide, 'file')}"
        do = f"chmod -R go= {quoted}" if readers == "owner" else "chmod them as docs/backup.md says"
        found.append((Level.WARN, what, do))
    well = f"{len(files.all)} files and folders are as storage.readers ({readers}) says"
    for level, what, do in found or [(Level.OK, well, "")]:
        yield Finding(level, "permissions", what, do)
