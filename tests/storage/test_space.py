"""Room on the disk as the broker judges it."""

import errno
import os

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
