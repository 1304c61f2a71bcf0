"""What a power cut may leave of recorded events: a model of a disk, stricter than real ones.

What was synced is there. Of everything else a part is there, chosen at random for each image: each 512-byte
sector of a file as any of the unsynced writes to it left it, and any selection of the names made, renamed and
removed. Syncing a file does not make its name durable; syncing the folder does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.recorder import Event

SECTOR = 512


@dataclass(eq=False)
class File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Event]] = field(default_factory=list)

    def sync(self, before: int) -> None:
        """Make everything durable that was written before that event."""
        while self.pending and self.pending[0][0] < before:
            apply(self.durable, self.pending.pop(0)[1])

    def after_a_crash(self, chance: random.Random) -> bytearray:
        content = bytearray(self.durable)
        events = [event for _, event in self.pending]
        mode = chance.choice(["none", "all", "prefix", "sectors"])
        if mode == "prefix":
            cut = chance.randrange(len(events) + 1)
            torn, events = events[cut : cut + 1], events[:cut]
        if mode in ("all", "prefix"):
            for event in events:
                apply(content, event)
        if mode == "prefix":
            apply_sectors(content, torn, chance)
        elif mode == "sectors":
            apply_sectors(content, events, chance)
        return content


@dataclass(eq=False)
class Folder:
    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


def apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.at :]
    else:
        put(content, event.at, event.data)


def put(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def apply_sectors(content: bytearray, events: Sequence[Event], chance: random.Random) -> None:
    """Write each sector back at a time of its own: with the earlier writes to it, and no later one."""
    times: dict[int, int] = {}
    for number, event in enumerate(events):
        if event.kind == "truncate":
            if chance.random() < 0.5:
                del content[event.at :]
            continue
        at, end = event.at, event.at + len(event.data)
        while at < end:
            sector = at // SECTOR
            upto = min(end, (sector + 1) * SECTOR)
            if number < times.setdefault(sector, chance.randrange(len(events) + 1)):
                put(content, at, event.data[at - event.at : upto - event.at])
            at = upto


@dataclass(frozen=True)
class Naming:
    """An unsynced change of names: afterwards `node` is at (folder, name), and no longer at `gone`."""

    number: int
    node: File | Folder
    at: tuple[Folder, str] | None
    gone: tuple[Folder, str] | None

    def touches(self, folder: Folder) -> bool:
        return any(place is not None and place[0] is folder for place in (self.at, self.gone))

    def apply(self, names: dict[Folder, dict[str, File | Folder]]) -> None:
        if self.gone is not None:
            of_folder = names.setdefault(self.gone[0], dict(self.gone[0].durable))
            if of_folder.get(self.gone[1]) is self.node:
                del of_folder[self.gone[1]]
        if self.at is not None:
            names.setdefault(self.at[0], dict(self.at[0].durable))[self.at[1]] = self.node


class Disk:
    """The state of the disk after the events so far."""

    def __init__(self) -> None:
        self.root = Folder()
        self._namings: list[Naming] = []
        self._number = 0

    def after(self, event: Event) -> None:
        """Apply one more event."""
        if event.kind in ("write", "truncate"):
            file = self._find(event.path) or self._name(event.path, File())
            file.pending.append((self._number, event))
        elif event.kind == "create":
            self._name(event.path, File())
        elif event.kind == "mkdir":
            self._name(event.path, Folder())
        elif event.kind in ("remove", "rename"):
            self._move(event)
        elif event.kind == "sync":
            node = self._find(event.path)
            if isinstance(node, Folder):
                self._sync_folder(node, event.at)
            elif node is not None:
                node.sync(event.at)
        self._number += 1

    def _find(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self.root
        for name in path.split("/") if path else ():
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        folder = self._find(parent)
        assert isinstance(folder, Folder), path
        return folder, name

    def _name(self, path: str, node: File | Folder) -> File | Folder:
        if path:
            folder, name = self._place(path)
            folder.names[name] = node
            self._namings.append(Naming(self._number, node, (folder, name), None))
        return node

    def _move(self, event: Event) -> None:
        """Apply a removal or a renaming; files of child processes (the template) are not recorded."""
        folder, name = self._place(event.path)
        node = folder.names.pop(name, None)
        if node is None:
            return
        at = self._place(event.data) if event.kind == "rename" else None
        if at is not None:
            at[0].names[at[1]] = node
        self._namings.append(Naming(self._number, node, at, (folder, name)))

    def _sync_folder(self, folder: Folder, before: int) -> None:
        durable = {folder: folder.durable}
        left = []
        for naming in self._namings:
            if naming.number < before and naming.touches(folder):
                for place in filter(None, (naming.at, naming.gone)):
                    durable[place[0]] = place[0].durable
                naming.apply(durable)
            else:
                left.append(naming)
        self._namings = left

    def after_a_crash(self, chance: random.Random) -> Iterator[tuple[str, bytes | None]]:
        """(path, content) of everything that is there; the content of a folder is None."""
        mode = chance.choice(["none", "all", "prefix", "some"])
        cut = {"none": 0, "prefix": chance.randrange(len(self._namings) + 1)}.get(mode, len(self._namings))
        names: dict[Folder, dict[str, File | Folder]] = {}
        for naming in self._namings[:cut]:
            if mode != "some" or chance.random() < 0.5:
                naming.apply(names)

        def walk(folder: Folder, path: str) -> Iterator[tuple[str, bytes | None]]:
            for name, node in names.get(folder, folder.durable).items():
                if isinstance(node, Folder):
                    yield f"{path}{name}", None
                    yield from walk(node, f"{path}{name}/")
                else:
                    yield f"{path}{name}", node.after_a_crash(chance)

        return walk(self.root, "")


def write_image(disk: Disk, folder: Path, chance: random.Random) -> None:
    """Write one of the states that a crash may leave to a new folder."""
    folder.mkdir()
    for path, content in disk.after_a_crash(chance):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
