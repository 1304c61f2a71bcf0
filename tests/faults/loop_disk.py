"""A file system of its own in an image file, whose power can be cut: ext4 or XFS. Needs root."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GOING_DOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
"""EXT4_IOC_SHUTDOWN, which is the same as XFS_IOC_GOINGDOWN."""
NO_LOG_FLUSH = 2
SIZE_BYTES = {"ext4": 256 << 20, "xfs": 400 << 20}
MAKE = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q", "-f"]}
UMOUNT_S_MAX = 10.0


class LoopDisk:
    """A mounted image. What was not synced before the power cut is gone after `again`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder

    def mount(self) -> None:
        run("mount", "-o", "loop", self._image, self.folder)

    def cut_power(self) -> None:
        """From now on nothing more reaches the image; every sync and write fails."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, GOING_DOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def umount(self) -> None:
        """Unmount; waits until no process has files open there."""
        deadline = time.monotonic() + UMOUNT_S_MAX
        while True:
            done = subprocess.run(["umount", self.folder], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05)

    def again(self) -> None:
        """Switch the power on again: mount what is on the image."""
        self.umount()
        self.mount()


@contextmanager
def loop_disk(parent: Path, kind: str) -> Iterator[LoopDisk]:
    """A new disk; the test is skipped with the reason if there can be none. kind: ext4 or xfs."""
    if os.geteuid() != 0:
        pytest.skip("mounting an image takes root")
    if shutil.which(MAKE[kind][0]) is None:
        pytest.skip(f"{MAKE[kind][0]} is not installed: scripts/install-packages tests")
    image, folder = parent / "image", parent / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES[kind])
    run(*MAKE[kind], image)
    disk = LoopDisk(image, folder)
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no {kind} can be mounted here: {error.stderr.strip()}")
    try:
        yield disk
    finally:
        disk.umount()
        image.unlink()
        folder.rmdir()


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
