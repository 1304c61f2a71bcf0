"""Room on the disk as the broker judges it."""

import asyncio
import errno
import os

import pytest
from structlog.testing import capture_logs

from takhin.errors import StorageFullError
from takhin.settings import StorageSettings
from takhin.storage.sqlite.space import DiskSpace
from takhin.storage.sqlite.troubles import Troubles

BALLAST_BYTES = 1 << 20


async def test_a_quota_with_less_than_is_free_keeps_it_full(tmp_path, monkeypatch):
    """What statvfs calls free is not believed after a shortage: the broker asks for the space itself."""
    quota_bytes = 2 * BALLAST_BYTES - 1
    fallocate = os.posix_fallocate

    def within_quota(descriptor, offset, size):
        if size > quota_bytes:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        fallocate(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", within_quota)
    settings = StorageSettings(ballast_bytes=BALLAST_BYTES, free_bytes_low=0)
    space = DiskSpace(tmp_path, settings, Troubles())
    await space.look()
    assert (tmp_path / "ballast").stat().st_size == BALLAST_BYTES
    space.ran_out()
    space.give_ballast()
    await space.look()
    assert space.full
    assert not list(tmp_path.iterdir())
    quota_bytes += 1
    await space.look()
    assert not space.full
    assert (tmp_path / "ballast").stat().st_size == BALLAST_BYTES


async def test_turns_on_a_full_disk_are_waited_for_no_longer_than_space(tmp_path):
    """Who frees space for a long time makes others fail; they have their turn when it has ended."""
    space = DiskSpace(tmp_path, StorageSettings(busy_wait_ms_max=50), Troubles())
    space.ran_out()
    async with space.in_turn():
        with pytest.raises(StorageFullError):
            async with asyncio.timeout(10), space.in_turn():
                pytest.fail("two are freeing space at one time")
    async with asyncio.timeout(10), space.in_turn():
        pass


async def test_limits_that_the_disk_cannot_meet_are_told(tmp_path):
    """Where records would never be taken again after a full disk the broker says so when it starts."""
    system = os.statvfs(tmp_path)
    disk = system.f_blocks * system.f_frsize
    with capture_logs() as told:
        DiskSpace(
            tmp_path, StorageSettings(ballast_bytes=disk, free_bytes_low=disk + 1), Troubles()
        ).warn_of_unfit()
        DiskSpace(tmp_path, StorageSettings(ballast_bytes=0, free_bytes_low=0), Troubles()).warn_of_unfit()
    assert [(of["event"], of["log_level"]) for of in told] == [("disk_small", "warning")] * 2
    assert "after it was full, it never has" in told[0]["reason"]
    assert "it always counts as low" in told[1]["reason"]


async def test_a_low_disk_names_the_setting(tmp_path):
    """The sentence says below which setting the free space is, in units for people."""
    troubles = Troubles()
    await DiskSpace(tmp_path, StorageSettings(ballast_bytes=0, free_bytes_low=1 << 62), troubles).look()
    (sentence,) = troubles.sentences
    assert sentence.endswith(f"are free for {tmp_path}, less than storage.free_bytes_low (4611686.0 TB)")
