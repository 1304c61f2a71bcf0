"""Records everything that a process does to a data folder, in order: writes, syncs, names made and removed.

`Recorder.start` puts an apsw VFS below SQLite's checksums, so it has to come before the first connection.
It also replaces the few functions of `os` and `shutil` by which takhin/storage changes folders.
crash_images.py works out what a crash could leave of it.
"""

# ruff: noqa: N802  the methods of a VFS have SQLite's names

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import apsw


class Event(NamedTuple):
    """kind: write, truncate, sync (a file or a folder), create, mkdir, remove, rename, or note.

    path: relative to the data folder. at: an offset or a size; for a sync, how many events came before it
    began. data: what was written, the new name, or what was noted.
    """

    kind: str
    path: str = ""
    at: int = 0
    data: object = b""


class Recorder:
    """events: all so far; threads append to it, which is atomic.

    A write is recorded before it is done and a sync after it, so that no event claims more than has happened.
    """

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self._root = f"{folder}/"

    def note(self, *what: object) -> None:
        """Record something that a check needs to know, such as an acknowledgement."""
        self.events.append(Event("note", data=what))

    def add(self, kind: str, path: str, at: int = 0, data: object = b"") -> None:
        if path.startswith(self._root):
            self.events.append(Event(kind, path.removeprefix(self._root), at, data))
        elif path == self._root.rstrip("/"):
            self.events.append(Event(kind, "", at, data))

    def start(self) -> None:
        """Record from now on, until the process ends."""
        self._vfs = RecordingVFS(self)
        for name, kind in {
            "mkdir": "mkdir",
            "unlink": "remove",
            "remove": "remove",
            "rmdir": "remove",
        }.items():
            setattr(os, name, self._of_name(getattr(os, name), kind))
        os.rename = self._rename(os.rename)
        os.fsync = self._fsync(os.fsync)
        os.pwrite = self._pwrite(os.pwrite)
        shutil.copyfile = self._copyfile(shutil.copyfile)

    def _of_name(self, function, kind):
        def call(path, *args, dir_fd=None, **others):
            done = function(path, *args, dir_fd=dir_fd, **others)
            self.add(kind, str(path) if dir_fd is None else f"{path_of(dir_fd)}/{path}")
            return done

        return call

    def _rename(self, function):
        def rename(old, new):
            done = function(old, new)
            self.add("rename", str(old), data=str(new).removeprefix(self._root))
            return done

        return rename

    def _fsync(self, function):
        def fsync(descriptor):
            before = len(self.events)
            done = function(descriptor)
            self.add("sync", path_of(descriptor), before)
            return done

        return fsync

    def _pwrite(self, function):
        def pwrite(descriptor, data, offset):
            self.add("write", path_of(descriptor), offset, bytes(data))
            return function(descriptor, data, offset)

        return pwrite

    def _copyfile(self, function):
        def copyfile(source, target):
            done = function(source, target)
            self.add("create", str(target))
            self.add("write", str(target), 0, Path(target).read_bytes())
            return done

        return copyfile


def path_of(descriptor: int) -> str:
    """The path of an open descriptor."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class RecordingVFS(apsw.VFS):
    """The default VFS from now on, over the system's own."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__("recording", "unix", makedefault=True)

    def xOpen(self, name, flags):
        return RecordingFile(self._recorder, name, flags)

    def xDelete(self, name, sync_directory):
        before = len(self._recorder.events)
        super().xDelete(name, sync_directory)
        self._recorder.add("remove", name)
        if sync_directory:
            self._recorder.add("sync", str(Path(name).parent), before + 1)


class RecordingFile(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name, flags) -> None:
        self._recorder = recorder
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        # As in SQLite's os_unix.c: after the first sync of a log that this open may have created, its
        # folder is synced.
        self._sync_folder = bool(flags[0] & apsw.SQLITE_OPEN_WAL and flags[0] & apsw.SQLITE_OPEN_CREATE)
        is_new = not Path(self._path).exists()
        super().__init__("unix", name, flags)
        if is_new:
            recorder.add("create", self._path)

    def xWrite(self, data, offset):
        self._recorder.add("write", self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, size):
        self._recorder.add("truncate", self._path, size)
        super().xTruncate(size)

    def xSync(self, flags):
        before = len(self._recorder.events)
        super().xSync(flags)
        self._recorder.add("sync", self._path, before)
        if self._sync_folder:
            self._recorder.add("sync", str(Path(self._path).parent), before)
            self._sync_folder = False
